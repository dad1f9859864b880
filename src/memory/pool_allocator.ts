// SPDX-License-Identifier: Apache-2.0
//
// What the allocators over a segment have in common: they make and take back memory objects, revoke
// views, and keep account of what was lost. Where a chunk lies is decided by the subclasses.
//
// Two kinds of chunks are quarantined, that is, not handed out again, because somebody may still see
// their memory. The first are those whose object was garbage-collected without release after a view
// was made: the array may well be in use although the object is gone. The second are those whose view
// had no addresses of its own (windows.ts: there are only so many) and escaped: its buffer was
// transferred, or the runtime does I/O on it. A lost object without a view can be reached
// by nobody, and its memory is used again. Either way it is counted, and the first one warns.

import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import {
  checkAlign,
  checkFlag,
  checkMemoryObj,
  checkOwner,
  freeBatch,
  noSpace,
  rangeOf,
} from "./allocator_checks.ts";
import { checkInteger } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { takeHold } from "./hold_all.ts";
import { describeChunk, warnOfLeak } from "./leak_report.ts";
import type { AllocatorStats, LeakReport, MemoryAllocator } from "./memory_allocator.ts";
import { MemoryFormat } from "./memory_format.ts";
import { Chunk, type ChunkHome, type MemoryObj, TensorMemoryObj } from "./memory_obj.ts";
import {
  drawMap,
  maxRangesOf,
  type PoolMap,
  type PoolMapOptions,
  type VisitBlock,
} from "./pool_map.ts";
import { type ShmRange, type ShmSegment, viewForOwner } from "./segment.ts";
import { type LayoutArgument, TensorLayout } from "./tensor_layout.ts";

/** How an allocator divides up its memory. */
export interface AllocatorOptions {
  /** Every object begins at a multiple of this in the segment: a power of two, 8 or more. Default 4096. */
  alignBytes?: number | undefined;
  /** Overwrite memory with zeros when it is freed (about 0.1 ms a MiB). Default false. */
  zeroOnFree?: boolean | undefined;
  /** Remember where each object was allocated, for leakReport(); costs some microseconds. Default false. */
  trackAllocations?: boolean | undefined;
  /**
   * Notice objects that are garbage-collected without having been released. Default true. Without it
   * they stay allocated for good, but with many objects alive an allocation takes half the time.
   */
  detectLeaks?: boolean | undefined;
}

export const ALLOCATOR_OPTIONS = [
  "alignBytes",
  "zeroOnFree",
  "trackAllocations",
  "detectLeaks",
] as const;

/** One view is at most this large while zeroing, whatever the runtime allows. */
const ZERO_PIECE_BYTES = 1 << 30;

/** A chunk and its place in the subclass's books. */
class PooledChunk<Place> extends Chunk {
  readonly place: Place;
  /** Out of circulation in the subclass's books. */
  withheld = false;

  constructor(
    layout: TensorLayout,
    offset: number,
    physicalSizeBytes: number,
    origin: Error | null,
    place: Place,
  ) {
    super(layout, offset, physicalSizeBytes, origin);
    this.place = place;
  }
}

/** What the subclass's books say. */
export interface Books {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly quarantinedBytes: number;
  readonly largestFreeBytes: number;
  /** 0 to almost 1. */
  readonly fragmentation: number;
  readonly usedPlaces: number;
  readonly quarantinedPlaces: number;
}

/**
 * An allocator of objects in a segment. `Place` is what the subclass's books call a chunk.
 * @internal
 */
