// SPDX-License-Identifier: Apache-2.0
//
// One file for each key below a directory, read and written by a worker process straight from and
// to a shared segment. JavaScript sees keys, offsets and lengths only. A drop-in for LMCache's
// connector of the same name: same files, same configuration, any worker.
//
// How a request is put to the worker is its client's business (worker/). Here is what comes before:
// who may call when, what is counted, where memory comes from.

import { rememberOpen } from "../at_exit.ts";
import { ShmError } from "../errors.ts";
import { checkCallOptions, checkKnownOptions, checkRange, describe } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { holdAll, takeHold } from "../memory/hold_all.ts";
import { partOf } from "../memory/part_of_range.ts";
import { placeOf, type ShmRange, ShmSegment } from "../memory/segment.ts";
import type {
  ObjectClient,
  RequestOptions,
  StoredObject,
  WorkerInfo,
} from "../worker/object_client.ts";
import { Failed, type Outcome, outcomesOf, valuesOf } from "../worker/outcome.ts";
import { type ObservedCall, Probe } from "../telemetry_probe.ts";
import { isLayout, metadataOf } from "./chunk_metadata.ts";
import type { Key } from "../keys/key.ts";
import { keyText } from "../keys/key_file.ts";
import type { TelemetryAttributes } from "../telemetry.ts";
import { Deadline, openingSignal, settlesWithin } from "../wait.ts";
import { openWorker } from "./open_worker.ts";
import { OwnRange } from "./watched_range.ts";
import {
  BATCHED_PUT_OPTIONS,
  type BatchedPutOptions,
  CALL_OPTIONS,
  type CallOptions,
  type ConnectorStats,
  LIST_OPTIONS,
  type ListOptions,
  type LoadedObject,
  type ObjectStat,
  type Priority,
  PUT_OPTIONS,
  type PutOptions,
  type RemoteConnector,
} from "./remote_connector.ts";
import {
  checkOptions,
  type ShmFileConnectorOptions,
  type ShmFileSettings,
} from "./shm_file_options.ts";
import { checkShmName, type ConnectorSource, optionsFrom } from "./shm_file_sources.ts";

export type { ShmFileConnectorOptions };

/** Options beside those that a URL or a configuration names. */
export type OtherOptions = Omit<
  ShmFileConnectorOptions,
  "storageDir" | "store" | "workerBinary" | "workerAddress"
>;

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

/** See the file's head. Made by open() or fromConfig(). */
export class ShmFileConnector implements RemoteConnector {
  /** The memory that objects are moved from and to. */
  readonly segment: ShmSegment;
  /** As the worker sees it: absolute, or below its root; "": that root, or there is none. */
  readonly storageDir: string;
  /** The URL of an engine, without a password; null: the store is a directory, or a running worker's. */
  readonly store: string | null;
  /** How the worker is reached. */
  readonly transport: "pipe" | "unix" | "tcp";
  readonly #client: ObjectClient;
  readonly #settings: ShmFileSettings;
  readonly #notOpen: () => void;
  /** Null: nothing is told of calls. */
  readonly #probe: Probe | null;
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

  private constructor(settings: ShmFileSettings, client: ObjectClient) {
    this.segment = settings.segment;
    this.storageDir = settings.storageDir;
    this.transport = settings.address?.kind ?? "pipe";
    this.store = settings.engine?.url ?? null;
    finalize(this, "segment", "storageDir", "store");
    this.#settings = settings;
    this.#client = client;
    this.#notOpen = rememberOpen(this);
    this.#probe = Probe.of("client", settings.telemetry, nameOfStore(settings, this.transport));
  }

