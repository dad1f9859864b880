// SPDX-License-Identifier: Apache-2.0
//
// Why memory could not be had, in words and numbers. It looks at every cached object, so it is made
// only when somebody will read it.

import { ShmError } from "../errors.ts";
import type { AllocatorStats } from "../memory/memory_allocator.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import type { TensorLayout } from "../memory/tensor_layout.ts";

/**
 * too-large: the pool could not hold it if it were empty. not-evicting: it was not allowed to evict,
 * or there is no hot tier. retained: what was evicted is still kept by those who were told of it.
 * fragmented: enough is free, but not in one piece, because objects in use lie between. in-use: what
 * is left is referenced, pinned, or has I/O in flight.
 */
export type RefusalReason = "too-large" | "not-evicting" | "retained" | "fragmented" | "in-use";

export interface Refused {
  readonly layout: TensorLayout;
  readonly count: number;
  readonly evict: boolean;
  /** Evicted for this request, and kept by listeners. */
  readonly retainedBytes: number;
  readonly stats: AllocatorStats;
  readonly cached: Iterable<TensorMemoryObj>;
  /** Null: it did not wait. */
  readonly waitedMs: number | null;
  /** Requests that wait. */
  readonly waiting: number;
}

const HINTS: Readonly<Record<RefusalReason, string>> = {
  "too-large": "Make the pool larger, or the object smaller",
  "not-evicting": "Allow eviction, or release objects first",
  "retained": "Whoever is told of evictions should release its references sooner",
  "fragmented": "Release some objects, or use pages of one size",
  "in-use": "Release references with refCountDown() and pins with unpin(), or make the pool larger",
};

/** ENOSPC, or ETIMEDOUT after waiting. `details.reason` is a RefusalReason. */
export function refusal(refused: Refused): ShmError {
  const { layout, count, stats, waitedMs, retainedBytes } = refused;
  const uses = countUses(refused.cached, stats);
  const reason = reasonOf(refused);
  const objects = count === 1 ? `${layout}` : `${count} objects ${layout}`;
  const requestedBytes = layout.byteLength * count;
  const waited = waitedMs === null ? "" : ` within ${waitedMs} ms`;
  const words = describeReason(reason, refused, uses);
  return new ShmError(`no ${requestedBytes} bytes for ${objects}${waited}: ${words}`, {
    code: waitedMs === null ? "ENOSPC" : "ETIMEDOUT",
    operation: "allocate",
    hint: HINTS[reason],
    details: {
      reason,
      requestedBytes,
      count,
      totalBytes: stats.totalBytes,
      freeBytes: stats.freeBytes,
      largestFreeBytes: stats.largestFreeBytes,
      quarantinedBytes: stats.quarantinedBytes,
      retainedBytes,
      waiting: refused.waiting,
      ...uses,
    },
  });
}

/** Objects of the pool by who keeps them. */
interface Uses {
  cachedObjects: number;
  /** Of the cached ones: referenced by others, pinned, with I/O in flight. One may be all of it. */
  referencedObjects: number;
  pinnedObjects: number;
  inFlightObjects: number;
  /** Not cached. */
  otherObjects: number;
}

function countUses(cached: Iterable<TensorMemoryObj>, stats: AllocatorStats): Uses {
  const uses: Uses = {
    cachedObjects: 0,
    referencedObjects: 0,
    pinnedObjects: 0,
    inFlightObjects: 0,
    otherObjects: 0,
  };
  for (const obj of cached) {
    uses.cachedObjects++;
    if (obj.refCount > 1) uses.referencedObjects++;
    if (obj.isPinned) uses.pinnedObjects++;
    if (obj.inFlight > 0) uses.inFlightObjects++;
  }
  uses.otherObjects = Math.max(0, stats.liveObjects - uses.cachedObjects);
  return uses;
}

function reasonOf({ layout, count, evict, retainedBytes, stats }: Refused): RefusalReason {
  const requestedBytes = layout.byteLength * count;
  if (requestedBytes > stats.totalBytes - stats.quarantinedBytes) return "too-large";
  if (!evict) return "not-evicting";
  if (retainedBytes >= requestedBytes) return "retained";
  return stats.freeBytes >= requestedBytes ? "fragmented" : "in-use";
}

function describeReason(reason: RefusalReason, refused: Refused, uses: Uses): string {
  const { stats, retainedBytes } = refused;
  const { totalBytes, freeBytes, largestFreeBytes, quarantinedBytes } = stats;
  const { cachedObjects, referencedObjects, pinnedObjects, inFlightObjects, otherObjects } = uses;
  const inUse = `of ${cachedObjects} cached objects ${referencedObjects} are referenced, ` +
    `${pinnedObjects} pinned, ${inFlightObjects} in transfer; ${otherObjects} objects are not cached`;
  switch (reason) {
    case "too-large": {
      const lost = quarantinedBytes > 0 ? `, ${quarantinedBytes} of them out of use` : "";
      return `the pool has ${totalBytes}${lost}`;
    }
    case "not-evicting":
      return `${freeBytes} of ${totalBytes} are free, the largest range ${largestFreeBytes}, and ` +
        "evicting is not allowed";
    case "retained":
      return `${retainedBytes} bytes were evicted and are still kept by those who were told`;
    case "fragmented":
      return `${freeBytes} are free, but the largest range has ${largestFreeBytes}; ${inUse}`;
    case "in-use":
      return `${freeBytes} of ${totalBytes} are free; ${inUse}`;
  }
}
