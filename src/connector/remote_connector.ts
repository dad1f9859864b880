// SPDX-License-Identifier: Apache-2.0
//
// What every connector to a store can do. Names follow LMCache's RemoteConnector. Objects move
// between the store and ranges of a shared segment; a connector never gives bytes to JavaScript.

import type { ShmRange } from "../memory/segment.ts";
import type { Priority } from "../worker/object_client.ts";
import type { Metadata } from "./chunk_metadata.ts";
import type { Key } from "../keys/key.ts";

export type { Priority };

/** What every call takes. */
export interface CallOptions {
  /** Rejects the call with the signal's reason. Its memory stays held until nobody uses it. */
  signal?: AbortSignal | undefined;
  /** Rejects the call with ETIMEDOUT after so many milliseconds, likewise. */
  timeoutMs?: number | undefined;
  /** What somebody waits for overtakes what can wait. Default "normal". Stores that know no priorities treat all calls alike. */
  priority?: Priority | undefined;
}

/** All the names of Options, or it does not compile. */
const namesOf = <Options>(names: Record<keyof Options, 0>): readonly string[] => Object.keys(names);

const CALL_NAMES = { signal: 0, timeoutMs: 0, priority: 0 } as const;
/** The names of CallOptions. */
export const CALL_OPTIONS: readonly string[] = namesOf<CallOptions>(CALL_NAMES);

/** What batchedPut() and putEach() take. */
export interface BatchedPutOptions extends CallOptions {
  /**
   * True: an object that is there stays as it is, and the put gives false. Spares exists() before each
   * put where the key says what the object is, such as a hash of its content. Default false: what is
   * there is replaced.
   *
   * The one that is there may be of any length and content, and nothing of it is read. Of several puts
   * at a time one stores its object. It is no lock, though: a put that may have been carried out when
   * its worker, or an engine's connection, was lost is done again without the condition, so that false
   * never means the object that it stored itself.
   * @throws {ShmError} ENOTSUP with a worker of version 1.
   */
  ifAbsent?: boolean | undefined;
}

const BATCHED_PUT_NAMES = { ...CALL_NAMES, ifAbsent: 0 } as const;
/** The names of BatchedPutOptions. */
export const BATCHED_PUT_OPTIONS: readonly string[] = namesOf<BatchedPutOptions>(BATCHED_PUT_NAMES);

/** What put() takes. */
export interface PutOptions extends BatchedPutOptions {
  /**
   * Kept with the object, where the store can: names of 1 to 32 of a-z, 0-9 and "_", and texts. A
   * memory object brings its shape, dtype and format by itself.
   */
  metadata?: Metadata | undefined;
}

/** The names of PutOptions. */
export const PUT_OPTIONS: readonly string[] = namesOf<PutOptions>({
  ...BATCHED_PUT_NAMES,
  metadata: 0,
});

/** What a store knows of an object without reading it. */
export interface ObjectStat {
  /** Its length. */
  readonly byteLength: number;
  /** When it was stored, in milliseconds since 1970. */
  readonly mtimeMs: number;
  /** What it takes of the disk. */
  readonly diskBytes: number;
  /** CRC-32C of its bytes; null where none was stored. */
  readonly crc32c: number | null;
  /** What was stored with it; empty where the store keeps none. */
  readonly metadata: Metadata;
}

/** An object in memory, with what was stored with it. */
export interface LoadedObject {
  /** Exactly the object's bytes. */
  readonly range: ShmRange;
  /** What was stored with it; empty where the store keeps none. */
  readonly metadata: Metadata;
  /** CRC-32C of its bytes; null where none was stored. */
  readonly crc32c: number | null;
}

/**
 * What list() takes. timeoutMs counts for each page of keys, some hundred, that is waited for; for the
 * first one together with the wait for a place.
 */
export interface ListOptions extends CallOptions {
  /** Only keys that begin so. */
  prefix?: string | undefined;
}

/** The names of ListOptions. */
export const LIST_OPTIONS: readonly string[] = namesOf<ListOptions>({ ...CALL_NAMES, prefix: 0 });

/** Counted since the connector was opened. */
export interface ConnectorStats {
  /** Objects that were stored; not those that were there already (ifAbsent). */
  readonly puts: number;
  /** Objects that were asked for. */
  readonly gets: number;
  /** Gets that found the object. */
  readonly hits: number;
  /** Gets that did not, mismatches included. */
  readonly misses: number;
  /** Gets that found something else than was stored: its length, key or checksum do not match. */
  readonly mismatches: number;
  /** Bytes that were stored. */
  readonly bytesPut: number;
  /** Bytes that were loaded. */
  readonly bytesGot: number;
  /** Workers that replaced a lost one. */
  readonly restarts: number;
  /** Calls that have not ended, those included that wait for their turn. */
  readonly inFlight: number;
}

