// SPDX-License-Identifier: Apache-2.0
//
// Objects over protocol version 2: the worker knows keys, keeps metadata and checksums, and answers
// what there is; this process need not see the directory. Calls of one turn of the event loop share
// lines, which is the client's business.

import { ShmError } from "../errors.ts";
import { holdAll, takeHold } from "../memory/hold_all.ts";
import type { ShmRange } from "../memory/segment.ts";
import type { ObjectClient, RequestOptions } from "../worker/object_client.ts";
import { Failed, type Outcome } from "../worker/outcome.ts";
import type { Durability, IoMode } from "../worker/protocol_v2.ts";
import type { Metadata } from "./chunk_metadata.ts";
import type { KeyFile } from "../keys/key_file.ts";
import {
  type FoundObject,
  type ObjectTransport,
  shownKey,
  tooLong,
  type TransportCall,
} from "./object_transport.ts";
import type { ObjectStat } from "./remote_connector.ts";

export interface TransportV2Options {
  readonly client: ObjectClient;
  /** Undefined, like the next two: as the worker does it. */
  readonly ioMode: IoMode | undefined;
  readonly durability: Durability | undefined;
  readonly checksum: boolean | undefined;
}

export class TransportV2 implements ObjectTransport {
  readonly protocol = 2;
  readonly extended = true;
  readonly #client: ObjectClient;
  readonly #options: TransportV2Options;

  constructor(options: TransportV2Options) {
    this.#client = options.client;
    this.#options = options;
  }

  get keepsMetadata(): boolean {
    return this.#client.facts.features.has("xattr");
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
    metadata: Metadata,
    call: TransportCall,
    onOver?: () => void,
  ): Promise<void> {
    const { ioMode: io, durability: sync, checksum } = this.#options;
    const { deadline, priority } = call;
    await this.#client.put({
      key: file.key,
      ...held("put", file, range, onOver),
      signal: deadline.signal,
      timeoutMs: deadline.leftMs,
      priority,
      attributes: metadata,
      checksum,
      io,
      sync,
    });
  }

  async load(file: KeyFile, into: ShmRange, call: TransportCall): Promise<FoundObject | null> {
    const { ioMode: io, checksum: verify } = this.#options;
    const { deadline, priority } = call;
    try {
      const found = await this.#client.get({
        key: file.key,
        ...held("get", file, into),
        signal: deadline.signal,
        timeoutMs: deadline.leftMs,
        priority,
        verify,
        io,
      });
      if (found === null) return null;
      const { byteLength, crc32c, attributes: metadata } = found;
      return { byteLength, crc32c, metadata };
    } catch (error) {
      return notLoaded(error, file, into);
    }
  }

  async putAll(
    files: readonly KeyFile[],
    ranges: readonly ShmRange[],
    metadata: readonly Metadata[],
    call: TransportCall,
  ): Promise<Outcome<void>[]> {
    const { ioMode: io, durability: sync, checksum } = this.#options;
    const outcomes = await this.#client.putAll({
      objects: ranges.map((range, i) => ({
        key: files[i]!.key,
        offset: offsetOf(range),
        byteLength: range.byteLength,
        attributes: metadata[i]!,
      })),
      ...limitsOf(call),
      release: holdAll(ranges, `put ${files.length} objects`),
      checksum,
      io,
      sync,
    });
    return outcomes.map((outcome) => outcome instanceof Failed ? outcome : undefined);
  }

  async loadAll(
    files: readonly KeyFile[],
    into: readonly ShmRange[],
    call: TransportCall,
  ): Promise<Outcome<FoundObject | null>[]> {
    const { ioMode: io, checksum: verify } = this.#options;
    const outcomes = await this.#client.getAll({
      objects: into.map((range, i) => ({
        key: files[i]!.key,
        offset: offsetOf(range),
        byteLength: range.byteLength,
      })),
      ...limitsOf(call),
      release: holdAll(into, `get ${files.length} objects`),
      verify,
      io,
    });
    return outcomes.map((outcome, i) => {
      if (outcome === null) return null;
      if (outcome instanceof Failed) {
        try {
          return notLoaded(outcome.error, files[i]!, into[i]!);
        } catch (error) {
          return new Failed(error);
        }
      }
      const { byteLength, crc32c, attributes: metadata } = outcome;
      return { byteLength, crc32c, metadata };
    });
  }

  async stat(file: KeyFile, call: TransportCall): Promise<ObjectStat | null> {
    const found = await this.#client.stat(file.key, limitsOf(call)).catch(noObject);
    if (found === null) return null;
    const { byteLength, mtimeMs, diskBytes, crc32c, attributes: metadata } = found;
    return { byteLength, mtimeMs, diskBytes, crc32c, metadata };
  }

  async exists(file: KeyFile, call: TransportCall): Promise<boolean> {
    return (await this.#client.exists([file.key], limitsOf(call)))[0]!;
  }

  contains(files: readonly KeyFile[], call: TransportCall): Promise<number> {
    return this.#client.contains(files.map(({ key }) => key), limitsOf(call));
  }

  async list(prefix: string, call: TransportCall): Promise<string[]> {
    const { deadline, priority } = call;
    const pages = this.#client.list({ prefix, signal: deadline.signal, priority });
    const listed: string[] = [];
    for (;;) {
      const page = await deadline.wait(pages.next(), "list objects", Infinity);
      if (page.done) return listed;
      for (const key of page.value) listed.push(key);
    }
  }

  async remove(file: KeyFile, call: TransportCall): Promise<boolean> {
    return (await this.#client.remove([file.key], limitsOf(call)))[0]!;
  }

  ping(call: TransportCall): Promise<number> {
    return this.#client.ping(limitsOf(call));
  }

  async info(call: TransportCall): Promise<Readonly<Record<string, string>>> {
    const { worker, features } = this.#client.facts;
    // An older worker has no INFO.
    const said = features.has("batch") ? await this.#client.info(limitsOf(call)) : {};
    return { worker, features: [...features].join(), ...said };
  }

  close(timeoutMs: number): Promise<void> {
    return this.#client.close(timeoutMs);
  }
}

/** Where a range is, which is held until the worker is done with it. */
interface HeldRange {
  readonly offset: number;
  readonly byteLength: number;
  readonly release: () => void;
}

/** @param onOver called once when the worker is done, or when the range cannot be held or looked at. */
function held(what: string, file: KeyFile, range: ShmRange, onOver?: () => void): HeldRange {
  let end = () => {};
  const release = () => {
    end();
    onOver?.();
  };
  try {
    end = takeHold(range, `${what} ${shownKey(file)}`);
    return { offset: offsetOf(range), byteLength: range.byteLength, release };
  } catch (error) {
    release();
    throw error;
  }
}

/** An empty range may begin where the segment ends. */
function offsetOf(range: ShmRange): number {
  return range.byteLength === 0 ? 0 : range.offset;
}

/** Null, or an error in the connector's words. */
function notLoaded(error: unknown, file: KeyFile, into: ShmRange): null {
  if (!(error instanceof ShmError) || error.code !== "EMSGSIZE") return noObject(error);
  const { objectBytes } = error.details;
  throw typeof objectBytes === "number" ? tooLong(file, objectBytes, into) : error;
}

/** Null for a directory or a link of an object's name: what is no object is a miss. */
function noObject(error: unknown): null {
  if (error instanceof ShmError && (error.code === "EISDIR" || error.code === "ELOOP")) return null;
  throw error;
}

function limitsOf({ deadline, priority }: TransportCall): RequestOptions {
  return { signal: deadline.signal, timeoutMs: deadline.leftMs, priority };
}
