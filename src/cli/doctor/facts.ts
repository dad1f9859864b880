// SPDX-License-Identifier: Apache-2.0
//
// What lmshm doctor looks at: facts of this machine, of directories and of a running worker. Judges
// nothing (findings.ts does).

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { availableParallelism, release } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { cgroupLimit, memoryLimit } from "../control_group.ts";
import { ShmFileConnector, ShmSegment } from "../../mod.ts";
import { gpuStatus } from "../../gpu/mod.ts";
import { lmshm } from "../../native/lmshm.ts";
import { locateWorker } from "../../native/locate.ts";
import { hasFileCapabilities, landlockVersion, probeDirectory } from "../../native/probe.ts";
import { SHM_DIRECTORY } from "../shm_scan.ts";

const TMPFS = 0x01021994;
const CAP_IPC_LOCK = 14n;
const PAGE = 4096;
const PIN_BYTES = 2 * 2 ** 20;
/** Of what a writer left: younger ones may be somebody's who writes. */
const LEFT_MS = 60_000;
/** No more names of a directory are looked at. */
const MAX_NAMES = 1_000_000;
const PROGRAM_MS = 10_000;

/** A part of lmshm: where it is and what it says of itself, or why it cannot be had. */
export interface PartFacts {
  readonly path: string | null;
  readonly version: string | null;
  readonly fault: string | null;
}

export interface DirectoryFacts {
  readonly path: string;
  /** Why it cannot be looked at; all else is meaningless then. */
  readonly fault: string | null;
  readonly fileSystem: number;
  readonly sizeBytes: number;
  readonly freeBytes: number;
  readonly nameless: boolean;
  readonly direct: boolean;
  readonly attributes: boolean;
  /** What killed writers left. */
  readonly temporaries: number;
  readonly sidecars: number;
}

export interface RunningWorkerFacts {
  readonly address: string;
  readonly fault: string | null;
  /** "0.1.0"; null: it does not say, as LMCache's. */
  readonly version: string | null;
}

export interface GpuFacts {
  /** Why there is none; null: there is one. */
  readonly reason: string | null;
  readonly names: readonly string[];
  readonly library: string;
  readonly driver: string;
  /** What a segment was pinned by; null: it was not tried, or refused. */
  readonly pinnedBy: string | null;
  readonly pinFault: string | null;
  /** The kernel's driver has made devices for them. */
  readonly hasDevices: boolean;
}

export interface MachineFacts {
  readonly version: string;
  readonly kernel: string;
  readonly cpus: number;
  readonly library: PartFacts;
  readonly worker: PartFacts;
  /** Null: there is no /dev/shm. */
  readonly shm: {
    readonly isTmpfs: boolean;
    readonly sizeBytes: number;
    readonly freeBytes: number;
    readonly mode: number;
    readonly isReadOnly: boolean;
  } | null;
  readonly availableBytes: number;
  /** Of the control group; null: no limit. */
  readonly memoryLimitBytes: number | null;
  readonly cpuLimit: number | null;
  /** "docker", "podman", "kubernetes" or "container"; null: none is seen. */
  readonly container: string | null;
  readonly seccomp: boolean;
  /** Infinity: no limit. */
  readonly memlockBytes: number;
  readonly memlockHardBytes: number;
  /** CAP_IPC_LOCK: the limit does not count. */
  readonly mayLock: boolean;
  readonly filesHard: number;
  readonly maxMapCount: number;
  readonly overcommit: number;
  /** "never", "advise", ...; null: the kernel has none. */
  readonly transparentShared: string | null;
  readonly hugePages: number;
  readonly hugePagesFree: number;
  readonly memfdNoexec: number;
  readonly landlock: number;
  /** Programs with file capabilities. */
  readonly capabilities: readonly string[];
  readonly gpu: GpuFacts;
  readonly deadSegments: number;
  readonly deadBytes: number;
  readonly directories: readonly DirectoryFacts[];
  readonly runningWorker: RunningWorkerFacts | null;
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return "";
  }
}

function part(find: () => { path: string; version: string }): PartFacts {
  try {
    return { ...find(), fault: null };
  } catch (error) {
    return { path: null, version: null, fault: (error as Error).message };
  }
}

function workerPart(): PartFacts {
  return part(() => {
    const path = locateWorker();
    const said = execFileSync(path, ["--version"], { encoding: "utf8", timeout: PROGRAM_MS });
    return { path, version: said.trim().split(/[ /]/).at(-1)! };
  });
}

