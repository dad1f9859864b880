// SPDX-License-Identifier: Apache-2.0
//
// Element types of tensors: names, sizes, and the typed array that shows them. The names are those
// that LMCache writes into keys and metadata ("half", not "float16"); the other spellings that
// torch and NumPy users have at hand are understood wherever a dtype is an argument.
//
// Byte order is the machine's, which is little-endian on everything lmshm runs on.

import { describe } from "../arguments.ts";

/** The typed array of every dtype. Types that JavaScript lacks appear as their bits. */
export interface DTypeArrays {
  /** Two bytes each. */
  half: Float16Array<ArrayBuffer>;
  /** The bits; bfloat16.ts converts to and from Float32Array. */
  bfloat16: Uint16Array<ArrayBuffer>;
  /** Four bytes each. */
  float: Float32Array<ArrayBuffer>;
  /** Eight bytes each. */
  double: Float64Array<ArrayBuffer>;
  /** One byte each. */
  uint8: Uint8Array<ArrayBuffer>;
  /** One byte each, signed. */
  int8: Int8Array<ArrayBuffer>;
  /** Two bytes each, signed. */
  int16: Int16Array<ArrayBuffer>;
  /** Four bytes each, signed. */
  int32: Int32Array<ArrayBuffer>;
  /** Eight bytes each, signed. */
  int64: BigInt64Array<ArrayBuffer>;
  /** One byte each, 0 or 1. */
  bool: Uint8Array<ArrayBuffer>;
  /** One byte each, of a kind that only the model knows: what LMCache wrote before it had the next two. */
  fp8: Uint8Array<ArrayBuffer>;
  /** One byte each: the bits, with 4 of exponent and 3 of mantissa. */
  fp8_e4m3: Uint8Array<ArrayBuffer>;
  /** One byte each: the bits, with 5 of exponent and 2 of mantissa. */
  fp8_e5m2: Uint8Array<ArrayBuffer>;
}

/** The name of an element type, as LMCache writes it. */
export type DType = keyof DTypeArrays;

const ALIASES: Readonly<Record<Exclude<DTypeName, DType>, DType>> = {
  float16: "half",
  float32: "float",
  float64: "double",
  float8_e4m3fn: "fp8_e4m3",
  float8_e4m3fnuz: "fp8_e4m3",
  float8_e5m2: "fp8_e5m2",
  float8_e5m2fnuz: "fp8_e5m2",
};

/** A DType, or another spelling of one. */
export type DTypeName =
  | DType
  | "float16"
  | "float32"
  | "float64"
  | "float8_e4m3fn"
  | "float8_e4m3fnuz"
  | "float8_e5m2"
  | "float8_e5m2fnuz";

type ArrayOf<D extends DType> = new (
  buffer: ArrayBuffer,
  byteOffset: number,
  length: number,
) => DTypeArrays[D];

const TABLE: { readonly [D in DType]: { readonly sizeBytes: number; readonly array: ArrayOf<D> } } =
  {
    half: { sizeBytes: 2, array: Float16Array },
    bfloat16: { sizeBytes: 2, array: Uint16Array },
    float: { sizeBytes: 4, array: Float32Array },
    double: { sizeBytes: 8, array: Float64Array },
    uint8: { sizeBytes: 1, array: Uint8Array },
    int8: { sizeBytes: 1, array: Int8Array },
    int16: { sizeBytes: 2, array: Int16Array },
    int32: { sizeBytes: 4, array: Int32Array },
    int64: { sizeBytes: 8, array: BigInt64Array },
    bool: { sizeBytes: 1, array: Uint8Array },
    fp8: { sizeBytes: 1, array: Uint8Array },
    fp8_e4m3: { sizeBytes: 1, array: Uint8Array },
    fp8_e5m2: { sizeBytes: 1, array: Uint8Array },
  };

/** All dtypes, in the order of the table above. */
export const DTYPES: readonly DType[] = Object.freeze(Object.keys(TABLE) as DType[]);

/**
 * The dtype that `name` spells: LMCache's name, torch's or NumPy's, with or without "torch.".
 * @throws {TypeError} for anything else, naming what is accepted.
 */
export function parseDType(name: unknown): DType {
  if (typeof name === "string") {
    const bare = name.startsWith("torch.") ? name.slice("torch.".length) : name;
    if (Object.hasOwn(TABLE, bare)) return bare as DType;
    if (Object.hasOwn(ALIASES, bare)) return ALIASES[bare as keyof typeof ALIASES];
  }
  const accepted = [...DTYPES, ...Object.keys(ALIASES)].join(", ");
  throw new TypeError(`dtype must be one of ${accepted}; got ${describe(name)}`);
}

/** Bytes of one element. */
export function dtypeSizeBytes(dtype: DType): number {
  return TABLE[dtype].sizeBytes;
}

/**
 * A typed array of `length` elements over `buffer`, not a copy.
 * @throws {RangeError} when byteOffset is no multiple of the element size, or beyond the buffer.
 */
export function dtypeView<D extends DType>(
  dtype: D,
  buffer: ArrayBuffer,
  byteOffset: number,
  length: number,
): DTypeArrays[D] {
  return new TABLE[dtype].array(buffer, byteOffset, length);
}
