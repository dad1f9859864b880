// SPDX-License-Identifier: Apache-2.0
//
// Holding many ranges at a time, for an operation on all of them.

import type { ShmRange, ShmSegment } from "./segment.ts";

/**
 * Marks I/O in flight on each of the ranges; calling the returned function ends it for all. Ranges
 * that are nothing but a part of their segment share one hold of it.
 * @throws what hold() of one of them throws; none is held then.
 */
export function holdAll(ranges: readonly ShmRange[], reason: string): () => void {
  const releases: (() => void)[] = [];
  const release = () => {
    // Whatever one of them throws, none may stay held.
    let failure: { error: unknown } | null = null;
    for (const one of releases.splice(0)) {
      try {
        one();
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure !== null) throw failure.error;
  };
  const held = new Set<ShmSegment>();
  try {
    for (const range of ranges) {
      const { segment, hold } = range;
      if (hold === segment.holdRange) {
        if (held.has(segment)) continue;
        held.add(segment);
      }
      releases.push(range.hold(reason));
    }
  } catch (error) {
    release();
    throw error;
  }
  return release;
}
