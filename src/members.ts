// SPDX-License-Identifier: Apache-2.0
//
// What there is of a kind at the moment, when it comes and goes by the hundred thousand a second.
//
// A Set would do, but for garbage collectors that keep generations: a Set that is changed all the
// time makes itself new tables, and each discarded table refers to the next one and to what was in
// it. Once one of them counts as old, all that comes after is kept until a full collection, and is
// copied around meanwhile. This has one array, and forgets what has left.

/** One that can be a member, of one Members at a time. */
export interface Member {
  /** Where it is in there; -1: it is not. Nobody else's business. */
  slot: number;
}

/** An unordered collection; adding and deleting take the same time however many there are. */
export class Members<T extends Member> {
  readonly #items: T[] = [];

  get size(): number {
    return this.#items.length;
  }

  /** @param item that is no member. */
  add(item: T): void {
    item.slot = this.#items.length;
    this.#items.push(item);
  }

  /** False if it is no member. */
  delete(item: T): boolean {
    const { slot } = item;
    if (slot < 0) return false;
    const last = this.#items.pop()!;
    if (last !== item) {
      this.#items[slot] = last;
      last.slot = slot;
    }
    item.slot = -1;
    return true;
  }

  clear(): void {
    for (const item of this.#items.splice(0)) item.slot = -1;
  }

  /** Those of now, in a copy: they may come and go meanwhile. */
  [Symbol.iterator](): ArrayIterator<T> {
    return [...this.#items][Symbol.iterator]();
  }
}
