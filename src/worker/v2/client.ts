// SPDX-License-Identifier: Apache-2.0
//
// A client of workers that speak version 2: objects by key, many at a time. Requests queue here by
// their priority, those of one turn of the event loop leave together, small objects in common lines,
// within limits; and they survive the loss of a worker, except removals, whose answer would be
// another one then.

import { ShmError } from "../../errors.ts";
import { SlotSet } from "../../slot_set.ts";
import { closedError, Keeper } from "../keeper.ts";
import { sharedLimit } from "../limits.ts";
import type {
  BatchedGet,
  BatchedPut,
  ClientOptions,
  GetBatch,
  GetTransfer,
  ObjectClient,
  ObjectListOptions,
  ObjectStat,
  ObjectTransfer,
  Priority,
  PutBatch,
  PutTransfer,
  RequestOptions,
  StoredObject,
  WorkerInfo,
} from "../object_client.ts";
import { Failed, type Outcome } from "../outcome.ts";
import type { PendingOwner } from "../pending.ts";
import { SharedRelease } from "../shared_release.ts";
import { AGAIN, type Page, type WorkerHello } from "./answers.ts";
import { ConnectionV2, type OwnerV2 } from "./connection.ts";
import { attach, sayHello } from "./handshake.ts";
import { whatKeepsMetadata } from "../metadata_place.ts";
import { workerInfo } from "./info.ts";
import { keyLines } from "./key_lines.ts";
import { type ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import {
  containedOf,
  endOf,
  factsOf,
  Fault,
  flagsOf,
  pageOf,
  type Query,
  QueryCall,
  statOf,
} from "./query_calls.ts";
import { ListingPlaces } from "./listing_places.ts";
import { lineLot, MAX_LINE_OBJECTS, ObjectQueue, type Room } from "./queue.ts";
import {
  checkLength,
  encodeAttributes,
  encodePlace,
  getOptions,
  MAX_LIST_KEYS,
  MAX_WORDS_BYTES,
  putOptions,
} from "./requests.ts";
import { BatchCall } from "./transfer_batch.ts";
import {
  GET,
  putVerb,
  TransferCall,
  type TransferPart,
  type TransferVerb,
} from "./transfer_calls.ts";

/** From so many bytes on an object goes alone. */
const LARGE_BYTES = 1 << 20;
/** What one turn of the event loop sends: encoding it takes about a millisecond. */
const TURN_OBJECTS = 512;
const TURN_CHARS = 1 << 18;

export class ClientV2 implements ObjectClient {
  readonly protocol = 2;
  readonly #options: ClientOptions;
  readonly #keeper: Keeper<ConnectionV2>;
  readonly #queue = new ObjectQueue();
  readonly #outstanding = new SlotSet<ObjectCall>();
  readonly #owner: PendingOwner;
  readonly #room: Room;
  readonly #listings: ListingPlaces<Listing>;
  /** Of the worker that is connected, or was last. */
  #hello: WorkerHello = { boot: "", worker: "", xattr: false, engine: null, window: null };
  #pumpPlanned = false;
  #accepting = true;
  /** putAll() and getAll() that have not ended. */
  #batches = 0;
  #closing: Promise<void> | null = null;

  private constructor(options: ClientOptions) {
    this.#options = options;
    this.#owner = {
      abandoned: (call) => this.#onAbandoned(call as ObjectCall),
      finished: (call) => this.#onFinished(call as ObjectCall),
    };
    this.#room = this.#makeRoom();
    this.#listings = new ListingPlaces(options.limits.controlTimeoutMs);
    this.#keeper = new Keeper<ConnectionV2>(
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
   * @param first a connection to begin with, on which HELLO may have been said.
   * @throws {ShmError} EPROTONOSUPPORT: the worker does not speak version 2; else the reason why
   *   not. Nothing is left behind then.
   */
  static async open(options: ClientOptions, first?: ConnectionV2): Promise<ClientV2> {
    const client = new ClientV2(options);
    await client.#keeper.start(first && client.#take(first));
    return client;
  }

  get keepsMetadata(): boolean {
    return this.#hello.xattr;
  }

  get engine(): string | null {
    return this.#hello.engine;
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

  put(transfer: PutTransfer): Promise<StoredObject | null> {
    if (transfer.attributesRequired && !this.keepsMetadata) {
      transfer.release();
      return Promise.reject(noMetadata(transfer.key, this.engine));
    }
    const encode = () => putPart(transfer, putOptions(transfer));
    return this.#transferOne(putVerb(transfer), transfer, encode);
  }

  get(transfer: GetTransfer): Promise<StoredObject | null> {
    return this.#transferOne(GET, transfer, () => getPart(transfer, getOptions(transfer)));
  }

  putAll(batch: PutBatch): Promise<Outcome<StoredObject | null>[]> {
    return this.#transferAll(putVerb(batch), batch, putOptions, putPart);
  }

  getAll(batch: GetBatch): Promise<Outcome<StoredObject | null>[]> {
    return this.#transferAll(GET, batch, getOptions, getPart);
  }

  async stat(key: string, options: RequestOptions = {}): Promise<ObjectStat | null> {
    return (await this.#ask(statOf(key), options)).stat;
  }

  exists(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    return this.#flags("EXISTS", keys, options);
  }

  remove(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    return this.#flags("REMOVE", keys, options);
  }

  async contains(keys: readonly string[], options: RequestOptions = {}): Promise<number> {
    const left = sharedLimit(options);
    let found = 0;
    for (const { words, count } of keyLines(keys)) {
      const here = await this.#ask(containedOf(words, count), left());
      found += here;
      if (here < count) break;
    }
    return found;
  }

  async *list(options: ObjectListOptions = {}): AsyncGenerator<string[], void, undefined> {
    const { prefix = "", limit = MAX_LIST_KEYS, ...others } = options;
    const first = pageOf(limit, null, prefix);
    const refused = this.#refused(others);
    if (refused !== null) await refused;
    const left = sharedLimit(others);
    const listing = new Listing();
    await this.#listings.take(listing, others);
    try {
      let keys = await this.#page(listing, first, left());
      for (;;) {
        if (listing.cursor === null) this.#listings.release(listing);
        if (keys.length > 0) yield keys;
        if (listing.cursor === null) return;
        if (!this.#isOpen(listing)) throw replacedError();
        keys = await this.#page(listing, pageOf(limit, listing.cursor, prefix), others);
        if (!this.#isOpen(listing)) throw replacedError();
      }
    } finally {
      void this.#leave(listing);
    }
  }

  async info(options: RequestOptions = {}): Promise<WorkerInfo> {
    const words = await this.#ask(factsOf("INFO"), { ...options, priority: "high" });
    return workerInfo(this.#hello.worker, words);
  }

  async ping(options: RequestOptions = {}): Promise<number> {
    const start = performance.now();
    await this.#ask(factsOf("PING"), { ...options, priority: "high" });
    return performance.now() - start;
  }

  close(timeoutMs: number = this.#options.limits.closeTimeoutMs): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- listings

  /** Whether its cursor can be told: another connection would take it for another listing's. */
  #isOpen({ connection }: Listing): boolean {
    return connection !== null && this.#keeper.connection === connection;
  }

  async #page(listing: Listing, query: Query<Page>, options: RequestOptions): Promise<string[]> {
    const { promise, resolve } = Promise.withResolvers<void>();
    listing.answered = promise;
    // Also when the caller has lost patience: the listing is to be ended then.
    const accept = (text: string) => {
      const page = query.accept(text);
      if (page instanceof Fault) return page;
      listing.connection ??= this.#keeper.connection;
      listing.cursor = page.cursor;
      return page;
    };
    const asked = this.#ask({ ...query, accept }, { ...options, release: resolve });
    return (await this.#listings.during(asked)).keys;
  }

  /**
   * Has the worker end a listing that was left early; its place is free then. Nobody waits for that:
   * a worker that does not answer is given up as for any request. Never rejects.
   */
  async #leave(listing: Listing): Promise<void> {
    await listing.answered;
    const { connection, cursor } = listing;
    if (connection !== null && cursor !== null && this.#isOpen(listing)) {
      await connection.ask(new QueryCall(null, endOf(cursor))).catch(() => {});
    }
    this.#listings.release(listing);
  }

  // --- requests

  #transfer<T extends StoredObject | null>(
    verb: TransferVerb<T>,
    part: TransferPart,
    alone: boolean,
    options: ObjectCallOptions,
  ): Promise<T> {
    return this.#enqueue(options, () => new TransferCall(this.#owner, verb, part, alone, options));
  }

  #transferOne<T extends StoredObject | null>(
    verb: TransferVerb<T>,
    transfer: ObjectTransfer,
    encode: () => TransferPart,
  ): Promise<T> {
    let part: TransferPart;
    try {
      part = encode();
    } catch (error) {
      return refuse(transfer, error);
    }
    return this.#refused(transfer) ?? this.#transfer(verb, part, isLarge(part), transfer);
  }

  /** What was begun is finished, all of it, also when the client is closed meanwhile. */
  async #transferAll<T extends StoredObject | null, O, B extends Batch<O>>(
    verb: TransferVerb<T>,
    batch: B,
    encodeOptions: (batch: B) => string,
    encode: (object: O, options: string) => TransferPart,
  ): Promise<Outcome<T>[]> {
    let options: string;
    try {
      options = encodeOptions(batch);
    } catch (error) {
      return await refuse(batch, error);
    }
    const refused = this.#refused(batch);
    if (refused !== null) return await refused;
    const held = new SharedRelease(batch.release);
    this.#batches++;
    try {
      return await this.#inLines(verb, batch, (object: O) => encode(object, options), held);
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
    const { objects, signal, priority, watch } = batch;
    const outcomes = new Array<Outcome<T>>(objects.length);
    const left = sharedLimit(batch);
    const options = () => ({
      ...{ signal, priority, watch },
      timeoutMs: left().timeoutMs,
      release: held.take(),
    });

    const one = async (index: number, part: TransferPart, alone: boolean): Promise<void> => {
      const own = options();
      try {
        const sent = this.#late(own) ?? this.#transfer(verb, part, alone, own);
        outcomes[index] = await sent;
      } catch (error) {
        outcomes[index] = new Failed(error);
      }
    };
    const together = async (first: number, parts: TransferPart[]): Promise<void> => {
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
      if (isLarge(part)) {
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
      this.#ask(flagsOf(verb, words, count), options)
    );
    return (await Promise.all(lines)).flat();
  }

  #ask<T>(query: Query<T>, options: ObjectCallOptions): Promise<T> {
    return this.#refused(options) ??
      this.#enqueue(options, () => new QueryCall(this.#owner, query, options));
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
      place: () => this.#keeper.connection!.linesInFlight < this.#mostLines(),
      fits: (priority, bytes) => this.#fits(this.#keeper.connection!, priority, bytes),
    };
  }

  /** One place of the worker's window is kept for CANCEL. */
  #mostLines(): number {
    return Math.min(
      this.#options.limits.maxInFlight,
      Math.max(1, (this.#hello.window ?? Infinity) - 1),
    );
  }

  #fits(connection: ConnectionV2, priority: Priority, bytes: number): boolean {
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

  #makeConnection(): ConnectionV2 {
    return this.#take(new ConnectionV2(this.#options.open, this.#options.limits));
  }

  #take(connection: ConnectionV2): ConnectionV2 {
    const owner: OwnerV2 = {
      progress: () => this.#onProgress(),
      again: (call) => this.#onAgain(call),
      down: (error) => this.#keeper.down(connection, error),
      gone: (calls, error) => this.#onGone(connection, calls as ObjectCall[], error),
    };
    connection.owner = owner;
    return connection;
  }

  async #greet(connection: ConnectionV2): Promise<string> {
    const { handshake } = this.#options;
    this.#hello = await sayHello(connection, handshake);
    await attach(connection, handshake);
    return this.#hello.boot;
  }

  /** Later, together with what those who were answered now ask next. */
  #onProgress(): void {
    if (!this.#queue.empty) this.#planPump();
  }

  #onAgain(call: ObjectCall): void {
    call.alone = true;
    call.giveBack(false);
    call.line = null;
    call.attempts--;
    this.#queue.prepend([call]);
    // A connection that was given up makes no progress that would send it.
    this.#planPump();
  }

  #onGone(connection: ConnectionV2, calls: readonly ObjectCall[], error: ShmError): void {
    const again = this.#keeper.gone(connection, calls, error);
    this.#listings.releaseIf((listing) => listing.connection === connection);
    if (again.length === 0) return;
    for (const call of again) call.repeat();
    this.#queue.prepend(again);
    this.#pump();
  }

  // --- the end

  async #close(timeoutMs: number): Promise<void> {
    this.#accepting = false;
    this.#listings.refuse(closedError("list"));
    const idle = () => this.#batches === 0 && this.#outstanding.size === 0;
    await this.#keeper.end(this.#outstanding, idle, timeoutMs);
  }
}

function noMetadata(key: string, engine: string | null): ShmError {
  return new ShmError(`put ${shownKey(key)}: this store has no place for metadata`, {
    code: "ENOTSUP",
    operation: "put",
    hint: `${whatKeepsMetadata(2, engine)}; or put it without (see keepsMetadata)`,
    details: { engine },
  });
}

type Batch<O> = RequestOptions & {
  readonly objects: readonly O[];
  readonly release: () => void;
};

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

/** A listing that has a place. */
class Listing {
  /** That has begun it; null: none has yet. */
  connection: ConnectionV2 | null = null;
  /** Of the next page; null: there is none. */
  cursor: string | null = null;
  /** No page is on its way. */
  answered: Promise<void> = Promise.resolve();
}

/** A listing that cannot go on. */
function replacedError(): ShmError {
  return new ShmError("the worker was replaced, or the connection to it, while keys were listed", {
    code: "ESTALE",
    operation: "list",
    hint: "Begin the listing again",
  });
}
