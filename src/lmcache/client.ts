// SPDX-License-Identifier: Apache-2.0
//
// A client of a running `lmcache server`. Requests go over gRPC; chunks do not: they are read and
// written where they are, in the server's own pool, which is a segment of this machine.
//
// A connection that is new may lead to another server than the last one: it was restarted, perhaps in
// another version. So every call first makes sure of the connection, and a new one begins with the
// same steps as the first: which protocol, how many tokens a chunk, register, which pool.
//
// The server compares keys without their session: two transfers of the same tokens by one instance
// would be one to it, and the end of the first would end both. So each transfer's tokens end with a
// number of its own, behind the last chunk, where it is not hashed.
//
// The instance never pings: the server forgets one that has pinged after two minutes of silence, and
// then publishes what it had reserved, filled or not. One that never did is forgotten after an hour
// (--worker-registration-grace-seconds), when its reservations are long over. To it, a model that nobody
// has registered is one of which it has no chunk; so a client that was idle registers again.

import { createHash, randomBytes, randomUUID } from "node:crypto";
import { rememberOpen } from "../at_exit.ts";
import { ShmError } from "../errors.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import type { ShmSegment } from "../memory/segment.ts";
import { Deadline, within } from "../wait.ts";
import { Borrowed, type ChunkFacts } from "./borrowed.ts";
import { checkEventOptions, type KvEvent, type KvEventOptions, readEvents } from "./events.ts";
import { type KvLease, makeLease } from "./lease.ts";
import { loadGrpc } from "./libraries.ts";
import {
  CALL_OPTIONS,
  checkCall,
  type CheckedCall,
  type CheckedOptions,
  checkOptions,
  checkTokens,
  type ChunkLayout,
  chunkLayout,
  type LmcacheCallOptions,
  type LmcacheOptions,
  type LmcacheTransferOptions,
  type Tokens,
  TRANSFER_OPTIONS,
} from "./options.ts";
import { type Pool, PoolKeeper } from "./pool.ts";
import type { CallLimit, ChunkKey, LmcacheRpc } from "./rpc.ts";
import { type Expected, readSlots } from "./slots.ts";
import { fillAll, type FillChunk, type Reservation } from "./store.ts";

/** What is done in the background, and by close(), may take so long. */
const CLEAN_UP_MS = 2_000;
/** How long the server may block one of its threads for a lookup; it has one by default. */
const WAIT_SECONDS = 0.5;
const MAX_TOKEN = 2 ** 32;
/** Who has not been heard of for longer registers again before it asks for anything. */
const REGISTERED_MS = 5 * 60_000;

/** What is true while a connection lasts. */
interface Server {
  readonly connection: number;
  readonly chunkTokens: number;
  /** By performance.now(). */
  readonly registeredAtMs: number;
}

/** A server, a pool that is mapped, and what chunks are like in it. */
interface Ready extends Server {
  readonly pool: Pool;
  readonly layout: ChunkLayout;
}

function randomId(): bigint {
  // Positive in 63 bits: the server's numbers are signed.
  return randomBytes(8).readBigUInt64LE() >> 2n;
}

/** A client of one server of LMCache, for one model. */
export class LmcacheClient implements AsyncDisposable {
  readonly #options: CheckedOptions;
  readonly #rpc: LmcacheRpc;
  readonly #instance = randomId();
  readonly #pools: PoolKeeper;
  readonly #closing = new AbortController();
  readonly #notOpen: () => void;
  /** Leases and stores that are not over. */
  readonly #borrowed = new Set<Borrowed>();
  readonly #leases = new Map<Borrowed, KvLease>();
  /** By what was to be stored. */
  readonly #givenUp = new Map<string, Reservation>();
  /** Reservations that the server has of this instance and that nobody filled. */
  #unfilled = 0;
  /** Given to each transfer. */
  #transfers = 0;
  /** Of the last connection. */
  #server: Server | null = null;
  #shaking: Promise<void> | null = null;
  /** Sent, and awaited by nobody but close(). */
  readonly #background = new Set<Promise<unknown>>();
  #closed: Promise<void> | undefined;

