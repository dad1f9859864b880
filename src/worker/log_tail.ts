// SPDX-License-Identifier: Apache-2.0
//
// The last lines that a worker wrote to stderr, within fixed bounds however much it writes. Reading
// it all the time matters as much as keeping some of it: a pipe that nobody reads fills up, and the
// worker blocks.

import { callFenced } from "../fence.ts";

const MAX_LINES = 20;
const MAX_LINE_CHARS = 500;

export class LogTail {
  readonly #onLine: ((line: string) => void) | undefined;
  readonly #decoder = new TextDecoder();
  #lines: string[] = [];
  #rest = "";
  /** Inside a line whose beginning has been handed out already because it was too long. */
  #skipping = false;

  /** @param onLine the user's; gets each line, cut to 500 characters, as it comes. */
  constructor(onLine?: (line: string) => void) {
    this.#onLine = onLine;
  }

  /** At most the last 20 lines, oldest first, the unfinished one included. */
  get lines(): string[] {
    return this.#rest === "" ? [...this.#lines] : [...this.#lines, this.#rest];
  }

  push(chunk: Uint8Array): void {
    const parts = this.#decoder.decode(chunk, { stream: true }).split("\n");
    const last = parts.pop()!;
    for (const part of parts) this.#finish(part);
    this.#extend(last);
  }

  #finish(part: string): void {
    const wasSkipping = this.#skipping;
    this.#skipping = false;
    if (wasSkipping) return;
    this.#emit(this.#rest + part);
    this.#rest = "";
  }

  #extend(part: string): void {
    if (this.#skipping) return;
    this.#rest += part;
    if (this.#rest.length <= MAX_LINE_CHARS) return;
    this.#emit(this.#rest);
    this.#rest = "";
    this.#skipping = true;
  }

  #emit(line: string): void {
    const text = line.replace(/\r$/, "").slice(0, MAX_LINE_CHARS);
    if (text === "") return;
    this.#lines.push(text);
    if (this.#lines.length > MAX_LINES) this.#lines.shift();
    if (this.#onLine) callFenced("onLog", this.#onLine, text);
  }
}

/** `; it last wrote: "a" "b"` for an error message, "" when there is nothing to tell. */
export function describeLog(lines: readonly string[], count = 3): string {
  if (lines.length === 0) return "";
  return `; it last wrote: ${lines.slice(-count).map((text) => JSON.stringify(text)).join(" ")}`;
}
