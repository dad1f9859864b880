// SPDX-License-Identifier: Apache-2.0
//
// Entries in the order of their last move to the newest end; one end is evicted first. Entries that
// cannot be evicted are set aside and keep their rank, so that they return to their old place.
//
// Most return to an end of the queue, or move to the newest end before they are looked at. For the
// rest there is a heap, and the next one is the first of queue and heap: exact order, without a
// search for the place in between.

import { type CacheEntry, mustBeOutside } from "./cache_entry.ts";
import { EntryHeap } from "./entry_heap.ts";

export class EvictionQueue<Entry extends CacheEntry> {
  readonly #newestFirst: boolean;
  #oldest: Entry | null = null;
  #newest: Entry | null = null;
  /** Came back from aside, to places in the middle. */
  readonly #returned: EntryHeap<Entry>;
  #lastRank = 0;
  #size = 0;
  #sizeBytes = 0;

  constructor(evictFirst: "oldest" | "newest") {
    this.#newestFirst = evictFirst === "newest";
    this.#returned = new EntryHeap((a, b) => this.#precedes(a, b));
  }

  /** Entries, those set aside included. */
  get size(): number {
    return this.#size;
  }

  /** Of all entries together. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Puts an entry that is in no queue at the newest end. */
  push(entry: Entry): void {
    mustBeOutside(entry);
    entry.home = this;
    entry.rank = ++this.#lastRank;
    this.#appendNewest(entry);
    this.#size++;
    this.#sizeBytes += entry.sizeBytes;
  }

  /** Moves an entry to the newest end; one that is set aside will return there. */
  renew(entry: Entry): void {
    const moves = !entry.aside && entry !== this.#newest;
    if (moves) this.#detach(entry);
    entry.rank = ++this.#lastRank;
    if (moves) this.#appendNewest(entry);
  }

  remove(entry: Entry): void {
    if (entry.aside) entry.aside = false;
    else this.#detach(entry);
    entry.home = null;
    this.#size--;
    this.#sizeBytes -= entry.sizeBytes;
  }

  /** The next one to evict, of those that are not set aside. */
  peek(): Entry | null {
    const listed = this.#newestFirst ? this.#newest : this.#oldest;
    const returned = this.#returned.first;
    if (listed === null || returned === null) return listed ?? returned;
    return this.#precedes(returned, listed) ? returned : listed;
  }

  setAside(entry: Entry): void {
    this.#detach(entry);
    entry.aside = true;
  }

  /** Ends setAside(). */
  readmit(entry: Entry): void {
    if (!entry.aside) return;
    entry.aside = false;
    if (this.#newest === null || entry.rank > this.#newest.rank) this.#appendNewest(entry);
    else if (entry.rank < this.#oldest!.rank) this.#appendOldest(entry);
    else this.#returned.insert(entry);
  }

  #precedes(a: Entry, b: Entry): boolean {
    return this.#newestFirst ? a.rank > b.rank : a.rank < b.rank;
  }

  #appendNewest(entry: Entry): void {
    entry.before = this.#newest;
    if (this.#newest === null) this.#oldest = entry;
    else this.#newest.after = entry;
    this.#newest = entry;
  }

  #appendOldest(entry: Entry): void {
    entry.after = this.#oldest;
    this.#oldest!.before = entry;
    this.#oldest = entry;
  }

  /** Takes it out of the list or the heap. */
  #detach(entry: Entry): void {
    if (this.#returned.has(entry)) {
      this.#returned.remove(entry);
      return;
    }
    const { before, after } = entry;
    if (before === null) this.#oldest = after as Entry | null;
    else before.after = after;
    if (after === null) this.#newest = before as Entry | null;
    else after.before = before;
    entry.before = entry.after = null;
  }
}
