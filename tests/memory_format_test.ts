// SPDX-License-Identifier: Apache-2.0
//
// Formats, and the layouts that shapes, dtypes and formats make together.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  describeShapeOf,
  MEMORY_FORMATS,
  MemoryFormat,
  parseMemoryFormat,
  tokenDimension,
} from "../src/memory/memory_format.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";

test("parseMemoryFormat() takes names and LMCache's numbers", () => {
  MEMORY_FORMATS.forEach((format, number) => {
    assert.equal(parseMemoryFormat(format), format);
    assert.equal(parseMemoryFormat(number), format);
  });
  assert.equal(parseMemoryFormat(6), MemoryFormat.KV_MLA_FMT);
  for (const bad of ["kv_2ltd", "", 9, -1, 1.5, NaN, null, undefined, "toString"]) {
    assert.throws(
      () => parseMemoryFormat(bad),
      /TypeError.*memory format must be one of UNDEFINED/,
    );
  }
});

test("tokenDimension() follows the documented shapes", () => {
  for (const format of MEMORY_FORMATS) {
    const dimensions = describeShapeOf(format).slice(1, -1).split(", ");
    const index = dimensions.indexOf("num_tokens");
    assert.equal(tokenDimension(format), index < 0 ? null : index, format);
  }
  assert.equal(tokenDimension(MemoryFormat.KV_2LTD), 2);
  assert.equal(tokenDimension(MemoryFormat.KV_T2D), 0);
  assert.equal(tokenDimension(MemoryFormat.KV_2TD), 1);
  assert.equal(tokenDimension(MemoryFormat.KV_MLA_FMT), 2);
  assert.equal(tokenDimension(MemoryFormat.BINARY), null);
});

test("TensorLayout.of() computes sizes and tokens", () => {
  const chunk = TensorLayout.of({ shape: [2, 32, 256, 1024], dtype: "bfloat16" });
  assert.equal(chunk.format, MemoryFormat.KV_2LTD);
  assert.equal(chunk.byteLength, 2 * 32 * 256 * 1024 * 2);
  assert.equal(chunk.numTokens, 256);
  assert.equal(chunk.tokenBytes, 131072);
  assert.deepEqual(chunk.shape, [2, 32, 256, 1024]);
  assert.equal(String(chunk), "KV_2LTD [2, 32, 256, 1024] bfloat16");
  const latent = TensorLayout.of({
    shape: [1, 61, 256, 576],
    dtype: "torch.bfloat16" as never,
    format: "KV_MLA_FMT",
  });
  assert.equal(latent.byteLength, 61 * 256 * 576 * 2);
  assert.equal(
    TensorLayout.of({ shape: [256, 2, 64], dtype: "half", format: "KV_T2D" }).numTokens,
    256,
  );
  assert.equal(
    TensorLayout.of({ shape: [2, 256, 64], dtype: "half", format: "KV_2TD" }).numTokens,
    256,
  );
});

test("TensorLayout.of() puts several tensors one after the other without gaps", () => {
  const both = TensorLayout.of({ shape: [[2, 3, 16, 8], [2, 1, 16, 5]], dtype: ["half", "float"] });
  assert.deepEqual(both.offsets, [0, 2 * 3 * 16 * 8 * 2]);
  assert.equal(both.byteLength, 1536 + 640);
  assert.equal(both.tokenBytes, (1536 + 640) / 16);
  assert.deepEqual(both.withTokens(4).shapes, [[2, 3, 4, 8], [2, 1, 4, 5]]);
  assert.equal(
    TensorLayout.of({ shape: [[2, 3, 16, 8], [2, 1, 16, 5]], dtype: "half" }).dtypes.length,
    2,
  );
});

test("TensorLayout.of() knows binary objects in both spellings", () => {
  assert.equal(TensorLayout.of({ shape: [100, 0, 0, 0], format: "BINARY_BUFFER" }).byteLength, 100);
  assert.deepEqual(TensorLayout.of(100).shape, [100]);
  assert.equal(TensorLayout.of(7).numTokens, null);
  assert.equal(TensorLayout.of(7).dtype, "uint8");
});

