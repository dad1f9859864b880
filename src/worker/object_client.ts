// SPDX-License-Identifier: Apache-2.0
//
// A worker as something one can rely on: objects by key, in and out of the attached segment. What a
// connector asks of it, and how; v2/client.ts does it with lmshm-worker, v1/client.ts, as far as it
// can be done, with workers that speak version 1 alone, such as LMCache's.
//
// What happens when a worker is lost: requests that were not sent wait for the next one. Those that
// were are sent once more when the lost worker provably is gone, since it may write into the same
// memory, and because whole objects are read and written, so that doing it twice is doing it once.
// Everything else fails with the reason. A new worker is started when somebody needs one, within
// limits.
//
// A caller who gives up (signal, timeout) is answered at once. The memory is let go when the worker
// is done with it.

import type { ShmError } from "../errors.ts";
import type { Handshake } from "./handshake.ts";
import type { WorkerLimits } from "./limits.ts";
import type { Outcome } from "./outcome.ts";
import type { RequestWatch } from "./pending.ts";
import type { OpenTransport } from "./transport.ts";
import type { WorkerInfo } from "./worker_info.ts";

export type { WorkerInfo, WorkerLimits };

/** How an object's bytes go to and from its file; "auto": the worker chooses by its rule. */
export type IoMode = "auto" | "direct" | "cached";
/** What a file has before the object's bytes: nothing, or what LMCache's fs:// connector writes. */
export type FileHeader = "none" | "lmcache";
/** What is on the disk when a put is answered: nothing need be, the bytes, the name as well. */
export type Durability = "none" | "data" | "full";
/** What goes first: what somebody waits for, what is usual, or what can wait. */
export type Priority = "high" | "normal" | "low";

/** What a worker knows of a stored object. */
export interface StoredObject {
  readonly byteLength: number;
  /** Of its bytes; null when none was stored. */
  readonly crc32c: number | null;
  /** By name, as they were stored; bytes that are no UTF-8 read as U+FFFD. */
  readonly attributes: Readonly<Record<string, string>>;
}

export interface ObjectStat extends StoredObject {
  /** Of the last change, in milliseconds since 1970. */
  readonly mtimeMs: number;
  /** What it occupies on the disk, in bytes. */
  readonly diskBytes: number;
}

export interface ClientOptions {
  readonly open: OpenTransport;
  readonly handshake: Handshake;
  readonly limits: WorkerLimits;
  /** Ends the opening with its reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called whenever a worker that worked is lost. */
  readonly onLost?: ((error: ShmError) => void) | undefined;
}

export interface RequestOptions {
  /** Rejects the call with the signal's reason, and the worker is told to stop. */
  readonly signal?: AbortSignal | undefined;
  /** Rejects the call with ETIMEDOUT, likewise; default: the worker's own limits alone. */
  readonly timeoutMs?: number | undefined;
  /** Default "normal". Exists, remove and contains wait for their turn by it here only. */
  readonly priority?: Priority | undefined;
  /** Is told where each request is that the call makes. */
  readonly watch?: RequestWatch | undefined;
}

export interface ObjectTransfer extends RequestOptions {
  readonly key: string;
  /** From the segment's beginning, in bytes. */
  readonly offset: number;
  readonly byteLength: number;
  /** Called once, when the worker can no longer touch the memory. */
  readonly release: () => void;
  /** Default: the worker's own. */
  readonly io?: IoMode | undefined;
  /** Of files that are not ours: their length may have been made a multiple of it. Default 1. */
  readonly padBytes?: number | undefined;
}

export interface PutTransfer extends ObjectTransfer {
  /** Names of 1 to 32 of a-z, 0-9 and _; at most 32, of 4,096 bytes with their values. */
  readonly attributes?: Readonly<Record<string, string>> | undefined;
  /** Rather fail with ENOTSUP than store the object without them. Default false. */
  readonly attributesRequired?: boolean | undefined;
  /** Whether the worker computes a CRC-32C and stores it. Default true. */
  readonly checksum?: boolean | undefined;
  /** Default: the worker's own. */
  readonly sync?: Durability | undefined;
  /** Default "none". The header is made of the attributes shape, dtype and format. */
  readonly header?: FileHeader | undefined;
  /** An object that is there stays as it is. Default false. */
  readonly ifAbsent?: boolean | undefined;
}

export interface GetTransfer extends ObjectTransfer {
  /** Whether a stored checksum is compared. Default true. */
  readonly verify?: boolean | undefined;
}

