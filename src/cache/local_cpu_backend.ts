// SPDX-License-Identifier: Apache-2.0
//
// The hot tier: objects of the pool by key, LMCache's LocalCPUBackend. It holds one reference to
// each of its objects; when memory is wanted and none is free, it lets go of those that the policy
// picks and nobody else uses. It is also where everybody allocates, because only it can make room.
//
// Who uses an object is known only by the object. So eviction asks it, and an object that was in
// use says when it is not any more: nothing here polls, and nothing is searched twice.
//
// One thread at a time. Only allocate(), batchedAllocate() and close() wait for anything.

import { ShmError } from "../errors.ts";
import { checkKnownOptions, describe } from "../arguments.ts";
import type { LmshmConfig } from "../config/config.ts";
import { callFenced } from "../fence.ts";
import type { AllocatorStats, MemoryAllocator } from "../memory/memory_allocator.ts";
import { TensorMemoryObj } from "../memory/memory_obj.ts";
import {
  MIXED_CREATE_OPTIONS,
  type MixedCreateOptions,
  MixedMemoryAllocator,
} from "../memory/mixed_allocator.ts";
import { OPEN_OPTIONS, type OpenOptions, type ShmSegment } from "../memory/segment.ts";
import { type LayoutArgument, TensorLayout } from "../memory/tensor_layout.ts";
import type { RefusalReason } from "./allocation_refusal.ts";
import {
  CacheEntry,
  type CachePolicy,
  type CachePolicyName,
  createCachePolicy,
  parseCachePolicy,
} from "./cache_policy.ts";
import {
  type AllocateOptions,
  EvictingAllocator,
  type TryAllocateOptions,
} from "./evicting_allocator.ts";
import type { Key } from "../keys/key.ts";
import { textOf } from "../keys/key_file.ts";

export type { AllocateOptions, CachePolicyName, RefusalReason, TryAllocateOptions };

/** What a LocalCpuBackend is made of. */
export interface LocalCpuBackendOptions {
  /** Where objects come from. It must outlive the backend, which does not close it. */
  allocator: MixedMemoryAllocator | MemoryAllocator<TensorMemoryObj>;
  /** Default "LRU". */
  cachePolicy?: CachePolicyName | string | undefined;
  /** False: keep nothing; only allocate. Default true. */
  hotTier?: boolean | undefined;
  /** How long allocate() waits unless it is told; default 10,000. */
  blockingTimeoutMs?: number | undefined;
}

/** What create() makes: an allocator with its memory, and the tier over it. */
export interface LocalCpuBackendCreateOptions
  extends MixedCreateOptions, Omit<LocalCpuBackendOptions, "allocator"> {}

const TIER_OPTIONS = ["cachePolicy", "hotTier", "blockingTimeoutMs"];
const OPTIONS = ["allocator", ...TIER_OPTIONS];

/**
 * Told of each eviction, before the reference is released. Whoever wants to keep the object takes a
 * reference of its own, and releases it later: memory that is kept so is waited for, so that a slow
 * listener does not empty the tier.
 */
export type EvictListener = (key: string, obj: TensorMemoryObj) => void;

/** Counted since the backend was made; sizes are those that the allocator set aside. */
export interface LocalCpuBackendStats {
  /** What decides which object is evicted. */
  readonly cachePolicy: CachePolicyName;
  /** Objects that it holds now. */
  readonly objects: number;
  /** Bytes of those. */
  readonly bytes: number;
  /** Gets that found their object. */
  readonly hits: number;
  /** Gets that did not. */
  readonly misses: number;
  /** Puts that changed something. */
  readonly puts: number;
  /** Puts of keys that were there, whether they replaced the object or left it. */
  readonly duplicatePuts: number;
  /** Objects that were evicted. */
  readonly evictions: number;
  /** Bytes of those. */
  readonly evictedBytes: number;
  /** By remove() and clear(). */
  readonly removals: number;
  /** Objects that were freed under the backend: somebody released a reference too many. */
  readonly lost: number;
  /** Requests for memory that wait now. */
  readonly waiting: number;
  /** Requests that had to wait. */
  readonly waits: number;
  /**
   * Requests for memory that found no room, also after the time that they were ready to wait. Those
   * that wait for nothing, as a loader's that can do without the pool, are among them.
   */
  readonly requestsWithoutRoom: number;
  /** Of the pool. */
  readonly allocator: AllocatorStats;
}

