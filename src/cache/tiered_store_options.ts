// SPDX-License-Identifier: Apache-2.0
//
// What a TieredStore and its calls are told, and what it tells of itself: types and checks.

import { checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { type LayoutArgument, TensorLayout } from "../memory/tensor_layout.ts";
import type { OpenOptions } from "../memory/segment.ts";
import type {
  LocalCpuBackend,
  LocalCpuBackendCreateOptions,
  LocalCpuBackendStats,
} from "./local_cpu_backend.ts";
import type {
  CallOptions,
  ConnectorStats,
  RemoteConnector,
} from "../connector/remote_connector.ts";
import type { ShmFileConnectorOptions } from "../connector/shm_file_options.ts";
import { checkTelemetry, type Telemetry } from "../telemetry.ts";
import { MAX_TIMER_MS } from "../wait.ts";

/** Whether put() returns when the store has the object, or when it is queued for it. */
export type WriteMode = "through" | "behind";

/** What a TieredStore is made of. */
export interface TieredStoreOptions {
  /** The pool; its objects must be in the segment of `cold`. */
  hot: LocalCpuBackend;
  /** The store behind it. */
  cold: RemoteConnector;
  /** For puts that say nothing else; default "through". */
  writeMode?: WriteMode | undefined;
  /** Objects that are queued, being written or cleared up; default 1024. A put behind waits for room. */
  maxQueuedObjects?: number | undefined;
  /** Bytes of those; default 256 MiB. A larger object goes alone. */
  maxQueuedBytes?: number | undefined;
  /** Queued objects that are written at a time; default 16. */
  writeConcurrency?: number | undefined;
  /** Objects that prefetch() loads at a time; default 16. */
  prefetchConcurrency?: number | undefined;
  /**
   * How long a put behind waits for room unless it is told, and any call for an earlier change of its
   * key to end; default 60 s.
   */
  queueTimeoutMs?: number | undefined;
  /** How long close() waits for what is queued and loading; default 60 s. */
  closeTimeoutMs?: number | undefined;
  /** Each object that was accepted behind and not stored; flush() and close() say so, too. */
  onError?: ((error: unknown, key: string) => void) | undefined;
  /**
   * Spans and counters of gets, puts and what follows of them, for OpenTelemetry: docs/telemetry.md.
   * create() has the connector tell, too. Default: none.
   */
  telemetry?: Telemetry | undefined;
}

/** What create() makes: both tiers, and the store over them. */
export interface TieredStoreCreateOptions
  extends Omit<TieredStoreOptions, "hot" | "cold">, OpenOptions {
  /** The hot tier and its memory. */
  hot: Omit<LocalCpuBackendCreateOptions, keyof OpenOptions>;
  /** The connector behind it, and its worker. */
  cold: Omit<ShmFileConnectorOptions, "segment" | keyof OpenOptions>;
}

/** What put() takes. */
export interface TieredPutOptions extends CallOptions {
  /** Default: the store's. */
  writeMode?: WriteMode | undefined;
  /**
   * True: where get() would find an object, whatever its layout, that one stays in both tiers, and the
   * put gives false. "Through" only: a put behind could not tell before the store was asked. Default
   * false. What RemoteConnector's ifAbsent says of other writers holds here, too.
   */
  ifAbsent?: boolean | undefined;
}

/** Counted since the store was made. */
export interface TieredStoreStats {
  /** Gets that found the object in the pool, or queued for the store. */
  readonly hotHits: number;
  /** Gets that found it in the store. */
  readonly coldHits: number;
  /** Gets that found none, mismatches included. */
  readonly misses: number;
  /** Objects that were found and are not what was asked for: another layout, dtype or format. */
  readonly mismatches: number;
  /** The last one of those, and what it was instead; null: there was none. */
  readonly lastMismatch: { readonly key: string; readonly fault: string } | null;
  /** Objects that were asked of the store. */
  readonly loads: number;
  /** Gets that waited for the load of another one. */
  readonly sharedLoads: number;
  /** Loads that go on now. */
  readonly loading: number;
  /** Objects queued, being written behind, or cleared up after a failure, and their bytes. */
  readonly queuedObjects: number;
  /** Bytes of those. */
  readonly queuedBytes: number;
  /** Puts that wait for room in the queue now, and that ever had to. */
  readonly waitingPuts: number;
  /** Puts that ever had to wait for room. */
  readonly putWaits: number;
  /** Objects that were written behind. */
  readonly written: number;
  /** Queued objects that were not written, because a later put or removal of their key was. */
  readonly replaced: number;
  /** Objects that were accepted behind and not stored. */
  readonly writeErrors: number;
  /** Of the pool. */
  readonly hot: LocalCpuBackendStats;
  /** Of the connector. */
  readonly cold: ConnectorStats;
}

/** The names of TieredStoreOptions. */
export const STORE_OPTIONS = [
  "hot",
  "cold",
  "writeMode",
  "maxQueuedObjects",
  "maxQueuedBytes",
  "writeConcurrency",
  "prefetchConcurrency",
  "queueTimeoutMs",
  "closeTimeoutMs",
  "onError",
  "telemetry",
];

/** What the options mean. */
interface TieredLimits {
  readonly writeMode: WriteMode;
  readonly maxQueuedObjects: number;
  readonly maxQueuedBytes: number;
  readonly writeConcurrency: number;
  readonly prefetchConcurrency: number;
  readonly queueTimeoutMs: number;
  readonly closeTimeoutMs: number;
}

/** @throws {TypeError | RangeError} naming the option at fault. */
export function checkTieredOptions(options: TieredStoreOptions): TieredLimits {
  checkKnownOptions("TieredStore", options, STORE_OPTIONS);
  const { hot, cold, onError } = options;
  if (typeof hot?.tryAllocate !== "function") {
    throw new TypeError(`hot must be a LocalCpuBackend, got ${describe(hot)}`);
  }
  if (typeof cold?.batchedContains !== "function") {
    throw new TypeError(`cold must be a connector, got ${describe(cold)}`);
  }
  if (onError !== undefined && typeof onError !== "function") {
    throw new TypeError(`onError must be a function, got ${describe(onError)}`);
  }
  checkTelemetry(options.telemetry);
  const integer = (
    name: keyof TieredLimits & keyof TieredStoreOptions,
    fallback: number,
    max?: number,
  ) => checkInteger(name, options[name] ?? fallback, 1, max);
  return {
    writeMode: checkWriteMode(options.writeMode ?? "through"),
    maxQueuedObjects: integer("maxQueuedObjects", 1024),
    maxQueuedBytes: integer("maxQueuedBytes", 256 * 2 ** 20),
    writeConcurrency: integer("writeConcurrency", 16),
    prefetchConcurrency: integer("prefetchConcurrency", 16),
    queueTimeoutMs: integer("queueTimeoutMs", 60_000, MAX_TIMER_MS),
    closeTimeoutMs: integer("closeTimeoutMs", 60_000, MAX_TIMER_MS),
  };
}

export function checkWriteMode(writeMode: unknown): WriteMode {
  if (writeMode === "through" || writeMode === "behind") return writeMode;
  throw new TypeError(`writeMode must be "through" or "behind", got ${describe(writeMode)}`);
}

/** The layout of each key: the same for all, or one for each. @throws as TensorLayout.of(). */
export function layoutsOf(
  chunks: LayoutArgument | readonly LayoutArgument[],
  count: number,
): readonly TensorLayout[] {
  if (!Array.isArray(chunks)) {
    const layout = TensorLayout.of(chunks as LayoutArgument);
    return Array.from({ length: count }, () => layout);
  }
  if (chunks.length !== count) {
    throw new RangeError(`${count} keys and ${chunks.length} layouts are no pairs`);
  }
  return (chunks as readonly LayoutArgument[]).map((chunk) => TensorLayout.of(chunk));
}

/** Whether an object of the layout `actual` is a full or partial chunk of `wanted`. */
export function matches(actual: TensorLayout, wanted: TensorLayout): boolean {
  if (actual.byteLength > wanted.byteLength) return false;
  try {
    return wanted.withByteLength(actual.byteLength).equals(actual);
  } catch {
    return false;
  }
}
