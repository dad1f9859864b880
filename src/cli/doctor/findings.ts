// SPDX-License-Identifier: Apache-2.0
//
// What the facts of a machine mean for lmshm: of each what is, what follows from it, and the command
// that repairs it. Pure.

import type { GpuFacts, MachineFacts, PartFacts } from "./facts.ts";
import { type Finding, finding, ok, size } from "./finding.ts";
import { directoryFindings, runningWorkerFinding } from "./store_findings.ts";
import { formatBytes } from "../format.ts";

/** Docker gives a container so much unless it is told otherwise. */
const DOCKER_SHM_BYTES = 64 * 2 ** 20;
const FEW_FILES = 1024;
const USUAL_MAPS = 65_530;
const HUGE_PAGE_BYTES = 2 * 2 ** 20;
const LANDLOCK_TCP = 4;

/** "64g": as docker and mount take it, rounded up. */
function option(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 30)}g`;
}

function partFinding(id: string, name: string, facts: PartFacts, version: string): Finding {
  if (facts.fault !== null) {
    return finding(
      id,
      "error",
      `${name}: ${facts.fault}`,
      "nothing of lmshm works without it",
      `export ${id === "library" ? "LMSHM_LIBRARY" : "LMSHM_WORKER"}=/path/of/${name}`,
    );
  }
  if (facts.version !== version) {
    return finding(
      id,
      "error",
      `${name} ${facts.version} at ${facts.path}, and this command is ${version}`,
      "the parts may not understand each other",
      "install all of lmshm in one version; unset LMSHM_LIBRARY LMSHM_WORKER",
    );
  }
  return ok(id, `${name} ${version} at ${facts.path}`);
}

function shmFindings({ shm, container, memoryLimitBytes }: MachineFacts, pool: number): Finding[] {
  if (shm === null) {
    return [
      finding(
        "shm",
        "error",
        "there is no /dev/shm",
        "segments with a name cannot be made; programs cannot share memory with a running worker",
        "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
      ),
    ];
  }
  const { sizeBytes, freeBytes, isReadOnly, isTmpfs, mode } = shm;
  const what = `/dev/shm has ${size(sizeBytes)}, ${size(freeBytes)} of it free`;
  const larger = container === null
    ? `mount -o remount,size=${option(pool * 1.1)} /dev/shm`
    : container === "kubernetes"
    ? "mount an emptyDir with medium: Memory at /dev/shm"
    : `${container} run --shm-size=${
      option(pool * 1.1)
    } ...  (or --ipc=host, which a worker of the ` +
      "host needs)";
  const found: Finding[] = [];
  if (isReadOnly) {
    found.push(
      finding(
        "shm",
        "error",
        "/dev/shm is mounted read-only",
        "no segment can be made",
        "mount -o remount,rw /dev/shm",
      ),
    );
  } else if (freeBytes < pool) {
    const small = sizeBytes <= DOCKER_SHM_BYTES && container !== null;
    found.push(
      finding(
        "shm",
        "error",
        what + (small ? ", what containers get where nothing is said" : ""),
        `a segment of ${size(pool)} cannot be had (ENOSPC)`,
        sizeBytes < pool ? larger : "lmshm shm ls   (what takes the room?)",
      ),
    );
  } else {
    found.push(ok("shm", what));
  }
  if (!isTmpfs) {
    found.push(
      finding(
        "shm-type",
        "warning",
        "/dev/shm is no tmpfs",
        "segments may be written to a disk",
        "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
      ),
    );
  }
  if (mode !== 0o1777) {
    found.push(
      finding(
        "shm-mode",
        "warning",
        `/dev/shm has mode ${mode.toString(8)}`,
        "other users cannot make segments, or can remove yours",
        "chmod 1777 /dev/shm",
      ),
    );
  }
  if (memoryLimitBytes !== null && memoryLimitBytes < sizeBytes) {
    found.push(
      finding(
        "memory-limit",
        memoryLimitBytes < pool ? "error" : "note",
        `this control group may have ${size(memoryLimitBytes)} of memory, less than /dev/shm`,
        "segments count as its memory: beyond the limit its processes are killed",
        memoryLimitBytes < pool
          ? container === "kubernetes"
            ? `set resources.limits.memory to more than ${option(pool)}`
            : `docker run --memory=${option(pool * 1.2)} ...`
          : null,
      ),
    );
  }
  return found;
}

function memlockFinding(
  { memlockBytes, memlockHardBytes, mayLock, container, gpu }: MachineFacts,
  pool: number,
): Finding {
  if (mayLock) return ok("memlock", "this process may lock any amount of memory (CAP_IPC_LOCK)");
  if (memlockBytes >= pool) return ok("memlock", `memory may be locked: ${size(memlockBytes)}`);
  const fix = memlockHardBytes >= pool
    ? "ulimit -l " + (memlockHardBytes === Infinity ? "unlimited" : memlockHardBytes / 1024)
    : container !== null && container !== "kubernetes"
    ? `${container} run --ulimit memlock=-1 ...`
    : 'echo "* - memlock unlimited" > /etc/security/limits.d/lmshm.conf; for services: ' +
      "LimitMEMLOCK=infinity";
  return finding(
    "memlock",
    gpu.reason === null ? "note" : "warning",
    `${size(memlockBytes)} of memory may be locked (RLIMIT_MEMLOCK)`,
    `a segment of ${
      size(pool)
    } is not locked by mlock, and may be swapped out; a GPU that pins it ` +
      "is not subject to the limit",
    fix,
  );
}

function hugePageFindings(facts: MachineFacts, pool: number): Finding[] {
  const { transparentShared, hugePages, hugePagesFree } = facts;
  const needed = Math.ceil(pool / HUGE_PAGE_BYTES);
  const transparent = transparentShared === null || /never|deny/.test(transparentShared)
    ? finding(
      "transparent-huge-pages",
      "note",
      transparentShared === null
        ? "the kernel has no transparent huge pages for shared memory"
        : `transparent huge pages of shared memory: ${transparentShared}`,
      'pages: "transparent" has no effect; populating a segment takes about twice as long as it could',
      transparentShared === null
        ? null
        : "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    )
    : ok("transparent-huge-pages", `transparent huge pages of shared memory: ${transparentShared}`);
  const what = `${hugePages} huge pages are set aside, ${hugePagesFree} of them free`;
  return [
    transparent,
    hugePagesFree >= needed ? ok("huge-pages", what) : finding(
      "huge-pages",
      "note",
      what,
      `pages: "2M" gives ENOMEM for a segment of ${size(pool)}`,
      `sysctl vm.nr_hugepages=${hugePages - hugePagesFree + needed}`,
    ),
  ];
}

function containerFindings(facts: MachineFacts): Finding[] {
  const { container, seccomp, cpuLimit, cpus } = facts;
  const found = [
    ok(
      "container",
      (container === null ? "no container is seen" : `in a container (${container})`) +
        (seccomp ? ", behind a seccomp filter" : ""),
    ),
  ];
  if (cpuLimit !== null && cpuLimit < cpus) {
    found.push(
      finding(
        "cpu-limit",
        cpuLimit < 1 ? "warning" : "note",
        `this control group may use ${cpuLimit.toFixed(1)} of ${cpus} CPUs`,
        "its processes stand still for the rest of each period, which is seen as gaps of tens of " +
          "milliseconds",
        cpuLimit < 1 ? "docker run --cpus=2 ...; in Kubernetes: resources.limits.cpu" : null,
      ),
    );
  }
  return found;
}

function kernelFindings(facts: MachineFacts): Finding[] {
  const { landlock, kernel, memfdNoexec, worker, capabilities } = facts;
  const found: Finding[] = [];
  found.push(
    landlock >= LANDLOCK_TCP
      ? ok("landlock", `Landlock ${landlock} fences workers in (Linux ${kernel})`)
      : landlock > 0
      ? finding(
        "landlock",
        "note",
        `Landlock ${landlock}: a worker's files are fenced in, and not its network (Linux 6.7)`,
      )
      : finding(
        "landlock",
        "warning",
        "the kernel has no Landlock, or this container may not use it",
        "a worker is not fenced in: only its own checks keep it below its root",
        'add "landlock" to the kernel\'s command line: lsm=landlock,...; or update the container ' +
          "runtime",
      ),
  );
  if (memfdNoexec >= 2) {
    found.push(
      finding(
        "memfd-noexec",
        worker.path?.startsWith("/proc/") ? "error" : "note",
        `vm.memfd_noexec is ${memfdNoexec}`,
        "programs in memory cannot be run: a worker that an executable carries in itself",
        "sysctl vm.memfd_noexec=1, or export LMSHM_WORKER=/path/of/lmshm-worker",
      ),
    );
  } else {
    found.push(ok("memfd-noexec", "programs in memory may be run (vm.memfd_noexec)"));
  }
  for (const path of capabilities) {
    found.push(
      finding(
        "file-capabilities",
        "warning",
        `${path} has file capabilities`,
        "its processes cannot be looked into by their own user: a worker cannot compare memory with " +
          "theirs, and what they carry in themselves cannot be run",
        `setcap -r ${path}`,
      ),
    );
  }
  return found;
}

