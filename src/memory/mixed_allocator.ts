// SPDX-License-Identifier: Apache-2.0
//
// What a program usually wants: one pool of pinned memory for tensors, and ordinary memory for the
// rest, told apart by format: LMCache's MixedMemoryAllocator. With a name the pool is POSIX shared
// memory that a worker or another process attaches; without one it is private to this process and
// the worker that it starts. It owns its segment, and allocates nothing itself.

import { checkAlign, checkFlag, freeBatch } from "./allocator_checks.ts";
import { checkKnownOptions } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { BufferAllocator } from "./buffer_allocator.ts";
import type { AllocatorStats, LeakReport, MemoryAllocator } from "./memory_allocator.ts";
import { MemoryFormat, parseMemoryFormat } from "./memory_format.ts";
import type { BytesBufferMemoryObj, MemoryObj, TensorMemoryObj } from "./memory_obj.ts";
import { PAGED_OPTIONS, PagedTensorMemoryAllocator } from "./paged_allocator.ts";
import type { AllocatorOptions } from "./pool_allocator.ts";
import type { PoolMap, PoolMapOptions } from "./pool_map.ts";
import { CREATE_OPTIONS, type CreateOptions, type OpenOptions, ShmSegment } from "./segment.ts";
import { TensorMemoryAllocator } from "./tensor_allocator.ts";
import { type LayoutArgument, type LayoutFields, TensorLayout } from "./tensor_layout.ts";

/** How the pool is divided up. */
export interface MixedAllocatorOptions extends AllocatorOptions {
  /** Pages for objects that look so, instead of objects of any size; see PagedTensorMemoryAllocator. */
  page?: LayoutArgument | undefined;
}

/** What create() makes: a segment, and how it is divided up. */
export interface MixedCreateOptions extends MixedAllocatorOptions, CreateOptions {}

/** The names of MixedCreateOptions. */
export const MIXED_CREATE_OPTIONS = [...CREATE_OPTIONS, ...PAGED_OPTIONS] as const;

/** What goes into ordinary memory. */
export type BufferLayout = LayoutFields & { format: "BINARY_BUFFER" };
/** What goes into the pool. */
export type PoolLayout =
  | number
  | (LayoutFields & { format?: Exclude<MemoryFormat, "BINARY_BUFFER"> | undefined });

/**
 * Tensors and BINARY go into the pool, BINARY_BUFFER into ordinary memory. Make one with create();
 * close() frees the pool.
 */
export class MixedMemoryAllocator implements MemoryAllocator, AsyncDisposable, Disposable {
  /** The pool's memory. */
  readonly segment: ShmSegment;
  /** Divides up the pool. */
  readonly pinAllocator: TensorMemoryAllocator | PagedTensorMemoryAllocator;
  /** Makes BINARY_BUFFER objects. */
  readonly bufferAllocator: BufferAllocator = new BufferAllocator();

  /** Over a segment that is there already, and that close() frees from now on. */
  constructor(segment: ShmSegment, options: MixedAllocatorOptions = {}) {
    checkKnownOptions("MixedMemoryAllocator", options, PAGED_OPTIONS);
    this.segment = segment;
    this.pinAllocator = makePool(segment, options);
    finalize(this, "segment", "pinAllocator", "bufferAllocator");
  }

  /**
   * Makes the pool without blocking the event loop.
   * @throws {ShmError} ENOSPC, EEXIST and others as ShmSegment.create(); TypeError and RangeError for
   *   arguments. Nothing is left behind then.
   */
  static async create(options: MixedCreateOptions): Promise<MixedMemoryAllocator> {
    const { segmentOptions, poolOptions } = splitOptions(options);
    const segment = await ShmSegment.create(segmentOptions);
    try {
      return new MixedMemoryAllocator(segment, poolOptions);
    } catch (error) {
      await segment.free();
      throw error;
    }
  }

  /** create() that blocks: about 0.7 s a GiB and thread. */
  static createSync(options: Omit<MixedCreateOptions, keyof OpenOptions>): MixedMemoryAllocator {
    const { segmentOptions, poolOptions } = splitOptions(options);
    const segment = ShmSegment.createSync(segmentOptions);
    try {
      return new MixedMemoryAllocator(segment, poolOptions);
    } catch (error) {
      segment.freeSync();
      throw error;
    }
  }

  /** Bytes of the pool. */
  get sizeBytes(): number {
    return this.segment.sizeBytes;
  }

  /** With its leading slash; null when the pool is private. */
  get name(): string | null {
    return this.segment.name;
  }

  /** True from the moment close() begins. */
  get closed(): boolean {
    return this.segment.closed;
  }

  /**
   * An object that looks so: in the pool, unless its format is BINARY_BUFFER.
   * @throws {ShmError} ENOSPC, EBADF, and ENOMEM for a buffer; as the allocators of the two.
   */
  allocate(layout: PoolLayout): TensorMemoryObj;
  /** An object in ordinary memory. */
  allocate(layout: BufferLayout): BytesBufferMemoryObj;
  /** An object where its format says. */
  allocate(layout: LayoutArgument): MemoryObj;
  allocate(layout: LayoutArgument): MemoryObj {
    const checked = TensorLayout.of(layout);
    return this.#allocatorFor(checked.format).allocate(checked);
  }

