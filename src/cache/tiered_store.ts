// SPDX-License-Identifier: Apache-2.0
//
// Two tiers as one store: the pool in front, a connector behind. What is got is in the pool
// afterwards. A put replaces what the key has in both: in the store before it returns, and in the
// pool then ("through"), or in the pool at once and in the store soon after ("behind").
//
// The bytes of an object never change; which object a key has does. All changes that are made here
// go through the write queue, one after the other for each key, so that what is in the pool is right
// without asking the store:
//
// - A get() takes what the pool has, else what is queued for the store. Else it asks the store, but
//   not while a change of the key goes on: that one has to end first.
// - When a change of a key begins, loads of it that go on are overtaken: they bring nothing into the
//   pool, and who waits for them looks again.
// - When nobody knows what the store has after a failure, the pool lets go of the key's object.
//
// Another process that changes the object is not noticed here before the pool has let go of its own.
//
// The bytes move between store and pool directly; every object that is on its way has a reference
// of the store's own, and is held while I/O uses its memory.
//
// What waits for whom is told to the store: what a get() waits for goes before everything else, what
// is written behind or loaded ahead goes last.
//
// One thread at a time. It owns neither tier, unless create() made them: close it before them.

import { checkCallOptions, checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { rememberOpen } from "../at_exit.ts";
import { ShmError } from "../errors.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import type { LmshmConfig } from "../config/config.ts";
import { OPEN_OPTIONS } from "../memory/segment.ts";
import { type LayoutArgument, TensorLayout } from "../memory/tensor_layout.ts";
import { Failed, outcomesOf, valuesOf } from "../worker/outcome.ts";
import { checkChunk, type Metadata } from "../connector/chunk_metadata.ts";
import type { Key } from "../keys/key.ts";
import { keyText } from "../keys/key_file.ts";
import { type ObservedCall, Probe } from "../telemetry_probe.ts";
import type { TelemetrySpan } from "../telemetry.ts";
import { Deadline, MAX_TIMER_MS, openingSignal, settlesWithin, within } from "../wait.ts";
import { GatheredCalls, SMALL_BYTES } from "./gathered_calls.ts";
import {
  type AllocateOptions,
  LocalCpuBackend,
  optionsOfTier,
  release,
  type TryAllocateOptions,
} from "./local_cpu_backend.ts";
import {
  BATCHED_PUT_OPTIONS,
  type BatchedPutOptions,
  CALL_OPTIONS,
  type CallOptions,
  type LoadedObject,
  type Priority,
  type RemoteConnector,
} from "../connector/remote_connector.ts";
import { type Load, OVERTAKEN, SharedLoads } from "./shared_loads.ts";
import { ShmFileConnector } from "../connector/shm_file_connector.ts";
import { optionsFromConfig } from "../connector/shm_file_sources.ts";
import {
  checkTieredOptions,
  checkWriteMode,
  layoutsOf,
  matches,
  STORE_OPTIONS,
  type TieredPutOptions,
  type TieredStoreCreateOptions,
  type TieredStoreOptions,
  type TieredStoreStats,
  type WriteMode,
} from "./tiered_store_options.ts";
import { WatchedRange } from "../connector/watched_range.ts";
import { type Turn, WriteQueue } from "./write_queue.ts";

export type {
  TieredPutOptions,
  TieredStoreCreateOptions,
  TieredStoreOptions,
  TieredStoreStats,
  WriteMode,
};

/** Instead of an object of the store: it is in the pool, or queued. */
const NEAR: unique symbol = Symbol("near");

const CREATE_OPTIONS = [...STORE_OPTIONS, ...OPEN_OPTIONS];
const PUT_OPTIONS = [...BATCHED_PUT_OPTIONS, "writeMode"];

const WRITE_BEHIND: CallOptions = { priority: "low" };

interface Loading {
  readonly key: string;
  readonly obj: TensorMemoryObj;
  readonly bytes: number;
  /** Of the call that it is for; null: nobody is told. */
  readonly span: TelemetrySpan | null;
}

interface Storing {
  readonly key: string;
  readonly range: WatchedRange;
  readonly bytes: number;
}

/** See the file's head. */
export class TieredStore implements AsyncDisposable {
  /** The pool, and the objects in it. */
  readonly hot: LocalCpuBackend;
  /** The store behind it. */
  readonly cold: RemoteConnector;
  /** For puts that say nothing else. */
  readonly writeMode: WriteMode;
  readonly #loads: SharedLoads;
  readonly #queue: WriteQueue;
  /** Loads and puts of small objects. */
  readonly #smallLoads: GatheredCalls<Loading, LoadedObject | null, CallOptions>;
  readonly #smallPuts: GatheredCalls<Storing, boolean, BatchedPutOptions>;
  readonly #prefetchConcurrency: number;
  readonly #queueTimeoutMs: number;
  readonly #closeTimeoutMs: number;
  /** Puts through and removals that go on now. */
  readonly #changing = new Set<Promise<unknown>>();
  /** What create() made. */
  #owned: AsyncDisposableStack | null = null;
  readonly #notOpen: () => void;
  #closing: Promise<void> | null = null;
  /** Null: nothing is told of calls. */
  readonly #probe: Probe | null;
  /** The put that an object came with that is written behind, for telemetry. */
  readonly #putSpans = new WeakMap<TensorMemoryObj, TelemetrySpan>();
  #lastMismatch: TieredStoreStats["lastMismatch"] = null;
  #hotHits = 0;
  #coldHits = 0;
  #misses = 0;
  #mismatches = 0;

  /** Over tiers that are there already. @throws {TypeError | RangeError} naming the option at fault. */
  constructor(options: TieredStoreOptions) {
    const limits = checkTieredOptions(options);
    const { hot, cold, onError, telemetry } = options;
    this.hot = hot;
    this.cold = cold;
    this.#probe = Probe.of("store", telemetry, {});
    this.writeMode = limits.writeMode;
    this.#prefetchConcurrency = limits.prefetchConcurrency;
    this.#queueTimeoutMs = limits.queueTimeoutMs;
    this.#closeTimeoutMs = limits.closeTimeoutMs;
    this.#smallLoads = new GatheredCalls({
      one: ({ key, obj }, call) => cold.load(key, obj, call),
      many: (loads, call) =>
        this.#together(
          loads,
          () => cold.loadEach(loads.map(({ key }) => key), loads.map(({ obj }) => obj), call),
        ),
    });
    this.#smallPuts = new GatheredCalls({
      one: ({ key, range }, call) => cold.put(key, range, call),
      many: (puts, call) =>
        cold.putEach(puts.map(({ key }) => key), puts.map(({ range }) => range), call),
    });
    this.#loads = new SharedLoads((load) => this.#fetch(load));
    this.#queue = new WriteQueue({
      write: (key, obj) => {
        const range = new WatchedRange(obj);
        return {
          stored: this.#writeBehind(key, obj, range),
          quiet: () => range.quiet(),
        };
      },
      accepted: (key, obj) => this.#keep(key, obj),
      invalidate: (key) => this.#invalidate(key),
      unknown: (key) => void this.#forget(key),
      maxObjects: limits.maxQueuedObjects,
      maxBytes: limits.maxQueuedBytes,
      concurrency: limits.writeConcurrency,
      onError,
    });
    this.#notOpen = rememberOpen(this);
  }

  /**
   * Makes everything: the pool, the worker or the connection to one, and the store over both, which
   * owns them: close() closes them, too.
   * @throws {ShmError} as LocalCpuBackend.create() and ShmFileConnector.open(). Nothing is left behind
   *   then.
   */
  static async create(options: TieredStoreCreateOptions): Promise<TieredStore> {
    checkKnownOptions("TieredStore.create", options as unknown, CREATE_OPTIONS);
    const { signal: given, timeoutMs, onProgress, hot, cold, ...others } = options;
    using limit = openingSignal("create store", { signal: given, timeoutMs });
    const { signal } = limit;
    await using stack = new AsyncDisposableStack();
    const tier = stack.use(await LocalCpuBackend.create({ ...hot, signal, onProgress }));
    const { segment } = tier;
    const { telemetry = others.telemetry } = cold;
    const connector = stack.use(
      await ShmFileConnector.open({ ...cold, segment, signal, telemetry }),
    );
    const store = new TieredStore({ hot: tier, cold: connector, ...others });
    store.#owned = stack.move();
    return store;
  }

  /** create() of what a configuration describes; what `others` says wins. */
  static async fromConfig(
    config: LmshmConfig,
    others: Omit<TieredStoreCreateOptions, "hot" | "cold"> = {},
  ): Promise<TieredStore> {
    return await TieredStore.create({
      hot: optionsOfTier(config),
      cold: optionsFromConfig(config).options,
      writeMode: config.writeMode,
      maxQueuedBytes: config.maxQueuedBytes,
      queueTimeoutMs: config.blockingTimeoutMs,
      ...others,
    });
  }

  /**
   * Memory for an object that is to be put: LocalCpuBackend.allocate() of the pool.
   * @throws {ShmError} EBADF after close(), and as that.
   */
  async allocate(layout: LayoutArgument, options: AllocateOptions = {}): Promise<TensorMemoryObj> {
    this.#mustBeOpen("allocate");
    return await this.hot.allocate(layout, options);
  }

  /** allocate() that gives null instead of waiting. */
  tryAllocate(layout: LayoutArgument, options: TryAllocateOptions = {}): TensorMemoryObj | null {
    this.#mustBeOpen("allocate");
    return this.hot.tryAllocate(layout, options);
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
    chunk: LayoutArgument,
    options: CallOptions = {},
  ): Promise<TensorMemoryObj | null> {
    this.#begin("get", options);
    const text = this.#textOf(key);
    const layout = TensorLayout.of(chunk);
    options.signal?.throwIfAborted();
    if (this.#probe === null) {
      return this.#nearby(text, layout, this.hot.get(text)) ??
        await this.#distant(text, layout, options);
    }
    return await this.#observe(
      "get",
      [text],
      options,
      async (call) =>
        this.#nearby(text, layout, this.hot.get(text), call) ??
          await this.#distant(text, layout, options, call),
    );
  }

  /**
   * get() of each key: the object or null for each, in their order.
   * @param chunks one layout for all, or one for each.
   * @throws the first error, after all have ended; no references are left with the caller then.
   */
  async batchedGet(
    keys: readonly Key[],
    chunks: LayoutArgument | readonly LayoutArgument[],
    options: CallOptions = {},
  ): Promise<(TensorMemoryObj | null)[]> {
    this.#begin("batchedGet", options);
    const texts = keys.map((key) => this.#textOf(key));
    const layouts = layoutsOf(chunks, keys.length);
    options.signal?.throwIfAborted();
    const ended = await this.#observe("get", texts, options, async (call) => {
      const found = this.hot.batchedGet(texts).map((obj, i) =>
        this.#nearby(texts[i]!, layouts[i]!, obj, call)
      );
      const ended = await Promise.allSettled(
        found.map((obj, i) => obj ?? this.#distant(texts[i]!, layouts[i]!, options, call)),
      );
      for (const one of ended) if (one.status === "rejected") call?.failed(one.reason, 1);
      return ended;
    });
    const failed = ended.find((one) => one.status === "rejected");
    if (failed === undefined) {
      return ended.map((one) => one.status === "fulfilled" ? one.value : null);
    }
    for (const one of ended) if (one.status === "fulfilled" && one.value) release(one.value);
    throw failed.reason;
  }

  /**
   * Makes it the object of the key, in the pool and in the store; who has the one before keeps it.
   * The caller keeps the reference it has, and may release it at once; the bytes must not change any
   * more. Puts and removals of one key are carried out one after the other.
   *
   * "through": resolves when the store has it; get() gives it from then on, and until then what was
   * there before. "behind": resolves when it is queued, which waits while the queue is full; get()
   * gives it from then on. What becomes of it then is told by onError, flush() and close().
   *
   * After a failure: through, the store has the object before or this one, and get() asks it. Behind,
   * once onError was called: the object before is removed from the store, and this one stays in the
   * pool for as long as there is room; if that fails, too, or close() runs out of time before, the
   * pool lets go of it, and get() gives what the store has.
   * @returns whether it is the object of the key now; false only with ifAbsent: there was one, which
   *   stays as it is, and this one is in neither tier.
   * @throws {TypeError} for an object of another pool.
   * @throws {ShmError} what the connector throws; EINVAL for ifAbsent behind; EEXIST for an object that
   *   the pool has under another key; ETIMEDOUT when the queue stays full, or an earlier change of the
   *   key does not end, and nothing has changed then; EBADF after close(); the signal's reason.
   */
  async put(key: Key, obj: TensorMemoryObj, options: TieredPutOptions = {}): Promise<boolean> {
    return await this.#observe(
      "put",
      [key],
      options,
      (call) => this.#put(key, obj, options, null, call),
    );
  }

  /** @param group see #store(). */
  async #put(
    key: Key,
    obj: TensorMemoryObj,
    options: TieredPutOptions,
    group: object | null,
    observed: ObservedCall | undefined,
  ): Promise<boolean> {
    this.#begin("put", options, PUT_OPTIONS);
    const { writeMode = this.writeMode, ...call } = options;
    checkWriteMode(writeMode);
    checkIfAbsent(call.ifAbsent, writeMode);
    const text = this.#textOf(key);
    call.signal?.throwIfAborted();
    this.hot.checkPut(text, obj);
    if (writeMode === "through") {
      const stored = await this.#track(this.#putThrough(text, obj, call, group));
      if (stored) observed?.stored(obj.byteLength);
      return stored;
    }
    const timeoutMs = Math.min(call.timeoutMs ?? this.#queueTimeoutMs, MAX_TIMER_MS);
    checkInteger("timeoutMs", timeoutMs, 1);
    if (observed?.span) this.#putSpans.set(obj, observed.span);
    const { byteLength } = obj;
    await this.#queue.add(text, obj, timeoutMs, call.signal);
    observed?.stored(byteLength);
    return true;
  }

  /**
   * put() of each pair; of a key that is there twice, the last object is kept, with ifAbsent the first.
   * @throws the first error, after all have ended.
   */
  async batchedPut(
    keys: readonly Key[],
    objs: readonly TensorMemoryObj[],
    options: TieredPutOptions = {},
  ): Promise<boolean[]> {
    if (keys.length !== objs.length) {
      throw new RangeError(`${keys.length} keys and ${objs.length} objects are no pairs`);
    }
    const group = {};
    const ended = await this.#observe("put", keys, options, async (call) => {
      const ended = await outcomesOf(
        keys.length,
        keys.length,
        (i) => this.#put(keys[i]!, objs[i]!, options, group, call),
      );
      for (const one of ended) if (one instanceof Failed) call?.failed(one.error, 1);
      return ended;
    });
    return valuesOf(ended);
  }

  /** Whether get() would find an object, whatever its layout. */
  async exists(key: Key, options: CallOptions = {}): Promise<boolean> {
    this.#begin("exists", options);
    return await this.#isThere(key, options.priority, deadlineOf(options));
  }

  /** How many of the leading keys are there: the length of the prefix that can be got. */
  async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    this.#begin("batchedContains", options);
    const { priority } = options;
    const deadline = deadlineOf(options);
    for (let from = 0;;) {
      const { discarded } = this.#loads;
      const distant = [...keys.keys()].filter((i) =>
        i >= from && !this.#isNear(this.#textOf(keys[i]!))
      );
      const { signal, leftMs: timeoutMs } = deadline;
      const call = { priority, signal, timeoutMs };
      const found = await this.cold.batchedContains(distant.map((i) => keys[i]!), call);
      const missing = distant[found];
      if (missing === undefined) return keys.length;
      // While the store looked, the object may have been between two places.
      const unchanged = this.#loads.discarded === discarded;
      if (unchanged || !await this.#isThere(keys[missing]!, priority, deadline)) return missing;
      from = missing + 1;
    }
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
    chunks: LayoutArgument | readonly LayoutArgument[],
    options: CallOptions = {},
  ): Promise<number> {
    this.#begin("prefetch", options);
    const texts = keys.map((key) => this.#textOf(key));
    const layouts = layoutsOf(chunks, keys.length);
    const failures: unknown[] = [];
    let next = 0;
    let found = 0;
    const loadSome = async (call: ObservedCall | undefined) => {
      while (next < texts.length && failures.length === 0) {
        const i = next++;
        try {
          options.signal?.throwIfAborted();
          const { priority = "low" } = options;
          const obj = await this.#load(texts[i]!, layouts[i]!, priority, deadlineOf(options));
          call?.looked(obj === null ? "miss" : obj === NEAR ? "hit hot" : "hit cold");
          if (obj === null) continue;
          found++;
          if (obj !== NEAR) release(obj);
        } catch (error) {
          failures.push(error);
          call?.failed(error, 1);
        }
      }
    };
    const count = Math.min(this.#prefetchConcurrency, texts.length);
    await this.#observe(
      "prefetch",
      texts,
      options,
      (call) => Promise.all(Array.from({ length: count }, () => loadSome(call))),
    );
    if (failures.length > 0) throw failures[0];
    return found;
  }

  /**
   * Removes the object from pool, queue and store, after what is being written under the key. Who has
   * a reference keeps it. When it fails, the object may be there or not, and get() asks the store.
   * @returns whether it was anywhere.
   */
  async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    this.#begin("remove", options);
    const text = this.#textOf(key);
    const deadline = deadlineOf(options);
    return await this.#observe("remove", [text], options, async () => {
      const turn = this.#turn("remove", text, deadline);
      const removing = this.#track(turn.then((turn) => this.#remove(text, turn, options.priority)));
      removing.catch(() => {});
      await turn;
      // It goes on when its caller has gone: only then is it known what the store has.
      const { leftMs: limitMs = Infinity, signal } = deadline;
      return await within(removing, { limitMs, signal, expired: () => notRemoved(text, limitMs) });
    });
  }

  /**
   * Resolves when all that was accepted behind until now is stored.
   * @throws {ShmError} with what was not, since the last report: the first one's code, and
   *   details.keys; the signal's reason, and ETIMEDOUT, while the writing goes on.
   */
  async flush(options: CallOptions = {}): Promise<void> {
    this.#begin("flush", options);
    const { signal, timeoutMs = Infinity } = options;
    if (timeoutMs !== Infinity) checkInteger("timeoutMs", timeoutMs, 1, MAX_TIMER_MS);
    signal?.throwIfAborted();
    await within(this.#queue.settled(), {
      limitMs: timeoutMs,
      signal,
      expired: () =>
        new ShmError(`not done within ${timeoutMs} ms`, {
          code: "ETIMEDOUT",
          operation: "flush",
          hint: "The writing goes on; call flush() again",
          details: { timeoutMs },
        }),
    });
    this.#queue.throwFailures("flush");
  }

  /** What was counted, as it is now. */
  get stats(): TieredStoreStats {
    const { written, replaced, errors, waits } = this.#queue.counts;
    return {
      hotHits: this.#hotHits,
      coldHits: this.#coldHits,
      misses: this.#misses,
      mismatches: this.#mismatches,
      lastMismatch: this.#lastMismatch,
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
      hot: this.hot.stats,
      cold: this.cold.stats,
    };
  }

  /**
   * Finishes what was begun, within closeTimeoutMs: loads, puts, and everything that is queued. The
   * tiers stay open, unless create() made them. Idempotent: each call gives the same result.
   * @throws {ShmError} with what was accepted behind and not stored, and not reported by flush().
   */
  close(): Promise<void> {
    this.#closing ??= this.#close().finally(this.#notOpen);
    return this.#closing;
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const end = performance.now() + this.#closeTimeoutMs;
    const leftMs = () => Math.max(1, end - performance.now());
    await this.#queue.close(leftMs());
    await settlesWithin(Promise.allSettled(this.#changing), leftMs());
    await settlesWithin(this.#loads.settled(), leftMs());
    try {
      await this.#owned?.disposeAsync();
    } finally {
      // What was lost matters more than what could not be closed.
      this.#queue.throwFailures("close");
    }
  }

  async #isThere(
    key: Key,
    priority: Priority | undefined,
    deadline: Deadline,
  ): Promise<boolean> {
    const text = this.#textOf(key);
    for (;;) {
      if (this.#isNear(text)) return true;
      const { signal, leftMs: timeoutMs } = deadline;
      const { seen, overtaken } = await this.#loads.glance(
        text,
        () => this.cold.exists(key, { priority, signal, timeoutMs }),
      );
      if (seen || !overtaken) return seen;
    }
  }

  /** As the store has it, so that pool and store speak of the same. */
  #textOf(key: Key): string {
    return this.cold.keyText?.(key) ?? keyText(key);
  }

  #isNear(key: string): boolean {
    return this.hot.exists(key) || this.#queue.find(key) !== null;
  }

  /** @param hot what the pool has, with a reference that is passed on. Null: ask the store. */
  #nearby(
    key: string,
    layout: TensorLayout,
    hot: TensorMemoryObj | null,
    call?: ObservedCall,
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
    call?.looked("hit hot", obj.byteLength);
    return obj;
  }

  async #distant(
    key: string,
    layout: TensorLayout,
    options: CallOptions,
    call?: ObservedCall,
  ): Promise<TensorMemoryObj | null> {
    const deadline = deadlineOf(options);
    for (;;) {
      const obj = await this.#load(key, layout, options.priority ?? "high", deadline);
      if (obj === NEAR) {
        const near = this.#nearby(key, layout, this.hot.get(key), call);
        if (near !== null) return near;
        if (!this.#isNear(key)) continue;
        this.#mismatch(key, `the pool has another layout than ${layout}`);
      } else if (obj !== null) {
        if (matches(obj.layout, layout)) {
          this.#coldHits++;
          call?.looked("hit cold", obj.byteLength);
          return obj;
        }
        this.#mismatch(key, `it is ${obj.layout}, and ${layout} was asked for`);
        release(obj);
      }
      this.#misses++;
      call?.looked("miss");
      return null;
    }
  }

  /** Has telemetry follow a call that is about these keys. `work` gets nothing where there is none. */
  #observe<T>(
    verb: string,
    keys: readonly Key[],
    options: CallOptions,
    work: (call: ObservedCall | undefined) => Promise<T>,
  ): Promise<T> {
    const probe = this.#probe;
    if (probe === null || keys.length === 0) return work(undefined);
    const { signal, priority } = options ?? {};
    const operation = keys.length === 1 ? verb : `BATCH ${verb}`;
    return probe.during({
      span: `tiered ${operation}`,
      operation,
      objects: keys.length,
      signal,
      attributes: {
        "db.operation.name": operation,
        ...(keys.length > 1 ? { "db.operation.batch.size": keys.length } : {}),
        ...(priority === undefined ? {} : { "lmshm.priority": priority }),
      },
    }, work);
  }

  /** Loads for several calls are a span of their own, below the first and linked to the others. */
  #together<T>(loads: readonly Loading[], work: () => Promise<T>): Promise<T> {
    const probe = this.#probe;
    const [first, ...others] = new Set(loads.map(({ span }) => span));
    const links = others.filter((span) => span !== null);
    if (probe === null || !first || links.length === 0) return work();
    const operation = "BATCH load";
    const attributes = { "db.operation.name": operation };
    return probe.during(
      { span: `tiered ${operation}`, operation, objects: loads.length, attributes, links },
      work,
    );
  }

  /** Stores what put() has accepted. Whose turn begins it has nothing to do with it, the put has. */
  #writeBehind(key: string, obj: TensorMemoryObj, range: WatchedRange): Promise<unknown> {
    const store = () => this.#store(key, range, WRITE_BEHIND, WRITE_BEHIND);
    const probe = this.#probe;
    if (probe === null) return store();
    const from = this.#putSpans.get(obj);
    const operation = "write behind";
    return probe.during({
      span: `tiered ${operation}`,
      operation,
      objects: 1,
      attributes: { "db.operation.name": operation },
      root: true,
      links: from === undefined ? [] : [from],
    }, async (call) => {
      await store();
      call.stored(range.byteLength);
    });
  }

  /**
   * The object as it is loaded, whatever its layout, with a reference for the caller; null: there is
   * none; NEAR: it need not be loaded.
   */
  async #load(
    key: string,
    layout: TensorLayout,
    priority: Priority,
    deadline: Deadline,
  ): Promise<TensorMemoryObj | null | typeof NEAR> {
    const { signal } = deadline;
    for (;;) {
      if (this.#isNear(key)) return NEAR;
      const busy = this.#queue.busy(key);
      if (busy !== null) {
        await this.#waitForChange("get", key, busy, deadline);
        continue;
      }
      // A load that goes on already may be of another layout. That nothing came of it does not say
      // that there is nothing of this one.
      const other = this.#loads.layoutOf(key);
      const timeoutMs = deadline.leftMs;
      const obj = await this.#loads.get(key, layout, { signal, timeoutMs, priority });
      if (obj === OVERTAKEN) continue;
      if (obj !== null || other === null || other.equals(layout)) return obj;
    }
  }

  /** Loads an object into the pool; with one reference, or null. */
  async #fetch(load: Load): Promise<TensorMemoryObj | null> {
    const { key, layout } = load;
    let obj = this.hot.tryAllocate(layout, { evict: false });
    if (obj === null) {
      // Nothing is evicted for an object that does not exist, or is another one.
      const stored = await this.#storedLayout(load);
      if (stored === null) return null;
      obj = await this.hot.allocate(stored);
    }
    let keep = false;
    try {
      if (!await this.#fill(load, obj)) return null;
      if (!load.stale && !this.hot.closed) this.hot.submitPutTask(key, obj);
      keep = true;
      return obj;
    } finally {
      if (!keep) release(obj);
    }
  }

  /** How the object looks that is to be loaded; null if there is none, or another one. */
  async #storedLayout({ key, layout, priority }: Load): Promise<TensorLayout | null> {
    try {
      const stored = await this.cold.stat(key, { priority });
      return stored && this.#checked(key, stored.metadata, stored.byteLength, layout);
    } catch (error) {
      // A worker of version 1 whose directory is not here.
      if (!(error instanceof ShmError) || error.code !== "ENOTSUP") throw error;
      return await this.cold.exists(key, { priority }) ? layout : null;
    }
  }

  /** False: there is no object, or none that looks so. */
  async #fill({ key, layout, priority }: Load, obj: TensorMemoryObj): Promise<boolean> {
    try {
      const call = { priority };
      const found = obj.byteLength < SMALL_BYTES
        ? await this.#smallLoads.add(
          priority,
          { key, obj, bytes: obj.byteLength, span: this.#probe && Probe.current() },
          call,
        )
        : await this.cold.load(key, obj, call);
      if (found === null) return false;
      const { byteLength } = found.range;
      const stored = this.#checked(key, found.metadata, byteLength, layout);
      if (stored === null) return false;
      obj.truncateBytes(byteLength);
      return true;
    } catch (error) {
      if (!(error instanceof ShmError) || error.code !== "EMSGSIZE") throw error;
      const { objectBytes = `more than ${obj.byteLength}` } = error.details;
      this.#mismatch(key, `it has ${objectBytes} bytes, and ${layout} was asked for`);
      return false;
    }
  }

  /** The layout of an object in the store; null, and counted, if it is not what is `wanted`. */
  #checked(
    key: string,
    metadata: Metadata,
    byteLength: number,
    wanted: TensorLayout,
  ): TensorLayout | null {
    const { layout, fault } = checkChunk(metadata, byteLength, wanted);
    if (fault !== null) this.#mismatch(key, fault);
    return layout;
  }

  #mismatch(key: string, fault: string): void {
    this.#mismatches++;
    this.#lastMismatch = { key, fault };
  }

  /** @param group see #store(). */
  async #putThrough(
    key: string,
    obj: TensorMemoryObj,
    options: BatchedPutOptions,
    group: object | null,
  ): Promise<boolean> {
    const deadline = deadlineOf(options);
    const { priority, ifAbsent } = options;
    const range = new WatchedRange(obj);
    obj.refCountUp();
    try {
      const turn = await this.#turn("put", key, deadline);
      if (ifAbsent && this.#isNear(key)) {
        turn.end(false);
        return false;
      }
      let stored: boolean;
      try {
        const { signal, leftMs: timeoutMs } = deadline;
        stored = await this.#store(key, range, { signal, timeoutMs, priority, ifAbsent }, group);
      } catch (error) {
        // A request that was given up may still be carried out.
        void range.quiet().then(() => this.#unsure(key, turn));
        throw error;
      }
      turn.end(stored);
      if (stored && this.#queue.find(key) === null) this.#keep(key, obj);
      return stored;
    } finally {
      void range.quiet().then(() => release(obj));
    }
  }

  /**
   * @param group small objects of the same one may go together: those of a batch, whose options are
   *   the same. Null: it goes alone.
   */
  async #store(
    key: string,
    range: WatchedRange,
    options: BatchedPutOptions,
    group: object | null,
  ): Promise<boolean> {
    const { byteLength: bytes } = range;
    if (group === null || bytes >= SMALL_BYTES) return await this.cold.put(key, range, options);
    return await this.#smallPuts.add(group, { key, range, bytes }, options);
  }

  async #remove(key: string, turn: Turn, priority: Priority | undefined): Promise<boolean> {
    let wasCold: boolean;
    try {
      wasCold = await this.cold.remove(key, { priority });
    } catch (error) {
      this.#unsure(key, turn);
      throw error;
    }
    const wasQueued = turn.end(true);
    const wasHot = this.#queue.find(key) === null && this.#forget(key);
    return wasHot || wasQueued || wasCold;
  }

  /**
   * Waits until no earlier change of the key goes on. From then on nothing loads it, because whoever
   * looks may have seen the change already.
   * @throws {ShmError} ETIMEDOUT.
   */
  async #turn(operation: string, key: string, deadline: Deadline): Promise<Turn> {
    const limitMs = Math.min(deadline.leftMs ?? Infinity, this.#queueTimeoutMs);
    const turn = await this.#queue.enter(key, {
      limitMs,
      signal: deadline.signal,
      expired: () => stuck(operation, key, limitMs),
    });
    this.#loads.discard(key);
    return turn;
  }

  async #waitForChange(
    operation: string,
    key: string,
    change: Promise<void>,
    deadline: Deadline,
  ): Promise<void> {
    const limitMs = Math.min(deadline.leftMs ?? Infinity, this.#queueTimeoutMs);
    const { signal } = deadline;
    await within(change, { limitMs, signal, expired: () => stuck(operation, key, limitMs) });
  }

  /** A change has failed, and the store may have either object. */
  #unsure(key: string, turn: Turn): void {
    turn.end(false);
    if (this.#queue.find(key) === null) this.#forget(key);
  }

  /** Sees to it that the store has no object. @returns whether that is so. */
  async #invalidate(key: string): Promise<boolean> {
    const remove = () => this.cold.remove(key, { priority: "low" });
    const operation = "invalidate";
    const attributes = { "db.operation.name": operation };
    try {
      await (this.#probe === null ? remove() : this.#probe.during(
        { span: `tiered ${operation}`, operation, objects: 1, attributes, root: true },
        remove,
      ));
      return true;
    } catch {
      return false;
    }
  }

  /** That is the object of the key now. */
  #keep(key: string, obj: TensorMemoryObj): void {
    this.#loads.discard(key);
    if (this.hot.closed) return;
    try {
      this.hot.put(key, obj);
    } catch {
      // It has got another key, or was freed, since put() was called: the store has it.
      this.hot.remove(key);
    }
  }

  /** The store is to be asked. @returns whether the pool had an object. */
  #forget(key: string): boolean {
    return !this.hot.closed && this.hot.remove(key);
  }

  /** close() waits for it. */
  #track<T>(change: Promise<T>): Promise<T> {
    const tracked = change.finally(() => this.#changing.delete(tracked));
    this.#changing.add(tracked);
    return tracked;
  }

  /** A call may begin. @throws {ShmError} EBADF; {TypeError} for an option that there is not. */
  #begin(operation: string, options: CallOptions, known: readonly string[] = CALL_OPTIONS): void {
    this.#mustBeOpen(operation);
    checkCallOptions(operation, options, known);
  }

  #mustBeOpen(operation: string): void {
    if (this.#closing === null) return;
    throw new ShmError("the store is closed", { code: "EBADF", operation });
  }
}

