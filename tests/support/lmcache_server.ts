// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for `lmcache server --transport grpc --supported-transfer-mode engine_driven`, as far as
// a client can tell: what LMCache 0.5.6 was seen to answer, its locks, its reservations and its log of
// events included. It can be told to lie, to be slow, to be another version, to be killed and to come
// back. `npm run test:lmcache` runs the same tests against LMCache itself.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type Http2Server } from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import process from "node:process";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { encode } from "@msgpack/msgpack";
import { ShmSegment } from "../../src/memory/segment.ts";
import {
  ControllerService,
  EngineDrivenService,
  type IpcCacheServerKey,
  LookupService,
  ManagementService,
  ObservabilityService,
} from "../../src/lmcache/wire/lmcache_pb.ts";

interface StandInOptions {
  readonly chunkTokens?: number;
  readonly poolBytes?: number;
  /** "0.5.7": the services have other names. */
  readonly version?: "0.5.6" | "0.5.7";
  /** Without --shm-name. */
  readonly withoutPool?: boolean;
  /** --l1-read-ttl-seconds. */
  readonly readTtlMs?: number;
  /** --l1-write-ttl-seconds. */
  readonly writeTtlMs?: number;
  /** --kv-event-log-size; 0: no log. */
  readonly logSize?: number;
  /** --supported-transfer-mode lmcache_driven. */
  readonly lmcacheDriven?: boolean;
}

interface StoredChunk {
  readonly offset: number;
  /** Of who stored it. */
  readonly instance: Instance;
  readonly hash: Uint8Array;
  readonly model: string;
  locks: number;
  lockedUntil: number;
}

interface StagedChunk {
  readonly offset: number;
  readonly instance: Instance;
  readonly reservedUntil: number;
}

interface Instance {
  readonly shape: number[];
  readonly dtype: string;
  readonly byteLength: number;
}

interface LoggedEvent {
  readonly seq: bigint;
  readonly kind: string;
  readonly model: string;
  readonly hashes: Uint8Array[];
  readonly parent: Uint8Array | undefined;
  readonly tokens: number[];
}

type Slots = Record<string, unknown>;

const ITEM_BYTES: Readonly<Record<string, number>> = { bfloat16: 2, float32: 4, uint8: 1 };

let made = 0;

/** One server, which can end and come back at the same address. */
export class StandIn implements AsyncDisposable {
  readonly options: Required<StandInOptions>;
  /** As --shm-name makes it. */
  readonly poolName: string = `lmcache_l1_pool_lmshm_${process.pid}_${++made}`;
  /** Calls by their names, in order. */
  readonly calls: string[] = [];
  /** What prepareStore and prepareRetrieve answer instead. */
  lie: ((context: Slots) => unknown) | null = null;
  /** What register says instead. */
  poolLie: { shmName?: string; poolSize?: bigint } = {};
  /** Awaited before the call of that name is answered. */
  readonly holdUp = new Map<string, Promise<unknown>>();
  #pool: ShmSegment | null = null;
  #server: Http2Server | null = null;
  #sockets = new Set<Socket>();
  #port = 0;
  #stored = new Map<string, StoredChunk>();
  #staged = new Map<string, StagedChunk>();
  #instances = new Map<bigint, Instance>();
  #lookups = new Map<string, number>();
  #pendingReads = new Map<string, string[]>();
  #pendingWrites = new Map<string, string[]>();
  #free: number[] = [];
  #nextOffset = 0;
  #log: LoggedEvent[] = [];
  #lastSeq = 0n;
  #incarnation = 0n;
  #wake = Promise.withResolvers<void>();

  private constructor(options: StandInOptions) {
    this.options = {
      chunkTokens: 4,
      poolBytes: 1 << 20,
      version: "0.5.6",
      withoutPool: false,
      readTtlMs: 300_000,
      writeTtlMs: 600_000,
      logSize: 0,
      lmcacheDriven: false,
      ...options,
    };
  }

