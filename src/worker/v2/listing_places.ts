// SPDX-License-Identifier: Apache-2.0
//
// Which listings of a connection go on, and which wait until another one has ended. A worker keeps a
// few open for each connection, and ends the oldest when there are more. So a client begins no more
// than it keeps; the rest wait in the order of their coming.

import { ShmError } from "../../errors.ts";
import { watch } from "../../wait.ts";
import type { RequestOptions } from "../object_client.ts";

/** One less than a worker keeps: it may not have heard yet that the last one was left. */
const MAX_LISTINGS = 3;

interface Waiter {
  admit(): void;
  refuse(error: unknown): void;
}

const TOO_LATE = new Error("too late");

export class ListingPlaces<L extends object> {
  readonly #limitMs: number;
  readonly #open = new Set<L>();
  readonly #waiting = new Set<Waiter>();
  /** Listings that wait for a page at this moment. */
  #reading = 0;
  /** When a page came, or a place became free. */
  #progressAt = 0;

  /** @param limitMs how long one without a timeoutMs waits while no listing goes on. */
  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  /**
   * Resolves when the listing has a place, which release() gives back.
   * @param options whose signal is not aborted yet
   * @throws the signal's reason; {ShmError} ETIMEDOUT: no other one has ended in time.
   */
  take(listing: L, { signal, timeoutMs }: RequestOptions): Promise<void> {
    if (this.#open.size < MAX_LISTINGS && this.#waiting.size === 0) {
      this.#open.add(listing);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      let stop = () => {};
      const leave = () => {
        stop();
        this.#waiting.delete(waiter);
      };
      const waiter: Waiter = {
        admit: () => {
          leave();
          this.#open.add(listing);
          resolve();
        },
        refuse: (error) => {
          leave();
          reject(error);
        },
      };
      const limitMs = timeoutMs ?? this.#limitMs;
      const giveUp = (reason: unknown) => {
        if (reason !== TOO_LATE) return waiter.refuse(reason);
        const restMs = timeoutMs === undefined ? this.#restMs() : 0;
        if (restMs > 0) waitFor(restMs);
        else waiter.refuse(noPlaceError(limitMs));
      };
      const waitFor = (ms: number) => {
        stop = watch({ limitMs: ms, signal, expired: () => TOO_LATE }, giveUp);
      };
      this.#waiting.add(waiter);
      waitFor(limitMs);
    });
  }

  /** Resolves as `page` does, for which a listing waits. */
  async during<T>(page: Promise<T>): Promise<T> {
    this.#reading++;
    try {
      return await page;
    } finally {
      this.#reading--;
      this.#progressAt = performance.now();
    }
  }

  /** The next one begins. A listing without a place has none to give. */
  release(listing: L): void {
    if (this.#open.delete(listing)) this.#admit();
  }

  /** Releases those that have ended with their connection. */
  releaseIf(hasEnded: (listing: L) => boolean): void {
    for (const listing of this.#open) {
      if (hasEnded(listing)) this.release(listing);
    }
  }

  /** Those that wait get no place. */
  refuse(error: unknown): void {
    for (const waiter of this.#waiting) waiter.refuse(error);
  }

  #admit(): void {
    this.#progressAt = performance.now();
    for (const waiter of this.#waiting) {
      if (this.#open.size >= MAX_LISTINGS) return;
      waiter.admit();
    }
  }

  /** How much longer there is hope: others go on. */
  #restMs(): number {
    if (this.#reading > 0) return this.#limitMs;
    return this.#limitMs - (performance.now() - this.#progressAt);
  }
}

function noPlaceError(limitMs: number): ShmError {
  return new ShmError(
    `${MAX_LISTINGS} listings of this connector are open, and none of them ended within ${limitMs} ms`,
    {
      code: "ETIMEDOUT",
      operation: "list",
      hint: "A listing that was begun keeps its place until its last page or until it is left " +
        "(break, or return() of its iterator), also while nobody advances it. Do not begin one " +
        "in the loop of another: take the inner keys with listAll() before",
      details: { limitMs, listings: MAX_LISTINGS },
    },
  );
}
