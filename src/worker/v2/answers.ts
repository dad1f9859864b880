// SPDX-License-Identifier: Apache-2.0
//
// The text of protocol version 2's answers: a line into what it says. Pure, and strict: whatever is
// not exactly an answer is null, and the caller ends the connection for it.
//
//     <id> OK [<word>...]               PUT and GET: <bytes> [crc32c=<8 hex>] [<name>=<value>]...
//     <id> ERROR <ERRNO> <text>
//     <id> OK <item> ; <item> ; ...     of a batch; <item> as after OK, or -<ERRNO> [<text>]
//     OK 2 boot=<16 hex> ...            to HELLO, which is a line of version 1

import type { ObjectStat, StoredObject } from "../object_client.ts";
import { decodeWord, hexDigit } from "../percent.ts";
import type { ErrorReply } from "../reply.ts";
import { VERSION } from "./requests.ts";

/** An answer that is not parsed further yet. */
export interface Answer {
  readonly id: number;
  readonly ok: boolean;
  /** What follows "OK " or "ERROR ". */
  readonly text: string;
}

/** What HELLO's answer says. */
export interface WorkerHello {
  /** Another value means another worker process. */
  readonly boot: string;
  /** "lmshm-worker/0.1.0". */
  readonly worker: string;
  /** Whether the directory's file system, or the engine's layout, keeps attributes. */
  readonly xattr: boolean;
  /** "directory", "redis" or "s3"; null: the worker does not say. */
  readonly engine: string | null;
  /** Requests that may be unanswered at a time; null: the worker does not say. */
  readonly window: number | null;
}

const ERROR_NAME = /^E[A-Z0-9]{1,15}$/;
const NAME = /^[a-z0-9_]{1,32}$/;
const CRC = "crc32c=";
const CRC_DIGITS = 8;
const NONE: Record<string, string> = Object.freeze({});
/** Words of the protocol's own that are no attributes. */
const OWN_WORDS: ReadonlySet<string> = new Set([
  ...["key", "length", "crc", "verify", "io", "sync", "prio", "head", "pad"],
]);

