// SPDX-License-Identifier: Apache-2.0
//
// How often a lost worker may be replaced. There are two cases:
//
// - A worker that is started here: so many times within a sliding window, each time after a longer
//   pause. When they are used up, attempts are refused until the window has moved on; so a worker
//   that crashes at once is not started in a loop, and one that is repaired is found again.
// - A worker that somebody else runs: connecting to it starts nothing, so there is no such limit. The
//   pauses grow likewise, but stay short and count from the attempt before, so that a worker that
//   is back is found within one of them.

export interface RestartLimits {
  /** Attempts within the window, and for one call; 0 forbids them. */
  readonly max: number;
  readonly windowMs: number;
  /** The first attempt is made at once, the second after this pause, then it doubles. */
  readonly pauseMs: number;
  /** The worker is somebody else's: it is connected to. Default false: it is started. */
  readonly reconnects?: boolean | undefined;
}

const MAX_PAUSE_MS = 10_000;
/** Unless the first pause is longer. */
const MAX_RECONNECT_PAUSE_MS = 1_000;

export class RestartLimiter {
  readonly #limits: RestartLimits;
  readonly #now: () => number;
  /** When they were, or will be after their pause. */
  #attempts: number[] = [];

  /** @param now a monotonic clock in milliseconds. */
  constructor(limits: RestartLimits, now: () => number = () => performance.now()) {
    this.#limits = limits;
    this.#now = now;
  }

  /** Takes one attempt: the pause before it in milliseconds, or null when none is left. */
  take(): number | null {
    const { max, pauseMs, reconnects } = this.#limits;
    const now = this.#now();
    this.#forget(now);
    const taken = this.#attempts.length;
    if (max === 0 || (taken >= max && !reconnects)) return null;
    const longest = reconnects ? Math.max(pauseMs, MAX_RECONNECT_PAUSE_MS) : MAX_PAUSE_MS;
    const pause = taken === 0 ? 0 : Math.min(pauseMs * 2 ** (taken - 1), longest);
    if (!reconnects) {
      this.#attempts.push(now);
      return pause;
    }
    const at = Math.max(now, (this.#attempts.at(-1) ?? -Infinity) + pause);
    this.#attempts.push(at);
    return at - now;
  }

  /** Milliseconds until take() gives an attempt again; Infinity when it never will. */
  get availableInMs(): number {
    const { max, windowMs, reconnects } = this.#limits;
    const now = this.#now();
    this.#forget(now);
    if (max === 0) return Infinity;
    if (this.#attempts.length < max || reconnects) return 0;
    return Math.max(0, this.#attempts[0]! + windowMs - now);
  }

  #forget(now: number): void {
    const since = now - this.#limits.windowMs;
    this.#attempts = this.#attempts.filter((time) => time > since);
  }
}
