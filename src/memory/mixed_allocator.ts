// SPDX-License-Identifier: Apache-2.0
//
// What a program usually wants: one pool of pinned memory for tensors, and ordinary memory for the
// rest, told apart by format: LMCache's MixedMemoryAllocator. With a name the pool is POSIX shared
// memory that a worker or another process attaches; without one it is private to this process and
// the worker that it starts. It owns its segment, and allocates nothing itself.

import { checkAlign, checkBatch, checkFlag, foreignObject } from "./allocator_checks.ts";
import { checkChoice, checkKnownOptions, checkSize } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { BufferAllocator } from "./buffer_allocator.ts";
import type { AllocatorStats, LeakReport, MemoryAllocator } from "./memory_allocator.ts";
import { MemoryFormat, parseMemoryFormat } from "./memory_format.ts";
import type { MemoryObj } from "./memory_obj.ts";
import { PagedTensorMemoryAllocator } from "./paged_allocator.ts";
import type { PoolOptions } from "./pool_allocator.ts";
import {
  type CreateOptions,
  type IfExists,
  type OpenHooks,
  type PageMode,
  type PinMode,
  ShmSegment,
} from "./segment.ts";
import { TensorMemoryAllocator } from "./tensor_allocator.ts";
import { type DTypeArgument, type ShapeArgument, TensorLayout } from "./tensor_layout.ts";

/** How the pool is divided up. */
export interface MixedPoolOptions {
  /** Every object begins at a multiple of so many bytes: a power of two. Default 4096. */
  align?: number | undefined;
  /** Pages for objects of one size, instead of objects of any size; see PagedTensorMemoryAllocator. */
  paging?: {
    shapes: ShapeArgument;
    dtypes?: DTypeArgument;
    format?: MemoryFormat | undefined;
  } | undefined;
  /** Overwrite memory with zeros when it is freed. Default false. */
  zeroOnFree?: boolean | undefined;
  /** Remember where each object was allocated, for leakReport(). Default false. */
  trackAllocations?: boolean | undefined;
  /** Notice objects that are garbage-collected without having been released. Default true. */
  detectLeaks?: boolean | undefined;
}

/** Where the pool's memory comes from, and how it is divided up. */
export interface MixedOptions extends MixedPoolOptions {
  /** Name of the shared memory, with or without a leading slash; absent or null: private memory. */
  shmName?: string | null | undefined;
  /** When that name is taken; default "reclaim": replace what a dead owner left, else EEXIST. */
  ifExists?: IfExists | undefined;
  /** Default "auto": the GPU if there is one, else mlock, else not; see pinnedBy of the segment. */
  pin?: PinMode | undefined;
  gpuLibrary?: string | undefined;
  gpuDevice?: number | undefined;
  numa?: CreateOptions["numa"];
  /**
   * Default false. True: 2 MiB pages for private memory, which the system must have set aside; for
   * shared memory, which can have none, transparent huge pages. Or what exactly.
   */
  hugePages?: boolean | Exclude<PageMode, "default"> | undefined;
  populateThreads?: number | undefined;
}

const POOL_KEYS = ["align", "paging", "zeroOnFree", "trackAllocations", "detectLeaks"] as const;
const PAGING_KEYS = ["shapes", "dtypes", "format"] as const;
const SEGMENT_KEYS = [
  "shmName",
  "ifExists",
  "pin",
  "gpuLibrary",
  "gpuDevice",
  "numa",
  "hugePages",
  "populateThreads",
] as const;

/**
 * Tensors and BINARY go into the pool, BINARY_BUFFER into ordinary memory. Make one with create();
 * close() frees the pool.
 */
export class MixedMemoryAllocator implements MemoryAllocator, AsyncDisposable, Disposable {
  readonly segment: ShmSegment;
  /** Divides up the pool. */
  readonly pinAllocator: TensorMemoryAllocator | PagedTensorMemoryAllocator;
  /** Makes BINARY_BUFFER objects. */
  readonly bufferAllocator: BufferAllocator = new BufferAllocator();

  /** Over a segment that is there already, and that close() frees from now on. */
  constructor(segment: ShmSegment, options: MixedPoolOptions = {}) {
    checkKnownOptions("MixedMemoryAllocator", options, POOL_KEYS);
    this.segment = segment;
    this.pinAllocator = makePool(segment, options);
    finalize(this, "segment", "pinAllocator", "bufferAllocator");
  }

  /**
   * Makes the pool without blocking the event loop.
   * @param sizeBytes of the pool.
   * @throws {ShmError} ENOSPC, EEXIST and others as ShmSegment.create(); TypeError and RangeError for
   *   arguments. Nothing is left behind then.
   */
  static async create(
    sizeBytes: number,
    options: MixedOptions = {},
    hooks: OpenHooks = {},
  ): Promise<MixedMemoryAllocator> {
    const { segmentOptions, poolOptions } = splitOptions(sizeBytes, options);
    const segment = await ShmSegment.create(segmentOptions, hooks);
    try {
      return new MixedMemoryAllocator(segment, poolOptions);
    } catch (error) {
      await segment.free();
      throw error;
    }
  }

