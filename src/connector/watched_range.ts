// SPDX-License-Identifier: Apache-2.0
//
// Ranges that know whether somebody holds them. A cancelled request may use its memory for a while; a
// WatchedRange tells when nobody does any more.

import { callFenced } from "../fence.ts";
import { ShmError } from "../errors.ts";
import { takeHold } from "../memory/hold_all.ts";
import { MemoryObj } from "../memory/memory_obj.ts";
import { partOf } from "../memory/part_of_range.ts";
import type { ShmRange, ShmSegment } from "../memory/segment.ts";
import type { TensorLayout } from "../memory/tensor_layout.ts";

export class WatchedRange implements ShmRange {
  readonly #range: ShmRange;
  #holds = 0;
  #waiting: (() => void)[] = [];

  constructor(range: ShmRange) {
    this.#range = range;
  }

  get segment(): ShmSegment {
    return this.#range.segment;
  }

  get offset(): number {
    return this.#range.offset;
  }

  get byteLength(): number {
    return this.#range.byteLength;
  }

  /** That of a memory object; undefined for what has none. */
  get layout(): TensorLayout | undefined {
    return this.#range instanceof MemoryObj ? this.#range.layout : undefined;
  }

  hold(reason: string): () => void {
    const release = takeHold(this.#range, reason);
    this.#holds++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      release();
      if (--this.#holds > 0) return;
      for (const call of this.#waiting.splice(0)) call();
    };
  }

  /** Calls once nobody holds it: now, or from within the last release. */
  whenQuiet(call: () => void): void {
    if (this.#holds === 0) call();
    else this.#waiting.push(call);
  }

  /** Resolves when nobody holds it. */
  quiet(): Promise<void> {
    return new Promise((resolve) => this.whenQuiet(resolve));
  }

  toString(): string {
    return String(this.#range);
  }
}

/**
 * Memory that was allocated for one load, and goes back when the load has come to nothing: once nobody
 * holds it any more, because its caller may have given up long before the worker is done with it.
 */
export class OwnRange extends WatchedRange {
  readonly #own: ShmRange;

  /** @param range disposed of by discard(), where it can be. */
  constructor(range: ShmRange) {
    super(range);
    this.#own = range;
  }

  /**
   * The first `byteLength` bytes, for the caller of the load, who owns them from now on: what was
   * allocated, if it has that length or is a memory object that can be truncated to it; else a part of
   * it. Disposing of the part disposes of the whole range.
   */
  head(byteLength: number): ShmRange {
    const own = this.#own;
    if (own.byteLength === byteLength) return own;
    if (own instanceof MemoryObj) {
      try {
        return own.truncateBytes(byteLength);
      } catch (error) {
        if (error instanceof ShmError) throw error;
        // No number of tokens has that length.
      }
    }
    const part = partOf(own, 0, byteLength);
    if (!(Symbol.dispose in own)) return part;
    return Object.freeze({ ...part, [Symbol.dispose]: () => disposeOf(own) });
  }

  /** Nobody wants it: disposes of it, now or as soon as the last hold is released. Never throws. */
  discard(): void {
    // Neither the load nor whoever releases the last hold is to blame for what goes wrong.
    this.whenQuiet(() => callFenced("Symbol.dispose of a range", disposeOf, this.#own));
  }
}

/** Gives a range back to where it came from, if it is of a kind that can be. */
function disposeOf(range: ShmRange): void {
  (range as Partial<Disposable>)[Symbol.dispose]?.();
}
