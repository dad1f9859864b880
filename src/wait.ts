// SPDX-License-Identifier: Apache-2.0
//
// Waiting with a limit: for so long, until a signal is aborted, or both. watch() is the primitive; the
// rest are its forms for promises and for calls of several steps. Giving up ends the waiting, not the
// work.

import { describe } from "./arguments.ts";

/** 24.8 days. A longer timer rings at once, so nobody sets one. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** How long somebody waits. */
export interface Patience {
  /** Milliseconds from now; absent, or more than a timer can: however long it takes. */
  readonly limitMs?: number | undefined;
  /** Ends the waiting with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** What the waiting ends with when the limit is over. */
  readonly expired: () => Error;
}

type GiveUp = (reason: unknown) => void;

/**
 * Calls `giveUp` once: when the limit is over, or when the signal is aborted. It must not be aborted
 * yet.
 * @returns ends that, without a call.
 * @throws {TypeError} for a signal that is none.
 */
export function watch(patience: Patience, giveUp: GiveUp): () => void {
  const { limitMs = Infinity, signal, expired } = patience;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const stop = () => {
    clearTimeout(timer);
    if (signal !== undefined) ignore(signal, end);
  };
  const end = (reason: unknown) => {
    stop();
    giveUp(reason);
  };
  if (signal !== undefined) listen(signal, end);
  if (limitMs <= MAX_TIMER_MS) timer = setTimeout(() => end(expired()), limitMs);
  return stop;
}

/** Resolves as `work` does, or rejects when the patience is over. */
export function within<T>(work: Promise<T>, patience: Patience): Promise<T> {
  const { signal } = patience;
  if (signal?.aborted) {
    work.catch(() => {}); // Nobody waits for it any more.
    return Promise.reject(signal.reason);
  }
  return new Promise((resolve, reject) => {
    const stop = watch(patience, reject);
    work.then(resolve, reject).finally(stop);
  });
}

/** Whether `event` settles within so many milliseconds. */
export async function settlesWithin(event: Promise<unknown>, limitMs: number): Promise<boolean> {
  const late = new Error("late");
  const settled = event.then(() => true, () => true);
  return await within(settled, { limitMs: Math.max(0, limitMs), expired: () => late })
    .catch(() => false);
}

/** What is left of a caller's patience, for calls of several steps. */
export class Deadline {
  /** Of a caller who waits however long it takes. */
  static readonly NONE: Deadline = new Deadline(Infinity);

  readonly #at: number;
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
    this.#at = performance.now() + limitMs;
    this.signal = signal;
  }

  /** Milliseconds, at least 1; undefined when there is no limit, or none that a timer can keep. */
  get leftMs(): number | undefined {
    if (this.#at === Infinity) return undefined;
    const left = this.#at - performance.now();
    return left > MAX_TIMER_MS ? undefined : Math.max(1, Math.ceil(left));
  }
}

// A thousand calls of a batch share their caller's signal, and adding and removing a listener costs
// more than the rest of a call. So each signal has one listener, which calls all that wait for it.

const waiting = new WeakMap<AbortSignal, Set<GiveUp>>();

function listen(signal: AbortSignal, call: GiveUp): void {
  const calls = waiting.get(signal);
  if (calls !== undefined) {
    calls.add(call);
    return;
  }
  signal.addEventListener("abort", onAbort, { once: true });
  waiting.set(signal, new Set([call]));
}

function ignore(signal: AbortSignal, call: GiveUp): void {
  const calls = waiting.get(signal);
  if (calls === undefined || !calls.delete(call) || calls.size > 0) return;
  waiting.delete(signal);
  signal.removeEventListener("abort", onAbort);
}

function onAbort(this: AbortSignal): void {
  const calls = waiting.get(this);
  waiting.delete(this);
  for (const call of calls ?? []) call(this.reason);
}