  /** For connect(). @internal */
  private constructor(token: typeof INTERNAL, options: CheckedOptions, rpc: LmcacheRpc) {
    checkInternal(token, "a LmcacheClient is made by LmcacheClient.connect()");
    this.#options = options;
    this.#rpc = rpc;
    this.#pools = new PoolKeeper(options.segment);
    this.#notOpen = rememberOpen(this);
  }

  /**
   * Connects to a server, and with a `kvShape` registers with it and attaches its pool.
   * @throws {ShmError} ENOTSUP: libraries that are not installed, or a server without a pool or of
   *   another transfer mode; EPROTONOSUPPORT: another version of its protocol; EPROTO: no server of
   *   LMCache; ECONNREFUSED, ETIMEDOUT; ENOENT, EACCES, ESTALE: its pool cannot be attached, or is not
   *   what it says. TypeError and RangeError for options.
   */
  static async connect(options: LmcacheOptions): Promise<LmcacheClient> {
    const checked = checkOptions(options);
    const { openGrpc } = await loadGrpc();
    const client = new LmcacheClient(INTERNAL, checked, openGrpc(checked.authority));
    try {
      await client.#connected(new Deadline(checked.timeoutMs, options.signal));
    } catch (error) {
      await client.close().catch(() => {});
      throw error;
    }
    return client;
  }

  /** Tokens a chunk, as the server has it: only whole chunks are looked up, retrieved and stored. */
  get chunkTokens(): number {
    return this.#server!.chunkTokens;
  }

  /**
   * The server's pool, for a connector that stores chunks or loads them; null without a kvShape. It is
   * another one after a restart of the server.
   */
  get segment(): ShmSegment | null {
    return this.#pools.current?.segment ?? null;
  }

