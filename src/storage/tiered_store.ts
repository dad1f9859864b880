// SPDX-License-Identifier: Apache-2.0
//
// Two tiers as one store: the pool in front, a connector behind. What is got is in the pool
// afterwards; what is put is in the pool at once, and in the store before put() returns ("through")
// or soon after ("behind").
//
// An object never changes under its key, so what is in the pool is right without asking the store.
// The bytes move between store and pool directly; every object that is on its way has a reference
// of the store's own, and is held while I/O uses its memory.
//
// One thread at a time. It owns neither tier: close it before them.

import { checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";
import type { MemoryFormat } from "../memory/memory_format.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import { type DTypeArgument, type ShapeArgument, TensorLayout } from "../memory/tensor_layout.ts";
import { settlesWithin } from "../worker/transport.ts";
import type { Key } from "./key.ts";
import { type LocalCpuBackend, type LocalCpuBackendStats, release } from "./local_cpu_backend.ts";
import type { CallOptions, ConnectorStats, RemoteConnector } from "./remote_connector.ts";
import { type Load, SharedLoads } from "./shared_loads.ts";
import { WriteQueue } from "./write_queue.ts";

/** Whether put() returns when the store has the object, or when it is queued for it. */
export type WriteMode = "through" | "behind";

export interface TieredStoreOptions {
  /** The pool; its objects must be in the segment of `cold`. */
  hot: LocalCpuBackend;
  /** The store behind it. */
  cold: RemoteConnector;
  /** For puts that say nothing else; default "through". */
  writeMode?: WriteMode | undefined;
  /** Objects that are queued or being written; default 1024. A put behind waits for room. */
  maxQueuedObjects?: number | undefined;
  /** Bytes of those; default 256 MiB. A larger object goes alone. */
  maxQueuedBytes?: number | undefined;
  /** Queued objects that are written at a time; default 16. */
  writeConcurrency?: number | undefined;
  /** Objects that prefetch() loads at a time; default 16. */
  prefetchConcurrency?: number | undefined;
  /** How long a put behind waits for room unless it is told; default 60 s. */
  queueTimeoutMs?: number | undefined;
  /** How long close() waits for what is queued and loading; default 60 s. */
  closeTimeoutMs?: number | undefined;
  /** Each object that was accepted behind and not stored; flush() and close() say so, too. */
  onError?: ((error: unknown, key: string) => void) | undefined;
}

export interface PutOptions extends CallOptions {
  mode?: WriteMode | undefined;
}

/**
 * What a full chunk looks like: a layout, its parts, or a number of bytes (BINARY). An object in
 * the store may have fewer tokens, or bytes.
 */
export type ChunkLayout =
  | TensorLayout
  | number
  | { shape: ShapeArgument; dtype?: DTypeArgument; format?: MemoryFormat | undefined };

/** Counted since the store was made. */
export interface TieredStoreStats {
  /** Gets that found the object in the pool, or queued for the store. */
  readonly hotHits: number;
  /** Gets that found it in the store. */
  readonly coldHits: number;
  /** Gets that found none, mismatches included. */
  readonly misses: number;
  /** Objects that were found and cannot have the layout that was asked for. */
  readonly mismatches: number;
  /** Objects that were asked of the store. */
  readonly loads: number;
  /** Gets that waited for the load of another one. */
  readonly sharedLoads: number;
  /** Loads that go on now. */
  readonly loading: number;
  /** Objects queued or being written behind, and their bytes. */
  readonly queuedObjects: number;
  readonly queuedBytes: number;
  /** Puts that wait for room in the queue now, and that ever had to. */
  readonly waitingPuts: number;
  readonly putWaits: number;
  /** Objects that were written behind. */
  readonly written: number;
  /** Queued objects that a newer one of the same key replaced. */
  readonly replaced: number;
  /** Objects that were accepted behind and not stored. */
  readonly writeErrors: number;
  readonly hot: LocalCpuBackendStats;
  readonly cold: ConnectorStats;
}

const OPTIONS = [
  "hot",
  "cold",
  "writeMode",
  "maxQueuedObjects",
  "maxQueuedBytes",
  "writeConcurrency",
  "prefetchConcurrency",
  "queueTimeoutMs",
  "closeTimeoutMs",
  "onError",
];
const MAX_TIMER_MS = 0x7fff_ffff;

/** See the file's head. */
export class TieredStore implements AsyncDisposable {
  readonly hot: LocalCpuBackend;
  readonly cold: RemoteConnector;
  readonly writeMode: WriteMode;
  readonly #loads: SharedLoads;
  readonly #queue: WriteQueue;
  readonly #prefetchConcurrency: number;
  readonly #queueTimeoutMs: number;
  readonly #closeTimeoutMs: number;
  /** Puts through that go on now. */
  readonly #writing = new Set<Promise<void>>();
  #closing: Promise<void> | null = null;
  #hotHits = 0;
  #coldHits = 0;
  #misses = 0;
  #mismatches = 0;

  /** @throws {TypeError | RangeError} naming the option at fault. */
  constructor(options: TieredStoreOptions) {
    checkKnownOptions("TieredStore", options, OPTIONS);
    const { hot, cold, onError } = options;
    if (typeof hot?.allocateLayoutAsync !== "function") {
      throw new TypeError(`hot must be a LocalCpuBackend, got ${describe(hot)}`);
    }
    if (typeof cold?.batchedContains !== "function") {
      throw new TypeError(`cold must be a connector, got ${describe(cold)}`);
    }
    if (onError !== undefined && typeof onError !== "function") {
      throw new TypeError(`onError must be a function, got ${describe(onError)}`);
    }
    const integer = (
      name: Exclude<keyof TieredStoreOptions, "hot" | "cold" | "writeMode" | "onError">,
      fallback: number,
      max?: number,
    ) => checkInteger(name, options[name] ?? fallback, 1, max);
    this.hot = hot;
    this.cold = cold;
    this.writeMode = checkMode("writeMode", options.writeMode ?? "through");
    this.#prefetchConcurrency = integer("prefetchConcurrency", 16);
    this.#queueTimeoutMs = integer("queueTimeoutMs", 60_000, MAX_TIMER_MS);
    this.#closeTimeoutMs = integer("closeTimeoutMs", 60_000, MAX_TIMER_MS);
    this.#loads = new SharedLoads((load) => this.#fetch(load));
    this.#queue = new WriteQueue({
      write: (key, obj) => cold.put(key, obj),
      maxObjects: integer("maxQueuedObjects", 1024),
      maxBytes: integer("maxQueuedBytes", 256 * 2 ** 20),
      concurrency: integer("writeConcurrency", 16),
      onError,
    });
  }

  /**
   * The object, from the pool or else from the store, with a reference for the caller, who releases
   * it with refCountDown() or `using`; null on a miss. Concurrent calls for one key load it once.
   * @param chunk what a full one looks like. A partial one comes with its true number of tokens; an
   *   object that cannot look so is a miss that is counted (mismatches).
   * @throws {ShmError} ENOSPC and ETIMEDOUT when the pool has no room for it, what the connector
   *   throws, EBADF after close(); the signal's reason.
   */
  async get(
    key: Key,
    chunk: ChunkLayout,
    options: CallOptions = {},
  ): Promise<TensorMemoryObj | null> {
    this.#mustBeOpen("get");
    const text = keyText(key);
    const layout = layoutOf(chunk);
    options.signal?.throwIfAborted();
    return this.#nearby(text, layout, this.hot.get(text)) ??
      await this.#distant(text, layout, options);
  }

  /**
   * get() of each key: the object or null for each, in their order.
   * @param chunks one layout for all, or one for each.
   * @throws the first error, after all have ended; no references are left with the caller then.
   */
  async batchedGet(
    keys: readonly Key[],
    chunks: ChunkLayout | readonly ChunkLayout[],
    options: CallOptions = {},
  ): Promise<(TensorMemoryObj | null)[]> {
    this.#mustBeOpen("batchedGet");
    const texts = keys.map(keyText);
    const layouts = layoutsOf(chunks, keys.length);
    options.signal?.throwIfAborted();
    const found = this.hot.batchedGet(texts).map((obj, i) =>
      this.#nearby(texts[i]!, layouts[i]!, obj)
    );
    const ended = await Promise.allSettled(
      found.map((obj, i) => obj ?? this.#distant(texts[i]!, layouts[i]!, options)),
    );
    const failed = ended.find((one) => one.status === "rejected");
    if (failed === undefined) {
      return ended.map((one) => one.status === "fulfilled" ? one.value : null);
    }
    for (const one of ended) if (one.status === "fulfilled" && one.value) release(one.value);
    throw failed.reason;
  }

  /**
   * Keeps the object in the pool and stores it. The caller keeps the reference it has, and may
   * release it at once; the bytes must not change any more.
   *
   * "through": resolves when the store has it. "behind": resolves when it is queued, which waits
   * while the queue is full; what becomes of it then is told by onError, flush() and close().
   * @throws {TypeError} for an object of another pool.
   * @throws {ShmError} what the connector throws, when it stays in the pool all the same; ETIMEDOUT
   *   when the queue stays full, and it was not queued; EBADF after close(); the signal's reason.
   */
  async put(key: Key, obj: TensorMemoryObj, options: PutOptions = {}): Promise<void> {
    this.#mustBeOpen("put");
    const { mode = this.writeMode, ...call } = options;
    checkMode("mode", mode);
    const text = keyText(key);
    call.signal?.throwIfAborted();
    this.hot.put(text, obj);
    if (mode === "behind") {
      const timeoutMs = Math.min(call.timeoutMs ?? this.#queueTimeoutMs, MAX_TIMER_MS);
      checkInteger("timeoutMs", timeoutMs, 1);
      await this.#queue.add(text, obj, timeoutMs, call.signal);
      return;
    }
    const writing = this.#writeThrough(text, obj, call).finally(() =>
      this.#writing.delete(writing)
    );
    this.#writing.add(writing);
    await writing;
  }

  /** Whether get() would find an object, whatever its layout. */
  async contains(key: Key, options: CallOptions = {}): Promise<boolean> {
    this.#mustBeOpen("contains");
    return this.#isNear(keyText(key)) || await this.cold.exists(key, options);
  }

  /** How many of the leading keys are there: the length of the prefix that can be got. */
  async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    this.#mustBeOpen("batchedContains");
    const distant = [...keys.keys()].filter((i) => !this.#isNear(keyText(keys[i]!)));
    const found = await this.cold.batchedContains(distant.map((i) => keys[i]!), options);
    return distant[found] ?? keys.length;
  }

  /**
   * Loads into the pool what is not there, a bounded number at a time.
   * @param chunks one layout for all, or one for each.
   * @returns how many of the keys were found, in the pool or in the store. More than the pool holds
   *   displaces what came first.
   * @throws the first error, once nothing that it began goes on; it begins no more then.
   */
  async prefetch(
    keys: readonly Key[],
    chunks: ChunkLayout | readonly ChunkLayout[],
    options: CallOptions = {},
  ): Promise<number> {
    this.#mustBeOpen("prefetch");
    const texts = keys.map(keyText);
    const layouts = layoutsOf(chunks, keys.length);
    const failures: unknown[] = [];
    let next = 0;
    let found = 0;
    const loadSome = async () => {
      while (next < texts.length && failures.length === 0) {
        const i = next++;
        try {
          options.signal?.throwIfAborted();
          if (this.#isNear(texts[i]!)) {
            found++;
            continue;
          }
          const obj = await this.#loads.get(texts[i]!, layouts[i]!, options);
          if (obj === null) continue;
          found++;
          release(obj);
        } catch (error) {
          failures.push(error);
        }
      }
    };
    const count = Math.min(this.#prefetchConcurrency, texts.length);
    await Promise.all(Array.from({ length: count }, loadSome));
    if (failures.length > 0) throw failures[0];
    return found;
  }

  /**
   * Removes the object from pool, queue and store. Who has a reference keeps it.
   * @returns whether it was anywhere.
   */
  async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    this.#mustBeOpen("remove");
    const text = keyText(key);
    this.#loads.discard(text);
    const wasHot = this.hot.remove(text);
    const wasQueued = await this.#queue.cancel(text);
    const wasCold = await this.cold.remove(text, options);
    return wasHot || wasQueued || wasCold;
  }

  /**
   * Resolves when all that was accepted behind until now is stored.
   * @throws {ShmError} with what was not, since the last report: the first one's code, and
   *   details.keys; the signal's reason, and ETIMEDOUT, while the writing goes on.
   */
  async flush(options: CallOptions = {}): Promise<void> {
    this.#mustBeOpen("flush");
    await within(this.#queue.settled(), "flush", options);
    this.#queue.throwFailures("flush");
  }

  get stats(): TieredStoreStats {
    const { written, replaced, errors, waits } = this.#queue.counts;
    return {
      hotHits: this.#hotHits,
      coldHits: this.#coldHits,
      misses: this.#misses,
      mismatches: this.#mismatches,
      loads: this.#loads.started,
      sharedLoads: this.#loads.shared,
      loading: this.#loads.running,
      queuedObjects: this.#queue.size,
      queuedBytes: this.#queue.bytes,
      waitingPuts: this.#queue.waiting,
      putWaits: waits,
      written,
      replaced,
      writeErrors: errors,
      hot: this.hot.stats(),
      cold: this.cold.stats,
    };
  }

  /**
   * Finishes what was begun, within closeTimeoutMs: loads, puts, and everything that is queued. The
   * tiers stay open. Idempotent: each call gives the same result.
   * @throws {ShmError} with what was accepted behind and not stored, and not reported by flush().
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const end = performance.now() + this.#closeTimeoutMs;
    const leftMs = () => Math.max(1, end - performance.now());
    await this.#queue.close(leftMs());
    await settlesWithin(Promise.allSettled(this.#writing), leftMs());
    await settlesWithin(this.#loads.settled(), leftMs());
    this.#queue.throwFailures("close");
  }

  #isNear(key: string): boolean {
    return this.hot.contains(key) || this.#queue.find(key) !== null;
  }

  /** @param hot what the pool has, with a reference that is passed on. Null: ask the store. */
  #nearby(
    key: string,
    layout: TensorLayout,
    hot: TensorMemoryObj | null,
  ): TensorMemoryObj | null {
    let obj = hot;
    if (obj === null) {
      obj = this.#queue.find(key);
      obj?.refCountUp();
    }
    if (obj === null) return null;
    if (!matches(obj.layout, layout)) {
      // The store has the same; it is not asked, but #distant() says so.
      release(obj);
      return null;
    }
    this.#hotHits++;
    return obj;
  }

  async #distant(
    key: string,
    layout: TensorLayout,
    options: CallOptions,
  ): Promise<TensorMemoryObj | null> {
    if (this.#isNear(key)) {
      this.#mismatches++;
      this.#misses++;
      return null;
    }
    const obj = await this.#loads.get(key, layout, options);
    if (obj === null) {
      this.#misses++;
      return null;
    }
    if (matches(obj.layout, layout)) {
      this.#coldHits++;
      return obj;
    }
    release(obj);
    this.#mismatches++;
    this.#misses++;
    return null;
  }

  /** Loads an object into the pool; with one reference, or null. */
  async #fetch(load: Load): Promise<TensorMemoryObj | null> {
    const { key, layout } = load;
    let obj = this.hot.allocateLayout(layout, { evict: false });
    if (obj === null) {
      // Nothing is evicted for an object that does not exist.
      if (!await this.cold.exists(key)) return null;
      obj = await this.hot.allocateLayoutAsync(layout);
    }
    let keep = false;
    try {
      if (!await this.#fill(key, obj)) return null;
      if (!load.stale && !this.hot.closed) this.hot.put(key, obj);
      keep = true;
      return obj;
    } finally {
      if (!keep) release(obj);
    }
  }

  /** False: there is no object, or none that can look so. */
  async #fill(key: string, obj: TensorMemoryObj): Promise<boolean> {
    let byteLength: number;
    try {
      const found = await this.cold.get(key, obj);
      if (found === null) return false;
      byteLength = found.byteLength;
    } catch (error) {
      if (!(error instanceof ShmError) || error.code !== "EMSGSIZE") throw error;
      this.#mismatches++;
      return false;
    }
    try {
      obj.truncateBytes(byteLength);
      return true;
    } catch (error) {
      // No whole number of tokens has that size.
      if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
      this.#mismatches++;
      return false;
    }
  }

  async #writeThrough(key: string, obj: TensorMemoryObj, options: CallOptions): Promise<void> {
    obj.refCountUp();
    try {
      await this.cold.put(key, obj, options);
    } finally {
      release(obj);
    }
  }

  #mustBeOpen(operation: string): void {
    if (this.#closing === null) return;
    throw new ShmError("the store is closed", { code: "EBADF", operation });
  }
}

