// SPDX-License-Identifier: Apache-2.0
//
// What is stored with a chunk, and whether what was found is the chunk that was asked for.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { DTYPES } from "../src/memory/dtype.ts";
import { MEMORY_FORMATS, type MemoryFormat } from "../src/memory/memory_format.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { checkChunk, layoutMetadata, metadataOf } from "../src/connector/chunk_metadata.ts";

const KV = TensorLayout.of({ shape: [2, 4, 8, 16], dtype: "bfloat16", format: "KV_2LTD" });
const SEVERAL = TensorLayout.of({
  shape: [[2, 1, 8, 64], [2, 3, 8, 16]],
  dtype: ["half", "uint8"],
  format: "KV_2LTD",
});

function faultOf(metadata: Record<string, string>, byteLength: number, wanted = KV): string {
  const { layout, fault } = checkChunk(metadata, byteLength, wanted);
  assert.equal(layout, null, `${layout}`);
  return fault!;
}

test("layoutMetadata() writes shape, dtype and format, and lists of them", () => {
  assert.deepEqual(layoutMetadata(KV), { shape: "2,4,8,16", dtype: "bfloat16", format: "KV_2LTD" });
  assert.deepEqual(layoutMetadata(SEVERAL), {
    shape: "2,1,8,64+2,3,8,16",
    dtype: "half+uint8",
    format: "KV_2LTD",
  });
  assert.deepEqual(layoutMetadata(TensorLayout.of(5)), {
    shape: "5",
    dtype: "uint8",
    format: "BINARY",
  });
  assert.equal(layoutMetadata(KV), layoutMetadata(KV), "written once");
});

test("layoutMetadata() of more tensors than a file can remember is nothing", () => {
  const many = TensorLayout.of({
    shape: Array.from({ length: 300 }, () => [2, 1, 8, 64]),
    dtype: Array.from({ length: 300 }, () => "half" as const),
    format: "KV_2LTD",
  });
  assert.deepEqual(layoutMetadata(many), {});
  assert.equal(checkChunk({}, many.byteLength, many).layout, many, "the length alone must do");
});

test("metadataOf() takes the layout of a memory object, which wins over what is said", () => {
  using segment = ShmSegment.createSync({ sizeBytes: 65_536, pin: "none" });
  const pool = new TensorMemoryAllocator(segment);
  using obj = pool.tryAllocate({ shape: [2, 4, 8, 16], dtype: "bfloat16", format: "KV_2LTD" })!;
  assert.deepEqual(metadataOf(obj), layoutMetadata(KV));
  assert.deepEqual(metadataOf(obj, { shape: "9", note: "mine" }), {
    ...layoutMetadata(KV),
    note: "mine",
  });
  obj.truncateTokens(3);
  assert.equal(metadataOf(obj)["shape"], "2,4,3,16");
  assert.deepEqual(metadataOf(segment.range(0, 10)), {});
  assert.deepEqual(metadataOf(segment.range(0, 10), { shape: "9" }), { shape: "9" });
});

test("checkChunk() accepts a full chunk, and a partial one with its true shape", () => {
  assert.equal(checkChunk(layoutMetadata(KV), KV.byteLength, KV).layout, KV);
  const part = KV.withTokens(3);
  const found = checkChunk(layoutMetadata(part), part.byteLength, KV);
  assert.deepEqual(found.layout?.shape, [2, 4, 3, 16]);
  const tensors = SEVERAL.withTokens(5);
  const several = checkChunk(layoutMetadata(tensors), tensors.byteLength, SEVERAL);
  assert.deepEqual(several.layout?.shapes, [[2, 1, 5, 64], [2, 3, 5, 16]]);
  const bytes = TensorLayout.of(1000);
  const fewer = checkChunk(layoutMetadata(TensorLayout.of(7)), 7, bytes);
  assert.equal(fewer.layout?.byteLength, 7);
});

test("checkChunk() infers from the length what nobody wrote down", () => {
  assert.equal(checkChunk({}, KV.byteLength, KV).layout, KV);
  assert.equal(checkChunk({ note: "x" }, KV.byteLength / 8, KV).layout?.numTokens, 1);
  assert.equal(checkChunk({ dtype: "bfloat16" }, KV.byteLength / 2, KV).layout?.numTokens, 4);
  assert.match(faultOf({}, KV.byteLength - 1), /no multiple of 256, the bytes of a token/);
  assert.match(faultOf({}, 0), /byteLength/);
});