  /** How many chunks of the prompt the server has, from its start on, for all workers. */
  async lookup(tokens: Tokens, options: LmcacheCallOptions = {}): Promise<number> {
    const call = checkCall("lookup", options, CALL_OPTIONS, this.#options);
    const ids = checkTokens(tokens);
    const deadline = this.#deadline(call);
    const server = await this.#connected(deadline);
    const key = this.#key(ids, server.chunkTokens, call);
    if (key.end === 0) return 0;
    const found = await this.#lookUp(key, deadline, server.chunkTokens);
    this.#endLookup(key, found);
    return found;
  }

  /**
   * The chunks of the prompt that the server has, from its start on, where they are in its pool. The
   * server keeps them there until the lease is released.
   * @returns null when it has none.
   */
  async retrieve(tokens: Tokens, options: LmcacheTransferOptions = {}): Promise<KvLease | null> {
    const call = checkCall("retrieve", options, TRANSFER_OPTIONS, this.#options);
    const ids = checkTokens(tokens);
    this.#mustHaveShape("retrieve");
    return await this.#onceMore(
      call,
      (ready, deadline) => this.#retrieve(ids, call, ready, deadline),
    );
  }

  /**
   * Stores the chunks of the prompt that the server has not. `fill` is called for each of them, for
   * all at once, and writes the chunk: all of its bytes, which are something else's before.
   * @returns how many were stored; the others are there, being stored by others, or there is no room.
   * @throws what `fill` throws, and nothing is stored then; {ShmError} ETIMEDOUT: it took more than
   *   storeMs; ESTALE: the server was restarted meanwhile.
   */
  async store(
    tokens: Tokens,
    fill: FillChunk,
    options: LmcacheTransferOptions = {},
  ): Promise<number> {
    const call = checkCall("store", options, TRANSFER_OPTIONS, this.#options);
    const ids = checkTokens(tokens);
    if (typeof fill !== "function") throw new TypeError("fill must be a function");
    this.#mustHaveShape("store");
    const reservation = await this.#onceMore(
      call,
      (ready, deadline) => this.#reserve(ids, call, ready, deadline),
    );
    return reservation === null ? 0 : await this.#fill(reservation, fill, call);
  }

  /**
   * What comes into the server's memory and what is evicted, beginning with what it remembers. In
   * LMCache 0.5.6 chunks are announced that an engine stores in the mode "lmcache_driven", and
   * evictions of all.
   * @throws {ShmError} while it is read. ENOTSUP: the server keeps no log; ECONNRESET and others: the
   *   server has ended; ECANCELED: the client was closed. The signal's reason.
   */
  events(options: KvEventOptions = {}): AsyncGenerator<KvEvent, never, void> {
    const checked = checkEventOptions(options);
    this.#mustBeOpen("read events of LMCache");
    return readEvents({
      rpc: this.#rpc,
      instance: randomId(),
      model: this.#options.model,
      timeoutMs: this.#options.timeoutMs,
      closed: this.#closing.signal,
    }, checked);
  }

  /** Proves that the server answers. @returns milliseconds until it did. */
  async ping(options: LmcacheCallOptions = {}): Promise<number> {
    const call = checkCall("ping", options, CALL_OPTIONS, this.#options);
    const deadline = this.#deadline(call);
    const start = performance.now();
    await this.#rpc.ping(undefined, this.#limit(deadline));
    return performance.now() - start;
  }

  /**
   * Releases all leases, and lets go of the server and its pool. Idempotent.
   * @throws {ShmError} EBUSY while a store goes on, or I/O from a lease's chunks; nothing has happened
   *   then.
   */
  close(): Promise<void> {
    if (this.#closed !== undefined) return this.#closed;
    const busy = Array.from(this.#borrowed).flatMap((one) =>
      this.#leases.has(one) ? one.holds : ["store"]
    );
    if (busy.length > 0) {
      return Promise.reject(
        new ShmError(`the client has ${busy.length} operations in flight: ${busy[0]}`, {
          code: "EBUSY",
          operation: "close client of LMCache",
          hint: "Wait for them first",
          details: { reasons: busy },
        }),
      );
    }
    this.#closed = this.#close().finally(this.#notOpen);
    return this.#closed;
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const released = [...this.#leases.values()].map((lease) => lease.release());
    this.#closing.abort(closedError("use client of LMCache"));
    await Promise.allSettled([...released, ...this.#background]);
    // An instance that ends has what it reserved published: what nobody filled must not be.
    if (this.#server !== null && this.#options.kvShape !== null && this.#unfilled === 0) {
      await this.#rpc.unregister(this.#instance, { timeoutMs: CLEAN_UP_MS }).catch(() => {});
    }
    this.#rpc.close();
    await this.#pools.close();
  }

  // --- the connection

  #deadline(call: CheckedCall): Deadline {
    return new Deadline(call.timeoutMs, call.signal);
  }

  /** What is left of a call's time, for one step of it. */
  #limit({ leftMs, signal }: Deadline): CallLimit {
    const closing = this.#closing.signal;
    return {
      timeoutMs: leftMs ?? this.#options.timeoutMs,
      signal: signal === undefined ? closing : AbortSignal.any([closing, signal]),
    };
  }

  /** Has a connection to a server that knows this client. */
  async #connected(deadline: Deadline): Promise<Server> {
    for (;;) {
      this.#mustBeOpen("use client of LMCache");
      const connection = await this.#rpc.connect(this.#limit(deadline));
      if (this.#server?.connection === connection && isFresh(this.#server)) return this.#server;
      // All that come meanwhile wait for the same one, whose limits are the client's own.
      this.#shaking ??= this.#shakeHands(connection).finally(() => this.#shaking = null);
      const expired = () => timedOut("connect to LMCache", this.#options.timeoutMs);
      await within(this.#shaking, { limitMs: deadline.leftMs, signal: deadline.signal, expired });
    }
  }

  async #shakeHands(connection: number): Promise<void> {
    const limit = { timeoutMs: this.#options.timeoutMs, signal: this.#closing.signal };
    const registeredAtMs = performance.now();
    const chunkTokens = await this.#rpc.chunkTokens(limit);
    if (this.#options.kvShape !== null) {
      await this.#pools.ensure(await this.#register(limit), limit);
    }
    this.#server = { connection, chunkTokens, registeredAtMs };
  }

  #register(limit: CallLimit) {
    const { model, worldSize, kvShape } = this.#options;
    const { layers, hiddenSize, torchDtype, mla, blockTokens } = kvShape!;
    const shape = { layers, hiddenSize, dtype: torchDtype, mla, blockTokens };
    return this.#rpc.register({ instance: this.#instance, model, worldSize, ...shape }, limit);
  }

  /** Once more when the server has forgotten this client: it was restarted between two steps. */
  async #onceMore<T>(
    call: CheckedCall,
    step: (ready: Ready, deadline: Deadline) => Promise<T>,
  ): Promise<T> {
    const deadline = this.#deadline(call);
    for (let attempt = 1;; attempt++) {
      const server = await this.#connected(deadline);
      const pool = this.#pools.current!;
      const layout = chunkLayout(this.#options.kvShape!, server.chunkTokens);
      try {
        return await step({ ...server, pool, layout }, deadline);
      } catch (error) {
        if (!isForgotten(error) || attempt > 1) throw error;
        if (this.#server === server) this.#server = null;
      }
    }
  }

  // --- lookups

  #key(ids: readonly number[], chunkTokens: number, call: CheckedCall): ChunkKey {
    const end = ids.length - ids.length % chunkTokens;
    return {
      model: this.#options.model,
      worldSize: this.#options.worldSize,
      tokens: end === ids.length ? ids : ids.slice(0, end),
      start: 0,
      end,
      session: `lmshm-${randomUUID()}`,
      salt: call.salt,
    };
  }

  /** The first `chunks` of a key, for one worker, as one transfer. */
  #transferKey(key: ChunkKey, chunks: number, chunkTokens: number, worker: number): ChunkKey {
    const end = chunks * chunkTokens;
    const tokens = key.tokens.slice(0, end);
    tokens.push(this.#transfers++ % MAX_TOKEN);
    return { ...key, tokens, end, worker };
  }

  /** How many chunks there are; they are locked, for all workers. Cleans up after a failure. */
  async #lookUp(key: ChunkKey, deadline: Deadline, chunkTokens: number): Promise<number> {
    try {
      await this.#rpc.lookup(key, this.#limit(deadline));
      for (;;) {
        const limit = this.#limit(deadline);
        const seconds = Math.min(WAIT_SECONDS, limit.timeoutMs / 1000);
        const found = await this.#rpc.waitLookup(key.session, seconds, limit);
        if (found !== undefined) return checkFound(found, key.end / chunkTokens);
      }
    } catch (error) {
      this.#endLookup(key, 1);
      throw error;
    }
  }

  /** Gives the locks of a lookup back. Nobody waits for it: a lock that is not given back ends. */
  #endLookup(key: ChunkKey, found: number): void {
    this.#later(async (limit) => {
      if (found > 0) await this.#rpc.freeLocks(key, limit);
      await this.#rpc.endSession(key.session, limit);
    });
  }

  /** Has something done that nobody waits for, and whose failure is of no use to anybody. */
  #later(work: (limit: CallLimit) => Promise<unknown>): Promise<void> {
    const done = work({ timeoutMs: CLEAN_UP_MS }).then(() => {}, () => {});
    this.#background.add(done);
    return done.finally(() => this.#background.delete(done));
  }

  // --- transfers

  async #retrieve(
    ids: readonly number[],
    call: CheckedCall,
    ready: Ready,
    deadline: Deadline,
  ): Promise<KvLease | null> {
    const { chunkTokens } = ready;
    const whole = this.#key(ids, chunkTokens, call);
    if (whole.end === 0) return null;
    const lockedAtMs = performance.now();
    const found = await this.#lookUp(whole, deadline, chunkTokens);
    if (found === 0) {
      this.#endLookup(whole, 0);
      return null;
    }
    const key = this.#transferKey(whole, found, chunkTokens, call.worker);
    let borrowed: Borrowed;
    try {
      const context = await this.#rpc.prepareRetrieve(key, this.#instance, this.#limit(deadline));
      if (context === null) {
        // Evicted between the two; the server has given back the locks of the others.
        this.#freeOthers(whole, call.worker);
        return null;
      }
      const slots = readSlots(
        "retrieve from LMCache",
        context,
        "all",
        this.#expected(ready, found),
      );
      borrowed = this.#borrow(ready, slots);
    } catch (error) {
      // Where it is not known whether it was prepared, that is given back, if it was: locks of a lookup
      // that were given back twice would be those of somebody else.
      if (isForgotten(error)) this.#endLookup(whole, found);
      else this.#giveBack(whole, key, call.worker);
      throw error;
    }
    const lease = makeLease(borrowed, {
      leaseMs: this.#options.leaseMs,
      renew: () => this.#renew(whole, found, chunkTokens),
      giveBack: () => this.#giveBack(whole, key, call.worker),
    }, lockedAtMs);
    this.#leases.set(borrowed, lease);
    return lease;
  }

