// SPDX-License-Identifier: Apache-2.0
//
// The garbage collector, made to run when a test wants it to.

import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import v8 from "node:v8";
import vm from "node:vm";

type Collect = () => void;

function findCollector(): Collect {
  const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };
  if (Bun !== undefined) return () => Bun.gc(true);
  v8.setFlagsFromString("--expose-gc");
  return vm.runInNewContext("gc") as Collect;
}

let collect: Collect | undefined;

/** Everything that nobody refers to any more goes, and finalizers get a turn. */
async function collectAll(): Promise<void> {
  collect ??= findCollector();
  collect();
  await sleep(1);
  collect();
}

/** Collects until `done()`; throws when that is not so within `timeoutMs`. */
export async function collectGarbage(done: () => boolean, timeoutMs = 20_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!done()) {
    if (Date.now() > deadline) throw new Error(`nothing was collected within ${timeoutMs} ms`);
    await collectAll();
    await sleep(1);
  }
}

/**
 * Bytes of the heap that the program still refers to. What the process has got from the system says
 * little about that, because a collector keeps what it once got.
 */
export async function liveHeapBytes(): Promise<number> {
  await collectAll();
  return process.memoryUsage().heapUsed;
}
