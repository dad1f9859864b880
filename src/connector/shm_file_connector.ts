// SPDX-License-Identifier: Apache-2.0
//
// One file for each key below a directory, read and written by a worker process straight from and
// to a shared segment. JavaScript sees keys, offsets and lengths only. A drop-in for LMCache's
// connector of the same name: same files, same configuration, any worker.
//
// How a request is put to the worker is a transport's business, one for each version of the
// protocol; open_transport.ts chooses. Here is what is the same for all: who may call when, what is
// counted, what the directory may hold, where memory comes from.

import { rememberOpen } from "../at_exit.ts";
import { ShmError } from "../errors.ts";
import { checkCallOptions, checkRange, describe } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { takeHold } from "../memory/hold_all.ts";
import { partOf } from "../memory/part_of_range.ts";
import { placeOf, type ShmRange, ShmSegment } from "../memory/segment.ts";
import { Failed, outcomesOf, valuesOf } from "../worker/outcome.ts";
import { type Metadata, metadataOf } from "./chunk_metadata.ts";
import { DirectoryQuota, type Reservation } from "./directory_quota.ts";
import type { Key } from "../keys/key.ts";
import { type KeyFile, keyFile } from "../keys/key_file.ts";
import { Deadline, settlesWithin } from "../wait.ts";
import {
  type FoundObject,
  heldOutcomes,
  type ObjectTransport,
  shownKey,
  type TransportCall,
} from "./object_transport.ts";
import { openTransport } from "./open_transport.ts";
import { OwnRange } from "./watched_range.ts";
import {
  CALL_OPTIONS,
  type CallOptions,
  type ConnectorStats,
  type ListOptions,
  type LoadedObject,
  type ObjectStat,
  type RemoteConnector,
  STORE_OPTIONS,
  type StoreOptions,
} from "./remote_connector.ts";
import {
  checkOptions,
  type ShmFileConnectorOptions,
  type ShmFileSettings,
} from "./shm_file_options.ts";
import {
  checkShmName,
  type NamedOptions,
  optionsFromConfig,
  optionsFromExtra,
  optionsFromUrl,
  type StoreSettings,
} from "./shm_file_sources.ts";
import { StorageDirectory } from "./storage_directory.ts";
import { unseen } from "./transport_v1.ts";

export type { ShmFileConnectorOptions };

/** Options beside those that a URL or a configuration names. */
export type OtherOptions = Omit<
  ShmFileConnectorOptions,
  "storageDir" | "workerBinary" | "workerAddr"
>;

/** Until the storage directory is counted: some million files. */
const QUOTA_OPEN_MS = 600_000;
/** Objects of a batch that are looked at in one go: less than a millisecond. */
const PIECE_OBJECTS = 1024;
/** While one is answered, the next ones are sent. */
const PIECES_AT_ONCE = 4;
/** How often load() without a range asks for the length of an object that grows. */
const LOAD_ATTEMPTS = 2;

function segmentName(segment: ShmSegment): string {
  return segment.name ?? "an anonymous segment";
}

/** The first `byteLength` bytes of a range. */
function headOf(range: ShmRange, byteLength: number): ShmRange {
  return byteLength === range.byteLength ? range : partOf(range, 0, byteLength);
}

