// SPDX-License-Identifier: Apache-2.0
//
// Any number of keys as the words of a few requests (EXISTS, REMOVE, CONTAINS).

import { checkLength, encodeKey, MAX_WORDS_BYTES } from "./requests.ts";

/** Of one request, so that a worker can carry out several of them at a time. */
const MAX_LINE_KEYS = 512;

interface KeyLine {
  readonly words: string;
  readonly count: number;
}

/** Keys as words of as few requests as is sensible. */
export function keyLines(keys: readonly string[]): KeyLine[] {
  const lines: KeyLine[] = [];
  let words: string[] = [];
  let chars = 0;
  for (const key of keys) {
    const word = encodeKey(key);
    checkLength("look for keys", word.length);
    if (words.length === MAX_LINE_KEYS || chars + 1 + word.length > MAX_WORDS_BYTES) {
      lines.push({ words: words.join(" "), count: words.length });
      words = [];
      chars = 0;
    }
    words.push(word);
    chars += word.length + 1;
  }
  if (words.length > 0) lines.push({ words: words.join(" "), count: words.length });
  return lines;
}
