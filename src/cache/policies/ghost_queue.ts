// SPDX-License-Identifier: Apache-2.0
//
// Keys of entries that were evicted lately, first in, first out.

/** A Map in order of insertion would do, but finding its oldest key is slow after many removals. */
interface Ghost {
  readonly key: string;
  before: Ghost | null;
  after: Ghost | null;
}

export class GhostQueue {
  readonly #ghosts = new Map<string, Ghost>();
  #oldest: Ghost | null = null;
  #newest: Ghost | null = null;

  get size(): number {
    return this.#ghosts.size;
  }

  /** Adds a key that is not in it, and forgets the oldest beyond `limit`. */
  add(key: string, limit: number): void {
    const ghost: Ghost = { key, before: this.#newest, after: null };
    if (this.#newest === null) this.#oldest = ghost;
    else this.#newest.after = ghost;
    this.#newest = ghost;
    this.#ghosts.set(key, ghost);
    while (this.#ghosts.size > limit) this.take(this.#oldest!.key);
  }

  /** Removes a key. @returns whether it was there. */
  take(key: string): boolean {
    const ghost = this.#ghosts.get(key);
    if (ghost === undefined) return false;
    this.#ghosts.delete(key);
    const { before, after } = ghost;
    if (before === null) this.#oldest = after;
    else before.after = after;
    if (after === null) this.#newest = before;
    else after.before = before;
    return true;
  }
}
