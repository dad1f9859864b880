// SPDX-License-Identifier: Apache-2.0
//
// The life of a memory object: references, pins, operations in flight, views, truncation, loss.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import type { MemoryObj } from "../src/memory/memory_obj.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import type { AllocatorOptions } from "../src/memory/pool_allocator.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { LIMITS } from "../src/memory/windows.ts";
import { shmError } from "./support/assertions.ts";
import { collectGarbage } from "./support/gc.ts";
import { withoutLeaks } from "./support/leaks.ts";

const LONG = { timeout: 60_000 };
const SHAPE = [2, 2, 16, 64] as const;
const POOL_BYTES = 1 << 20;

/** A test with a pool of 1 MiB around it, whose books must add up at the end. */
function poolTest(
  name: string,
  body: (pool: TensorMemoryAllocator, segment: ShmSegment) => void | Promise<void>,
  options: AllocatorOptions = {},
): void {
  test(name, { timeout: 60_000 }, () =>
    withoutLeaks(async () => {
      await using segment = await ShmSegment.create({ sizeBytes: POOL_BYTES, pin: "none" });
      const pool = new TensorMemoryAllocator(segment, options);
      await body(pool, segment);
      pool.memcheck();
    }));
}

poolTest("a memory object says what it is", (pool, segment) => {
  pool.allocate(4096);
  using obj = pool.allocate({ shape: SHAPE, dtype: "bfloat16" });
  assert.deepEqual(obj.metadata, {
    shape: [2, 2, 16, 64],
    dtype: "bfloat16",
    shapes: [[2, 2, 16, 64]],
    dtypes: ["bfloat16"],
    format: "KV_2LTD",
    address: 4096,
    physicalSizeBytes: 8192,
    refCount: 1,
    pinCount: 0,
  });
  assert.equal(obj.byteLength, 8192);
  assert.equal(obj.numTokens, 16);
  assert.equal(obj.offset, 4096);
  assert.equal(obj.segment, segment);
  assert.equal(obj.dataPointer, segment.address + 4096n);
  assert.equal(obj.allocator, pool);
  assert.ok(obj.valid && obj.canEvict && !obj.isPinned);
});

poolTest("console.log() shows an object in one line, also a freed one", (pool) => {
  const tensor = '{ shape: [2,2,16,64], dtype: "bfloat16", format: "KV_2LTD", byteLength: 8192';
  const obj = pool.allocate({ shape: SHAPE, dtype: "bfloat16" });
  assert.equal(
    inspect(obj),
    `TensorMemoryObj ${tensor}, offset: 0, refCount: 1, pinCount: 0 }`,
  );
  assert.match(inspect({ obj }), /obj: TensorMemoryObj \{ shape/);
  const end = obj.hold("put a");
  assert.match(inspect(obj), /, inFlight: 1 \}$/);
  end();
  obj.refCountDown();
  assert.equal(inspect(obj), `TensorMemoryObj ${tensor.replace("{", "{ freed,")}, offset: 0 }`);
  using two = pool.allocate({ shape: [[2, 1, 4, 2], [2, 1, 4, 4]], dtype: ["half", "float"] });
  assert.match(inspect(two), /shapes: \[\[2,1,4,2\],\[2,1,4,4\]\], dtypes: \["half","float"\]/);
});

poolTest("bytes are the segment's memory, not a copy", (pool, segment) => {
  pool.allocate(1);
  using obj = pool.allocate(100);
  assert.equal(obj.bytes.length, 100, "the logical size");
  assert.equal(obj.bytes, obj.bytes, "the same array each time");
  obj.bytes.fill(7);
  assert.deepEqual([...segment.bytes(4095, 3)], [0, 7, 7]);
  segment.bytes(4096, 1)[0] = 9;
  assert.equal(obj.bytes[0], 9);
});

poolTest("tensor() is a typed array over the same memory", (pool) => {
  using obj = pool.allocate({ shape: SHAPE, dtype: "float" });
  const numbers = obj.tensor(0, "float");
  assert.ok(numbers instanceof Float32Array);
  assert.equal(numbers.length, 2 * 2 * 16 * 64);
  numbers[1] = 1;
  assert.deepEqual([...obj.bytes.subarray(4, 8)], [0, 0, 0x80, 0x3f]);
  assert.throws(() => obj.tensor(0, "half"), /TypeError.*tensor 0 is float, not "half"/);
  assert.throws(() => obj.tensor(1), /RangeError.*index/);
  assert.throws(() => obj.tensor(-1), RangeError);
  assert.throws(() => obj.tensor(0.5), RangeError);
});

