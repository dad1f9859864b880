// SPDX-License-Identifier: Apache-2.0
//
// What bench measures with: a segment full of chunks, workers that go through the page cache and past
// it, plain memory and plain files of the same sizes, all in one new directory. Its contenders are
// methods that take one sample each.
//
// The segment is anonymous: nothing of it is left when this process is killed.

import { randomFillSync } from "node:crypto";
import { mkdtemp, readdir, rm, unlink } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { ShmFileConnector, type ShmRange, ShmSegment } from "../../mod.ts";
import {
  copyMemory,
  dropFromCache,
  PlainMemory,
  plainPath,
  plainRead,
  plainWrite,
  settle,
} from "../../native/plain_calls.ts";
import { inLanes } from "../lanes.ts";
import { BarePipe } from "./helper.ts";
import { NotHere } from "./sampler.ts";

export const CHUNKS = 8;
export const SMALL_BYTES = 4096;
export const SMALL_OBJECTS = 512;
const IN_FLIGHT = 4;
const TRIPS = 100;
const MIB = 2 ** 20;
/** More of a file than this in the page cache, and it is not cold. */
const WARM_SHARE = 0.05;

export type Way = "cached" | "direct";

/** MB/s of some bytes in some milliseconds. */
function rate(bytes: number, milliseconds: number): number {
  return bytes / 1000 / Math.max(milliseconds, 1e-3);
}

interface Directories {
  /** What one of the workers stores. */
  readonly objects: string;
  readonly plain: string;
}

/** See the file's head. */
export class Scene implements AsyncDisposable {
  readonly segment: ShmSegment;
  readonly #chunkBytes: number;
  readonly #connectors: Readonly<Record<Way, ShmFileConnector>>;
  readonly #memory: PlainMemory;
  readonly #pipe: BarePipe | NotHere;
  readonly #directories: Directories;
  readonly #signal: AbortSignal;
  readonly #stack: AsyncDisposableStack;
  #serial = 0;
  #stored = false;

  private constructor(parts: {
    segment: ShmSegment;
    chunkBytes: number;
    connectors: Readonly<Record<Way, ShmFileConnector>>;
    memory: PlainMemory;
    pipe: BarePipe | NotHere;
    directories: Directories;
    signal: AbortSignal;
    stack: AsyncDisposableStack;
  }) {
    this.segment = parts.segment;
    this.#chunkBytes = parts.chunkBytes;
    this.#connectors = parts.connectors;
    this.#memory = parts.memory;
    this.#pipe = parts.pipe;
    this.#directories = parts.directories;
    this.#signal = parts.signal;
    this.#stack = parts.stack;
  }

  static async open(directory: string, chunkBytes: number, signal: AbortSignal): Promise<Scene> {
    await using stack = new AsyncDisposableStack();
    const folder = (name: string) => mkdtemp(join(directory, `${name}-`));
    const directories = { objects: await folder("objects"), plain: await folder("plain") };
    const sizeBytes = CHUNKS * chunkBytes;
    const segment = await ShmSegment.create({ sizeBytes, signal });
    stack.defer(() => freed(segment));
    const memory = stack.use(new PlainMemory(sizeBytes));
    const connect = async (ioMode: Way) => {
      const connector = await ShmFileConnector.open({
        segment,
        storageDir: directories.objects,
        ioMode,
        // What a second worker would measure is another thing.
        maxRestarts: 0,
        signal,
      });
      stack.defer(() => connector.close());
      return connector;
    };
    const connectors = { cached: await connect("cached"), direct: await connect("direct") };
    const pipe = await BarePipe.open(signal).catch((error) => {
      if (error instanceof NotHere) return error;
      throw error;
    });
    if (pipe instanceof BarePipe) stack.use(pipe);
    const parts = { segment, chunkBytes, connectors, memory, pipe, directories, signal };
    const scene = new Scene({ ...parts, stack: stack.move() });
    scene.#fill();
    return scene;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack[Symbol.asyncDispose]();
  }

  /** What the worker says of itself and the directory. */
  async info() {
    return await this.#connectors.direct.info({ signal: this.#signal });
  }

  // --- the large objects

  #range(index: number): ShmRange {
    return this.segment.range(index * this.#chunkBytes, this.#chunkBytes);
  }

