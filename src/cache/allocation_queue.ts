// SPDX-License-Identifier: Apache-2.0
//
// Requests that wait for memory: first come, first served, each with a limit. Nothing polls: the
// owner says when trying again makes sense.
//
// The first request is served before any other is tried, so that a large one is not overtaken for
// ever by small ones.

import { type Patience, watch } from "../wait.ts";

interface Waiting<Result> {
  readonly attempt: () => Result | null;
  readonly resolve: (result: Result) => void;
  /** Leaves the queue, too. */
  readonly reject: (reason: unknown) => void;
}

export class AllocationQueue<Result> {
  /** In order of arrival. */
  readonly #waiting = new Set<Waiting<Result>>();
  #wakeScheduled = false;

  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Waits until `attempt`, which is called when this request is the first one, gives a result.
   * @throws what `expired` makes; the signal's reason; what `attempt` throws.
   */
  wait(attempt: () => Result | null, patience: Patience): Promise<Result> {
    const { signal } = patience;
    if (signal?.aborted) return Promise.reject(signal.reason);
    return new Promise<Result>((resolve, reject) => {
      const leave = () => {
        stop();
        const wasFirst = this.#first === waiting;
        this.#waiting.delete(waiting);
        if (wasFirst) this.wake();
      };
      const waiting: Waiting<Result> = {
        attempt,
        resolve: (result) => {
          leave();
          resolve(result);
        },
        reject: (reason) => {
          leave();
          reject(reason);
        },
      };
      const stop = watch(patience, (reason) => waiting.reject(reason));
      this.#waiting.add(waiting);
    });
  }

  /** Something has changed: tries again soon, after the caller's own code is done. */
  wake(): void {
    if (this.#wakeScheduled || this.#waiting.size === 0) return;
    this.#wakeScheduled = true;
    queueMicrotask(() => {
      this.#wakeScheduled = false;
      this.#serve();
    });
  }

  /** Ends all waiting. */
  rejectAll(reason: unknown): void {
    for (const waiting of [...this.#waiting]) waiting.reject(reason);
  }

  get #first(): Waiting<Result> | undefined {
    return this.#waiting.values().next().value;
  }

  #serve(): void {
    for (let first = this.#first; first !== undefined; first = this.#first) {
      let result: Result | null;
      try {
        result = first.attempt();
      } catch (error) {
        first.reject(error);
        continue;
      }
      if (result === null) return;
      first.resolve(result);
    }
  }
}
