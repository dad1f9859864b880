// SPDX-License-Identifier: Apache-2.0
//
// The work of lmshm check: what a configuration describes is made, chunks of the configured size go
// through it under keys of their own, and every byte is compared. Prints nothing.
//
// Before a chunk is loaded back, the memory that it came from is overwritten: else a worker that
// moves nothing at all would pass.

import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { rmdir, stat } from "node:fs/promises";
import process from "node:process";
import {
  CacheEngineKey,
  type CallOptions,
  LocalCpuBackend,
  MemoryFormat,
  ShmFileConnector,
  type ShmSegment,
  TensorLayout,
  type TensorMemoryObj,
  TieredStore,
  type WorkerInfo,
} from "../../mod.ts";
import { type LmshmConfig } from "../../config/mod.ts";
import { isStoreUrl, withoutSecret } from "../../config/store_url.ts";
import { generatedChunks } from "./chunk_source.ts";
import { formatPinning } from "../format.ts";

const CHUNKS = 8;
/** Of a full chunk, as far as the number of tokens allows. */
const CHUNK_BYTES = 2 ** 20;
const HIDDEN = 1024;
const WIPED = 0xa5;

export interface CheckStep {
  readonly name: string;
  /** Null: it could not be tried; `detail` says why. */
  readonly ok: boolean | null;
  readonly objects: number;
  readonly bytes: number;
  readonly milliseconds: number;
  /** What is wrong, or what was found. */
  readonly detail: string;
}

interface CheckReport {
  /** Every step that was tried held. */
  readonly ok: boolean;
  readonly steps: readonly CheckStep[];
  readonly notes: readonly string[];
  /** What makes the shared memory; null when there is no pool. */
  readonly library: string | null;
}

interface Work {
  readonly objects?: number;
  readonly bytes?: number;
  readonly detail?: string;
}

/** What is found to be otherwise than it must be. */
class Fault extends Error {}

function expect(holds: boolean, what: string): void {
  if (!holds) throw new Fault(what);
}

/** A chunk of the configured number of tokens, of about CHUNK_BYTES. */
function chunkLayout(tokens: number): TensorLayout {
  const hidden = Math.max(1, Math.min(HIDDEN, Math.floor(CHUNK_BYTES / 4 / tokens)));
  return TensorLayout.of({
    shape: [2, 1, tokens, hidden],
    dtype: "bfloat16",
    format: MemoryFormat.KV_2LTD,
  });
}

/** Whether list() and remove() work: the worker does it, or the directory is here. */
async function canList({ protocol, storageDir }: ShmFileConnector): Promise<boolean> {
  return protocol === 2 || await stat(storageDir).then(() => true, () => false);
}

/** Null: a worker of version 1 cannot be asked. */
async function infoOf(cold: ShmFileConnector, limit: CallOptions): Promise<WorkerInfo | null> {
  return cold.protocol === 1 ? null : await cold.info(limit);
}

/** How the worker does it, in a line. */
function effectiveMode(
  cold: ShmFileConnector,
  info: WorkerInfo | null,
  config: LmshmConfig,
): string {
  const { direct, directReason = "no reason given" } = info ?? {};
  const io = config.ioMode === "auto" ? info?.io : config.ioMode;
  const durability = config.durability === "none" ? info?.sync : config.durability;
  const facts = [
    `protocol ${cold.protocol}`,
    io === undefined ? "" : `io ${io}`,
    direct === undefined
      ? ""
      : direct === "no"
      ? `direct I/O impossible (${directReason})`
      : `direct I/O possible (aligned to ${direct})`,
    durability === undefined ? "" : `durability ${durability}`,
    cold.keepsMetadata ? "metadata kept" : "metadata not kept",
  ];
  return facts.filter((fact) => fact !== "").join(", ");
}

/** What the configuration names as the store, as it may be shown; null: nothing. */
export function storeOf({ storageDir, remoteUrl }: LmshmConfig): string | null {
  if (storageDir !== null || remoteUrl === null) return storageDir;
  return isStoreUrl(remoteUrl) ? withoutSecret(remoteUrl) : null;
}

/** Which way the objects went between two times; null where the worker does not tell. */
function waysTaken(before: WorkerInfo | null, after: WorkerInfo | null): string | null {
  if (before === null || after === null || after.putsCached === undefined) return null;
  const names = ["putsDirect", "putsCached", "getsDirect", "getsCached"] as const;
  const [putsDirect, putsCached, getsDirect, getsCached] = names.map((name) =>
    (after[name] ?? 0) - (before[name] ?? 0)
  );
  return `puts: ${putsDirect} direct, ${putsCached} cached; gets: ${getsDirect} direct, ` +
    `${getsCached} cached`;
}

