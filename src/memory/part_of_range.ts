// SPDX-License-Identifier: Apache-2.0
//
// A part of a range. Whoever holds the part holds the range, so its owner cannot free the memory
// under I/O that uses the part.

import type { ShmRange } from "./segment.ts";

/**
 * `byteLength` bytes of a range, from its byte `offset` on. The part keeps the range from the garbage
 * collector.
 */
export function partOf(range: ShmRange, offset: number, byteLength: number): ShmRange {
  const { segment, hold } = range;
  const start = range.offset + offset;
  // A plain range of the segment gives a plain range: holdAll() holds those with one hold.
  if (hold === segment.holdRange) return segment.range(start, byteLength);
  return Object.freeze({
    segment,
    offset: start,
    byteLength,
    hold: (reason: string) => range.hold(reason),
  });
}
