// SPDX-License-Identifier: Apache-2.0
//
// Two processes share one buffer. The first creates a segment, and the second attaches it by its name
// and adds up all that the first has written. No byte is copied between them, and nothing goes through
// a pipe: they wait for each other on a word of the segment, and the second one learns from the kernel
// that the first has released the memory.
//
//   bun examples/two_processes.ts [BYTES]           (1 GiB unless it is said)
//   deno run -A examples/two_processes.ts [BYTES]

import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ShmSegment } from "lmshm";

// The segment begins with two words, and what is computed begins at the next page.
const STATE = 0; // 0: being filled, 1: filled, 2: added up
const SUM = 4;
const DATA = 4096;
const PIECE_BYTES = 16 * 2 ** 20; // a view has at most 4 GiB in Bun; offsets have no such limit
const LIMIT_MS = 60_000;

/** Calls `work` with one part of the data after the other. */
function eachPiece(segment: ShmSegment, work: (words: Uint32Array, index: number) => void): void {
  for (let offset = DATA, index = 0; offset < segment.sizeBytes; offset += PIECE_BYTES, index++) {
    const byteLength = Math.min(PIECE_BYTES, segment.sizeBytes - offset);
    using view = segment.view(offset, byteLength);
    work(new Uint32Array(view.bytes.buffer, 0, byteLength / 4), index);
  }
}

function wordsOf(segment: ShmSegment): Int32Array {
  return new Int32Array(segment.bytes(0, DATA).buffer);
}

/** Sets the state, and wakes who waits for it. */
function setState(segment: ShmSegment, state: number): void {
  Atomics.store(wordsOf(segment), STATE / 4, state);
  segment.notify(STATE);
}

/** Waits until the state is no longer `state`. */
async function leavesState(segment: ShmSegment, state: number): Promise<void> {
  while (Atomics.load(wordsOf(segment), STATE / 4) === state) {
    const how = await segment.wait(STATE, state, { timeoutMs: LIMIT_MS });
    if (how === "timed-out") throw new Error("the other process did nothing for a minute");
  }
}

/** The first process: owns the memory. */
async function owner(sizeBytes: number): Promise<void> {
  const name = `lmshm-example-${process.pid}`;
  const segment = await ShmSegment.create({ name, sizeBytes });
  console.log(`created ${segment.name}: ${sizeBytes} bytes, pinned by ${segment.pinnedBy}`);

  const runArguments = "Deno" in globalThis ? ["run", "-A", "--no-check"] : ["run"];
  const script = fileURLToPath(import.meta.url);
  const second = spawn(process.execPath, [...runArguments, script, "--attach", name], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const ended = once(second, "exit");

  let expected = 0;
  eachPiece(segment, (words, index) => {
    words.fill(index + 1);
    expected = (expected + words.length * (index + 1)) % 2 ** 32;
  });
  const start = performance.now();
  setState(segment, 1);
  await leavesState(segment, 1);
  const seconds = (performance.now() - start) / 1000;
  const sum = wordsOf(segment)[SUM / 4]! >>> 0;
  console.log(`the second process has read all of it in ${seconds.toFixed(2)} s`);
  await segment.free();
  const [status] = await ended;
  if (status !== 0) throw new Error(`the second process ended with status ${status}`);
  console.log(sum === expected ? "OK: both see the same memory" : `FAILED: ${sum}, ${expected}`);
  if (sum !== expected) process.exitCode = 1;
}

/** The second process: attaches, adds everything up, and waits for the owner's end. */
async function reader(name: string): Promise<void> {
  await using segment = await ShmSegment.attach({ name, pin: "none" });
  console.log(`attached ${segment.name}: ${segment.sizeBytes} bytes`);
  await leavesState(segment, 0);
  let sum = 0;
  eachPiece(segment, (words) => {
    for (let at = 0; at < words.length; at++) sum = (sum + words[at]!) >>> 0;
  });
  wordsOf(segment)[SUM / 4] = sum;
  setState(segment, 2);
  console.log(`the owner has ended: ${await segment.ownerGone({ timeoutMs: LIMIT_MS })}`);
}

const [first, second] = process.argv.slice(2);
if (first === "--attach") await reader(second!);
else await owner(Math.max(2 * DATA, Math.ceil(Number(first ?? 2 ** 30) / 4) * 4));
