// SPDX-License-Identifier: Apache-2.0
//
// A zero-copy window on a segment that can be taken back. Revoking detaches the ArrayBuffer: every
// typed array over it has length 0 from then on, reads give undefined and writes are ignored.
// JavaScript can move the memory of an ArrayBuffer into another one (transfer(), postMessage with a
// transfer list), and a runtime may pin it while it does I/O; such a view has escaped, and revoke()
// says so, because whoever hands out the memory again must know.

import type { Member } from "../members.ts";

/** Made by ShmSegment.view(). */
export class ShmView implements Member {
  /** Among the views of its segment. @internal */
  slot = -1;
  /** Bytes from the start of the segment. */
  readonly offset: number;
  #buffer: ArrayBuffer | undefined;
  #bytes: Uint8Array<ArrayBuffer>;
  #escaped = false;
  readonly #onRevoked: (view: ShmView) => void;

  constructor(buffer: ArrayBuffer, offset: number, onRevoked: (view: ShmView) => void) {
    this.#buffer = buffer;
    this.#bytes = new Uint8Array(buffer);
    this.offset = offset;
    this.#onRevoked = onRevoked;
  }

  /** The memory itself, not a copy. Empty once revoked. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** True until revoke(), or until the user moved the memory away. */
  get valid(): boolean {
    return this.#buffer !== undefined && !this.#buffer.detached;
  }

  /**
   * Takes the memory back. Idempotent.
   * @returns true when nothing can reach the memory through this view any more; false when it
   *   escaped into another ArrayBuffer or is pinned by I/O of the runtime.
   */
  revoke(): boolean {
    const buffer = this.#buffer;
    if (buffer === undefined) return !this.#escaped;
    this.#buffer = undefined;
    this.#escaped = buffer.detached || !detach(buffer);
    this.#onRevoked(this);
    return !this.#escaped;
  }
}

function detach(buffer: ArrayBuffer): boolean {
  try {
    buffer.transfer(0);
  } catch {
    return false;
  }
  return buffer.detached;
}
