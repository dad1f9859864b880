// SPDX-License-Identifier: Apache-2.0
//
// lmshm doctor: what it makes of machines that lack something, and what it says of this one.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { version } from "../src/mod.ts";
import { cpusOf, leftIn, limitOf, type MachineFacts } from "../src/cli/doctor/facts.ts";
import type { Finding } from "../src/cli/doctor/finding.ts";
import { findingsOf, statusOf } from "../src/cli/doctor/findings.ts";
import { atTerminal, hasProgram, lmshm } from "./support/command_line.ts";
import { fakeLibrary, noFakes } from "./support/fake_gpu.ts";
import { runFixture } from "./support/process.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const GIB = 2 ** 30;

/** A machine on which nothing is wrong. */
const GOOD: MachineFacts = {
  version: "1.2.3",
  kernel: "6.12.0",
  cpus: 8,
  library: { path: "/l/liblmshm.so", version: "1.2.3", fault: null },
  worker: { path: "/l/lmshm-worker", version: "1.2.3", fault: null },
  shm: {
    isTmpfs: true,
    sizeBytes: 64 * GIB,
    freeBytes: 60 * GIB,
    mode: 0o1777,
    isReadOnly: false,
  },
  availableBytes: 100 * GIB,
  memoryLimitBytes: null,
  cpuLimit: null,
  container: null,
  seccomp: false,
  memlockBytes: Infinity,
  memlockHardBytes: Infinity,
  mayLock: false,
  filesHard: 524_288,
  maxMapCount: 65_530,
  overcommit: 0,
  transparentShared: "advise",
  hugePages: 1024,
  hugePagesFree: 1024,
  memfdNoexec: 0,
  landlock: 6,
  capabilities: [],
  gpu: {
    reason: null,
    names: ["H100"],
    library: "libcudart.so.13",
    driver: "580",
    pinnedBy: "cuda",
    pinFault: null,
    hasDevices: true,
  },
  deadSegments: 0,
  deadBytes: 0,
  directories: [{
    path: "/data",
    fault: null,
    fileSystem: 0xef53,
    sizeBytes: 1000 * GIB,
    freeBytes: 500 * GIB,
    nameless: true,
    direct: true,
    attributes: true,
    temporaries: 0,
    sidecars: 0,
  }],
  runningWorker: { address: "unix:/w", fault: null, version: "1.2.3" },
};

/** What is found beyond "ok" when some facts are otherwise. */
function faults(facts: Partial<MachineFacts>, pool = GIB): Finding[] {
  return findingsOf({ ...GOOD, ...facts }, pool).filter(({ level }) => level !== "ok");
}

test("nothing is found on a machine that is well", () => {
  const all = findingsOf(GOOD, GIB);
  assert.deepEqual(all.filter(({ level }) => level !== "ok"), []);
  assert.equal(statusOf(all), 0);
  assert.ok(all.length > 12);
});

