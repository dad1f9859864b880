// SPDX-License-Identifier: Apache-2.0
//
// Values whose every byte is known from (key, version, length), so that whoever reads one can say
// whose it is and whether it is whole. And what a seeded test throws its dice with.

import { Buffer } from "node:buffer";
import { randomNumbers } from "./traces.ts";

/** Shorter ones, but for the empty one, would not say which version they are. */
export const MIN_VALUE_BYTES = 8;
const MARK = 0x5eed_ca5e;

/** The value of that version of a key. Every call makes a new one. */
export function makeValue(key: number, version: number, byteLength: number): Buffer {
  const words = new Uint32Array(Math.ceil(byteLength / 4));
  let state = (Math.imul(key + 1, 0x9e37_79b1) ^ Math.imul(version + 1, 0x85eb_ca77) ^
    Math.imul(byteLength + 1, 0xc2b2_ae3d)) | 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  if (byteLength >= MIN_VALUE_BYTES) {
    words[0] = version ^ MARK;
    words[1] = key ^ Math.imul(version, 0x9e37_79b1);
  }
  return Buffer.from(words.buffer, 0, byteLength);
}

/** The version of `key` that these bytes are, all of them. A text says what is wrong. */
export function versionOf(key: number, bytes: Buffer): number | string {
  if (bytes.length < MIN_VALUE_BYTES) return `${bytes.length} bytes are no value`;
  const version = (bytes.readUInt32LE(0) ^ MARK) >>> 0;
  if (version >= 2 ** 31) return `begins with ${bytes.subarray(0, 16).toString("hex")}`;
  const expected = makeValue(key, version, bytes.length);
  if (expected.equals(bytes)) return version;
  return `of version ${version} ${differenceOf(expected, bytes)}`;
}

/** Where two buffers of one length differ, for people. */
export function differenceOf(expected: Uint8Array, found: Uint8Array): string {
  let first = -1;
  let last = -1;
  let count = 0;
  for (let at = 0; at < expected.length; at++) {
    if (expected[at] === found[at]) continue;
    if (first < 0) first = at;
    last = at;
    count++;
  }
  const shown = Buffer.from(found.buffer, found.byteOffset + first, Math.min(16, last - first + 1));
  return `${count} bytes differ, from ${first} to ${last} of ${expected.length}: ${
    shown.toString("hex")
  }`;
}

let table: Uint32Array | undefined;

/** CRC-32C (Castagnoli), 8 hexadecimal digits. */
export function crc32c(bytes: Uint8Array): string {
  if (table === undefined) {
    table = new Uint32Array(256);
    for (let n = 0; n < 256; n++) {
      let c = n;
      for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f6_3b78 : c >>> 1;
      table[n] = c;
    }
  }
  let crc = 0xffff_ffff;
  for (let at = 0; at < bytes.length; at++) crc = table[(crc ^ bytes[at]!) & 255]! ^ (crc >>> 8);
  return ((crc ^ 0xffff_ffff) >>> 0).toString(16).padStart(8, "0");
}

/** Throws that are the same for the same seed. */
export class Dice {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = randomNumbers(seed);
  }

  /** 0 to limit - 1. */
  below(limit: number): number {
    return Math.floor(this.#next() * limit);
  }

  /** From `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(probability: number): boolean {
    return this.#next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** A name by its weight. */
  weighted<T extends string>(weights: Readonly<Record<T, number>>): T {
    const entries = Object.entries(weights) as [T, number][];
    let at = this.#next() * entries.reduce((sum, [, weight]) => sum + weight, 0);
    for (const [name, weight] of entries) if ((at -= weight) < 0) return name;
    return entries[0]![0];
  }
}
