// SPDX-License-Identifier: Apache-2.0
//
// How often a lost worker may be started or connected to again: so many times within a sliding
// window, each time after a longer pause. When they are used up, attempts are refused until the
// window has moved on; so a worker that crashes at once is not started in a loop, and one that is
// repaired is found again.

export interface RestartLimits {
  /** Attempts within the window; 0 forbids them. */
  readonly max: number;
  readonly windowMs: number;
  /** The first attempt is made at once, the second after this pause, then it doubles. */
  readonly pauseMs: number;
}

const MAX_PAUSE_MS = 10_000;

export class RestartLimiter {
  readonly #limits: RestartLimits;
  readonly #now: () => number;
  #attempts: number[] = [];

  /** @param now a monotonic clock in milliseconds. */
  constructor(limits: RestartLimits, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#now = now;
  }

  /** Takes one attempt: the pause before it in milliseconds, or null when none is left. */
  take(): number | null {
    const now = this.#now();
    this.#forget(now);
    const taken = this.#attempts.length;
    if (taken >= this.#limits.max) return null;
    this.#attempts.push(now);
    if (taken === 0) return 0;
    return Math.min(this.#limits.pauseMs * 2 ** (taken - 1), MAX_PAUSE_MS);
  }

  /** Milliseconds until take() gives an attempt again; Infinity when it never will. */
  get availableInMs(): number {
    const now = this.#now();
    this.#forget(now);
    if (this.#attempts.length < this.#limits.max) return 0;
    return this.#attempts.length === 0
      ? Infinity
      : Math.max(0, this.#attempts[0]! + this.#limits.windowMs - now);
  }

  #forget(now: number): void {
    const since = now - this.#limits.windowMs;
    this.#attempts = this.#attempts.filter((time) => time > since);
  }
}
