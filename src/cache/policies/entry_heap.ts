// SPDX-License-Identifier: Apache-2.0
//
// A binary heap of entries that knows where each one is, so that any can be taken out or moved.

import type { CacheEntry } from "./cache_entry.ts";

export class EntryHeap<Entry extends CacheEntry> {
  readonly #items: Entry[] = [];
  readonly #precedes: (a: Entry, b: Entry) => boolean;

  /** @param precedes whether `a` comes out before `b`; never both ways. */
  constructor(precedes: (a: Entry, b: Entry) => boolean) {
    this.#precedes = precedes;
  }

  get first(): Entry | null {
    return this.#items[0] ?? null;
  }

  has(entry: Entry): boolean {
    return this.#items[entry.heapIndex] === entry;
  }

  insert(entry: Entry): void {
    this.#items.push(entry);
    this.#up(entry, this.#items.length - 1);
  }

  remove(entry: Entry): void {
    const index = entry.heapIndex;
    const last = this.#items.pop()!;
    entry.heapIndex = -1;
    if (last === entry) return;
    this.#up(last, index);
    this.#down(last, last.heapIndex);
  }

  /** After what precedes() reads of the entry has changed. */
  update(entry: Entry): void {
    this.#up(entry, entry.heapIndex);
    this.#down(entry, entry.heapIndex);
  }

  #up(entry: Entry, from: number): void {
    let index = from;
    while (index > 0) {
      const above = (index - 1) >> 1;
      const other = this.#items[above]!;
      if (!this.#precedes(entry, other)) break;
      this.#set(index, other);
      index = above;
    }
    this.#set(index, entry);
  }

  #down(entry: Entry, from: number): void {
    const { length } = this.#items;
    let index = from;
    for (;;) {
      let below = 2 * index + 1;
      if (below >= length) break;
      if (below + 1 < length && this.#precedes(this.#items[below + 1]!, this.#items[below]!)) {
        below++;
      }
      const other = this.#items[below]!;
      if (!this.#precedes(other, entry)) break;
      this.#set(index, other);
      index = below;
    }
    this.#set(index, entry);
  }

  #set(index: number, entry: Entry): void {
    this.#items[index] = entry;
    entry.heapIndex = index;
  }
}
