// SPDX-License-Identifier: Apache-2.0
//
// Memory that was allocated for one load, and goes back when the load has come to nothing. Its caller
// may have given up long before the worker is done with it: it is disposed of when nobody holds it
// any more, not before.

import { warnOf } from "../fence.ts";
import { takeHold } from "../memory/hold_all.ts";
import type { ShmRange, ShmSegment } from "../memory/segment.ts";

export class OwnRange implements ShmRange {
  readonly #range: ShmRange;
  #holds = 0;
  #discarded = false;

  /** @param range disposed of by discard(), where it can be. */
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

  hold(reason: string): () => void {
    const release = takeHold(this.#range, reason);
    this.#holds++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      release();
      this.#holds--;
      if (this.#discarded && this.#holds === 0) this.#disposeLate();
    };
  }

  /** Nobody wants it: disposes of it, now or as soon as the last hold is released. */
  discard(): void {
    this.#discarded = true;
    if (this.#holds === 0) disposeOf(this.#range);
  }

  /** Whoever releases the last hold is not to blame for what goes wrong. */
  #disposeLate(): void {
    try {
      disposeOf(this.#range);
    } catch (error) {
      warnOf("Symbol.dispose of a range", error);
    }
  }
}

/** Gives a range back to where it came from, if it is of a kind that can be. */
export function disposeOf(range: ShmRange): void {
  (range as Partial<Disposable>)[Symbol.dispose]?.();
}
