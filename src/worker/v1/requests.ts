// SPDX-License-Identifier: Apache-2.0
//
// The text of version 1's requests. Pure; docs/protocol.md describes it, and
// csrc/worker/protocol/request.h is its counterpart in the worker.
//
//     ATTACH <shm_name> <size> <base_addr>      -> OK
//     WRITE <path> <data_ptr> <length>          -> OK <bytes_written>
//     READ <path> <data_ptr> <length>           -> OK <bytes_read>
//     PING, QUIT                                -> OK
//
// Encoding: UTF-8, words separated by one space, numbers decimal.

import { MAX_LINE_BYTES, printable } from "../reply.ts";

/** Joins words to a line. @throws {RangeError} for what a line cannot carry. */
export function lineOf(...words: readonly (string | number | bigint)[]): string {
  for (const word of words) {
    if (typeof word !== "string") continue;
    const fault = word === ""
      ? "is empty"
      : /\p{Cc}/u.test(word)
      ? "contains a control character"
      : !word.isWellFormed()
      ? "contains half of a surrogate pair, which UTF-8 cannot express"
      : /\s/u.test(word)
      ? "contains a space"
      : "";
    if (fault) throw new RangeError(`${printable(word)} ${fault}; no line can carry it`);
  }
  const line = `${words.join(" ")}\n`;
  const bytes = new TextEncoder().encode(line).length;
  if (bytes <= MAX_LINE_BYTES) return line;
  throw new RangeError(`a request of ${bytes} bytes; a line has at most ${MAX_LINE_BYTES}`);
}
