// SPDX-License-Identifier: Apache-2.0
//
// Objects in ordinary memory of the process: LMCache's BufferAllocator, for what is not worth pinned
// memory. The same rules of life as in a pool: counted references, views that are revoked. There is
// no pool, so nothing to fragment, and an object that is lost is the garbage collector's.

import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import { checkBatch, foreignObject } from "./allocator_checks.ts";
import { checkInteger } from "../arguments.ts";
import type { AllocatorStats, LeakReport, MemoryAllocator } from "./memory_allocator.ts";
import { MemoryFormat } from "./memory_format.ts";
import { BytesBufferMemoryObj, Chunk, type ChunkHome, type MemoryObj } from "./memory_obj.ts";
import { type DTypeArgument, type ShapeArgument, TensorLayout } from "./tensor_layout.ts";
import { ShmView } from "./view.ts";

class BufferChunk extends Chunk {
  readonly buffer: ArrayBuffer;

  constructor(layout: TensorLayout, buffer: ArrayBuffer) {
    super(layout, 0, buffer.byteLength, null);
    this.buffer = buffer;
  }
}

/**
 * Makes BINARY_BUFFER objects: shape [num_bytes]. Its memory is cleared. Nothing limits it but the
 * process: stats() has no total and no free bytes.
 */
export class BufferAllocator implements MemoryAllocator<BytesBufferMemoryObj> {
  readonly #home: ChunkHome;
  readonly #registry = new FinalizationRegistry<Chunk>((chunk) => {
    this.#leakedObjects++;
    this.#forget(chunk);
  });
  readonly #freeListeners = new Set<() => void>();
  #liveObjects = 0;
  #usedBytes = 0;
  #highWaterBytes = 0;
  #allocations = 0;
  #failedAllocations = 0;
  #leakedObjects = 0;

  constructor() {
    this.#home = {
      allocator: this,
      closed: false,
      makeView: (chunk) => new ShmView((chunk as BufferChunk).buffer, 0, (detached) => detached),
      hold: () => () => {},
      release: (obj, chunk) => {
        this.#registry.unregister(obj);
        this.#forget(chunk);
        chunk.view?.revoke();
      },
    };
  }

  allocate(
    shape: ShapeArgument,
    dtype?: DTypeArgument,
    format: MemoryFormat = MemoryFormat.BINARY_BUFFER,
  ): BytesBufferMemoryObj | null {
    return this.allocateLayout(TensorLayout.of(shape, dtype, format));
  }

  /** Null when the process cannot have that much memory, or one buffer not be that large. */
  allocateLayout(layout: TensorLayout): BytesBufferMemoryObj | null {
    if (layout.format !== MemoryFormat.BINARY_BUFFER) {
      throw new TypeError(`BufferAllocator makes BINARY_BUFFER objects, not ${layout.format}`);
    }
    const buffer = makeBuffer(layout.byteLength);
    if (buffer === null) {
      this.#failedAllocations++;
      return null;
    }
    const chunk = new BufferChunk(layout, buffer);
    const obj = new BytesBufferMemoryObj(this.#home, chunk);
    this.#registry.register(obj, chunk, obj);
    this.#liveObjects++;
    this.#allocations++;
    this.#usedBytes += chunk.physicalSizeBytes;
    this.#highWaterBytes = Math.max(this.#highWaterBytes, this.#usedBytes);
    return obj;
  }

  allocateOrThrow(
    shape: ShapeArgument,
    dtype?: DTypeArgument,
    format: MemoryFormat = MemoryFormat.BINARY_BUFFER,
  ): BytesBufferMemoryObj {
    const layout = TensorLayout.of(shape, dtype, format);
    const obj = this.allocateLayout(layout);
    if (obj !== null) return obj;
    throw new ShmError(`the process cannot have a buffer of ${layout.byteLength} bytes`, {
      code: "ENOMEM",
      operation: "allocate",
      hint: "Use a pool for large objects",
      details: { requestedBytes: layout.byteLength, usedBytes: this.#usedBytes },
    });
  }

  batchedAllocate(
    shape: ShapeArgument,
    dtype: DTypeArgument,
    batchSize: number,
    format: MemoryFormat = MemoryFormat.BINARY_BUFFER,
  ): BytesBufferMemoryObj[] | null {
    return this.batchedAllocateLayout(TensorLayout.of(shape, dtype, format), batchSize);
  }

  batchedAllocateLayout(layout: TensorLayout, batchSize: number): BytesBufferMemoryObj[] | null {
    checkInteger("batchSize", batchSize, 1);
    const objs: BytesBufferMemoryObj[] = [];
    while (objs.length < batchSize) {
      const obj = this.allocateLayout(layout);
      if (obj === null) {
        this.batchedFree(objs);
        return null;
      }
      objs.push(obj);
    }
    return objs;
  }

  free(obj: MemoryObj): void {
    this.batchedFree([obj]);
  }

  batchedFree(objs: readonly MemoryObj[]): void {
    checkBatch(objs);
    for (const obj of objs) {
      if (obj.allocator !== this) throw foreignObject(obj);
      obj.checkFreeable("free memory object");
    }
    for (const obj of objs) obj.refCountDown();
  }

  onFree(listener: () => void): () => void {
    const own = () => listener();
    this.#freeListeners.add(own);
    return () => void this.#freeListeners.delete(own);
  }

  stats(): AllocatorStats {
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
      failedAllocations: this.#failedAllocations,
      leakedObjects: this.#leakedObjects,
    };
  }

  memcheck(): AllocatorStats {
    const stats = this.stats();
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

  leakReport(): LeakReport {
    return {
      liveObjects: this.#liveObjects,
      liveBytes: this.#usedBytes,
      leakedObjects: this.#leakedObjects,
      recoveredObjects: this.#leakedObjects,
      objects: [],
    };
  }

  #forget(chunk: Chunk): void {
    this.#liveObjects--;
    this.#usedBytes -= chunk.physicalSizeBytes;
    for (const listener of this.#freeListeners) callFenced("a listener of onFree()", listener);
  }
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