  /**
   * Starts a worker, or connects to the one at workerAddress, and has it attach the segment. Close the
   * connector before the segment is freed.
   * @throws {TypeError | RangeError} naming the option at fault; {ShmError} ENOENT, EACCES, ENOEXEC
   *   (the program cannot be run), ECONNREFUSED, ETIMEDOUT, EACCES (secret), EXDEV (storageDir is
   *   outside the worker's root), the worker's reason for not attaching, or ENOTSUP: maxBytes with
   *   workerAddress, or an option that the worker does not know; the signal's reason. Nothing is left
   *   behind then.
   */
  static async open(options: ShmFileConnectorOptions): Promise<ShmFileConnector> {
    const settings = checkOptions(options);
    using limit = openingSignal("open connector", options);
    return new ShmFileConnector(settings, await openWorker(settings, limit.signal));
  }

  /** open() by a configuration or a URL; what `others` says wins. */
  static async fromConfig(
    source: ConnectorSource,
    others: OtherOptions,
  ): Promise<ShmFileConnector> {
    const { options, shmName } = optionsFrom(source);
    checkShmName(shmName, others.segment);
    const said = Object.entries(others).filter(([, value]) => value !== undefined);
    return await ShmFileConnector.open({
      ...options,
      ...Object.fromEntries(said),
    } as ShmFileConnectorOptions);
  }

  /** What was counted, as it is now. */
  get stats(): ConnectorStats {
    return { ...this.#counts, restarts: this.#client.restarts, inFlight: this.#inFlight };
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get workerPid(): number | null {
    return this.#client.pid;
  }

  /** The version of the protocol that is spoken: 2, and 1 with workers that know no other. */
  get protocol(): 1 | 2 {
    return this.#client.protocol;
  }

  /**
   * Whether metadata and checksums are stored: with version 2, where the directory's file system
   * has extended attributes, or the engine's layout has a place for them. Else a put with metadata of
   * the caller's is ENOTSUP.
   */
  get keepsMetadata(): boolean {
    return this.#client.keepsMetadata;
  }

  /**
   * What keeps the objects, as the worker said when it was reached: "directory", "redis" or "s3";
   * null: it did not say, such as one of version 1.
   */
  get engine(): string | null {
    return this.#client.engine;
  }

  /**
   * What the worker says of itself and its directory, such as `io`: which way objects go.
   * @throws {ShmError} ENOTSUP with version 1.
   */
  async info(options: CallOptions = {}): Promise<WorkerInfo> {
    return await this.#call("info", options, (call) => this.#client.info(limitsOf(call)));
  }

  /** As RemoteConnector.exists(). */
  async exists(key: Key, options: CallOptions = {}): Promise<boolean> {
    const keys = [this.keyText(key)];
    const found = await this.#call(
      "exists",
      options,
      (call) => this.#client.exists(keys, limitsOf(call)),
      keys,
    );
    return found[0]!;
  }

  /**
   * The text under which the store has a key: of an ObjectKey as LMCache's adapters for files spell it, or
   * those for Redis and S3 where the worker has such a store.
   */
  keyText(key: Key): string {
    const { engine } = this.#client;
    return keyText(key, engine !== null && engine !== "directory");
  }

  /** As RemoteConnector.stat(). */
  async stat(key: Key, options: CallOptions = {}): Promise<ObjectStat | null> {
    const text = this.keyText(key);
    return await this.#call("stat", options, (call) => this.#stat(text, call), [text]);
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
    const text = this.keyText(key);
    if (into !== undefined) this.#checkRange("get", into);
    const call = this.#enter("get", options);
    this.#counts.gets++;
    try {
      return await this.#observe(
        "get",
        [text],
        call,
        (call) => this.#loadCounted(text, into, call),
      );
    } finally {
      this.#leave();
    }
  }

