// SPDX-License-Identifier: Apache-2.0
//
// A client of workers that speak version 1 alone, such as LMCache's: one request at a time, READ and
// WRITE of paths. What a worker of version 1 has no command for is looked up in the directory by its
// path here (directory.ts), where it is here; the rest is ENOTSUP.
//
// "Which object did I read?" A worker that filled the memory may have read a whole object or the
// beginning of a longer one, and a file may be replaced at any time. So when an object fills its
// memory, the file is looked at before and afterwards.

import { ShmError } from "../../errors.ts";
import { keyFile } from "../../keys/key_file.ts";
import { Connection } from "../connection.ts";
import { attachError } from "../handshake.ts";
import { closedError, Keeper } from "../keeper.ts";
import { BYTES_PER_MS, sharedLimit } from "../limits.ts";
import { LineCall } from "../line_call.ts";
import type {
  ClientOptions,
  GetBatch,
  GetTransfer,
  ObjectClient,
  ObjectListOptions,
  ObjectStat,
  ObjectTransfer,
  PutBatch,
  PutTransfer,
  RequestOptions,
  StoredObject,
  WorkerInfo,
} from "../object_client.ts";
import { type Outcome, outcomesOf } from "../outcome.ts";
import type { Pending, PendingOwner } from "../pending.ts";
import type { OkReply, Reply } from "../reply.ts";
import { replyError } from "../reply_error.ts";
import { mustLeadToSegment } from "../segment_reference.ts";
import { SharedRelease } from "../shared_release.ts";
import { type Facts, StorageDirectory } from "./directory.ts";
import { lineOf } from "./requests.ts";
import { unsupported } from "./unsupported.ts";

/** How often get() tries an object that is replaced under it. */
const GET_ATTEMPTS = 4;
const NO_ATTRIBUTES = Object.freeze({});

export class ClientV1 implements ObjectClient {
  readonly protocol = 1;
  readonly keepsMetadata = false;
  readonly engine = null;
  readonly #options: ClientOptions;
  readonly #directory: StorageDirectory;
  readonly #keeper: Keeper<Connection>;
  readonly #outstanding = new Set<Pending<unknown>>();
  readonly #owner: PendingOwner = {
    // A caller who gives up before the request was sent takes the memory back at once.
    abandoned: (call) => call.sent || call.free(),
    finished: (call) => {
      this.#outstanding.delete(call);
      if (this.#outstanding.size === 0) this.#keeper.changed();
    },
  };
  #queue: LineCall[] = [];
  #accepting = true;
  #closing: Promise<void> | null = null;

  private constructor(options: ClientOptions) {
    this.#options = options;
    const { limits, handshake, open, onLost } = options;
    this.#directory = new StorageDirectory(handshake.directory, limits.controlTimeoutMs);
    this.#keeper = new Keeper<Connection>(
      {
        make: () => this.#take(new Connection(open, limits)),
        greet: (connection) => this.#greet(connection),
        needed: () => this.#queue.some((call) => !call.settled),
        pump: () => this.#pump(),
        refuse: (error) => {
          for (const call of this.#queue.splice(0)) call.refuse(error);
        },
      },
      limits.restarts,
      onLost,
    );
  }

  /**
   * Starts or connects to a worker and attaches the segment.
   * @param first a connection to begin with.
   * @throws {ShmError} the reason why not; ENOTSUP for a directory or a secret that the protocol
   *   cannot say. Nothing is left behind then.
   */
  static async open(options: ClientOptions, first?: Connection): Promise<ClientV1> {
    const { directory, secret } = options.handshake;
    if (secret !== null) throw unsupported("a secret", "open");
    if (!directory.startsWith("/")) {
      throw unsupported(`storageDir ${JSON.stringify(directory)}, which is not absolute,`, "open");
    }
    if (directory.includes(" ")) throw unsupported(`${directory}, which has a space,`, "open");
    const client = new ClientV1(options);
    await client.#directory.look({ signal: options.signal }).catch(() => {});
    await client.#keeper.start(first && client.#take(first));
    return client;
  }

  get pid(): number | null {
    return this.#keeper.connection?.pid ?? null;
  }

  get restarts(): number {
    return this.#keeper.restarts;
  }

  get outstanding(): number {
    return this.#outstanding.size;
  }

