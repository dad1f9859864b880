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
import { ShmError } from "../errors.ts";
import { CacheEngineKey, type Key } from "./key.ts";

const SEPARATOR = "-SEP-";
const DATA = ".data";
const SIDECAR = ".key";
const HASHED = /^sha256-[0-9a-f]{64}$/;
/** NAME_MAX of every Linux file system that matters. */
const MAX_NAME_BYTES = 255;
/** A longer key could not be listed by a worker: coded, it must fit into a line. */
const MAX_KEY_BYTES = 16_384;
/** What a decoder puts in place of bytes that are no UTF-8. */
const REPLACEMENT = "\ufffd";

/** Where a key is stored, relative to the storage directory. */
export interface KeyFile {
  /** The key as text. */
  readonly key: string;
  /** Of the object. */
  readonly fileName: string;
  /** Of the file that holds the key, where fileName does not; else null. */
  readonly sidecarName: string | null;
}

/** The key as text, if it can be stored. @throws {TypeError | RangeError | ShmError} */
function checkKey(key: Key): string {
  if (typeof key !== "string" && !(key instanceof CacheEngineKey)) {
    throw new TypeError(`a key must be a string or a CacheEngineKey, got ${key}`);
  }
  const text = String(key);
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
  return text;
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

function hashedStem(key: string): string {
  return `sha256-${createHash("sha256").update(key).digest("hex")}`;
}

/**
 * Where `key` is stored.
 * @throws {RangeError} when it cannot be: empty, control characters, half a surrogate pair;
 *   {ShmError} ENAMETOOLONG beyond 16,384 bytes.
 */
export function keyFile(key: Key): KeyFile {
  const text = checkKey(key);
  const fileName = plainName(text);
  if (comesBack(text, fileName)) return { key: text, fileName, sidecarName: null };
  const stem = hashedStem(text);
  return { key: text, fileName: stem + DATA, sidecarName: stem + SIDECAR };
}

/** keyFile(key).fileName. */
export function keyToFileName(key: Key): string {
  return keyFile(key).fileName;
}

/**
 * The key whose object has this file name; null when the name is not an object's, or when it is a
 * hash and the key is in the file sidecarOf(fileName).
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

/** The name of the file that holds the key of a hashed object; null when `fileName` is none. */
export function sidecarOf(fileName: string): string | null {
  const stem = fileName.slice(0, -DATA.length);
  return fileName.endsWith(DATA) && HASHED.test(stem) ? stem + SIDECAR : null;
}