function limitFindings({ filesHard, maxMapCount, overcommit }: MachineFacts): Finding[] {
  const found: Finding[] = [];
  found.push(
    filesHard < FEW_FILES
      ? finding(
        "open-files",
        "warning",
        `a process may have ${filesHard} descriptors`,
        "a worker serves fewer clients and keeps fewer small objects open",
        'echo "* - nofile 65536" > /etc/security/limits.d/lmshm-files.conf; for services: ' +
          "LimitNOFILE=65536",
      )
      : ok("open-files", `a process may have ${filesHard} descriptors`),
  );
  if (maxMapCount < USUAL_MAPS) {
    found.push(
      finding(
        "max-map-count",
        "warning",
        `a process may have ${maxMapCount} mappings (vm.max_map_count)`,
        "with many views of objects none may be left for the program itself",
        `sysctl vm.max_map_count=${USUAL_MAPS}`,
      ),
    );
  }
  if (overcommit === 2) {
    found.push(
      finding(
        "overcommit",
        "note",
        "the system counts memory that is not touched (vm.overcommit_memory=2)",
        "the ranges of addresses that views are given can be read only when they are taken back",
      ),
    );
  }
  return found;
}

function gpuFinding(gpu: GpuFacts): Finding {
  if (gpu.reason !== null) {
    return finding(
      "gpu",
      gpu.hasDevices ? "warning" : "note",
      `no GPU: ${gpu.reason}`,
      gpu.hasDevices
        ? "the kernel has GPUs, and no library here reaches them: segments are not pinned for them"
        : "segments are locked by mlock, or not at all",
      gpu.hasDevices ? "docker run --gpus all ...; on a host: install the driver's libcuda" : null,
    );
  }
  const names = `${gpu.names.join(", ")} by ${gpu.library}` +
    (gpu.driver === "" ? "" : `, driver ${gpu.driver}`);
  if (gpu.pinnedBy !== null) return ok("gpu", `${names}; a segment was pinned by ${gpu.pinnedBy}`);
  return finding(
    "gpu",
    "error",
    `${names}, and a segment could not be pinned: ${gpu.pinFault}`,
    'pin: "require" fails, and copies between GPU and pool are slow',
    "lmshm gpu --quick   (tells more)",
  );
}

