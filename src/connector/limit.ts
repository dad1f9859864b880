// SPDX-License-Identifier: Apache-2.0
//
// A limit on waiting for what cannot be cancelled: a call on a network file system whose server is
// away does not come back, and its caller must.

import { describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";

/** 24.8 days; a longer timer rings at once. */
const MAX_TIMER_MS = 0x7fff_ffff;

/**
 * Resolves as `work` does; rejects with what `expired` gives after `limitMs`, or with the signal's
 * reason. The work itself goes on.
 * @param limitMs Infinity for none.
 */
export function within<T>(
  work: Promise<T>,
  limitMs: number,
  signal: AbortSignal | undefined,
  expired: () => ShmError,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => end(() => reject(signal?.reason));
    const timer = limitMs <= MAX_TIMER_MS
      ? setTimeout(() => end(() => reject(expired())), limitMs)
      : undefined;
    const end = (settle: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    work.then((value) => end(() => resolve(value)), (error) => end(() => reject(error)));
  });
}

/** What is left of a caller's patience. */
export class Deadline {
  /** Of a caller who waits however long it takes. */
  static readonly NONE: Deadline = new Deadline(Infinity);

  readonly #at: number;
  readonly #limitMs: number;
  readonly signal: AbortSignal | undefined;

  /**
   * @param limitMs from now; Infinity for none.
   * @throws the signal's reason, if it is up already; RangeError for a limit that is none.
   */
  constructor(limitMs: number, signal?: AbortSignal) {
    if (typeof limitMs !== "number" || Number.isNaN(limitMs) || limitMs <= 0) {
      throw new RangeError(`timeoutMs must be more than 0, got ${limitMs}`);
    }
    if (signal !== undefined && !(signal instanceof AbortSignal)) {
      throw new TypeError(`signal must be an AbortSignal, got ${describe(signal)}`);
    }
    signal?.throwIfAborted();
    this.#limitMs = limitMs;
    this.#at = performance.now() + limitMs;
    this.signal = signal;
  }

  /** Milliseconds, at least 1; undefined when there is no limit, or none that a timer can keep. */
  get leftMs(): number | undefined {
    if (this.#at === Infinity) return undefined;
    const left = this.#at - performance.now();
    return left > MAX_TIMER_MS ? undefined : Math.max(1, Math.ceil(left));
  }

  /**
   * Resolves as `work` does; rejects when the deadline, or `atMostMs` from now, has passed, or with
   * the signal's reason. The work itself goes on.
   */
  wait<T>(work: Promise<T>, what: string, atMostMs: number): Promise<T> {
    const limitMs = Math.min(atMostMs, this.leftMs ?? Infinity);
    return within(work, limitMs, this.signal, () => this.#timedOut(what, limitMs));
  }

  #timedOut(what: string, limitMs: number): ShmError {
    const shown = Math.round(Math.min(limitMs, this.#limitMs));
    return new ShmError(`no answer from the file system within ${shown} ms`, {
      code: "ETIMEDOUT",
      operation: what,
      hint: "Check whether the storage directory's server can be reached",
      details: { limitMs: shown },
    });
  }
}
