// SPDX-License-Identifier: Apache-2.0
//
// A worker of protocol version 2 as something one can rely on: objects by key, many at a time, in
// and out of the attached segment. What client.ts is for version 1. Requests queue here by their
// priority, those of one turn of the event loop leave together, small objects in common lines,
// within limits; and they survive the loss of a worker.
//
// What happens when a worker is lost: as with version 1. Requests that were not sent wait for the
// next one; those that were are sent once more when the lost worker provably is gone, except
// removals, whose answer would be another one then.
//
// A caller who gives up (signal, timeout) is answered at once, and the worker is told to stop. The
// memory is let go when the worker says that it has.

import type { ShmError } from "../errors.ts";
import { SlotSet } from "../slot_set.ts";
import { AGAIN, type ObjectStat, type StoredObject } from "./answers_v2.ts";
import { closedError, Keeper } from "./keeper.ts";
import { keyLines } from "./key_lines.ts";
import { type ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import { ObjectConnection } from "./object_connection.ts";
import { greetWorker } from "./object_handshake.ts";
import type {
  BatchedGet,
  BatchedPut,
  GetBatch,
  GetTransfer,
  ObjectClientOptions,
  ObjectListOptions,
  ObjectTransfer,
  ObjectWorkerFacts,
  PutBatch,
  PutTransfer,
  RequestOptions,
} from "./object_options.ts";
import { lineLot, MAX_LINE_OBJECTS, ObjectQueue, type Room } from "./object_queue.ts";
import { Failed, type Outcome } from "./outcome.ts";
import type { PendingOwner } from "./pending.ts";
import {
  checkLength,
  type Durability,
  encodeAttributes,
  encodeKey,
  encodeList,
  encodePlace,
  getOptions,
  type IoMode,
  MAX_LIST_KEYS,
  MAX_WORDS_BYTES,
  type Priority,
  putOptions,
} from "./protocol_v2.ts";
import { ContainsCall, FactsCall, FlagsCall, ListCall, StatCall } from "./query_calls.ts";
import { unsupported } from "./reply_error.ts";
import { BatchCall, SharedRelease } from "./transfer_batch.ts";
import { GET, PUT, TransferCall, type TransferPart, type TransferVerb } from "./transfer_calls.ts";

export type {
  Durability,
  GetBatch,
  GetTransfer,
  IoMode,
  ObjectClientOptions,
  ObjectListOptions,
  ObjectStat,
  ObjectTransfer,
  ObjectWorkerFacts,
  Priority,
  PutBatch,
  PutTransfer,
  RequestOptions,
  StoredObject,
};

/** From so many bytes on an object goes alone. */
const LARGE_BYTES = 1 << 20;
/** What one turn of the event loop sends: encoding it takes about a millisecond. */
const TURN_OBJECTS = 512;
const TURN_CHARS = 1 << 18;

export class ObjectClient implements AsyncDisposable {
  readonly #options: ObjectClientOptions;
  readonly #keeper: Keeper<ObjectConnection>;
  readonly #queue = new ObjectQueue();
  readonly #outstanding = new SlotSet<ObjectCall>();
  readonly #owner: PendingOwner;
  readonly #room: Room;
  #facts: ObjectWorkerFacts = { boot: "", worker: "", features: new Set(), window: Infinity };
  #pumpPlanned = false;
  #accepting = true;
  /** putAll() and getAll() that have not ended. */
  #batches = 0;
  #closing: Promise<void> | null = null;

  private constructor(options: ObjectClientOptions) {
    this.#options = options;
    this.#owner = {
      abandoned: (call) => this.#onAbandoned(call as ObjectCall),
      finished: (call) => this.#onFinished(call as ObjectCall),
    };
    this.#room = this.#makeRoom();
    this.#keeper = new Keeper<ObjectConnection>(
      {
        make: () => this.#makeConnection(),
        greet: (connection) => this.#greet(connection),
        needed: () => !this.#queue.empty,
        pump: () => this.#pump(),
        refuse: (error) => this.#failQueue(error),
      },
      options.limits.restarts,
      options.onLost,
    );
  }

  /**
   * Starts or connects to a worker and attaches the segment.
   * @throws {ShmError} EPROTONOSUPPORT: the worker does not speak version 2; else the reason why
   *   not. Nothing is left behind then.
   */
  static async open(options: ObjectClientOptions): Promise<ObjectClient> {
    const client = new ObjectClient(options);
    await client.#keeper.start();
    return client;
  }

  get facts(): ObjectWorkerFacts {
    return this.#facts;
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get pid(): number | null {
    return this.#keeper.connection?.pid ?? null;
  }

  /** Worker processes that replaced a lost one. */
  get restarts(): number {
    return this.#keeper.restarts;
  }

  /** Requests whose caller waits, or whose memory is held. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  /**
   * Stores memory as the object `key`; readers see the old object or the new one.
   * @returns what the worker has stored; `attributes` are empty.
   * @throws {TypeError | RangeError} for arguments that no worker accepts; {ShmError} the worker's
   *   reason (ENOSPC, EDQUOT, E2BIG, ...); ENOTSUP: `sync` with a worker that does not know it;
   *   EPROTO, ETIMEDOUT, ECONNRESET, EWORKER when the worker is lost; EBADF after close().
   */
  put(transfer: PutTransfer): Promise<StoredObject> {
    let part: TransferPart;
    try {
      part = putPart(transfer, putOptions(this.#known(transfer)));
    } catch (error) {
      transfer.release();
      return Promise.reject(error);
    }
    return this.#refused(transfer) ?? this.#transfer(PUT, part, isLarge(part), transfer);
  }

  /**
   * Loads the object `key` into memory, at most `byteLength` bytes of it.
   * @returns null when there is none; else what was stored with it.
   * @throws as put(); {ShmError} EMSGSIZE: it is longer, by `details.objectBytes`, and nothing was
   *   loaded; EBADMSG: it is not what was stored, and the memory's contents are undefined.
   */
  get(transfer: GetTransfer): Promise<StoredObject | null> {
    let part: TransferPart;
    try {
      part = getPart(transfer, getOptions(this.#known(transfer)));
    } catch (error) {
      transfer.release();
      return Promise.reject(error);
    }
    return this.#refused(transfer) ?? this.#transfer(GET, part, isLarge(part), transfer);
  }

  /**
   * put() of many objects, which costs a fraction of as many calls. `timeoutMs` and `signal` count
   * for all of them together.
   * @returns what became of each, in their order; `release` is called when none is in flight.
   * @throws {TypeError | RangeError} for options that no worker accepts, and nothing is sent then.
   */
  putAll(batch: PutBatch): Promise<Outcome<StoredObject>[]> {
    let options: string;
    try {
      options = putOptions(this.#known(batch));
    } catch (error) {
      batch.release();
      return Promise.reject(error);
    }
    return this.#transferAll(PUT, batch, (object) => putPart(object, options));
  }

  /** get() of many objects, as putAll(). */
  getAll(batch: GetBatch): Promise<Outcome<StoredObject | null>[]> {
    let options: string;
    try {
      options = getOptions(this.#known(batch));
    } catch (error) {
      batch.release();
      return Promise.reject(error);
    }
    return this.#transferAll(GET, batch, (object) => getPart(object, options));
  }

  /** What is known of an object without reading it; null when there is none. */
  async stat(key: string, options: RequestOptions = {}): Promise<ObjectStat | null> {
    const words = encodeKey(key);
    checkLength("stat", words.length);
    return await this.#submit(options, () => new StatCall(this.#owner, key, words, options));
  }

  /** Whether there is an object, for each key. */
  exists(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    return this.#flags("EXISTS", keys, options);
  }

  /**
   * Removes objects; whether there was one, for each key. When the worker is lost meanwhile, some
   * may have been removed.
   */
  remove(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    return this.#flags("REMOVE", keys, options);
  }

  /** How many of the leading keys there are: looks no further than the first that is not. */
  async contains(keys: readonly string[], options: RequestOptions = {}): Promise<number> {
    const left = sharedLimit(options);
    let found = 0;
    for (const { words, count } of keyLines(keys)) {
      const limits = left();
      const here = this.#facts.features.has("batch")
        ? await this.#submit(
          limits,
          () => new ContainsCall(this.#owner, words, count, limits),
        )
        : leading(
          await this.#submit(
            limits,
            () => new FlagsCall(this.#owner, "EXISTS", words, count, limits),
          ),
        );
      found += here;
      if (here < count) break;
    }
    return found;
  }

  /** All keys, in pages, in no order. Objects that come or go meanwhile may be missed. */
  async *list(options: ObjectListOptions = {}): AsyncGenerator<string[], void, undefined> {
    const { prefix = "", limit = MAX_LIST_KEYS, ...others } = options;
    let cursor: string | null = null;
    do {
      const words = encodeList(limit, cursor, prefix);
      const page: { cursor: string | null; keys: string[] } = await this.#submit(
        others,
        () => new ListCall(this.#owner, words, limit, others),
      );
      if (page.keys.length > 0) yield page.keys;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  /** What the worker tells of itself and its root: see INFO in docs/protocol_v2.md. */
  info(options: RequestOptions = {}): Promise<Readonly<Record<string, string>>> {
    return this.#submit(options, () => new FactsCall(this.#owner, "INFO", options));
  }

  /** Proves that the worker answers. @returns milliseconds until the answer. */
  async ping(options: RequestOptions = {}): Promise<number> {
    const start = performance.now();
    await this.#submit(options, () => new FactsCall(this.#owner, "PING", options));
    return performance.now() - start;
  }

  /**
   * Finishes what was begun, within `timeoutMs`, and ends the worker: QUIT, then SIGTERM, then
   * SIGKILL. Never rejects. Idempotent.
   */
  close(timeoutMs: number = this.#options.limits.closeTimeoutMs): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- requests

  /** The options as this worker can be told of them. */
  #known<T extends Pick<PutTransfer, "io" | "sync">>(options: T): T {
    if (this.#facts.features.has("batch")) return options;
    const { sync } = options;
    if (sync !== undefined && sync !== "none") {
      throw unsupported(`sync=${sync}`, "store an object durably");
    }
    // How it is done is the worker's own business, what is done is not.
    return { ...options, io: undefined, sync: undefined };
  }

  #transfer<T extends StoredObject | null>(
    verb: TransferVerb<T>,
    part: TransferPart,
    alone: boolean,
    options: ObjectCallOptions,
  ): Promise<T> {
    return this.#enqueue(options, () => new TransferCall(this.#owner, verb, part, alone, options));
  }

  /** What was begun is finished, all of it, also when the client is closed meanwhile. */
  async #transferAll<T extends StoredObject | null, O>(
    verb: TransferVerb<T>,
    batch: RequestOptions & { readonly objects: readonly O[]; readonly release: () => void },
    encode: (object: O) => TransferPart,
  ): Promise<Outcome<T>[]> {
    const refused = this.#refused(batch);
    if (refused !== null) return await refused;
    const held = new SharedRelease(batch.release);
    this.#batches++;
    try {
      return await this.#inLines(verb, batch, encode, held);
    } finally {
      this.#batches--;
      this.#keeper.changed();
      held.drop();
    }
  }

  /**
   * A line is sent as soon as it is full: the worker is at it while the next one is written. After
   * some of them the event loop has its turn.
   */
  async #inLines<T extends StoredObject | null, O>(
    verb: TransferVerb<T>,
    batch: RequestOptions & { readonly objects: readonly O[] },
    encode: (object: O) => TransferPart,
    held: SharedRelease,
  ): Promise<Outcome<T>[]> {
    const { objects, signal, priority } = batch;
    const outcomes = new Array<Outcome<T>>(objects.length);
    const left = sharedLimit(batch);
    const options = () => ({ signal, priority, timeoutMs: left().timeoutMs, release: held.take() });

    const one = async (index: number, part: TransferPart, alone: boolean): Promise<void> => {
      const own = options();
      try {
        const sent = this.#late(own) ?? this.#transfer(verb, part, alone, own);
        outcomes[index] = await sent;
      } catch (error) {
        outcomes[index] = new Failed(error);
      }
    };
    const together = async (first: number, parts: readonly TransferPart[]): Promise<void> => {
      const own = options();
      const again: Promise<void>[] = [];
      try {
        const sent = this.#late(own) ??
          this.#enqueue(own, () => new BatchCall(this.#owner, verb, parts, own));
        this.#pump();
        const answered = await sent;
        for (let i = 0; i < parts.length; i++) {
          const outcome = answered[i]!;
          if (outcome === AGAIN) again.push(one(first + i, parts[i]!, true));
          else outcomes[first + i] = outcome;
        }
      } catch (error) {
        outcomes.fill(new Failed(error), first, first + parts.length);
      }
      await Promise.all(again);
    };

    const going: Promise<void>[] = [];
    const batches = this.#facts.features.has("batch");
    let parts: TransferPart[] = [];
    let lot = lineLot(MAX_LINE_OBJECTS);
    const send = (end: number) => {
      if (parts.length === 1) going.push(one(end - 1, parts[0]!, false));
      else if (parts.length > 1) going.push(together(end - parts.length, parts));
      parts = [];
      lot = lineLot(MAX_LINE_OBJECTS);
    };
    for (let index = 0; index < objects.length; index++) {
      if (index % TURN_OBJECTS === 0 && index > 0) {
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
      let part: TransferPart;
      try {
        part = encode(objects[index]!);
      } catch (error) {
        send(index);
        outcomes[index] = new Failed(error);
        continue;
      }
      if (!batches || isLarge(part)) {
        send(index);
        going.push(one(index, part, true));
        continue;
      }
      const { words, tail, byteLength } = part;
      const chars = words.length + tail.length;
      if (!lot(chars, byteLength)) {
        send(index);
        lot(chars, byteLength);
      }
      parts.push(part);
    }
    send(objects.length);
    await Promise.all(going);
    return outcomes;
  }

  async #flags(
    verb: "EXISTS" | "REMOVE",
    keys: readonly string[],
    options: RequestOptions,
  ): Promise<boolean[]> {
    const lines = keyLines(keys).map(({ words, count }) =>
      this.#submit(options, () => new FlagsCall(this.#owner, verb, words, count, options))
    );
    return (await Promise.all(lines)).flat();
  }

  #submit<T>(options: ObjectCallOptions, make: () => ObjectCall<T>): Promise<T> {
    return this.#refused(options) ?? this.#enqueue(options, make);
  }

  /** A rejected promise if no request is accepted; its memory is let go. */
  #refused(options: ObjectCallOptions): Promise<never> | null {
    return this.#accepting
      ? this.#late(options)
      : refuse(options, closedError("talk to the worker"));
  }

  /** The same for a part of something that was begun before close(). */
  #late(options: ObjectCallOptions): Promise<never> | null {
    if (this.#keeper.ended) return refuse(options, closedError("finish the request"));
    return options.signal?.aborted ? refuse(options, options.signal.reason) : null;
  }

  #enqueue<T>(options: ObjectCallOptions, make: () => ObjectCall<T>): Promise<T> {
    let call: ObjectCall<T>;
    try {
      call = make();
    } catch (error) {
      return refuse(options, error);
    }
    this.#outstanding.add(call as ObjectCall);
    this.#queue.push(call as ObjectCall);
    this.#planPump();
    return call.promise;
  }

  #onAbandoned(call: ObjectCall): void {
    // A caller who gives up before the request was sent takes the memory back at once.
    if (!call.sent) call.free();
    else if (call.line?.settled) this.#keeper.connection?.cancel(call.line);
  }

  #onFinished(call: ObjectCall): void {
    this.#outstanding.delete(call);
    if (this.#outstanding.size === 0) this.#keeper.changed();
  }

  #failQueue(error: unknown): void {
    for (const call of this.#queue.takeAll()) call.refuse(error);
  }

  // --- sending

  #planPump(): void {
    if (this.#pumpPlanned) return;
    this.#pumpPlanned = true;
    const pump = () => {
      this.#pumpPlanned = false;
      this.#pump();
    };
    // Alone, a request leaves as soon as the caller lets go; among others it waits for all that
    // this turn of the event loop brings, because one long write is far cheaper than many.
    const connection = this.#keeper.connection;
    if (connection === null || connection.linesInFlight === 0) queueMicrotask(pump);
    else setImmediate(pump);
  }

  #pump(): void {
    const connection = this.#keeper.connection;
    if (connection === null) {
      if (!this.#queue.empty && !this.#keeper.ended) this.#keeper.need();
      return;
    }
    if (connection.blocked) return;
    const now = performance.now();
    let text = "";
    let objects = 0;
    while (objects < TURN_OBJECTS && text.length < TURN_CHARS) {
      const calls = this.#queue.take(this.#room);
      if (calls === null) break;
      text += connection.encode(calls, now);
      for (const call of calls) objects += call.objects;
    }
    if (text === "") return;
    connection.write(text);
    if (objects >= TURN_OBJECTS || text.length >= TURN_CHARS) this.#planPump();
  }

  #makeRoom(): Room {
    return {
      batches: () => this.#facts.features.has("batch"),
      place: () => this.#keeper.connection!.linesInFlight < this.#mostLines(),
      fits: (priority, bytes) => this.#fits(this.#keeper.connection!, priority, bytes),
    };
  }

  /** One place of the worker's window is kept for CANCEL. */
  #mostLines(): number {
    return Math.min(this.#options.limits.maxInFlight, Math.max(1, this.#facts.window - 1));
  }

  #fits(connection: ObjectConnection, priority: Priority, bytes: number): boolean {
    const lines = connection.linesInFlight;
    // A request that is larger than allowed goes alone.
    if (lines === 0) return true;
    const most = this.#mostLines();
    const { maxInFlightBytes } = this.#options.limits;
    const total = connection.bytesInFlight + bytes;
    switch (priority) {
      case "high":
        // Somebody waits for it: one may go whatever the others move.
        return lines < most && (total <= maxInFlightBytes || connection.highLinesInFlight === 0);
      case "normal":
        return lines < most - (most > 2 ? 1 : 0) && total <= maxInFlightBytes;
      case "low":
        return lines < Math.ceil(most * 0.75) && total <= maxInFlightBytes * 0.75;
    }
  }

  // --- connections

  #makeConnection(): ObjectConnection {
    return new ObjectConnection(this.#options.open, this.#options.limits, {
      progress: () => this.#onProgress(),
      again: (call) => this.#onAgain(call),
      down: (connection, error) => this.#keeper.down(connection, error),
      gone: (connection, calls, error) => this.#onGone(connection, calls, error),
    });
  }

  async #greet(connection: ObjectConnection): Promise<string> {
    const { boot, worker, features, window } = await greetWorker(
      connection,
      this.#options.handshake,
    );
    this.#facts = { boot, worker, features, window: window ?? Infinity };
    return boot;
  }

  /** Later, together with what those who were answered now ask next. */
  #onProgress(): void {
    if (!this.#queue.empty) this.#planPump();
  }

  #onAgain(call: ObjectCall): void {
    call.alone = true;
    call.sent = false;
    call.line = null;
    call.attempts--;
    this.#queue.prepend([call]);
    // A connection that was given up makes no progress that would send it.
    this.#planPump();
  }

  #onGone(connection: ObjectConnection, calls: readonly ObjectCall[], error: ShmError): void {
    const again = this.#keeper.gone(connection, calls, error);
    if (again.length === 0) return;
    this.#queue.prepend(again);
    this.#pump();
  }

  // --- the end

  async #close(timeoutMs: number): Promise<void> {
    this.#accepting = false;
    const idle = () => this.#batches === 0 && this.#outstanding.size === 0;
    await this.#keeper.end(this.#outstanding, idle, timeoutMs);
  }
}

