// SPDX-License-Identifier: Apache-2.0
//
// Binds processes to one CPU, and lets them go again. A wake-up on the same CPU takes a tenth of one
// across CPUs, and which of both it is the scheduler decides anew all the time: latencies are only
// comparable where everybody is bound.

import { readdirSync } from "node:fs";
import { libc } from "./libc.ts";

const MASK_BYTES = 128;

function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return [];
  }
}

function setMask(pid: number, mask: Uint8Array<ArrayBuffer>): void {
  // Threads that come meanwhile have the CPUs of the one that made them; so twice.
  for (let pass = 0; pass < 2; pass++) {
    for (const thread of threadsOf(pid)) {
      libc().sched_setaffinity(thread, BigInt(MASK_BYTES), mask);
    }
  }
}

/**
 * Binds all threads of the processes to the first CPU that this process may use.
 * @returns frees them again
 * @throws {Error} where the kernel does not tell which CPUs there are.
 */
export function bindToOneCpu(pids: readonly number[]): () => void {
  const allowed = new Uint8Array(new ArrayBuffer(MASK_BYTES));
  if (libc().sched_getaffinity(0, BigInt(MASK_BYTES), allowed) < 0) {
    throw new Error("sched_getaffinity failed: nobody can be bound to a CPU");
  }
  const first = allowed.findIndex((byte) => byte !== 0);
  const one = new Uint8Array(new ArrayBuffer(MASK_BYTES));
  one[first] = allowed[first]! & -allowed[first]!;
  for (const pid of pids) setMask(pid, one);
  return () => {
    for (const pid of pids) setMask(pid, allowed);
  };
}
