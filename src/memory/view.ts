// SPDX-License-Identifier: Apache-2.0
//
// A zero-copy window on a segment that can be taken back. Revoking detaches the ArrayBuffer: every
// typed array over it has length 0 from then on, reads give undefined and writes are ignored.
// JavaScript can move the memory of an ArrayBuffer into another one (transfer(), postMessage with a
// transfer list), and a runtime may pin it while it does I/O; such a view has escaped, and revoke()
// says so, because whoever hands out the memory again must know.

/** Made by ShmSegment.view(). */
export class ShmView implements Disposable {
  readonly #offset: number;
  #buffer: ArrayBuffer | undefined;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #takeBack: (detached: boolean) => boolean;
  #unreachable = false;

  /**
   * Made by ShmSegment.view().
   * @param takeBack called once, with whether the buffer was detached here; says whether nothing can
   *   reach the memory any more. @internal
   */
  constructor(buffer: ArrayBuffer, offset: number, takeBack: (detached: boolean) => boolean) {
    this.#buffer = buffer;
    this.#bytes = new Uint8Array(buffer);
    this.#offset = offset;
    this.#takeBack = takeBack;
  }

  /** Bytes from the start of the segment. */
  get offset(): number {
    return this.#offset;
  }

  /** The memory itself, not a copy. Empty once revoked. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#bytes;
  }

  /** True until it is revoked, or the user moved the memory away. */
  get valid(): boolean {
    return this.#buffer !== undefined && !this.#buffer.detached;
  }

  /**
   * Takes the memory back. Idempotent. It does not end what the runtime does with the memory at that
   * moment: in Deno a read or write of a file or socket that is in flight goes on although the array
   * is detached. Await those first, before the memory is used for something else.
   * @returns true when no array can reach the memory through this view any more; false when it
   *   escaped into another ArrayBuffer, or (in Bun) is pinned by I/O of the runtime.
   */
  revoke(): boolean {
    const buffer = this.#buffer;
    if (buffer === undefined) return this.#unreachable;
    this.#buffer = undefined;
    this.#unreachable = this.#takeBack(detach(buffer));
    return this.#unreachable;
  }

  /** revoke(). */
  [Symbol.dispose](): void {
    this.revoke();
  }
}

/** Detaches a buffer. False when it was before, that is, moved away, or when it is pinned. */
export function detach(buffer: ArrayBuffer): boolean {
  if (buffer.detached) return false;
  try {
    buffer.transfer(0);
  } catch {
    return false;
  }
  return buffer.detached;
}