  /** Bytes that no file system makes smaller, and a number in each MiB. */
  #fill(): void {
    const block = randomFillSync(new Uint8Array(Math.min(MIB, this.#chunkBytes)));
    for (let at = 0; at < this.segment.sizeBytes; at += block.length) {
      const length = Math.min(block.length, this.segment.sizeBytes - at);
      this.segment.bytes(at, length).set(block.subarray(0, length));
    }
    for (let index = 0; index < CHUNKS; index++) this.#stamp(index, index + 1);
    copyMemory(
      this.#memory.address,
      this.segment.facts.address,
      this.#memory.byteLength,
    );
  }

  /** Where the numbers of a chunk are. */
  *#stamps(index: number): Generator<DataView, void, undefined> {
    const begin = index * this.#chunkBytes;
    for (let at = 0; at < this.#chunkBytes; at += MIB) {
      const { buffer, byteOffset } = this.segment.bytes(begin + at, 8);
      yield new DataView(buffer, byteOffset, 8);
    }
  }

  #stamp(index: number, number: number): void {
    for (const view of this.#stamps(index)) view.setUint32(0, number, true);
  }

  #checkStamps(index: number): void {
    for (const view of this.#stamps(index)) {
      if (view.getUint32(0, true) === index + 1) continue;
      throw new Error(
        `what was got for object ${index} is not what was put: lmshm verify tells more`,
      );
    }
  }