test("each fault is found, with its level, what follows and a fix", () => {
  const directory = GOOD.directories[0]!;
  const shm = GOOD.shm!;
  const gpu = GOOD.gpu;
  const cases: [string, Partial<MachineFacts>, string, Finding["level"], RegExp | null][] = [
    [
      "no library",
      { library: { path: null, version: null, fault: "no" } },
      "library",
      "error",
      /LMSHM_LIBRARY/,
    ],
    [
      "an older worker",
      { worker: { path: "/w", version: "1.0.0", fault: null } },
      "worker",
      "error",
      /one version/,
    ],
    ["no /dev/shm", { shm: null }, "shm", "error", /mount -t tmpfs/],
    ["a read-only one", { shm: { ...shm, isReadOnly: true } }, "shm", "error", /remount,rw/],
    [
      "64 MB in docker",
      {
        container: "docker",
        shm: { ...shm, sizeBytes: 64 * 2 ** 20, freeBytes: 64 * 2 ** 20 },
      },
      "shm",
      "error",
      /docker run --shm-size=2g/,
    ],
    [
      "a small one in Kubernetes",
      {
        container: "kubernetes",
        shm: { ...shm, sizeBytes: 64 * 2 ** 20, freeBytes: 64 * 2 ** 20 },
      },
      "shm",
      "error",
      /medium: Memory/,
    ],
    ["a full one", { shm: { ...shm, freeBytes: 1 } }, "shm", "error", /lmshm shm ls/],
    ["no tmpfs", { shm: { ...shm, isTmpfs: false } }, "shm-type", "warning", /tmpfs/],
    ["a private one", { shm: { ...shm, mode: 0o755 } }, "shm-mode", "warning", /chmod 1777/],
    ["little memory", { availableBytes: 1 }, "memory", "error", /pool/],
    ["a small group", { memoryLimitBytes: 2 ** 20 }, "memory-limit", "error", /--memory=2g/],
    ["a large group", { memoryLimitBytes: 32 * GIB }, "memory-limit", "note", null],
    ["half a CPU", { cpuLimit: 0.5 }, "cpu-limit", "warning", /cpus/],
    ["four CPUs", { cpuLimit: 4 }, "cpu-limit", "note", null],
    [
      "64 kB to lock",
      {
        memlockBytes: 65_536,
        memlockHardBytes: 65_536,
        gpu: { ...gpu, reason: "no" },
      },
      "memlock",
      "warning",
      /LimitMEMLOCK/,
    ],
    [
      "64 kB to lock in docker",
      {
        memlockBytes: 65_536,
        memlockHardBytes: 65_536,
        container: "docker",
        gpu: { ...gpu, reason: "no" },
      },
      "memlock",
      "warning",
      /--ulimit memlock=-1/,
    ],
    ["a low soft limit", { memlockBytes: 65_536 }, "memlock", "note", /ulimit -l unlimited/],
    [
      "no huge pages for tmpfs",
      { transparentShared: "never" },
      "transparent-huge-pages",
      "note",
      /shmem_enabled/,
    ],
    [
      "no huge pages",
      { hugePages: 0, hugePagesFree: 0 },
      "huge-pages",
      "note",
      /nr_hugepages=512$/,
    ],
    ["few descriptors", { filesHard: 256 }, "open-files", "warning", /LimitNOFILE/],
    ["few mappings", { maxMapCount: 1000 }, "max-map-count", "warning", /65530/],
    ["strict overcommit", { overcommit: 2 }, "overcommit", "note", null],
    ["no Landlock", { landlock: 0 }, "landlock", "warning", /lsm=landlock/],
    ["an old Landlock", { landlock: 2 }, "landlock", "note", null],
    ["no programs in memory", { memfdNoexec: 2 }, "memfd-noexec", "note", /LMSHM_WORKER/],
    [
      "none, and one is needed",
      {
        memfdNoexec: 2,
        worker: { path: "/proc/5/fd/3", version: "1.2.3", fault: null },
      },
      "memfd-noexec",
      "error",
      /sysctl/,
    ],
    [
      "capabilities",
      { capabilities: ["/bin/bun"] },
      "file-capabilities",
      "warning",
      /^setcap -r \/bin\/bun$/,
    ],
    ["no GPU", { gpu: { ...gpu, reason: "no", hasDevices: false } }, "gpu", "note", null],
    ["a GPU out of reach", { gpu: { ...gpu, reason: "no" } }, "gpu", "warning", /--gpus all/],
    [
      "a GPU that does not pin",
      { gpu: { ...gpu, pinnedBy: null, pinFault: "801" } },
      "gpu",
      "error",
      /lmshm gpu/,
    ],
    [
      "dead segments",
      { deadSegments: 2, deadBytes: 5e9 },
      "dead-segments",
      "warning",
      /^lmshm shm gc$/,
    ],
    [
      "a missing directory",
      { directories: [{ ...directory, fault: "ENOENT" }] },
      "directory",
      "error",
      /install -d/,
    ],
    [
      "a full disk",
      { directories: [{ ...directory, freeBytes: 1 }] },
      "disk",
      "warning",
      /--max-bytes/,
    ],
    ["no O_DIRECT", { directories: [{ ...directory, direct: false }] }, "direct", "note", null],
    [
      "no attributes",
      { directories: [{ ...directory, attributes: false }] },
      "attributes",
      "warning",
      /ext4/,
    ],
    [
      "no O_TMPFILE",
      { directories: [{ ...directory, nameless: false }] },
      "nameless-files",
      "note",
      null,
    ],
    [
      "NFS",
      { directories: [{ ...directory, fileSystem: 0x6969 }] },
      "remote-file-system",
      "note",
      null,
    ],
    [
      "leftovers",
      { directories: [{ ...directory, temporaries: 3 }] },
      "leftovers",
      "note",
      /lmshm ls \/data/,
    ],
    [
      "no worker",
      {
        runningWorker: { address: "unix:/w", fault: "ENOENT", version: null },
      },
      "running-worker",
      "error",
      /lmshm worker --listen unix:\/w/,
    ],
    [
      "another worker",
      {
        runningWorker: { address: "unix:/w", fault: null, version: null },
      },
      "running-worker",
      "note",
      /in its place/,
    ],
    [
      "an older running one",
      {
        runningWorker: { address: "unix:/w", fault: null, version: "1.0.0" },
      },
      "running-worker",
      "warning",
      /one version/,
    ],
  ];
  for (const [what, facts, id, level, fix] of cases) {
    const found = faults(facts);
    const main = found.filter((one) => one.id === id);
    assert.deepEqual(main.map((one) => one.level), [level], what);
    // Without a GPU that is found, too.
    const others = found.filter((one) => one.id !== id && !(one.id === "gpu" && "gpu" in facts));
    assert.deepEqual(others, [], what);
    assert.equal(statusOf(main), level === "error" ? 1 : level === "warning" ? 3 : 0, what);
    if (fix === null) assert.equal(main[0]!.fix, null, what);
    else assert.match(main[0]!.fix ?? "", fix, what);
    if (level !== "note") assert.ok(main[0]!.follows, what);
  }
});

