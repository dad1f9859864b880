// SPDX-License-Identifier: Apache-2.0
//
// What the control group of this process allows it.

import { readFileSync } from "node:fs";
import { join } from "node:path";

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // There is no such file here, or none for us.
    return "";
  }
}

function cgroupDirectory(): string {
  const path = /^0::(.*)$/m.exec(readText("/proc/self/cgroup"))?.[1] ?? "/";
  return join("/sys/fs/cgroup", path);
}

/** The tightest of this group and of those above it. */
export function cgroupLimit(file: string, read: (text: string) => number | null): number | null {
  let tightest: number | null = null;
  let directory = cgroupDirectory();
  for (;;) {
    const limit = read(readText(join(directory, file)));
    if (limit !== null) tightest = Math.min(tightest ?? Infinity, limit);
    if (directory === "/sys/fs/cgroup" || directory === "/") return tightest;
    directory = join(directory, "..");
  }
}

/** The most memory that it may have; null: no limit. */
export function memoryLimit(): number | null {
  const limit = cgroupLimit("memory.max", (text) => /^\d+$/.test(text) ? Number(text) : null);
  if (limit !== null) return limit;
  // The first version of control groups says "no limit" by a number beyond all memory.
  const old = Number(readText("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
  return old > 0 && old < 2 ** 60 ? old : null;
}

/** What is left of that, with what its page cache would give up; null: no limit. */
export function memoryLeft(): number | null {
  const limit = memoryLimit();
  const directory = cgroupDirectory();
  const used = Number(readText(join(directory, "memory.current")));
  if (limit === null || !(used > 0)) return limit;
  const stat = readText(join(directory, "memory.stat"));
  const cache = Number(/^inactive_file (\d+)$/m.exec(stat)?.[1] ?? 0);
  return Math.max(0, limit - used + cache);
}
