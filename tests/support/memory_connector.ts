// SPDX-License-Identifier: Apache-2.0
//
// A connector whose store is a Map, for tests of what is in front of connectors: calls can be held
// back, and made to fail. It holds ranges while it uses them, as real ones do.

import { partOf } from "../../src/memory/part_of_range.ts";
import type { ShmRange } from "../../src/memory/segment.ts";
import { ShmError } from "../../src/errors.ts";
import { outcomesOf, valuesOf } from "../../src/worker/outcome.ts";
import { type Metadata, metadataOf, NO_METADATA } from "../../src/connector/chunk_metadata.ts";
import type { Key } from "../../src/keys/key.ts";
import type {
  BatchedPutOptions,
  CallOptions,
  ConnectorStats,
  LoadedObject,
  ObjectStat,
  PutOptions,
  RemoteConnector,
} from "../../src/connector/remote_connector.ts";

export class MemoryConnector implements RemoteConnector {
  readonly objects = new Map<string, Uint8Array>();
  /** What was stored with them. */
  readonly metadata = new Map<string, Metadata>();
  /** "get a high": the priority of each call that had one. */
  readonly priorities: string[] = [];
  /** "get a", "put a": in the order in which they began. */
  readonly calls: string[] = [];
  /** How many objects each batch had. */
  readonly batches: number[] = [];
  /** Calls that use a range now, and the most at once. */
  active = 0;
  mostActive = 0;
  /** Called with "get a" or "put a" before bytes move; may wait, may throw. */
  before: (call: string) => Promise<void> | void = () => {};
  /** Likewise, when they have moved. */
  after: (call: string) => Promise<void> | void = () => {};

  get stats(): ConnectorStats {
    const zero = { puts: 0, gets: 0, hits: 0, misses: 0, mismatches: 0, bytesPut: 0, bytesGot: 0 };
    return { ...zero, restarts: 0, inFlight: this.active };
  }

  exists(key: Key): Promise<boolean> {
    return Promise.resolve(this.objects.has(`${key}`));
  }

  async get(key: Key, into?: ShmRange, options: CallOptions = {}): Promise<ShmRange | null> {
    return (await this.load(key, into, options))?.range ?? null;
  }

  async load(key: Key, into?: ShmRange, options: CallOptions = {}): Promise<LoadedObject | null> {
    return await this.#use(`get ${key}`, into!, options, () => {
      const bytes = this.objects.get(`${key}`);
      if (bytes === undefined) return null;
      if (bytes.length > into!.byteLength) {
        throw new ShmError("too long", { code: "EMSGSIZE", operation: "get" });
      }
      into!.segment.bytes(into!.offset, bytes.length).set(bytes);
      const range = partOf(into!, 0, bytes.length);
      return { range, metadata: this.#metadataOf(key), crc32c: null };
    });
  }

  stat(key: Key): Promise<ObjectStat | null> {
    this.calls.push(`stat ${key}`);
    const bytes = this.objects.get(`${key}`);
    if (bytes === undefined) return Promise.resolve(null);
    const metadata = this.#metadataOf(key);
    const { length: byteLength } = bytes;
    return Promise.resolve({
      byteLength,
      mtimeMs: 0,
      diskBytes: byteLength,
      crc32c: null,
      metadata,
    });
  }

  async put(key: Key, range: ShmRange, options: PutOptions = {}): Promise<boolean> {
    return await this.#use(`put ${key}`, range, options, () => {
      if (options.ifAbsent && this.objects.has(`${key}`)) return false;
      const bytes = range.segment.bytes(range.offset, range.byteLength);
      this.objects.set(`${key}`, bytes.slice());
      this.metadata.set(`${key}`, metadataOf(range, options.metadata));
      return true;
    });
  }

  async *list(): AsyncGenerator<string, void, undefined> {
    yield* await this.listAll();
  }

  listAll(): Promise<string[]> {
    return Promise.resolve([...this.objects.keys()]);
  }

  remove(key: Key): Promise<boolean> {
    this.calls.push(`remove ${key}`);
    this.metadata.delete(`${key}`);
    return Promise.resolve(this.objects.delete(`${key}`));
  }

  async batchedGet(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<(ShmRange | null)[]> {
    const loaded = valuesOf(
      await outcomesOf(keys.length, keys.length, (i) => this.load(keys[i]!, into[i], options)),
    );
    return loaded.map((one) => one?.range ?? null);
  }

  loadEach(
    keys: readonly Key[],
    into: readonly ShmRange[],
    options: CallOptions = {},
  ): Promise<PromiseSettledResult<LoadedObject | null>[]> {
    this.batches.push(keys.length);
    return Promise.allSettled(keys.map((key, i) => this.load(key, into[i], options)));
  }

  async batchedPut(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: BatchedPutOptions = {},
  ): Promise<boolean[]> {
    return valuesOf(
      await outcomesOf(keys.length, keys.length, (i) => this.put(keys[i]!, ranges[i]!, options)),
    );
  }

  putEach(
    keys: readonly Key[],
    ranges: readonly ShmRange[],
    options: BatchedPutOptions = {},
  ): Promise<PromiseSettledResult<boolean>[]> {
    this.batches.push(keys.length);
    return Promise.allSettled(keys.map((key, i) => this.put(key, ranges[i]!, options)));
  }

  batchedContains(keys: readonly Key[]): Promise<number> {
    const missing = keys.findIndex((key) => !this.objects.has(`${key}`));
    return Promise.resolve(missing < 0 ? keys.length : missing);
  }

  batchedRemove(keys: readonly Key[]): Promise<boolean[]> {
    return Promise.all(keys.map((key) => this.remove(key)));
  }

  ping(): Promise<number> {
    return Promise.resolve(0);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #metadataOf(key: Key): Metadata {
    return this.metadata.get(`${key}`) ?? NO_METADATA;
  }

  async #use<T>(
    call: string,
    range: ShmRange,
    { priority }: CallOptions,
    move: () => T,
  ): Promise<T> {
    const release = range.hold(call);
    this.calls.push(call);
    if (priority !== undefined) this.priorities.push(`${call} ${priority}`);
    this.mostActive = Math.max(this.mostActive, ++this.active);
    try {
      await this.before(call);
      const result = move();
      await this.after(call);
      return result;
    } finally {
      this.active--;
      release();
    }
  }
}