/** One run. A step that fails ends it; what was made is removed all the same. */
export class ConfigurationCheck {
  readonly steps: CheckStep[] = [];
  readonly notes: string[] = [];
  readonly #config: LmshmConfig;
  readonly #signal: AbortSignal;
  readonly #onStep: (step: CheckStep) => void;
  #library: CheckReport["library"] = null;
  readonly #cleanup: (() => Promise<unknown>)[] = [];
  /** All keys of this run begin so. */
  readonly #model = `lmshm-check-${process.pid}-${randomBytes(4).toString("hex")}`;
  readonly #layout: TensorLayout;
  /** What the chunks contain. */
  readonly #data: Uint8Array[] = [];
  readonly #keys: CacheEngineKey[] = [];
  /** When the check began. */
  #info: WorkerInfo | null = null;

  constructor(config: LmshmConfig, signal: AbortSignal, onStep: (step: CheckStep) => void) {
    this.#config = config;
    this.#signal = signal;
    this.#onStep = onStep;
    this.#layout = chunkLayout(config.chunkSizeTokens);
  }

  async run(): Promise<CheckReport> {
    let held = true;
    try {
      await this.#runSteps();
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      held = false;
    } finally {
      for (const undo of this.#cleanup.toReversed()) {
        await undo().catch((error: unknown) => {
          held = false;
          this.notes.push(`cleaning up: ${error instanceof Error ? error.message : error}`);
        });
      }
    }
    return { ok: held, steps: this.steps, notes: this.notes, library: this.#library };
  }

  async #runSteps(): Promise<void> {
    const hot = await this.#openPool();
    await this.#prepareData();
    const place = storeOf(this.#config);
    if (place === null) {
      this.notes.push("the configuration names no store: only the pool was checked");
      await this.#checkPool(hot, null);
      return;
    }
    const cold = await this.#openStore(hot.segment, place);
    await this.#checkStore(hot, cold);
  }

  // --- what the configuration describes

  async #openPool(): Promise<LocalCpuBackend> {
    const config = this.#config;
    let made: LocalCpuBackend | undefined;
    await this.#step("make the pool", async () => {
      const hot = await LocalCpuBackend.fromConfig(config, { signal: this.#signal });
      this.#cleanup.push(() => hot.close());
      made = hot;
      const segment = hot.segment;
      this.#library = segment.libraryPath;
      this.notes.push(`shared memory by ${segment.libraryPath}`);
      if (segment.facts.message) this.notes.push(segment.facts.message);
      const name = segment.name ?? "private memory";
      return {
        bytes: segment.sizeBytes,
        detail: `${name}, ${formatPinning(segment.facts.pinnedBy)}`,
      };
    });
    return made!;
  }

