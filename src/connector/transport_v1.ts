// SPDX-License-Identifier: Apache-2.0
//
// Objects over protocol version 1, which any worker speaks, LMCache's too.
//
// It has commands for data alone. Whether an object exists, how long it is, which there are, and
// removing one, are asked of the file system here, where the directory can be seen. A worker in
// another container may see it where this process does not: then existence is asked by reading zero
// bytes, and what cannot be asked (list, remove, long keys) is refused.
//
// "Which object did I read?" A file may be replaced by a longer one between looking up its length
// and reading it, and the reply alone cannot tell a whole object from the beginning of a longer
// one. So when an object fills its range, the file is looked at again afterwards.

import { ShmError } from "../errors.ts";
import { checkRange } from "../arguments.ts";
import { takeHold } from "../memory/hold_all.ts";
import { placeOf, type ShmRange, type ShmSegment } from "../memory/segment.ts";
import type { WorkerClient } from "../worker/client.ts";
import type { Reply } from "../worker/protocol.ts";
import { type Outcome, outcomesOf, valuesOf } from "../worker/outcome.ts";
import { replyError } from "../worker/reply_error.ts";
import { type Metadata, NO_METADATA } from "./chunk_metadata.ts";
import type { KeyFile } from "../keys/key_file.ts";
import {
  type FoundObject,
  heldOutcomes,
  type ObjectTransport,
  shownKey,
  tooLong,
  type TransportCall,
} from "./object_transport.ts";
import type { ObjectStat } from "./remote_connector.ts";
import type { ObjectFacts, StorageDirectory } from "./storage_directory.ts";

export interface TransportV1Options {
  readonly client: WorkerClient;
  readonly segment: ShmSegment;
  readonly directory: StorageDirectory;
  /** Whether the directory is the worker's here too. */
  readonly visible: boolean;
  /** Until the file system answers. */
  readonly controlTimeoutMs: number;
}

/** How many existence checks contains() makes at a time. */
const CONTAINS_WINDOW = 64;
/** How often load() tries an object that is replaced under it. */
const LOAD_ATTEMPTS = 4;

export class TransportV1 implements ObjectTransport {
  readonly protocol = 1;
  readonly keepsMetadata = false;
  readonly #client: WorkerClient;
  readonly #directory: StorageDirectory;
  readonly #options: TransportV1Options;