  async #loadCounted(
    key: string,
    into: ShmRange | undefined,
    call: Call,
  ): Promise<LoadedObject | null> {
    try {
      const loaded = into === undefined
        ? await this.#loadAllocated(key, call)
        : await this.#loadInto(key, into, call);
      this.#countLoaded(loaded?.range ?? null, call);
      return loaded;
    } catch (error) {
      if (!this.#countMismatch(error)) throw error;
      this.#countLoaded(null, call, "mismatch");
      return null;
    }
  }

  /** As RemoteConnector.put(). */
  async put(key: Key, range: ShmRange, options: PutOptions = {}): Promise<boolean> {
    const text = this.keyText(key);
    this.#checkRange("put", range);
    const { metadata } = options;
    const ifAbsent = ifAbsentOf(options);
    const attributes = metadataOf(range, metadata);
    const call = this.#enter("put", options, PUT_OPTIONS);
    try {
      return await this.#observe("put", [text], call, async (call) => {
        const stored = await this.#client.put({
          key: text,
          offset: offsetOf(range),
          byteLength: range.byteLength,
          release: takeHold(range, `put ${shown(text)}`),
          ...limitsOf(call),
          attributes,
          // A layout is stored as far as the worker can; what the caller says must not be lost.
          attributesRequired: metadata !== undefined && !isLayout(metadata),
          ifAbsent,
          ...this.#putOptions(),
        });
        return this.#countStored(range, stored, call);
      });
    } finally {
      this.#leave();
    }
  }

  /** As RemoteConnector.list(). */
  list(options: ListOptions = {}): AsyncGenerator<string, void, undefined> {
    checkKnownOptions("list", options, LIST_OPTIONS);
    const { prefix = "", ...rest } = options;
    if (typeof prefix !== "string") {
      throw new TypeError(`prefix must be a string, got ${describe(prefix)}`);
    }
    this.#enter("list", rest);
    this.#leave();
    return this.#list(prefix, rest);
  }

  async *#list(prefix: string, options: CallOptions): AsyncGenerator<string, void, undefined> {
    const pages = this.#client.list({ prefix, ...options });
    try {
      for (;;) {
        const page = await this.#call("list", options, () => pages.next());
        if (page.done) return;
        yield* page.value;
      }
    } finally {
      await pages.return();
    }
  }

  /** As RemoteConnector.listAll(). */
  async listAll(options: ListOptions = {}): Promise<string[]> {
    const listed: string[] = [];
    for await (const key of this.list(options)) listed.push(key);
    return listed;
  }

  /** As RemoteConnector.remove(). */
  async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    const keys = [this.keyText(key)];
    const removed = await this.#call(
      "remove",
      options,
      (call) => this.#client.remove(keys, limitsOf(call)),
      keys,
    );
    return removed[0]!;
  }

  /** As RemoteConnector.batchedGet(). */
  async batchedGet(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<(ShmRange | null)[]> {
    const loaded = valuesOf(await this.#loadEach("batchedGet", keys, into, options));
    return loaded.map((one) => one?.range ?? null);
  }

  /** As RemoteConnector.loadEach(). */
  async loadEach(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<PromiseSettledResult<LoadedObject | null>[]> {
    return (await this.#loadEach("loadEach", keys, into, options)).map(settled);
  }

  async #loadEach(
    operation: string,
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions,
  ): Promise<Outcome<LoadedObject | null>[]> {
    checkPairs(operation, keys, into);
    return await this.#call(
      operation,
      options,
      async (call) =>
        told(
          call,
          await inPieces(
            keys.length,
            (from, to) =>
              this.#loadPiece(operation, keys.slice(from, to), into.slice(from, to), call),
          ),
        ),
      keys,
      "get",
    );
  }

  /** As RemoteConnector.batchedPut(). */
  async batchedPut(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: BatchedPutOptions = {},
  ): Promise<boolean[]> {
    return valuesOf(await this.#putEach("batchedPut", keys, ranges, options));
  }

  /** As RemoteConnector.putEach(). */
  async putEach(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: BatchedPutOptions = {},
  ): Promise<PromiseSettledResult<boolean>[]> {
    return (await this.#putEach("putEach", keys, ranges, options)).map(settled);
  }

  async #putEach(
    operation: string,
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: BatchedPutOptions,
  ): Promise<Outcome<boolean>[]> {
    checkPairs(operation, keys, ranges);
    const ifAbsent = ifAbsentOf(options);
    return await this.#call(
      operation,
      options,
      async (call) =>
        told(
          call,
          await inPieces(
            keys.length,
            (from, to) =>
              this.#putPiece(
                operation,
                keys.slice(from, to),
                ranges.slice(from, to),
                ifAbsent,
                call,
              ),
          ),
        ),
      keys,
      "put",
      BATCHED_PUT_OPTIONS,
    );
  }

  /** As RemoteConnector.batchedContains(). */
  async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    const texts = keys.map((key) => this.keyText(key));
    return await this.#call(
      "batchedContains",
      options,
      (call) => this.#client.contains(texts, limitsOf(call)),
      texts,
      "contains",
    );
  }

  /** As RemoteConnector.batchedRemove(). */
  async batchedRemove(keys: readonly Key[], options: CallOptions = {}): Promise<boolean[]> {
    const texts = keys.map((key) => this.keyText(key));
    return await this.#call(
      "batchedRemove",
      options,
      (call) => this.#client.remove(texts, limitsOf(call)),
      texts,
      "remove",
    );
  }

  /** As RemoteConnector.ping(). */
  async ping(options: CallOptions = {}): Promise<number> {
    return await this.#call("ping", options, (call) => this.#client.ping(limitsOf(call)));
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
    await this.#client.close(closeTimeoutMs - (performance.now() - start));
  }

  async #call<T>(
    operation: string,
    options: CallOptions,
    work: (call: Call) => Promise<T>,
    keys: readonly Key[] = [],
    verb = operation,
    known = CALL_OPTIONS,
  ): Promise<T> {
    const call = this.#enter(operation, options, known);
    try {
      return await (keys.length === 0 ? work(call) : this.#observe(verb, keys, call, work));
    } finally {
      this.#leave();
    }
  }

  /** Has telemetry follow a call that is about these keys. */
  #observe<T>(
    verb: string,
    keys: readonly Key[],
    call: Call,
    work: (call: Call) => Promise<T>,
  ): Promise<T> {
    const probe = this.#probe;
    if (probe === null) return work(call);
    const single = keys.length === 1;
    const operation = single ? verb : `BATCH ${verb}`;
    const { priority, deadline } = call;
    return probe.during({
      span: `${operation} ${this.storageDir}`.trimEnd(),
      operation,
      objects: keys.length,
      signal: deadline.signal,
      attributes: {
        "db.operation.name": operation,
        ...(single
          ? { "lmshm.key": shown(textOf(keys[0]!)) }
          : { "db.operation.batch.size": keys.length }),
        ...(priority === undefined ? {} : { "lmshm.priority": priority }),
      },
    }, (observed) => work({ ...call, watch: observed }));
  }

  /** A call begins; leave() must follow. @throws as the options or the connector's state demand. */
  #enter(
    operation: string,
    options: CallOptions,
    known: readonly string[] = CALL_OPTIONS,
  ): Call {
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

  async #stat(key: string, call: Call): Promise<ObjectStat | null> {
    const found = await this.#client.stat(key, limitsOf(call));
    if (found === null) return null;
    const { byteLength, mtimeMs, diskBytes, crc32c, attributes: metadata } = found;
    return { byteLength, mtimeMs, diskBytes, crc32c, metadata };
  }

  async #loadInto(key: string, into: ShmRange, call: Call): Promise<LoadedObject | null> {
    const { ioMode: io, checksum: verify, padBytes } = this.#settings;
    return loadedInto(
      into,
      await this.#client.get({
        key,
        offset: offsetOf(into),
        byteLength: into.byteLength,
        release: takeHold(into, `get ${shown(key)}`),
        ...limitsOf(call),
        verify,
        io,
        padBytes,
      }),
    );
  }

  /** What became of each. @throws if nothing was begun. */
  async #loadPiece(
    operation: string,
    keys: readonly Key[],
    into: readonly ShmRange[],
    call: Call,
  ): Promise<Outcome<LoadedObject | null>[]> {
    const texts = keys.map((key) => this.keyText(key));
    for (const range of into) this.#checkRange(operation, range);
    this.#counts.gets += texts.length;
    const { ioMode: io, checksum: verify, padBytes } = this.#settings;
    const found = await this.#client.getAll({
      objects: into.map((range, i) => ({
        key: texts[i]!,
        offset: offsetOf(range),
        byteLength: range.byteLength,
      })),
      release: holdAll(into, `get ${texts.length} objects`),
      ...limitsOf(call),
      verify,
      io,
      padBytes,
    });
    return found.map((one, i) => {
      if (one instanceof Failed && !this.#countMismatch(one.error)) return one;
      const loaded = one instanceof Failed ? null : loadedInto(into[i]!, one);
      this.#countLoaded(loaded?.range ?? null, call, one instanceof Failed ? "mismatch" : "miss");
      return loaded;
    });
  }

  /** Wrong data is no data; it is counted. @returns whether the error says that it is wrong. */
  #countMismatch(error: unknown): boolean {
    if (!(error instanceof ShmError) || error.code !== "EBADMSG") return false;
    this.#counts.mismatches++;
    return true;
  }

  /** @param otherwise what it is if there is none */
  #countLoaded(range: ShmRange | null, call: Call, otherwise = "miss"): void {
    if (range === null) {
      this.#counts.misses++;
      call.watch?.looked(otherwise);
      return;
    }
    this.#counts.hits++;
    this.#counts.bytesGot += range.byteLength;
    call.watch?.looked("hit", range.byteLength);
  }

  async #loadAllocated(key: string, call: Call): Promise<LoadedObject | null> {
    const { allocate } = this.#settings;
    if (allocate === undefined) {
      throw new TypeError("get() without a range needs the connector's option allocate");
    }
    for (let attempt = 1;; attempt++) {
      const facts = await this.#stat(key, call);
      if (facts === null) return null;
      const into = allocate(facts.byteLength);
      if (into === null) return null;
      try {
        return await this.#fill(key, into, call);
      } catch (error) {
        // A longer one has taken its place.
        const grown = error instanceof ShmError && error.code === "EMSGSIZE";
        if (!grown || attempt === LOAD_ATTEMPTS) throw error;
      }
    }
  }

  /** Loads into memory of our own, which is given back on a miss and on a failure. */
  async #fill(key: string, into: ShmRange, call: Call): Promise<LoadedObject | null> {
    const own = new OwnRange(into);
    let loaded: LoadedObject | null = null;
    let release: (() => void) | undefined;
    try {
      this.#checkRange("get", into);
      release = own.hold(`get ${shown(key)}`);
      const found = await this.#loadInto(key, own, call);
      if (found !== null) loaded = { ...found, range: own.head(found.range.byteLength) };
      return loaded;
    } finally {
      release?.();
      if (loaded === null) own.discard();
    }
  }

  // --- put

  /** As #loadPiece(). */
  async #putPiece(
    operation: string,
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    ifAbsent: boolean | undefined,
    call: Call,
  ): Promise<Outcome<boolean>[]> {
    const texts = keys.map((key) => this.keyText(key));
    for (const range of ranges) this.#checkRange(operation, range);
    const stored = await this.#client.putAll({
      objects: ranges.map((range, i) => ({
        key: texts[i]!,
        offset: offsetOf(range),
        byteLength: range.byteLength,
        attributes: metadataOf(range),
      })),
      release: holdAll(ranges, `put ${texts.length} objects`),
      ...limitsOf(call),
      ifAbsent,
      ...this.#putOptions(),
    });
    return stored.map((one, i) =>
      one instanceof Failed ? one : this.#countStored(ranges[i]!, one, call)
    );
  }

  #putOptions() {
    const { ioMode: io, durability: sync, checksum, saveChunkMeta, padBytes } = this.#settings;
    const header = saveChunkMeta ? "lmcache" as const : undefined;
    return { io, sync, checksum, header, padBytes };
  }

  /** @returns whether something was. */
  #countStored(range: ShmRange, stored: StoredObject | null, call: Call): boolean {
    if (stored === null) return false;
    this.#counts.puts++;
    this.#counts.bytesPut += range.byteLength;
    call.watch?.stored(range.byteLength);
    return true;
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
function loadedInto(into: ShmRange, found: StoredObject | null): LoadedObject | null {
  if (found === null) return null;
  const { byteLength, attributes: metadata, crc32c } = found;
  return { range: headOf(into, byteLength), metadata, crc32c };
}

