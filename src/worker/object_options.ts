// SPDX-License-Identifier: Apache-2.0
//
// What can be asked of an ObjectClient, and how.

import type { ShmError } from "../errors.ts";
import type { Handshake } from "./handshake.ts";
import type { WorkerLimits } from "./limits.ts";
import type { Durability, IoMode, Priority } from "./protocol_v2.ts";
import type { OpenTransport } from "./transport.ts";

export interface ObjectClientOptions {
  readonly open: OpenTransport;
  readonly handshake: Handshake;
  readonly limits: WorkerLimits;
  /** Called whenever a worker that worked is lost. */
  readonly onLost?: ((error: ShmError) => void) | undefined;
}

export interface RequestOptions {
  /** Rejects the call with the signal's reason, and the worker is told to stop. */
  readonly signal?: AbortSignal | undefined;
  /** Rejects the call with ETIMEDOUT, likewise; default: the worker's own limits alone. */
  readonly timeoutMs?: number | undefined;
  /** Default "normal". Exists, remove and contains wait for their turn by it here only. */
  readonly priority?: Priority | undefined;
}

export interface ObjectTransfer extends RequestOptions {
  readonly key: string;
  /** From the segment's beginning, in bytes. */
  readonly offset: number;
  readonly byteLength: number;
  /** Called once, when the worker can no longer touch the memory. */
  readonly release: () => void;
  /** Default: the worker's own. */
  readonly io?: IoMode | undefined;
}

export interface PutTransfer extends ObjectTransfer {
  /** Names of 1 to 32 of a-z, 0-9 and _; at most 32, of 4,096 bytes with their values. */
  readonly attributes?: Readonly<Record<string, string>> | undefined;
  /** Whether the worker computes a CRC-32C and stores it. Default true. */
  readonly checksum?: boolean | undefined;
  /** Default: the worker's own. */
  readonly sync?: Durability | undefined;
}

export interface GetTransfer extends ObjectTransfer {
  /** Whether a stored checksum is compared. Default true. */
  readonly verify?: boolean | undefined;
}

/** One object of many. */
export interface BatchedPut {
  readonly key: string;
  readonly offset: number;
  readonly byteLength: number;
  readonly attributes?: PutTransfer["attributes"];
}

export type BatchedGet = Omit<BatchedPut, "attributes">;

/** What counts for all of them. */
export type PutBatch = Omit<PutTransfer, keyof BatchedPut> & {
  readonly objects: readonly BatchedPut[];
};

export type GetBatch = Omit<GetTransfer, keyof BatchedGet> & {
  readonly objects: readonly BatchedGet[];
};

export interface ObjectListOptions extends RequestOptions {
  /** Only keys that begin so. */
  readonly prefix?: string | undefined;
  /** Keys of one page, at most 1,000, which is the default. */
  readonly limit?: number | undefined;
}

/** What is known of the worker that is connected, or was last. */
export interface ObjectWorkerFacts {
  /** Another value means another worker process. */
  readonly boot: string;
  /** "lmshm-worker/0.1.0". */
  readonly worker: string;
  readonly features: ReadonlySet<string>;
  /** Requests that it takes before it has answered them; Infinity: it does not say. */
  readonly window: number;
}
