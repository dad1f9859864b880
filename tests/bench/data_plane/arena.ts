// SPDX-License-Identifier: Apache-2.0
//
// Where the contenders of the data plane meet: one pool, and a directory for each file system, with
// files that are made, checked and emptied here. What it measures is elsewhere (movers.ts).
//
// Written files get new names in every sample, and are emptied instead of removed. ext4 does not use
// an inode again for a minute or more after its removal, and looks at each of those before it makes
// another: after some thousand removals everybody's puts are ten times slower.

import { closeSync, ftruncateSync, openSync, readSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { keyToFileName, type ShmRange, ShmSegment } from "../../../src/mod.ts";
import { CProgram } from "../support/c_program.ts";
import { fillRandom, mustEqual } from "../support/data.ts";
import { freeBytes } from "../support/environment.ts";
import { dropFromCache } from "../support/page_cache.ts";

/** What one sample moves: so many objects of so many bytes. */
export interface Load {
  readonly label: string;
  readonly objectBytes: number;
  readonly count: number;
}

/** One object: a place in the pool, and its file. */
export interface Slot {
  readonly index: number;
  readonly key: string;
  readonly directory: string;
  readonly fileName: string;
  readonly path: string;
  readonly range: ShmRange;
  /** The pool's bytes of the range. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What must be in the file, and in memory after reading; a copy of its own. */
  readonly wanted: Uint8Array;
}

/** A kind of file system that objects lie on. */
export interface Place {
  readonly name: "disk" | "tmpfs";
  readonly directory: string;
}

/** Memory and space that a pool of so many bytes asks for: itself, its copy, what is checked. */
const MEMORY_FACTOR = 4;
const DISK_FACTOR = 4;
const SHM = "/dev/shm";
/** Touched before each measurement, at least; more is touched for large loads. */
const MIN_WARM_BYTES = 32 * 2 ** 20;
const WARM_FACTOR = 2;

export class Arena implements AsyncDisposable {
  readonly segment: ShmSegment;
  readonly places: readonly Place[];
  readonly #wanted: Uint8Array;
  readonly #toucher: CProgram | null;
  #generation = 0;

  private constructor(segment: ShmSegment, places: readonly Place[], toucher: CProgram | null) {
    this.#toucher = toucher;
    this.segment = segment;
    this.places = places;
    this.#wanted = new Uint8Array(segment.sizeBytes);
    fillRandom(this.#wanted, 1);
  }

  /**
   * @param poolBytes of the segment, which is named so that other processes find it
   * @param directory on the disk; its files go with it
   * @param withTmpfs also a directory in /dev/shm, which close() removes
   * @throws {Error} telling what there is too little of.
   */
  static async open(poolBytes: number, directory: string, withTmpfs: boolean): Promise<Arena> {
    const disk = await freeBytes(directory);
    const memory = await freeBytes(SHM);
    if (disk < poolBytes * DISK_FACTOR || memory < poolBytes * MEMORY_FACTOR) {
      throw new Error(
        `this needs ${poolBytes * MEMORY_FACTOR} bytes in ${SHM} (${memory} are free) and ` +
          `${poolBytes * DISK_FACTOR} of disk (${disk} are free): free some, or choose another ` +
          "disk with --dir",
      );
    }
    const places: Place[] = [
      { name: "disk", directory: await mkdtemp(join(directory, "objects-")) },
    ];
    if (withTmpfs) {
      places.push({ name: "tmpfs", directory: await mkdtemp(join(SHM, "lmshm-bench-")) });
    }
    try {
      const name = `lmshm-bench-${process.pid}-pool`;
      const segment = await ShmSegment.create({ sizeBytes: poolBytes, name });
      const arena = new Arena(segment, places, buildToucher());
      process.on("exit", arena.#removeTmpfs);
      return arena;
    } catch (error) {
      removeTmpfs(places);
      throw error;
    }
  }

  readonly #removeTmpfs = () => removeTmpfs(this.places);

  async [Symbol.asyncDispose](): Promise<void> {
    process.off("exit", this.#removeTmpfs);
    this.#removeTmpfs();
    await this.segment.free();
  }

  get disk(): Place {
    return this.places[0]!;
  }

  /** Objects under new keys; nothing is made yet. */
  fresh(load: Load, { directory }: Place): Slot[] {
    const { objectBytes, count } = load;
    const generation = this.#generation++;
    return Array.from({ length: count }, (_, index) => {
      // As long as the keys that LMCache makes.
      const hash = `${generation.toString(16).padStart(8, "0")}${
        index.toString(16).padStart(8, "0")
      }`;
      const key = `meta-llama/Llama-3.1-8B@1@0@${hash}@bfloat16`;
      const fileName = keyToFileName(key);
      const offset = index * objectBytes;
      return {
        index,
        key,
        directory,
        fileName,
        path: join(directory, fileName),
        range: this.segment.range(offset, objectBytes),
        bytes: this.segment.bytes(offset, objectBytes),
        wanted: this.#wanted.subarray(offset, offset + objectBytes),
      };
    });
  }

  /**
   * Touches and frees some memory, so that a measurement that needs new pages gets such as were in
   * use a moment ago: see touch_memory.c. Without a compiler nothing happens.
   */
  async warmMemory(bytes: number): Promise<void> {
    const least = Math.max(MIN_WARM_BYTES, bytes * WARM_FACTOR);
    await this.#toucher?.run([String(least)]);
  }

  /** The pool's part of the slots holds what is to be written. */
  fillPool(slots: readonly Slot[]): void {
    for (const { bytes, wanted } of slots) bytes.set(wanted);
  }

  clearPool(slots: readonly Slot[]): void {
    for (const { bytes } of slots) bytes.fill(0);
  }
}

function buildToucher(): CProgram | null {
  try {
    return CProgram.build("touch_memory");
  } catch {
    return null;
  }
}

function removeTmpfs(places: readonly Place[]): void {
  for (const { name, directory } of places) {
    if (name === "tmpfs") rmSync(directory, { recursive: true, force: true });
  }
}

export function totalBytes(slots: readonly Slot[]): number {
  return slots.reduce((sum, { range }) => sum + range.byteLength, 0);
}

/** @throws {Error} unless every file holds exactly what it should. */
export function checkFiles(who: string, slots: readonly Slot[]): void {
  // One byte more than there should be, to see a file that is too long.
  const scratch = new Uint8Array(Math.max(...slots.map(({ wanted }) => wanted.length)) + 1);
  for (const { index, path, wanted } of slots) {
    const fd = openSync(path, "r");
    let length = 0;
    try {
      for (let n = -1; n !== 0 && length < scratch.length;) {
        n = readSync(fd, scratch, length, scratch.length - length, length);
        length += n;
      }
    } finally {
      closeSync(fd);
    }
    mustEqual(`${who}, file ${index}`, scratch.subarray(0, length), wanted);
  }
}

/** Gives back what the files occupy: see the file's head. */
export function emptyFiles(slots: readonly Slot[], place: Place): void {
  for (const { path } of slots) {
    if (place.name === "tmpfs") {
      rmSync(path, { force: true });
    } else {
      const fd = openSync(path, "r+");
      try {
        ftruncateSync(fd, 0);
      } finally {
        closeSync(fd);
      }
    }
  }
}

/** Throws the files out of the page cache, those of directories and attributes excepted. */
export function makeCold(slots: readonly Slot[]): void {
  dropFromCache(slots.map(({ path }) => path));
}