/** An empty range may begin where the segment ends. */
function offsetOf(range: ShmRange): number {
  return range.byteLength === 0 ? 0 : range.offset;
}

/** The part of a key that a message shows. */
function shown(key: string): string {
  return key.length > 120 ? `${key.slice(0, 120)}...` : key;
}

/**
 * Has `work` carry out [from, to) of so many, piece by piece; the event loop has its turn between the
 * beginnings of two.
 * @returns what became of each; where `work` threw, its error for each of the piece.
 */
async function inPieces<T>(
  count: number,
  work: (from: number, to: number) => Promise<Outcome<T>[]>,
): Promise<Outcome<T>[]> {
  let turn = Promise.resolve();
  const pieces = await outcomesOf(
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
  return pieces.flatMap((piece, index) =>
    piece instanceof Failed
      ? new Array<Outcome<T>>(Math.min(PIECE_OBJECTS, count - index * PIECE_OBJECTS)).fill(piece)
      : piece
  );
}

function settled<T>(outcome: Outcome<T>): PromiseSettledResult<T> {
  return outcome instanceof Failed
    ? { status: "rejected", reason: outcome.error }
    : { status: "fulfilled", value: outcome };
}

/** One call: its limits, and its place among others. */
interface Call {
  readonly deadline: Deadline;
  readonly priority: Priority | undefined;
  /** Telemetry follows it. */
  readonly watch?: ObservedCall;
}

/** What is left of it. */
function limitsOf({ deadline, priority, watch }: Call): RequestOptions {
  return { signal: deadline.signal, timeoutMs: deadline.leftMs, priority, watch };
}

/** What failed of a batch is told; the rest was. */
function told<T>({ watch }: Call, outcomes: Outcome<T>[]): Outcome<T>[] {
  if (watch === undefined) return outcomes;
  for (const one of outcomes) if (one instanceof Failed) watch.failed(one.error, 1);
  return outcomes;
}

/** As OpenTelemetry names what a client talks to. */
function nameOfStore(
  { storageDir, address }: ShmFileSettings,
  transport: string,
): TelemetryAttributes {
  return {
    "db.system.name": "lmshm",
    ...(storageDir === "" ? {} : { "db.namespace": storageDir }),
    "network.transport": transport,
    ...(address?.kind === "tcp"
      ? { "server.address": address.host, "server.port": address.port }
      : address?.kind === "unix"
      ? { "server.address": address.path }
      : {}),
  };
}

/** Of a key that the call itself will refuse, nothing. */
function textOf(key: Key): string {
  try {
    return keyText(key);
  } catch {
    return "";
  }
}

/** What most calls say. */
const PLAIN_CALL: Call = { deadline: Deadline.NONE, priority: undefined };

function callOf({ timeoutMs, signal, priority }: CallOptions): Call {
  if (timeoutMs === undefined && signal === undefined && priority === undefined) return PLAIN_CALL;
  checkPriority(priority);
  return { deadline: new Deadline(timeoutMs ?? Infinity, signal ?? undefined), priority };
}

function ifAbsentOf({ ifAbsent }: BatchedPutOptions): boolean | undefined {
  if (ifAbsent === undefined || typeof ifAbsent === "boolean") return ifAbsent;
  throw new TypeError(`ifAbsent must be true or false, got ${describe(ifAbsent)}`);
}

function checkPriority(priority: unknown): void {
  if (priority === undefined || priority === "high" || priority === "normal") return;
  if (priority === "low") return;
  throw new TypeError(`priority must be "high", "normal" or "low", got ${describe(priority)}`);
}

function checkPairs(operation: string, keys: readonly Key[], ranges: readonly ShmRange[]): void {
  if (keys.length === ranges.length) return;
  throw new RangeError(`${operation}: ${keys.length} keys and ${ranges.length} ranges`);
}
