// SPDX-License-Identifier: Apache-2.0
//
// Two processes share one buffer. The first creates a segment and starts the second, which attaches
// it by its name and computes a checksum of what the first has written. No byte is copied between
// them: what goes through the pipe is one line of text.
//
//   bun examples/two_processes.ts [BYTES]           (1 GiB unless it is said)
//   deno run -A examples/two_processes.ts [BYTES]

import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ShmSegment } from "lmshm";

const PIECE_BYTES = 64 * 2 ** 20; // a view has at most 4 GiB in Bun; offsets have no such limit

/** Calls `work` with one part of the segment after the other. */
function eachPiece(segment: ShmSegment, work: (words: Uint32Array, offset: number) => void): void {
  for (let offset = 0; offset < segment.sizeBytes; offset += PIECE_BYTES) {
    const byteLength = Math.min(PIECE_BYTES, segment.sizeBytes - offset);
    using view = segment.view(offset, byteLength);
    work(new Uint32Array(view.bytes.buffer, 0, byteLength / 4), offset);
  }
}

/** The first process: owns the memory. */
async function owner(sizeBytes: number): Promise<void> {
  const name = `lmshm-example-${process.pid}`;
  await using segment = await ShmSegment.create({ name, sizeBytes });
  console.log(`created ${segment.name}: ${sizeBytes} bytes, pinned by ${segment.pinnedBy}`);
  eachPiece(segment, (words, offset) => words.fill(offset / PIECE_BYTES + 1));

  const start = performance.now();
  const runArguments = "Deno" in globalThis ? ["run", "-A", "--no-check"] : ["run"];
  const script = fileURLToPath(import.meta.url);
  const second = spawn(process.execPath, [...runArguments, script, "--attach", name], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  const [status] = await once(second, "exit");
  if (status !== 0) throw new Error(`the second process ended with status ${status}`);

  // What it wrote is here, in the same bytes.
  using view = segment.view(0, 4);
  const sum = new DataView(view.bytes.buffer).getUint32(0, true);
  let expected = 0;
  for (let offset = 0; offset < sizeBytes; offset += PIECE_BYTES) {
    const words = Math.min(PIECE_BYTES, sizeBytes - offset) / 4;
    expected = (expected + words * (offset / PIECE_BYTES + 1)) % 2 ** 32;
  }
  const seconds = (performance.now() - start) / 1000;
  console.log(`the second process has read all of it in ${seconds.toFixed(2)} s`);
  console.log(sum === expected ? "OK: both see the same memory" : `FAILED: ${sum}, ${expected}`);
  if (sum !== expected) process.exitCode = 1;
}

/** The second process: attaches, reads everything, and writes four bytes. */
async function reader(name: string): Promise<void> {
  await using segment = await ShmSegment.attach({ name, pin: "none" });
  console.log(`attached ${segment.name}: ${segment.sizeBytes} bytes`);
  let sum = 0;
  eachPiece(segment, (words) => {
    for (let at = 0; at < words.length; at++) sum = (sum + words[at]!) >>> 0;
  });
  using view = segment.view(0, 4);
  new DataView(view.bytes.buffer).setUint32(0, sum, true);
}

const [first, second] = process.argv.slice(2);
if (first === "--attach") await reader(second!);
else await owner(Math.ceil(Number(first ?? 2 ** 30) / 4) * 4);