  async put(transfer: PutTransfer): Promise<StoredObject> {
    const { key, byteLength } = transfer;
    const fault = transfer.attributesRequired
      ? unsupported("metadata", "put")
      : transfer.ifAbsent
      ? noIfAbsent()
      : null;
    if (fault !== null) {
      transfer.release();
      throw fault;
    }
    const reply = await this.#transfer(
      "WRITE",
      transfer,
      ({ count }) => count === byteLength ? null : `${byteLength} bytes were to be written`,
    );
    if (!reply.ok) throw replyError(reply, `put ${key}`, { path: this.#pathOf(key) });
    return found(byteLength);
  }

  async get(transfer: GetTransfer): Promise<StoredObject | null> {
    const { key, byteLength, release } = transfer;
    const shared = new SharedRelease(release);
    const left = sharedLimit(transfer);
    try {
      for (let attempt = 0; attempt < GET_ATTEMPTS; attempt++) {
        const before = await this.#directory.facts(nameOf(key), left());
        if (before !== null && before.byteLength > byteLength) throw tooLong(transfer, before);
        // Also when it is empty now: a worker that writes in place may have begun only just.
        const length = await this.#read({ ...left(), release: shared.take() });
        if (length === null) return null;
        if (before !== null && length !== before.byteLength) continue;
        if (length < byteLength) return found(length);
        const after = await this.#directory.facts(nameOf(key), left());
        // If there is nothing here before and after, the directory is not here.
        if (isSame(before, after)) return found(length);
      }
    } finally {
      shared.drop();
    }
    throw new ShmError("the object changes whenever it is read", {
      code: "EBADMSG",
      operation: `get ${key}`,
      details: { path: this.#pathOf(key) },
    });
  }

  putAll(batch: PutBatch): Promise<Outcome<StoredObject>[]> {
    if (batch.ifAbsent) {
      batch.release();
      return Promise.reject(noIfAbsent());
    }
    return this.#each(batch, (one) => this.put(one));
  }

  getAll(batch: GetBatch): Promise<Outcome<StoredObject | null>[]> {
    return this.#each(batch, (one) => this.get(one));
  }

  async stat(key: string, options: RequestOptions = {}): Promise<ObjectStat | null> {
    await this.#directory.mustBeHere("stat", options);
    const facts = await this.#directory.facts(nameOf(key), options);
    return facts && { ...found(facts.byteLength), ...facts };
  }

  async exists(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    const left = sharedLimit(options);
    const there: boolean[] = [];
    for (const key of keys) {
      const nothing = { key, offset: 0, byteLength: 0, release: () => {} };
      there.push(await this.#read({ ...nothing, ...left() }) !== null);
    }
    return there;
  }

  async contains(keys: readonly string[], options: RequestOptions = {}): Promise<number> {
    const left = sharedLimit(options);
    for (const [index, key] of keys.entries()) {
      if (!(await this.exists([key], left()))[0]) return index;
    }
    return keys.length;
  }

  async remove(keys: readonly string[], options: RequestOptions = {}): Promise<boolean[]> {
    const left = sharedLimit(options);
    await this.#directory.mustBeHere("remove", left());
    const removed: boolean[] = [];
    for (const key of keys) removed.push(await this.#directory.remove(nameOf(key), left()));
    return removed;
  }

  async *list(options: ObjectListOptions = {}): AsyncGenerator<string[], void, undefined> {
    await this.#directory.mustBeHere("list", options);
    yield* this.#directory.pages(options);
  }

  info(): Promise<WorkerInfo> {
    return Promise.reject(unsupported("info()", "ask worker"));
  }

  async ping({ signal, timeoutMs }: RequestOptions = {}): Promise<number> {
    const start = performance.now();
    const { controlTimeoutMs: limitMs } = this.#options.limits;
    // A worker that does not know PING proves that it answers by saying so.
    const call = { what: "PING", line: lineOf("PING"), bytes: 0, limitMs, retriable: true };
    await this.#submit(new LineCall({ ...call, signal, timeoutMs }, this.#owner));
    return performance.now() - start;
  }

  close(timeoutMs: number = this.#options.limits.closeTimeoutMs): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- requests

  #pathOf(key: string): string {
    return this.#directory.pathOf(nameOf(key));
  }

  /** How many bytes the worker has read; null when there is no object. */
  async #read(transfer: ObjectTransfer): Promise<number | null> {
    const { key, byteLength } = transfer;
    const reply = await this.#transfer(
      "READ",
      transfer,
      ({ count }) =>
        count !== null && count <= byteLength ? null : `at most ${byteLength} bytes were asked for`,
    );
    if (reply.ok) return reply.count;
    // What is no object is a miss.
    if (["ENOENT", "EISDIR", "ELOOP"].includes(reply.code)) return null;
    throw replyError(reply, `get ${key}`, { path: this.#pathOf(key) });
  }

  async #transfer(
    command: "READ" | "WRITE",
    { key, offset, byteLength, release, signal, timeoutMs, watch }: ObjectTransfer,
    check: (reply: OkReply) => string | null,
  ): Promise<Reply> {
    let call: LineCall;
    try {
      const path = this.#pathOf(key);
      if (path.includes(" ")) throw unsupported("a key with a space", command.toLowerCase());
      const address = this.#options.handshake.segment.baseAddress + BigInt(offset);
      const limitMs = this.#options.limits.ioTimeoutMs + Math.ceil(byteLength / BYTES_PER_MS);
      const line = lineOf(command, path, address, byteLength);
      const what = `${command} ${path}`;
      const wanted = { what, line, bytes: byteLength, limitMs, retriable: true, check };
      if (!this.#accepting) throw closedError(what);
      signal?.throwIfAborted();
      call = new LineCall({ ...wanted, release, signal, timeoutMs, watch }, this.#owner);
    } catch (error) {
      release();
      throw error;
    }
    return await this.#submit(call);
  }

  async #each<T>(
    batch: PutBatch | GetBatch,
    work: (one: ObjectTransfer) => Promise<T>,
  ): Promise<Outcome<T>[]> {
    const { objects, release, signal, timeoutMs, watch } = batch;
    const left = sharedLimit<RequestOptions>({ signal, timeoutMs, watch });
    const shared = new SharedRelease(release);
    try {
      return await outcomesOf(
        objects.length,
        1,
        (i) => work({ ...objects[i]!, ...left(), release: shared.take() }),
      );
    } finally {
      shared.drop();
    }
  }

  #submit(call: LineCall): Promise<Reply> {
    if (!this.#accepting) {
      call.refuse(closedError(call.what));
      return call.promise;
    }
    this.#outstanding.add(call);
    this.#queue.push(call);
    this.#pump();
    return call.promise;
  }

  #pump(): void {
    while (this.#queue.length > 0) {
      const { connection } = this.#keeper;
      if (this.#queue[0]!.settled) {
        this.#queue.shift()!.free();
      } else if (connection === null) {
        return this.#keeper.need();
      } else if (connection.busy) {
        return;
      } else {
        connection.send(this.#queue.shift()!);
      }
    }
  }

  // --- connections

  #take(connection: Connection): Connection {
    connection.owner = {
      progress: () => this.#pump(),
      down: (error) => this.#keeper.down(connection, error),
      gone: (calls, error) => {
        this.#queue.unshift(...this.#keeper.gone(connection, calls as LineCall[], error));
        this.#pump();
      },
    };
    return connection;
  }

  /** The worker cannot be told which memory is meant, so the name is looked at here. */
  async #greet(connection: Connection): Promise<null> {
    const { segment } = this.#options.handshake;
    const { name, sizeBytes, baseAddress } = segment;
    const { peer } = connection;
    if (name === null) {
      const hint = "Create the segment with a name, or use lmshm-worker";
      throw unsupported("an anonymous segment", "attach segment", hint);
    }
    mustLeadToSegment(segment, peer);
    const line = lineOf("ATTACH", name, sizeBytes, baseAddress);
    const attached = await connection.say(`ATTACH ${name}`, line);
    if (!attached.ok) throw attachError(attached, segment, peer);
    mustLeadToSegment(segment, peer);
    return null;
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#accepting = false;
    await this.#keeper.end(this.#outstanding, () => this.#outstanding.size === 0, timeoutMs);
  }
}

/** A WRITE replaces what is there. */
function noIfAbsent(): ShmError {
  const hint = "Use lmshm-worker with --root, or ask exists() before";
  return unsupported("ifAbsent", "put", hint);
}

/** @throws {ShmError} ENOTSUP for a key that is in a file beside its object. */
function nameOf(key: string): string {
  const { fileName, sidecarName } = keyFile(key);
  if (sidecarName === null) return fileName;
  throw unsupported(
    `a key that no file name can hold, ${JSON.stringify(key.slice(0, 80))},`,
    "name object",
  );
}

function isSame(before: Facts | null, after: Facts | null): boolean {
  return before?.byteLength === after?.byteLength && before?.inode === after?.inode &&
    before?.mtimeMs === after?.mtimeMs;
}

function found(byteLength: number): StoredObject {
  return { byteLength, crc32c: null, attributes: NO_ATTRIBUTES };
}

function tooLong({ key, byteLength: spaceBytes }: GetTransfer, { byteLength }: Facts): ShmError {
  return new ShmError(`${byteLength} bytes in the object, space for ${spaceBytes}`, {
    code: "EMSGSIZE",
    operation: `get ${key}`,
    hint: "The object is longer than the range that it is to be loaded into",
    details: { objectBytes: byteLength, spaceBytes },
  });
}