  static async start(options: StandInOptions = {}): Promise<StandIn> {
    const server = new StandIn(options);
    await server.restart();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  get pool(): ShmSegment {
    return this.#pool!;
  }

  /** Read locks that are held, of all chunks. */
  get locks(): number {
    let sum = 0;
    for (const chunk of this.#stored.values()) sum += this.#locksOf(chunk);
    return sum;
  }

  get instances(): number {
    return this.#instances.size;
  }

  /** Reservations that nobody has committed. */
  get reserved(): number {
    return this.#staged.size;
  }

  /** Comes up, with an empty pool. At the address that it had, if it had one. */
  async restart(): Promise<void> {
    await this.kill();
    const { poolBytes } = this.options;
    this.#pool = await ShmSegment.create({
      name: this.poolName,
      sizeBytes: poolBytes,
      ifExists: "replace",
      pin: "none",
    });
    this.#incarnation = BigInt(Date.now()) * 1_000_000n + BigInt(++made);
    this.#stored = new Map();
    this.#staged = new Map();
    this.#instances = new Map();
    this.#pendingReads = new Map();
    this.#pendingWrites = new Map();
    [this.#free, this.#nextOffset, this.#log, this.#lastSeq] = [[], 0, [], 0n];
    const server = createServer(connectNodeAdapter({ routes: (router) => this.#routes(router) }));
    server.on("connection", (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Ends as if by SIGKILL: connections break, the pool's name stays until a restart. */
  async kill(): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server === null) return;
    // The sockets: Deno 2.9.5 crashes when a server destroys its sessions of HTTP/2.
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    await this.#pool!.free();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  /** Evicts what is not locked. */
  evictAll(): number {
    const gone = [...this.#stored].filter(([, chunk]) => this.#locksOf(chunk) === 0);
    for (const [name, chunk] of gone) this.#drop(name, chunk);
    return gone.length;
  }

  /** As an operator does with `force`: locks count for nothing. */
  clearByForce(): void {
    for (const [name, chunk] of this.#stored) this.#drop(name, chunk);
  }

  /** Forgets the instance that registered first, and publishes what it had reserved. */
  reap(): void {
    const [id] = this.#instances.keys();
    const ofIt = ([key]: [string, unknown]) => key.startsWith(`${id}|`);
    for (const [key, names] of [...this.#pendingWrites].filter(ofIt)) {
      this.#publish(names);
      this.#pendingWrites.delete(key);
    }
    for (const [key, names] of [...this.#pendingReads].filter(ofIt)) {
      this.#unlock(names);
      this.#pendingReads.delete(key);
    }
    if (id !== undefined) this.#instances.delete(id);
  }

  /** As an engine of the mode "lmcache_driven" does it: announced. */
  announceStore(model: string, tokens: number[], parent?: Uint8Array): Uint8Array {
    const hash = createHash("sha256").update(JSON.stringify([model, tokens, parent])).digest();
    this.#append({ kind: "stored", model, hashes: [hash], parent, tokens });
    return hash;
  }

  #routes(router: ConnectRouter): void {
    const { chunkTokens, version, lmcacheDriven } = this.options;
    const chunkSize = BigInt(chunkTokens);
    const called = async (name: string) => {
      this.calls.push(name);
      await this.holdUp.get(name);
    };
    if (version === "0.5.7") {
      router.service(ManagementService, { getChunkSize: () => ({ chunkSize }) });
      return;
    }
    router.service(ControllerService, {
      getChunkSize: () => ({ chunkSize }),
      ping: async () => (await called("ping"), { ok: true }),
    });
    router.service(LookupService, {
      lookup: async ({ key }) => {
        await called("lookup");
        this.#lookUp(key!);
        return {};
      },
      waitPrefetchStatus: async ({ requestId }) => {
        await called("waitPrefetchStatus");
        return { chunkCount: BigInt(this.#lookups.get(requestId) ?? 0) };
      },
      freeLookupLocks: async ({ key }) => {
        await called("freeLookupLocks");
        const found = this.#lookups.get(key!.requestId) ?? 0;
        this.#unlock(
          this.#names(key!).flatMap((ranks) => ranks).filter((_, at) => {
            const ranks = key!.workerId === undefined ? key!.worldSize : 1;
            return at < found * ranks;
          }),
        );
        return {};
      },
      endSession: async ({ requestId }) => {
        await called("endSession");
        this.#lookups.delete(requestId);
        return {};
      },
    });
    if (!lmcacheDriven) this.#engineRoutes(router, called);
    router.service(ObservabilityService, {
      subscribeKvEvents: (request, context) => this.#events(request, context),
    });
  }

  #engineRoutes(router: ConnectRouter, called: (name: string) => Promise<void>): void {
    const { chunkTokens, withoutPool, poolBytes, writeTtlMs } = this.options;
    router.service(EngineDrivenService, {
      registerKvCacheEngineDrivenContext: async (request) => {
        await called("register");
        const shape = [request.numLayers, chunkTokens, request.hiddenDimSize];
        if (!request.useMla) shape.unshift(2);
        const byteLength = shape.reduce((a, b) => a * b) * ITEM_BYTES[request.dtypeStr]!;
        if (!this.#instances.has(request.instanceId)) {
          this.#instances.set(request.instanceId, { shape, dtype: request.dtypeStr, byteLength });
        }
        const facts = withoutPool
          ? { shmName: "", poolSize: 0n }
          : { shmName: this.poolName, poolSize: BigInt(poolBytes) };
        return { ...facts, ...this.poolLie };
      },
      unregisterKvCacheEngineDrivenContext: async ({ instanceId }) => {
        await called("unregister");
        this.#instances.delete(instanceId);
        for (const [key, names] of this.#pendingWrites) {
          if (key.startsWith(`${instanceId}|`)) this.#publish(names);
        }
        return {};
      },
      prepareStore: async ({ key, instanceId }) => {
        await called("prepareStore");
        const instance = this.#instance(instanceId);
        const reserved: string[] = [];
        const indices: number[] = [];
        const slots: Slots[] = [];
        this.#names(key!).forEach(([name], index) => {
          const staged = this.#staged.get(name!);
          if (this.#stored.has(name!) || (staged?.reservedUntil ?? 0) > Date.now()) return;
          const offset = staged?.offset ?? this.#allocate(instance.byteLength);
          if (offset === null) return;
          this.#staged.set(name!, { offset, instance, reservedUntil: Date.now() + writeTtlMs });
          reserved.push(name!);
          indices.push(index);
          slots.push(this.#slot(instance, offset));
        });
        if (reserved.length > 0) this.#pendingWrites.set(transferOf(key!, instanceId), reserved);
        return { encodedContext: this.#context({ slots, chunk_indices: indices }) };
      },
      commitStore: async ({ key, instanceId }) => {
        await called("commitStore");
        this.#instance(instanceId);
        const transfer = transferOf(key!, instanceId);
        const names = this.#pendingWrites.get(transfer);
        this.#pendingWrites.delete(transfer);
        if (names !== undefined) this.#publish(names);
        return { success: names !== undefined };
      },
      prepareRetrieve: async ({ key, instanceId }) => {
        await called("prepareRetrieve");
        this.#instance(instanceId);
        const names = this.#names(key!).map(([name]) => name!);
        const chunks = names.map((name) => this.#stored.get(name));
        const there = names.filter((_, at) => chunks[at] && this.#locksOf(chunks[at]) > 0);
        if (there.length < names.length) {
          this.#unlock(there);
          return { success: false };
        }
        this.#pendingReads.set(transferOf(key!, instanceId), names);
        const slots = chunks.map((chunk) => this.#slot(chunk!.instance, chunk!.offset));
        return { success: true, encodedContext: this.#context({ slots }) };
      },
      commitRetrieve: async ({ key, instanceId }) => {
        await called("commitRetrieve");
        this.#instance(instanceId);
        const transfer = transferOf(key!, instanceId);
        this.#unlock(this.#pendingReads.get(transfer) ?? []);
        this.#pendingReads.delete(transfer);
        return { success: true };
      },
    });
  }

  #instance(id: bigint): Instance {
    const found = this.#instances.get(id);
    if (found !== undefined) return found;
    throw new ConnectError(
      "Exception calling application: non-GPU context not registered (or reaped) for instance " +
        `ID ${id}`,
      Code.Unknown,
    );
  }

  #context(context: Slots): Uint8Array {
    const said = this.lie === null ? context : this.lie(context);
    return said instanceof Uint8Array ? said : encode(said);
  }

  #slot({ byteLength, shape, dtype }: Instance, offset: number): Slots {
    return { offset, length: byteLength, shape, dtype };
  }

  /** The names of each chunk of a key, one for each worker. */
  #names(key: IpcCacheServerKey): string[][] {
    const { chunkTokens } = this.options;
    const workers = key.workerId === undefined
      ? Array.from({ length: key.worldSize }, (_, worker) => worker)
      : [key.workerId];
    const chunks = key.end / chunkTokens;
    return Array.from({ length: chunks }, (_, at) => {
      const tokens = key.tokenIds.slice(0, (at + 1) * chunkTokens).join(",");
      return workers.map((worker) => [key.modelName, key.cacheSalt, worker, tokens].join("@"));
    });
  }

  #lookUp(key: IpcCacheServerKey): void {
    // Nobody has told it what chunks of this model look like.
    const chunks = this.#instances.size === 0 ? [] : this.#names(key);
    const found = chunks.findIndex((names) => !names.every((name) => this.#stored.has(name)));
    const count = found < 0 ? chunks.length : found;
    for (const name of chunks.slice(0, count).flat()) {
      const chunk = this.#stored.get(name)!;
      chunk.locks = this.#locksOf(chunk) + 1;
      chunk.lockedUntil = Date.now() + this.options.readTtlMs;
    }
    this.#lookups.set(key.requestId, count);
  }

  #locksOf(chunk: StoredChunk): number {
    return chunk.lockedUntil > Date.now() ? chunk.locks : 0;
  }

  #unlock(names: readonly string[]): void {
    for (const name of names) {
      const chunk = this.#stored.get(name);
      if (chunk !== undefined) chunk.locks = Math.max(0, chunk.locks - 1);
    }
  }

  #allocate(byteLength: number): number | null {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    const offset = this.#nextOffset;
    if (offset + byteLength > this.options.poolBytes) return null;
    this.#nextOffset += Math.ceil(byteLength / 4096) * 4096;
    return offset;
  }

  #publish(names: readonly string[]): void {
    for (const name of names) {
      const staged = this.#staged.get(name);
      // A reservation that is over is not published.
      if (staged === undefined || staged.reservedUntil <= Date.now()) continue;
      this.#staged.delete(name);
      const hash = createHash("sha256").update(name).digest();
      const model = name.split("@")[0]!;
      const { offset, instance } = staged;
      this.#stored.set(name, { offset, instance, hash, model, locks: 0, lockedUntil: 0 });
    }
  }

  #drop(name: string, chunk: StoredChunk): void {
    this.#stored.delete(name);
    this.#free.push(chunk.offset);
    this.pool.bytes(chunk.offset, 1).fill(0xee);
    this.#append({ kind: "removed", model: chunk.model, hashes: [chunk.hash], tokens: [] });
  }

  #append(event: Partial<LoggedEvent> & Pick<LoggedEvent, "kind" | "model" | "hashes" | "tokens">) {
    this.#log.push({ parent: undefined, ...event, seq: ++this.#lastSeq });
    if (this.#log.length > this.options.logSize) this.#log.shift();
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }

  async *#events(
    request: { modelName: string; cursor: bigint; maxEvents: number },
    { signal }: HandlerContext,
  ) {
    const enabled = this.options.logSize > 0;
    const aborted = new Promise<void>((resolve) =>
      signal.addEventListener("abort", () => resolve())
    );
    let { cursor } = request;
    for (let first = true; !signal.aborted; first = false) {
      const oldest = this.#log[0]?.seq ?? this.#lastSeq + 1n;
      const lost = enabled && (cursor + 1n < oldest || cursor > this.#lastSeq);
      const later = this.#log.filter(({ seq }) => lost || seq > cursor).slice(0, request.maxEvents);
      if (enabled) cursor = later.at(-1)?.seq ?? (cursor < this.#lastSeq ? cursor : this.#lastSeq);
      const events = later.filter(({ model }) => model === request.modelName)
        .map(({ model, hashes, parent, tokens, ...rest }) => ({
          ...rest,
          medium: "cpu",
          modelName: model,
          blockHashes: hashes,
          ...(parent === undefined ? {} : { parentBlockHash: parent }),
          tokenIds: tokens,
        }));
      const nextCursor = enabled ? cursor : 0n;
      const wake = this.#wake.promise;
      if (first || events.length > 0 || lost) {
        yield { enabled, incarnation: this.#incarnation, nextCursor, lost, events };
      }
      if (later.length < request.maxEvents) await Promise.race([wake, aborted]);
    }
  }
}

/** What the server tells transfers apart by: not the session. */
function transferOf(key: IpcCacheServerKey, instance: bigint): string {
  const { modelName, worldSize, workerId, tokenIds, start, end, cacheSalt } = key;
  return [instance, modelName, worldSize, workerId, tokenIds, start, end, cacheSalt].join("|");
}
