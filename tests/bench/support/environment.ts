// SPDX-License-Identifier: Apache-2.0
//
// What a reader must know to judge the numbers: machine, kernel, memory settings, file system,
// runtime, the state of the source tree. Names no host, no user and no path.

import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { cpus, loadavg, release, totalmem } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ffi } from "../../../src/native/ffi.ts";
import { version } from "../../../src/mod.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

export interface Environment {
  /** "bun" or "deno". */
  readonly runtime: string;
  readonly runtimeVersion: string;
  readonly version: string;
  /** The commit; "-dirty" behind it when sources differ from it; "" where there is none. */
  readonly commit: string;
  /** ISO 8601, UTC. */
  readonly date: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly virtualMachine: boolean;
  readonly kernel: string;
  /** Load averages of the last minute when the run began: a quiet machine is near 0. */
  readonly loadBefore: number;
  /** liblmshm or libc, and by what it was compiled. */
  readonly compiler: string;
  /** The setting in force of each knob of transparent huge pages. */
  readonly hugePages: Readonly<Record<string, string>>;
  readonly shmBytes: number;
  /** Type and options of the file system that the transfers go to. */
  readonly fileSystem: string;
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function git(args: readonly string[]): string | null {
  const { status, stdout } = spawnSync("git", [...args], { cwd: ROOT, encoding: "utf8" });
  return status === 0 ? stdout.trim() : null;
}

/** Documents are written by a run, so they do not make the tree dirty. */
function commit(): string {
  const head = git(["rev-parse", "--short=12", "HEAD"]);
  if (head === null) return "";
  const changes = git(["status", "--porcelain", "--", ".", ":!docs"]);
  return changes === "" ? head : `${head}-dirty`;
}

function compiler(): string {
  const arch = `${process.platform}-${process.arch}`;
  for (const libc of ["gnu", "musl"]) {
    const stamp = read(join(ROOT, "lib", `${arch}-${libc}`, "build.json"));
    if (stamp) return String((JSON.parse(stamp) as { compiler?: string }).compiler ?? "unknown");
  }
  return "unknown";
}

/** The choice that the kernel shows in brackets: "always [madvise] never" is "madvise". */
function chosen(path: string): string {
  return /\[(\w+)\]/.exec(read(path))?.[1] ?? "unknown";
}

/** Type and options of the mount that a directory is on, from /proc/self/mountinfo. */
function mountOf(directory: string): string {
  let best = { length: -1, text: "unknown" };
  for (const line of read("/proc/self/mountinfo").split("\n")) {
    const [before, after] = line.split(" - ");
    if (before === undefined || after === undefined) continue;
    const [, , , , point = "", options = ""] = before.split(" ");
    const [type = ""] = after.split(" ");
    const inside = directory === point || directory.startsWith(point === "/" ? "/" : `${point}/`);
    if (!inside || point.length < best.length) continue;
    best = { length: point.length, text: `${type} (${options})` };
  }
  return best.text;
}

/** The `huge=` option of /dev/shm: it, and not shmem_enabled, decides for named segments. */
function shmHuge(): string {
  return /\bhuge=(\w+)/.exec(
    read("/proc/self/mountinfo").split("\n").find((line) => line.includes(" /dev/shm ")) ?? "",
  )?.[1] ?? "never";
}

/** @param directory where the transfers' files go */
export async function environment(directory: string): Promise<Environment> {
  const shm = await statfs("/dev/shm");
  const thp = "/sys/kernel/mm/transparent_hugepage";
  return {
    runtime: ffi.runtime,
    runtimeVersion: process.versions[ffi.runtime] ?? "unknown",
    version,
    commit: commit(),
    date: new Date().toISOString(),
    processor: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryBytes: totalmem(),
    virtualMachine: /\bhypervisor\b/.test(read("/proc/cpuinfo")),
    kernel: release(),
    loadBefore: loadavg()[0] ?? 0,
    compiler: compiler(),
    hugePages: {
      enabled: chosen(`${thp}/enabled`),
      shmem_enabled: chosen(`${thp}/shmem_enabled`),
      "/dev/shm": `huge=${shmHuge()}`,
    },
    shmBytes: Number(shm.blocks) * Number(shm.bsize),
    fileSystem: mountOf(directory),
  };
}

/** Free bytes of the file system of a directory. */
export async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return Number(bavail) * Number(bsize);
}

/** Bytes that programs may still take, by the kernel's own estimate. */
export function availableMemoryBytes(): number {
  return Number(/MemAvailable:\s+(\d+) kB/.exec(read("/proc/meminfo"))?.[1] ?? 0) * 1024;
}

/** The environment as people read it, in lines of name and value. */
export function describeEnvironment(found: Environment): [string, string][] {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const huge = Object.entries(found.hugePages).map(([knob, value]) => `${knob}: ${value}`);
  return [
    ["Runtime", `${found.runtime} ${found.runtimeVersion}`],
    ["lmshm", `${found.version}, commit ${found.commit || "none"}`],
    ["Native parts built by", found.compiler],
    [
      "Machine",
      `${found.processor}, ${found.cores} cores, ${gib(found.memoryBytes)}` +
      `${found.virtualMachine ? ", virtual machine" : ""}`,
    ],
    ["Kernel", `Linux ${found.kernel}`],
    ["Huge pages", huge.join(", ")],
    ["/dev/shm", gib(found.shmBytes)],
    ["File system", found.fileSystem],
    ["Load before", found.loadBefore.toFixed(2)],
    ["Date", found.date],
  ];
}