  constructor(options: TransportV1Options) {
    this.#options = options;
    this.#client = options.client;
    this.#directory = options.directory;
    if (!this.extended) checkPlainPath(this.#directory.path);
  }

  get extended(): boolean {
    return this.#client.facts.extended;
  }

  get pid(): number | null {
    return this.#client.pid;
  }

  get restarts(): number {
    return this.#client.restarts;
  }

  async put(
    file: KeyFile,
    range: ShmRange,
    _metadata: Metadata,
    call: TransportCall,
    onOver?: () => void,
  ): Promise<void> {
    let writing: Promise<Reply> | undefined;
    let release: (() => void) | undefined;
    try {
      release = takeHold(range, `put ${shownKey(file)}`);
      if (file.sidecarName !== null) await this.#storeKey(file, call);
      writing = this.#transfer("write", file, range, call, onOver);
    } finally {
      if (writing === undefined) onOver?.();
      release?.();
    }
    const reply = await writing;
    if (!reply.ok) {
      // As a worker of version 2 does; where that fails too, the key is collected some day.
      await this.#inTime(this.#directory.dropOrphan(file), "remove key", call).catch(() => {});
      throw replyError(reply, `put ${shownKey(file)}`, this.#detailsOf(file, range));
    }
    // A remove() of the same key in between may have taken the file with the key along.
    if (file.sidecarName !== null) await this.#storeKey(file, call);
  }

  async load(file: KeyFile, into: ShmRange, call: TransportCall): Promise<FoundObject | null> {
    const release = takeHold(into, `get ${shownKey(file)}`);
    try {
      return await this.#load(file, into, call);
    } finally {
      release();
    }
  }

  async #load(file: KeyFile, into: ShmRange, call: TransportCall): Promise<FoundObject | null> {
    if (!this.#options.visible) {
      const byteLength = await this.#read("get", file, into, call);
      return byteLength === null ? null : found(byteLength);
    }
    for (let attempt = 0; attempt < LOAD_ATTEMPTS; attempt++) {
      const before = await this.#facts(file, call);
      if (before === null) return null;
      if (before.byteLength > into.byteLength) throw tooLong(file, before.byteLength, into);
      // Also when it is empty now: a worker that writes in place may have begun only just.
      const byteLength = await this.#read("get", file, into, call);
      if (byteLength === null) return null;
      if (byteLength !== before.byteLength) continue;
      if (byteLength < into.byteLength || await this.#unchanged(file, before, call)) {
        return found(byteLength);
      }
    }
    throw new ShmError("the object changes whenever it is read", {
      code: "EBADMSG",
      operation: `get ${shownKey(file)}`,
      details: this.#detailsOf(file, into),
    });
  }

  putAll(
    files: readonly KeyFile[],
    ranges: readonly ShmRange[],
    metadata: readonly Metadata[],
    call: TransportCall,
  ): Promise<Outcome<void>[]> {
    return heldOutcomes(
      ranges,
      `put ${files.length} objects`,
      (i) => this.put(files[i]!, ranges[i]!, metadata[i]!, call),
    );
  }

  loadAll(
    files: readonly KeyFile[],
    into: readonly ShmRange[],
    call: TransportCall,
  ): Promise<Outcome<FoundObject | null>[]> {
    return heldOutcomes(
      into,
      `get ${files.length} objects`,
      (i) => this.load(files[i]!, into[i]!, call),
    );
  }

  async stat(file: KeyFile, call: TransportCall): Promise<ObjectStat | null> {
    this.#mustSee("look up object");
    const facts = await this.#facts(file, call);
    if (facts === null) return null;
    const { byteLength, changedMs: mtimeMs, diskBytes } = facts;
    return { byteLength, mtimeMs, diskBytes, crc32c: null, metadata: NO_METADATA };
  }

  async exists(file: KeyFile, call: TransportCall): Promise<boolean> {
    if (this.#options.visible) return await this.#facts(file, call) !== null;
    const nothing = this.#options.segment.range(0, 0);
    return await this.#read("exists", file, nothing, call) !== null;
  }

  async contains(files: readonly KeyFile[], call: TransportCall): Promise<number> {
    for (let start = 0; start < files.length; start += CONTAINS_WINDOW) {
      const window = files.slice(start, start + CONTAINS_WINDOW);
      const there = await outcomesOf(
        window.length,
        CONTAINS_WINDOW,
        (i) => this.exists(window[i]!, call),
      );
      const missing = valuesOf(there).indexOf(false);
      if (missing >= 0) return start + missing;
    }
    return files.length;
  }

  async list(prefix: string, call: TransportCall): Promise<string[]> {
    this.#mustSee("list");
    const listed: string[] = [];
    const keys = this.#directory.keys();
    for (;;) {
      const next = await this.#inTime(keys.next(), "list objects", call);
      if (next.done) return listed;
      if (next.value.startsWith(prefix)) listed.push(next.value);
    }
  }

  async remove(file: KeyFile, call: TransportCall): Promise<boolean> {
    this.#mustSee("remove");
    return await this.#inTime(this.#directory.remove(file), "remove object", call);
  }

  ping({ deadline }: TransportCall): Promise<number> {
    return this.#client.ping({ signal: deadline.signal, timeoutMs: deadline.leftMs });
  }

  info(): Promise<Readonly<Record<string, string>>> {
    return Promise.resolve({});
  }

  close(timeoutMs: number): Promise<void> {
    return this.#client.close(timeoutMs);
  }

  #inTime<T>(work: Promise<T>, what: string, { deadline }: TransportCall): Promise<T> {
    return deadline.wait(work, what, this.#options.controlTimeoutMs);
  }

  #facts(file: KeyFile, call: TransportCall): Promise<ObjectFacts | null> {
    return this.#inTime(this.#directory.facts(file.fileName), "look up object", call);
  }

  async #unchanged(file: KeyFile, before: ObjectFacts, call: TransportCall): Promise<boolean> {
    const after = await this.#facts(file, call);
    return after !== null && after.byteLength === before.byteLength &&
      after.inode === before.inode && after.changedMs === before.changedMs;
  }