  #key(index: number): string {
    return `chunk-${index}`;
  }

  #plain(index: number): Uint8Array {
    return plainPath(join(this.#directories.plain, `chunk-${index}`));
  }

  #at(index: number): bigint {
    return this.#memory.address + BigInt(index * this.#chunkBytes);
  }

  async #putAll(way: Way, count: number): Promise<void> {
    const options = { signal: this.#signal };
    await inLanes(Array(count).keys(), IN_FLIGHT, async (index) => {
      await this.#connectors[way].put(this.#key(index), this.#range(index), options);
    });
  }

  /** Unlinked while they are dirty: nothing of them has to reach the disk any more. */
  async #empty(directory: string): Promise<void> {
    for (const name of await readdir(directory)) await unlink(join(directory, name));
  }

  async put(way: Way, count: number): Promise<number> {
    this.#stored = false;
    await this.#empty(this.#directories.objects);
    const started = performance.now();
    await this.#putAll(way, count);
    const milliseconds = performance.now() - started;
    await this.#empty(this.#directories.objects);
    return rate(count * this.#chunkBytes, milliseconds);
  }

  async plainPut(way: Way, count: number): Promise<number> {
    this.#stored = false;
    await this.#empty(this.#directories.plain);
    let milliseconds = 0;
    for (let index = 0; index < count; index++) {
      const path = this.#plain(index);
      await this.#breathe();
      const started = performance.now();
      plainWrite(path, this.#at(index), this.#chunkBytes, way === "direct");
      milliseconds += performance.now() - started;
    }
    await this.#empty(this.#directories.plain);
    return rate(count * this.#chunkBytes, milliseconds);
  }

  /** Stores what the gets get, both ways, and waits until it is on the disk. */
  async store(): Promise<void> {
    if (this.#stored) return;
    await this.#empty(this.#directories.objects);
    await this.#empty(this.#directories.plain);
    await this.#putAll("cached", CHUNKS);
    for (let index = 0; index < CHUNKS; index++) {
      plainWrite(this.#plain(index), this.#at(index), this.#chunkBytes);
    }
    for (const path of [...await this.#files("objects"), ...await this.#files("plain")]) {
      await this.#breathe();
      settle(path);
    }
    this.#stored = true;
  }

  async #files(which: keyof Directories): Promise<Uint8Array[]> {
    const directory = this.#directories[which];
    return (await readdir(directory)).map((name) => plainPath(join(directory, name)));
  }

  async #cool(which: keyof Directories): Promise<void> {
    for (const path of await this.#files(which)) {
      if (dropFromCache(path, this.#chunkBytes) <= WARM_SHARE) continue;
      throw new NotHere("the files stay in memory: this file system has no other place for them");
    }
  }

  async get(way: Way, cold: boolean, count: number): Promise<number> {
    await this.store();
    if (cold) await this.#cool("objects");
    for (let index = 0; index < count; index++) this.#stamp(index, 0);
    const options = { signal: this.#signal };
    const started = performance.now();
    await inLanes(Array(count).keys(), IN_FLIGHT, async (index) => {
      await this.#connectors[way].get(this.#key(index), this.#range(index), options);
    });
    const milliseconds = performance.now() - started;
    for (let index = 0; index < count; index++) this.#checkStamps(index);
    return rate(count * this.#chunkBytes, milliseconds);
  }

  async plainGet(way: Way, cold: boolean, count: number): Promise<number> {
    await this.store();
    if (cold) await this.#cool("plain");
    let milliseconds = 0;
    for (let index = 0; index < count; index++) {
      const path = this.#plain(index);
      await this.#breathe();
      const started = performance.now();
      plainRead(path, this.#at(index), this.#chunkBytes, way === "direct");
      milliseconds += performance.now() - started;
    }
    return rate(count * this.#chunkBytes, milliseconds);
  }

  /** Half of the memory to the other half and back. */
  async copy(count: number): Promise<number> {
    let milliseconds = 0;
    for (let index = 0; index < count; index++) {
      await this.#breathe();
      const started = performance.now();
      copyMemory(this.#at((index + CHUNKS / 2) % CHUNKS), this.#at(index), this.#chunkBytes);
      milliseconds += performance.now() - started;
    }
    return rate(count * this.#chunkBytes, milliseconds);
  }

  // --- a question and its answer

  async ping(): Promise<number> {
    const connector = this.#connectors.cached;
    const started = performance.now();
    for (let trip = 0; trip < TRIPS; trip++) await connector.ping({ signal: this.#signal });
    return (performance.now() - started) * 1000 / TRIPS;
  }

  async barePing(): Promise<number> {
    if (this.#pipe instanceof NotHere) throw this.#pipe;
    const started = performance.now();
    for (let trip = 0; trip < TRIPS; trip++) await this.#pipe.trip();
    return (performance.now() - started) * 1000 / TRIPS;
  }

  // --- many small objects

  #smallRanges(): ShmRange[] {
    return Array.from(
      { length: SMALL_OBJECTS },
      (_, index) => this.segment.range(index * SMALL_BYTES, SMALL_BYTES),
    );
  }

  async smallPut(): Promise<number> {
    return (await this.#small()).puts;
  }

  async smallGet(): Promise<number> {
    return (await this.#small()).gets;
  }

  /** Puts new ones and gets them. */
  async #small(): Promise<{ puts: number; gets: number }> {
    const serial = this.#serial++;
    const keys = Array.from({ length: SMALL_OBJECTS }, (_, i) => `small-${serial}-${i}`);
    const ranges = this.#smallRanges();
    const connector = this.#connectors.cached;
    const options = { signal: this.#signal };
    const perSecond = (ms: number) => SMALL_OBJECTS * 1000 / Math.max(ms, 1e-3);
    let started = performance.now();
    await connector.batchedPut(keys, ranges, options);
    const puts = perSecond(performance.now() - started);
    started = performance.now();
    const got = await connector.batchedGet(keys, ranges, options);
    const gets = perSecond(performance.now() - started);
    if (got.includes(null)) throw new Error("a small object that was put is missing");
    await Promise.all(keys.map((key) => connector.remove(key, options)));
    return { puts, gets };
  }

  async plainSmallPut(): Promise<number> {
    return (await this.#plainSmall()).puts;
  }

  async plainSmallGet(): Promise<number> {
    return (await this.#plainSmall()).gets;
  }

  async #plainSmall(): Promise<{ puts: number; gets: number }> {
    const names = Array.from(
      { length: SMALL_OBJECTS },
      (_, i) => join(this.#directories.plain, `small-${i}`),
    );
    const paths = names.map(plainPath);
    const perSecond = (ms: number) => SMALL_OBJECTS * 1000 / Math.max(ms, 1e-3);
    const at = (index: number) => this.#memory.address + BigInt(index * SMALL_BYTES);
    let started = performance.now();
    paths.forEach((path, index) => plainWrite(path, at(index), SMALL_BYTES));
    const puts = perSecond(performance.now() - started);
    started = performance.now();
    paths.forEach((path, index) => plainRead(path, at(index), SMALL_BYTES));
    const gets = perSecond(performance.now() - started);
    for (const name of names) await unlink(name);
    return { puts, gets };
  }

  /** Plain calls block: in between the event loop turns, and whoever interrupts is heard. */
  async #breathe(): Promise<void> {
    await pause(0);
    this.#signal.throwIfAborted();
  }
}

/** Frees a segment, also when a call that was interrupted still holds it for a moment. */
async function freed(segment: ShmSegment): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    try {
      return await segment.free();
    } catch (error) {
      if ((error as { code?: unknown }).code !== "EBUSY") throw error;
      await pause(20);
    }
  }
}

/** MB/s at which segments of so many bytes are made, pages and pinning included. */
export async function allocation(sizeBytes: number, signal: AbortSignal): Promise<number> {
  const started = performance.now();
  const segment = await ShmSegment.create({ sizeBytes, signal });
  const milliseconds = performance.now() - started;
  await segment.free();
  return rate(sizeBytes, milliseconds);
}

/** The same of the kernel alone: one thread that populates shared memory. */
export function plainAllocation(sizeBytes: number): number {
  const started = performance.now();
  using memory = new PlainMemory(sizeBytes);
  return rate(memory.byteLength, performance.now() - started);
}

/** Removes a directory with all in it. */
export async function removeAll(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
}
