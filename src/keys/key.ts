// SPDX-License-Identifier: Apache-2.0
//
// The key of a KV-cache chunk, written as LMCache writes it, so that both find each other's chunks:
//
//     model@world_size@worker_id@chunk_hash_hex@dtype[@tag%value...]              a chunk
//     model@world_size@worker_id@chunk_hash_hex@dtype@layer_id[@tag%value...]     a layer of one
//
// LMCache splits at every "@" and a tag at its first "%" and escapes nothing. A part that would be
// split in another place is therefore refused here instead of being written and not found again: a
// model, tag or value with "@", a tag with "%". What parse() accepts, toString() gives back
// unchanged. How a key becomes a file is key_file.ts; keys of LMCache's multiprocess mode are
// object_key.ts.

import { nearest } from "../nearest.ts";
import type { ObjectKey } from "./object_key.ts";

/**
 * A dtype as LMCache writes it into keys. "fp8", "fp8_e4m3" and "fp8_e5m2" were written by earlier
 * versions of LMCache, the other fp8 names by its present one.
 */
export type KeyDtype =
  | "half"
  | "bfloat16"
  | "float"
  | "double"
  | "uint8"
  | "int8"
  | "int16"
  | "int32"
  | "int64"
  | "bool"
  | "fp8"
  | "fp8_e4m3"
  | "fp8_e4m3fn"
  | "fp8_e4m3fnuz"
  | "fp8_e5m2"
  | "fp8_e5m2fnuz";

export const KEY_DTYPES: readonly KeyDtype[] = [
  "half",
  "bfloat16",
  "float",
  "double",
  "uint8",
  "int8",
  "int16",
  "int32",
  "int64",
  "bool",
  "fp8",
  "fp8_e4m3",
  "fp8_e4m3fn",
  "fp8_e4m3fnuz",
  "fp8_e5m2",
  "fp8_e5m2fnuz",
];

/** The parts of a key. */
export interface CacheEngineKeyFields {
  /** As the serving engine names it; slashes are fine, "@" is not. */
  model: string;
  /** Processes that share the model, as the engine counts them. */
  worldSize: number;
  /** Which of them the chunk is of. */
  workerId: number;
  /** A number, or its hexadecimal digits without "0x"; leading zeros of those are kept. */
  chunkHash: bigint | string;
  /** Of the chunk's elements. */
  dtype: KeyDtype;
  /** Order matters: it is part of the key. */
  tags?: readonly (readonly [name: string, value: string])[] | undefined;
}

/** Any text is a key; the others have known parts. */
export type Key = string | CacheEngineKey | ObjectKey;

function refuse(what: string, value: unknown, why: string): never {
  throw new RangeError(`${what} ${JSON.stringify(String(value))} ${why}`);
}

function checkPart(what: string, text: unknown, forbidden: RegExp, why: string): string {
  if (typeof text !== "string") throw new TypeError(`${what} must be a string, got ${text}`);
  if (/\p{Cc}/u.test(text)) refuse(what, text, "contains a control character");
  if (!text.isWellFormed()) refuse(what, text, "contains half of a surrogate pair");
  if (forbidden.test(text)) refuse(what, text, why);
  return text;
}

function checkCount(what: string, value: unknown): number {
  if (typeof value !== "number") throw new TypeError(`${what} must be a number, got ${value}`);
  if (!Number.isSafeInteger(value)) refuse(what, value, "is not an integer");
  return value === 0 ? 0 : value;
}

function checkHash(hash: unknown): string {
  // Python's hash() may be negative, and LMCache writes it so.
  if (typeof hash === "bigint") return hash.toString(16);
  if (typeof hash !== "string") {
    throw new TypeError(`chunkHash must be a bigint or hexadecimal digits, got ${hash}`);
  }
  if (!/^-?[0-9a-f]+$/.test(hash)) {
    refuse("chunkHash", hash, `is not made of lower-case hexadecimal digits (and without "0x")`);
  }
  return hash;
}

function checkDtype(dtype: unknown): KeyDtype {
  const known = KEY_DTYPES.find((name) => name === dtype);
  if (known !== undefined) return known;
  const guess = nearest(String(dtype), KEY_DTYPES);
  refuse(
    "dtype",
    dtype,
    guess ? `is unknown; did you mean "${guess}"?` : `is none of ${KEY_DTYPES.join(", ")}`,
  );
}

/** The key of one chunk of tokens. Immutable. */
export class CacheEngineKey {
  /** As the serving engine names it. */
  readonly model: string;
  /** Processes that share the model. */
  readonly worldSize: number;
  /** Which of them the chunk is of. */
  readonly workerId: number;
  /** Lower case, without "0x". */
  readonly chunkHashHex: string;
  /** Of the chunk's elements. */
  readonly dtype: KeyDtype;
  /** In their order, which is part of the key. */
  readonly tags: readonly (readonly [name: string, value: string])[];