function leftFinding({ deadSegments, deadBytes }: MachineFacts): Finding {
  if (deadSegments === 0) return ok("dead-segments", "no dead process left a segment");
  return finding(
    "dead-segments",
    "warning",
    `${deadSegments} ${deadSegments === 1 ? "segment" : "segments"} of dead processes, ` +
      formatBytes(deadBytes),
    "they take memory until somebody takes their names over",
    "lmshm shm gc",
  );
}

/** What the facts mean for a service whose pool has `poolBytes`. */
export function findingsOf(facts: MachineFacts, poolBytes: number): Finding[] {
  const { version, availableBytes } = facts;
  return [
    partFinding("library", "liblmshm.so", facts.library, version),
    partFinding("worker", "lmshm-worker", facts.worker, version),
    ...shmFindings(facts, poolBytes),
    availableBytes >= poolBytes
      ? ok("memory", `${size(availableBytes)} of memory are available`)
      : finding(
        "memory",
        "error",
        `${size(availableBytes)} of memory are available`,
        `a segment of ${size(poolBytes)} drives programs out of memory`,
        "choose a smaller pool: max_local_cpu_size, or --pool-size here",
      ),
    memlockFinding(facts, poolBytes),
    ...hugePageFindings(facts, poolBytes),
    ...limitFindings(facts),
    ...containerFindings(facts),
    ...kernelFindings(facts),
    gpuFinding(facts.gpu),
    leftFinding(facts),
    ...facts.directories.flatMap(directoryFindings),
    ...(facts.runningWorker === null ? [] : [runningWorkerFinding(facts.runningWorker, version)]),
  ];
}

/** The exit status: 1 with an error, 3 with a warning, else 0. */
export function statusOf(findings: readonly Finding[]): number {
  if (findings.some(({ level }) => level === "error")) return 1;
  return findings.some(({ level }) => level === "warning") ? 3 : 0;
}