class HotEntry extends CacheEntry {
  readonly obj: TensorMemoryObj;
  /** Pins that were placed by key. */
  pins = 0;

  constructor(key: string, obj: TensorMemoryObj) {
    super(key, obj.physicalSizeBytes);
    this.obj = obj;
  }
}

/** Objects by key in the memory of one allocator; see the head of this file. */
export class LocalCpuBackend implements AsyncDisposable {
  /** As it was given, or made by create(). */
  readonly allocator: MixedMemoryAllocator | MemoryAllocator<TensorMemoryObj>;
  /** What decides which object is evicted. */
  readonly cachePolicy: CachePolicyName;
  /** False: it keeps nothing, and only allocates. */
  readonly hotTier: boolean;
  readonly #pool: MemoryAllocator<TensorMemoryObj>;
  readonly #policy: CachePolicy<HotEntry>;
  readonly #allocation: EvictingAllocator;
  readonly #entries = new Map<string, HotEntry>();
  /** An object under two keys would have two references, and never be evicted. */
  readonly #objects = new Set<TensorMemoryObj>();
  readonly #evictListeners = new Set<EvictListener>();
  #owned: MixedMemoryAllocator | null = null;
  #closing: Promise<void> | null = null;
  #bytes = 0;
  #hits = 0;
  #misses = 0;
  #puts = 0;
  #duplicatePuts = 0;
  #evictions = 0;
  #evictedBytes = 0;
  #removals = 0;
  #lost = 0;

