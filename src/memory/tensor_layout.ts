// SPDX-License-Identifier: Apache-2.0
//
// What an object contains: one tensor or several, each with a shape and a dtype, one after the other
// without gaps, in one format. A layout is pure arithmetic, immutable, and shared by all objects
// that look alike; it knows nothing of memory.

import { checkCallOptions, checkInteger, describe } from "../arguments.ts";
import { type DType, type DTypeName, dtypeSizeBytes, parseDType } from "./dtype.ts";
import {
  describeShapeOf,
  isBinary,
  MemoryFormat,
  parseMemoryFormat,
  shapeFits,
  tokenDimension,
} from "./memory_format.ts";

/** Sizes of the dimensions, outermost first; every one is 1 or more. */
export type Shape = readonly number[];
/** One shape, or one for each tensor of the object. */
export type ShapeArgument = Shape | readonly Shape[];
/** One dtype, or one for each tensor. Null or absent: bytes, for the binary formats only. */
export type DTypeArgument = DTypeName | readonly DTypeName[] | null | undefined;

/** The parts of a layout. */
export interface LayoutFields {
  /** Of the form that `format` prescribes; binary formats also take LMCache's [num_bytes, 0, 0, 0]. */
  shape: ShapeArgument;
  /** Default: bytes, in the binary formats only. */
  dtype?: DTypeArgument;
  /** Default KV_2LTD. */
  format?: MemoryFormat | undefined;
}

/** What an object contains: a layout, the parts of one, or a number of bytes (format BINARY). */
export type LayoutArgument = TensorLayout | LayoutFields | number;

const FIELDS = ["shape", "dtype", "format"];

/** Layouts made last. A program has few, and checking and freezing one costs a microsecond. */
const RECENT = 16;
const recent: TensorLayout[] = [];
let oldest = 0;

/** The shapes, dtypes and sizes of one object. Make one with TensorLayout.of(). */
export class TensorLayout {
  /** How the numbers are laid out. */
  readonly format: MemoryFormat;
  /** At least one. Frozen. */
  readonly shapes: readonly Shape[];
  /** As many as shapes. Frozen. */
  readonly dtypes: readonly DType[];
  /** Where each tensor begins, in bytes from the start of the object. Frozen. */
  readonly offsets: readonly number[];
  /** Bytes of all tensors together. */
  readonly byteLength: number;

  private constructor(format: MemoryFormat, shapes: readonly Shape[], dtypes: readonly DType[]) {
    const offsets: number[] = [];
    let end = 0;
    shapes.forEach((shape, i) => {
      offsets.push(end);
      end += elementCount(shape) * dtypeSizeBytes(dtypes[i]!);
    });
    if (!Number.isSafeInteger(end)) {
      throw new RangeError(`${shapeText(shapes)} of ${dtypes.join(", ")} is beyond 2^53 bytes`);
    }
    this.format = format;
    this.shapes = Object.freeze(shapes);
    this.dtypes = Object.freeze(dtypes);
    this.offsets = Object.freeze(offsets);
    this.byteLength = end;
    Object.freeze(this);
  }

