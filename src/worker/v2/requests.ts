// SPDX-License-Identifier: Apache-2.0
//
// The text of protocol version 2's requests: what is asked, into words. Pure; docs/protocol_v2.md
// describes it, csrc/worker/protocol/request_v2.h is its counterpart in the worker, and answers.ts
// reads what comes back.
//
//     request   <id> <VERB> <word>...        one line, answered by one line with the same id
//
//     HELLO 2 [dir=<path>]                   a line of version 1: it has no id
//     ATTACH <shm_name> <size> <identity|->
//     PUT <key> <offset> <length> [<option>]... [<name>=<value>]... [; <another object>]...
//     GET <key> <offset> <capacity> [<option>]... [; <another object>]...
//     STAT <key>            EXISTS <key>...           REMOVE <key>...        CONTAINS <key>...
//     LIST <limit> <cursor|-> [<prefix>]     LIST 0 <cursor>
//     PING      INFO      CANCEL <id>      QUIT
//
// Keys, names, values, cursors and prefixes are percent-coded (percent.ts): each is one word,
// whatever is in it, and never the lone ";" between objects. Numbers are decimal.
//
// The id is put before a request, and `prio` into it, when its turn has come (requestLine()): both
// are known only then. Everything else is encoded once, when the request is made.

import { MAX_KEY_BYTES } from "../../keys/key_file.ts";
import type { Durability, FileHeader, IoMode, Priority } from "../object_client.ts";
import { MAX_PAD_BYTES } from "../limits.ts";
import { encodeWord } from "../percent.ts";
import { MAX_LINE_BYTES, printable } from "../reply.ts";

type Attributes = Readonly<Record<string, string | Uint8Array>>;

export interface PutOptions {
  /** False: the worker computes and stores none. Default: true. */
  readonly checksum?: boolean | undefined;
  /** Default: the worker's own. */
  readonly io?: IoMode | undefined;
  readonly sync?: Durability | undefined;
  readonly header?: FileHeader | undefined;
  readonly padBytes?: number | undefined;
  /** True: an object that is there stays, and that is EEXIST. Default: false. */
  readonly ifAbsent?: boolean | undefined;
}

interface GetOptions {
  /** False: a stored checksum is not looked at. Default: true. */
  readonly verify?: boolean | undefined;
  readonly io?: IoMode | undefined;
  readonly padBytes?: number | undefined;
}

/** The version of the protocol that HELLO asks for. */
export const VERSION = 2;

export const MAX_LIST_KEYS = 1_000;
const MAX_ATTRIBUTES = 32;
/** Names and decoded values together. */
const MAX_ATTRIBUTE_BYTES = 4_096;
/** Words of the protocol's own: no attribute may be called so. */
const RESERVED: ReadonlySet<string> = new Set([
  ...["key", "length", "crc32c", "crc", "verify", "mtime_ms", "disk", "io", "sync", "prio"],
  ...["head", "pad", "if"],
]);

const encoder = new TextEncoder();

function utf8Bytes(text: string): number {
  return encoder.encode(text).length;
}

/** The key as a word. @throws {TypeError | RangeError} unless a worker can store it. */
export function encodeKey(key: string): string {
  if (typeof key !== "string") throw new TypeError(`a key must be a string, got ${key}`);
  // A UTF-16 unit is at most 3 bytes of UTF-8: short keys need not be measured.
  const fault = key === ""
    ? "is empty"
    : key.length * 3 > MAX_KEY_BYTES && utf8Bytes(key) > MAX_KEY_BYTES
    ? `has ${utf8Bytes(key)} bytes; at most ${MAX_KEY_BYTES} are allowed`
    : "";
  if (fault) throw new RangeError(`key ${printable(key)} ${fault}`);
  const word = encodeWord(key);
  // Whatever is wrong with the characters of a key makes them coded.
  if (word !== key) checkCharacters(key);
  return word;
}

function checkCharacters(key: string): void {
  const fault = /\p{Cc}/u.test(key)
    ? "contains a control character"
    : !key.isWellFormed()
    ? "contains half of a surrogate pair, which UTF-8 cannot express"
    : "";
  if (fault) throw new RangeError(`key ${printable(key)} ${fault}`);
}