export abstract class PoolAllocator<Place> implements MemoryAllocator<TensorMemoryObj> {
  readonly segment: ShmSegment;
  readonly alignBytes: number;
  /** Where the first object can begin, in bytes from the start of the segment. */
  readonly baseOffset: number;
  /** Bytes from baseOffset on that belong to this allocator. */
  protected readonly spanBytes: number;
  readonly #zeroOnFree: boolean;
  readonly #home: ChunkHome;
  /** Null unless leaks are detected. */
  readonly #registry: FinalizationRegistry<PooledChunk<Place>> | null;
  /** Live chunks; null unless allocations are tracked. */
  readonly #tracked: Set<PooledChunk<Place>> | null;
  readonly #freeListeners = new Set<() => void>();
  readonly #lost = new Set<PooledChunk<Place>>();
  readonly #escaped = new Set<PooledChunk<Place>>();
  #liveObjects = 0;
  #usedBytes = 0;
  #highWaterBytes = 0;
  #allocations = 0;
  #attemptsWithoutRoom = 0;
  #leakedObjects = 0;
  #recoveredObjects = 0;

  /**
   * @param range the memory: a segment, or a part of one that stays allocated as long as this. I/O
   *   that uses an object of this pool holds it.
   * @throws {RangeError} when not even one aligned byte is in it.
   */
  constructor(range: ShmSegment | ShmRange, options: AllocatorOptions) {
    const { segment, offset, byteLength } = rangeOf(range);
    this.alignBytes = checkAlign("alignBytes", options.alignBytes);
    this.#zeroOnFree = checkFlag("zeroOnFree", options.zeroOnFree, false);
    const tracks = checkFlag("trackAllocations", options.trackAllocations, false);
    this.#tracked = tracks ? new Set() : null;
    this.#registry = checkFlag("detectLeaks", options.detectLeaks, true)
      ? new FinalizationRegistry((chunk) => this.#lose(chunk))
      : null;
    this.segment = segment;
    this.baseOffset = Math.ceil(offset / this.alignBytes) * this.alignBytes;
    this.spanBytes = Math.max(0, offset + byteLength - this.baseOffset);
    finalize(this, "segment", "alignBytes", "baseOffset");
    Object.defineProperty(this, "spanBytes", { writable: false, configurable: false });
    this.#home = {
      allocator: this,
      get closed() {
        return segment.closed;
      },
      makeView: (chunk) => viewForOwner(segment, chunk.offset, chunk.layout.byteLength),
      hold: (reason) => takeHold(range, reason),
      release: (obj, chunk) => {
        this.#registry?.unregister(obj);
        this.#takeBack(chunk as PooledChunk<Place>);
      },
    };
  }

  /** A place of at least `byteLength` bytes, or null. */
  protected abstract take(byteLength: number): Place | null;
  protected abstract giveBack(place: Place): void;
  protected abstract withhold(place: Place): void;
  /** Bytes from the start of the segment. */
  protected abstract offsetOf(place: Place): number;
  protected abstract sizeOf(place: Place): number;
  /** Remembers who is in a place, until giveBack(). */
  protected abstract settle(place: Place, tenant: Chunk): void;
  /** Blocks that visitBlocks() tells of. */
  protected abstract blockCount(): number;
  /** All blocks in the order of their offsets. */
  protected abstract visitBlocks(visit: VisitBlock): void;
  protected abstract books(): Books;
  /** Null, or the first fault in the subclass's books, in words. */
  protected abstract findFault(): string | null;

  get totalBytes(): number {
    return this.books().totalBytes;
  }

  allocate(layout: LayoutArgument): TensorMemoryObj {
    const checked = TensorLayout.of(layout);
    const obj = this.tryAllocate(checked);
    if (obj === null) throw noSpace(checked, 1, this.stats);
    return obj;
  }

  tryAllocate(layout: LayoutArgument): TensorMemoryObj | null {
    const checked = TensorLayout.of(layout);
    this.#check(checked);
    const place = this.take(checked.byteLength);
    if (place === null) {
      this.#attemptsWithoutRoom++;
      return null;
    }
    return this.#make(checked, place);
  }

