// SPDX-License-Identifier: Apache-2.0
//
// Waiting with a limit: for so long, until a signal is aborted, or both. watch() is the primitive; the
// rest are its forms for promises and for calls of several steps. Giving up ends the waiting, not the
// work.

import { setImmediate, setTimeout as setTimer } from "node:timers";
import { checkInteger, describe } from "./arguments.ts";
import { ShmError } from "./errors.ts";

/** 24.8 days. A longer timer rings at once, so nobody sets one. */
export const MAX_TIMER_MS = 0x7fff_ffff;

/** How long somebody waits. */
export interface Patience {
  /** Milliseconds from now; absent, or more than a timer can: however long it takes. */
  readonly limitMs?: number | undefined;
  /** Ends the waiting with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** What the waiting ends with when the limit is over; of no use without one. */
  readonly expired?: (() => Error) | undefined;
}

/** What bounds a call of several steps. */
export interface OpeningLimits {
  /** Ends it with the signal's reason; what was done is undone. */
  signal?: AbortSignal | undefined;
  /** Ends it with ETIMEDOUT after so many milliseconds, likewise. */
  timeoutMs?: number | undefined;
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
  if (limitMs <= MAX_TIMER_MS) timer = setTimeout(() => end(expired?.()), limitMs);
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

/** @throws {TypeError} for a signal that is none; the signal's reason, if it is up already. */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new TypeError(`signal must be an AbortSignal, got ${describe(signal)}`);
  }
  signal?.throwIfAborted();
}

/**
 * One signal for all the steps of a call: aborted by the caller's, or with ETIMEDOUT. Dispose of it
 * when the call has ended.
 * @throws as checkSignal(); {TypeError | RangeError} for a limit that is none.
 */
export function openingSignal(
  operation: string,
  { signal, timeoutMs }: OpeningLimits,
): { readonly signal: AbortSignal } & Disposable {
  if (timeoutMs !== undefined) checkInteger("timeoutMs", timeoutMs, 1, MAX_TIMER_MS);
  checkSignal(signal);
  const controller = new AbortController();
  const expired = () =>
    new ShmError(`not done within ${timeoutMs} ms`, {
      code: "ETIMEDOUT",
      operation,
      hint: "What was done is undone; raise timeoutMs",
      details: { timeoutMs },
    });
  const stop = watch({ limitMs: timeoutMs, signal, expired }, (reason) => controller.abort(reason));
  return { signal: controller.signal, [Symbol.dispose]: stop };
}

const EAGER_MS = 1;
const SOON_MS = 20;

/**
 * Lets the event loop turn, for who looks again and again whether something has come: at every turn at
 * first, so that what is short costs no timer, and every millisecond or two later.
 * @param waitedMs how long so far.
 * @param keepAlive whether the process may not end meanwhile.
 */
export function pause(waitedMs: number, keepAlive: boolean): Promise<void> {
  return new Promise((resolve) => {
    if (waitedMs < EAGER_MS) {
      setImmediate(resolve);
    } else {
      const timer = setTimer(resolve, waitedMs < SOON_MS ? 1 : 2);
      if (!keepAlive) timer.unref();
    }
  });
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
    checkSignal(signal);
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
