// SPDX-License-Identifier: Apache-2.0
//
// The bytes that benchmarks move, and their comparison.

import { Buffer } from "node:buffer";

/** Fills with bytes that neither compress nor repeat; the same for the same seed. */
export function fillRandom(target: Uint8Array, seed: number): void {
  const words = new Uint32Array(target.buffer, target.byteOffset, target.byteLength >> 2);
  let state = Math.imul(seed + 1, 0x9e3779b9) || 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  for (let at = words.byteLength; at < target.length; at++) target[at] = state + at;
}

/** @throws {Error} naming `what` unless both hold the same bytes. */
export function mustEqual(what: string, got: Uint8Array, wanted: Uint8Array): void {
  if (got.length !== wanted.length) {
    throw new Error(`${what}: ${got.length} bytes instead of ${wanted.length}`);
  }
  if (Buffer.compare(got, wanted) !== 0) {
    const at = wanted.findIndex((byte, index) => got[index] !== byte);
    throw new Error(`${what}: byte ${at} differs`);
  }
}
