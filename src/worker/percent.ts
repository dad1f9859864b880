// SPDX-License-Identifier: Apache-2.0
//
// Percent-coding of protocol version 2: any bytes as one word of printable ASCII. Pure;
// csrc/worker/base/percent.h is its counterpart in the worker.

/** Bytes that stand for themselves: ALPHA / DIGIT / "-" "." "_" "~" "@" "/" ":" "+" "=" ",". */
const PLAIN = /^[A-Za-z0-9\-._~@/:+=,]*$/;
/** What a reader accepts. */
const PRINTABLE = /^[\x21-\x7e]*$/;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** By byte: the character itself, or "%XX". */
const CODED: readonly string[] = Array.from({ length: 256 }, (_, byte) => {
  const character = String.fromCharCode(byte);
  return byte < 128 && PLAIN.test(character)
    ? character
    : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
});

/** `text`, as UTF-8 where it is a string, as one word. The empty text is the empty word. */
export function encodeWord(text: string | Uint8Array): string {
  if (typeof text === "string" && PLAIN.test(text)) return text;
  let word = "";
  for (const byte of typeof text === "string" ? encoder.encode(text) : text) word += CODED[byte];
  return word;
}

/** The value of a hexadecimal digit by its character code; -1: it is none. */
export function hexDigit(code: number): number {
  if (code >= 48 && code <= 57) return code - 48;
  const letter = code | 32;
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

/**
 * What the word stands for; bytes that are no UTF-8 become U+FFFD. Null: it is not well coded.
 */
export function decodeWord(word: string): string | null {
  if (!PRINTABLE.test(word)) return null;
  if (!word.includes("%")) return word;
  const bytes = new Uint8Array(word.length);
  let length = 0;
  for (let at = 0; at < word.length; at++) {
    let byte = word.charCodeAt(at);
    if (byte === 37) {
      const high = hexDigit(word.charCodeAt(at + 1));
      const low = hexDigit(word.charCodeAt(at + 2));
      if (high < 0 || low < 0) return null;
      byte = high * 16 + low;
      at += 2;
    }
    bytes[length++] = byte;
  }
  return decoder.decode(bytes.subarray(0, length));
}
