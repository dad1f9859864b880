// SPDX-License-Identifier: Apache-2.0
//
// Operations in flight on a piece of memory, which keep it from being freed.

import { SlotSet, type Slotted } from "../slot_set.ts";

interface Hold extends Slotted {
  readonly reason: string;
}

export class Holds {
  readonly #held = new SlotSet<Hold>();

  get size(): number {
    return this.#held.size;
  }

  /**
   * One more.
   * @returns ends it; false when it had ended before.
   */
  add(reason: string): () => boolean {
    const hold: Hold = { reason, slot: -1 };
    this.#held.add(hold);
    return () => this.#held.delete(hold);
  }

  /** What they are for, each once. */
  get reasons(): string[] {
    return [...new Set(Array.from(this.#held, ({ reason }) => reason))];
  }

  clear(): void {
    this.#held.clear();
  }
}
