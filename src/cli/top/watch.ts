// SPDX-License-Identifier: Apache-2.0
//
// Looks at a worker once an interval, and makes a sample of each look: what it counts and how fast
// that grows, or that it is gone and since when.

import { ShmError, type WorkerInfo } from "../../mod.ts";
import { type Rates, ratesBetween, type Reading } from "./rates.ts";

/** The worker has answered. */
export interface UpSample {
  readonly up: true;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly info: WorkerInfo;
  readonly rates: Rates;
}

/** It has not. */
export interface DownSample {
  readonly up: false;
  readonly atMs: number;
  /** Of the first look at which it did not. */
  readonly sinceMs: number;
  readonly error: ShmError;
}

export type Sample = UpSample | DownSample;

/** Failures that a worker that comes back repairs; others would be the same next time. */
const AWAY: readonly string[] = [
  ...["ECONNREFUSED", "ECONNRESET", "EPIPE", "EWORKER", "ENOENT", "ETIMEDOUT", "EPROTO", "ESTALE"],
];

function isAway(error: unknown): error is ShmError {
  return error instanceof ShmError && AWAY.includes(error.code);
}

/** One worker, as it is looked at. */
export class Watch {
  readonly #ask: () => Promise<WorkerInfo>;
  #last: Reading | null = null;
  #downSinceMs: number | null = null;

  /** @param ask for INFO. */
  constructor(ask: () => Promise<WorkerInfo>) {
    this.#ask = ask;
  }

  /** Looks. @throws whatever waiting does not repair, such as a wrong secret. */
  async look(): Promise<Sample> {
    const askedMs = performance.now();
    try {
      const info = await this.#ask();
      const now = { info, askedMs, answeredMs: performance.now() };
      const rates = ratesBetween(this.#last, now);
      this.#last = now;
      this.#downSinceMs = null;
      return { up: true, atMs: Date.now(), info, rates };
    } catch (error) {
      if (!isAway(error)) throw error;
      const atMs = Date.now();
      this.#downSinceMs ??= atMs;
      return { up: false, atMs, sinceMs: this.#downSinceMs, error };
    }
  }
}