async function shmFacts(): Promise<MachineFacts["shm"]> {
  try {
    const { type, blocks, bavail, bsize } = await statfs(SHM_DIRECTORY);
    const mounts = readText("/proc/self/mounts").split("\n");
    const mount = mounts.findLast((line) => line.split(" ")[1] === SHM_DIRECTORY);
    return {
      isTmpfs: Number(type) === TMPFS,
      sizeBytes: Number(blocks) * Number(bsize),
      freeBytes: Number(bavail) * Number(bsize),
      mode: statSync(SHM_DIRECTORY).mode & 0o7777,
      isReadOnly: /^ro(,|$)/.test(mount?.split(" ")[3] ?? ""),
    };
  } catch {
    return null;
  }
}

/** Soft and hard limit by its name in /proc/self/limits. */
export function limitOf(limits: string, name: string): [soft: number, hard: number] {
  const line = limits.split("\n").find((one) => one.startsWith(name)) ?? "";
  const [soft = "unlimited", hard = soft] = line.slice(name.length).trim().split(/\s+/);
  const number = (text: string) => text === "unlimited" ? Infinity : Number(text);
  return [number(soft), number(hard)];
}

/** "200000 100000" of cpu.max: 2. */
export function cpusOf(text: string): number | null {
  const [quota, period] = text.split(" ").map(Number);
  return quota! > 0 && period! > 0 ? quota! / period! : null;
}

function containerName(): string | null {
  if (process.env.KUBERNETES_SERVICE_HOST) return "kubernetes";
  if (existsSync("/.dockerenv")) return "docker";
  if (existsSync("/run/.containerenv")) return "podman";
  return process.env.container ? "container" : null;
}

async function gpuFacts(): Promise<GpuFacts> {
  const hasDevices = ["/dev/nvidiactl", "/dev/kfd"].some((path) => existsSync(path));
  const status = gpuStatus();
  if (!status.available) {
    const reason = status.reason;
    return {
      ...{ reason, names: [], library: "", driver: "", pinnedBy: null, pinFault: null },
      hasDevices,
    };
  }
  const facts = {
    reason: null,
    names: status.devices.map(({ name }) => name),
    library: status.gpuLibrary,
    driver: String(status.driverVersion ?? ""),
    hasDevices,
  };
  try {
    await using segment = await ShmSegment.create({
      sizeBytes: PIN_BYTES,
      pin: "require",
      gpuLibrary: status.gpuLibrary,
    });
    return { ...facts, pinnedBy: segment.pinnedBy, pinFault: null };
  } catch (error) {
    return { ...facts, pinnedBy: null, pinFault: (error as Error).message };
  }
}

/** Of one user. */
function deadSegments(): { count: number; bytes: number } {
  let count = 0;
  let bytes = 0;
  try {
    for (const entry of readdirSync(SHM_DIRECTORY, { withFileTypes: true })) {
      if (!entry.isFile()) continue;
      try {
        if (ShmSegment.nameState(entry.name) !== "dead") continue;
        bytes += statSync(join(SHM_DIRECTORY, entry.name)).blocks * 512;
        count++;
      } catch {
        // Another user's, or gone by now.
      }
    }
  } catch {
    // There is no /dev/shm, or no library: that is told elsewhere.
  }
  return { count, bytes };
}

/** A file that becomes an object, or shows what a file system can do of a directory. */
export const TEMPORARY = /^\..*\.\d+\.[0-9a-f]{16}\.tmp$/;

/** What writers that were killed have left in a directory. */
export function leftIn(directory: string): { temporaries: number; sidecars: number } {
  const names = new Set(readdirSync(directory).slice(0, MAX_NAMES));
  const isOld = (name: string) => {
    const found = statSync(join(directory, name), { throwIfNoEntry: false });
    return found !== undefined && Date.now() - found.ctimeMs > LEFT_MS;
  };
  let temporaries = 0;
  let sidecars = 0;
  for (const name of names) {
    if (TEMPORARY.test(name)) temporaries += isOld(name) ? 1 : 0;
    const stem = /^(sha256-[0-9a-f]{64})\.key$/.exec(name)?.[1];
    if (stem !== undefined && !names.has(`${stem}.data`) && isOld(name)) sidecars++;
  }
  return { temporaries, sidecars };
}

