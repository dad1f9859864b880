// SPDX-License-Identifier: Apache-2.0
//
// What a client of a worker is allowed, whichever version of the protocol it speaks.

import type { RestartLimits } from "./restart_limiter.ts";

/** How long a worker may take to answer. */
export interface AnswerLimits {
  /** For PING and the handshake. */
  readonly controlTimeoutMs: number;
  /** For a transfer, and on top of it one millisecond for each 1,000 bytes. */
  readonly ioTimeoutMs: number;
}

export interface WorkerLimits extends AnswerLimits {
  /** Requests sent and not answered. */
  readonly maxInFlight: number;
  /** Bytes that those move together; a larger request goes alone. */
  readonly maxInFlightBytes: number;
  /** For what was begun before close(). */
  readonly closeTimeoutMs: number;
  readonly restarts: RestartLimits;
}

/** The slowest storage that is waited for. */
export const BYTES_PER_MS = 1_000;
/** How long each step of ending a worker may take. */
export const GRACE_MS = 2_000;

/** For requests one after the other that have `options.timeoutMs` together: what is left of it. */
export function sharedLimit<T extends { readonly timeoutMs?: number | undefined }>(
  options: T,
): () => T {
  const { timeoutMs } = options;
  if (timeoutMs === undefined) return () => options;
  const end = performance.now() + timeoutMs;
  return () => ({ ...options, timeoutMs: Math.max(1, Math.ceil(end - performance.now())) });
}

/** The most that a file's length can be made a multiple of. */
export const MAX_PAD_BYTES = 2 ** 20;
