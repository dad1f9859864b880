// SPDX-License-Identifier: Apache-2.0
//
// One file for each key below a directory, read and written by a worker process straight from and
// to a shared segment. JavaScript sees keys, offsets and lengths only. A drop-in for LMCache's
// connector of the same name: same files, same configuration, any worker of protocol version 1.
//
// Version 1 has commands for data alone. Whether an object exists, how long it is, which there are,
// and removing one, are asked of the file system here, where the directory can be seen. A worker in
// another container may see it where this process does not: then existence is asked by reading zero
// bytes, and what cannot be asked (list, remove, long keys) is refused.
//
// "Which object did I read?" A file may be replaced by a longer one between looking up its length
// and reading it, and the reply alone cannot tell a whole object from the beginning of a longer
// one. So when an object fills its range, the file is looked at again afterwards.

import { ShmError } from "../errors.ts";
import { describe } from "../arguments.ts";
import type { ShmRange, ShmSegment } from "../memory/segment.ts";
import { locateWorker } from "../native/locate.ts";
import { WorkerClient } from "../worker/client.ts";
import type { AttachRequest, Reply } from "../worker/protocol.ts";
import { replyError } from "../worker/reply_error.ts";
import { SocketTransport } from "../worker/socket_transport.ts";
import { SpawnTransport } from "../worker/spawn_transport.ts";
import { type OpenTransport, settlesWithin } from "../worker/transport.ts";
import { DirectoryQuota, type Reservation } from "./directory_quota.ts";
import type { Key } from "./key.ts";
import { type KeyFile, keyFile } from "./key_file.ts";
import { Deadline } from "./limit.ts";
import type {
  CallOptions,
  ConnectorStats,
  ListOptions,
  RemoteConnector,
} from "./remote_connector.ts";
import {
  checkOptions,
  checkShmName,
  optionsFromConfig,
  optionsFromUrl,
  type ShmFileConnectorOptions,
  type ShmFileSettings,
} from "./shm_file_options.ts";
import { type ObjectFacts, StorageDirectory } from "./storage_directory.ts";

export type { ShmFileConnectorOptions };

/** Options beside those that a URL or a configuration names. */
export type OtherOptions = Omit<
  ShmFileConnectorOptions,
  "storageDir" | "workerBinary" | "workerAddr"
>;

/** The child's number of an anonymous segment's descriptor; stdio has 0 to 2. */
const CHILD_SEGMENT_FD = 3;
/** How many existence checks batchedContains() makes at a time. */
const CONTAINS_WINDOW = 64;
/** Until the storage directory is counted: some million files. */
const QUOTA_OPEN_MS = 600_000;
/** How often get() tries an object whose length changes under it. */
const GET_ATTEMPTS = 2;

/** Connects to the worker that the settings name, or starts it. */
function transportOf(settings: ShmFileSettings): OpenTransport {
  const { address, connectTimeoutMs, segment, storageDir, workerArgs, onLog } = settings;
  if (address !== null) {
    return (handlers) => new SocketTransport({ address, connectTimeoutMs }, handlers);
  }
  const binary = locateWorker(settings.workerBinary);
  const passFd = segment.fd;
  const grant = passFd === null ? [] : ["--segment-fd", `${CHILD_SEGMENT_FD}`];
  const args = ["--root", storageDir, ...grant, ...workerArgs];
  return (handlers) => new SpawnTransport({ binary, args, passFd, onLog }, handlers);
}

function attachRequest(segment: ShmSegment): AttachRequest {
  const name = segment.name ?? (segment.fd === null ? null : `fd:${CHILD_SEGMENT_FD}`);
  if (name === null) {
    throw new TypeError("the segment has neither a name nor a descriptor that a worker can attach");
  }
  return { name, sizeBytes: BigInt(segment.sizeBytes), baseAddress: segment.address };
}

function segmentName(segment: ShmSegment): string {
  return segment.name ?? "an anonymous segment";
}

function shownKey(file: KeyFile): string {
  return file.key.length > 120 ? `${file.key.slice(0, 120)}...` : file.key;
}

