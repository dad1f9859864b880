// SPDX-License-Identifier: Apache-2.0
//
// What a worker answers to a line of version 1, in which every connection begins: "OK ..." or
// "ERROR <message>", in the order of the lines. Pure.

import { codeFromMessage } from "./errno_text.ts";

/** The longest line in either direction, in bytes, with its line feed. */
export const MAX_LINE_BYTES = 65_536;

export interface OkReply {
  readonly ok: true;
  /** What follows "OK ", "" when nothing does. */
  readonly text: string;
  /** `text` as a number of bytes; null when it is not one decimal number below 2^53. */
  readonly count: number | null;
}

export interface ErrorReply {
  readonly ok: false;
  /** The errno name that the message begins with or means, "EWORKER" when it has none. */
  readonly code: string;
  /** What follows "ERROR ", as the worker wrote it. */
  readonly message: string;
}

export type Reply = OkReply | ErrorReply;

/** A short, printable form of foreign text for error messages. */
export function printable(text: string, maxChars = 200): string {
  const cut = text.length > maxChars ? `${text.slice(0, maxChars)}...` : text;
  return JSON.stringify(cut);
}

/** What a line without its line feed says; null when it is no reply at all. */
export function parseReply(text: string): Reply | null {
  if (text === "OK") return { ok: true, text: "", count: null };
  if (text.startsWith("OK ")) {
    const rest = text.slice(3).trim();
    const count = /^[0-9]{1,16}$/.test(rest) ? Number(rest) : NaN;
    return { ok: true, text: rest, count: Number.isSafeInteger(count) ? count : null };
  }
  if (text === "ERROR" || text.startsWith("ERROR ")) {
    const message = text.slice(6).trim();
    return { ok: false, code: codeFromMessage(message), message };
  }
  return null;
}
