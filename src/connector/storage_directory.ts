// SPDX-License-Identifier: Apache-2.0
//
// The storage directory as this process sees it: what exists, how long it is, what to remove. The
// data itself is the worker's business. Only regular files count as objects: the worker follows no
// symbolic links, so neither does this.

import { lstatSync } from "node:fs";
import {
  type FileHandle,
  lstat,
  mkdir,
  open,
  opendir,
  readFile,
  rename,
  unlink,
} from "node:fs/promises";
import { join } from "node:path";
import { throwIfRefused } from "../permission.ts";
import { type ErrorCode, knownCode, ShmError } from "../errors.ts";
import {
  fileNameToKey,
  type KeyFile,
  keyFile,
  sidecarOf,
  temporaryName,
} from "../keys/key_file.ts";

/** What tells one state of an object from another. */
export interface ObjectFacts {
  readonly byteLength: number;
  readonly inode: number;
  readonly changedMs: number;
  readonly diskBytes: number;
}

/** What st_blocks counts. */
export const BLOCK_BYTES = 512;

function errnoOf(error: unknown): { code: ErrorCode; errno: number | undefined } {
  const { code, errno } = (error ?? {}) as { code?: unknown; errno?: unknown };
  return {
    code: knownCode(code) ?? "EIO",
    errno: typeof errno === "number" && errno !== 0 ? Math.abs(errno) : undefined,
  };
}

/** The runtimes' file system errors as ShmError. */
export function fileError(cause: unknown, operation: string, path: string): ShmError {
  throwIfRefused(cause, `access to ${path}`, operation);
  const { code, errno } = errnoOf(cause);
  const message = cause instanceof Error ? cause.message : String(cause);
  return new ShmError(message, {
    code,
    operation,
    ...(errno === undefined ? {} : { errno }),
    details: { path },
    cause,
  });
}

function isMissing(error: unknown): boolean {
  return errnoOf(error).code === "ENOENT";
}

export class StorageDirectory {
  readonly path: string;

  /** @param path absolute. */
  constructor(path: string) {
    this.path = path;
  }

  /** Creates the directory, and those above it, where they are missing; for its user alone. */
  async create(): Promise<void> {
    try {
      await mkdir(this.path, { recursive: true, mode: 0o700 });
    } catch (cause) {
      if (errnoOf(cause).code === "EEXIST") throw this.#noDirectory();
      throw fileError(cause, "create storage directory", this.path);
    }
    const found = await lstat(`${this.path}/.`).catch((cause) => {
      throw fileError(cause, "open storage directory", this.path);
    });
    if (!found.isDirectory()) throw this.#noDirectory();
  }

  #noDirectory(): ShmError {
    return new ShmError(`${this.path} is no directory`, {
      code: "ENOTDIR",
      operation: "open storage directory",
      hint: "Name a directory, or one that can be made",
      details: { path: this.path },
    });
  }

  fileOf(name: string): string {
    return join(this.path, name);
  }

  /** Null when there is no such object. */
  async facts(fileName: string): Promise<ObjectFacts | null> {
    const path = this.fileOf(fileName);
    try {
      const found = await lstat(path);
      if (!found.isFile()) return null;
      return {
        byteLength: found.size,
        inode: found.ino,
        changedMs: found.mtimeMs,
        diskBytes: found.blocks * BLOCK_BYTES,
      };
    } catch (cause) {
      if (isMissing(cause)) return null;
      throw fileError(cause, "look up object", path);
    }
  }

  existsSync(fileName: string): boolean {
    const path = this.fileOf(fileName);
    try {
      return lstatSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
    } catch (cause) {
      if (isMissing(cause)) return false;
      throw fileError(cause, "look up object", path);
    }
  }

  /** False when there was none. */
  async remove(file: KeyFile): Promise<boolean> {
    const removed = await this.#unlink(file.fileName);
    if (file.sidecarName !== null) {
      await this.#unlink(file.sidecarName);
      // Who has stored the object again in between, and saw its key there, has lost it.
      if (await this.facts(file.fileName) !== null) await this.writeSidecar(file);
    }
    return removed;
  }

  /**
   * The keys of the objects, one after the other; not in any order, and never all at once.
   * Temporaries, directories and files that are no objects are passed over.
   */
  async *keys(): AsyncGenerator<string> {
    let directory;
    try {
      directory = await opendir(this.path, { bufferSize: 256 });
      for await (const entry of directory) {
        if (entry.isDirectory() || entry.isSymbolicLink()) continue;
        const key = fileNameToKey(entry.name) ?? await this.#sidecarKey(entry.name);
        if (key !== null) yield key;
      }
    } catch (cause) {
      throw cause instanceof ShmError ? cause : fileError(cause, "list objects", this.path);
    }
  }

  /** Stores the key of a hashed object beside it, whole or not at all. */
  async writeSidecar(file: KeyFile): Promise<void> {
    if (file.sidecarName === null) return;
    if (await this.#sidecarKey(file.fileName) === file.key) return;
    const temporary = temporaryName(file.sidecarName.slice(0, 60));
    try {
      await this.#writeNew(temporary, file.key);
      await rename(this.fileOf(temporary), this.fileOf(file.sidecarName));
    } catch (cause) {
      await this.#unlink(temporary).catch(() => false);
      throw fileError(cause, "store key", this.fileOf(file.sidecarName));
    }
  }

  /** Removes the key beside an object that could not be stored, unless there is one. */
  async dropOrphan(file: KeyFile): Promise<void> {
    if (file.sidecarName === null || await this.facts(file.fileName) !== null) return;
    await this.#unlink(file.sidecarName);
  }

  /**
   * Makes an empty file of the unused name `name`, for `use`, and removes it. Null when this process
   * cannot, for instance because the directory is not here.
   */
  async withProbe<T>(name: string, use: () => Promise<T>): Promise<T | null> {
    try {
      await this.#writeNew(name, "");
    } catch {
      return null;
    }
    try {
      return await use();
    } finally {
      await this.#unlink(name).catch(() => false);
    }
  }

  async #writeNew(name: string, text: string): Promise<void> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(this.fileOf(name), "wx", 0o600);
      if (text !== "") await handle.writeFile(text);
    } finally {
      await handle?.close();
    }
  }

  async #unlink(name: string): Promise<boolean> {
    const path = this.fileOf(name);
    try {
      await unlink(path);
      return true;
    } catch (cause) {
      if (isMissing(cause)) return false;
      throw fileError(cause, "remove object", path);
    }
  }

  /** The key beside a hashed object, if it is there and is its key. */
  async #sidecarKey(fileName: string): Promise<string | null> {
    const sidecar = sidecarOf(fileName);
    if (sidecar === null) return null;
    try {
      const key = await readFile(this.fileOf(sidecar), "utf8");
      return keyFile(key).fileName === fileName ? key : null;
    } catch {
      return null;
    }
  }
}
