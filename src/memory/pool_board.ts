// SPDX-License-Identifier: Apache-2.0
//
// What a program publishes of a pool, as it lies in a small segment of its own, /dev/shm/lmshm-pool-*:
//
//     offset  bytes
//     0       8      "lmshmap1"
//     8       4      length of the text, little-endian
//     12      4      CRC-32 of the text
//     16             JSON, see PoolBoard
//
// The writer does not wait for readers, and a reader that meets a half-written text sees that by the
// CRC-32 and looks again. Whether the writer lives is not in here: the kernel's lock on the segment says
// it. Pure.

import { crc32 } from "node:zlib";
import type { AllocatorStats } from "./memory_allocator.ts";
import type { PoolMap, PoolRange, PoolRangeState } from "./pool_map.ts";

/** Of the names in /dev/shm. */
export const BOARD_PREFIX = "lmshm-pool-";
/** Enough for the most ranges that are published, whatever their sizes: 16 digits, and as many objects. */
export const BOARD_BYTES = 192 * 1024;
export const BOARD_RANGES = 4096;

const KINDS: readonly string[] = ["pages", "blocks", "buffers"] satisfies PoolBoard["kind"][];
const MAGIC = "lmshmap1";
const HEAD_BYTES = 16;

/** What is published. */
export interface PoolBoard {
  /** What the program calls the pool. */
  readonly name: string;
  /** The program, as its own /proc has it. */
  readonly pid: number;
  /** What the allocator hands out: equal pages, blocks of any size, or ordinary memory. */
  readonly kind: "pages" | "blocks" | "buffers";
  /** The segment that the pool is in, if it has a name. */
  readonly segment: string | null;
  /** When it was written, in milliseconds since 1970. */
  readonly updatedMs: number;
  /** When it will be written again at the earliest. */
  readonly everyMs: number;
  readonly stats: AllocatorStats;
  /** In ordinary memory, beside the pool. */
  readonly buffers: { readonly objects: number; readonly bytes: number } | null;
  readonly map: PoolMap;
}

const LETTERS: Readonly<Record<PoolRangeState, string>> = {
  free: "f",
  used: "u",
  pinned: "p",
  inFlight: "i",
  quarantined: "q",
};
const STATES = new Map(
  Object.entries(LETTERS).map(([state, letter]) => [letter, state as PoolRangeState]),
);

/** What a board looks like in its segment. */
export function encodeBoard({ map, ...rest }: PoolBoard): Uint8Array {
  const { totalBytes, cellBytes, ranges } = map;
  const text = new TextEncoder().encode(JSON.stringify({
    ...rest,
    totalBytes,
    cellBytes,
    states: ranges.map(({ state }) => LETTERS[state]).join(""),
    sizes: ranges.map(({ sizeBytes }) => sizeBytes),
    // An exact map has one object in each range that is not free.
    ...(cellBytes === 0 ? {} : { objects: ranges.map(({ objects }) => objects) }),
  }));
  const bytes = new Uint8Array(HEAD_BYTES + text.length);
  bytes.set(new TextEncoder().encode(MAGIC));
  const head = new DataView(bytes.buffer);
  head.setUint32(8, text.length, true);
  head.setUint32(12, crc32(text), true);
  bytes.set(text, HEAD_BYTES);
  return bytes;
}

/** Null: it is none, or was being written. */
export function decodeBoard(bytes: Uint8Array): PoolBoard | null {
  if (bytes.length < HEAD_BYTES) return null;
  if (new TextDecoder().decode(bytes.subarray(0, 8)) !== MAGIC) return null;
  const head = new DataView(bytes.buffer, bytes.byteOffset);
  const text = bytes.subarray(HEAD_BYTES, HEAD_BYTES + head.getUint32(8, true));
  if (crc32(text) !== head.getUint32(12, true)) return null;
  try {
    return parsed(JSON.parse(new TextDecoder().decode(text)));
  } catch {
    return null;
  }
}

/** Throws where it does not look as encodeBoard() makes it. */
function parsed(json: Record<string, unknown>): PoolBoard {
  const { states, sizes, objects, totalBytes, cellBytes, ...rest } = json as {
    states: string;
    sizes: number[];
    objects?: number[];
    totalBytes: number;
    cellBytes: number;
  };
  const { name, pid, kind, segment, updatedMs, everyMs, stats, buffers } = rest as PoolBoard;
  const numbers = [pid, updatedMs, everyMs, totalBytes, cellBytes, ...Object.values(stats)];
  if (![...numbers, ...sizes, ...objects ?? []].every(Number.isFinite)) throw new TypeError();
  if (!KINDS.includes(kind)) throw new RangeError();
  if (states.length !== sizes.length || states.length > BOARD_RANGES) throw new RangeError();
  let offset = 0;
  const ranges = sizes.map((sizeBytes, index): PoolRange => {
    const state = STATES.get(states[index]!);
    if (state === undefined) throw new RangeError();
    const range = {
      offset,
      sizeBytes,
      state,
      objects: objects?.[index] ?? (state === "free" ? 0 : 1),
    };
    offset += sizeBytes;
    return range;
  });
  return {
    name: String(name),
    pid,
    kind,
    segment: segment === null ? null : String(segment),
    updatedMs,
    everyMs,
    stats,
    buffers: buffers === null
      ? null
      : { objects: Number(buffers.objects), bytes: Number(buffers.bytes) },
    map: { totalBytes, cellBytes, ranges },
  };
}