  batchedAllocate(layout: LayoutArgument, count: number): TensorMemoryObj[] {
    const checked = TensorLayout.of(layout);
    const objs = this.tryBatchedAllocate(checked, count);
    if (objs === null) throw noSpace(checked, count, this.stats);
    return objs;
  }

  tryBatchedAllocate(layout: LayoutArgument, count: number): TensorMemoryObj[] | null {
    const checked = TensorLayout.of(layout);
    this.#check(checked);
    checkInteger("count", count, 1);
    const places: Place[] = [];
    // The first test spares a hopeless batch the work of taking places and giving them back.
    while (places.length < count) {
      const hopeless = places.length === 0 && count * checked.byteLength > this.books().freeBytes;
      const place = hopeless ? null : this.take(checked.byteLength);
      if (place === null) {
        for (const taken of places) this.giveBack(taken);
        this.#attemptsWithoutRoom++;
        return null;
      }
      places.push(place);
    }
    return places.map((place) => this.#make(checked, place));
  }

  free(obj: MemoryObj): void {
    checkMemoryObj(obj);
    checkOwner(obj, this);
    obj.checkFreeable("free memory object");
    obj.refCountDown();
  }

  batchedFree(objs: readonly MemoryObj[]): void {
    freeBatch(objs, this);
  }

  onFree(listener: () => void): () => void {
    const own = () => listener();
    this.#freeListeners.add(own);
    return () => void this.#freeListeners.delete(own);
  }

  get stats(): AllocatorStats {
    const books = this.books();
    const { totalBytes, freeBytes, quarantinedBytes, largestFreeBytes } = books;
    return {
      totalBytes,
      usedBytes: totalBytes - freeBytes - quarantinedBytes,
      freeBytes,
      quarantinedBytes,
      largestFreeBytes,
      fragmentation: books.fragmentation,
      liveObjects: this.#liveObjects,
      quarantinedObjects: books.quarantinedPlaces,
      highWaterBytes: this.#highWaterBytes,
      allocations: this.#allocations,
      attemptsWithoutRoom: this.#attemptsWithoutRoom,
      leakedObjects: this.#leakedObjects,
    };
  }

  memcheck(): AllocatorStats {
    const fault = this.findFault() ?? this.#findFault();
    if (fault !== null) {
      throw new ShmError(fault, {
        code: "ECORRUPT",
        operation: "check allocator",
        hint: "This is a bug in lmshm; please report it with this message",
        details: { ...this.stats },
      });
    }
    return this.stats;
  }

  leakReport(): LeakReport {
    const { usedBytes, liveObjects, leakedObjects } = this.stats;
    const nowMs = Date.now();
    return {
      liveObjects,
      liveBytes: usedBytes,
      leakedObjects,
      recoveredObjects: this.#recoveredObjects,
      objects: [
        ...Array.from(this.#lost, (chunk) => describeChunk("lost", chunk, nowMs)),
        ...Array.from(this.#escaped, (chunk) => describeChunk("escaped", chunk, nowMs)),
        ...Array.from(this.#tracked ?? [], (chunk) => describeChunk("live", chunk, nowMs)),
      ],
    };
  }

  map(options: PoolMapOptions = {}): PoolMap {
    return drawMap(
      this.totalBytes,
      this.blockCount(),
      maxRangesOf(options),
      (visit) => this.visitBlocks(visit),
    );
  }

  /**
   * Takes back the memory of lost objects although arrays over it may be in use: those have length
   * 0 from then on. For a program that knows it holds none, or would rather lose them than memory.
   * @returns bytes that can be allocated again.
   */
  reclaimLost(): number {
    let reclaimedBytes = 0;
    for (const chunk of this.#lost) {
      if (chunk.inFlight > 0) continue;
      this.#lost.delete(chunk);
      if (this.#giveBackOrQuarantine(chunk)) reclaimedBytes += chunk.physicalSizeBytes;
    }
    return reclaimedBytes;
  }

  #check(layout: TensorLayout): void {
    if (this.segment.closed) {
      throw new ShmError("the pool is closed", { code: "EBADF", operation: "allocate" });
    }
    if (layout.format === MemoryFormat.BINARY_BUFFER) {
      throw new TypeError("BINARY_BUFFER objects are not in a pool; BufferAllocator makes them");
    }
  }

  #make(layout: TensorLayout, place: Place): TensorMemoryObj {
    const origin = this.#tracked === null ? null : new Error("allocated");
    const chunk = new PooledChunk(
      layout,
      this.offsetOf(place),
      this.sizeOf(place),
      origin,
      place,
    );
    const obj = new TensorMemoryObj(this.#home, chunk, this.segment);
    this.settle(place, chunk);
    this.#registry?.register(obj, chunk, obj);
    this.#tracked?.add(chunk);
    this.#liveObjects++;
    this.#allocations++;
    this.#usedBytes += chunk.physicalSizeBytes;
    if (this.#usedBytes > this.#highWaterBytes) this.#highWaterBytes = this.#usedBytes;
    return obj;
  }

  /** The object is freed. */
  #takeBack(chunk: PooledChunk<Place>): void {
    this.#forget(chunk);
    this.#giveBackOrQuarantine(chunk);
  }

  /** The object was garbage-collected, unreleased. */
  #lose(chunk: PooledChunk<Place>): void {
    if (this.segment.closed) return;
    chunk.freed = true;
    this.#forget(chunk);
    this.#leakedObjects++;
    const reachable = chunk.view !== null || chunk.inFlight > 0;
    if (reachable) {
      this.#quarantine(chunk, this.#lost);
    } else {
      this.#recoveredObjects++;
      this.#giveBackOrQuarantine(chunk);
    }
    if (this.#leakedObjects === 1) warnOfLeak(chunk, reachable);
  }

  #forget(chunk: PooledChunk<Place>): void {
    chunk.bytes = null;
    this.#tracked?.delete(chunk);
    this.#liveObjects--;
    this.#usedBytes -= chunk.physicalSizeBytes;
  }

  /** True when the memory is free again; false when a view of it escaped. */
  #giveBackOrQuarantine(chunk: PooledChunk<Place>): boolean {
    if (chunk.view !== null && !chunk.view.revoke()) {
      this.#quarantine(chunk, this.#escaped);
      return false;
    }
    if (this.#zeroOnFree) zero(this.segment, chunk);
    this.giveBack(chunk.place);
    for (const listener of this.#freeListeners) callFenced("a listener of onFree()", listener);
    return true;
  }

  #quarantine(chunk: PooledChunk<Place>, list: Set<PooledChunk<Place>>): void {
    if (!chunk.withheld) this.withhold(chunk.place);
    chunk.withheld = true;
    list.add(chunk);
  }

  #findFault(): string | null {
    const { totalBytes, freeBytes, quarantinedBytes, usedPlaces, quarantinedPlaces } = this.books();
    const quarantined = this.#lost.size + this.#escaped.size;
    const expected = [
      ["live objects", this.#liveObjects, usedPlaces],
      ["quarantined objects", quarantined, quarantinedPlaces],
      ["bytes in use", this.#usedBytes, totalBytes - freeBytes - quarantinedBytes],
    ] as const;
    for (const [what, counted, booked] of expected) {
      if (counted !== booked) return `${what}: ${counted} counted, ${booked} in the books`;
    }
    return null;
  }
}

function zero(segment: ShmSegment, chunk: Chunk): void {
  // All of the chunk, not only its logical part: direct I/O writes whole blocks.
  for (let done = 0; done < chunk.physicalSizeBytes; done += ZERO_PIECE_BYTES) {
    const pieceBytes = Math.min(ZERO_PIECE_BYTES, chunk.physicalSizeBytes - done);
    const view = segment.view(chunk.offset + done, pieceBytes);
    view.bytes.fill(0);
    view.revoke();
  }
}