  /** create() that blocks: about 0.7 s a GiB and thread. */
  static createSync(sizeBytes: number, options: MixedOptions = {}): MixedMemoryAllocator {
    const { segmentOptions, poolOptions } = splitOptions(sizeBytes, options);
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
  get shmName(): string | null {
    return this.segment.name;
  }

  get closed(): boolean {
    return this.segment.closed;
  }

  allocate(
    shape: ShapeArgument,
    dtype?: DTypeArgument,
    format: MemoryFormat = MemoryFormat.KV_2LTD,
  ): MemoryObj | null {
    return this.allocateLayout(TensorLayout.of(shape, dtype, format));
  }

  allocateLayout(layout: TensorLayout): MemoryObj | null {
    return this.#allocatorFor(layout.format).allocateLayout(layout);
  }

  allocateOrThrow(
    shape: ShapeArgument,
    dtype?: DTypeArgument,
    format: MemoryFormat = MemoryFormat.KV_2LTD,
  ): MemoryObj {
    return this.#allocatorFor(format).allocateOrThrow(shape, dtype, format);
  }

  batchedAllocate(
    shape: ShapeArgument,
    dtype: DTypeArgument,
    batchSize: number,
    format: MemoryFormat = MemoryFormat.KV_2LTD,
  ): MemoryObj[] | null {
    return this.batchedAllocateLayout(TensorLayout.of(shape, dtype, format), batchSize);
  }

  batchedAllocateLayout(layout: TensorLayout, batchSize: number): MemoryObj[] | null {
    return this.#allocatorFor(layout.format).batchedAllocateLayout(layout, batchSize);
  }

  free(obj: MemoryObj): void {
    this.batchedFree([obj]);
  }

  batchedFree(objs: readonly MemoryObj[]): void {
    checkBatch(objs);
    for (const obj of objs) {
      if (obj.allocator !== this.pinAllocator && obj.allocator !== this.bufferAllocator) {
        throw foreignObject(obj);
      }
      obj.checkFreeable("free memory objects");
    }
    for (const obj of objs) obj.refCountDown();
  }

  /** Of the pool; ordinary memory is not waited for. */
  onFree(listener: () => void): () => void {
    return this.pinAllocator.onFree(listener);
  }

  /** Of the pool; bufferAllocator.stats() has the rest. */
  stats(): AllocatorStats {
    return this.pinAllocator.stats();
  }

  memcheck(): AllocatorStats {
    this.bufferAllocator.memcheck();
    return this.pinAllocator.memcheck();
  }

  /** Of the pool; bufferAllocator.leakReport() has the rest. */
  leakReport(): LeakReport {
    return this.pinAllocator.leakReport();
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

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

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
  options: MixedPoolOptions,
): TensorMemoryAllocator | PagedTensorMemoryAllocator {
  const { align: alignBytes, zeroOnFree, trackAllocations, detectLeaks, paging } = options;
  const common: PoolOptions = { alignBytes, zeroOnFree, trackAllocations, detectLeaks };
  return paging === undefined
    ? new TensorMemoryAllocator(segment, common)
    : new PagedTensorMemoryAllocator(segment, { ...paging, ...common });
}

/** What is for whom; checks the pool's part before any memory is taken. */
function splitOptions(
  sizeBytes: number,
  options: MixedOptions,
): { segmentOptions: CreateOptions; poolOptions: MixedPoolOptions } {
  // Under another name, because the assertion would make every option unknown.
  const given = options;
  checkKnownOptions("MixedMemoryAllocator.create", given, [...SEGMENT_KEYS, ...POOL_KEYS]);
  const { shmName, hugePages, ...others } = options;
  const { align, paging, zeroOnFree, trackAllocations, detectLeaks, ...rest } = others;
  checkAlign("align", align);
  checkFlag("zeroOnFree", zeroOnFree, false);
  checkFlag("trackAllocations", trackAllocations, false);
  checkFlag("detectLeaks", detectLeaks, true);
  if (paging !== undefined) {
    const page = paging;
    checkKnownOptions("paging", page, PAGING_KEYS);
    TensorLayout.of(paging.shapes, paging.dtypes, paging.format);
  }
  return {
    segmentOptions: {
      ...rest,
      sizeBytes: checkSize(sizeBytes),
      name: shmName,
      pages: pageMode(hugePages, shmName ?? null),
    },
    poolOptions: { align, paging, zeroOnFree, trackAllocations, detectLeaks },
  };
}

function pageMode(hugePages: MixedOptions["hugePages"], shmName: string | null): PageMode {
  if (hugePages === undefined || hugePages === false) return "default";
  if (hugePages === true) return shmName === null ? "2M" : "transparent";
  return checkChoice("hugePages", hugePages, ["transparent", "2M", "1G"], "transparent");
}
