// SPDX-License-Identifier: Apache-2.0
//
// What memory tells caches: an object that is in use no more (onceIdle), memory that was given back
// (onFree).

import assert from "node:assert/strict";
import { test } from "node:test";
import { BufferAllocator } from "../src/memory/buffer_allocator.ts";
import { MixedMemoryAllocator } from "../src/memory/mixed_allocator.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { shmError } from "./support/assertions.ts";
import { withFakes } from "./support/fake_segment.ts";
import { withoutLeaks } from "./support/leaks.ts";

test(
  "onceIdle() tells once, when the last of references, pins and transfers has ended",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8192));
    const obj = pool.allocate(8);
    obj.refCountUp();
    obj.pin();
    const done = obj.hold("test");
    let told = 0;
    obj.onceIdle(() => told++);
    obj.onceIdle(() => {
      assert.ok(obj.canEvict);
      told++;
    });
    obj.refCountDown();
    obj.unpin();
    assert.equal(told, 0);
    done();
    assert.equal(told, 2);
    obj.pin();
    obj.unpin();
    done();
    assert.equal(told, 2);
    obj.refCountDown();
    assert.throws(() => obj.onceIdle(() => {}), shmError("EFREED"));
  }),
);

test(
  "onceIdle() tells of an object that was freed, too",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8192));
    const obj = pool.allocate(8);
    let valid: boolean | null = null;
    obj.onceIdle(() => valid = obj.valid);
    obj.refCountDown();
    assert.equal(valid, false);
  }),
);

test(
  "a listener of onceIdle() may release the object, or wait again",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8192));
    const obj = pool.allocate(8);
    obj.refCountUp();
    const wait = () => obj.onceIdle(() => obj.refCountDown());
    obj.onceIdle(wait);
    obj.refCountDown();
    assert.ok(obj.valid);
    obj.pin();
    obj.unpin();
    assert.equal(obj.valid, false);
    pool.memcheck();
  }),
);

test(
  "onFree() tells of each object whose memory can be used again, until it is ended",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8192));
    const free: number[] = [];
    const stop = pool.onFree(() => free.push(pool.stats.freeBytes));
    const [a, b] = pool.tryBatchedAllocate(8, 2)!;
    a!.refCountDown();
    b!.refCountUp();
    b!.refCountDown();
    assert.deepEqual(free, [4096]);
    stop();
    stop();
    b!.refCountDown();
    assert.deepEqual(free, [4096]);
  }),
);

test("onFree() of a MixedMemoryAllocator is its pool's", () =>
  withoutLeaks(() => {
    using mixed = MixedMemoryAllocator.createSync({ sizeBytes: 8192, pin: "none" });
    let told = 0;
    mixed.onFree(() => told++);
    mixed.allocate({ shape: [8], dtype: "uint8", format: "BINARY_BUFFER" }).refCountDown();
    assert.equal(told, 0);
    mixed.allocate(8).refCountDown();
    assert.equal(told, 1);
  }));

test("onFree() of a BufferAllocator tells likewise", () => {
  const buffers = new BufferAllocator();
  let told = 0;
  buffers.onFree(() => told++);
  const obj = buffers.allocate({ shape: [8], dtype: "uint8" });
  assert.equal(told, 0);
  obj.refCountDown();
  assert.equal(told, 1);
});
