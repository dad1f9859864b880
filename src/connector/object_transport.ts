// SPDX-License-Identifier: Apache-2.0
//
// How a connector's objects get to a worker and back: one interface, and one small implementation
// for each version of the protocol. A transport knows files and memory; what is counted, limited
// and allocated around it is the connector's.

import { ShmError } from "../errors.ts";
import { holdAll } from "../memory/hold_all.ts";
import type { ShmRange } from "../memory/segment.ts";
import { type Outcome, outcomesOf } from "../worker/outcome.ts";
import type { Metadata } from "./chunk_metadata.ts";
import type { KeyFile } from "../keys/key_file.ts";
import type { Deadline } from "../wait.ts";
import type { ObjectStat, Priority } from "./remote_connector.ts";

/** One call: its limits, and its place among others. */
export interface TransportCall {
  readonly deadline: Deadline;
  readonly priority: Priority | undefined;
}

/** What is in memory now. */
export interface FoundObject {
  readonly byteLength: number;
  readonly crc32c: number | null;
  readonly metadata: Metadata;
}

/**
 * A miss is null or false. All errors are ShmErrors, or the signal's reason. Memory is held from the
 * call on until nobody can touch it any more, which may be after the call has ended.
 */
export interface ObjectTransport {
  readonly protocol: 1 | 2;
  /** It is lmshm-worker: objects are replaced whole, and every key has a path. */
  readonly extended: boolean;
  /** Whether metadata is stored. */
  readonly keepsMetadata: boolean;
  /** Process id of the worker that was started here; null for others and while there is none. */
  readonly pid: number | null;
  /** Workers that replaced a lost one. */
  readonly restarts: number;

  /** @param onOver called once, when the worker can no longer touch memory and file. */
  put(
    file: KeyFile,
    range: ShmRange,
    metadata: Metadata,
    call: TransportCall,
    onOver?: () => void,
  ): Promise<void>;

  /** put() of each file. Rejects only when nothing was begun. */
  putAll(
    files: readonly KeyFile[],
    ranges: readonly ShmRange[],
    metadata: readonly Metadata[],
    call: TransportCall,
  ): Promise<Outcome<void>[]>;

  /**
   * Loads the object to the beginning of `into`.
   * @throws {ShmError} EMSGSIZE when it is longer (see tooLong()), EBADMSG when it is not what was
   *   stored.
   */
  load(file: KeyFile, into: ShmRange, call: TransportCall): Promise<FoundObject | null>;

  /** load() of each file into the range of the same index. Rejects only when nothing was begun. */
  loadAll(
    files: readonly KeyFile[],
    into: readonly ShmRange[],
    call: TransportCall,
  ): Promise<Outcome<FoundObject | null>[]>;

  stat(file: KeyFile, call: TransportCall): Promise<ObjectStat | null>;
  exists(file: KeyFile, call: TransportCall): Promise<boolean>;
  /** How many of the leading ones exist. */
  contains(files: readonly KeyFile[], call: TransportCall): Promise<number>;
  list(prefix: string, call: TransportCall): Promise<string[]>;
  remove(file: KeyFile, call: TransportCall): Promise<boolean>;
  /** Milliseconds until the worker has answered. */
  ping(call: TransportCall): Promise<number>;
  /** What the worker says of itself, by name; nothing where it cannot be asked. */
  info(call: TransportCall): Promise<Readonly<Record<string, string>>>;
  /** Ends the worker, or the connection to it. Never rejects. */
  close(timeoutMs: number): Promise<void>;
}

/** For messages. */
export function shownKey(file: KeyFile): string {
  return file.key.length > 120 ? `${file.key.slice(0, 120)}...` : file.key;
}

export function tooLong(file: KeyFile, byteLength: number, into: ShmRange): ShmError {
  return new ShmError(
    `the object has ${byteLength} bytes and the range only ${into.byteLength}`,
    {
      code: "EMSGSIZE",
      operation: `get ${shownKey(file)}`,
      hint: "Give a range of at least the object's size",
      details: { key: file.key, objectBytes: byteLength, rangeBytes: into.byteLength },
    },
  );
}

/** Objects of a batch that are under way at a time where each is a request of its own. */
const BATCH_WINDOW = 64;

/**
 * outcomesOf() for a batch whose objects go one by one: each range is held before the first begins.
 * @throws what holding one throws; nothing was begun then.
 */
export async function heldOutcomes<T>(
  ranges: readonly ShmRange[],
  reason: string,
  work: (index: number) => Promise<T>,
): Promise<Outcome<T>[]> {
  const release = holdAll(ranges, reason);
  try {
    return await outcomesOf(ranges.length, BATCH_WINDOW, work);
  } finally {
    release();
  }
}