async function directoryFacts(path: string): Promise<DirectoryFacts> {
  const nothing = {
    ...{ fileSystem: 0, sizeBytes: 0, freeBytes: 0, nameless: false, direct: false },
    ...{ attributes: false, temporaries: 0, sidecars: 0 },
  };
  const scratch = join(path, `.lmshm-doctor-${process.pid}-${randomBytes(4).toString("hex")}`);
  try {
    const { type, blocks, bavail, bsize } = await statfs(path);
    writeFileSync(scratch, "", { flag: "wx", mode: 0o600 });
    try {
      return {
        path,
        fault: null,
        fileSystem: Number(type),
        sizeBytes: Number(blocks) * Number(bsize),
        freeBytes: Number(bavail) * Number(bsize),
        ...probeDirectory(path, scratch),
        ...leftIn(path),
      };
    } finally {
      rmSync(scratch, { force: true });
    }
  } catch (error) {
    return { path, fault: (error as Error).message, ...nothing };
  }
}

async function runningWorkerFacts(
  address: string,
  secretFile: string | undefined,
): Promise<RunningWorkerFacts> {
  try {
    await using segment = await ShmSegment.create({
      sizeBytes: PAGE,
      name: `lmshm-doctor-${process.pid}`,
      pin: "none",
    });
    await using connector = await ShmFileConnector.open({
      segment,
      storageDir: ".",
      workerAddress: address,
      secretFile,
      maxRestarts: 0,
    });
    try {
      const { worker } = await connector.info();
      return { address, fault: null, version: worker.split("/")[1] ?? worker };
    } catch {
      // LMCache's, which does not tell.
      return { address, fault: null, version: null };
    }
  } catch (error) {
    return { address, fault: (error as Error).message, version: null };
  }
}

export interface FactOptions {
  readonly version: string;
  readonly directories: readonly string[];
  readonly workerAddress: string | undefined;
  readonly secretFile: string | undefined;
}

export async function gatherFacts(options: FactOptions): Promise<MachineFacts> {
  const limits = readText("/proc/self/limits");
  const status = readText("/proc/self/status");
  const meminfo = readText("/proc/meminfo");
  const ofMeminfo = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(meminfo)?.[1] ?? 0);
  const [memlockBytes, memlockHardBytes] = limitOf(limits, "Max locked memory");
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  const library = part(() => ({ path: lmshm().path, version: lmshm().version() }));
  const worker = workerPart();
  const usable = library.fault === null;
  const dead = usable ? deadSegments() : { count: 0, bytes: 0 };
  const shared = readText("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  const programs = [process.execPath, worker.path].filter((path) => path !== null);
  return {
    version: options.version,
    kernel: release(),
    cpus: availableParallelism(),
    library,
    worker,
    shm: await shmFacts(),
    availableBytes: ofMeminfo("MemAvailable") * 1024,
    memoryLimitBytes: memoryLimit(),
    cpuLimit: cgroupLimit("cpu.max", cpusOf),
    container: containerName(),
    seccomp: /^Seccomp:\s*2/m.test(status),
    memlockBytes,
    memlockHardBytes,
    mayLock: (effective >> CAP_IPC_LOCK & 1n) === 1n,
    filesHard: limitOf(limits, "Max open files")[1],
    maxMapCount: Number(readText("/proc/sys/vm/max_map_count") || 65_530),
    overcommit: Number(readText("/proc/sys/vm/overcommit_memory") || 0),
    transparentShared: /\[(\w+)\]/.exec(shared)?.[1] ?? null,
    hugePages: ofMeminfo("HugePages_Total"),
    hugePagesFree: ofMeminfo("HugePages_Free"),
    memfdNoexec: Number(readText("/proc/sys/vm/memfd_noexec") || 0),
    landlock: landlockVersion(),
    capabilities: programs.filter(hasFileCapabilities),
    gpu: usable ? await gpuFacts() : {
      ...{ reason: "liblmshm.so is missing", names: [], library: "", driver: "", pinnedBy: null },
      ...{ pinFault: null, hasDevices: false },
    },
    deadSegments: dead.count,
    deadBytes: dead.bytes,
    directories: await Promise.all(options.directories.map(directoryFacts)),
    runningWorker: options.workerAddress === undefined || !usable
      ? null
      : await runningWorkerFacts(options.workerAddress, options.secretFile),
  };
}
