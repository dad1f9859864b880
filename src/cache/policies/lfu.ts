// SPDX-License-Identifier: Apache-2.0
//
// Least frequently used: entries in buckets by number of uses, the buckets in a list, so that a use
// moves an entry to the neighbouring bucket (K. Shah, A. Mitra, D. Matani, "An O(1) algorithm for
// implementing the LFU cache eviction scheme", 2010). Of equal ones, the first to have that many
// uses goes first, as in LMCache. Entries that were set aside return through a heap.

import { type CacheEntry, type CachePolicy, mustBeInside, mustBeOutside } from "./cache_entry.ts";
import { EntryHeap } from "./entry_heap.ts";

/** The entries with one number of uses, first come first. Never empty while it is in the list. */
class Bucket<Entry extends CacheEntry> {
  readonly uses: number;
  first: Entry | null = null;
  last: Entry | null = null;
  fewer: Bucket<Entry> | null = null;
  more: Bucket<Entry> | null = null;

  constructor(uses: number) {
    this.uses = uses;
  }
}

function precedes(a: CacheEntry, b: CacheEntry): boolean {
  return a.uses < b.uses || (a.uses === b.uses && a.rank < b.rank);
}

export class LfuPolicy<Entry extends CacheEntry> implements CachePolicy<Entry> {
  #fewest: Bucket<Entry> | null = null;
  /** Were set aside once; they stay here. */
  readonly #returned = new EntryHeap<Entry>(precedes);
  #lastRank = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  onPut(entry: Entry): void {
    mustBeOutside(entry);
    entry.uses = 1;
    entry.rank = ++this.#lastRank;
    const bucket = this.#fewest?.uses === 1 ? this.#fewest : this.#insertBucket(1, null);
    this.#append(bucket, entry);
    this.#size++;
  }

  onHit(entry: Entry): void {
    mustBeInside(entry);
    entry.uses++;
    entry.rank = ++this.#lastRank;
    if (entry.aside) return;
    if (this.#returned.has(entry)) {
      this.#returned.update(entry);
      return;
    }
    const bucket = entry.home as Bucket<Entry>;
    const next = bucket.more?.uses === entry.uses
      ? bucket.more
      : this.#insertBucket(entry.uses, bucket);
    this.#detach(entry);
    this.#append(next, entry);
  }

  onRemove(entry: Entry): void {
    mustBeInside(entry);
    if (entry.aside) entry.aside = false;
    else this.#detach(entry);
    entry.home = null;
    this.#size--;
  }

  onReplace(old: Entry, entry: Entry): void {
    // The old one shows the place in the list, wherever it is.
    this.onHit(old);
    mustBeOutside(entry);
    entry.uses = old.uses;
    entry.rank = old.rank;
    if (old.aside || this.#returned.has(old)) {
      entry.home = this;
      this.#returned.insert(entry);
    } else {
      this.#append(old.home as Bucket<Entry>, entry);
    }
    this.#size++;
    this.onRemove(old);
  }

  evict(canEvict: (entry: Entry) => boolean): Entry | null {
    for (;;) {
      const listed = this.#fewest?.first ?? null;
      const returned = this.#returned.first;
      const entry = listed !== null && returned !== null
        ? precedes(returned, listed) ? returned : listed
        : listed ?? returned;
      if (entry === null) return null;
      if (canEvict(entry)) {
        this.onRemove(entry);
        return entry;
      }
      this.#detach(entry);
      entry.aside = true;
      entry.home = this;
    }
  }

  readmit(entry: Entry): void {
    if (!entry.aside) return;
    entry.aside = false;
    this.#returned.insert(entry);
  }

  /** A new bucket after `fewer`, or the first one. */
  #insertBucket(uses: number, fewer: Bucket<Entry> | null): Bucket<Entry> {
    const bucket = new Bucket<Entry>(uses);
    bucket.fewer = fewer;
    bucket.more = fewer === null ? this.#fewest : fewer.more;
    if (bucket.more !== null) bucket.more.fewer = bucket;
    if (fewer === null) this.#fewest = bucket;
    else fewer.more = bucket;
    return bucket;
  }

  #append(bucket: Bucket<Entry>, entry: Entry): void {
    entry.home = bucket;
    entry.before = bucket.last;
    if (bucket.last === null) bucket.first = entry;
    else bucket.last.after = entry;
    bucket.last = entry;
  }

  /** Takes it out of its bucket, which goes when that was its last entry, or out of the heap. */
  #detach(entry: Entry): void {
    if (this.#returned.has(entry)) {
      this.#returned.remove(entry);
      return;
    }
    const bucket = entry.home as Bucket<Entry>;
    const { before, after } = entry;
    if (before === null) bucket.first = after as Entry | null;
    else before.after = after;
    if (after === null) bucket.last = before as Entry | null;
    else after.before = before;
    entry.before = entry.after = null;
    if (bucket.first === null) this.#dropBucket(bucket);
  }

  #dropBucket({ fewer, more }: Bucket<Entry>): void {
    if (fewer === null) this.#fewest = more;
    else fewer.more = more;
    if (more !== null) more.fewer = fewer;
  }
}
