// SPDX-License-Identifier: Apache-2.0
//
// Small objects go to the store together: calls that are made before the event loop goes on become one
// batch. A request costs as much as moving some hundred KiB, so a batch is worth it for objects below a
// mebibyte, such as a layer's share of a chunk. A batch has one answer, so its objects wait for each
// other; larger ones go alone.

import { type ErrorCode, ShmError } from "../errors.ts";

/** Objects of fewer bytes are small. */
export const SMALL_BYTES = 2 ** 20;

interface Waiting<Item, Result> {
  readonly item: Item;
  readonly resolve: (result: Result) => void;
  readonly reject: (reason: unknown) => void;
}

/** Failures of the whole batch: asking for each object alone would give the same. */
const ABOUT_ALL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "ETIMEDOUT",
  "ECANCELED",
  "EBADF",
  "EWORKER",
  "ECONNRESET",
  "ESTALE",
]);

export interface GatheredCallsOptions<Item, Result, Options> {
  /** Asks for one. */
  readonly one: (item: Item, options: Options) => Promise<Result>;
  /** Asks for several: a result for each, or the first error after all have ended. */
  readonly many: (items: readonly Item[], options: Options) => Promise<readonly Result[]>;
}

/** Calls of one kind, such as loads. */
export class GatheredCalls<Item, Result, Options> {
  readonly #calls: GatheredCallsOptions<Item, Result, Options>;
  readonly #batches = new Map<unknown, Waiting<Item, Result>[]>();

  constructor(calls: GatheredCallsOptions<Item, Result, Options>) {
    this.#calls = calls;
  }

  /**
   * Asks for one object, together with the others of its group that are asked for meanwhile.
   * @param group calls with the same group may be one batch; compared by identity.
   * @param options used for the batch, if this is its first call.
   */
  add(group: unknown, item: Item, options: Options): Promise<Result> {
    let batch = this.#batches.get(group);
    if (batch === undefined) {
      const begun: Waiting<Item, Result>[] = [];
      this.#batches.set(group, batch = begun);
      queueMicrotask(() => {
        this.#batches.delete(group);
        void this.#send(begun, options);
      });
    }
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    batch.push({ item, resolve, reject });
    return promise;
  }

  async #send(batch: readonly Waiting<Item, Result>[], options: Options): Promise<void> {
    if (batch.length > 1) {
      try {
        const results = await this.#calls.many(batch.map(({ item }) => item), options);
        batch.forEach(({ resolve }, i) => resolve(results[i]!));
        return;
      } catch (error) {
        if (!(error instanceof ShmError) || ABOUT_ALL.has(error.code)) {
          for (const { reject } of batch) reject(error);
          return;
        }
        // Some of the objects failed, and the error does not say which: each is asked for alone.
      }
    }
    for (const { item, resolve, reject } of batch) {
      this.#calls.one(item, options).then(resolve, reject);
    }
  }
}