/** One object of many. */
export interface BatchedPut {
  readonly key: string;
  readonly offset: number;
  readonly byteLength: number;
  readonly attributes?: PutTransfer["attributes"];
}

export type BatchedGet = Omit<BatchedPut, "attributes">;

/** What counts for all of them. */
export type PutBatch = Omit<PutTransfer, keyof BatchedPut> & {
  readonly objects: readonly BatchedPut[];
};

export type GetBatch = Omit<GetTransfer, keyof BatchedGet> & {
  readonly objects: readonly BatchedGet[];
};

/** timeoutMs counts for each page. */
export interface ObjectListOptions extends RequestOptions {
  /** Only keys that begin so. */
  readonly prefix?: string | undefined;
  /** Keys of one page, at most 1,000, which is the default. */
  readonly limit?: number | undefined;
}

export interface ObjectClient extends AsyncDisposable {
  readonly protocol: 1 | 2;
  /** Whether attributes and checksums are stored. */
  readonly keepsMetadata: boolean;
  /** What keeps the objects: "directory", "redis" or "s3"; null: the worker did not say. */
  readonly engine: string | null;
  /** Process id of the worker that was started here; null for others and while there is none. */
  readonly pid: number | null;
  /** Worker processes that replaced a lost one. */
  readonly restarts: number;
  /** Requests whose caller waits, or whose memory is held. */
  readonly outstanding: number;

  /**
   * Stores memory as the object `key`; readers see the old object or the new one.
   * @returns what the worker has stored; `attributes` are empty. Null only with `ifAbsent`: there was
   *   an object.
   * @throws {TypeError | RangeError} for arguments that no worker accepts; {ShmError} the worker's
   *   reason (ENOSPC, EDQUOT, E2BIG, ...); EPROTO, ETIMEDOUT, ECONNRESET, EWORKER when the worker
   *   is lost; EBADF after close(); ENOTSUP for what version 1 cannot do.
   */
  put(transfer: PutTransfer): Promise<StoredObject | null>;

  /**
   * Loads the object `key` into memory, at most `byteLength` bytes of it.
   * @returns null when there is none; else what was stored with it.
   * @throws as put(); {ShmError} EMSGSIZE: it is longer, by `details.objectBytes`, and nothing was
   *   loaded; EBADMSG: it is not what was stored, and the memory's contents are undefined.
   */
  get(transfer: GetTransfer): Promise<StoredObject | null>;

  /**
   * put() of many objects. `timeoutMs` and `signal` count for all of them together.
   * @returns what became of each, in their order; `release` is called when none is in flight.
   * @throws {TypeError | RangeError} for options that no worker accepts, and nothing is sent then.
   */
  putAll(batch: PutBatch): Promise<Outcome<StoredObject | null>[]>;

  /** get() of many objects, as putAll(). */
  getAll(batch: GetBatch): Promise<Outcome<StoredObject | null>[]>;

  /** What is known of an object without reading it; null when there is none. */
  stat(key: string, options?: RequestOptions): Promise<ObjectStat | null>;

  /** Whether there is an object, for each key. */
  exists(keys: readonly string[], options?: RequestOptions): Promise<boolean[]>;

  /**
   * Removes objects; whether there was one, for each key. When the worker is lost meanwhile, some
   * may have been removed.
   */
  remove(keys: readonly string[], options?: RequestOptions): Promise<boolean[]>;

  /** How many of the leading keys there are: looks no further than the first that is not. */
  contains(keys: readonly string[], options?: RequestOptions): Promise<number>;

  /**
   * All keys, in pages, in no order. Objects that come or go meanwhile may be missed. With version 2
   * three go on at a time, and others wait, by their signal and timeoutMs.
   * @throws {ShmError} ESTALE: the worker was replaced meanwhile, or ended the listing for others;
   *   ETIMEDOUT also when no other listing has ended.
   */
  list(options?: ObjectListOptions): AsyncGenerator<string[], void, undefined>;

  /** What the worker tells of itself and its directory: see INFO in docs/protocol_v2.md. */
  info(options?: RequestOptions): Promise<WorkerInfo>;

  /** Proves that the worker answers. @returns milliseconds until the answer. */
  ping(options?: RequestOptions): Promise<number>;

  /**
   * Finishes what was begun, within `timeoutMs`, and ends the worker: QUIT, then SIGTERM, then
   * SIGKILL. Never rejects. Idempotent.
   */
  close(timeoutMs?: number): Promise<void>;
}