function encodeNumber(what: string, value: number | bigint): string {
  if (typeof value === "bigint") {
    if (value >= 0n && value <= 0xffff_ffff_ffff_ffffn) return value.toString();
  } else if (typeof value !== "number") {
    throw new TypeError(`${what} must be a number, got ${value}`);
  } else if (Number.isSafeInteger(value) && value >= 0) {
    return `${value}`;
  }
  throw new RangeError(`${what} must be a whole number from 0 on, got ${value}`);
}

/** @param directory where the objects are; "": the worker's root. */
export function helloLine(directory: string): string {
  const line = directory === ""
    ? `HELLO ${VERSION}\n`
    : `HELLO ${VERSION} dir=${encodeWord(directory)}\n`;
  if (line.length <= MAX_LINE_BYTES) return line;
  throw new RangeError(`storageDir has ${directory.length} characters, too many for a line`);
}

function encodeChoice(name: string, value: string | undefined, choices: readonly string[]): string {
  if (value === undefined) return "";
  if (!choices.includes(value)) {
    throw new RangeError(`${name} must be one of ${choices.join(", ")}, got ${printable(value)}`);
  }
  return ` ${name}=${value}`;
}

const IO_MODES: readonly IoMode[] = ["auto", "direct", "cached"];
const DURABILITIES: readonly Durability[] = ["none", "data", "full"];
const HEADERS: readonly FileHeader[] = ["none", "lmcache"];

function encodePad(padBytes: number | undefined): string {
  if (padBytes === undefined) return "";
  if (Number.isInteger(Math.log2(padBytes)) && padBytes >= 1 && padBytes <= MAX_PAD_BYTES) {
    return ` pad=${padBytes}`;
  }
  throw new RangeError(
    `padBytes must be a power of two from 1 to ${MAX_PAD_BYTES}, got ${padBytes}`,
  );
}

/** Attributes that never change, such as those of a layout, come again and again. */
const encodedAttributes = new WeakMap<Attributes, string>();

/**
 * Attributes as words, each with the space before it.
 * @throws {TypeError | RangeError} naming the one at fault.
 */
export function encodeAttributes(attributes: Attributes): string {
  let words = encodedAttributes.get(attributes);
  if (words === undefined) {
    words = attributeWords(attributes);
    if (isConstant(attributes)) encodedAttributes.set(attributes, words);
  }
  return words;
}

/** Bytes can change in an object that cannot, and so can what a getter gives. */
function isConstant(attributes: Attributes): boolean {
  return Object.isFrozen(attributes) &&
    Object.values(Object.getOwnPropertyDescriptors(attributes)).every(({ value }) =>
      typeof value === "string"
    );
}

function attributeWords(attributes: Attributes): string {
  let words = "";
  let count = 0;
  let bytes = 0;
  for (const [name, value] of Object.entries(attributes)) {
    const fault = !/^[a-z0-9_]{1,32}$/.test(name)
      ? "is no name: it has 1 to 32 of a-z, 0-9 and _"
      : RESERVED.has(name)
      ? "is reserved"
      : typeof value === "string" && !value.isWellFormed()
      ? "contains half of a surrogate pair, which UTF-8 cannot express"
      : "";
    if (fault) throw new RangeError(`attribute ${printable(name)} ${fault}`);
    if (typeof value !== "string" && !(value instanceof Uint8Array)) {
      throw new TypeError(`attribute ${name} must be a string or bytes, got ${typeof value}`);
    }
    count++;
    bytes += name.length + (typeof value === "string" ? utf8Bytes(value) : value.length);
    words += ` ${name}=${encodeWord(value)}`;
  }
  if (count > MAX_ATTRIBUTES || bytes > MAX_ATTRIBUTE_BYTES) {
    throw new RangeError(
      `${count} attributes of ${bytes} bytes; an object has at most ${MAX_ATTRIBUTES} of ` +
        `${MAX_ATTRIBUTE_BYTES} bytes together`,
    );
  }
  return words;
}

/** What a request says after its verb, of one object. */
export interface RequestWords {
  /** All that comes before the priority. */
  readonly words: string;
  /** What comes behind it: attributes, each with the space before it. */
  readonly tail: string;
}

