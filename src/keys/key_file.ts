// SPDX-License-Identifier: Apache-2.0
//
// A key as a file name and back. As LMCache does it: "/" becomes "-SEP-", and ".data" follows. That
// has two gaps, which are closed here without touching any name that LMCache gives:
//
// - A key that would not come back unchanged (it contains "-SEP-", or looks like the names below),
//   or whose name has more than 255 bytes, is stored as "sha256-<64 hex digits of the key>.data",
//   and the key itself beside it, in a file of the same name with ".key" instead.
// - A key that no file name or protocol line can carry (control characters, half a surrogate pair,
//   more than 16,384 bytes), and the empty one, is refused.
//
// So two different keys never share a file, and a directory can be listed. Pure functions.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";
import { CacheEngineKey, type Key } from "./key.ts";
import { ObjectKey } from "./object_key.ts";

const SEPARATOR = "-SEP-";
/** The separator's middle: a key without it comes back from its file name. */
const MIDDLE = "SEP";
const DATA = ".data";
const SIDECAR = ".key";
const HASHED = /^sha256-[0-9a-f]{64}$/;
/** NAME_MAX of every Linux file system that matters. */
const MAX_NAME_BYTES = 255;
/** A longer key could not be listed by a worker: coded, it must fit into a line. */
export const MAX_KEY_BYTES = 16_384;
/** Nothing but these is in most keys. Each is one byte, and none but "/" is special in file names. */
const PRINTABLE = /^[\x20-\x7e]+$/;
/** What a decoder puts in place of bytes that are no UTF-8. */
const REPLACEMENT = "\ufffd";

/** Where a key is stored, relative to the storage directory. */
interface KeyFile {
  /** The key as text. */
  readonly key: string;
  /** Of the object. */
  readonly fileName: string;
  /** Of the file that holds the key, where fileName does not; else null. */
  readonly sidecarName: string | null;
}

/** For a key that can be read back from its file name. The name is made when it is asked for: with
 * version 2 nobody needs it. */
class PlainKeyFile implements KeyFile {
  readonly key: string;
  readonly sidecarName = null;

  constructor(key: string) {
    this.key = key;
  }

  get fileName(): string {
    return plainName(this.key);
  }
}

/**
 * Not checked.
 * @param engine LMCache's adapters for Redis and S3 spell an ObjectKey otherwise than those for files.
 * @throws {TypeError} for what is none.
 */
export function textOf(key: Key, engine = false): string {
  if (typeof key === "string") return key;
  if (key instanceof CacheEngineKey) return key.toString();
  if (key instanceof ObjectKey) return engine ? key.toString() : key.inDirectory();
  throw new TypeError(
    `a key must be a string, a CacheEngineKey or an ObjectKey, got ${describe(key)}`,
  );
}

/** @throws {RangeError | ShmError} for what cannot be stored. */
function checkKey(text: string): void {
  const fault = text === ""
    ? "is empty"
    : /\p{Cc}/u.test(text)
    ? "contains a control character"
    : !text.isWellFormed()
    ? "contains half of a surrogate pair, which a file name cannot hold"
    : "";
  if (fault) throw new RangeError(`key ${JSON.stringify(text.slice(0, 200))} ${fault}`);
  // A UTF-16 unit is at most 3 bytes of UTF-8: usual keys need not be measured.
  if (text.length * 3 > MAX_KEY_BYTES) checkLength(text);
}

function checkLength(key: string): void {
  const keyBytes = Buffer.byteLength(key);
  if (keyBytes <= MAX_KEY_BYTES) return;
  throw new ShmError(
    `the key ${JSON.stringify(`${key.slice(0, 80)}...`)} has ${keyBytes} bytes, more than ` +
      `${MAX_KEY_BYTES}`,
    {
      code: "ENAMETOOLONG",
      operation: "name object",
      hint: "Use a hash of it as the key",
      details: { keyBytes, maxKeyBytes: MAX_KEY_BYTES },
    },
  );
}

function plainName(key: string): string {
  return key.replaceAll("/", SEPARATOR) + DATA;
}

function plainKey(fileName: string): string {
  return fileName.slice(0, -DATA.length).replaceAll(SEPARATOR, "/");
}

function comesBack(key: string, fileName: string): boolean {
  return plainKey(fileName) === key && !HASHED.test(key) && !key.includes(REPLACEMENT) &&
    Buffer.byteLength(fileName) <= MAX_NAME_BYTES;
}

/** Whether a look is enough to say that `key` can be stored and comes back from its file name. */
function isPlainly(key: string): boolean {
  // As a name, a slash takes as many bytes as the separator has.
  let room = MAX_NAME_BYTES - DATA.length - key.length;
  for (let at = key.indexOf("/"); at >= 0 && room >= 0; at = key.indexOf("/", at + 1)) {
    room -= SEPARATOR.length - 1;
  }
  return room >= 0 && PRINTABLE.test(key) && !key.includes(MIDDLE) && !HASHED.test(key);
}

function hashedStem(key: string): string {
  return `sha256-${createHash("sha256").update(key).digest("hex")}`;
}

/**
 * Where `key` is stored.
 * @throws {RangeError} when it cannot be: empty, control characters, half a surrogate pair;
 *   {ShmError} ENAMETOOLONG beyond 16,384 bytes.
 */
export function keyFile(key: Key): KeyFile {
  const text = textOf(key);
  if (isPlainly(text)) return new PlainKeyFile(text);
  checkKey(text);
  if (comesBack(text, plainName(text))) return new PlainKeyFile(text);
  const stem = hashedStem(text);
  return { key: text, fileName: stem + DATA, sidecarName: stem + SIDECAR };
}

/** The key as text, checked as keyFile() checks it; `engine` as for textOf(). */
export function keyText(key: Key, engine = false): string {
  const text = textOf(key, engine);
  if (!isPlainly(text)) checkKey(text);
  return text;
}

/** keyFile(key).fileName. */
export function keyToFileName(key: Key): string {
  return keyFile(key).fileName;
}

/**
 * The key whose object has this file name; null when the name is not an object's, or when it is a
 * hash and the key is in the file beside it.
 */
export function fileNameToKey(fileName: string): string | null {
  if (!fileName.endsWith(DATA)) return null;
  const key = plainKey(fileName);
  try {
    const file = keyFile(key);
    return file.fileName === fileName && file.sidecarName === null ? key : null;
  } catch {
    return null;
  }
}