  /** Over an allocator that is there already. @throws {TypeError | RangeError} for options. */
  constructor(options: LocalCpuBackendOptions) {
    checkKnownOptions("LocalCpuBackend", options, OPTIONS);
    const { allocator, cachePolicy = "LRU", hotTier = true, blockingTimeoutMs = 10_000 } = options;
    if (typeof allocator?.tryBatchedAllocate !== "function") {
      throw new TypeError(`allocator must be a memory allocator, got ${describe(allocator)}`);
    }
    if (typeof hotTier !== "boolean") {
      throw new TypeError(`hotTier must be true or false, got ${describe(hotTier)}`);
    }
    this.allocator = allocator;
    this.hotTier = hotTier;
    this.cachePolicy = parseCachePolicy(cachePolicy);
    this.#pool = allocator instanceof MixedMemoryAllocator ? allocator.pinAllocator : allocator;
    this.#policy = createCachePolicy(this.cachePolicy);
    this.#allocation = new EvictingAllocator(this.#pool, {
      enabled: hotTier,
      evictNext: () => this.#evictNext(),
      objects: () => this.#objects,
    }, blockingTimeoutMs);
  }

  /**
   * Makes a pool, and a tier over it that owns it: close() frees both. With a name the pool is shared
   * memory, without one it is private.
   * @throws {ShmError} as MixedMemoryAllocator.create(). Nothing is left behind then.
   */
  static async create(options: LocalCpuBackendCreateOptions): Promise<LocalCpuBackend> {
    const given: unknown = options;
    checkKnownOptions("LocalCpuBackend.create", given, [...TIER_OPTIONS, ...MIXED_CREATE_OPTIONS]);
    const { cachePolicy, hotTier, blockingTimeoutMs, ...pool } = options;
    const allocator = await MixedMemoryAllocator.create(pool);
    try {
      const tier = new LocalCpuBackend({ allocator, cachePolicy, hotTier, blockingTimeoutMs });
      tier.#owned = allocator;
      return tier;
    } catch (error) {
      await allocator.close();
      throw error;
    }
  }

  /** create() of what a configuration describes. */
  static async fromConfig(
    config: LmshmConfig,
    options: OpenOptions = {},
  ): Promise<LocalCpuBackend> {
    checkKnownOptions("LocalCpuBackend.fromConfig", options as unknown, OPEN_OPTIONS);
    return await LocalCpuBackend.create({ ...optionsOfTier(config), ...options });
  }

  /**
   * The segment of a pool that create() made, or of a MixedMemoryAllocator.
   * @throws {TypeError} for another allocator, which need not have one.
   */
  get segment(): ShmSegment {
    if (this.allocator instanceof MixedMemoryAllocator) return this.allocator.segment;
    throw new TypeError("the allocator of this hot tier has no segment of its own");
  }

  /** Objects that it holds. */
  get size(): number {
    return this.#entries.size;
  }

  /** True from the moment close() begins. */
  get closed(): boolean {
    return this.#closing !== null;
  }

  /**
   * Whether there is an object. It counts neither as a use nor as a hit. (pin() says the same, and
   * keeps it.)
   */
  exists(key: Key): boolean {
    return this.#find(key) !== null;
  }

  /**
   * How many of the leading keys have objects.
   * @param pin pins those, so that they stay until unpin().
   */
  batchedContains(keys: readonly Key[], { pin = false }: { pin?: boolean } = {}): number {
    const missing = keys.findIndex((key) => !(pin ? this.pin(key) : this.exists(key)));
    return missing < 0 ? keys.length : missing;
  }

  /**
   * The object, with a reference for the caller, who releases it with refCountDown() or `using`;
   * null on a miss. Until then it is not evicted.
   */
  get(key: Key): TensorMemoryObj | null {
    const entry = this.#find(key);
    if (entry === null) {
      this.#misses++;
      return null;
    }
    this.#hits++;
    this.#policy.onHit(entry);
    entry.obj.refCountUp();
    return entry.obj;
  }

  /**
   * get() of each key. The last one counts as used first, so that the beginning of a sequence of
   * chunks outlives its end, which is worth nothing without it.
   */
  batchedGet(keys: readonly Key[]): (TensorMemoryObj | null)[] {
    const found = keys.map((key) => this.#find(key));
    for (const entry of found) entry?.obj.refCountUp();
    for (const entry of found.toReversed()) {
      if (entry === null) {
        this.#misses++;
      } else {
        this.#hits++;
        this.#policy.onHit(entry);
      }
    }
    return found.map((entry) => entry?.obj ?? null);
  }

  /**
   * Keeps an object under a key, and takes a reference of its own to it; the caller keeps and
   * releases the one it has. Another object that the key has is replaced: whoever has a reference to
   * that one keeps it, pins of the key go over to the new one, and the policy takes it for a use.
   * @returns whether anything has changed: false for an object that the key has already, and without
   *   a hot tier.
   * @throws {TypeError} for an object of another allocator.
   * @throws {ShmError} EFREED for one that was freed, EEXIST for one that has another key.
   */
  put(key: Key, obj: TensorMemoryObj): boolean {
    const text = textOf(key);
    const found = this.#acceptable(text, obj);
    if (!this.hotTier) return false;
    if (found === null) {
      this.#add(text, obj);
      return true;
    }
    this.#duplicatePuts++;
    if (found.obj === obj) return false;
    this.#replace(found, obj);
    return true;
  }

  /**
   * put() that leaves what the key has, as LMCache's submit_put_task() does.
   * @returns whether it was stored: false for a key that is there, and without a hot tier.
   */
  submitPutTask(key: Key, obj: TensorMemoryObj): boolean {
    const text = textOf(key);
    const found = this.#acceptable(text, obj);
    if (!this.hotTier) return false;
    if (found === null) this.#add(text, obj);
    else this.#duplicatePuts++;
    return found === null;
  }

  /**
   * put() of each pair, the last one first; see batchedGet(). Of a key that is there twice, the last
   * object is kept.
   * @returns how many of the puts have changed anything.
   */
  batchedPut(keys: readonly Key[], objs: readonly TensorMemoryObj[]): number {
    if (keys.length !== objs.length) {
      throw new RangeError(`${keys.length} keys and ${objs.length} objects are no pairs`);
    }
    const done = new Set<string>();
    let stored = 0;
    for (let i = keys.length - 1; i >= 0; i--) {
      const text = textOf(keys[i]!);
      if (done.has(text)) continue;
      done.add(text);
      if (this.put(text, objs[i]!)) stored++;
    }
    return stored;
  }

  /** Throws what put() would. @internal */
  checkPut(key: Key, obj: TensorMemoryObj): void {
    this.#acceptable(textOf(key), obj);
  }

  /**
   * Keeps the object until unpin(), once for each pin, or the one that replaces it meanwhile.
   * @returns whether there is one.
   */
  pin(key: Key): boolean {
    const entry = this.#find(key);
    if (entry === null) return false;
    entry.obj.pin();
    entry.pins++;
    return true;
  }

  /** Ends one pin() of the key. @returns whether there was one. */
  unpin(key: Key): boolean {
    const entry = this.#find(key);
    if (entry === null || entry.pins === 0) return false;
    entry.pins--;
    entry.obj.unpin();
    return true;
  }

  /**
   * Lets go of the object, and of the pins that the key has; who has a reference keeps it.
   * @param force false: only if nobody uses it. Default true.
   * @returns whether it was there and is gone.
   */
  remove(key: Key, { force = true }: { force?: boolean } = {}): boolean {
    const entry = this.#find(key);
    if (entry === null || !(force || entry.obj.canEvict)) return false;
    this.#removals++;
    this.#drop(entry);
    return true;
  }

  /** remove() of each key. @returns how many are gone. */
  batchedRemove(keys: readonly Key[], options: { force?: boolean } = {}): number {
    return keys.reduce((count, key) => count + (this.remove(key, options) ? 1 : 0), 0);
  }

  /** Removes what nobody uses. Tells no listener. @returns how many objects that were. */
  clear(): number {
    return this.batchedRemove(this.getKeys(), { force: false });
  }

  /** All keys, those first that were put first. */
  getKeys(): string[] {
    this.#mustBeOpen("list hot tier");
    return [...this.#entries.keys()];
  }

  /**
   * An object with one reference, which is the caller's. When none fits, not even after evicting
   * what nobody uses, it waits until others release memory, behind those who wait already.
   * @throws {ShmError} ETIMEDOUT when that takes longer than timeoutMs; ENOSPC at once when it can
   *   never fit, or with timeoutMs 0; both with details.reason, a RefusalReason. ECANCELED when the
   *   backend is closed, EBADF when it was closed before; the signal's reason.
   * @throws {TypeError | RangeError} for arguments, and for an object larger than a page.
   */
  async allocate(layout: LayoutArgument, options: AllocateOptions = {}): Promise<TensorMemoryObj> {
    return (await this.batchedAllocate(layout, 1, options))[0]!;
  }

  /** allocate() that gives null instead of waiting. */
  tryAllocate(layout: LayoutArgument, options: TryAllocateOptions = {}): TensorMemoryObj | null {
    return this.tryBatchedAllocate(layout, 1, options)?.[0] ?? null;
  }

  /**
   * allocate() of `count` objects that look alike: all of them or none. What was evicted for a part
   * of them is gone all the same.
   */
  async batchedAllocate(
    layout: LayoutArgument,
    count: number,
    options: AllocateOptions = {},
  ): Promise<TensorMemoryObj[]> {
    this.#mustBeOpen("allocate");
    return await this.#allocation.allocate(TensorLayout.of(layout), count, options);
  }

  /** batchedAllocate() that gives null instead of waiting. */
  tryBatchedAllocate(
    layout: LayoutArgument,
    count: number,
    options: TryAllocateOptions = {},
  ): TensorMemoryObj[] | null {
    this.#mustBeOpen("allocate");
    return this.#allocation.tryAllocate(TensorLayout.of(layout), count, options);
  }

  /**
   * Calls `listener` for each eviction, not for remove() and clear(). What it throws becomes a
   * warning: the call that evicts may be anybody's.
   * @returns what ends that.
   */
  onEvict(listener: EvictListener): () => void {
    const own: EvictListener = (key, obj) => listener(key, obj);
    this.#evictListeners.add(own);
    return () => void this.#evictListeners.delete(own);
  }

  /** What it holds, and what was counted. */
  get stats(): LocalCpuBackendStats {
    return {
      cachePolicy: this.cachePolicy,
      objects: this.#entries.size,
      bytes: this.#bytes,
      hits: this.#hits,
      misses: this.#misses,
      puts: this.#puts,
      duplicatePuts: this.#duplicatePuts,
      evictions: this.#evictions,
      evictedBytes: this.#evictedBytes,
      removals: this.#removals,
      lost: this.#lost,
      waiting: this.#allocation.waiting,
      waits: this.#allocation.waits,
      requestsWithoutRoom: this.#allocation.requestsWithoutRoom,
      allocator: this.#pool.stats,
    };
  }

  /**
   * Proves that the books of the tier and of the allocator add up.
   * @throws {ShmError} ECORRUPT, naming the fault.
   */
  memcheck(): LocalCpuBackendStats {
    this.#mustBeOpen("check hot tier");
    const fault = this.#findFault();
    if (fault !== null) {
      throw new ShmError(fault, {
        code: "ECORRUPT",
        operation: "check hot tier",
        hint: "Somebody released a reference that was not theirs, or this is a bug in lmshm",
        details: { ...this.stats },
      });
    }
    this.#pool.memcheck();
    return this.stats;
  }

  /**
   * Lets go of all objects and pins of keys, and of the pool if create() made it; whoever waits for
   * memory gets ECANCELED. Idempotent.
   * @throws {ShmError} EBUSY while I/O is in flight in a pool of its own; nothing has happened then.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close().catch((error) => {
      this.#closing = null;
      throw error;
    });
    return this.#closing;
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    if (this.#owned !== null) await this.#owned.close();
    this.#allocation.close();
    for (const entry of [...this.#entries.values()]) this.#drop(entry);
  }

  /** What the key has. @throws unless the object can be kept under it. */
  #acceptable(key: string, obj: TensorMemoryObj): HotEntry | null {
    this.#mustBeOpen("put into hot tier");
    this.#mustBeOurs(obj);
    const found = this.#find(key);
    if (!obj.valid) obj.refCountUp(); // EFREED
    if (this.#objects.has(obj) && found?.obj !== obj) {
      throw new ShmError(`${obj} has another key already`, {
        code: "EEXIST",
        operation: "put into hot tier",
        hint: "Put one object under one key; copy it for a second one",
        details: { key },
      });
    }
    return found;
  }

  #add(key: string, obj: TensorMemoryObj): void {
    const entry = new HotEntry(key, obj);
    this.#policy.onPut(entry);
    this.#enter(entry);
  }

  #replace(old: HotEntry, obj: TensorMemoryObj): void {
    const entry = new HotEntry(old.key, obj);
    for (; entry.pins < old.pins; entry.pins++) obj.pin();
    this.#policy.onReplace(old, entry);
    this.#forget(old);
    this.#enter(entry);
    this.#letGo(old);
  }

  #enter(entry: HotEntry): void {
    entry.obj.refCountUp();
    this.#entries.set(entry.key, entry);
    this.#objects.add(entry.obj);
    this.#bytes += entry.sizeBytes;
    this.#puts++;
    // The caller may release it at once, and it has not promised to tell anybody of that.
    this.#allocation.wake();
  }

  /** Null on a miss. An object that was freed under us is forgotten, and a miss. */
  #find(key: Key): HotEntry | null {
    this.#mustBeOpen("look into hot tier");
    const entry = this.#entries.get(textOf(key));
    if (entry === undefined) return null;
    if (entry.obj.valid) return entry;
    this.#policy.onRemove(entry);
    this.#forget(entry);
    this.#lost++;
    return null;
  }

  /** Lets go of an object, and of the pins that its key has. */
  #drop(entry: HotEntry): void {
    this.#policy.onRemove(entry);
    this.#forget(entry);
    this.#letGo(entry);
  }

  #letGo(entry: HotEntry): void {
    // Whoever ended a pin of ours through the object has left none to end.
    for (; entry.pins > 0 && entry.obj.isPinned; entry.pins--) entry.obj.unpin();
    release(entry.obj);
  }

  #forget(entry: HotEntry): void {
    this.#entries.delete(entry.key);
    this.#objects.delete(entry.obj);
    this.#bytes -= entry.sizeBytes;
  }

  /** For the policy: it passes over an object in use, which tells when it is not any more. */
  readonly #canEvict = (entry: HotEntry): boolean => {
    const { obj } = entry;
    if (obj.canEvict || !obj.valid) return true;
    obj.onceIdle(() => {
      if (this.#entries.get(entry.key) !== entry) return;
      this.#policy.readmit(entry);
      this.#allocation.wake();
    });
    return false;
  };

  #evictNext(): TensorMemoryObj | null {
    const entry = this.#policy.evict(this.#canEvict);
    if (entry === null) return null;
    const { key, obj } = entry;
    this.#forget(entry);
    if (!obj.valid) {
      this.#lost++;
      return obj;
    }
    this.#evictions++;
    this.#evictedBytes += entry.sizeBytes;
    for (const listener of this.#evictListeners) {
      callFenced("a listener of onEvict()", listener, key, obj);
    }
    release(obj);
    return obj;
  }

  #findFault(): string | null {
    if (this.#policy.size !== this.#entries.size || this.#objects.size !== this.#entries.size) {
      return `${this.#entries.size} keys, ${this.#objects.size} objects and ${this.#policy.size} ` +
        "entries of the policy";
    }
    let bytes = 0;
    for (const [key, entry] of this.#entries) {
      const { obj } = entry;
      if (key !== entry.key) return `${JSON.stringify(key)} has the entry of another key`;
      if (!obj.valid) return `${JSON.stringify(key)}: ${obj} was freed under the hot tier`;
      if (obj.pinCount < entry.pins) return `${JSON.stringify(key)}: ${obj} has lost pins`;
      bytes += obj.physicalSizeBytes;
    }
    return bytes === this.#bytes ? null : `${bytes} bytes counted, ${this.#bytes} in the books`;
  }

  #mustBeOpen(operation: string): void {
    if (this.#closing === null) return;
    throw new ShmError("the hot tier is closed", { code: "EBADF", operation });
  }

  #mustBeOurs(obj: unknown): asserts obj is TensorMemoryObj {
    if (!(obj instanceof TensorMemoryObj)) {
      throw new TypeError(`the hot tier keeps memory objects of its pool, got ${describe(obj)}`);
    }
    if (obj.allocator !== this.#pool) {
      throw new TypeError(
        `${obj} is another allocator's; evicting it would not make room in this one`,
      );
    }
  }
}