poolTest("an object of several tensors has each of them", (pool) => {
  using obj = pool.allocate({ shape: [[2, 1, 4, 2], [2, 1, 4, 4]], dtype: ["half", "double"] });
  assert.equal(obj.byteLength, 32 + 256);
  obj.tensor(0, "half").fill(1);
  obj.tensor(1, "double").fill(-2);
  assert.equal(obj.tensor(1).length, 32);
  assert.deepEqual([...obj.tensor(0, "half")], new Array(16).fill(1));
  assert.equal(obj.tensorBytes(1).byteLength, 256);
  assert.equal(obj.tensorBytes(1).byteOffset - obj.bytes.byteOffset, 32);
  assert.equal(obj.tensorBytes(0).byteLength, 32);
});

poolTest("a tensor that is not aligned has bytes but no typed array", (pool) => {
  using obj = pool.allocate({
    shape: [[1, 1, 3, 1], [1, 1, 3, 1]],
    dtype: ["uint8", "float"],
    format: "KV_MLA_FMT",
  });
  assert.throws(() => obj.tensor(1), RangeError);
  assert.equal(obj.tensorBytes(1).byteLength, 12);
});

poolTest("freeing revokes every view: length 0, reads give undefined", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "float" });
  const { bytes } = obj;
  const numbers = obj.tensor(0, "float");
  const part = bytes.subarray(8, 16);
  bytes.fill(255);
  obj.refCountDown();
  for (const view of [bytes, numbers, part]) {
    assert.equal(view.length, 0);
    assert.equal(view[0], undefined);
    view[0] = 1;
    assert.equal(view[0], undefined);
  }
  using next = pool.allocate({ shape: SHAPE, dtype: "float" });
  assert.equal(next.offset, 0, "the same memory again");
  assert.equal(bytes.length, 0);
});

poolTest("methods that need the memory say EFREED after the object is freed", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  obj.refCountDown();
  assert.equal(obj.valid, false);
  assert.equal(obj.canEvict, false);
  const uses: [string, () => unknown][] = [
    ["bytes", () => obj.bytes],
    ["tensor", () => obj.tensor()],
    ["tensorBytes", () => obj.tensorBytes()],
    ["hold", () => obj.hold("test")],
    ["refCountUp", () => obj.refCountUp()],
    ["refCountDown", () => obj.refCountDown()],
    ["pin", () => obj.pin()],
    ["unpin", () => obj.unpin()],
    ["truncateTokens", () => obj.truncateTokens(1)],
    ["truncateBytes", () => obj.truncateBytes(1)],
    ["dispose", () => obj[Symbol.dispose]()],
    ["free", () => pool.free(obj)],
    ["batchedFree", () => pool.batchedFree([obj])],
  ];
  for (const [name, use] of uses) {
    assert.throws(use, shmError("EFREED", /KV_2LTD \[2, 2, 16, 64\] half at 0 was freed/), name);
  }
  assert.deepEqual(obj.shape, SHAPE, "what it was can still be asked");
  assert.equal(obj.refCount, 0);
});

poolTest("the last reference frees", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  obj.refCountUp();
  obj.refCountUp();
  assert.equal(obj.refCount, 3);
  assert.equal(obj.canEvict, false);
  obj.refCountDown();
  obj.refCountDown();
  assert.ok(obj.valid);
  assert.equal(pool.stats.liveObjects, 1);
  obj.refCountDown();
  assert.equal(pool.stats.liveObjects, 0);
});

poolTest("using releases the reference of the allocation", (pool) => {
  let kept: MemoryObj;
  {
    using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
    using other = pool.allocate({ shape: SHAPE, dtype: "half" });
    kept = obj;
    kept.refCountUp();
    assert.ok(other.valid);
  }
  assert.equal(pool.stats.liveObjects, 1);
  kept.refCountDown();
  assert.equal(pool.stats.liveObjects, 0);
});

poolTest("a pinned object outlives its references until it is unpinned", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  obj.pin();
  obj.pin();
  assert.ok(obj.isPinned && !obj.canEvict);
  obj.refCountDown();
  assert.ok(obj.valid);
  assert.throws(() => obj.refCountDown(), shmError("EINVAL", /no references left, only pins/));
  obj.unpin();
  assert.ok(obj.valid);
  obj.unpin();
  assert.equal(obj.valid, false);
  assert.equal(pool.stats.liveObjects, 0);
});

