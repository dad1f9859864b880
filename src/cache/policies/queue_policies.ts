// SPDX-License-Identifier: Apache-2.0
//
// The three policies that are one queue: they differ in whether a use renews an entry, and in the
// end that is evicted.

import { type CacheEntry, type CachePolicy, mustBeInside } from "./cache_entry.ts";
import { EvictionQueue } from "./eviction_queue.ts";

class QueuePolicy<Entry extends CacheEntry> implements CachePolicy<Entry> {
  readonly #queue: EvictionQueue<Entry>;
  readonly #renewOnHit: boolean;

  constructor(evictFirst: "oldest" | "newest", renewOnHit: boolean) {
    this.#queue = new EvictionQueue(evictFirst);
    this.#renewOnHit = renewOnHit;
  }

  get size(): number {
    return this.#queue.size;
  }

  onPut(entry: Entry): void {
    this.#queue.push(entry);
  }

  onHit(entry: Entry): void {
    mustBeInside(entry);
    if (this.#renewOnHit) this.#queue.renew(entry);
  }

  onRemove(entry: Entry): void {
    mustBeInside(entry);
    this.#queue.remove(entry);
  }

  onReplace(old: Entry, entry: Entry): void {
    this.onRemove(old);
    this.#queue.push(entry);
  }

  evict(canEvict: (entry: Entry) => boolean): Entry | null {
    for (;;) {
      const entry = this.#queue.peek();
      if (entry === null) return null;
      if (canEvict(entry)) {
        this.#queue.remove(entry);
        return entry;
      }
      this.#queue.setAside(entry);
    }
  }

  readmit(entry: Entry): void {
    this.#queue.readmit(entry);
  }
}

/** Evicts what was not used for the longest time. */
export class LruPolicy<Entry extends CacheEntry> extends QueuePolicy<Entry> {
  constructor() {
    super("oldest", true);
  }
}

/** Evicts what came first, used or not. */
export class FifoPolicy<Entry extends CacheEntry> extends QueuePolicy<Entry> {
  constructor() {
    super("oldest", false);
  }
}

/** Evicts what was used last: for data that is gone through in circles. */
export class MruPolicy<Entry extends CacheEntry> extends QueuePolicy<Entry> {
  constructor() {
    super("newest", true);
  }
}
