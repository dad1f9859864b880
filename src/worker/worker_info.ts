// SPDX-License-Identifier: Apache-2.0
//
// What a worker tells of itself and its directory, for programs. docs/protocol_v2.md says what each
// word means; v2/info.ts reads them.

/** One bucket of a histogram: so many took `leUs` microseconds or less. */
export interface LatencyBucket {
  /** Infinity: the last bucket, which has all. */
  readonly leUs: number;
  /** Requests that took no longer. */
  readonly count: number;
}

/** Requests of one kind since the worker started. */
export interface VerbInfo {
  /** That were answered. */
  readonly requests: number;
  /** Of these, what failed. */
  readonly errors: number;
  /** That were moved: 0 for verbs that move none. */
  readonly bytes: number;
  /** Cumulative, as OpenMetrics has them. */
  readonly latency: readonly LatencyBucket[];
  /** Of all requests together, in microseconds. */
  readonly latencySumUs: number;
}

/** What one directory below the worker's root holds. */
export interface DirectoryUse {
  /** Relative to the root; "" is the root itself. */
  readonly directory: string;
  /** How many. */
  readonly objects: number;
  /** What they take of the disk. */
  readonly usedBytes: number;
}

/** A member that the worker does not tell of is undefined. */
export interface WorkerInfo {
  /** "lmshm-worker/0.1.0". */
  readonly worker: string;
  /** Which way objects go where a request does not say: "auto", "direct" or "cached". */
  readonly io?: string;
  /** What is on the disk when a put is answered, where a request does not say. */
  readonly sync?: string;
  /** "512/512", or "no": see directReason. */
  readonly direct?: string;
  /** Why nothing goes past the page cache. */
  readonly directReason?: string;
  /** The directory's file system. */
  readonly fs?: string;
  /** Small files that stay open now. */
  readonly keptOpen?: number;
  /** Gets that found one. */
  readonly getsKept?: number;
  /** What keeps the objects: "directory", "redis" or "s3". */
  readonly engine?: string;
  /** 1: it keeps checksums and attributes with an object. */
  readonly attributes?: number;
  /** 1: it heeds a transfer's `io`. */
  readonly ioModes?: number;
  /** 1: it heeds a put's `durability`. */
  readonly durability?: number;
  /** What an object may have; undefined: there is no limit. */
  readonly maxObjectBytes?: number;
  /** Threads that carry them out. */
  readonly threads?: number;
  /** How nice those are. */
  readonly nice?: number;
  /** Requests of a connection that may be in flight. */
  readonly window?: number;
  /** Bytes that requests may be moving. */
  readonly maxBytesInFlight?: number;
  /** Requests that wait for their turn. */
  readonly queued?: number;
  /** Requests that a thread is at. */
  readonly running?: number;
  /** Bytes that those move. */
  readonly bytesInFlight?: number;
  /** Objects that were stored. */
  readonly puts?: number;
  /** Objects that were loaded. */
  readonly gets?: number;
  /** Objects that were stored past the page cache. */
  readonly putsDirect?: number;
  /** Objects that were stored through it. */
  readonly putsCached?: number;
  /** Objects that were loaded past the page cache. */
  readonly getsDirect?: number;
  /** Objects that were loaded through it. */
  readonly getsCached?: number;
  /** Objects that should have gone past the page cache and could not. */
  readonly fallbacks?: number;
  /** Why the last of them could not. */
  readonly fallbackReason?: string;
  /** Connections now. */
  readonly clients?: number;
  /** Requests that failed; a miss is none. */
  readonly errors?: number;
  /** Requests that were cancelled. */
  readonly cancelled?: number;
  /** Milliseconds since the worker started. */
  readonly uptimeMs?: number;
  /** What the objects of all directories may take of the disk; undefined or 0: no limit. */
  readonly maxBytes?: number;
  /** What they take. */
  readonly usedBytes?: number;
  /** Their number. */
  readonly objects?: number;
  /** Objects that were removed to make room. */
  readonly evictions?: number;
  /** What those took of the disk. */
  readonly evictedBytes?: number;
  /** Gets that found their object. */
  readonly hits?: number;
  /** Gets that did not. */
  readonly misses?: number;
  /** What killed writers left, and was removed. */
  readonly staleTemporaries?: number;
  /** Files of long keys without their object, likewise. */
  readonly staleKeys?: number;
  /** 1: all that was there when the worker started is counted. */
  readonly counted?: number;
  /** Memory that the account takes, in bytes. */
  readonly indexBytes?: number;
  /** Directories that are open. */
  readonly directories?: number;
  /** Of this connector's directory alone. */
  readonly dirUsedBytes?: number;
  /** Its number of objects. */
  readonly dirObjects?: number;
  /** With a limit (maxBytes): of each directory that holds something, the largest 32 first. */
  readonly directoryUse?: readonly DirectoryUse[];
  /** By the verb's name in small letters: "put", "get", ... */
  readonly verbs: Readonly<Record<string, VerbInfo>>;
  /** Words that this library does not know: a number where it is one, else text. */
  readonly [word: string]: unknown;
}
