// SPDX-License-Identifier: Apache-2.0
//
// CPU time of processes, all threads of each, user and system. The kernel's clock of a process is
// used (clock_getcpuclockid(3)), because /proc/PID/stat counts in steps of 10 ms. What kernel
// threads do on behalf of a process (writing back the page cache) is in nobody's account.

import { readFileSync } from "node:fs";
import process from "node:process";
import { libc } from "./libc.ts";

/** The kernel's number for the scheduler's clock of a whole process. */
function clockOf(pid: number): number {
  return (~pid << 3) | 2;
}

/** CPU milliseconds that a process has used so far. @throws {Error} when there is no such process. */
export function cpuTimeMs(pid: number = process.pid): number {
  const time = new Uint8Array(new ArrayBuffer(16));
  if (libc().clock_gettime(clockOf(pid), time) !== 0) {
    throw new Error(`process ${pid} has no CPU clock: it has ended`);
  }
  const view = new DataView(time.buffer);
  const seconds = Number(view.getBigInt64(0, true));
  return seconds * 1e3 + Number(view.getBigInt64(8, true)) / 1e6;
}

/** Page faults of this process that needed no disk, so far. */
export function minorFaults(): number {
  const text = readFileSync("/proc/self/stat", "utf8");
  return Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[7]);
}
