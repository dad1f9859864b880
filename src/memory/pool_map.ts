// SPDX-License-Identifier: Apache-2.0
//
// A pool as a map: which of its ranges are free and which are used, pinned or in flight. For looking at,
// not for deciding anything. A map is bounded: what would have too many ranges is summed up in cells of
// equal size, and within a cell the order is lost. Pure arithmetic.

import { checkInteger } from "../arguments.ts";

/**
 * What a range is: free; used by an object; by one that is pinned; by one with I/O in flight, pinned or
 * not; or quarantined, which is not handed out again because a view of it may be in use.
 */
export type PoolRangeState = "inFlight" | "pinned" | "used" | "quarantined" | "free";

/** The order is that of the ranges of one cell. */
const STATES: readonly PoolRangeState[] = ["inFlight", "pinned", "used", "quarantined", "free"];

/** Neighbouring bytes of a pool that are in one state. */
export interface PoolRange {
  /** Bytes from the first byte that the allocator can hand out. */
  readonly offset: number;
  /** Its bytes. */
  readonly sizeBytes: number;
  /** What they are. */
  readonly state: PoolRangeState;
  /** Objects that begin in there: 1 for one object; 0 for free bytes. */
  readonly objects: number;
}

/** All ranges of a pool, from its first byte to its last. */
export interface PoolMap {
  /** All that the allocator can hand out; the ranges cover it. */
  readonly totalBytes: number;
  /** 0: each range is one block. Else blocks were summed up in cells of so many bytes. */
  readonly cellBytes: number;
  /** In the order of their offsets. */
  readonly ranges: readonly PoolRange[];
}

/** How fine a map is. */
export interface PoolMapOptions {
  /** The most ranges that it may have: 5 or more; default 4096. */
  maxRanges?: number | undefined;
}

/** One block as the allocator's books have it: used ones with what occupies them. */
export type VisitBlock = (
  sizeBytes: number,
  state: "free" | "used" | "quarantined",
  tenant: Tenant | null,
) => void;

interface Tenant {
  readonly pinCount: number;
  readonly inFlight: number;
}

const DEFAULT_RANGES = 4096;

export function maxRangesOf(options: PoolMapOptions): number {
  return checkInteger("maxRanges", options.maxRanges ?? DEFAULT_RANGES, STATES.length);
}

/**
 * @param blocks how many `visit` will tell of
 * @param visit calls its argument with each block, in the order of their offsets.
 */
export function drawMap(
  totalBytes: number,
  blocks: number,
  maxRanges: number,
  visit: (visitor: VisitBlock) => void,
): PoolMap {
  if (blocks > maxRanges) return summedUp(totalBytes, maxRanges, visit);
  const ranges: PoolRange[] = [];
  let offset = 0;
  visit((sizeBytes, state, tenant) => {
    const now = stateOf(state, tenant);
    ranges.push({ offset, sizeBytes, state: now, objects: now === "free" ? 0 : 1 });
    offset += sizeBytes;
  });
  return { totalBytes, cellBytes: 0, ranges };
}

function stateOf(state: "free" | "used" | "quarantined", tenant: Tenant | null): PoolRangeState {
  if (state !== "used" || tenant === null) return state;
  return tenant.inFlight > 0 ? "inFlight" : tenant.pinCount > 0 ? "pinned" : "used";
}

function summedUp(
  totalBytes: number,
  maxRanges: number,
  visit: (visitor: VisitBlock) => void,
): PoolMap {
  const kinds = STATES.length;
  const cellBytes = Math.ceil(totalBytes / Math.floor(maxRanges / kinds));
  const cells = Math.ceil(totalBytes / cellBytes);
  const bytes = new Float64Array(cells * kinds);
  const objects = new Float64Array(cells * kinds);
  let offset = 0;
  visit((sizeBytes, state, tenant) => {
    const kind = STATES.indexOf(stateOf(state, tenant));
    const end = offset + sizeBytes;
    let cell = Math.floor(offset / cellBytes);
    if (state !== "free") objects[cell * kinds + kind]!++;
    for (let from = offset; from < end; cell++) {
      const to = Math.min(end, (cell + 1) * cellBytes);
      bytes[cell * kinds + kind]! += to - from;
      from = to;
    }
    offset = end;
  });
  const ranges: PoolRange[] = [];
  let at = 0;
  for (let index = 0; index < bytes.length; index++) {
    const sizeBytes = bytes[index]!;
    if (sizeBytes === 0) continue;
    ranges.push({
      offset: at,
      sizeBytes,
      state: STATES[index % kinds]!,
      objects: objects[index]!,
    });
    at += sizeBytes;
  }
  return { totalBytes, cellBytes, ranges };
}