/** For requests one after the other that have `options.timeoutMs` together: what is left of it. */
function sharedLimit(options: RequestOptions): () => RequestOptions {
  const { timeoutMs } = options;
  if (timeoutMs === undefined) return () => options;
  const end = performance.now() + timeoutMs;
  return () => ({ ...options, timeoutMs: Math.max(1, Math.ceil(end - performance.now())) });
}

/** A request that is not made: its memory is let go. */
function refuse({ release }: ObjectCallOptions, error: unknown): Promise<never> {
  release?.();
  return Promise.reject(error);
}

/** It gains nothing by company. */
function isLarge({ byteLength }: { readonly byteLength: number }): boolean {
  return byteLength >= LARGE_BYTES;
}

/** @throws {TypeError | RangeError} naming the value at fault. */
function putPart(
  { key, offset, byteLength, attributes }: BatchedPut,
  options: string,
): TransferPart {
  const words = encodePlace(key, offset, byteLength) + options;
  const tail = attributes === undefined ? "" : encodeAttributes(attributes);
  const chars = words.length + tail.length;
  if (chars > MAX_WORDS_BYTES) checkLength(`put ${shownKey(key)}`, chars);
  return { key, byteLength, words, tail };
}

/** @throws {TypeError | RangeError} naming the value at fault. */
function getPart({ key, offset, byteLength }: BatchedGet, options: string): TransferPart {
  const words = encodePlace(key, offset, byteLength) + options;
  if (words.length > MAX_WORDS_BYTES) checkLength(`get ${shownKey(key)}`, words.length);
  return { key, byteLength, words, tail: "" };
}

/** How many are true before the first that is not. */
function leading(flags: readonly boolean[]): number {
  const missing = flags.indexOf(false);
  return missing < 0 ? flags.length : missing;
}