/**
 * A store of objects by key. Calls may overlap freely. A miss is null or false, never an error; a
 * put replaces the whole object or fails. Everything else that can go wrong is a ShmError.
 */
export interface RemoteConnector extends AsyncDisposable {
  /** What was counted, as it is now. */
  readonly stats: ConnectorStats;

  /** The text under which the store has a key; without this, as a directory has it. */
  keyText?(key: Key): string;

  /** Whether there is an object. */
  exists(key: Key, options?: CallOptions): Promise<boolean>;

  /**
   * Loads the object into the beginning of `into`.
   * @returns the part of `into` that has it, or null on a miss; what `into` has is undefined then, and
   *   likewise when the call fails. Whoever holds the part holds `into`.
   * @throws {ShmError} EMSGSIZE when the object is longer than `into`.
   */
  get(key: Key, into?: ShmRange, options?: CallOptions): Promise<ShmRange | null>;

  /** get() with what was stored beside the bytes. */
  load(key: Key, into?: ShmRange, options?: CallOptions): Promise<LoadedObject | null>;

  /**
   * Null on a miss. Reads no content, and so verifies none.
   * @throws {ShmError} ENOTSUP where the store cannot tell, which holds for list() and remove() too.
   */
  stat(key: Key, options?: CallOptions): Promise<ObjectStat | null>;

  /**
   * Stores the bytes of `range`; they must not change until it has resolved.
   * @returns whether it did. False only with ifAbsent: there was an object, which stays as it is.
   */
  put(key: Key, range: ShmRange, options?: PutOptions): Promise<boolean>;

  /**
   * All keys, in no order, as they are asked for: `for await (const key of connector.list())`, which
   * may be left early. Objects that come or go meanwhile may or may not be listed. A store may go on
   * with a few listings at a time only (a worker with three of more than a page), and more wait until
   * one has ended. An iterator that nobody advances keeps its place: call its return() when it is not
   * needed any more.
   * @throws {ShmError} ESTALE when the store cannot go on with it, because the worker was replaced
   *   meanwhile, or has given its place to others: begin again; ETIMEDOUT: no other listing has ended
   *   in time, as when each of four was begun in the loop of the one before.
   */
  list(options?: ListOptions): AsyncIterable<string>;

  /** All keys of list(). */
  listAll(options?: ListOptions): Promise<string[]>;

  /** Removes the object. @returns whether there was one. */
  remove(key: Key, options?: CallOptions): Promise<boolean>;

  /**
   * get() of each key into the range of the same index. Keys and ranges are looked at in pieces: what
   * is wrong with one of them keeps its whole piece from being begun, and none of the others.
   * @throws the first error, after all have ended.
   */
  batchedGet(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options?: CallOptions,
  ): Promise<(ShmRange | null)[]>;

  /**
   * load() of each key into the range of the same index, and what became of each, as
   * Promise.allSettled() has it: a failed one hides none of the others. `signal` and `timeoutMs` count
   * for all together. A store without batches has
   * `Promise.allSettled(keys.map((key, i) => this.load(key, into[i], options)))`.
   * @throws only if nothing was begun.
   */
  loadEach(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options?: CallOptions,
  ): Promise<PromiseSettledResult<LoadedObject | null>[]>;

  /**
   * put() of each key, with pieces and errors as batchedGet() has them. Of a key that is there twice
   * any may be the last, or with ifAbsent the only one.
   */
  batchedPut(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options?: BatchedPutOptions,
  ): Promise<boolean[]>;

  /** put() of each key, and what became of each, as loadEach() has it. */
  putEach(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options?: BatchedPutOptions,
  ): Promise<PromiseSettledResult<boolean>[]>;

  /** How many of the leading keys exist: the length of the prefix that can be loaded. */
  batchedContains(keys: readonly Key[], options?: CallOptions): Promise<number>;

  /**
   * remove() of each key, in few requests. After a failure some may have been removed.
   * @returns whether there was one, for each key.
   */
  batchedRemove(keys: readonly Key[], options?: CallOptions): Promise<boolean[]>;

  /** Proves that the store answers. @returns milliseconds until it did. */
  ping(options?: CallOptions): Promise<number>;

  /** Finishes what was begun, within limits, and lets go of everything. Idempotent. */
  close(): Promise<void>;
}
