// SPDX-License-Identifier: Apache-2.0
//
// A queue whose ends are both cheap however long it is; Array.shift() is not. A ring that grows when
// it is full, and forgets what has left it.

const LEAST_SLOTS = 16;

export class Fifo<T> {
  /** A power of two of them. */
  #slots: (T | undefined)[] = new Array(LEAST_SLOTS).fill(undefined);
  #head = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The oldest item, which stays. */
  peek(): T | undefined {
    return this.#slots[this.#head];
  }

  push(item: T): void {
    if (this.#size === this.#slots.length) this.#hold(this.takeAll(), 1);
    this.#slots[(this.#head + this.#size) & (this.#slots.length - 1)] = item;
    this.#size++;
  }

  shift(): T | undefined {
    if (this.#size === 0) return undefined;
    const item = this.#slots[this.#head];
    this.#slots[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#slots.length - 1);
    this.#size--;
    return item;
  }

  /** Puts `items` before all others, in their order. */
  prepend(items: readonly T[]): void {
    if (this.#size + items.length > this.#slots.length) this.#hold(this.takeAll(), items.length);
    const mask = this.#slots.length - 1;
    this.#head = (this.#head - items.length) & mask;
    this.#size += items.length;
    for (let i = 0; i < items.length; i++) this.#slots[(this.#head + i) & mask] = items[i];
  }

  /** Empties the queue; oldest first. */
  takeAll(): T[] {
    const items = [...this];
    this.#hold([], 0);
    return items;
  }

  /** Oldest first; the queue must not change meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    for (let i = 0; i < this.#size; i++) {
      yield this.#slots[(this.#head + i) & (this.#slots.length - 1)]!;
    }
  }

  /** Has exactly `items`, and room for so many more. */
  #hold(items: readonly T[], room: number): void {
    let count = LEAST_SLOTS;
    while (count < items.length + room) count *= 2;
    this.#slots = new Array(count).fill(undefined);
    for (let i = 0; i < items.length; i++) this.#slots[i] = items[i];
    this.#head = 0;
    this.#size = items.length;
  }
}
