// SPDX-License-Identifier: Apache-2.0
//
// The books of equal pages: which are free, which are in use. A stack of free page numbers, so
// taking and giving back are a push and a pop. Pure arithmetic, as FreeSpace.

import { ShmError } from "../errors.ts";

const FREE = 0;
const USED = 1;
const WITHHELD = 2;

export class PageSpace {
  /** FREE, USED or WITHHELD. */
  readonly #states: Uint8Array;
  /** The first #freeCount entries are the free pages. */
  readonly #stack: Int32Array;
  #freeCount: number;
  #withheldCount = 0;

  /** `pages` is from 1 to 2^31 - 1. Pages are taken in ascending order at first. */
  constructor(pages: number) {
    this.#states = new Uint8Array(pages);
    this.#stack = Int32Array.from({ length: pages }, (_, i) => pages - 1 - i);
    this.#freeCount = pages;
  }

  get pages(): number {
    return this.#states.length;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  get withheldCount(): number {
    return this.#withheldCount;
  }

  get usedCount(): number {
    return this.pages - this.#freeCount - this.#withheldCount;
  }

  stateOf(page: number): "free" | "used" | "withheld" {
    const state = this.#states[page];
    return state === FREE ? "free" : state === USED ? "used" : "withheld";
  }

  /** A page number, or null when none is free. */
  take(): number | null {
    if (this.#freeCount === 0) return null;
    const page = this.#stack[--this.#freeCount]!;
    this.#states[page] = USED;
    return page;
  }

  /** Gives back a page that is used or withheld. @throws {ShmError} EFREED when it is free. */
  giveBack(page: number): void {
    const state = this.#states[page];
    if (state !== USED && state !== WITHHELD) throw notInUse(page);
    if (state === WITHHELD) this.#withheldCount--;
    this.#states[page] = FREE;
    this.#stack[this.#freeCount++] = page;
  }

  /** Sets a used page aside until giveBack(). @throws {ShmError} EFREED when it is not used. */
  withhold(page: number): void {
    if (this.#states[page] !== USED) throw notInUse(page);
    this.#states[page] = WITHHELD;
    this.#withheldCount++;
  }

  /** Null, or the first fault found, in words. */
  findFault(): string | null {
    const counts = [0, 0, 0];
    for (const state of this.#states) counts[state]!++;
    if (counts[FREE] !== this.#freeCount) {
      return `free pages: ${counts[FREE]} counted, ${this.#freeCount} in the books`;
    }
    if (counts[WITHHELD] !== this.#withheldCount) {
      return `withheld pages: ${counts[WITHHELD]} counted, ${this.#withheldCount} in the books`;
    }
    const listed = new Set(this.#stack.subarray(0, this.#freeCount));
    if (listed.size !== this.#freeCount) return "a free page is listed twice";
    for (const page of listed) {
      if (this.#states[page] !== FREE) return `page ${page} is listed as free and is not`;
    }
    return null;
  }
}

function notInUse(page: number): ShmError {
  return new ShmError(`page ${page} is not in use`, {
    code: "EFREED",
    operation: "free page",
    details: { page },
  });
}
