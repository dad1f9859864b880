// SPDX-License-Identifier: Apache-2.0
//
// Bytes in pieces of any size into lines. A piece may end anywhere, within a character too: only
// whole lines are decoded.

const LINE_FEED = 10;

/** Collects the bytes of one direction of a connection. */
export class LineSplitter {
  readonly #maxLineBytes: number;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #pieces: Uint8Array[] = [];
  #pending = 0;

  /** @param maxLineBytes the longest line that is accepted, with its line feed. */
  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /**
   * The lines that `chunk` completes, without "\n" or "\r\n". Bytes that are no UTF-8 become
   * U+FFFD. `chunk` may be reused by the caller afterwards.
   * @throws {RangeError} when a line is longer than the limit; the splitter is of no use then.
   */
  push(chunk: Uint8Array): string[] {
    const end = chunk.lastIndexOf(LINE_FEED);
    if (end < 0) {
      this.#keep(chunk);
      return [];
    }
    const whole = this.#take(chunk.subarray(0, end));
    if (end + 1 < chunk.length) this.#keep(chunk.subarray(end + 1));
    const lines = this.#decoder.decode(whole).split("\n");
    // Characters are never more than bytes, so only a buffer beyond the limit can hold a line
    // beyond it.
    if (whole.length >= this.#maxLineBytes) this.#checkLengths(whole);
    return lines.map((text) => text.endsWith("\r") ? text.slice(0, -1) : text);
  }

  #keep(bytes: Uint8Array): void {
    this.#pending += bytes.length;
    if (this.#pending >= this.#maxLineBytes) this.#tooLong(this.#pending);
    this.#pieces.push(bytes.slice());
  }

  /** What was kept, followed by `last`. */
  #take(last: Uint8Array): Uint8Array {
    if (this.#pending === 0) return last;
    const whole = new Uint8Array(this.#pending + last.length);
    let at = 0;
    for (const piece of this.#pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    whole.set(last, at);
    this.#pieces = [];
    this.#pending = 0;
    return whole;
  }

  #checkLengths(whole: Uint8Array): void {
    let start = 0;
    while (start <= whole.length) {
      const feed = whole.indexOf(LINE_FEED, start);
      const end = feed < 0 ? whole.length : feed;
      if (end - start >= this.#maxLineBytes) this.#tooLong(end - start);
      start = end + 1;
    }
  }

  #tooLong(bytes: number): never {
    throw new RangeError(`a line of ${bytes} bytes or more; at most ${this.#maxLineBytes}`);
  }
}
