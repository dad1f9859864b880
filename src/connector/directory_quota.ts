// SPDX-License-Identifier: Apache-2.0
//
// Keeps a storage directory within a number of bytes: counts what its objects really take of the
// disk, and removes those that were used longest ago to make room before a new one is written.
//
// The index is built from the directory when it is opened, so nothing is forgotten by a restart. The
// last use that a restart finds is the file's access time, which Linux keeps to within a day for
// files that are read often. Several processes may share a directory: each notices what the others
// added or removed when it makes room, once in refreshMs and sooner when it wrote a sixteenth of the
// limit itself, and what they replaced a little later. So together they may exceed the limit by what
// the others wrote in that time. An object that another process removed is a miss.
//
// Every regular file that is named as an object is one, whoever wrote it, and a file that holds the
// key of one counts with it; without an object, it counts alone. Other files are neither counted nor
// touched. What writers that died have left is removed: temporaries that nobody wrote to for a
// while, and whose process is not there, and keys whose object has been missing for as long. Whoever
// stores an object looks for its key again afterwards, so that this needs no lock.

import { type Dirent, existsSync, type Stats } from "node:fs";
import { lstat, opendir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { ShmError } from "../errors.ts";
import { checkInteger, checkKnownOptions } from "../arguments.ts";
import { fileNameToKey, objectOfSidecar, sidecarOf, temporaryMaker } from "../keys/key_file.ts";
import { BLOCK_BYTES, fileError } from "./storage_directory.ts";

export interface DirectoryQuotaOptions {
  /** What the objects may take of the disk together; at least 4096. */
  readonly maxBytes: number;
  /**
   * How long additions by other processes may go unnoticed while this one writes, or ten times as
   * long as it takes to read the directory; default 1 s. When this one writes much, down to a 64th
   * of it. 0: the directory is read for each object that is written.
   */
  readonly refreshMs?: number | undefined;
  /** How long nobody wrote to a temporary or a lone key that is taken for left over; default 10 min. */
  readonly staleTemporaryMs?: number | undefined;
}

/** What a directory's limit has to do. */
export interface DirectoryQuotaStats {
  /** The limit. */
  readonly maxBytes: number;
  /** Of the disk, objects that are being written included. */
  readonly usedBytes: number;
  /** Objects that count. */
  readonly objects: number;
  /** Removed to make room, since the opening. */
  readonly evictions: number;
  /** Bytes of those. */
  readonly evictedBytes: number;
  /** Left over by dead writers, and removed. */
  readonly staleTemporaries: number;
  /** Files with the key of an object that is not there, left over by dead writers, and removed. */
  readonly staleKeys: number;
}

/** Room for one object; exactly one of the two functions must be called, once. */
export interface Reservation {
  /** The writing is over, well or not: from now on, what is there counts. */
  commit(): Promise<void>;
  /** Nothing was written. */
  cancel(): void;
}

const ALLOCATION_BYTES = 4096;
const STATS_AT_A_TIME = 32;
/** How many known objects a refresh looks at again, in case that somebody replaced them. */
const RECHECKED = 256;
/** After having written this part of the limit itself, it has a look at what others wrote. */
const REFRESH_EACH = 1 / 16;
const SOONEST_REFRESH = 1 / 64;
/** At most this part of the time is spent on refreshing, however large the directory. */
const REFRESH_SHARE = 0.1;
const DAY_MS = 86_400_000;
const REFRESH_MS = 1_000;
const STALE_TEMPORARY_MS = 600_000;

function isObject(name: string): boolean {
  return fileNameToKey(name) !== null || sidecarOf(name) !== null;
}

interface Found {
  readonly name: string;
  readonly byteLength: number;
  readonly diskBytes: number;
  readonly usedMs: number;
}

export class DirectoryQuota {
  readonly maxBytes: number;
  readonly #path: string;
  readonly #refreshMs: number;
  readonly #staleTemporaryMs: number;
  /** Disk bytes by file name, the one used longest ago first. */
  readonly #objects = new Map<string, number>();
  /** Objects being written: never evicted, however often. */
  readonly #writing = new Map<string, number>();
  /** Since the present refresh began: what it saw of them may be older than what is known. */
  readonly #committed = new Set<string>();
  #usedBytes = 0;
  #reservedBytes = 0;
  #evictions = 0;
  #evictedBytes = 0;
  #staleTemporaries = 0;
  #staleKeys = 0;
  /** Disk bytes of the files with the keys of objects that are not there. */
  #loneKeyBytes = 0;
  /** When a refresh is due, and before when there is none however much was written. */
  #nextRefreshMs = -Infinity;
  #noRefreshBeforeMs = -Infinity;
  #bytesSinceRefresh = 0;
  #recheckFrom = 0;
  /** Making room is done by one put at a time. */
  #turn: Promise<void> = Promise.resolve();

  private constructor(path: string, options: DirectoryQuotaOptions) {
    const { refreshMs = REFRESH_MS, staleTemporaryMs = STALE_TEMPORARY_MS } = options;
    this.#path = path;
    this.maxBytes = checkInteger("maxBytes", options.maxBytes, ALLOCATION_BYTES);
    this.#refreshMs = checkInteger("refreshMs", refreshMs);
    this.#staleTemporaryMs = checkInteger("staleTemporaryMs", staleTemporaryMs);
  }

  /**
   * Reads the directory, removes what dead writers left, and makes the limit hold.
   * @param path of the directory, which must exist.
   * @throws {TypeError | RangeError} for options; {ShmError} ENOENT and the like when the directory
   *   cannot be read, ENOSPC when it holds too much that cannot be removed.
   */
  static async open(path: string, options: DirectoryQuotaOptions): Promise<DirectoryQuota> {
    checkKnownOptions("DirectoryQuota", options, ["maxBytes", "refreshMs", "staleTemporaryMs"]);
    const quota = new DirectoryQuota(path, options);
    await quota.#refresh();
    await quota.#evictUntilFits(0);
    return quota;
  }

  get stats(): DirectoryQuotaStats {
    return {
      maxBytes: this.maxBytes,
      usedBytes: this.#usedBytes + this.#loneKeyBytes + this.#reservedBytes,
      objects: this.#objects.size,
      evictions: this.#evictions,
      evictedBytes: this.#evictedBytes,
      staleTemporaries: this.#staleTemporaries,
      staleKeys: this.#staleKeys,
    };
  }

  /**
   * Makes room for an object of `byteLength` bytes, by removing others where it must. An object of
   * the same name counts as one of those until it is replaced.
   * @param withAttributes it comes with extended attributes, for which some file systems take a
   *   block more.
   * @throws {ShmError} EFBIG when it alone is larger than the limit, ENOSPC when what is being
   *   written at the moment, or cannot be removed, fills it.
   */
  async reserve(
    fileName: string,
    byteLength: number,
    withAttributes = false,
  ): Promise<Reservation> {
    const needs = neededBytes(fileName, byteLength) + (withAttributes ? ALLOCATION_BYTES : 0);
    if (needs > this.maxBytes) {
      throw new ShmError(
        `the object takes ${needs} bytes, and ${this.#path} may take ${this.maxBytes}`,
        {
          code: "EFBIG",
          operation: "make room in the storage directory",
          hint: "Raise maxBytes",
          details: { byteLength, maxBytes: this.maxBytes, path: this.#path },
        },
      );
    }
    await this.#inTurn(async () => {
      if (this.#isRefreshDue()) await this.#refresh();
      await this.#evictUntilFits(needs);
      this.#reservedBytes += needs;
      this.#bytesSinceRefresh += needs;
      this.#writing.set(fileName, (this.#writing.get(fileName) ?? 0) + 1);
    });
    let ended = false;
    const end = () => {
      if (ended) throw new Error("a reservation ends once");
      ended = true;
      this.#reservedBytes -= needs;
      const left = this.#writing.get(fileName)! - 1;
      if (left > 0) this.#writing.set(fileName, left);
      else this.#writing.delete(fileName);
    };
    return {
      commit: async () => {
        let found: Found | null = null;
        try {
          found = await this.#look(fileName);
        } finally {
          // In one go: in between, nobody may find the room free.
          end();
          this.#forget(fileName);
          if (found) this.#remember(asWritten(found, byteLength));
          this.#committed.add(fileName);
        }
      },
      cancel: end,
    };
  }

  /** The object was used: it is evicted later than all that were used before. */
  touch(fileName: string): void {
    const diskBytes = this.#objects.get(fileName);
    if (diskBytes === undefined) return;
    this.#objects.delete(fileName);
    this.#objects.set(fileName, diskBytes);
  }

  /** The object was removed. */
  removed(fileName: string): void {
    this.#forget(fileName);
  }

  #remember({ name, diskBytes }: Found): void {
    this.#objects.set(name, diskBytes);
    this.#usedBytes += diskBytes;
  }

  #forget(name: string): void {
    this.#usedBytes -= this.#objects.get(name) ?? 0;
    this.#objects.delete(name);
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#turn;
    let done = () => {};
    this.#turn = new Promise((resolve) => done = resolve);
    await before;
    try {
      return await work();
    } finally {
      done();
    }
  }

  async #evictUntilFits(needs: number): Promise<void> {
    const fits = () =>
      this.#usedBytes + this.#loneKeyBytes + this.#reservedBytes + needs <= this.maxBytes;
    let refused: unknown = null;
    // No object is sacrificed where that cannot help.
    if (this.#reservedBytes + needs <= this.maxBytes) {
      for (const name of this.#objects.keys()) {
        if (fits()) return;
        if (this.#writing.has(name)) continue;
        try {
          await this.#evict(name);
        } catch (cause) {
          // One that cannot be removed must not keep the others.
          refused ??= cause;
        }
      }
    }
    if (fits()) return;
    throw new ShmError(
      `${needs} more bytes do not fit: ${this.#reservedBytes} bytes are being written, ` +
        `${
          this.#usedBytes + this.#loneKeyBytes
        } cannot be removed now, and ${this.#path} may take ${this.maxBytes}` +
        (refused instanceof Error ? `; ${refused.message}` : ""),
      {
        code: "ENOSPC",
        operation: "make room in the storage directory",
        hint: refused === null
          ? "Write fewer objects at a time, or raise maxBytes"
          : "Let this user remove files of the directory, or raise maxBytes",
        details: {
          needs,
          reservedBytes: this.#reservedBytes,
          usedBytes: this.#usedBytes + this.#loneKeyBytes,
          maxBytes: this.maxBytes,
          path: this.#path,
        },
        ...(refused === null ? {} : { cause: refused }),
      },
    );
  }

  async #evict(name: string): Promise<void> {
    const removed = await this.#unlink(name);
    const diskBytes = this.#objects.get(name) ?? 0;
    this.#forget(name);
    if (removed) {
      this.#evictions++;
      this.#evictedBytes += diskBytes;
    }
    const sidecar = sidecarOf(name);
    // Who has stored it again meanwhile saw its key there, and needs it.
    if (sidecar !== null && await this.#lstat(name) === null) await this.#unlink(sidecar);
  }

  #isRefreshDue(): boolean {
    const nowMs = performance.now();
    if (nowMs >= this.#nextRefreshMs) return true;
    return this.#bytesSinceRefresh >= this.maxBytes * REFRESH_EACH &&
      nowMs >= this.#noRefreshBeforeMs;
  }

  /** Brings the index up to what the directory holds. */
  async #refresh(): Promise<void> {
    const startedMs = performance.now();
    this.#bytesSinceRefresh = 0;
    this.#committed.clear();
    const known = new Set(this.#objects.keys());
    const gone = new Set(known);
    const fresh: string[] = [];
    const temporaries: string[] = [];
    const keys: string[] = [];
    for await (const { name } of this.#entries()) {
      if (temporaryMaker(name) !== null) temporaries.push(name);
      else if (objectOfSidecar(name) !== null) keys.push(name);
      else if (isObject(name) && !gone.delete(name) && !this.#writing.has(name)) fresh.push(name);
    }
    for (const name of gone) if (!this.#committed.has(name)) this.#forget(name);
    const found = await this.#lookAll(fresh);
    found.sort((a, b) => a.usedMs - b.usedMs);
    for (const one of found) if (!this.#objects.has(one.name)) this.#remember(one);
    await this.#recheck([...known]);
    for (const name of temporaries) await this.#removeIfStale(name);
    this.#loneKeyBytes = await this.#sweepKeys(keys);
    const endedMs = performance.now();
    const pauseMs = (endedMs - startedMs) / REFRESH_SHARE;
    this.#noRefreshBeforeMs = endedMs + Math.max(this.#refreshMs * SOONEST_REFRESH, pauseMs);
    this.#nextRefreshMs = this.#refreshMs === 0 ? 0 : endedMs + Math.max(this.#refreshMs, pauseMs);
  }

  /** Corrects the sizes of some known objects, others each time. They keep their order. */
  async #recheck(known: readonly string[]): Promise<void> {
    if (this.#recheckFrom >= known.length) this.#recheckFrom = 0;
    const some = known.slice(this.#recheckFrom, this.#recheckFrom + RECHECKED);
    this.#recheckFrom += some.length;
    for (const { name, diskBytes } of await this.#lookAll(some)) {
      const counted = this.#objects.get(name);
      if (counted === undefined || this.#committed.has(name)) continue;
      this.#objects.set(name, diskBytes);
      this.#usedBytes += diskBytes - counted;
    }
  }

  async #lookAll(names: readonly string[]): Promise<Found[]> {
    const found: Found[] = [];
    for (let at = 0; at < names.length; at += STATS_AT_A_TIME) {
      const looks = names.slice(at, at + STATS_AT_A_TIME).map((name) => this.#look(name));
      for (const one of await Promise.all(looks)) if (one) found.push(one);
    }
    return found;
  }

  async *#entries(): AsyncGenerator<Dirent> {
    try {
      for await (const entry of await opendir(this.#path, { bufferSize: 256 })) {
        if (entry.isFile()) yield entry;
      }
    } catch (cause) {
      throw fileError(cause, "read storage directory", this.#path);
    }
  }

  /** Null when it is not there. A file beside it that holds its key counts as part of it. */
  async #look(name: string): Promise<Found | null> {
    const object = await this.#lstat(name);
    if (object === null) return null;
    const sidecar = sidecarOf(name);
    const keyBlocks = sidecar === null ? 0 : (await this.#lstat(sidecar))?.blocks ?? 0;
    return {
      name,
      byteLength: object.size,
      diskBytes: (object.blocks + keyBlocks) * BLOCK_BYTES,
      usedMs: Math.max(object.atimeMs, object.mtimeMs),
    };
  }

  async #lstat(name: string): Promise<Stats | null> {
    try {
      const found = await lstat(join(this.#path, name));
      return found.isFile() ? found : null;
    } catch (cause) {
      if ((cause as { code?: unknown }).code === "ENOENT") return null;
      throw fileError(cause, "look up object", join(this.#path, name));
    }
  }

  async #unlink(name: string): Promise<boolean> {
    try {
      await unlink(join(this.#path, name));
      return true;
    } catch (cause) {
      if ((cause as { code?: unknown }).code === "ENOENT") return false;
      throw fileError(cause, "evict object", join(this.#path, name));
    }
  }

  /** What cannot be removed is left for whoever can. */
  async #removeIfStale(temporary: string): Promise<void> {
    const found = await this.#lstat(temporary);
    if (found === null) return;
    const writer = temporaryMaker(temporary);
    const staleMs = this.#staleTemporaryMs;
    // A living process of that number may be another one by now, or another container's.
    const limitMs = mayLive(writer) ? Math.max(DAY_MS, staleMs) : staleMs;
    if (Date.now() - found.mtimeMs < limitMs) return;
    if (await this.#unlink(temporary).catch(() => false)) this.#staleTemporaries++;
  }

  /** Removes the stale ones of those whose object is not there. What the others take of the disk. */
  async #sweepKeys(sidecars: readonly string[]): Promise<number> {
    let bytes = 0;
    for (const sidecar of sidecars) {
      const object = objectOfSidecar(sidecar)!;
      // Before an object that is being written gets its name, its key has one.
      if (this.#objects.has(object) || this.#writing.has(object)) continue;
      const found = await this.#lstat(sidecar);
      if (found === null || await this.#lstat(object) !== null) continue;
      const stale = Date.now() - found.mtimeMs >= this.#staleTemporaryMs;
      if (stale && await this.#unlink(sidecar).catch(() => false)) this.#staleKeys++;
      else bytes += found.blocks * BLOCK_BYTES;
    }
    return bytes;
  }
}

/** Whether there is such a process, or that cannot be seen: Deno shows /proc with -A only. */
function mayLive(pid: number | null): boolean {
  try {
    return existsSync(`/proc/${pid}`);
  } catch {
    return true;
  }
}

/**
 * An object that was written just now, of `byteLength` bytes: file systems that allocate later may
 * not know yet what it takes. A later look corrects what they save by compression.
 */
function asWritten(found: Found, byteLength: number): Found {
  if (found.byteLength !== byteLength || byteLength === 0) return found;
  return { ...found, diskBytes: Math.max(found.diskBytes, neededBytes(found.name, byteLength)) };
}

/** Of the disk, as far as that can be known beforehand. */
function neededBytes(fileName: string, byteLength: number): number {
  const blocks = Math.max(1, Math.ceil(byteLength / ALLOCATION_BYTES));
  return (blocks + (sidecarOf(fileName) === null ? 0 : 1)) * ALLOCATION_BYTES;
}
