// SPDX-License-Identifier: Apache-2.0
//
// Allocating from a pool that a cache fills: takes what is free, else lets the cache evict until it
// fits, else waits or says why it cannot. It knows the pool, and of the cache only that it can evict
// one object more.

import { ShmError } from "../errors.ts";
import { checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import type { MemoryAllocator } from "../memory/memory_allocator.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import type { TensorLayout } from "../memory/tensor_layout.ts";
import { AllocationQueue } from "./allocation_queue.ts";
import { checkSignal, MAX_TIMER_MS } from "../wait.ts";
import { refusal } from "./allocation_refusal.ts";

/** What tryAllocate() may do to make room. */
export interface TryAllocateOptions {
  /** Make room by evicting; default true. */
  evict?: boolean | undefined;
}

/** How allocate() makes room, and how long it waits for some. */
export interface AllocateOptions extends TryAllocateOptions {
  /** 0: do not wait. Default: the backend's blockingTimeoutMs. */
  timeoutMs?: number | undefined;
  /** Ends the waiting with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** The cache, as its allocator sees it. */
interface Evictable {
  /** False: there is nothing to evict, ever. */
  readonly enabled: boolean;
  /** Evicts one object, and returns it; null when all are in use. It may be kept by others still. */
  evictNext(): TensorMemoryObj | null;
  /** All cached objects. */
  objects(): Iterable<TensorMemoryObj>;
}

/** What somebody wants allocated. */
interface Request {
  readonly layout: TensorLayout;
  readonly count: number;
  readonly evict: boolean;
  /** Evicted for it, and still kept by others. */
  retained: TensorMemoryObj[];
}

export class EvictingAllocator {
  readonly #pool: MemoryAllocator<TensorMemoryObj>;
  readonly #cache: Evictable;
  readonly #blockingTimeoutMs: number;
  readonly #queue = new AllocationQueue<TensorMemoryObj[]>();
  readonly #stopListening: () => void;
  #waits = 0;
  #refusals = 0;

  constructor(
    pool: MemoryAllocator<TensorMemoryObj>,
    cache: Evictable,
    blockingTimeoutMs: number,
  ) {
    this.#pool = pool;
    this.#cache = cache;
    this.#blockingTimeoutMs = checkInteger("blockingTimeoutMs", blockingTimeoutMs, 1, MAX_TIMER_MS);
    this.#stopListening = pool.onFree(() => this.#queue.wake());
  }

  /** Requests that wait now. */
  get waiting(): number {
    return this.#queue.size;
  }

  /** Requests that had to wait. */
  get waits(): number {
    return this.#waits;
  }

  /** Requests that failed, timeouts included. */
  get refusals(): number {
    return this.#refusals;
  }

  /** `count` objects, each with a reference for the caller, or null. */
  tryAllocate(
    layout: TensorLayout,
    count: number,
    options: TryAllocateOptions,
  ): TensorMemoryObj[] | null {
    const objs = this.#attempt(this.#request(layout, count, options));
    if (objs === null) this.#refusals++;
    return objs;
  }

  /** tryAllocate() that waits; see LocalCpuBackend.allocate(). */
  async allocate(
    layout: TensorLayout,
    count: number,
    options: AllocateOptions,
  ): Promise<TensorMemoryObj[]> {
    checkKnownOptions("allocate", options as unknown, ["signal", "timeoutMs", "evict"]);
    const { timeoutMs = this.#blockingTimeoutMs, signal, ...rest } = options;
    checkInteger("timeoutMs", timeoutMs, 0, MAX_TIMER_MS);
    const request = this.#request(layout, count, rest);
    checkSignal(signal);
    const objs = this.#queue.size === 0 || timeoutMs === 0 ? this.#attempt(request) : null;
    if (objs !== null) return objs;
    if (timeoutMs === 0 || !this.#canEverFit(request)) {
      this.#refusals++;
      throw this.#refusal(request, null);
    }
    this.#waits++;
    return await this.#queue.wait(() => this.#attempt(request), {
      limitMs: timeoutMs,
      signal,
      expired: () => {
        this.#refusals++;
        return this.#refusal(request, timeoutMs);
      },
    });
  }

  /** More may fit now, for another reason than freed memory. */
  wake(): void {
    this.#queue.wake();
  }

  /** Ends all waiting with ECANCELED. */
  close(): void {
    this.#stopListening();
    this.#queue.rejectAll(
      new ShmError("the hot tier was closed", { code: "ECANCELED", operation: "allocate" }),
    );
  }

  #request(layout: TensorLayout, count: number, options: TryAllocateOptions): Request {
    checkKnownOptions("tryAllocate", options as unknown, ["evict"]);
    const { evict = true } = options;
    if (typeof evict !== "boolean") {
      throw new TypeError(`evict must be true or false, got ${describe(evict)}`);
    }
    checkInteger("count", count, 1);
    return { layout, count, evict: evict && this.#cache.enabled, retained: [] };
  }

  /** Evicts one object after the other until the request fits or no more can be evicted. */
  #attempt(request: Request): TensorMemoryObj[] | null {
    const objs = this.#take(request);
    if (objs !== null || !request.evict || !this.#canEverFit(request)) return objs;
    // What others keep comes free without further evictions.
    request.retained = request.retained.filter((obj) => obj.valid);
    let retainedBytes = sizeOf(request.retained);
    while (retainedBytes < wantedBytes(request)) {
      const evicted = this.#cache.evictNext();
      if (evicted === null) return null;
      if (evicted.valid) {
        request.retained.push(evicted);
        retainedBytes += evicted.physicalSizeBytes;
      } else if (this.#mayFit(request)) {
        const fitting = this.#take(request);
        if (fitting !== null) return fitting;
      }
    }
    return null;
  }

  #take({ layout, count }: Request): TensorMemoryObj[] | null {
    if (count > 1) return this.#pool.tryBatchedAllocate(layout, count);
    const obj = this.#pool.tryAllocate(layout);
    return obj === null ? null : [obj];
  }

  /** Cheaper than to try, and right about a single object. */
  #mayFit(request: Request): boolean {
    const { freeBytes, largestFreeBytes } = this.#pool.stats;
    return freeBytes >= wantedBytes(request) && largestFreeBytes >= request.layout.byteLength;
  }

  #canEverFit(request: Request): boolean {
    const { totalBytes, quarantinedBytes } = this.#pool.stats;
    return wantedBytes(request) <= totalBytes - quarantinedBytes;
  }

  #refusal(request: Request, waitedMs: number | null): ShmError {
    const { layout, count, evict, retained } = request;
    return refusal({
      layout,
      count,
      evict,
      retainedBytes: sizeOf(retained.filter((obj) => obj.valid)),
      stats: this.#pool.stats,
      cached: this.#cache.objects(),
      waitedMs,
      waiting: this.#queue.size,
    });
  }
}

function wantedBytes({ layout, count }: Request): number {
  return layout.byteLength * count;
}

function sizeOf(objs: readonly TensorMemoryObj[]): number {
  return objs.reduce((bytes, obj) => bytes + obj.physicalSizeBytes, 0);
}
