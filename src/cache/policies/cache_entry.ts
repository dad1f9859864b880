// SPDX-License-Identifier: Apache-2.0
//
// What an eviction policy sees of a cache: entries, and the few things that can happen to them.
// Policies know neither memory nor objects; the cache keeps those in a subclass of CacheEntry.

/** An object of a cache, and the policy's notes on it. The cache makes it and hands it in. */
export class CacheEntry {
  readonly key: string;
  /** What its eviction frees. */
  readonly sizeBytes: number;

  // The rest is the policy's own; nobody else reads or writes it.
  /** The queue or bucket that it is in, whatever the policy's structure; null: in no policy. */
  home: object | null = null;
  before: CacheEntry | null = null;
  after: CacheEntry | null = null;
  /** Ascending with every arrival and every use that counts. */
  rank = 0;
  uses = 0;
  /** Was found not to be evictable, and is passed over until readmit(). */
  aside = false;
  heapIndex = -1;

  constructor(key: string, sizeBytes: number) {
    this.key = key;
    this.sizeBytes = sizeBytes;
  }
}

/**
 * Decides what is evicted next. LMCache's interface has the same events (update_on_put,
 * update_on_hit, update_on_force_evict, get_evict_candidates) on keys and a dictionary.
 *
 * Entries that are in use cannot be evicted. A policy learns of that when it would evict one:
 * canEvict() refuses it, it is set aside, and costs nothing until readmit() says that it can be
 * evicted again. So each call takes constant time, amortised; an entry that was set aside may cost
 * logarithmic time afterwards. With all entries in use, evict() gives up at once.
 */
export interface CachePolicy<Entry extends CacheEntry = CacheEntry> {
  /** Entries, those set aside included. */
  readonly size: number;

  /** The entry has come into the cache. */
  onPut(entry: Entry): void;

  /** The entry was used. */
  onHit(entry: Entry): void;

  /** The entry has left the cache for another reason than eviction. */
  onRemove(entry: Entry): void;

  /**
   * `entry` takes the place of `old`, which leaves the cache: the object of its key was replaced.
   * That counts as a put and as a use, and what the key has earned is not lost. `old` may be in use
   * still and set aside; `entry` is not.
   */
  onReplace(old: Entry, entry: Entry): void;

  /**
   * The entry to evict, which is in the policy no more; null when all that are left were refused.
   * @param canEvict asked once for each entry, and again only after readmit(entry).
   */
  evict(canEvict: (entry: Entry) => boolean): Entry | null;

  /** An entry that canEvict() refused can be evicted now. Of others, it does nothing. */
  readmit(entry: Entry): void;
}

/** @throws {TypeError} unless the entry is in no policy. */
export function mustBeOutside(entry: CacheEntry): void {
  if (entry.home === null) return;
  throw new TypeError(`entry ${JSON.stringify(entry.key)} is in a policy already`);
}

/** @throws {TypeError} unless the entry is in some policy. */
export function mustBeInside(entry: CacheEntry): void {
  if (entry.home !== null) return;
  throw new TypeError(`entry ${JSON.stringify(entry.key)} is in no policy`);
}
