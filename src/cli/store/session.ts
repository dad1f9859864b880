// SPDX-License-Identifier: Apache-2.0
//
// The stores of one command, and the memory that their objects move through.
//
// Questions (list, stat, remove) go through connectors with a page of memory. Objects move through a
// segment that is made when the first is moved, is shared by all stores of the command, and grows
// when an object is larger than it, up to a limit: it is empty then, so it is made anew.

import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import { ShmFileConnector, type ShmRange, ShmSegment } from "../../mod.ts";
import { ShmError } from "../../errors.ts";
import { formatBytes } from "../format.ts";
import { isTcp, type StoreAddress } from "./address.ts";

const PAGE = 4096;
/** Enough for several of LMCache's usual chunks, and for many small objects: populating takes time. */
const USUAL_BYTES = 64 * 2 ** 20;
const SMALL_BYTES = 4 * 2 ** 20;
/** With less room than for so many objects at once, the segment is made larger. */
const LEAST_OBJECTS = 4;
const MAX_MEMORY_BYTES = 2 ** 30;

export interface SessionOptions {
  readonly secretFile: string | undefined;
  /** The most that the segment may have. */
  readonly memoryBytes?: number;
  /** Attempts to reach a worker that is away; default: as many as usual. */
  readonly attempts?: number;
  readonly signal: AbortSignal;
}

interface Opened {
  readonly segment: ShmSegment;
  readonly connectors: readonly ShmFileConnector[];
}

let serial = 0;

async function open(
  stores: readonly StoreAddress[],
  sizeBytes: number,
  options: SessionOptions,
): Promise<Opened> {
  const named = stores.some(({ workerAddress }) => workerAddress !== undefined);
  const segment = await ShmSegment.create({
    sizeBytes,
    name: named ? `lmshm-command-${process.pid}-${serial++}` : null,
    pin: "none",
    signal: options.signal,
  });
  const connectors: ShmFileConnector[] = [];
  try {
    for (const store of stores) {
      connectors.push(
        await openStore(store, segment, options).catch((error) => {
          throw ofStore(store, error);
        }),
      );
    }
    return { segment, connectors };
  } catch (error) {
    await close({ segment, connectors });
    throw error;
  }
}

function openStore(
  store: StoreAddress,
  segment: ShmSegment,
  options: SessionOptions,
): Promise<ShmFileConnector> {
  const { storageDir, workerAddress, url, storeSecretFile, secretFile } = store;
  const engine = url !== undefined && workerAddress === undefined;
  return ShmFileConnector.open({
    segment,
    ...(url === undefined ? { storageDir, workerAddress } : { store: url }),
    storeSecretFile: engine ? storeSecretFile : undefined,
    secretFile: isTcp(store) ? secretFile ?? options.secretFile : undefined,
    maxRestarts: options.attempts,
    signal: options.signal,
  });
}

/** Failures that say so already: one may end several calls. */
const told = new WeakSet<ShmError>();

/** The failure of one of two stores says which of them it is, and how it is logged in to. */
function ofStore({ role, secretOption }: StoreAddress, error: unknown): unknown {
  if (role === undefined || !(error instanceof ShmError) || told.has(error)) return error;
  told.add(error);
  const login = error.code === "EACCES" && secretOption !== undefined;
  error.message = `${role}: ${error.message}` +
    (login ? `. The login of ${role} is that of ${secretOption}` : "");
  return error;
}

async function close({ segment, connectors }: Opened): Promise<void> {
  await Promise.all(connectors.map((connector) => connector.close()));
  // What a call in flight held a moment ago.
  for (let tries = 0; tries < 50; tries++) {
    try {
      return await segment.free();
    } catch (error) {
      if (!(error instanceof ShmError) || error.code !== "EBUSY") throw error;
      await pause(20);
    }
  }
}

interface Run {
  readonly offset: number;
  readonly end: number;
}

/** Of one segment: which runs are in use. First fit; there are no more than some dozens. */
class Runs {
  readonly sizeBytes: number;
  readonly #used: Run[] = [];
  #onFree: (() => void) | undefined;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
  }

  take(bytes: number): Run | null {
    let offset = 0;
    let index = 0;
    for (; index < this.#used.length && this.#used[index]!.offset - offset < bytes; index++) {
      offset = this.#used[index]!.end;
    }
    if (offset + bytes > this.sizeBytes) return null;
    const run = { offset, end: offset + bytes };
    this.#used.splice(index, 0, run);
    return run;
  }

  free(run: Run): void {
    this.#used.splice(this.#used.indexOf(run), 1);
    this.#onFree?.();
  }

  get empty(): boolean {
    return this.#used.length === 0;
  }

  /** Resolves at the next free(). */
  freed(): Promise<void> {
    return new Promise((resolve) => this.#onFree = resolve);
  }
}