test("TensorLayout.of() refuses wrong shapes with the value and what is expected", () => {
  const of = (shape: unknown, dtype: unknown = "half", format: unknown = "KV_2LTD") => () =>
    TensorLayout.of({ shape: shape as never, dtype: dtype as never, format: format as never });
  assert.throws(of([3, 32, 256, 64]), /RangeError.*\[2, num_layers.*got \[3, 32, 256, 64\]/);
  assert.throws(of([2, 32, 256]), /RangeError/);
  assert.throws(of([2, 32, 0, 64]), /RangeError.*shape\[2\].*got 0/);
  assert.throws(of([2, 32, -1, 64]), /RangeError.*got -1/);
  assert.throws(of([2, 32, 1.5, 64]), /RangeError.*got 1.5/);
  assert.throws(of([2, 32, NaN, 64]), /RangeError.*got NaN/);
  assert.throws(of([2, 32, "256", 64]), /TypeError.*shape\[2\].*"256"/);
  assert.throws(of([2, 32, 256n, 64]), /TypeError/);
  assert.throws(of([]), /TypeError.*shape must be/);
  assert.throws(of(undefined), /TypeError.*shape must be an array/);
  assert.throws(of(256), /TypeError.*got 256/);
  assert.throws(of([[2, 1, 1, 1], 5]), /TypeError/);
  assert.throws(of([2, 32, 2 ** 40, 2 ** 40]), /RangeError.*2\^53/);
  assert.throws(of([2, 2, 2, 2], "bf16"), /TypeError.*dtype must be one of/);
  assert.throws(of([2, 2, 2, 2], null), /TypeError.*dtype/);
  assert.throws(of([2, 2, 2, 2], ["half", "half"]), /TypeError.*1 shapes need 1 dtypes, got 2/);
  assert.throws(of([2, 2, 2, 2], "half", "KV_2LTDX"), /TypeError.*memory format/);
  assert.throws(of([[1], [2]], null, "BINARY"), /TypeError.*one run of bytes/);
});

test("TensorLayout.of() is not changed by changing what it was made from", () => {
  const shape = [2, 4, 8, 16];
  const layout = TensorLayout.of({ shape, dtype: "half" });
  shape[2] = 9;
  assert.deepEqual(layout.shape, [2, 4, 8, 16]);
  assert.equal(TensorLayout.of({ shape, dtype: "half" }).numTokens, 9);
  assert.throws(() => (layout.shape as number[]).push(1), TypeError);
  assert.equal(
    TensorLayout.of({ shape: [2, 4, 8, 16], dtype: "half" }),
    layout,
    "equal layouts are shared",
  );
});

test("withByteLength() gives the shape of a partial chunk from its size", () => {
  const chunk = TensorLayout.of({ shape: [2, 4, 256, 16], dtype: "half" });
  assert.deepEqual(chunk.withByteLength(chunk.tokenBytes! * 10).shape, [2, 4, 10, 16]);
  assert.equal(chunk.withByteLength(chunk.byteLength), chunk);
  assert.throws(() => chunk.withByteLength(100), /RangeError.*no multiple of 256/);
  assert.throws(() => chunk.withByteLength(0), RangeError);
  assert.deepEqual(TensorLayout.of(100).withByteLength(33).shape, [33]);
  const unknown = TensorLayout.of({ shape: [10, 3], dtype: "float", format: "UNDEFINED" });
  assert.equal(unknown.withByteLength(120), unknown);
  assert.throws(() => unknown.withByteLength(60), /TypeError.*no number of tokens/);
  const uneven = TensorLayout.of({ shape: [[2, 1, 8, 4], [2, 1, 9, 4]], dtype: "half" });
  assert.equal(uneven.tokenBytes, null);
  assert.throws(() => uneven.withTokens(3), TypeError);
});

test("withTokens() refuses what is no number of tokens", () => {
  const chunk = TensorLayout.of({ shape: [2, 4, 256, 16], dtype: "half" });
  for (const bad of [0, -1, 1.5, NaN, Infinity]) {
    assert.throws(() => chunk.withTokens(bad), RangeError, String(bad));
  }
  assert.throws(() => TensorLayout.of(5).withTokens(1), /TypeError.*BINARY \[5\]/);
});

test("equals() compares format, shapes and dtypes", () => {
  const chunk = TensorLayout.of({ shape: [2, 4, 256, 16], dtype: "half" });
  assert.ok(chunk.withTokens(7).withTokens(256).equals(chunk));
  assert.ok(!chunk.equals(TensorLayout.of({ shape: [2, 4, 256, 16], dtype: "bfloat16" })));
  assert.ok(!TensorLayout.of(5).equals(TensorLayout.of({ shape: [5], format: "BINARY_BUFFER" })));
});