/**
 * Where an object's bytes are.
 * @param offset from the segment's beginning, in bytes
 * @param byteLength of a GET: the longest object that is accepted
 * @throws {TypeError | RangeError} naming the value at fault.
 */
export function encodePlace(
  key: string,
  offset: number | bigint,
  byteLength: number | bigint,
): string {
  return `${encodeKey(key)} ${encodeNumber("offset", offset)} ${
    encodeNumber("byteLength", byteLength)
  }`;
}

const IF_ABSENT = " if=absent";

/** Words of a PUT without its condition. A space is in none of them. */
export function withoutCondition(words: string): string {
  return words.replaceAll(IF_ABSENT, "");
}

/** What follows the place of a PUT. @throws {TypeError | RangeError} naming the value at fault. */
export function putOptions(options: PutOptions): string {
  const { checksum = true, io, sync, header, padBytes, ifAbsent = false } = options;
  return `${checksum ? "" : " crc=0"}${encodeChoice("io", io, IO_MODES)}${
    encodeChoice("sync", sync, DURABILITIES)
  }${encodeChoice("head", header, HEADERS)}${encodePad(padBytes)}${ifAbsent ? IF_ABSENT : ""}`;
}

/** What follows the place of a GET. @throws {TypeError | RangeError} naming the value at fault. */
export function getOptions({ verify = true, io, padBytes }: GetOptions): string {
  return `${verify ? "" : " verify=0"}${encodeChoice("io", io, IO_MODES)}${encodePad(padBytes)}`;
}

/** @param cursor as the last answer gave it, already a word; null to begin. */
export function encodeList(
  limit: number,
  cursor: string | null,
  prefix: string | Uint8Array = "",
): string {
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIST_KEYS) {
    throw new RangeError(`limit must be a whole number from 1 to ${MAX_LIST_KEYS}, got ${limit}`);
  }
  if (prefix.length === 0) return `${limit} ${cursor ?? "-"}`;
  // As the last word of a LIST, "prio=" would be the request's priority.
  return `${limit} ${cursor ?? "-"} ${encodeWord(prefix).replace(/^prio=/, "prio%3D")}`;
}

/** @param cursor as encodeList() has it, of the listing that ends */
export function encodeListEnd(cursor: string): string {
  return `0 ${cursor}`;
}

/**
 * @param name "/kv", or "fd:3" for a descriptor that the worker inherited.
 * @param identity which file that must be, "<boot>:<device>:<inode>", or "-": whatever it is
 */
export function encodeAttachment(
  name: string,
  sizeBytes: number | bigint,
  identity: string,
): string {
  if (name === "") throw new RangeError("the segment's name is empty");
  if (!/^[-:0-9a-f]+$/.test(identity)) {
    throw new RangeError(`identity ${printable(identity)} is not <boot>:<device>:<inode>, nor -`);
  }
  return `${encodeWord(name)} ${encodeNumber("sizeBytes", sizeBytes)} ${identity}`;
}

/** The most bytes that can come before a request's words: id, verb, priority, line feed. */
const LINE_OVERHEAD_BYTES = 20 + 10 + 12 + 1;
/** Words of one request must not be longer, in bytes, which all are one character. */
export const MAX_WORDS_BYTES = MAX_LINE_BYTES - LINE_OVERHEAD_BYTES;

/** @throws {RangeError} when so many characters of words do not fit into a line. */
export function checkLength(what: string, chars: number): void {
  if (chars <= MAX_WORDS_BYTES) return;
  throw new RangeError(
    `${what}: its request has ${chars} bytes; at most ${MAX_WORDS_BYTES} fit into a line`,
  );
}

/**
 * The whole line of a request.
 * @param objects one, or several (PUT and GET); none for a verb alone.
 * @param priority said with the first object; undefined says nothing, which means normal.
 */
export function requestLine(
  id: number | bigint,
  verb: string,
  objects: readonly RequestWords[],
  priority?: Priority,
): string {
  let text = `${id} ${verb}`;
  for (let index = 0; index < objects.length; index++) {
    const { words, tail } = objects[index]!;
    text += index === 0 ? " " : " ; ";
    text += words;
    if (index === 0 && priority !== undefined) text += ` prio=${priority}`;
    text += tail;
  }
  return `${text}\n`;
}