/** See the file's head. */
export class StoreSession implements AsyncDisposable {
  /** For questions, in the order of the stores. */
  readonly ask: readonly ShmFileConnector[];
  readonly #stores: readonly StoreAddress[];
  readonly #options: SessionOptions;
  readonly #asking: Opened;
  #moving: Opened | null = null;
  #runs = new Runs(0);
  /** Who waits for memory gets it in turn, so that a large object is not overtaken for ever. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(stores: readonly StoreAddress[], asking: Opened, options: SessionOptions) {
    this.#stores = stores;
    this.#asking = asking;
    this.#options = options;
    this.ask = asking.connectors;
  }

  static async open(
    stores: readonly StoreAddress[],
    options: SessionOptions,
  ): Promise<StoreSession> {
    return new StoreSession(stores, await open(stores, PAGE, options), options);
  }

  /** The most bytes that an object may have. */
  get limitBytes(): number {
    return this.#options.memoryBytes ?? MAX_MEMORY_BYTES;
  }

  /** What one of the stores is asked; its failure says which of two it is. */
  async of<T>(index: number, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw ofStore(this.#stores[index]!, error);
    }
  }

  /** Likewise what it lists. */
  async *listed<T>(index: number, items: AsyncIterable<T>): AsyncGenerator<T, void, undefined> {
    try {
      yield* items;
    } catch (error) {
      throw ofStore(this.#stores[index]!, error);
    }
  }

  /** Lends `byteLength` bytes of memory, and connectors that move objects through it. */
  async withRange<T>(
    byteLength: number,
    work: (range: ShmRange, connectors: readonly ShmFileConnector[]) => Promise<T>,
  ): Promise<T> {
    const taking = this.#turn.then(() => this.#take(byteLength));
    this.#turn = taking.catch(() => {});
    const { run, opened, runs } = await taking;
    try {
      return await work(opened.segment.range(run.offset, byteLength), opened.connectors);
    } finally {
      runs.free(run);
    }
  }

  /** A part of a range as bytes: one view of all of it may be larger than a runtime allows. */
  bytesOf(
    { offset, segment }: ShmRange,
    from: number,
    byteLength: number,
  ): Uint8Array<ArrayBuffer> {
    return segment.bytes(offset + from, byteLength);
  }

  async #take(byteLength: number): Promise<{ run: Run; opened: Opened; runs: Runs }> {
    const bytes = Math.max(1, Math.ceil(byteLength / PAGE)) * PAGE;
    if (byteLength > this.limitBytes) {
      throw new ShmError(
        `the object has ${byteLength} bytes, and the memory of this command at most ` +
          `${this.limitBytes}`,
        {
          code: "EFBIG",
          operation: "move object",
          hint: `Allow more: --memory ${formatBytes(bytes).replace(" ", "")}, or exactly ${bytes}`,
          details: { byteLength, limitBytes: this.limitBytes },
        },
      );
    }
    for (;;) {
      this.#options.signal.throwIfAborted();
      if (this.#isTooSmall(bytes)) {
        if (!this.#runs.empty) {
          await this.#runs.freed();
          continue;
        }
        await this.#grow(bytes);
      }
      const run = this.#runs.take(bytes);
      if (run !== null) return { run, opened: this.#moving!, runs: this.#runs };
      await this.#runs.freed();
    }
  }

  #isTooSmall(bytes: number): boolean {
    const { sizeBytes } = this.#runs;
    return bytes > sizeBytes || (LEAST_OBJECTS * bytes > sizeBytes && sizeBytes < this.#usualBytes);
  }

  get #usualBytes(): number {
    return Math.min(USUAL_BYTES, Math.floor(this.limitBytes / PAGE) * PAGE);
  }

  async #grow(bytes: number): Promise<void> {
    const old = this.#moving;
    this.#moving = null;
    this.#runs = new Runs(0);
    if (old !== null) await close(old);
    const several = Math.max(SMALL_BYTES, 4 * LEAST_OBJECTS * bytes);
    const sizeBytes = Math.max(bytes, Math.min(several, this.#usualBytes));
    this.#moving = await open(this.#stores, sizeBytes, this.#options);
    this.#runs = new Runs(sizeBytes);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turn;
    if (this.#moving !== null) await close(this.#moving);
    await close(this.#asking);
  }
}
