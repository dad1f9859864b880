// SPDX-License-Identifier: Apache-2.0
//
// Objects in ordinary memory of the process: LMCache's BufferAllocator, for what is not worth pinned
// memory. The same rules of life as in a pool: counted references, views that are revoked. There is
// no pool, so nothing to fragment, and an object that is lost is the garbage collector's.

import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import { freeBatch } from "./allocator_checks.ts";
import { checkInteger } from "../arguments.ts";
import type { AllocatorStats, LeakReport, MemoryAllocator } from "./memory_allocator.ts";
import { MemoryFormat } from "./memory_format.ts";
import { BytesBufferMemoryObj, Chunk, type ChunkHome, type MemoryObj } from "./memory_obj.ts";
import { type LayoutArgument, TensorLayout } from "./tensor_layout.ts";
import { drawMap, maxRangesOf, type PoolMap, type PoolMapOptions } from "./pool_map.ts";
import { ShmView } from "./view.ts";
import { SlotSet, type Slotted } from "../slot_set.ts";

class BufferChunk extends Chunk implements Slotted {
  slot = -1;
  readonly buffer: ArrayBuffer;

  constructor(layout: TensorLayout, buffer: ArrayBuffer) {
    super(layout, 0, buffer.byteLength, null);
    this.buffer = buffer;
  }
}

/**
 * Makes BINARY_BUFFER objects: shape [num_bytes]. Its memory is cleared. Nothing limits it but the
 * process: stats has no total and no free bytes.
 */
