// SPDX-License-Identifier: Apache-2.0
//
// A range that knows whether somebody uses it: a store that was told to give up a request may be at
// it for a while, and this says when it is not any more.

import { takeHold } from "../memory/hold_all.ts";
import type { ShmRange, ShmSegment } from "../memory/segment.ts";

export class WatchedRange implements ShmRange {
  readonly #range: ShmRange;
  #holds = 0;
  #quiet: PromiseWithResolvers<void> | null = null;

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
      this.#holds--;
      release();
      if (this.#holds === 0) this.#quiet?.resolve();
    };
  }

  /** Resolves when nobody holds it. */
  quiet(): Promise<void> {
    if (this.#holds === 0) return Promise.resolve();
    this.#quiet ??= Promise.withResolvers<void>();
    return this.#quiet.promise;
  }

  toString(): string {
    return String(this.#range);
  }
}