/** The part of a configuration that concerns a hot tier. */
export function optionsOfTier(config: LmshmConfig): LocalCpuBackendCreateOptions {
  const { ifExists, pin, gpuLibrary, gpuDevice, pages, numa, populateThreads } = config;
  const { alignBytes, zeroOnFree, trackAllocations } = config;
  const { cachePolicy, hotTier, blockingTimeoutMs } = config;
  if (config.poolSizeBytes === 0) {
    throw new ShmError("the configuration has no pool: max_local_cpu_size is 0", {
      code: "EINVAL",
      operation: "create hot tier",
      hint:
        "Objects are moved from and to it, so give it a size here: LMCACHE_MAX_LOCAL_CPU_SIZE, " +
        "or poolSizeBytes in the overrides of loadConfig()",
    });
  }
  return {
    sizeBytes: config.poolSizeBytes,
    name: config.shmName,
    ifExists,
    pin,
    gpuLibrary: gpuLibrary ?? undefined,
    gpuDevice: gpuDevice ?? undefined,
    pages,
    numa: numa ?? undefined,
    populateThreads,
    alignBytes,
    zeroOnFree,
    trackAllocations,
    cachePolicy,
    hotTier,
    blockingTimeoutMs,
  };
}

/**
 * Gives up one reference, if need be when the I/O is over that goes on without one of its own. Nothing
 * is left to give up where somebody released too often.
 */
export function release(obj: TensorMemoryObj): void {
  if (!obj.valid || obj.refCount === 0) return;
  if (obj.refCount === 1 && obj.inFlight > 0) obj.onceIdle(() => release(obj));
  else obj.refCountDown();
}