  async #openStore(segment: ShmSegment, place: string): Promise<ShmFileConnector> {
    const config = this.#config;
    const { storageDir } = config;
    if (
      storageDir !== null && config.workerAddress === null &&
      !await stat(storageDir).then(() => true, () => false)
    ) {
      this.#cleanup.push(() => rmdir(storageDir).catch(() => {}));
    }
    let opened: ShmFileConnector | undefined;
    await this.#step("connect the worker", async () => {
      const cold = await ShmFileConnector.fromConfig(config, { segment });
      this.#cleanup.push(() => cold.close());
      opened = cold;
      const limit = { signal: this.#signal, timeoutMs: config.blockingTimeoutMs };
      await cold.ping(limit);
      this.#info = await infoOf(cold, limit);
      const mode = effectiveMode(cold, this.#info, config);
      this.notes.push(`the worker: ${mode}`);
      return { detail: `${config.workerAddress ?? "started, over pipes"}; ${place}; ${mode}` };
    });
    return opened!;
  }

  /** As many chunks as the pool holds, the last one with half of the tokens. */
  async #prepareData(): Promise<void> {
    const { byteLength, tokenBytes } = this.#layout;
    const fit = Math.floor(this.#config.poolSizeBytes / this.#physicalBytes());
    const count = Math.max(1, Math.min(CHUNKS, fit));
    const missing = Math.floor(this.#config.chunkSizeTokens / 2) * tokenBytes!;
    const chunks = generatedChunks(count * byteLength - missing, byteLength);
    for (const [index, chunk] of chunks.entries()) {
      const bytes = new Uint8Array(chunk.byteLength);
      await chunk.fill(bytes);
      this.#data.push(bytes);
      this.#keys.push(
        new CacheEngineKey({
          model: this.#model,
          worldSize: 1,
          workerId: 0,
          chunkHash: BigInt(index),
          dtype: "bfloat16",
        }),
      );
    }
  }

  #physicalBytes(): number {
    const { alignBytes } = this.#config;
    return Math.ceil(this.#layout.byteLength / alignBytes) * alignBytes;
  }

  // --- the steps

  async #checkStore(hot: LocalCpuBackend, cold: ShmFileConnector): Promise<void> {
    const { writeMode, maxQueuedBytes, blockingTimeoutMs } = this.#config;
    const queueTimeoutMs = blockingTimeoutMs;
    const store = new TieredStore({ hot, cold, writeMode, maxQueuedBytes, queueTimeoutMs });
    // The store is closed first, so that nothing is written after the removal.
    this.#cleanup.push(() => this.#removeAll(cold), () => store.close());
    const keys = this.#keys;
    const limit = { signal: this.#signal, timeoutMs: blockingTimeoutMs };
    const objs = await this.#fill(hot);
    try {
      await this.#step(`put (${writeMode})`, async () => {
        await Promise.all(keys.map((key, i) => store.put(key, objs[i]!, limit)));
        return this.#all();
      });
      await this.#step("flush", async () => {
        await store.flush({ signal: this.#signal });
        return this.#all();
      });
    } finally {
      hot.batchedRemove(keys);
      for (const obj of objs) {
        obj.bytes.fill(WIPED);
        obj.refCountDown();
      }
    }
    await this.#step("exists", async () => {
      const found = await cold.batchedContains(keys, limit);
      expect(found === keys.length, `${found} of ${keys.length} keys exist`);
      const other = keys[0]!.withWorkerId(1);
      expect(!await cold.exists(other, limit), `${other} exists, and was never put`);
      return { objects: keys.length };
    });
    await this.#listStep(cold, keys.length);
    await this.#step("get from the store", async () => {
      const found = await store.batchedGet(keys, this.#layout, limit);
      return this.#compare(found);
    });
    await this.#metadataStep(hot, cold, store, limit);
    await this.#checkPool(hot, store);
    const ways = waysTaken(this.#info, await infoOf(cold, limit));
    if (ways !== null) this.notes.push(`objects went through the worker so: ${ways}`);
    await this.#removeStep(store, cold);
  }

  /** Objects with the data. */
  async #fill(hot: LocalCpuBackend): Promise<TensorMemoryObj[]> {
    const objs: TensorMemoryObj[] = [];
    try {
      await this.#step("allocate", async () => {
        for (const data of this.#data) {
          const obj = await hot.allocate(this.#layout, { signal: this.#signal });
          objs.push(obj);
          obj.truncateBytes(data.length).bytes.set(data);
        }
        return this.#all();
      });
    } catch (error) {
      for (const obj of objs) obj.refCountDown();
      throw error;
    }
    return objs;
  }

  /** @param store that has put the chunks into the pool; null: they are put now. */
  async #checkPool(hot: LocalCpuBackend, store: TieredStore | null): Promise<void> {
    if (!this.#config.hotTier) {
      this.#untried("get from the pool", "local_cpu is false: the pool keeps nothing");
      return;
    }
    if (store === null) {
      const objs = await this.#fill(hot);
      for (const [i, obj] of objs.entries()) {
        hot.put(this.#keys[i]!, obj);
        obj.refCountDown();
      }
    }
    await this.#step("get from the pool", () => this.#compare(hot.batchedGet(this.#keys)));
    await this.#step("check the pool's books", () => {
      hot.memcheck();
      return { objects: hot.size };
    });
  }

  /** Shape, dtype, format and checksum are stored, and another chunk is not taken for this one. */
  async #metadataStep(
    hot: LocalCpuBackend,
    cold: ShmFileConnector,
    store: TieredStore,
    limit: CallOptions,
  ): Promise<void> {
    if (!cold.keepsMetadata) {
      this.#untried(
        "metadata",
        cold.protocol === 1
          ? "a worker of protocol version 1 keeps none"
          : cold.store !== null
          ? "the layout of its objects, which is LMCache's, has no place for a program's own"
          : "the storage directory's file system has no extended attributes",
      );
      return;
    }
    await this.#step("metadata", async () => {
      const { format, dtype } = this.#layout;
      for (const [i, key] of this.#keys.entries()) {
        const { shape } = this.#layout.withByteLength(this.#data[i]!.length);
        const wanted = `${format} ${shape.join()} ${dtype}`;
        const stat = await cold.stat(key, limit);
        const metadata = stat?.metadata ?? {};
        const found = `${metadata["format"]} ${metadata["shape"]} ${metadata["dtype"]}`;
        expect(found === wanted, `${key} is stored as ${found}, not as ${wanted}`);
        expect(
          stat?.crc32c !== null || !this.#config.checksum,
          `${key} is stored without a checksum`,
        );
      }
      // As many bytes, and other numbers. From the store: the pool would know by itself.
      const key = this.#keys[0]!;
      hot.remove(key);
      const other = TensorLayout.of({ shape: this.#layout.shapes, dtype: "half", format });
      using wrong = await store.get(key, other, limit);
      expect(wrong === null, `${key} is ${dtype}, and was given as half`);
      using right = await store.get(key, this.#layout, limit);
      expect(right !== null, `${key} was not found`);
      return { objects: this.#keys.length };
    });
  }

  async #listStep(cold: ShmFileConnector, expected: number): Promise<void> {
    if (!await canList(cold)) {
      this.#untried("list", "the worker speaks version 1, and its directory is not here");
      return;
    }
    await this.#step("list", async () => {
      const listed = new Set(await cold.listAll({ prefix: this.#model, signal: this.#signal }));
      const missing = this.#keys.filter((key) => !listed.has(key.toString()));
      expect(missing.length === 0, `${missing.length} keys are not listed: ${missing[0]}`);
      expect(listed.size === expected, `${listed.size} keys are listed, not ${expected}`);
      return { objects: listed.size };
    });
  }

  async #removeStep(store: TieredStore, cold: ShmFileConnector): Promise<void> {
    if (!await canList(cold)) {
      const why = "the worker speaks version 1, and its directory is not here";
      this.#untried("remove", `${why}; remove ${this.#model}* there`);
      return;
    }
    await this.#step("remove", async () => {
      for (const key of this.#keys) {
        expect(await store.remove(key, { signal: this.#signal }), `${key} was not there`);
        expect(!await store.exists(key, { signal: this.#signal }), `${key} is still there`);
      }
      const left = await cold.listAll({ prefix: this.#model, signal: this.#signal });
      expect(left.length === 0, `${left.length} keys are still listed: ${left[0]}`);
      return { objects: this.#keys.length };
    });
  }

  /** Compares what was got with what was put, and releases it. */
  #compare(found: readonly (TensorMemoryObj | null)[]): Work {
    const faults: string[] = [];
    for (const [i, obj] of found.entries()) {
      const wanted = this.#data[i]!;
      if (obj === null) {
        faults.push(`${this.#keys[i]} was not found`);
      } else if (obj.byteLength !== wanted.length) {
        faults.push(`${this.#keys[i]} has ${obj.byteLength} bytes, not ${wanted.length}`);
      } else if (Buffer.compare(obj.bytes, wanted) !== 0) {
        faults.push(`${this.#keys[i]} came back with other bytes`);
      }
      obj?.refCountDown();
    }
    expect(faults.length === 0, `${faults.length} of ${found.length} chunks: ${faults[0]}`);
    return this.#all();
  }

  #all(): Work {
    return {
      objects: this.#data.length,
      bytes: this.#data.reduce((sum, { length }) => sum + length, 0),
    };
  }

  async #removeAll(cold: ShmFileConnector): Promise<void> {
    if (!await canList(cold)) return;
    for (const key of this.#keys) await cold.remove(key);
  }

  // --- the books of it all

  async #step(name: string, work: () => Work | Promise<Work>): Promise<void> {
    this.#signal.throwIfAborted();
    const started = performance.now();
    const end = (ok: boolean, { objects = 0, bytes = 0, detail = "" }: Work) =>
      this.#add({ name, ok, objects, bytes, milliseconds: performance.now() - started, detail });
    let done: Work;
    try {
      done = await work();
    } catch (error) {
      this.#signal.throwIfAborted();
      const detail = error instanceof Error ? error.message : String(error);
      end(false, { detail });
      throw new Fault(detail);
    }
    end(true, done);
  }

  #untried(name: string, detail: string): void {
    this.#add({ name, ok: null, objects: 0, bytes: 0, milliseconds: 0, detail });
  }

  #add(step: CheckStep): void {
    this.steps.push(step);
    this.#onStep(step);
  }
}