  /** How many bytes the worker has read; null when there is no object. */
  async #read(
    operation: string,
    file: KeyFile,
    into: ShmRange,
    call: TransportCall,
  ): Promise<number | null> {
    const reply = await this.#transfer("read", file, into, call);
    if (reply.ok) return reply.count;
    if (reply.code === "ENOENT") return null;
    throw replyError(reply, `${operation} ${shownKey(file)}`, this.#detailsOf(file, into));
  }

  /** @param onOver called once, when the worker can no longer touch memory and file. */
  #transfer(
    command: "read" | "write",
    file: KeyFile,
    range: ShmRange,
    { deadline }: TransportCall,
    onOver?: () => void,
  ): Promise<Reply> {
    const path = this.#directory.fileOf(file.fileName);
    if (!this.extended) checkPlainPath(path);
    // An empty range may begin where the segment ends, which some workers refuse.
    const { byteLength } = range;
    const offset = byteLength === 0 ? 0 : range.offset;
    const place = placeOf(this.#options.segment);
    checkRange(offset, byteLength, place.sizeBytes);
    const release = takeHold(range, `${command} ${shownKey(file)}`);
    return this.#client[command]({
      path,
      address: place.address + BigInt(offset),
      byteLength,
      release: () => {
        release();
        onOver?.();
      },
      signal: deadline.signal,
      timeoutMs: deadline.leftMs,
    });
  }

  async #storeKey(file: KeyFile, call: TransportCall): Promise<void> {
    if (!this.#options.visible) {
      throw new ShmError(
        `key ${JSON.stringify(shownKey(file))} is too long for a file name, or its name would be ` +
          "another key's, and the file that keeps it cannot be written from here",
        {
          code: "ENAMETOOLONG",
          operation: "put",
          hint: "Use another key, or make the storage directory visible to this process",
        },
      );
    }
    await this.#inTime(this.#directory.writeSidecar(file), "store key", call);
  }

  #detailsOf(file: KeyFile, range: ShmRange): Record<string, unknown> {
    const { offset, byteLength } = range;
    return { key: file.key, path: this.#directory.fileOf(file.fileName), offset, byteLength };
  }

  #mustSee(operation: string): void {
    if (!this.#options.visible) throw unseen(operation, this.#directory.path);
  }
}

/** The directory would have to be seen from here. */
export function unseen(operation: string, storageDir: string): ShmError {
  return new ShmError(
    `${storageDir} of the worker cannot be seen from here, and the protocol has no command for it`,
    {
      code: "ENOTSUP",
      operation,
      hint: "Mount the directory at the same path here; storageVisible says that it is",
      details: { storageDir },
    },
  );
}

function found(byteLength: number): FoundObject {
  return { byteLength, crc32c: null, metadata: NO_METADATA };
}

/** Workers other than ours cut a path at its first space. */
function checkPlainPath(path: string): void {
  if (!path.includes(" ")) return;
  throw new ShmError(`the path ${JSON.stringify(path)} contains a space`, {
    code: "EINVAL",
    operation: "name object",
    hint: "This worker cuts paths at spaces: use lmshm-worker, or another directory and other keys",
    details: { path },
  });
}
