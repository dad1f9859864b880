// SPDX-License-Identifier: Apache-2.0
//
// Requests in flight by their id. Ids are given out in order and answered almost in order, which
// makes a table simple: an id's place is its lowest bits, or the next free one. With a Map a request
// takes half as much CPU again in Deno; docs/speed_limits.md has the figures.

interface Identified {
  /** From 1 on. */
  readonly id: number;
}

const LEAST_SLOTS = 64;

export class IdTable<T extends Identified> {
  /** A power of two of them, at most half in use. */
  #slots: (T | undefined)[] = new Array(LEAST_SLOTS).fill(undefined);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get(id: number): T | undefined {
    return this.#slots[this.#find(id)];
  }

  /** @param item whose id is not in here. */
  add(item: T): void {
    if (this.#size * 2 >= this.#slots.length) this.#grow();
    this.#slots[this.#find(item.id)] = item;
    this.#size++;
  }

  /** False if there is none. */
  delete(id: number): boolean {
    let free = this.#find(id);
    if (this.#slots[free] === undefined) return false;
    this.#size--;
    // What was put further along because this place was taken comes nearer.
    const mask = this.#slots.length - 1;
    for (let at = (free + 1) & mask; this.#slots[at] !== undefined; at = (at + 1) & mask) {
      const home = this.#slots[at]!.id & mask;
      if (((at - home) & mask) < ((at - free) & mask)) continue;
      this.#slots[free] = this.#slots[at];
      free = at;
    }
    this.#slots[free] = undefined;
    return true;
  }

  clear(): void {
    this.#slots.fill(undefined);
    this.#size = 0;
  }

  /** In a copy, oldest first. */
  values(): T[] {
    const found: T[] = [];
    for (const item of this.#slots) if (item !== undefined) found.push(item);
    return found.sort((a, b) => a.id - b.id);
  }

  /** Where the id is, or would come. */
  #find(id: number): number {
    const mask = this.#slots.length - 1;
    let at = id & mask;
    for (;;) {
      const item = this.#slots[at];
      if (item === undefined || item.id === id) return at;
      at = (at + 1) & mask;
    }
  }

  #grow(): void {
    const items = this.values();
    this.#slots = new Array(this.#slots.length * 2).fill(undefined);
    for (const item of items) this.#slots[this.#find(item.id)] = item;
  }
}
