// SPDX-License-Identifier: Apache-2.0
//
// bfloat16 to and from 32-bit floats. A bfloat16 is the upper half of a float, so reading one is a
// shift; writing one rounds the lower half away, to nearest and ties to even, as hardware and torch
// do. JavaScript has no such array, so the bits travel in a Uint16Array.

import { describe } from "../arguments.ts";

/**
 * The numbers in `source`, exactly. A NaN keeps its sign and its payload.
 * @param target where to write, at least as long as `source`; default a new array.
 * @returns `target`, or its part that was written.
 */
export function bfloat16ToFloat32(
  source: Uint16Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  checkArrays("bfloat16ToFloat32", source, Uint16Array, target, Float32Array);
  const length = source.length;
  const bits = new Uint32Array(target.buffer, target.byteOffset, length);
  for (let i = 0; i < length; i++) bits[i] = source[i]! << 16;
  return target.length === length ? target : target.subarray(0, length);
}

/**
 * `source` rounded to bfloat16, to nearest, ties to even. What is too large becomes infinity,
 * subnormals stay, and a NaN becomes a quiet NaN of the same sign.
 * @param target where to write, at least as long as `source`; default a new array.
 * @returns `target`, or its part that was written.
 */
export function float32ToBfloat16(
  source: Float32Array,
  target: Uint16Array = new Uint16Array(source.length),
): Uint16Array {
  checkArrays("float32ToBfloat16", source, Float32Array, target, Uint16Array);
  const length = source.length;
  const bits = new Uint32Array(source.buffer, source.byteOffset, length);
  for (let i = 0; i < length; i++) {
    const x = bits[i]! | 0;
    // Adding 0x7fff and the bit that stays last carries exactly when the lower half is above one
    // half, or is one half and the last bit is odd. A NaN must not carry into an infinity.
    target[i] = (x & 0x7fffffff) > 0x7f800000
      ? (x >>> 16) | 0x40
      : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return target.length === length ? target : target.subarray(0, length);
}

type ArrayClass = typeof Uint16Array | typeof Float32Array;

function checkArrays(
  operation: string,
  source: unknown,
  sourceClass: ArrayClass,
  target: unknown,
  targetClass: ArrayClass,
): void {
  if (!(source instanceof sourceClass)) {
    throw new TypeError(`${operation} reads a ${sourceClass.name}, got ${describe(source)}`);
  }
  if (!(target instanceof targetClass)) {
    throw new TypeError(`${operation} writes a ${targetClass.name}, got ${describe(target)}`);
  }
  if (target.length < source.length) {
    throw new RangeError(
      `${operation} needs room for ${source.length} elements, the target has ${target.length}`,
    );
  }
}
