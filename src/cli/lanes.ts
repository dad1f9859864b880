// SPDX-License-Identifier: Apache-2.0
//
// Work on many things, some at a time.

/**
 * Runs `work` on every item, at most `limit` at a time. The first failure ends it, once what was
 * begun has ended, and is thrown.
 */
export async function inLanes<T>(
  items: AsyncIterable<T> | Iterable<T>,
  limit: number,
  work: (item: T, index: number) => Promise<void>,
): Promise<void> {
  const source = Symbol.asyncIterator in items
    ? items[Symbol.asyncIterator]()
    : items[Symbol.iterator]();
  let failed = false;
  let count = 0;
  const lane = async () => {
    while (!failed) {
      try {
        const next = await source.next();
        if (next.done) return;
        await work(next.value, count++);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: limit }, lane));
  const fault = lanes.find(({ status }) => status === "rejected");
  if (failed) await source.return?.();
  if (fault !== undefined) throw (fault as PromiseRejectedResult).reason;
}