/** See the file's head. Made by open(), create(), fromUrl() or fromConfig(). */
export class ShmFileConnector implements RemoteConnector {
  /** The memory that objects are moved from and to. */
  readonly segment: ShmSegment;
  /** Absolute. */
  readonly storageDir: string;
  /** How the worker is reached. */
  readonly mode: "pipe" | "unix" | "tcp";
  /** Whether this process sees the worker's directory: existsSync() and maxBytes need that. */
  readonly storageVisible: boolean;
  readonly #transport: ObjectTransport;
  readonly #directory: StorageDirectory;
  readonly #settings: ShmFileSettings;
  readonly #quota: DirectoryQuota | null;
  readonly #notOpen: () => void;
  #closing: Promise<void> | undefined;
  #onIdle: (() => void) | undefined;
  #inFlight = 0;
  readonly #counts = {
    puts: 0,
    gets: 0,
    hits: 0,
    misses: 0,
    mismatches: 0,
    bytesPut: 0,
    bytesGot: 0,
  };

  private constructor(
    settings: ShmFileSettings,
    transport: ObjectTransport,
    storageVisible: boolean,
    quota: DirectoryQuota | null,
  ) {
    this.segment = settings.segment;
    this.storageDir = settings.storageDir;
    this.mode = settings.address?.kind ?? "pipe";
    this.storageVisible = storageVisible;
    finalize(this, "segment", "storageDir");
    this.#settings = settings;
    this.#transport = transport;
    this.#quota = quota;
    this.#directory = new StorageDirectory(settings.storageDir);
    this.#notOpen = rememberOpen(this);
  }

  /**
   * Starts a worker, or connects to the one at workerAddr, and has it attach the segment. Close the
   * connector before the segment is freed.
   * @throws {TypeError | RangeError} naming the option at fault; {ShmError} ENOENT, EACCES, ENOEXEC
   *   (the program cannot be run), ECONNREFUSED, ETIMEDOUT, EACCES (secret), the worker's reason for
   *   not attaching, EPROTONOSUPPORT: it has not the version that was asked for, or ENOTSUP:
   *   maxBytes for a directory that cannot be seen from here, or an option that needs version 2.
   */
  static async open(options: ShmFileConnectorOptions): Promise<ShmFileConnector> {
    const settings = checkOptions(options);
    if (settings.address === null) await new StorageDirectory(settings.storageDir).create();
    const { transport, visible } = await openTransport(settings);
    try {
      const quota = await openQuota(settings, visible);
      return new ShmFileConnector(settings, transport, visible, quota);
    } catch (error) {
      await transport.close(settings.limits.closeTimeoutMs);
      throw error;
    }
  }

  /** open() by `shmfile://[host:port]/dir?shm_name=/kv[&worker_bin=/path]`. */
  static async fromUrl(url: string, others: OtherOptions): Promise<ShmFileConnector> {
    return await ShmFileConnector.#openNamed(optionsFromUrl(url), others);
  }

  /** open() by LMCache's extra_config: shmfs.storage_dir, shmfs.worker_addr and so on. */
  static async fromConfig(
    extraConfig: Readonly<Record<string, unknown>>,
    others: OtherOptions,
  ): Promise<ShmFileConnector> {
    return await ShmFileConnector.#openNamed(optionsFromExtra(extraConfig), others);
  }

  /** open() by a configuration, such as loadConfig() gives. */
  static async create(settings: StoreSettings, others: OtherOptions): Promise<ShmFileConnector> {
    return await ShmFileConnector.#openNamed(optionsFromConfig(settings), others);
  }

  /** What `others` says wins. */
  static async #openNamed(
    { options, shmName }: NamedOptions,
    others: OtherOptions,
  ): Promise<ShmFileConnector> {
    checkShmName(shmName, others.segment);
    const said = Object.entries(others).filter(([, value]) => value !== undefined);
    return await ShmFileConnector.open({
      ...options,
      ...Object.fromEntries(said),
    } as ShmFileConnectorOptions);
  }

  /** What was counted, as it is now. */
  get stats(): ConnectorStats {
    return {
      ...this.#counts,
      restarts: this.#transport.restarts,
      inFlight: this.#inFlight,
      quota: this.#quota?.stats ?? null,
    };
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get workerPid(): number | null {
    return this.#transport.pid;
  }

  /** Whether the worker is lmshm-worker; others write in place and know no paths with spaces. */
  get workerExtended(): boolean {
    return this.#transport.extended;
  }

  /** The version of the worker's protocol that is spoken. */
  get protocol(): 1 | 2 {
    return this.#transport.protocol;
  }

  /**
   * Whether metadata and checksums are stored: with version 2, where the directory's file system
   * has extended attributes.
   */
  get keepsMetadata(): boolean {
    return this.#transport.keepsMetadata;
  }

  /**
   * What the worker says of itself and its directory, by name, such as `io`: which way objects go.
   * Empty with version 1.
   */
  async workerInfo(options: CallOptions = {}): Promise<Readonly<Record<string, string>>> {
    return await this.#call("ask worker", options, (call) => this.#transport.info(call));
  }

  /** As RemoteConnector.exists(). */
  async exists(key: Key, options: CallOptions = {}): Promise<boolean> {
    const file = keyFile(key);
    return await this.#call("exists", options, (call) => this.#transport.exists(file, call));
  }

  /** As RemoteConnector.stat(). */
  async stat(key: Key, options: CallOptions = {}): Promise<ObjectStat | null> {
    const file = keyFile(key);
    return await this.#call("stat", options, (call) => this.#transport.stat(file, call));
  }

  /** As RemoteConnector.existsSync(). */
  existsSync(key: Key): boolean {
    const file = keyFile(key);
    this.#mustBeOpen("exists");
    if (!this.storageVisible) throw unseen("existsSync", this.storageDir);
    return this.#directory.existsSync(file.fileName);
  }

  /**
   * As RemoteConnector.get(). Without `into`, memory comes from the option `allocate`, and is the
   * caller's to dispose of. What it gave is returned itself, a memory object truncated to the object's
   * length; where that cannot be, a part, which is disposed of in its place. On a miss it is disposed
   * of, where it can be. Null also when it gave none.
   */
  async get(key: Key, into?: ShmRange, options: CallOptions = {}): Promise<ShmRange | null> {
    return (await this.load(key, into, options))?.range ?? null;
  }

  /** As get(). */
  async load(key: Key, into?: ShmRange, options: CallOptions = {}): Promise<LoadedObject | null> {
    const file = keyFile(key);
    if (into !== undefined) this.#checkRange("get", into);
    const call = this.#enter("get", options);
    this.#counts.gets++;
    try {
      const loaded = into === undefined
        ? await this.#loadAllocated(file, call)
        : loadedInto(into, await this.#transport.load(file, into, call));
      this.#countLoaded(file, loaded?.range ?? null);
      return loaded;
    } catch (error) {
      if (!this.#countMismatch(error)) throw error;
      this.#countLoaded(file, null);
      return null;
    } finally {
      this.#leave();
    }
  }

  /** As RemoteConnector.put(). */
  async put(key: Key, range: ShmRange, options: StoreOptions = {}): Promise<void> {
    const file = keyFile(key);
    this.#checkRange("put", range);
    const metadata = metadataOf(range, options.metadata);
    const call = this.#enter("put", options, STORE_OPTIONS);
    try {
      await this.#store(file, range, metadata, call);
      this.#countStored(range);
    } finally {
      this.#leave();
    }
  }

  /** As RemoteConnector.list(). */
  async list(options: ListOptions = {}): Promise<string[]> {
    const { prefix = "", ...rest } = options;
    if (typeof prefix !== "string") {
      throw new TypeError(`prefix must be a string, got ${describe(prefix)}`);
    }
    return await this.#call("list", rest, (call) => this.#transport.list(prefix, call));
  }

  /** As RemoteConnector.remove(). */
  async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    const file = keyFile(key);
    return await this.#call("remove", options, async (call) => {
      const removed = await this.#transport.remove(file, call);
      this.#quota?.removed(file.fileName);
      return removed;
    });
  }

  /** As RemoteConnector.batchedGet(). */
  async batchedGet(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<(ShmRange | null)[]> {
    const loaded = await this.batchedLoad(keys, into, options);
    return loaded.map((one) => one?.range ?? null);
  }

  /** As RemoteConnector.batchedLoad(). */
  async batchedLoad(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<(LoadedObject | null)[]> {
    checkPairs("batchedGet", keys, into);
    return await this.#call("batchedGet", options, async (call) => {
      const pieces = await inPieces(
        keys.length,
        (from, to) => this.#loadPiece(keys.slice(from, to), into.slice(from, to), call),
      );
      return pieces.flat();
    });
  }

  /** As RemoteConnector.batchedPut(). */
  async batchedPut(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<void> {
    checkPairs("batchedPut", keys, ranges);
    await this.#call("batchedPut", options, async (call) => {
      await inPieces(
        keys.length,
        (from, to) => this.#storePiece(keys.slice(from, to), ranges.slice(from, to), call),
      );
    });
  }

  /** As RemoteConnector.batchedContains(). */
  async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    const files = keys.map(keyFile);
    return await this.#call(
      "batchedContains",
      options,
      async (call) => files.length === 0 ? 0 : await this.#transport.contains(files, call),
    );
  }

  /** As RemoteConnector.ping(). */
  async ping(options: CallOptions = {}): Promise<number> {
    return await this.#call("ping", options, (call) => this.#transport.ping(call));
  }

  /** See RemoteConnector; calls in flight have closeTimeoutMs. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close().finally(this.#notOpen);
    return this.#closing;
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const { closeTimeoutMs } = this.#settings.limits;
    const start = performance.now();
    const { promise: idle, resolve } = Promise.withResolvers<void>();
    this.#onIdle = resolve;
    if (this.#inFlight > 0) await settlesWithin(idle, closeTimeoutMs);
    await this.#transport.close(closeTimeoutMs - (performance.now() - start));
  }

  async #call<T>(
    operation: string,
    options: CallOptions,
    work: (call: TransportCall) => Promise<T>,
  ): Promise<T> {
    const call = this.#enter(operation, options);
    try {
      return await work(call);
    } finally {
      this.#leave();
    }
  }

  /** A call begins; leave() must follow. @throws as the options or the connector's state demand. */
  #enter(
    operation: string,
    options: CallOptions,
    known: readonly string[] = CALL_OPTIONS,
  ): TransportCall {
    this.#mustBeOpen(operation);
    checkCallOptions(operation, options, known);
    const call = callOf(options);
    this.#inFlight++;
    return call;
  }

  #leave(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) this.#onIdle?.();
  }

  // --- load

  /** @throws the first error, after all have ended. */
  async #loadPiece(
    keys: readonly Key[],
    into: readonly ShmRange[],
    call: TransportCall,
  ): Promise<(LoadedObject | null)[]> {
    const files = keys.map((key) => keyFile(key));
    for (const range of into) this.#checkRange("batchedGet", range);
    this.#counts.gets += files.length;
    const found = await this.#transport.loadAll(files, into, call);
    const all: (LoadedObject | null)[] = [];
    const failures: unknown[] = [];
    for (let i = 0; i < found.length; i++) {
      const one = found[i]!;
      let loaded: LoadedObject | null = null;
      if (one instanceof Failed) {
        if (!this.#countMismatch(one.error)) {
          failures.push(one.error);
          continue;
        }
      } else {
        loaded = loadedInto(into[i]!, one);
      }
      this.#countLoaded(files[i]!, loaded?.range ?? null);
      all.push(loaded);
    }
    if (failures.length > 0) throw failures[0];
    return all;
  }

  /** Wrong data is no data; it is counted. @returns whether the error says that it is wrong. */
  #countMismatch(error: unknown): boolean {
    if (!(error instanceof ShmError) || error.code !== "EBADMSG") return false;
    this.#counts.mismatches++;
    return true;
  }

  #countLoaded(file: KeyFile, range: ShmRange | null): void {
    if (range === null) {
      this.#counts.misses++;
      return;
    }
    this.#quota?.touch(file.fileName);
    this.#counts.hits++;
    this.#counts.bytesGot += range.byteLength;
  }

  async #loadAllocated(file: KeyFile, call: TransportCall): Promise<LoadedObject | null> {
    const { allocate } = this.#settings;
    if (allocate === undefined) {
      throw new TypeError("get() without a range needs the connector's option allocate");
    }
    for (let attempt = 1;; attempt++) {
      const facts = await this.#transport.stat(file, call);
      if (facts === null) return null;
      const into = allocate(facts.byteLength);
      if (into === null) return null;
      try {
        return await this.#fill(file, into, call);
      } catch (error) {
        // A longer one has taken its place.
        const grown = error instanceof ShmError && error.code === "EMSGSIZE";
        if (!grown || attempt === LOAD_ATTEMPTS) throw error;
      }
    }
  }

  /** Loads into memory of our own, which is given back on a miss and on a failure. */
  async #fill(file: KeyFile, into: ShmRange, call: TransportCall): Promise<LoadedObject | null> {
    const own = new OwnRange(into);
    let loaded: LoadedObject | null = null;
    let release: (() => void) | undefined;
    try {
      this.#checkRange("get", into);
      release = own.hold(`get ${shownKey(file)}`);
      const found = await this.#transport.load(file, own, call);
      if (found !== null) loaded = loadedAs(own.head(found.byteLength), found);
      return loaded;
    } finally {
      release?.();
      if (loaded === null) own.discard();
    }
  }

  // --- put

  /** @throws the first error, after all have ended. */
  async #storePiece(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    call: TransportCall,
  ): Promise<void> {
    const files = keys.map((key) => keyFile(key));
    for (const range of ranges) this.#checkRange("batchedPut", range);
    const metadata = ranges.map((range) => metadataOf(range));
    const stored = this.#quota === null
      ? await this.#transport.putAll(files, ranges, metadata, call)
      : await heldOutcomes(
        ranges,
        `put ${files.length} objects`,
        (i) => this.#store(files[i]!, ranges[i]!, metadata[i]!, call),
      );
    const failures: unknown[] = [];
    for (let i = 0; i < stored.length; i++) {
      const one = stored[i];
      if (one instanceof Failed) failures.push(one.error);
      else this.#countStored(ranges[i]!);
    }
    if (failures.length > 0) throw failures[0];
  }

  #countStored(range: ShmRange): void {
    this.#counts.puts++;
    this.#counts.bytesPut += range.byteLength;
  }

  /** Writes an object, within the directory's limit if it has one. */
  async #store(
    file: KeyFile,
    range: ShmRange,
    metadata: Metadata,
    call: TransportCall,
  ): Promise<void> {
    if (this.#quota === null) {
      return await this.#transport.put(file, range, metadata, call);
    }
    const release = takeHold(range, `put ${shownKey(file)}`);
    try {
      await this.#storeLimited(this.#quota, file, range, metadata, call);
    } finally {
      release();
    }
  }

  async #storeLimited(
    quota: DirectoryQuota,
    file: KeyFile,
    range: ShmRange,
    metadata: Metadata,
    call: TransportCall,
  ): Promise<void> {
    const room = await this.#makeRoom(quota, file, range.byteLength, call);
    // Whether this call waits for it or has given up: the room is taken until the worker is done.
    let counted: Promise<void> | null = null;
    const onOver = () => {
      counted = room.commit();
      counted.catch(() => {});
    };
    const settle = async () => {
      if (counted !== null) await this.#inTime(counted, "count object", call);
    };
    try {
      await this.#transport.put(file, range, metadata, call, onOver);
    } catch (error) {
      await settle().catch(() => {});
      throw error;
    }
    await settle();
  }

  async #makeRoom(
    quota: DirectoryQuota,
    file: KeyFile,
    byteLength: number,
    call: TransportCall,
  ): Promise<Reservation> {
    const reserving = quota.reserve(file.fileName, byteLength, this.keepsMetadata);
    try {
      return await this.#inTime(reserving, "make room in the storage directory", call);
    } catch (error) {
      reserving.then((room) => room.cancel(), () => {});
      throw error;
    }
  }

  #inTime<T>(work: Promise<T>, what: string, { deadline }: TransportCall): Promise<T> {
    return deadline.wait(work, what, this.#settings.limits.controlTimeoutMs);
  }

  // --- checks

  #checkRange(operation: string, range: ShmRange): void {
    if (typeof range !== "object" || range === null || typeof range.hold !== "function") {
      throw new TypeError(`${operation} takes a range of a segment, got ${describe(range)}`);
    }
    if (range.segment === this.segment) {
      checkRange(range.offset, range.byteLength, placeOf(this.segment).sizeBytes);
      return;
    }
    if (!(range.segment instanceof ShmSegment)) {
      // An object of a BufferAllocator, say: the worker cannot reach memory of the runtime.
      throw new TypeError(`${operation} takes a range of a segment, and ${range} is in none`);
    }
    const [theirs, ours] = [range.segment, this.segment].map(segmentName);
    throw new ShmError(
      `the range belongs to ${theirs}, and this connector's worker has attached ` +
        (theirs === ours ? "another one" : ours),
      {
        code: "EINVAL",
        operation,
        hint: "Open one connector for each segment",
        details: { rangeSegment: theirs, connectorSegment: ours },
      },
    );
  }

  #mustBeOpen(operation: string): void {
    if (this.#closing === undefined) return;
    throw new ShmError("the connector is closed", {
      code: "EBADF",
      operation,
      hint: "Open a new one",
    });
  }
}

