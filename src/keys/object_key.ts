// SPDX-License-Identifier: Apache-2.0
//
// Keys of LMCache's multiprocess mode (`lmcache server`), byte for byte as its L2 adapters write them:
//
//     model@kv_rank@group@chunk_hash[@salt]          as text: resp, valkey, s3
//     model@0xkv_rank@group@chunk_hash[@salt].data   as a file: fs, fs_native; "/" as "-SEP-"
//
// kv_rank has eight hexadecimal digits or more, group and hash hexadecimal digits without "0x". With a
// directory as the store the key under which an object is found is the file's name without ".data",
// with slashes: that is what an ObjectKey means to a connector, and what listings give. LMCache's
// in-process mode has other keys (key.ts).

import { Buffer } from "node:buffer";
import { describe } from "../arguments.ts";
import { nearest } from "../nearest.ts";

/** The parts of a key. */
export interface ObjectKeyFields {
  /** As the serving engine names it; slashes are fine, "@" is not. */
  model: string;
  /** The slice of the cache, see ObjectKey.kvRank(). */
  kvRank: number;
  /** Of the chunk's tokens: bytes, or their hexadecimal digits. */
  chunkHash: Uint8Array | string;
  /** Default 0. */
  group?: number | undefined;
  /** Keeps users apart: the same chunk with another salt is another object. Default "". */
  salt?: string | undefined;
}

const FIELD_NAMES = ["model", "kvRank", "chunkHash", "group", "salt"];
const MAX_SALT_CHARS = 128;
const SEPARATOR = "@";
const TEXT_FORM = "model@kv_rank@group@chunk_hash[@salt]";
const FILE_FORM = "model@0xkv_rank@group@chunk_hash[@salt]";
/** kv_rank packs four numbers of a byte each, and LMCache lets the first be larger. */
const MAX_KV_RANK = Number.MAX_SAFE_INTEGER;

function refuse(what: string, value: unknown, why: string): never {
  throw new RangeError(`${what} ${JSON.stringify(String(value).slice(0, 200))} ${why}`);
}

function checkText(what: string, text: unknown, forbidden: RegExp, why: string): string {
  if (typeof text !== "string") {
    throw new TypeError(`${what} must be a string, got ${describe(text)}`);
  }
  if (/\p{Cc}/u.test(text)) refuse(what, text, "contains a control character");
  if (!text.isWellFormed()) refuse(what, text, "contains half of a surrogate pair");
  if (forbidden.test(text)) refuse(what, text, why);
  return text;
}

function checkNumber(what: string, value: unknown): number {
  if (typeof value !== "number") {
    throw new TypeError(`${what} must be a number, got ${describe(value)}`);
  }
  if (!Number.isSafeInteger(value) || value < 0) {
    refuse(what, value, "is not a whole number from 0 on");
  }
  return value;
}

function checkHash(hash: unknown): string {
  if (hash instanceof Uint8Array) return Buffer.from(hash).toString("hex");
  if (typeof hash !== "string") {
    throw new TypeError(`chunkHash must be bytes or hexadecimal digits, got ${describe(hash)}`);
  }
  if (/^(?:[0-9a-f]{2})*$/.test(hash)) return hash;
  refuse("chunkHash", hash, "is not made of pairs of lower-case hexadecimal digits");
}

/** The key of one chunk in LMCache's multiprocess mode. Immutable. */
export class ObjectKey {
  /** As the serving engine names it. */
  readonly model: string;
  /** The slice of the cache that it is of. */
  readonly kvRank: number;
  /** Lower case, two digits for each byte. */
  readonly chunkHashHex: string;
  /** The object group. */
  readonly group: number;
  /** Empty: none. */
  readonly salt: string;