/** The first `byteLength` bytes of a range. */
function headOf(range: ShmRange, byteLength: number): ShmRange {
  return byteLength === range.byteLength ? range : range.segment.range(range.offset, byteLength);
}

function disposeOf(range: ShmRange): void {
  (range as Partial<Disposable>)[Symbol.dispose]?.();
}

/** See the file's head. Made by open(), fromUrl() or fromConfig(). */
export class ShmFileConnector implements RemoteConnector {
  readonly segment: ShmSegment;
  /** Absolute. */
  readonly storageDir: string;
  /** How the worker is reached. */
  readonly mode: "pipe" | "unix" | "tcp";
  /** Whether list(), remove() and existsSync() work: this process sees the worker's directory. */
  readonly storageVisible: boolean;
  readonly #client: WorkerClient;
  readonly #directory: StorageDirectory;
  readonly #settings: ShmFileSettings;
  readonly #quota: DirectoryQuota | null;
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
    client: WorkerClient,
    storageVisible: boolean,
    quota: DirectoryQuota | null,
  ) {
    this.segment = settings.segment;
    this.storageDir = settings.storageDir;
    this.mode = settings.address?.kind ?? "pipe";
    this.storageVisible = storageVisible;
    this.#settings = settings;
    this.#client = client;
    this.#quota = quota;
    this.#directory = new StorageDirectory(settings.storageDir);
  }

  /**
   * Starts a worker, or connects to the one at workerAddr, and has it attach the segment. Close the
   * connector before the segment is freed.
   * @throws {TypeError | RangeError} naming the option at fault; {ShmError} ENOENT, EACCES, ENOEXEC
   *   (the program cannot be run), ECONNREFUSED, ETIMEDOUT, EACCES (secret), the worker's reason for
   *   not attaching, or ENOTSUP: maxBytes for a directory that cannot be seen from here.
   */
  static async open(options: ShmFileConnectorOptions): Promise<ShmFileConnector> {
    const settings = checkOptions(options);
    const { segment, secret, limits, onWorkerLost } = settings;
    const attach = attachRequest(segment);
    const directory = new StorageDirectory(settings.storageDir);
    if (settings.address === null) await directory.create();
    const client = await WorkerClient.open({
      open: transportOf(settings),
      handshake: { attach, secret, limitMs: limits.controlTimeoutMs },
      limits,
      onLost: onWorkerLost,
    });
    try {
      if (!client.facts.extended) checkPlainPath(settings.storageDir);
      const visible = settings.storageVisible ?? (settings.address === null ||
        await isVisible(directory, client, segment));
      const quota = await openQuota(settings, visible);
      return new ShmFileConnector(settings, client, visible, quota);
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** open() by `shmfile://[host:port]/dir?shm_name=/kv[&worker_bin=/path]`. */
  static async fromUrl(url: string, others: OtherOptions): Promise<ShmFileConnector> {
    const { options, shmName } = optionsFromUrl(url);
    checkShmName(shmName, others.segment);
    return await ShmFileConnector.open({ ...others, ...options });
  }

  /** open() by LMCache's extra_config: shmfs.storage_dir, shmfs.worker_addr and so on. */
  static async fromConfig(
    extraConfig: Readonly<Record<string, unknown>>,
    others: OtherOptions,
  ): Promise<ShmFileConnector> {
    const { options, shmName } = optionsFromConfig(extraConfig);
    checkShmName(shmName, others.segment);
    return await ShmFileConnector.open({ ...others, ...options });
  }

  get stats(): ConnectorStats {
    return {
      ...this.#counts,
      restarts: this.#client.restarts,
      inFlight: this.#inFlight,
      quota: this.#quota?.stats ?? null,
    };
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get workerPid(): number | null {
    return this.#client.pid;
  }

  /** Whether the worker is lmshm-worker; others write in place and know no paths with spaces. */
  get workerExtended(): boolean {
    return this.#client.facts.extended;
  }

  async exists(key: Key, options: CallOptions = {}): Promise<boolean> {
    const file = keyFile(key);
    return await this.#call("exists", options, async (deadline) => {
      if (this.storageVisible) return await this.#facts(file, deadline) !== null;
      const nothing = this.segment.range(0, 0);
      const found = await this.#readRange("exists", file, nothing, deadline);
      return found !== null;
    });
  }

  existsSync(key: Key): boolean {
    const file = keyFile(key);
    this.#mustBeOpen("exists");
    this.#mustSee("existsSync");
    return this.#directory.existsSync(file.fileName);
  }

  /**
   * As RemoteConnector.get(). Without `into`, memory comes from the option `allocate`; what it gave
   * is disposed of on a miss, where it can be. Null also when it gave none.
   */
  async get(key: Key, into?: ShmRange, options: CallOptions = {}): Promise<ShmRange | null> {
    const file = keyFile(key);
    if (into !== undefined) this.#checkRange("get", into);
    const release = into?.hold(`get ${shownKey(file)}`);
    try {
      return await this.#call("get", options, async (deadline) => {
        this.#counts.gets++;
        const found = into === undefined
          ? await this.#getAllocated(file, deadline)
          : await this.#getInto(file, into, deadline);
        if (found === null) {
          this.#counts.misses++;
        } else {
          this.#quota?.touch(file.fileName);
          this.#counts.hits++;
          this.#counts.bytesGot += found.byteLength;
        }
        return found;
      });
    } finally {
      release?.();
    }
  }

  async put(key: Key, range: ShmRange, options: CallOptions = {}): Promise<void> {
    const file = keyFile(key);
    this.#checkRange("put", range);
    const release = range.hold(`put ${shownKey(file)}`);
    try {
      await this.#call("put", options, async (deadline) => {
        await this.#store(file, range, deadline);
        this.#counts.puts++;
        this.#counts.bytesPut += range.byteLength;
      });
    } finally {
      release();
    }
  }

  async list(options: ListOptions = {}): Promise<string[]> {
    const { prefix = "", ...call } = options;
    if (typeof prefix !== "string") {
      throw new TypeError(`prefix must be a string, got ${describe(prefix)}`);
    }
    return await this.#call("list", call, async (deadline) => {
      this.#mustSee("list");
      const found: string[] = [];
      const keys = this.#directory.keys();
      for (;;) {
        const next = await this.#inTime(keys.next(), "list objects", deadline);
        if (next.done) return found;
        if (next.value.startsWith(prefix)) found.push(next.value);
      }
    });
  }

  async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    const file = keyFile(key);
    return await this.#call("remove", options, async (deadline) => {
      this.#mustSee("remove");
      const removed = await this.#inTime(this.#directory.remove(file), "remove object", deadline);
      this.#quota?.removed(file.fileName);
      return removed;
    });
  }

  async batchedGet(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<(ShmRange | null)[]> {
    checkPairs("batchedGet", keys, into);
    return await allSettled(keys.map((key, index) => this.get(key, into[index], options)));
  }

  async batchedPut(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<void> {
    checkPairs("batchedPut", keys, ranges);
    await allSettled(keys.map((key, index) => this.put(key, ranges[index]!, options)));
  }

  async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    for (let start = 0; start < keys.length; start += CONTAINS_WINDOW) {
      const window = keys.slice(start, start + CONTAINS_WINDOW);
      const found = await allSettled(window.map((key) => this.exists(key, options)));
      const missing = found.indexOf(false);
      if (missing >= 0) return start + missing;
    }
    return keys.length;
  }

  async ping(options: CallOptions = {}): Promise<number> {
    return await this.#call(
      "ping",
      options,
      async (deadline) =>
        await this.#client.ping({ signal: deadline.signal, timeoutMs: deadline.leftMs }),
    );
  }

  /** See RemoteConnector; calls in flight have closeTimeoutMs. Never rejects. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

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

  // --- calls

  async #call<T>(
    operation: string,
    options: CallOptions,
    work: (deadline: Deadline) => Promise<T>,
  ): Promise<T> {
    this.#mustBeOpen(operation);
    const deadline = new Deadline(options.timeoutMs ?? Infinity, options.signal);
    this.#inFlight++;
    try {
      return await work(deadline);
    } finally {
      this.#inFlight--;
      if (this.#inFlight === 0) this.#onIdle?.();
    }
  }

  #inTime<T>(work: Promise<T>, what: string, deadline: Deadline): Promise<T> {
    return deadline.wait(work, what, this.#settings.limits.controlTimeoutMs);
  }

  #facts(file: KeyFile, deadline: Deadline): Promise<ObjectFacts | null> {
    return this.#inTime(this.#directory.facts(file.fileName), "look up object", deadline);
  }

  // --- get

  async #getAllocated(file: KeyFile, deadline: Deadline): Promise<ShmRange | null> {
    const { allocate } = this.#settings;
    if (allocate === undefined) {
      throw new TypeError("get() without a range needs the connector's option allocate");
    }
    this.#mustSee("get without a range");
    const facts = await this.#facts(file, deadline);
    if (facts === null) return null;
    const into = allocate(facts.byteLength);
    if (into === null) return null;
    let found: ShmRange | null = null;
    let release: (() => void) | undefined;
    try {
      this.#checkRange("get", into);
      release = into.hold(`get ${shownKey(file)}`);
      found = await this.#getInto(file, into, deadline);
      return found;
    } finally {
      release?.();
      if (found === null) disposeOf(into);
    }
  }

  async #getInto(file: KeyFile, into: ShmRange, deadline: Deadline): Promise<ShmRange | null> {
    if (!this.storageVisible) {
      const byteLength = await this.#readRange("get", file, into, deadline);
      return byteLength === null ? null : headOf(into, byteLength);
    }
    for (let attempt = 0; attempt < GET_ATTEMPTS; attempt++) {
      const before = await this.#facts(file, deadline);
      if (before === null) return null;
      if (before.byteLength > into.byteLength) throw tooLong(file, before.byteLength, into);
      if (before.byteLength === 0) return headOf(into, 0);
      const byteLength = await this.#readRange("get", file, into, deadline);
      if (byteLength === null) return null;
      if (byteLength !== before.byteLength) continue;
      if (byteLength < into.byteLength || await this.#unchanged(file, before, deadline)) {
        return headOf(into, byteLength);
      }
    }
    this.#counts.mismatches++;
    return null;
  }

  async #unchanged(file: KeyFile, before: ObjectFacts, deadline: Deadline): Promise<boolean> {
    const after = await this.#facts(file, deadline);
    return after !== null && after.byteLength === before.byteLength &&
      after.inode === before.inode && after.changedMs === before.changedMs;
  }

  /** How many bytes the worker has read; null when there is no object. */
  async #readRange(
    operation: string,
    file: KeyFile,
    into: ShmRange,
    deadline: Deadline,
  ): Promise<number | null> {
    const reply = await this.#transfer("read", file, into, deadline);
    if (reply.ok) return reply.count;
    if (reply.code === "ENOENT") return null;
    throw replyError(reply, `${operation} ${shownKey(file)}`, this.#detailsOf(file, into));
  }

  // --- put

  async #store(file: KeyFile, range: ShmRange, deadline: Deadline): Promise<void> {
    const room = await this.#makeRoom(file, range.byteLength, deadline);
    // Whether this call waits for it or has given up: the room is taken until the worker is done.
    const over = Promise.withResolvers<void>();
    const counted = over.promise.then(() => room?.commit());
    counted.catch(() => {});
    let writing: Promise<Reply> | undefined;
    try {
      if (file.sidecarName !== null) await this.#storeKey(file, deadline);
      writing = this.#transfer("write", file, range, deadline, over.resolve);
    } finally {
      if (writing === undefined) room?.cancel();
    }
    const reply = await writing;
    if (!reply.ok) {
      if (room !== null) await this.#inTime(counted, "count object", deadline).catch(() => {});
      throw replyError(reply, `put ${shownKey(file)}`, this.#detailsOf(file, range));
    }
    // A remove() of the same key in between may have taken the file with the key along.
    if (file.sidecarName !== null) await this.#storeKey(file, deadline);
    if (room !== null) await this.#inTime(counted, "count object", deadline);
  }

  /** Null when there is no limit. */
  async #makeRoom(
    file: KeyFile,
    byteLength: number,
    deadline: Deadline,
  ): Promise<Reservation | null> {
    if (this.#quota === null) return null;
    const reserving = this.#quota.reserve(file.fileName, byteLength);
    try {
      return await this.#inTime(reserving, "make room in the storage directory", deadline);
    } catch (error) {
      reserving.then((room) => room.cancel(), () => {});
      throw error;
    }
  }

  // --- both

  /** @param onOver called once, when the worker can no longer touch memory and file. */
  #transfer(
    command: "read" | "write",
    file: KeyFile,
    range: ShmRange,
    deadline: Deadline,
    onOver: () => void = () => {},
  ): Promise<Reply> {
    const path = this.#directory.fileOf(file.fileName);
    if (!this.#client.facts.extended) checkPlainPath(path);
    // An empty range may begin where the segment ends, which some workers refuse.
    const offset = range.byteLength === 0 ? 0 : range.offset;
    const release = range.hold(`${command} ${shownKey(file)}`);
    return this.#client[command]({
      path,
      address: this.segment.address + BigInt(offset),
      byteLength: range.byteLength,
      release: () => {
        release();
        onOver();
      },
      signal: deadline.signal,
      timeoutMs: deadline.leftMs,
    });
  }

  async #storeKey(file: KeyFile, deadline: Deadline): Promise<void> {
    if (!this.storageVisible) {
      throw new ShmError(
        `key ${JSON.stringify(shownKey(file))} is too long for a file name, or its name would be ` +
          "another key's, and the file that keeps it cannot be written from here",
        {
          code: "ENAMETOOLONG",
          operation: "put",
          hint: "Use another key, or make the storage directory visible to this process",
        },
      );
    }
    await this.#inTime(this.#directory.writeSidecar(file), "store key", deadline);
  }

  #detailsOf(file: KeyFile, range: ShmRange): Record<string, unknown> {
    const { offset, byteLength } = range;
    return { key: file.key, path: this.#directory.fileOf(file.fileName), offset, byteLength };
  }

  // --- checks

  #checkRange(operation: string, range: ShmRange): void {
    if (typeof range !== "object" || range === null || typeof range.hold !== "function") {
      throw new TypeError(`${operation} takes a range of a segment, got ${describe(range)}`);
    }
    if (range.segment === this.segment) return;
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

  #mustSee(operation: string): void {
    if (this.storageVisible) return;
    throw new ShmError(
      `${this.storageDir} of the worker cannot be seen from here, and a worker of protocol ` +
        "version 1 has no command for it",
      {
        code: "ENOTSUP",
        operation,
        hint: "Mount the directory at the same path here; storageVisible says that it is",
      },
    );
  }
}

/** Workers other than ours cut a path at its first space. */
function checkPlainPath(path: string): void {
  if (!path.includes(" ")) return;
  throw new ShmError(`the path ${JSON.stringify(path)} contains a space`, {
    code: "EINVAL",
    operation: "name object",
    hint: "This worker cuts paths at spaces: use lmshm-worker, or another directory and other keys",
    details: { path },
  });
}

function tooLong(file: KeyFile, byteLength: number, into: ShmRange): ShmError {
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

/** Whether a running worker finds a file that is made here. */
async function isVisible(
  directory: StorageDirectory,
  client: WorkerClient,
  segment: ShmSegment,
): Promise<boolean> {
  const found = await directory.withProbe(async (path) => {
    const reply = await client.read({
      path,
      address: segment.address,
      byteLength: 0,
      release: () => {},
    });
    return reply.ok;
  });
  return found ?? false;
}

function checkPairs(operation: string, keys: readonly Key[], ranges: readonly ShmRange[]): void {
  if (keys.length === ranges.length) return;
  throw new RangeError(`${operation}: ${keys.length} keys and ${ranges.length} ranges`);
}

/** All values, or the first error once nothing is in flight any more. */
async function allSettled<T>(work: readonly Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return await Promise.all(work);
}