test("checkChunk() says what is otherwise: format, dtype, shape, length", () => {
  const good = layoutMetadata(KV);
  const { byteLength } = KV;
  assert.match(faultOf({ ...good, format: "KV_2TD" }, byteLength), /format is KV_2TD, not KV_2LTD/);
  // As many bytes in as many tokens, and other numbers all the same.
  assert.match(faultOf({ ...good, dtype: "half" }, byteLength), /dtype is half, not bfloat16/);
  assert.match(faultOf({ ...good, shape: "2,8,8,8" }, byteLength), /it is .*\[2, 8, 8, 8\]/);
  assert.match(faultOf({ ...good, shape: "2,16,8,4" }, byteLength), /was asked for/);
  assert.match(
    faultOf({ ...good, shape: "2,4,7,16" }, byteLength),
    /\[2, 4, 7, 16\].* has 1792 bytes, and the object 2048/,
  );
  assert.match(faultOf({ ...good, shape: "2,4,9,16" }, 9 * 256), /it has 2304 bytes/);
  assert.match(faultOf({ ...good, shape: "2,4,8,16+1,1,1,1" }, byteLength), /2 tensors, not 1/);
  assert.match(faultOf({ ...good, dtype: "bfloat16+half" }, byteLength), /dtype/);
});

test("checkChunk() finds nothing in metadata that no layout could have", () => {
  const good = layoutMetadata(KV);
  for (const shape of ["", "x", "2,4,8", "2,4,-8,16", "2,4,8,16,", "0,0,0,0", "2,4,8,1e1", " 2"]) {
    assert.notEqual(faultOf({ ...good, shape }, KV.byteLength), "", shape);
  }
  const huge = { ...good, shape: "2,9999999999999,9999999999999,16" };
  assert.notEqual(faultOf(huge, KV.byteLength), "");
});

/** Shapes that the format can have, with up to 6 in each free dimension. */
function layouts(): fc.Arbitrary<TensorLayout> {
  const size = fc.integer({ min: 1, max: 6 });
  const shapeOf = (format: MemoryFormat) => {
    switch (format) {
      case "KV_2LTD":
        return fc.tuple(fc.constant(2), size, size, size);
      case "KV_T2D":
        return fc.tuple(size, fc.constant(2), size);
      case "KV_2TD":
        return fc.tuple(fc.constant(2), size, size);
      case "KV_MLA_FMT":
        return fc.tuple(fc.constant(1), size, size, size);
      case "EC_TD":
      case "HS_TD":
        return fc.tuple(size, size);
      case "BINARY":
      case "BINARY_BUFFER":
        return fc.tuple(size);
      default:
        return fc.array(size, { minLength: 1, maxLength: 5 });
    }
  };
  return fc.constantFrom(...MEMORY_FORMATS).chain((format) =>
    fc.tuple(
      shapeOf(format),
      fc.constantFrom(...DTYPES),
      fc.integer({ min: 1, max: format.startsWith("BINARY") ? 1 : 3 }),
    ).map(([shape, dtype, count]) => {
      const shapes = Array.from({ length: count }, () => shape as number[]);
      return TensorLayout.of({ shape: shapes, dtype: shapes.map(() => dtype), format });
    })
  );
}

test("what layoutMetadata() writes, checkChunk() takes back; other layouts it does not", () => {
  fc.assert(
    fc.property(layouts(), layouts(), (one, other) => {
      const metadata = layoutMetadata(one);
      const same = checkChunk(metadata, one.byteLength, one);
      assert.ok(same.layout?.equals(one), same.fault ?? "");
      const found = checkChunk(metadata, one.byteLength, other);
      if (found.layout !== null) {
        assert.ok(found.layout.equals(one), `${found.layout} for ${one}`);
        assert.ok(one.byteLength <= other.byteLength);
        assert.equal(one.format, other.format);
        assert.deepEqual(one.dtypes, other.dtypes);
      }
    }),
    { numRuns: 2000 },
  );
});