  /** allocate() that gives null when it does not fit. */
  tryAllocate(layout: PoolLayout): TensorMemoryObj | null;
  /** An object in ordinary memory, or null. */
  tryAllocate(layout: BufferLayout): BytesBufferMemoryObj | null;
  /** An object where its format says, or null. */
  tryAllocate(layout: LayoutArgument): MemoryObj | null;
  tryAllocate(layout: LayoutArgument): MemoryObj | null {
    const checked = TensorLayout.of(layout);
    return this.#allocatorFor(checked.format).tryAllocate(checked);
  }

  /** `count` objects that look alike: all or none. @throws as allocate(). */
  batchedAllocate(layout: PoolLayout, count: number): TensorMemoryObj[];
  /** Objects in ordinary memory. */
  batchedAllocate(layout: BufferLayout, count: number): BytesBufferMemoryObj[];
  /** Objects where their format says. */
  batchedAllocate(layout: LayoutArgument, count: number): MemoryObj[];
  batchedAllocate(layout: LayoutArgument, count: number): MemoryObj[] {
    const checked = TensorLayout.of(layout);
    return this.#allocatorFor(checked.format).batchedAllocate(checked, count);
  }

  /** batchedAllocate() that gives null when not all of them fit. */
  tryBatchedAllocate(layout: PoolLayout, count: number): TensorMemoryObj[] | null;
  /** Objects in ordinary memory, or null. */
  tryBatchedAllocate(layout: BufferLayout, count: number): BytesBufferMemoryObj[] | null;
  /** Objects where their format says, or null. */
  tryBatchedAllocate(layout: LayoutArgument, count: number): MemoryObj[] | null;
  tryBatchedAllocate(layout: LayoutArgument, count: number): MemoryObj[] | null {
    const checked = TensorLayout.of(layout);
    return this.#allocatorFor(checked.format).tryBatchedAllocate(checked, count);
  }

  /** As MemoryAllocator.free(), of either kind. */
  free(obj: MemoryObj): void {
    this.batchedFree([obj]);
  }

  /** As MemoryAllocator.batchedFree(), of both kinds. */
  batchedFree(objs: readonly MemoryObj[]): void {
    freeBatch(objs, this.pinAllocator, this.bufferAllocator);
  }

  /** Of the pool; ordinary memory is not waited for. */
  onFree(listener: () => void): () => void {
    return this.pinAllocator.onFree(listener);
  }

  /** Of the pool; bufferAllocator.stats has the rest. */
  get stats(): AllocatorStats {
    return this.pinAllocator.stats;
  }

  /** Proves the books of both allocators; gives the pool's. */
  memcheck(): AllocatorStats {
    this.bufferAllocator.memcheck();
    return this.pinAllocator.memcheck();
  }

  /** Of the pool; bufferAllocator.leakReport() has the rest. */
  leakReport(): LeakReport {
    return this.pinAllocator.leakReport();
  }

  /** Of the pool; bufferAllocator.map() has the rest. */
  map(options: PoolMapOptions = {}): PoolMap {
    return this.pinAllocator.map(options);
  }

  /**
   * Frees the pool without blocking the event loop: all objects in it become invalid, their views
   * are revoked. Idempotent.
   * @throws {ShmError} EBUSY while I/O is in flight; nothing has happened then.
   */
  close(): Promise<void> {
    return this.segment.free();
  }

  /** close() that blocks: up to 0.3 s a GiB. */
  closeSync(): void {
    this.segment.freeSync();
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** closeSync(). */
  [Symbol.dispose](): void {
    this.closeSync();
  }

  #allocatorFor(format: MemoryFormat): MemoryAllocator {
    switch (parseMemoryFormat(format)) {
      case MemoryFormat.BINARY_BUFFER:
        return this.bufferAllocator;
      case MemoryFormat.UNDEFINED:
        throw new TypeError(
          "UNDEFINED does not say where an object belongs: name a tensor format, or BINARY for bytes",
        );
      default:
        return this.pinAllocator;
    }
  }
}

function makePool(
  segment: ShmSegment,
  options: MixedAllocatorOptions,
): TensorMemoryAllocator | PagedTensorMemoryAllocator {
  const { page, ...others } = options;
  return page === undefined
    ? new TensorMemoryAllocator(segment, others)
    : new PagedTensorMemoryAllocator(segment, { page, ...others });
}

/** What is for whom; checks the pool's part before any memory is taken. */
function splitOptions(
  options: MixedCreateOptions,
): { segmentOptions: CreateOptions; poolOptions: MixedAllocatorOptions } {
  // checkKnownOptions() narrows the type of what it is given, hence the second variable.
  const given = options;
  checkKnownOptions("MixedMemoryAllocator.create", given, MIXED_CREATE_OPTIONS);
  const { alignBytes, page, zeroOnFree, trackAllocations, detectLeaks, ...segmentOptions } =
    options;
  checkAlign("alignBytes", alignBytes);
  checkFlag("zeroOnFree", zeroOnFree, false);
  checkFlag("trackAllocations", trackAllocations, false);
  checkFlag("detectLeaks", detectLeaks, true);
  if (page !== undefined) TensorLayout.of(page);
  return {
    segmentOptions,
    poolOptions: { alignBytes, page, zeroOnFree, trackAllocations, detectLeaks },
  };
}
