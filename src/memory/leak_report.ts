// SPDX-License-Identifier: Apache-2.0
//
// Words for chunks that are still allocated or were lost: for leakReport() and for the warning.

import process from "node:process";
import type { LeakedObject } from "./memory_allocator.ts";
import type { Chunk } from "./memory_obj.ts";

/** Tells the process about the first object that was lost. */
export function warnOfLeak(chunk: Chunk, reachable: boolean): void {
  const fate = reachable
    ? "Its memory is set aside, because arrays over it may be in use"
    : "Its memory was recovered";
  const origin = allocationStack(chunk);
  process.emitWarning(
    `a memory object was garbage-collected without refCountDown(): ${chunk.layout} at ` +
      `${chunk.offset}. ${fate}. Further ones are only counted: see stats.leakedObjects` +
      (origin === null ? "; trackAllocations names where" : `. It was allocated at
${origin}`),
    "LmshmLeakWarning",
  );
}

/** A chunk as leakReport() lists it. */
export function describeChunk(
  state: LeakedObject["state"],
  chunk: Chunk,
  nowMs: number,
): LeakedObject {
  return {
    state,
    description: String(chunk.layout),
    offset: chunk.offset,
    physicalSizeBytes: chunk.physicalSizeBytes,
    refCount: chunk.refCount,
    pinCount: chunk.pinCount,
    inFlight: chunk.holds?.reasons ?? [],
    ageMs: chunk.origin === null ? null : nowMs - chunk.allocatedAtMs,
    allocatedAt: allocationStack(chunk),
  };
}

const OWN_DIRECTORY = new URL(".", import.meta.url).pathname;

/** The frames of the allocation that are not the allocators' own; null when it was not tracked. */
function allocationStack(chunk: Chunk): string | null {
  const stack = chunk.origin?.stack;
  if (stack === undefined) return null;
  const frames = stack.split("\n").filter((line) => /^\s*at /.test(line));
  const callers = frames.filter((line) => !line.includes(OWN_DIRECTORY));
  return (callers.length > 0 ? callers : frames).join("\n");
}