/** `found` is at the beginning of `into`. */
function loadedInto(into: ShmRange, found: FoundObject | null): LoadedObject | null {
  return found === null ? null : loadedAs(headOf(into, found.byteLength), found);
}

function loadedAs(range: ShmRange, { metadata, crc32c }: FoundObject): LoadedObject {
  return { range, metadata, crc32c };
}

/**
 * Has `work` carry out [from, to) of so many, piece by piece; the event loop has its turn between the
 * beginnings of two.
 * @throws the first error, after all have ended.
 */
async function inPieces<T>(
  count: number,
  work: (from: number, to: number) => Promise<T>,
): Promise<T[]> {
  let turn = Promise.resolve();
  const outcomes = await outcomesOf(
    Math.ceil(count / PIECE_OBJECTS),
    PIECES_AT_ONCE,
    async (index) => {
      const from = index * PIECE_OBJECTS;
      const mine = turn;
      turn = mine.then(() => new Promise((resolve) => setImmediate(resolve)));
      if (index > 0) await mine;
      return await work(from, Math.min(count, from + PIECE_OBJECTS));
    },
  );
  return valuesOf(outcomes);
}

/** What most calls say. */
const PLAIN_CALL: TransportCall = { deadline: Deadline.NONE, priority: undefined };

function callOf({ timeoutMs, signal, priority }: CallOptions): TransportCall {
  if (timeoutMs === undefined && signal === undefined && priority === undefined) return PLAIN_CALL;
  checkPriority(priority);
  return { deadline: new Deadline(timeoutMs ?? Infinity, signal ?? undefined), priority };
}