  /** The key of its parts. @throws {TypeError | RangeError} naming the part that cannot be in one. */
  constructor(fields: CacheEngineKeyFields) {
    this.model = checkPart("model", fields.model, /@/, `contains "@"`);
    this.worldSize = checkCount("worldSize", fields.worldSize);
    this.workerId = checkCount("workerId", fields.workerId);
    this.chunkHashHex = checkHash(fields.chunkHash);
    this.dtype = checkDtype(fields.dtype);
    this.tags = (fields.tags ?? []).map(([name, value]) =>
      [
        checkPart("tag", name, /[@%]/, `contains "@" or "%"`),
        checkPart(`value of tag ${name}`, value, /@/, `contains "@"`),
      ] as const
    );
  }

  /** The hash as a number. */
  get chunkHash(): bigint {
    const negative = this.chunkHashHex.startsWith("-");
    const value = BigInt(`0x${negative ? this.chunkHashHex.slice(1) : this.chunkHashHex}`);
    return negative ? -value : value;
  }

  /**
   * The key that `text` is the toString() of. For a layer's key see parseCacheKey().
   * @throws {RangeError} when there is none.
   */
  static parse(text: string): CacheEngineKey {
    const key = parseCacheKey(text);
    if (key instanceof LayerCacheEngineKey) {
      refuse("key", text, "is the key of a layer; use parseCacheKey()");
    }
    return key;
  }

  /** As LMCache writes it: "model@1@0@1f3a@bfloat16". */
  toString(): string {
    return keyText(this);
  }

  /** Whether both are written alike. */
  equals(other: CacheEngineKey): boolean {
    return this.toString() === other.toString();
  }

  /** The same chunk as another rank holds it. */
  withWorkerId(workerId: number): CacheEngineKey {
    return new CacheEngineKey({ ...this.#fields(), workerId });
  }

  /** One key for each layer, 0 to count - 1. */
  splitLayers(count: number): LayerCacheEngineKey[] {
    return Array.from({ length: count }, (_, layerId) => this.layer(layerId));
  }

  /** The key of one layer's share of the chunk. */
  layer(layerId: number): LayerCacheEngineKey {
    return new LayerCacheEngineKey({ ...this.#fields(), layerId });
  }

  #fields(): CacheEngineKeyFields {
    const { model, worldSize, workerId, chunkHashHex, dtype, tags } = this;
    return { model, worldSize, workerId, chunkHash: chunkHashHex, dtype, tags };
  }
}

function keyText(key: CacheEngineKey, layerId?: number): string {
  const { model, worldSize, workerId, chunkHashHex, dtype, tags } = key;
  const layer = layerId === undefined ? [] : [layerId];
  const tagged = tags.map(([name, value]) => `${name}%${value}`);
  return [model, worldSize, workerId, chunkHashHex, dtype, ...layer, ...tagged].join("@");
}

/** The key of one layer of a chunk. */
export class LayerCacheEngineKey extends CacheEngineKey {
  /** Which layer, from 0. */
  readonly layerId: number;

  /** The key of its parts. @throws as CacheEngineKey. */
  constructor(fields: CacheEngineKeyFields & { layerId: number }) {
    super(fields);
    this.layerId = checkCount("layerId", fields.layerId);
    if (this.layerId < 0) refuse("layerId", this.layerId, "is negative");
  }

  /** The chunk's key with the layer's number at its end. */
  override toString(): string {
    return keyText(this, this.layerId);
  }
}

/**
 * The key of a chunk or of a layer that `text` is the toString() of.
 * @throws {RangeError} when it is neither, or would not come back unchanged.
 */
export function parseCacheKey(text: string): CacheEngineKey | LayerCacheEngineKey {
  const form = "expected model@world_size@worker_id@chunk_hash_hex@dtype[@layer][@tag%value...]";
  if (typeof text !== "string") throw new TypeError(`a key must be a string, got ${text}`);
  const parts = text.split("@");
  if (parts.length < 5) refuse("key", text, `has ${parts.length} parts; ${form}`);
  const [model, worldSize, workerId, chunkHash, dtype, ...rest] = parts as [
    string,
    string,
    string,
    string,
    string,
    ...string[],
  ];
  const layer = rest.length > 0 && /^[0-9]+$/.test(rest[0]!) ? rest.shift() : undefined;
  const tags = rest.map((part) => {
    const at = part.indexOf("%");
    if (at < 0) refuse("key", text, `has ${JSON.stringify(part)} instead of tag%value; ${form}`);
    return [part.slice(0, at), part.slice(at + 1)] as const;
  });
  const integer = (what: string, digits: string) => {
    if (!/^-?[0-9]+$/.test(digits)) refuse("key", text, `has a ${what} that is no number; ${form}`);
    return Number(digits);
  };
  const fields: CacheEngineKeyFields = {
    model,
    worldSize: integer("world_size", worldSize),
    workerId: integer("worker_id", workerId),
    chunkHash,
    dtype: checkDtype(dtype),
    tags,
  };
  const key = layer === undefined
    ? new CacheEngineKey(fields)
    : new LayerCacheEngineKey({ ...fields, layerId: integer("layer_id", layer) });
  // "01" is 1 to LMCache as well, but its file is another one.
  if (key.toString() !== text) refuse("key", text, `would come back as "${key}"`);
  return key;
}
