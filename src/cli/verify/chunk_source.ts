// SPDX-License-Identifier: Apache-2.0
//
// Where verify's bytes come from: files, cut into chunks, or generated chunks that look like KV
// caches (bfloat16 numbers between -2 and 2, every chunk different, the same in every run).

import { open, stat } from "node:fs/promises";
import { UsageError } from "../command.ts";

export interface Chunk {
  /** What it is, for messages: "file.bin[3]" or "generated[3]". */
  readonly label: string;
  readonly byteLength: number;
  /** Writes the chunk into `target`, which has byteLength bytes. */
  fill(target: Uint8Array): Promise<void>;
}

/** Each is a file for a while, and an entry of a list. */
const MAX_CHUNKS = 100_000;

function checkCount(count: number, chunkBytes: number): void {
  if (count <= MAX_CHUNKS) return;
  throw new UsageError(
    `--chunk-size ${chunkBytes}: the data would be ${
      count.toLocaleString("en-US")
    } chunks, and at ` +
      `most ${MAX_CHUNKS.toLocaleString("en-US")} are allowed; make them larger, or take less data`,
  );
}

/** `totalBytes` of generated data in chunks of `chunkBytes`; the last may be shorter. */
export function generatedChunks(totalBytes: number, chunkBytes: number): Chunk[] {
  checkCount(Math.ceil(totalBytes / chunkBytes), chunkBytes);
  const chunks: Chunk[] = [];
  for (let start = 0; start < totalBytes; start += chunkBytes) {
    const index = chunks.length;
    chunks.push({
      label: `generated[${index}]`,
      byteLength: Math.min(chunkBytes, totalBytes - start),
      fill: (target) => Promise.resolve(generate(target, index)),
    });
  }
  return chunks;
}

/** The files, each cut into chunks of `chunkBytes`. An empty file is one empty chunk. */
export async function fileChunks(paths: readonly string[], chunkBytes: number): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  for (const path of paths) {
    const found = await stat(path);
    if (!found.isFile()) throw new Error(`--input ${path}: not a regular file`);
    const count = Math.max(1, Math.ceil(found.size / chunkBytes));
    checkCount(chunks.length + count, chunkBytes);
    for (let index = 0; index < count; index++) {
      const start = index * chunkBytes;
      chunks.push({
        label: `${path}[${index}]`,
        byteLength: Math.min(chunkBytes, found.size - start),
        fill: (target) => readInto(path, start, target),
      });
    }
  }
  return chunks;
}

async function readInto(path: string, start: number, target: Uint8Array): Promise<void> {
  const file = await open(path, "r");
  try {
    for (let done = 0; done < target.length;) {
      const length = Math.min(target.length - done, 2 ** 30);
      const { bytesRead } = await file.read(target, done, length, start + done);
      if (bytesRead === 0) throw new Error(`--input ${path}: became shorter while it was read`);
      done += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** xorshift32 words, folded to pairs of bfloat16 with exponents near 1. */
function generate(target: Uint8Array, seed: number): void {
  const words = new Uint32Array(target.buffer, target.byteOffset, target.byteLength >> 2);
  let state = (seed + 1) * 0x9e3779b9 >>> 0 || 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = (state & 0x80ff80ff) | 0x3f003f00;
  }
  for (let at = words.byteLength; at < target.length; at++) target[at] = (state + at) & 0xff;
}
