// SPDX-License-Identifier: Apache-2.0
//
// What the command is when bench has started it as a process of its own (see helper.ts): a neighbour
// that computes, or the other end of a bare pipe. Ends with whoever started it.

import process from "node:process";
import { echoUntilTheEnd, parentIs } from "../../native/plain_calls.ts";
import { print, printed } from "../terminal.ts";

/** Says "busy PARENT" or "echo". */
export const ROLE = "LMSHM_BENCH_ROLE";
export const READY = "ready";

const SLICE_MS = 2;
/** Longer than any run of bench. */
const MOST_MS = 10 * 60_000;

/** Nothing but computing, in slices, in between looks for its parent. */
function compute(parent: number): void {
  const end = performance.now() + MOST_MS;
  let value = 1;
  while (parentIs(parent) && performance.now() < end) {
    const slice = performance.now() + SLICE_MS;
    while (performance.now() < slice) {
      for (let turn = 0; turn < 2000; turn++) value = Math.sqrt(value + turn);
    }
  }
}

/** @returns the exit status. */
export async function playRole(role: string): Promise<number> {
  print(READY);
  await printed();
  const [kind, parent] = role.split(" ");
  if (kind === "busy") compute(Number(parent));
  else echoUntilTheEnd();
  process.exit();
}
