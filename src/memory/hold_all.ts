// SPDX-License-Identifier: Apache-2.0
//
// Holding ranges for an operation: one, or many at a time. A range may be the user's own, with a
// hold() of the user's: a failure in that must not keep this operation, or others, from ending.

import { describe } from "../arguments.ts";
import { callFenced } from "../fence.ts";
import type { ShmRange, ShmSegment } from "./segment.ts";

/**
 * Marks I/O in flight on a range. The returned function ends it, once, and never throws.
 * @throws what hold() throws; {TypeError} when it gives no function. It is not held then.
 */
export function takeHold(range: Pick<ShmRange, "hold">, reason: string): () => void {
  const release: unknown = range.hold(reason);
  if (typeof release !== "function") {
    throw new TypeError(`hold() must give a function that ends it, got ${describe(release)}`);
  }
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    callFenced("the end of a hold()", release as () => unknown);
  };
}

/**
 * Marks I/O in flight on each of the ranges; calling the returned function ends it for all. Ranges
 * that are nothing but a part of their segment share one hold of it.
 * @throws what hold() of one of them throws; none is held then.
 */
export function holdAll(ranges: readonly ShmRange[], reason: string): () => void {
  const releases: (() => void)[] = [];
  const release = () => {
    for (const one of releases.splice(0)) one();
  };
  const held = new Set<ShmSegment>();
  try {
    for (const range of ranges) {
      const { segment, hold } = range;
      if (hold === segment.holdRange) {
        if (held.has(segment)) continue;
        held.add(segment);
      }
      releases.push(takeHold(range, reason));
    }
  } catch (error) {
    release();
    throw error;
  }
  return release;
}
