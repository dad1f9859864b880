// SPDX-License-Identifier: Apache-2.0

import { callFenced } from "../fence.ts";

/** What several calls hold together: let go of when the last of them has. */
export class SharedRelease {
  readonly #release: () => void;
  #shares = 1;

  /** There is one share, which drop() ends. */
  constructor(release: () => void) {
    this.#release = release;
  }

  /** One share more, which calling drop() once more ends. */
  take(): () => void {
    this.#shares++;
    return this.drop;
  }

  readonly drop = (): void => {
    if (--this.#shares === 0) callFenced("the end of a hold()", this.#release);
  };
}
