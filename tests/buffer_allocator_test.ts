// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { BufferAllocator } from "../src/memory/buffer_allocator.ts";
import { BytesBufferMemoryObj, TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { shmError } from "./support/assertions.ts";
import { collectGarbage } from "./support/gc.ts";

test("allocate() makes cleared bytes outside any segment", () => {
  const allocator = new BufferAllocator();
  using obj = allocator.allocate(100);
  assert.ok(obj instanceof BytesBufferMemoryObj);
  assert.ok(!((obj as unknown) instanceof TensorMemoryObj));
  assert.equal(obj.format, "BINARY_BUFFER");
  assert.equal(obj.bytes.length, 100);
  assert.ok(obj.bytes.every((byte) => byte === 0));
  assert.deepEqual(obj.shape, [100]);
  assert.equal(obj.dtype, "uint8");
  assert.equal(obj.numTokens, null);
  assert.equal(obj.metadata.address, 0);
  using padded = allocator.allocate({ shape: [3, 0, 0, 0] });
  assert.equal(padded.byteLength, 3);
});

test("objects follow the same rules as those of a pool", () => {
  const allocator = new BufferAllocator();
  const obj = allocator.allocate(10);
  const { bytes } = obj;
  bytes[3] = 9;
  obj.refCountUp();
  obj.refCountDown();
  assert.equal(bytes[3], 9);
  const done = obj.hold("put");
  assert.throws(() => obj.refCountDown(), shmError("EBUSY", /put/));
  done();
  obj.truncateBytes(4);
  assert.equal(obj.bytes.length, 4);
  obj.refCountDown();
  assert.equal(bytes.length, 0);
  assert.equal(bytes[3], undefined);
  assert.throws(() => obj.bytes, shmError("EFREED"));
  assert.throws(() => allocator.free(obj), shmError("EFREED"));
});

test("stats and memcheck() follow every object", () => {
  const allocator = new BufferAllocator();
  const objs = allocator.tryBatchedAllocate(1000, 3)!;
  assert.equal(allocator.memcheck().usedBytes, 3000);
  allocator.batchedFree(objs.slice(1));
  allocator.free(objs[0]!);
  const { liveObjects, usedBytes, highWaterBytes, allocations } = allocator.memcheck();
  assert.deepEqual([liveObjects, usedBytes, highWaterBytes, allocations], [0, 0, 3000, 3]);
  assert.deepEqual(allocator.leakReport().objects, []);
});

test("what no process can have is null, or ENOMEM with the size", () => {
  const allocator = new BufferAllocator();
  assert.equal(allocator.tryAllocate(2 ** 52), null);
  assert.throws(() => allocator.allocate(2 ** 52), shmError("ENOMEM", /4503599627370496/));
  assert.equal(allocator.tryBatchedAllocate(2 ** 52, 2), null);
  assert.equal(allocator.memcheck().liveObjects, 0);
  assert.equal(allocator.stats.attemptsWithoutRoom, 3);
});

test("allocate() refuses other formats and wrong sizes", () => {
  const allocator = new BufferAllocator();
  assert.throws(
    () => allocator.tryAllocate({ shape: [2, 1, 1, 1], dtype: "half", format: "KV_2LTD" }),
    /TypeError.*not KV_2LTD/,
  );
  assert.throws(
    () => allocator.tryAllocate({ shape: [5], format: "BINARY" }),
    /TypeError.*not BINARY/,
  );
  for (const bad of [0, -1, 1.5, NaN]) assert.throws(() => allocator.tryAllocate(bad), RangeError);
  assert.throws(() => allocator.tryAllocate({ shape: 5 as never }), TypeError);
  assert.throws(() => allocator.tryBatchedAllocate(5, 0), RangeError);
});

test("free() refuses another allocator's objects, shared ones, and lists with doubles", () => {
  const [one, other] = [new BufferAllocator(), new BufferAllocator()];
  using obj = one.allocate(5);
  assert.throws(() => other.free(obj), shmError("EINVAL", /another allocator/));
  assert.throws(() => one.batchedFree([obj, obj]), shmError("EINVAL", /twice/));
  obj.refCountUp();
  assert.throws(() => one.free(obj), shmError("EBUSY"));
  obj.refCountDown();
  assert.throws(() => one.free(null as never), TypeError);
});

test("a lost object is counted and leaves the account", { timeout: 60_000 }, async () => {
  const allocator = new BufferAllocator();
  (() => void allocator.allocate(1 << 16))();
  await collectGarbage(() => allocator.stats.leakedObjects === 1);
  assert.equal(allocator.memcheck().usedBytes, 0);
});
