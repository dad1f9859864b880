// SPDX-License-Identifier: Apache-2.0
//
// What every allocator can do, and what it tells about itself. Types only.

import type { LayoutArgument } from "./tensor_layout.ts";
import type { MemoryObj } from "./memory_obj.ts";
import type { PoolMap, PoolMapOptions } from "./pool_map.ts";

/**
 * Hands out memory objects. All methods belong to the thread that made it; none blocks, except for
 * zeroing freed memory where that was asked for.
 */
export interface MemoryAllocator<Obj extends MemoryObj = MemoryObj> {
  /**
   * An object that looks so, with one reference that is the caller's. The memory is not cleared.
   * @throws {ShmError} ENOSPC when it does not fit, with the numbers and what could be done; EBADF
   *   when the pool is closed.
   * @throws {TypeError} and {RangeError} as TensorLayout.of().
   */
  allocate(layout: LayoutArgument): Obj;

  /** allocate() that gives null when it does not fit. */
  tryAllocate(layout: LayoutArgument): Obj | null;

  /** `count` objects that look alike: all or none. @throws as allocate(). */
  batchedAllocate(layout: LayoutArgument, count: number): Obj[];

  /** batchedAllocate() that gives null when not all of them fit. */
  tryBatchedAllocate(layout: LayoutArgument, count: number): Obj[] | null;

  /**
   * Releases the last reference. Code that shares objects calls refCountDown() instead.
   * @throws {ShmError} EFREED when it was freed before, EBUSY when there are other references, pins
   *   or I/O in flight, EINVAL when another allocator made it. Nothing has changed then.
   */
  free(obj: MemoryObj): void;

  /** free() for many: when one cannot be freed, none is. */
  batchedFree(objs: readonly MemoryObj[]): void;

  /**
   * Calls `listener` after each time that memory was given back, from within the call that did it.
   * What it throws becomes a warning.
   * @returns what ends that.
   */
  onFree(listener: () => void): () => void;

  /** How the memory is used now. */
  readonly stats: AllocatorStats;

  /**
   * Proves that the books add up.
   * @throws {ShmError} ECORRUPT, naming the fault. That is a bug in this library, or memory errors.
   */
  memcheck(): AllocatorStats;

  /** What is still allocated, and what was lost. */
  leakReport(): LeakReport;

  /**
   * Which parts of the memory are in which state, as a map to look at. It takes a moment for each
   * block: about a millisecond for 20,000.
   * @throws {RangeError} for options.
   */
  map(options?: PoolMapOptions): PoolMap;
}

/** Sizes in bytes of set-aside memory, counts in objects. totalBytes = used + free + quarantined. */
export interface AllocatorStats {
  /** All that it can hand out. */
  readonly totalBytes: number;
  /** Of live objects. */
  readonly usedBytes: number;
  /** What can be handed out, not necessarily in one piece. */
  readonly freeBytes: number;
  /** Not handed out again: its object was lost, or a view of it escaped. */
  readonly quarantinedBytes: number;
  /** The largest object that fits now. */
  readonly largestFreeBytes: number;
  /** Which part of the free bytes is not in the largest free range: 0 (none) to almost 1. */
  readonly fragmentation: number;
  /** Allocated, and not freed. */
  readonly liveObjects: number;
  /** Objects whose memory is quarantined. */
  readonly quarantinedObjects: number;
  /** The most bytes that were in use at once. */
  readonly highWaterBytes: number;
  /** Successful allocations since the beginning. */
  readonly allocations: number;
  /**
   * Attempts that found no room at that moment. Where a cache evicts to make room, as a hot tier does,
   * there is one before most evictions: many of them mean a full pool, and no failure.
   */
  readonly attemptsWithoutRoom: number;
  /** Objects that were garbage-collected without having been released. */
  readonly leakedObjects: number;
}

/** One object that is still allocated, or was lost. */
export interface LeakedObject {
  /** Still allocated; collected without release; freed while a view of it was elsewhere. */
  readonly state: "live" | "lost" | "escaped";
  /** Its layout, in words. */
  readonly description: string;
  /** Bytes from the start of the segment. */
  readonly offset: number;
  /** Bytes that are set aside for it. */
  readonly physicalSizeBytes: number;
  /** References that were not released. */
  readonly refCount: number;
  /** Pins that were not ended. */
  readonly pinCount: number;
  /** Reasons of the operations in flight. */
  readonly inFlight: readonly string[];
  /** Milliseconds since it was allocated; null unless allocations are tracked. */
  readonly ageMs: number | null;
  /** The stack of the allocation; null unless allocations are tracked. */
  readonly allocatedAt: string | null;
}

/** What is still allocated, and what was lost. */
export interface LeakReport {
  /** Allocated, and not freed. */
  readonly liveObjects: number;
  /** Bytes that are set aside for those. */
  readonly liveBytes: number;
  /** Objects that were garbage-collected without having been released. */
  readonly leakedObjects: number;
  /** Of those, how many had no view and whose memory could be used again. */
  readonly recoveredObjects: number;
  /** Quarantined objects; live ones too when allocations are tracked (trackAllocations). */
  readonly objects: readonly LeakedObject[];
}