function checkPriority(priority: unknown): void {
  if (priority === undefined || priority === "high" || priority === "normal") return;
  if (priority === "low") return;
  throw new TypeError(`priority must be "high", "normal" or "low", got ${describe(priority)}`);
}

/** Null when there is no limit. */
async function openQuota(
  { storageDir, maxBytes }: ShmFileSettings,
  visible: boolean,
): Promise<DirectoryQuota | null> {
  if (maxBytes === undefined) return null;
  if (!visible) {
    throw new ShmError(
      `maxBytes is ${maxBytes}, and ${storageDir} of the worker cannot be seen from here, so ` +
        "nothing in it can be counted or removed",
      {
        code: "ENOTSUP",
        operation: "limit the storage directory",
        hint: "Mount the directory at the same path here, or leave maxBytes out",
        details: { maxBytes, storageDir },
      },
    );
  }
  const opening = DirectoryQuota.open(storageDir, { maxBytes });
  return await new Deadline(QUOTA_OPEN_MS).wait(opening, "count objects", QUOTA_OPEN_MS);
}

function checkPairs(operation: string, keys: readonly Key[], ranges: readonly ShmRange[]): void {
  if (keys.length === ranges.length) return;
  throw new RangeError(`${operation}: ${keys.length} keys and ${ranges.length} ranges`);
}