  /**
   * The layout of an object, checked.
   * @throws {TypeError} for what is no shape, dtype or format, and for a wrong number of dtypes.
   * @throws {RangeError} for a dimension below 1 or no integer, a shape that the format cannot
   *   have, and sizes beyond 2^53 bytes.
   */
  static of(layout: LayoutArgument): TensorLayout {
    if (layout instanceof TensorLayout) return layout;
    const { shape, dtype, format = MemoryFormat.KV_2LTD } = fieldsOf(layout);
    for (const known of recent) {
      if (known.#isOf(shape, dtype, format)) return known;
    }
    const made = TensorLayout.#checked(shape, dtype, format);
    recent[oldest] = made;
    oldest = (oldest + 1) % RECENT;
    return made;
  }

  /** The shape of the first tensor: of the only one, mostly. */
  get shape(): Shape {
    return this.shapes[0]!;
  }

  /** The dtype of the first tensor. */
  get dtype(): DType {
    return this.dtypes[0]!;
  }

  /** Tokens of the first tensor; null when the format has none. */
  get numTokens(): number | null {
    const dimension = tokenDimension(this.format);
    return dimension === null ? null : this.shape[dimension]!;
  }

  /** Bytes that one token takes in all tensors together; null when the format has no tokens. */
  get tokenBytes(): number | null {
    const tokens = this.numTokens;
    if (tokens === null) return null;
    const dimension = tokenDimension(this.format)!;
    return this.shapes.every((shape) => shape[dimension] === tokens)
      ? this.byteLength / tokens
      : null;
  }

  /**
   * The same layout for `numTokens` tokens: what a partial last chunk has.
   * @throws {TypeError} when the format has no tokens, or its tensors have different numbers of them.
   * @throws {RangeError} unless numTokens is at least 1.
   */
  withTokens(numTokens: number): TensorLayout {
    if (this.tokenBytes === null) throw this.#noTokens();
    checkInteger("numTokens", numTokens, 1);
    if (numTokens === this.numTokens) return this;
    const dimension = tokenDimension(this.format)!;
    const shapes = this.shapes.map((shape) => Object.freeze(shape.with(dimension, numTokens)));
    return new TensorLayout(this.format, shapes, this.dtypes);
  }

  /**
   * The layout whose size is `byteLength`: whole tokens, or any number of bytes in the binary
   * formats. So the length of a file gives the shape of the chunk in it.
   * @throws {RangeError} when no whole number of tokens has that size.
   * @throws {TypeError} when neither tokens nor bytes can be counted, and the size is another one.
   */
  withByteLength(byteLength: number): TensorLayout {
    checkInteger("byteLength", byteLength, 1);
    if (byteLength === this.byteLength) return this;
    if (isBinary(this.format)) {
      const size = dtypeSizeBytes(this.dtype);
      if (byteLength % size === 0) {
        return new TensorLayout(this.format, [Object.freeze([byteLength / size])], this.dtypes);
      }
      throw new RangeError(`byteLength ${byteLength} is no multiple of ${this.dtype}'s ${size}`);
    }
    const { tokenBytes } = this;
    if (tokenBytes === null) throw this.#noTokens();
    if (byteLength % tokenBytes !== 0) {
      throw new RangeError(
        `byteLength ${byteLength} is no multiple of ${tokenBytes}, the bytes of a token in ${this}`,
      );
    }
    return this.withTokens(byteLength / tokenBytes);
  }

  /** True when both describe the same bytes in the same way. */
  equals(other: TensorLayout): boolean {
    return this === other || this.toString() === other.toString();
  }

  /** "KV_2LTD [2, 32, 256, 1024] bfloat16", tensor by tensor. */
  toString(): string {
    const tensors = this.shapes.map((shape, i) => `[${shape.join(", ")}] ${this.dtypes[i]}`);
    return `${this.format} ${tensors.join(" + ")}`;
  }

  static #checked(shape: unknown, dtype: unknown, format: unknown): TensorLayout {
    const checkedFormat = parseMemoryFormat(format);
    if (!Array.isArray(shape)) {
      throw new TypeError(`shape must be an array of dimensions, got ${describe(shape)}`);
    }
    const shapes = (Array.isArray(shape[0]) ? shape : [shape]).map((one) =>
      checkShape(one, checkedFormat)
    );
    const dtypes = checkDTypes(dtype, shapes.length, checkedFormat);
    if (isBinary(checkedFormat) && shapes.length > 1) {
      throw new TypeError(`${checkedFormat} is one run of bytes, got ${shapes.length} shapes`);
    }
    return new TensorLayout(checkedFormat, shapes, dtypes);
  }

  /** True when of() would give this layout; only for one shape and one dtype in LMCache's name. */
  #isOf(shape: unknown, dtype: unknown, format: unknown): boolean {
    if (this.format !== format || this.dtypes[0] !== dtype || this.shapes.length !== 1) {
      return false;
    }
    const own = this.shape;
    if (!Array.isArray(shape) || shape.length !== own.length) return false;
    for (let i = 0; i < own.length; i++) {
      if (shape[i] !== own[i]) return false;
    }
    return true;
  }

  #noTokens(): TypeError {
    return new TypeError(`${this} has no number of tokens that could be changed`);
  }
}

function fieldsOf(layout: unknown): LayoutFields {
  if (typeof layout === "number") {
    checkInteger("byteLength", layout, 1);
    return { shape: [layout], dtype: "uint8", format: MemoryFormat.BINARY };
  }
  if (typeof layout !== "object" || layout === null || Array.isArray(layout)) {
    throw new TypeError(
      `a layout is { shape, dtype, format }, a TensorLayout or a number of bytes, got ${
        describe(layout)
      }`,
    );
  }
  checkCallOptions("a layout", layout, FIELDS);
  return layout as LayoutFields;
}

function elementCount(shape: Shape): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

function shapeText(shapes: readonly Shape[]): string {
  return shapes.map((shape) => `[${shape.join(", ")}]`).join(" + ");
}

function checkShape(shape: unknown, format: MemoryFormat): Shape {
  if (!Array.isArray(shape) || shape.length === 0) {
    throw new TypeError(
      `shape must be ${describeShapeOf(format)}, got ${
        Array.isArray(shape) ? "[]" : describe(shape)
      }`,
    );
  }
  const padded = isBinary(format) && shape.length === 4 && shape.slice(1).every((d) => d === 0);
  const sizes: readonly unknown[] = padded ? shape.slice(0, 1) : shape;
  const checked = sizes.map((size, i) => checkInteger(`shape[${i}]`, size, 1));
  if (!shapeFits(format, checked)) {
    throw new RangeError(
      `${format} has the shape ${describeShapeOf(format)}, got [${checked.join(", ")}]`,
    );
  }
  return Object.freeze(checked);
}

function checkDTypes(dtype: unknown, count: number, format: MemoryFormat): DType[] {
  if ((dtype === null || dtype === undefined) && isBinary(format)) {
    return new Array<DType>(count).fill("uint8");
  }
  if (!Array.isArray(dtype)) return new Array<DType>(count).fill(parseDType(dtype));
  if (dtype.length !== count) {
    throw new TypeError(`${count} shapes need ${count} dtypes, got ${dtype.length}`);
  }
  return dtype.map(parseDType);
}