function checkMode(name: string, mode: unknown): WriteMode {
  if (mode === "through" || mode === "behind") return mode;
  throw new TypeError(`${name} must be "through" or "behind", got ${describe(mode)}`);
}

function keyText(key: Key): string {
  if (typeof key === "string") return key;
  if (typeof key === "object" && key !== null) return key.toString();
  throw new TypeError(`a key is a string or a CacheEngineKey, got ${describe(key)}`);
}

function layoutOf(chunk: ChunkLayout): TensorLayout {
  if (chunk instanceof TensorLayout) return chunk;
  if (typeof chunk === "number") return TensorLayout.ofBytes(chunk);
  if (typeof chunk === "object" && chunk !== null) {
    return TensorLayout.of(chunk.shape, chunk.dtype, chunk.format);
  }
  throw new TypeError(
    `a chunk is a layout, { shape, dtype, format } or a number of bytes, got ${describe(chunk)}`,
  );
}

function layoutsOf(
  chunks: ChunkLayout | readonly ChunkLayout[],
  count: number,
): readonly TensorLayout[] {
  if (!Array.isArray(chunks)) {
    const layout = layoutOf(chunks as ChunkLayout);
    return Array.from({ length: count }, () => layout);
  }
  if (chunks.length !== count) {
    throw new RangeError(`${count} keys and ${chunks.length} layouts are no pairs`);
  }
  return (chunks as readonly ChunkLayout[]).map(layoutOf);
}

/** Whether an object of the layout `actual` is a full or partial chunk of `wanted`. */
function matches(actual: TensorLayout, wanted: TensorLayout): boolean {
  if (actual.byteLength > wanted.byteLength) return false;
  try {
    return wanted.withByteLength(actual.byteLength).equals(actual);
  } catch {
    return false;
  }
}

/** As `work` does, unless the caller's patience ends before; the work goes on then. */
async function within(work: Promise<void>, what: string, options: CallOptions): Promise<void> {
  const { signal, timeoutMs } = options;
  if (timeoutMs !== undefined) checkInteger("timeoutMs", timeoutMs, 1, MAX_TIMER_MS);
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const end = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    const onAbort = () => end(() => reject(signal?.reason));
    const timer = timeoutMs === undefined ? undefined : setTimeout(() =>
      end(() =>
        reject(
          new ShmError(`not done within ${timeoutMs} ms`, {
            code: "ETIMEDOUT",
            operation: what,
            hint: "The writing goes on; call flush() again",
            details: { timeoutMs },
          }),
        )
      ), timeoutMs);
    signal?.addEventListener("abort", onAbort, { once: true });
    work.then(() => end(resolve), (error) => end(() => reject(error)));
  });
}
