// SPDX-License-Identifier: Apache-2.0
//
// S3-FIFO: three queues, first in, first out (J. Yang, Y. Zhang, Z. Qiu, Y. Yue, R. Vinayak, "FIFO
// Queues are All You Need for Cache Eviction", SOSP 2023). New entries go into a small queue. Those
// that leave it without having been used more than once are evicted, and their keys remembered for
// a while; the others go on into the main queue, whose entries get as many further rounds as they
// were used, three at most. An entry that comes back while its key is remembered goes straight into
// the main queue. So what is used once, most of many workloads, passes through quickly.
//
// Where this differs from the paper: the cache is as large as what it holds when something must be
// evicted, because the pool decides when that is. LMCache's policy of that name keeps no such
// queues before the first eviction, and evicts what is in the small queue whatever its uses.

import { type CacheEntry, type CachePolicy, mustBeInside } from "./cache_entry.ts";
import { EvictionQueue } from "./eviction_queue.ts";
import { GhostQueue } from "./ghost_queue.ts";

/** The small queue's part of the cache, in bytes. */
const SMALL_PART = 0.1;
const MAX_USES = 3;
/** Of an entry that goes on from the small queue into the main queue, at least. */
const PROMOTION_USES = 2;

export class S3FifoPolicy<Entry extends CacheEntry> implements CachePolicy<Entry> {
  readonly #small = new EvictionQueue<Entry>("oldest");
  readonly #main = new EvictionQueue<Entry>("oldest");
  readonly #ghosts = new GhostQueue();

  get size(): number {
    return this.#small.size + this.#main.size;
  }

  onPut(entry: Entry): void {
    const queue = this.#ghosts.take(entry.key) ? this.#main : this.#small;
    queue.push(entry);
    entry.uses = 0;
  }

  onHit(entry: Entry): void {
    mustBeInside(entry);
    if (entry.uses < MAX_USES) entry.uses++;
  }

  onRemove(entry: Entry): void {
    mustBeInside(entry);
    this.#queueOf(entry).remove(entry);
  }

  onReplace(old: Entry, entry: Entry): void {
    mustBeInside(old);
    const queue = this.#queueOf(old);
    queue.remove(old);
    queue.push(entry);
    entry.uses = Math.min(old.uses + 1, MAX_USES);
  }

  evict(canEvict: (entry: Entry) => boolean): Entry | null {
    for (;;) {
      const entry = this.#next();
      if (entry === null) return null;
      const queue = this.#queueOf(entry);
      const small = queue === this.#small;
      if (small && entry.uses >= PROMOTION_USES) {
        queue.remove(entry);
        this.#main.push(entry);
        entry.uses = 0;
      } else if (!small && entry.uses > 0) {
        queue.renew(entry);
        entry.uses--;
      } else if (canEvict(entry)) {
        queue.remove(entry);
        if (small) this.#remember(entry);
        return entry;
      } else {
        queue.setAside(entry);
      }
    }
  }

  readmit(entry: Entry): void {
    if (entry.aside) this.#queueOf(entry).readmit(entry);
  }

  /** From the small queue when that has its part of the cache or more, else from the main queue. */
  #next(): Entry | null {
    const cacheBytes = this.#small.sizeBytes + this.#main.sizeBytes;
    const smallFirst = this.#small.sizeBytes >= SMALL_PART * cacheBytes;
    const [first, second] = smallFirst ? [this.#small, this.#main] : [this.#main, this.#small];
    return first.peek() ?? second.peek();
  }

  /** As many keys as the main queue would have entries. */
  #remember(evicted: Entry): void {
    const entries = this.size + 1;
    this.#ghosts.add(evicted.key, Math.ceil((1 - SMALL_PART) * entries));
  }

  #queueOf(entry: Entry): EvictionQueue<Entry> {
    return entry.home as EvictionQueue<Entry>;
  }
}