/** A decimal number below 2^53; -1 for anything else. */
function parseCount(text: string, from: number, to: number): number {
  if (to <= from || to - from > 16) return -1;
  let value = 0;
  for (let at = from; at < to; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value <= Number.MAX_SAFE_INTEGER ? value : -1;
}

/** A number alone; null for anything else. */
export function parseNumber(text: string): number | null {
  const value = parseCount(text, 0, text.length);
  return value < 0 ? null : value;
}

/** Null: not an answer at all. */
export function parseAnswer(line: string): Answer | null {
  const space = line.indexOf(" ");
  const id = parseCount(line, 0, space);
  if (id < 0) return null;
  if (line.startsWith("OK", space + 1)) {
    if (line.length === space + 3) return { id, ok: true, text: "" };
    if (line.charCodeAt(space + 3) !== 32) return null;
    return { id, ok: true, text: line.slice(space + 4) };
  }
  if (!line.startsWith("ERROR ", space + 1)) return null;
  return { id, ok: false, text: line.slice(space + 7) };
}

/** The name and the text of what follows "ERROR ", or "-" in a batch. Null: it is neither. */
export function parseRefusal(text: string): ErrorReply | null {
  const space = text.indexOf(" ");
  const code = space < 0 ? text : text.slice(0, space);
  if (!ERROR_NAME.test(code)) return null;
  return { ok: false, code, message: space < 0 ? "" : text.slice(space + 1) };
}

/** The items of a batch's answer, each to be read with readRefusal() or parseStored(). */
export function splitItems(text: string): string[] {
  return text.split(" ; ");
}

/**
 * In place of a refusal: the answer's line was full, and this object must be asked for alone. It was
 * carried out already.
 */
export const AGAIN = Symbol("again");

/**
 * Why an object of a batch was refused, or that the line does not say; undefined: it was not. A text
 * says what is wrong with the item.
 */
export function readRefusal(item: string): ErrorReply | typeof AGAIN | string | undefined {
  if (item.charCodeAt(0) !== 45) return undefined;
  const reply = parseRefusedItem(item);
  if (reply === null) return "an error has a name";
  return reply.code === "EOVERFLOW" ? AGAIN : reply;
}

/** "-ENOSPC no%20space". Null: malformed. */
export function parseRefusedItem(item: string): ErrorReply | null {
  const reply = parseRefusal(item.slice(1));
  if (reply === null || reply.message === "") return reply;
  if (reply.message.includes(" ")) return null;
  const message = decodeWord(reply.message);
  return message === null ? null : { ok: false, code: reply.code, message };
}

/** Hexadecimal digits as a number; -1: they are not eight, or not all are such digits. */
function parseCrc(text: string): number {
  if (text.length !== CRC_DIGITS) return -1;
  let value = 0;
  for (let at = 0; at < CRC_DIGITS; at++) {
    const digit = hexDigit(text.charCodeAt(at));
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/** What is collected while an object's words are read. */
interface Reading {
  byteLength: number;
  crc32c: number | null;
  attributes: Record<string, string>;
  mtimeMs: number;
  diskBytes: number;
}

function setProperty(on: Record<string, string>, name: string, value: string): void {
  // Assigning to "__proto__" would not make a property.
  if (name !== "__proto__") on[name] = value;
  else {Object.defineProperty(on, name, {
      value,
      enumerable: true,
      writable: true,
      configurable: true,
    });}
}

/** False: malformed. */
function readWord(reading: Reading, word: string): boolean {
  const equals = word.indexOf("=");
  const name = word.slice(0, Math.max(equals, 0));
  const value = word.slice(equals + 1);
  switch (name) {
    case "crc32c":
      return (reading.crc32c = parseCrc(value)) >= 0;
    case "mtime_ms":
      return (reading.mtimeMs = parseCount(value, 0, value.length)) >= 0;
    case "disk":
      return (reading.diskBytes = parseCount(value, 0, value.length)) >= 0;
  }
  if (!NAME.test(name)) return false;
  if (OWN_WORDS.has(name)) return true;
  const decoded = decodeWord(value);
  if (decoded === null) return false;
  if (reading.attributes === NONE) reading.attributes = {};
  setProperty(reading.attributes, name, decoded);
  return true;
}

function readObject(text: string): Reading | null {
  let end = text.indexOf(" ");
  if (end < 0) end = text.length;
  const byteLength = parseCount(text, 0, end);
  if (byteLength < 0) return null;
  const reading: Reading = {
    byteLength,
    crc32c: null,
    attributes: NONE,
    mtimeMs: -1,
    diskBytes: -1,
  };
  while (end < text.length) {
    const start = end + 1;
    end = text.indexOf(" ", start);
    if (end < 0) end = text.length;
    if (!readWord(reading, text.slice(start, end))) return null;
  }
  return reading;
}

/** What PUT and GET say of an object. Null: malformed. */
export function parseStored(text: string): StoredObject | null {
  // Most say a length and a checksum and no more.
  const space = text.indexOf(" ");
  if (space > 0 && text.length === space + 1 + CRC.length + CRC_DIGITS) {
    const byteLength = parseCount(text, 0, space);
    const crc32c = text.startsWith(CRC, space + 1) ? parseCrc(text.slice(-CRC_DIGITS)) : -1;
    if (byteLength >= 0 && crc32c >= 0) return { byteLength, crc32c, attributes: NONE };
  }
  const reading = readObject(text);
  if (reading === null) return null;
  const { byteLength, crc32c, attributes } = reading;
  return { byteLength, crc32c, attributes };
}

/** What STAT says. Null: malformed. */
export function parseStat(text: string): ObjectStat | null {
  const reading = readObject(text);
  return reading === null || reading.mtimeMs < 0 || reading.diskBytes < 0 ? null : reading;
}

/** What EXISTS and REMOVE say of `count` keys. Null: malformed. */
export function parseFlags(text: string, count: number): boolean[] | null {
  if (text.length !== count || !/^[01]*$/.test(text)) return null;
  return Array.from(text, (digit) => digit === "1");
}

/** What LIST says: keys, and where the next page begins; null: there is none. */
export interface Page {
  readonly cursor: string | null;
  readonly keys: string[];
}

/** Null: malformed. */
export function parsePage(text: string): Page | null {
  const [cursor, ...words] = text.split(" ");
  if (cursor === undefined || cursor === "" || decodeWord(cursor) === null) return null;
  const keys: string[] = [];
  for (const word of words) {
    const key = decodeWord(word);
    if (key === null || key === "") return null;
    keys.push(key);
  }
  return { cursor: cursor === "-" ? null : cursor, keys };
}

/** `name=value` words, as INFO and PING have them. Null: malformed. */
export function parseFacts(text: string): Readonly<Record<string, string>> | null {
  const facts: Record<string, string> = {};
  for (let start = 0; start < text.length;) {
    const space = text.indexOf(" ", start);
    const end = space < 0 ? text.length : space;
    const equals = text.indexOf("=", start);
    if (equals <= start || equals >= end) return null;
    const value = decodeWord(text.slice(equals + 1, end));
    if (value === null) return null;
    setProperty(facts, text.slice(start, equals), value);
    // A space at the end is followed by a word without a name.
    if (space === text.length - 1) return null;
    start = end + 1;
  }
  return facts;
}

/** What follows "OK " in the answer to HELLO; null when it is not version 2's. */
export function parseHello(text: string): WorkerHello | null {
  if (!text.startsWith(`${VERSION} `)) return null;
  const facts = parseFacts(text.slice(`${VERSION} `.length));
  const { boot, worker = "", xattr, window, engine } = facts ?? {};
  if (boot === undefined || !/^[0-9a-f]{16}$/.test(boot)) return null;
  const limit = window === undefined ? null : parseNumber(window);
  if (window !== undefined && (limit === null || limit < 1)) return null;
  return {
    boot,
    worker,
    xattr: xattr === "1",
    engine: engine ?? null,
    window: limit,
  };
}