  /** The key of its parts. @throws {TypeError | RangeError} naming the part that cannot be in one. */
  constructor(fields: ObjectKeyFields) {
    if (typeof fields !== "object" || fields === null) {
      throw new TypeError(`ObjectKey takes its parts as an object, got ${describe(fields)}`);
    }
    for (const name of Object.keys(fields)) {
      if (FIELD_NAMES.includes(name)) continue;
      const meant = nearest(name, FIELD_NAMES);
      throw new TypeError(
        `ObjectKey has no part "${name}"; ` +
          (meant ? `did you mean "${meant}"?` : `it has ${FIELD_NAMES.join(", ")}`),
      );
    }
    this.model = checkText("model", fields.model, /@/, `contains "@"`);
    this.kvRank = checkNumber("kvRank", fields.kvRank);
    this.chunkHashHex = checkHash(fields.chunkHash);
    this.group = checkNumber("group", fields.group ?? 0);
    const salt = fields.salt ?? "";
    this.salt = checkText("salt", salt, /[@/\\]/, `contains "@", "/" or "\\"`);
    const chars = [...salt].length;
    if (chars > MAX_SALT_CHARS) {
      refuse("salt", salt, `has ${chars} characters, more than ${MAX_SALT_CHARS}`);
    }
    Object.freeze(this);
  }

  /**
   * The number of a slice: of how many workers, which of them, and the same on its node. Below 256
   * each, or it would be another slice's.
   */
  static kvRank(
    worldSize: number,
    rank: number,
    localWorldSize: number = worldSize,
    localRank: number = rank,
  ): number {
    let packed = 0;
    for (
      const [what, value] of Object.entries({ worldSize, rank, localWorldSize, localRank })
    ) {
      if (checkNumber(what, value) > 255) refuse(what, value, "is more than 255");
      packed = packed * 256 + value;
    }
    return packed;
  }

  /**
   * The key that `text` is, in either form, without ".data".
   * @throws {RangeError} when it is none, or would not come back unchanged.
   */
  static parse(text: string): ObjectKey {
    if (typeof text !== "string") {
      throw new TypeError(`a key must be a string, got ${describe(text)}`);
    }
    const parts = text.split(SEPARATOR);
    if (parts.length !== 4 && parts.length !== 5) {
      refuse("key", text, `has ${parts.length} parts; expected ${TEXT_FORM} or ${FILE_FORM}`);
    }
    const [model, rank, group, hash, salt] = parts as [string, string, string, string, string?];
    const digits = /^(0x)?([0-9a-f]{8,14})$/.exec(rank);
    if (!digits) refuse("key", text, `has a kv_rank that is not eight hexadecimal digits or more`);
    if (!/^[0-9a-f]{1,13}$/.test(group)) refuse("key", text, "has a group that is no number");
    const kvRank = parseInt(digits[2]!, 16);
    if (kvRank > MAX_KV_RANK) refuse("key", text, "has a kv_rank of more than 53 bits");
    const key = new ObjectKey({ model, kvRank, chunkHash: hash, group: parseInt(group, 16), salt });
    const back = digits[1] === undefined ? key.toString() : key.inDirectory();
    if (back !== text) refuse("key", text, `would come back as "${back}"`);
    return key;
  }

  /** parse(), or null for what is no such key: a listing may have others, too. */
  static tryParse(text: string): ObjectKey | null {
    try {
      return ObjectKey.parse(text);
    } catch {
      return null;
    }
  }

  /** The bytes of the hash; new ones each time. */
  get chunkHash(): Uint8Array {
    return new Uint8Array(Buffer.from(this.chunkHashHex, "hex"));
  }

  /** As LMCache's resp, valkey and s3 adapters write it: "model@01000100@0@1f3a". */
  toString(): string {
    return this.#text("");
  }

  /** The key under which a directory has it: "model@0x01000100@0@1f3a". */
  inDirectory(): string {
    return this.#text("0x");
  }

  /** Whether both are the same. */
  equals(other: ObjectKey): boolean {
    return this.toString() === other.toString();
  }

  #text(before: string): string {
    const rank = before + this.kvRank.toString(16).padStart(8, "0");
    const parts = [this.model, rank, this.group.toString(16), this.chunkHashHex];
    return (this.salt === "" ? parts : [...parts, this.salt]).join(SEPARATOR);
  }
}