poolTest("unpin() of what is not pinned is an error that changes nothing", (pool) => {
  using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  assert.throws(() => obj.unpin(), shmError("EINVAL", /is not pinned/));
  assert.equal(obj.pinCount, 0);
  assert.equal(obj.refCount, 1);
});

poolTest("freeing with I/O in flight is EBUSY, names the operation and changes nothing", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  const done = obj.hold("put llama@1@0@ff@half");
  const alsoDone = obj.hold("checksum");
  assert.equal(obj.inFlight, 2);
  assert.equal(obj.canEvict, false);
  obj.bytes[0] = 1;
  const busy = shmError("EBUSY", /2 operations in flight: put llama@1@0@ff@half, checksum/);
  assert.throws(() => obj.refCountDown(), busy);
  assert.throws(() => pool.free(obj), busy);
  assert.throws(() => pool.batchedFree([obj]), busy);
  obj.pin();
  obj.refCountDown();
  assert.throws(() => obj.unpin(), busy);
  assert.equal(obj.bytes[0], 1, "the views are still there");
  done();
  done();
  assert.equal(obj.inFlight, 1, "releasing twice counts once");
  alsoDone();
  obj.unpin();
  assert.equal(obj.valid, false);
});

poolTest("the pool cannot be freed with I/O in flight on an object", async (pool, segment) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  const done = obj.hold("get");
  await assert.rejects(segment.free(), shmError("EBUSY", /get/));
  assert.equal(obj.bytes.length, obj.byteLength);
  done();
  assert.throws(() => obj.hold(5 as never), /TypeError.*reason/);
  obj.refCountDown();
});

poolTest(
  "when its pool is closed an object is invalid, and releasing it is no error",
  async (pool, segment) => {
    const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
    const { bytes } = obj;
    obj.pin();
    await segment.free();
    assert.equal(obj.valid, false);
    assert.equal(bytes.length, 0);
    assert.throws(() => obj.bytes, shmError("EFREED", /pool was closed/));
    assert.throws(() => obj.hold("x"), shmError("EFREED"));
    assert.throws(
      () => pool.tryAllocate({ shape: SHAPE, dtype: "half" }),
      shmError("EBADF", /pool is closed/),
    );
    obj.unpin();
    obj.refCountDown();
  },
);

poolTest("truncateTokens() gives a partial chunk its true shape", (pool) => {
  using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  const full = obj.bytes;
  assert.equal(obj.truncateTokens(3), obj);
  assert.deepEqual(obj.shape, [2, 2, 3, 64]);
  assert.equal(obj.numTokens, 3);
  assert.equal(obj.byteLength, 2 * 2 * 3 * 64 * 2);
  assert.equal(obj.bytes.length, obj.byteLength);
  assert.equal(obj.bytes.buffer, full.buffer);
  assert.equal(obj.tensor().length, 2 * 2 * 3 * 64);
  assert.equal(obj.physicalSizeBytes, 8192);
  obj.truncateBytes(obj.byteLength / 3);
  assert.equal(obj.numTokens, 1);
});

