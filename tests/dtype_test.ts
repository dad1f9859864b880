// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { bfloat16ToFloat32, float32ToBfloat16 } from "../src/memory/bfloat16.ts";
import { DTYPES, dtypeSizeBytes, dtypeView, parseDType } from "../src/memory/dtype.ts";

test("parseDType() knows LMCache's names and those of torch and NumPy", () => {
  for (const dtype of DTYPES) assert.equal(parseDType(dtype), dtype);
  assert.equal(parseDType("float16"), "half");
  assert.equal(parseDType("torch.float16"), "half");
  assert.equal(parseDType("torch.bfloat16"), "bfloat16");
  assert.equal(parseDType("float32"), "float");
  assert.equal(parseDType("float64"), "double");
  assert.equal(parseDType("torch.float8_e4m3fn"), "fp8_e4m3");
  assert.equal(parseDType("float8_e5m2"), "fp8_e5m2");
});

test("parseDType() refuses everything else and says what it knows", () => {
  for (
    const bad of ["", "bf16", "torch.", "toString", "__proto__", "HALF", 16, null, undefined, {}]
  ) {
    assert.throws(() => parseDType(bad), /TypeError.*dtype must be one of half, bfloat16/);
  }
});

test("dtypeSizeBytes() is the size of an element of the typed array", () => {
  for (const dtype of DTYPES) {
    const view = dtypeView(dtype, new ArrayBuffer(64), 16, 3);
    assert.equal(view.BYTES_PER_ELEMENT, dtypeSizeBytes(dtype), dtype);
    assert.equal(view.length, 3);
    assert.equal(view.byteOffset, 16);
  }
});

test("dtypeView() shows the memory, not a copy", () => {
  const buffer = new ArrayBuffer(16);
  dtypeView("half", buffer, 2, 1)[0] = -2;
  assert.deepEqual([...new Uint8Array(buffer, 0, 4)], [0, 0, 0, 0xc0]);
  dtypeView("int64", buffer, 8, 1)[0] = -1n;
  assert.equal(dtypeView("int32", buffer, 12, 1)[0], -1);
});

test("dtypeView() refuses an offset that is no multiple of the element size", () => {
  assert.throws(() => dtypeView("float", new ArrayBuffer(16), 2, 1), RangeError);
});

const bitsOf = (value: number) => new Uint32Array(new Float32Array([value]).buffer)[0]!;
const floatOf = (bits: number) => new Float32Array(new Uint32Array([bits]).buffer)[0]!;
const toBits = (...bits: number[]) =>
  float32ToBfloat16(new Float32Array(new Uint32Array(bits).buffer));

test("bfloat16ToFloat32() and back gives every one of the 65536 values unchanged", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const back = float32ToBfloat16(bfloat16ToFloat32(all));
  for (let bits = 0; bits < 65536; bits++) {
    const isNaN = (bits & 0x7fff) > 0x7f80;
    const expected = isNaN ? bits | 0x40 : bits;
    assert.equal(back[bits], expected, `0x${bits.toString(16)}`);
  }
});

test("bfloat16ToFloat32() is the upper half of a float", () => {
  const floats = bfloat16ToFloat32(
    new Uint16Array([0x3f80, 0xc000, 0x0001, 0x8000, 0x7f80, 0xff80]),
  );
  assert.equal(floats[0], 1);
  assert.equal(floats[1], -2);
  assert.equal(floats[2], floatOf(0x00010000));
  assert.ok(Object.is(floats[3], -0));
  assert.equal(floats[4], Infinity);
  assert.equal(floats[5], -Infinity);
});

test("float32ToBfloat16() rounds to nearest, ties to even", () => {
  assert.deepEqual([...toBits(0x3f800000, 0x3f807fff, 0x3f808000, 0x3f808001)], [
    0x3f80, // exact
    0x3f80, // just below the middle
    0x3f80, // the middle, down to even
    0x3f81, // just above
  ]);
  assert.deepEqual([...toBits(0x3f817fff, 0x3f818000, 0xbf818000)], [0x3f81, 0x3f82, 0xbf82]);
  assert.deepEqual([...toBits(0x3fffffff)], [0x4000], "carries into the exponent");
});

test("float32ToBfloat16() keeps subnormals, signs and infinities, and overflows to infinity", () => {
  assert.deepEqual([...toBits(0x00000001, 0x00008001, 0x00018000, 0x80008001)], [
    0x0000,
    0x0001,
    0x0002,
    0x8001,
  ]);
  assert.deepEqual([...float32ToBfloat16(new Float32Array([0, -0, Infinity, -Infinity]))], [
    0x0000,
    0x8000,
    0x7f80,
    0xff80,
  ]);
  assert.deepEqual([...toBits(0x7f7fffff, 0xff7fffff)], [0x7f80, 0xff80]);
});

test("float32ToBfloat16() keeps a NaN a NaN, quiet and of the same sign", () => {
  // The first would become an infinity if its payload were cut off, the third if it were rounded.
  const out = toBits(0x7f800001, 0xffc00000, 0x7fffffff, 0xffffffff);
  assert.deepEqual([...out], [0x7fc0, 0xffc0, 0x7fff, 0xffff]);
});

test("float32ToBfloat16() is never further away than half a step, on random bits", () => {
  let state = 12345;
  const random = () => state = Math.imul(state, 1664525) + 1013904223 | 0;
  for (let i = 0; i < 20_000; i++) {
    const value = floatOf(random() >>> 0);
    if (!Number.isFinite(value)) continue;
    const rounded = float32ToBfloat16(new Float32Array([value]))[0]!;
    const below = floatOf((bitsOf(value) & 0xffff0000) >>> 0);
    const above = floatOf(((bitsOf(value) & 0xffff0000) + 0x10000) >>> 0);
    const nearest = Number.isFinite(above) && Math.abs(above - value) < Math.abs(value - below)
      ? above
      : below;
    const result = floatOf(rounded << 16 >>> 0);
    if (Number.isFinite(above)) {
      assert.equal(Math.abs(result - value), Math.abs(nearest - value), `${value}`);
    }
  }
});

test("bfloat16 helpers write into a target and return what they wrote", () => {
  const target = new Uint16Array(5);
  const part = float32ToBfloat16(new Float32Array([1, 2]), target);
  assert.equal(part.buffer, target.buffer);
  assert.equal(part.length, 2);
  assert.deepEqual([...target], [0x3f80, 0x4000, 0, 0, 0]);
  const floats = new Float32Array(2);
  assert.equal(bfloat16ToFloat32(part, floats), floats);
  assert.deepEqual([...floats], [1, 2]);
});

test("bfloat16 helpers refuse other arrays and a target that is too short", () => {
  const bits = new Uint16Array(2);
  assert.throws(
    () => bfloat16ToFloat32(new Uint8Array(2) as never),
    /TypeError.*reads a Uint16Array/,
  );
  assert.throws(() => float32ToBfloat16([1] as never), /TypeError.*reads a Float32Array/);
  assert.throws(() => bfloat16ToFloat32(bits, new Float64Array(2) as never), TypeError);
  assert.throws(
    () => bfloat16ToFloat32(bits, new Float32Array(1)),
    /RangeError.*room for 2 elements/,
  );
});
