// SPDX-License-Identifier: Apache-2.0
//
// Small objects go to the store together: calls that are made before the event loop goes on become
// batches. A request costs as much as moving some hundred KiB, so a batch is worth it for objects below
// a mebibyte, such as a layer's share of a chunk. The objects of a batch wait for each other, so a
// batch is limited, and larger objects go alone. Each call gets what became of its own object.

/** Objects of fewer bytes are small. */
export const SMALL_BYTES = 2 ** 20;

/** Objects of one batch: with more, the first would wait longer, and no time is saved. */
const MAX_BATCH_OBJECTS = 64;
/** Their bytes. */
const MAX_BATCH_BYTES = 2 ** 22;

interface Waiting<Item, Result> {
  readonly item: Item;
  readonly resolve: (result: Result) => void;
  readonly reject: (reason: unknown) => void;
}

/** Calls of one turn, with the options of the first of them. */
interface Batch<Item, Result, Options> {
  readonly waiting: Waiting<Item, Result>[];
  readonly options: Options;
  bytes: number;
}

interface GatheredCallsOptions<Item, Result, Options> {
  /** Asks for one. */
  readonly one: (item: Item, options: Options) => Promise<Result>;
  /** Asks for several: what became of each. Rejects if none was asked for. */
  readonly many: (
    items: readonly Item[],
    options: Options,
  ) => Promise<readonly PromiseSettledResult<Result>[]>;
}

/** Calls of one kind, such as loads. */
export class GatheredCalls<Item extends { readonly bytes: number }, Result, Options> {
  readonly #calls: GatheredCallsOptions<Item, Result, Options>;
  /** Those that still may grow. */
  readonly #batches = new Map<unknown, Batch<Item, Result, Options>>();

  constructor(calls: GatheredCallsOptions<Item, Result, Options>) {
    this.#calls = calls;
  }

  /**
   * Asks for one object, together with others of its group that are asked for meanwhile.
   * @param group calls with the same group may be one batch, so their options must say the same;
   *   compared by identity.
   */
  add(group: unknown, item: Item, options: Options): Promise<Result> {
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const batch = this.#batchFor(group, item, options);
    batch.waiting.push({ item, resolve, reject });
    batch.bytes += item.bytes;
    return promise;
  }

  #batchFor(group: unknown, { bytes }: Item, options: Options): Batch<Item, Result, Options> {
    const present = this.#batches.get(group);
    if (
      present !== undefined && present.waiting.length < MAX_BATCH_OBJECTS &&
      present.bytes + bytes <= MAX_BATCH_BYTES
    ) return present;
    const begun: Batch<Item, Result, Options> = { waiting: [], options, bytes: 0 };
    this.#batches.set(group, begun);
    queueMicrotask(() => {
      if (this.#batches.get(group) === begun) this.#batches.delete(group);
      void this.#send(begun);
    });
    return begun;
  }

  async #send({ waiting, options }: Batch<Item, Result, Options>): Promise<void> {
    const [first] = waiting;
    if (waiting.length === 1) {
      this.#calls.one(first!.item, options).then(first!.resolve, first!.reject);
      return;
    }
    try {
      const ended = await this.#calls.many(waiting.map(({ item }) => item), options);
      waiting.forEach(({ resolve, reject }, i) => {
        const one = ended[i]!;
        if (one.status === "fulfilled") resolve(one.value);
        else reject(one.reason);
      });
    } catch (error) {
      for (const { reject } of waiting) reject(error);
    }
  }
}
