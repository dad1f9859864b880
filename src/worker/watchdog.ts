// SPDX-License-Identifier: Apache-2.0
//
// One timer for all requests of a connection. Requests are answered thousands of times before one is
// late, so it is not set anew for each: it rings at the earliest time that anybody asked for, or
// too early, and whoever is rung looks what is due and asks again. While it is wanted it keeps the
// program alive.

import { clearTimeout, setTimeout } from "node:timers";
import { MAX_TIMER_MS } from "../wait.ts";

/** After a limit: time for an answer that arrived while the event loop was busy. */
export const SECOND_LOOK_MS = 100;

export class Watchdog {
  readonly #onRing: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #at = Infinity;
  #resting = false;

  constructor(onRing: () => void) {
    this.#onRing = onRing;
  }

  /** Rings at `atMs`, by performance.now(), or before. */
  expect(atMs: number): void {
    if (atMs >= this.#at) {
      if (this.#resting) this.#timer?.ref();
      this.#resting = false;
      return;
    }
    clearTimeout(this.#timer);
    this.#resting = false;
    this.#at = atMs;
    const ms = Math.min(Math.max(atMs - performance.now(), 0), MAX_TIMER_MS);
    this.#timer = setTimeout(() => this.#ring(), ms);
  }

  /** Nothing is expected now; setting the timer again later is cheaper than ending it. */
  rest(): void {
    if (this.#resting || this.#timer === undefined) return;
    this.#resting = true;
    this.#timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#at = Infinity;
    this.#resting = false;
  }

  #ring(): void {
    const wanted = !this.#resting;
    this.stop();
    if (wanted) this.#onRing();
  }
}
