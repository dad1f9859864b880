// SPDX-License-Identifier: Apache-2.0
//
// Makes the garbage collector run, without asking which runtime's it is: by giving it work.

import { setTimeout as sleep } from "node:timers/promises";

/** Produces garbage until `done()`; throws when that is not so within `timeoutMs`. */
export async function collectGarbage(done: () => boolean, timeoutMs = 20_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  let garbage: unknown[] = [];
  while (!done()) {
    if (Date.now() > deadline) throw new Error(`nothing was collected within ${timeoutMs} ms`);
    for (let i = 0; i < 20_000; i++) garbage.push({ i, text: `garbage ${i}`, list: [i] });
    garbage = [new ArrayBuffer(1 << 20)];
    await sleep(1);
  }
}