test("limits are read as the kernel writes them", () => {
  const limits =
    "Limit                     Soft Limit           Hard Limit           Units     \n" +
    "Max locked memory         65536                unlimited            bytes     \n" +
    "Max open files            1024                 524288               files     ";
  assert.deepEqual(limitOf(limits, "Max locked memory"), [65_536, Infinity]);
  assert.deepEqual(limitOf(limits, "Max open files"), [1024, 524_288]);
  assert.equal(cpusOf("150000 100000"), 1.5);
  assert.equal(cpusOf("max 100000"), null);
  assert.equal(cpusOf(""), null);
});

test("what killed writers left is told from what is being written", () => {
  using dir = new TempDir();
  const old = new Date(Date.now() - 3_600_000);
  writeFileSync(dir.file(".a.data.12.0123456789abcdef.tmp"), "");
  utimesSync(dir.file(".a.data.12.0123456789abcdef.tmp"), old, old);
  writeFileSync(dir.file(`sha256-${"0".repeat(64)}.key`), "");
  writeFileSync(dir.file("a.data"), "");
  // By the time of the inode's last change, which nobody can set: all of these are young.
  assert.deepEqual(leftIn(dir.path), { temporaries: 0, sidecars: 0 });
});

test(
  "lmshm doctor looks at this machine and leaves nothing behind",
  { timeout: 120_000 },
  async () => {
    using dir = new TempDir();
    mkdirSync(dir.file("kv"));
    const socket = dir.file("w.sock");
    await using worker = await startWorker(`unix:${socket}`, dir.file("kv"));
    const args = ["--storage-dir", dir.file("kv"), "--pool-size", "1MiB"];
    const ended = await lmshm("doctor", ...args, "--worker-address", worker.address, "--json");
    const report = JSON.parse(ended.stdout) as {
      ok: boolean;
      findings: Finding[];
      version: string;
    };
    assert.equal(ended.code, statusOf(report.findings), ended.stderr);
    assert.equal(report.version, version);
    assert.equal(report.ok, ended.code === 0);
    const level = (id: string) => report.findings.find((one) => one.id === id)?.level;
    assert.equal(level("library"), "ok");
    assert.equal(level("worker"), "ok");
    assert.equal(level("running-worker"), "ok");
    assert.ok(report.findings.some(({ id }) => id === "attributes"));
    assert.deepEqual(readdirSync(dir.file("kv")), []);
    const gone = await lmshm("doctor", "--storage-dir", dir.file("none"));
    assert.equal(gone.code, 1);
    assert.match(gone.stdout, /^error {4}\S+\/none: .*ENOENT.*\n {9}-> .*\n {9}fix: install -d /m);
    const address = await lmshm("doctor", "--worker-address", "nonsense");
    assert.equal(address.code, 2);
  },
);

test("lmshm doctor pins a segment for a GPU, and says when that is refused", {
  skip: noFakes || false,
  timeout: 120_000,
}, async () => {
  const gpuOf = async (env: Record<string, string>) => {
    const args = ["doctor", "--pool-size", "1MiB", "--json"];
    const ended = await runFixture("../../src/cli/main.ts", args, {
      env: { LMSHM_GPU_LIBRARY: fakeLibrary("cudart"), ...env },
    });
    const { findings } = JSON.parse(ended.stdout) as { findings: Finding[] };
    return { code: ended.code, ...findings.find(({ id }) => id === "gpu")! };
  };
  const well = await gpuOf({});
  assert.equal(well.level, "ok", well.what);
  assert.match(well.what, /^Fake GPU 0.*; a segment was pinned by cuda$/);
  const refused = await gpuOf({ FAKE_GPU_MAX: "4096" });
  assert.equal(refused.level, "error", refused.what);
  assert.equal(refused.code, 1);
  assert.match(refused.what, /a segment could not be pinned: /);
});

test("lmshm doctor fits a terminal of 40 columns", {
  skip: hasProgram("script") ? false : "script (bsdutils) is not installed",
  timeout: 60_000,
}, async () => {
  const { stdout } = await atTerminal(40, "lmshm doctor --pool-size 1MiB");
  for (const line of stdout.split(/\r?\n/)) {
    // A command is not broken, so that it can be copied; nor is a word, such as a path.
    if (line.includes("fix: ") || !/\S \S/.test(line.slice(9))) continue;
    assert.ok(line.length <= 40, line);
  }
  assert.match(stdout, /ok {7}liblmshm\.so/);
});
