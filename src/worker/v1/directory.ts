// SPDX-License-Identifier: Apache-2.0
//
// The storage directory as this process sees it, for what version 1 has no command for: how long an
// object is, which there are, removing one. A worker in another container may see the directory
// where this process does not; then these are ENOTSUP. Only regular files are objects: no worker of
// ours follows symbolic links, so neither does this.

import type { Dir } from "node:fs";
import { lstat, opendir, unlink } from "node:fs/promises";
import { join } from "node:path";
import { ShmError } from "../../errors.ts";
import { fileError, isMissing } from "../../file_error.ts";
import { fileNameToKey } from "../../keys/key_file.ts";
import { within } from "../../wait.ts";
import { unsupported } from "./unsupported.ts";
import type { ObjectListOptions, RequestOptions } from "../object_client.ts";

/** What tells one state of an object from another. */
export interface Facts {
  readonly byteLength: number;
  readonly inode: number;
  readonly mtimeMs: number;
  readonly diskBytes: number;
}

/** What st_blocks counts. */
const BLOCK_BYTES = 512;
const PAGE_KEYS = 1_000;

export class StorageDirectory {
  readonly #path: string;
  readonly #limitMs: number;
  /** It was seen; should it vanish, there is nothing in it. */
  #here = false;

  /**
   * @param path absolute
   * @param limitMs until the file system answers
   */
  constructor(path: string, limitMs: number) {
    this.#path = path;
    this.#limitMs = limitMs;
  }

  pathOf(fileName: string): string {
    return join(this.#path, fileName);
  }

  /** Whether the directory is here, or was. */
  async look(options: RequestOptions = {}): Promise<boolean> {
    this.#here ||= await this.#inTime("look for it", options, () => factsOf(this.#path)) !== null;
    return this.#here;
  }

  /** @throws {ShmError} ENOTSUP when the directory is not here. */
  async mustBeHere(operation: string, options: RequestOptions): Promise<void> {
    if (await this.look(options)) return;
    throw unsupported(
      `${operation}() in ${this.#path}, which is not here,`,
      operation,
      "Mount the directory at the same path here, or use lmshm-worker",
    );
  }

  /** Null when there is no such object, or the directory is not here. */
  async facts(fileName: string, options: RequestOptions): Promise<Facts | null> {
    const path = this.pathOf(fileName);
    const found = await this.#inTime("look up object", options, () => factsOf(path));
    if (!found?.isFile()) return null;
    const { size: byteLength, ino: inode, mtimeMs, blocks } = found;
    return { byteLength, inode, mtimeMs, diskBytes: blocks * BLOCK_BYTES };
  }

  /** False when there was none. */
  async remove(fileName: string, options: RequestOptions): Promise<boolean> {
    const path = this.pathOf(fileName);
    return await this.#inTime("remove object", options, async () => {
      try {
        await unlink(path);
        return true;
      } catch (cause) {
        if (isMissing(cause)) return false;
        throw fileError(cause, "remove object", path);
      }
    });
  }

  /** The keys of the objects; those that no file name can hold are passed over. */
  async *pages(options: ObjectListOptions): AsyncGenerator<string[], void, undefined> {
    const { prefix = "", limit = PAGE_KEYS } = options;
    const what = "list objects";
    const directory = await this.#inTime(what, options, () => openedDir(this.#path));
    try {
      for (let more = true; more;) {
        const page: string[] = [];
        while (more && page.length < limit) {
          const entry = await this.#inTime(what, options, () => directory.read());
          more = entry !== null;
          if (entry === null || entry.isDirectory() || entry.isSymbolicLink()) continue;
          const key = fileNameToKey(entry.name);
          if (key?.startsWith(prefix)) page.push(key);
        }
        if (page.length > 0) yield page;
      }
    } finally {
      await directory.close();
    }
  }

  /** The file system may not answer: the caller is answered in time. */
  #inTime<T>(operation: string, options: RequestOptions, work: () => Promise<T>): Promise<T> {
    const { signal, timeoutMs = this.#limitMs } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    const limitMs = Math.min(timeoutMs, this.#limitMs);
    const expired = () =>
      new ShmError(`no answer from ${this.#path} within ${limitMs} ms`, {
        code: "ETIMEDOUT",
        operation,
        hint: "Check whether the storage directory's server can be reached",
        details: { limitMs },
      });
    return within(work(), { limitMs, signal, expired });
  }
}

async function factsOf(path: string) {
  try {
    return await lstat(path);
  } catch (cause) {
    if (isMissing(cause)) return null;
    throw fileError(cause, "look up object", path);
  }
}

async function openedDir(path: string): Promise<Dir> {
  try {
    return await opendir(path, { bufferSize: 256 });
  } catch (cause) {
    throw fileError(cause, "list objects", path);
  }
}