/** @throws {RangeError} for a limit that is none. */
function deadlineOf({ timeoutMs, signal }: CallOptions): Deadline {
  return new Deadline(timeoutMs ?? Infinity, signal ?? undefined);
}

/** @throws {TypeError | ShmError} for an option that cannot be done. */
function checkIfAbsent(ifAbsent: unknown, writeMode: WriteMode): void {
  if (ifAbsent === undefined || ifAbsent === false) return;
  if (ifAbsent !== true) {
    throw new TypeError(`ifAbsent must be true or false, got ${describe(ifAbsent)}`);
  }
  if (writeMode === "through") return;
  throw new ShmError("a put behind cannot tell whether the store has an object", {
    code: "EINVAL",
    operation: "put",
    hint: 'With ifAbsent, say writeMode: "through"',
    details: { writeMode },
  });
}

function stuck(operation: string, key: string, limitMs: number): ShmError {
  return new ShmError(`an earlier change of the key was not over within ${limitMs} ms`, {
    code: "ETIMEDOUT",
    operation: `${operation} ${key.slice(0, 120)}`,
    hint: "Check the storage; queueTimeoutMs sets the limit",
    details: { limitMs },
  });
}

function notRemoved(key: string, limitMs: number): ShmError {
  return new ShmError(`the object was not removed within ${limitMs} ms`, {
    code: "ETIMEDOUT",
    operation: `remove ${key.slice(0, 120)}`,
    hint: "The removal goes on; later calls for the key wait for it",
    details: { limitMs },
  });
}
