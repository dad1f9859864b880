// SPDX-License-Identifier: Apache-2.0
//
// How long the event loop did not turn: a timer of 1 ms that writes down when it rang. An idle loop
// gives gaps of a little more than 1 ms.

import { quantile } from "./statistics.ts";

const TIMER_MS = 1;

export class LoopWatch {
  readonly #gapsMs: number[] = [];
  #last = performance.now();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    const ring = () => {
      this.#mark();
      this.#timer = setTimeout(ring, TIMER_MS);
    };
    this.#timer = setTimeout(ring, TIMER_MS);
  }

  #mark(): void {
    const now = performance.now();
    this.#gapsMs.push(now - this.#last);
    this.#last = now;
  }

  /** Ends the watch. The gap that is open now counts too. */
  stop(): { p50: number; p99: number; max: number } {
    clearTimeout(this.#timer);
    this.#mark();
    return {
      p50: quantile(this.#gapsMs, 0.5),
      p99: quantile(this.#gapsMs, 0.99),
      max: Math.max(...this.#gapsMs),
    };
  }
}

/** Runs `work` under a watch. */
export async function watched<T>(work: () => Promise<T>) {
  // The loop turns once first, so that what came before is not counted.
  await new Promise((resolve) => setTimeout(resolve, 2 * TIMER_MS));
  const watch = new LoopWatch();
  const started = performance.now();
  try {
    const value = await work();
    const milliseconds = performance.now() - started;
    return { value, milliseconds, gaps: watch.stop() };
  } catch (error) {
    watch.stop();
    throw error;
  }
}