  /** A lock that is taken again and given back ends later. */
  async #renew(whole: ChunkKey, found: number, chunkTokens: number): Promise<boolean> {
    const timeoutMs = Math.min(this.#options.timeoutMs, Math.max(1, this.#options.leaseMs / 4));
    const deadline = new Deadline(timeoutMs);
    await this.#connected(deadline);
    // So that the server does not forget an instance that does nothing but hold a lease.
    await this.#register(this.#limit(deadline));
    const end = found * chunkTokens;
    const tokens = whole.tokens.slice(0, end);
    const key = { ...whole, tokens, end, session: `lmshm-${randomUUID()}` };
    const still = await this.#lookUp(key, deadline, chunkTokens);
    this.#endLookup(key, still);
    return still === found;
  }

  #giveBack(whole: ChunkKey, key: ChunkKey, worker: number): Promise<void> {
    return this.#later(async (limit) => {
      await this.#rpc.commitRetrieve(key, this.#instance, limit);
      await this.#freeOthersNow(whole, worker, limit);
    });
  }

  /** The lookup has locked the chunks of all workers, and one of them was wanted. */
  #freeOthers(whole: ChunkKey, worker: number): void {
    this.#later((limit) => this.#freeOthersNow(whole, worker, limit));
  }

  async #freeOthersNow(whole: ChunkKey, mine: number, limit: CallLimit): Promise<void> {
    for (let worker = 0; worker < whole.worldSize; worker++) {
      if (worker !== mine) await this.#rpc.freeLocks({ ...whole, worker }, limit);
    }
    await this.#rpc.endSession(whole.session, limit);
  }

  /** Null: there is nothing to store. */
  async #reserve(
    ids: readonly number[],
    call: CheckedCall,
    ready: Ready,
    deadline: Deadline,
  ): Promise<Reservation | null> {
    const { chunkTokens, pool, connection } = ready;
    const whole = this.#key(ids, chunkTokens, call);
    if (whole.end === 0) return null;
    const kept = this.#takeGivenUp(whole, call.worker, connection);
    if (kept !== undefined) return kept;
    const chunks = whole.end / chunkTokens;
    const key = this.#transferKey(whole, chunks, chunkTokens, call.worker);
    const endsAtMs = performance.now() + this.#options.storeMs;
    // From here on until it is known what was reserved, there may be something that nobody fills.
    this.#unfilled++;
    const context = await this.#rpc.prepareStore(key, this.#instance, this.#limit(deadline))
      .catch((error) => {
        if (isForgotten(error)) this.#unfilled--;
        throw error;
      });
    const slots = readSlots("store in LMCache", context, "some", this.#expected(ready, chunks));
    if (slots.length > 0) return { key, slots, pool, endsAtMs, chunkTokens, connection };
    this.#unfilled--;
    this.#later((limit) => this.#rpc.endSession(key.session, limit));
    return null;
  }

  #takeGivenUp(whole: ChunkKey, worker: number, connection: number): Reservation | undefined {
    const name = nameOfStore(whole, whole.end, worker);
    const kept = this.#givenUp.get(name);
    this.#givenUp.delete(name);
    const fine = kept?.connection === connection && performance.now() < kept.endsAtMs;
    return fine ? kept : undefined;
  }

  async #fill(reservation: Reservation, fill: FillChunk, call: CheckedCall): Promise<number> {
    const { key, slots, endsAtMs } = reservation;
    const borrowed = this.#borrow(reservation, slots);
    const giveUp = () => {
      this.#givenUp.set(nameOfStore(key, key.end, call.worker), reservation);
      this.#later((limit) => this.#rpc.endSession(key.session, limit));
    };
    borrowed.endsAtMs = endsAtMs;
    await fillAll(fill, { borrowed, signal: call.signal, endsAtMs, giveUp });
    // Complete: whatever becomes of the commit, what others may see is right.
    this.#unfilled--;
    const limit = { timeoutMs: call.timeoutMs, signal: this.#closing.signal };
    const known = await this.#rpc.commitStore(key, this.#instance, limit);
    this.#later((later) => this.#rpc.endSession(key.session, later));
    if (known) return slots.length;
    throw new ShmError("the server does not know the reservation any more", {
      code: "ESTALE",
      operation: "store in LMCache",
      hint: "It was restarted meanwhile: store again",
    });
  }

  #expected(ready: Ready, chunks: number): Expected {
    const { layout, pool } = ready;
    return { layout, chunks, poolBytes: pool.sizeBytes, dtype: this.#options.kvShape!.torchDtype };
  }

  #borrow(
    { pool, chunkTokens }: { pool: Pool; chunkTokens: number },
    slots: Reservation["slots"],
  ): Borrowed {
    const { shape, byteLength } = chunkLayout(this.#options.kvShape!, chunkTokens);
    const facts: ChunkFacts = {
      shape,
      byteLength,
      dtype: this.#options.kvShape!.dtype,
      tokens: chunkTokens,
    };
    const borrowed: Borrowed = new Borrowed(pool.segment, slots, facts, () => {
      this.#borrowed.delete(borrowed);
      this.#leases.delete(borrowed);
      this.#pools.sweep();
    });
    this.#borrowed.add(borrowed);
    return borrowed;
  }

  // --- refusals

  #mustHaveShape(what: string): void {
    this.#mustBeOpen(`${what} by LMCache`);
    if (this.#options.kvShape !== null) return;
    throw new ShmError(`${what}() needs to know what chunks look like`, {
      code: "EINVAL",
      operation: `${what} by LMCache`,
      hint: "Give LmcacheClient.connect() a kvShape: that of the engine",
    });
  }

  #mustBeOpen(operation: string): void {
    if (this.#closing.signal.aborted) throw closedError(operation);
  }
}

/** The same for two stores of the same chunks. */
function nameOfStore(key: ChunkKey, end: number, worker: number): string {
  const tokens = createHash("sha256").update(Uint32Array.from(key.tokens.slice(0, end)));
  return `${worker}@${key.salt}@${tokens.digest("hex")}`;
}

function isFresh({ registeredAtMs }: Server): boolean {
  return performance.now() - registeredAtMs < REGISTERED_MS;
}

/** The server knows nothing of this client's instance. */
function isForgotten(error: unknown): boolean {
  return error instanceof ShmError && error.code === "ESTALE";
}

function checkFound(found: number, asked: number): number {
  if (Number.isSafeInteger(found) && found >= 0 && found <= asked) return found;
  throw new ShmError(`LMCache says that it has ${found} of ${asked} chunks`, {
    code: "EPROTO",
    operation: "look up in LMCache",
  });
}

function closedError(operation: string): ShmError {
  return new ShmError("the client was closed", { code: "ECANCELED", operation });
}

function timedOut(operation: string, timeoutMs: number): ShmError {
  return new ShmError(`not done within ${timeoutMs} ms`, {
    code: "ETIMEDOUT",
    operation,
    details: { timeoutMs },
  });
}