export class BufferAllocator implements MemoryAllocator<BytesBufferMemoryObj> {
  readonly #home: ChunkHome;
  readonly #registry = new FinalizationRegistry<BufferChunk>((chunk) => {
    this.#leakedObjects++;
    this.#forget(chunk);
  });
  readonly #freeListeners = new Set<() => void>();
  readonly #live = new SlotSet<BufferChunk>();
  #liveObjects = 0;
  #usedBytes = 0;
  #highWaterBytes = 0;
  #allocations = 0;
  #attemptsWithoutRoom = 0;
  #leakedObjects = 0;

  constructor() {
    this.#home = {
      allocator: this,
      closed: false,
      makeView: (chunk) => new ShmView((chunk as BufferChunk).buffer, 0, (detached) => detached),
      hold: () => () => {},
      release: (obj, chunk) => {
        this.#registry.unregister(obj);
        this.#forget(chunk as BufferChunk);
        chunk.view?.revoke();
      },
    };
  }

  /**
   * An object of so many bytes, or that looks so; the format is BINARY_BUFFER, said or not.
   * @throws {ShmError} ENOMEM when the process cannot have that much memory, or one buffer not be
   *   that large.
   */
  allocate(layout: LayoutArgument): BytesBufferMemoryObj {
    const checked = bufferLayout(layout);
    const obj = this.tryAllocate(checked);
    if (obj === null) throw this.#noMemory(checked.byteLength);
    return obj;
  }

  /** allocate() that gives null when the memory cannot be had. */
  tryAllocate(layout: LayoutArgument): BytesBufferMemoryObj | null {
    const checked = bufferLayout(layout);
    const buffer = makeBuffer(checked.byteLength);
    if (buffer === null) {
      this.#attemptsWithoutRoom++;
      return null;
    }
    const chunk = new BufferChunk(checked, buffer);
    const obj = new BytesBufferMemoryObj(this.#home, chunk);
    this.#registry.register(obj, chunk, obj);
    this.#live.add(chunk);
    this.#liveObjects++;
    this.#allocations++;
    this.#usedBytes += chunk.physicalSizeBytes;
    this.#highWaterBytes = Math.max(this.#highWaterBytes, this.#usedBytes);
    return obj;
  }

  /** `count` objects that look alike: all or none. @throws as allocate(). */
  batchedAllocate(layout: LayoutArgument, count: number): BytesBufferMemoryObj[] {
    const checked = bufferLayout(layout);
    const objs = this.tryBatchedAllocate(checked, count);
    if (objs === null) throw this.#noMemory(checked.byteLength * count);
    return objs;
  }

  /** batchedAllocate() that gives null when the memory cannot be had. */
  tryBatchedAllocate(layout: LayoutArgument, count: number): BytesBufferMemoryObj[] | null {
    const checked = bufferLayout(layout);
    checkInteger("count", count, 1);
    const objs: BytesBufferMemoryObj[] = [];
    while (objs.length < count) {
      const obj = this.tryAllocate(checked);
      if (obj === null) {
        this.batchedFree(objs);
        return null;
      }
      objs.push(obj);
    }
    return objs;
  }

  /** As MemoryAllocator.free(). */
  free(obj: MemoryObj): void {
    this.batchedFree([obj]);
  }

  /** As MemoryAllocator.batchedFree(). */
  batchedFree(objs: readonly MemoryObj[]): void {
    freeBatch(objs, this);
  }

  /** As MemoryAllocator.onFree(). */
  onFree(listener: () => void): () => void {
    const own = () => listener();
    this.#freeListeners.add(own);
    return () => void this.#freeListeners.delete(own);
  }

  /** How much memory its objects have. */
  get stats(): AllocatorStats {
    return {
      totalBytes: this.#usedBytes,
      usedBytes: this.#usedBytes,
      freeBytes: 0,
      quarantinedBytes: 0,
      largestFreeBytes: 0,
      fragmentation: 0,
      liveObjects: this.#liveObjects,
      quarantinedObjects: 0,
      highWaterBytes: this.#highWaterBytes,
      allocations: this.#allocations,
      attemptsWithoutRoom: this.#attemptsWithoutRoom,
      leakedObjects: this.#leakedObjects,
    };
  }

  /** As MemoryAllocator.memcheck(). */
  memcheck(): AllocatorStats {
    const stats = this.stats;
    const { liveObjects, usedBytes } = stats;
    if (liveObjects < 0 || usedBytes < 0 || (liveObjects === 0) !== (usedBytes === 0)) {
      throw new ShmError(`${liveObjects} objects are live with ${usedBytes} bytes`, {
        code: "ECORRUPT",
        operation: "check allocator",
        hint: "This is a bug in lmshm; please report it with this message",
        details: { ...stats },
      });
    }
    return stats;
  }

  /** What is still allocated, and what was lost. */
  leakReport(): LeakReport {
    return {
      liveObjects: this.#liveObjects,
      liveBytes: this.#usedBytes,
      leakedObjects: this.#leakedObjects,
      recoveredObjects: this.#leakedObjects,
      objects: [],
    };
  }

  /** The objects, in no order and end to end: there are no addresses, and nothing is free. */
  map(options: PoolMapOptions = {}): PoolMap {
    const maxRanges = maxRangesOf(options);
    return drawMap(this.#usedBytes, this.#live.size, maxRanges, (visit) => {
      for (const chunk of this.#live) visit(chunk.physicalSizeBytes, "used", chunk);
    });
  }

  #noMemory(requestedBytes: number): ShmError {
    return new ShmError(`the process cannot have ${requestedBytes} bytes for buffers`, {
      code: "ENOMEM",
      operation: "allocate",
      hint: "Use a pool for large objects",
      details: { requestedBytes, usedBytes: this.#usedBytes },
    });
  }

  #forget(chunk: BufferChunk): void {
    this.#live.delete(chunk);
    this.#liveObjects--;
    this.#usedBytes -= chunk.physicalSizeBytes;
    for (const listener of this.#freeListeners) callFenced("a listener of onFree()", listener);
  }
}

function bufferLayout(argument: LayoutArgument): TensorLayout {
  const format = MemoryFormat.BINARY_BUFFER;
  const given: unknown = argument;
  const layout = typeof argument === "number"
    ? TensorLayout.of({ shape: [checkInteger("byteLength", argument, 1)], format })
    : argument instanceof TensorLayout || typeof given !== "object" || given === null
    ? TensorLayout.of(argument)
    : TensorLayout.of({ ...argument, format: argument.format ?? format });
  if (layout.format === format) return layout;
  throw new TypeError(`BufferAllocator makes BINARY_BUFFER objects, not ${layout.format}`);
}

function makeBuffer(byteLength: number): ArrayBuffer | null {
  try {
    return new ArrayBuffer(byteLength);
  } catch (error) {
    // "Out of memory", or beyond what the runtime allows for one buffer.
    if (error instanceof RangeError) return null;
    throw error;
  }
}