poolTest("truncating refuses to grow, and sizes that are no whole tokens", (pool) => {
  using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  assert.throws(() => obj.truncateTokens(17), /RangeError.*more than the object's 8192/);
  for (const bad of [0, -1, 1.5, NaN]) assert.throws(() => obj.truncateTokens(bad), RangeError);
  assert.throws(() => obj.truncateBytes(511), /RangeError.*no multiple of 512/);
  assert.throws(() => obj.truncateBytes(0), RangeError);
  assert.equal(obj.numTokens, 16);
  using binary = pool.allocate(1000);
  assert.throws(() => binary.truncateTokens(1), TypeError);
  assert.deepEqual(binary.truncateBytes(17).shape, [17]);
  assert.throws(() => binary.truncateBytes(18), RangeError);
  assert.equal(binary.bytes.length, 17);
});

poolTest("a buffer that was transferred away reads zeros once the object is freed", (pool) => {
  const obj = pool.allocate(4096);
  const elsewhere = new Uint8Array(obj.bytes.buffer.transfer());
  elsewhere[0] = 42;
  assert.throws(() => obj.bytes, shmError("EMOVED", /transferred/));
  assert.equal(elsewhere[0], 42);
  obj.refCountDown();
  assert.equal(pool.memcheck().quarantinedBytes, 0);
  using next = pool.allocate(4096);
  assert.equal(next.offset, obj.offset);
  next.bytes.fill(255);
  assert.ok(elsewhere.every((byte) => byte === 0), "not the next owner's");
  elsewhere.fill(1);
  assert.ok(next.bytes.every((byte) => byte === 255));
});

test(
  "beyond the number of windows, what escapes is quarantined with its memory",
  LONG,
  () =>
    withoutLeaks(async () => {
      const sizeBytes = (LIMITS.maxWindows + 8) * 4096;
      await using segment = await ShmSegment.create({ sizeBytes, pin: "none" });
      const pool = new TensorMemoryAllocator(segment);
      const layout = TensorLayout.of(4096);
      const viewed = pool.tryBatchedAllocate(layout, LIMITS.maxWindows)!;
      for (const obj of viewed) obj.bytes[0] = 1;
      const obj = pool.tryAllocate(layout)!;
      const elsewhere = new Uint8Array(obj.bytes.buffer.transfer());
      elsewhere[0] = 42;
      obj.refCountDown();
      const { quarantinedBytes, quarantinedObjects } = pool.memcheck();
      assert.deepEqual([quarantinedBytes, quarantinedObjects], [4096, 1]);
      const rest = pool.tryBatchedAllocate(layout, 7)!;
      assert.equal(pool.tryAllocate(layout), null, "never handed out again");
      for (const next of rest) next.bytes.fill(255);
      assert.equal(elsewhere[0], 42);
      const [escaped] = pool.leakReport().objects;
      assert.equal(escaped?.state, "escaped");
      assert.equal(escaped?.offset, obj.offset);
      pool.batchedFree([...rest, ...viewed]);
      pool.memcheck();
    }),
);

poolTest("zeroOnFree clears all of the chunk, viewed or not", (pool, segment) => {
  const seen = pool.allocate(5000);
  const unseen = pool.allocate(5000);
  segment.bytes(0, 16384).fill(3);
  seen.bytes[0] = 4;
  seen.truncateBytes(1);
  seen.refCountDown();
  assert.ok(segment.bytes(0, 8192).every((byte) => byte === 0), "padding and cut-off part too");
  assert.ok(segment.bytes(8192, 8192).every((byte) => byte === 3), "and nothing else");
  unseen.refCountDown();
  assert.ok(segment.bytes(0, 16384).every((byte) => byte === 0));
}, { zeroOnFree: true });

poolTest("without zeroOnFree the memory keeps what was in it", (pool, segment) => {
  const obj = pool.allocate(16);
  obj.bytes.fill(3);
  obj.refCountDown();
  assert.equal(segment.bytes(0, 1)[0], 3);
});

poolTest("onFree() is called each time memory was given back, until it is ended", (pool) => {
  let calls = 0;
  const end = pool.onFree(() => calls++);
  const [a, b, c] = pool.tryBatchedAllocate({ shape: SHAPE, dtype: "half" }, 3)!;
  a!.refCountUp();
  a!.refCountDown();
  assert.equal(calls, 0);
  a!.refCountDown();
  assert.equal(calls, 1);
  pool.free(b!);
  assert.equal(calls, 2);
  end();
  c!.refCountDown();
  assert.equal(calls, 2);
});

poolTest("onceIdle() is called once, when the object can be evicted or was freed", (pool) => {
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  let calls = 0;
  obj.refCountUp();
  obj.pin();
  const done = obj.hold("get");
  obj.onceIdle(() => calls++);
  obj.refCountDown();
  obj.unpin();
  assert.equal(calls, 0);
  done();
  assert.equal(calls, 1);
  obj.refCountUp();
  obj.refCountDown();
  assert.equal(calls, 1);
  obj.onceIdle(() => calls++);
  obj.refCountDown();
  assert.equal(calls, 2);
});

poolTest("leakReport() names where a live object was allocated", (pool) => {
  function allocateHere() {
    return pool.allocate({ shape: SHAPE, dtype: "half" });
  }
  using obj = allocateHere();
  obj.pin();
  const done = obj.hold("put");
  const report = pool.leakReport();
  assert.equal(report.liveObjects, 1);
  assert.equal(report.liveBytes, 8192);
  const [live] = report.objects;
  assert.equal(live?.state, "live");
  assert.deepEqual([live?.refCount, live?.pinCount, live?.inFlight], [1, 1, ["put"]]);
  assert.match(live?.allocatedAt ?? "", /memory_obj_test\.ts/);
  assert.doesNotMatch(live?.allocatedAt?.split("\n")[0] ?? "", /allocator/);
  assert.ok(live?.ageMs !== null && live!.ageMs >= 0);
  done();
  obj.unpin();
}, { trackAllocations: true });

poolTest("leakReport() is empty when everything was released", (pool) => {
  pool.batchedFree(pool.tryBatchedAllocate({ shape: SHAPE, dtype: "half" }, 3)!);
  assert.deepEqual(pool.leakReport(), {
    liveObjects: 0,
    liveBytes: 0,
    leakedObjects: 0,
    recoveredObjects: 0,
    objects: [],
  });
}, { trackAllocations: true });

poolTest("an object that is lost without a view gives its memory back", async (pool) => {
  (() => void pool.allocate({ shape: SHAPE, dtype: "half" }))();
  await collectGarbage(() => pool.stats.leakedObjects === 1);
  const { liveObjects, usedBytes, quarantinedBytes, freeBytes } = pool.memcheck();
  assert.deepEqual([liveObjects, usedBytes, quarantinedBytes, freeBytes], [0, 0, 0, POOL_BYTES]);
  assert.equal(pool.leakReport().recoveredObjects, 1);
});

poolTest("an object that is lost with a view is set aside: the array stays good", async (pool) => {
  const bytes = (() => pool.allocate(4096).bytes)();
  bytes.fill(9);
  await collectGarbage(() => pool.stats.leakedObjects === 1);
  assert.equal(pool.memcheck().quarantinedBytes, 4096);
  assert.equal(pool.leakReport().objects[0]?.state, "lost");
  assert.match(pool.leakReport().objects[0]?.allocatedAt ?? "", /memory_obj_test\.ts/);
  using other = pool.allocate(4096);
  other.bytes.fill(1);
  assert.equal(bytes[0], 9);
  assert.equal(pool.reclaimLost(), 4096);
  assert.equal(bytes.length, 0, "taking it back revokes the array");
  assert.equal(pool.reclaimLost(), 0);
  assert.equal(pool.memcheck().quarantinedBytes, 0);
}, { trackAllocations: true });

poolTest("a lost object whose buffer was transferred can be reclaimed", async (pool) => {
  const elsewhere = (() => {
    const { buffer } = pool.allocate(4096).bytes;
    return new Uint8Array(buffer.transfer());
  })();
  elsewhere[0] = 1;
  await collectGarbage(() => pool.stats.leakedObjects === 1);
  assert.equal(pool.memcheck().quarantinedBytes, 4096);
  assert.equal(elsewhere[0], 1);
  assert.equal(pool.reclaimLost(), 4096);
  assert.equal(pool.memcheck().quarantinedBytes, 0);
  assert.equal(elsewhere[0], 0);
});

poolTest("an object in flight is not lost, although only the operation knows it", async (pool) => {
  const done = (() => pool.allocate({ shape: SHAPE, dtype: "half" }).hold("put"))();
  (() => void pool.allocate(1))();
  await collectGarbage(() => pool.stats.leakedObjects === 1);
  assert.equal(pool.stats.liveObjects, 1);
  done();
});

poolTest("without detectLeaks a lost object stays allocated", async (pool, segment) => {
  (() => void pool.allocate({ shape: SHAPE, dtype: "half" }))();
  const detecting = new TensorMemoryAllocator(segment);
  (() => void detecting.allocate({ shape: SHAPE, dtype: "half" }))();
  await collectGarbage(() => detecting.stats.leakedObjects === 1);
  assert.equal(pool.stats.leakedObjects, 0);
  assert.equal(pool.memcheck().liveObjects, 1);
}, { detectLeaks: false });

poolTest("use() holds the object until the work has ended, however it ends", async (pool) => {
  const obj = pool.allocate(4096);
  const { promise, resolve } = Promise.withResolvers<number>();
  const using = obj.use((bytes) => (bytes.fill(3), promise), "read page");
  assert.equal(obj.inFlight, 1);
  assert.throws(() => obj.refCountDown(), shmError("EBUSY", /read page/));
  resolve(5);
  assert.equal(await using, 5);
  await assert.rejects(obj.use(() => Promise.reject(new Error("no"))), /no/);
  await assert.rejects(
    obj.use(() => {
      throw new Error("at once");
    }),
    /at once/,
  );
  assert.equal(obj.inFlight, 0);
  assert.equal(obj.bytes[0], 3);
  obj.refCountDown();
  await assert.rejects(obj.use(() => 0), shmError("EFREED"));
});
