// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { BytesBufferMemoryObj, type MemoryObj, TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { MixedMemoryAllocator } from "../src/memory/mixed_allocator.ts";
import { PagedTensorMemoryAllocator } from "../src/memory/paged_allocator.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";

const MIB = 2 ** 20;
const SHAPE = [2, 2, 16, 64] as const;

function leakTest(name: string, body: () => Promise<void>): void {
  test(name, { timeout: 60_000 }, () => withoutLeaks(body));
}

leakTest("create() with a name makes shared memory that others attach", async () => {
  const name = uniqueName("mixed");
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, name, pin: "none" });
  assert.equal(pool.name, `/${name}`);
  assert.equal(pool.sizeBytes, MIB);
  using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  assert.ok(obj instanceof TensorMemoryObj);
  await using other = await ShmSegment.attach({ name });
  obj.bytes.fill(5);
  assert.ok(other.bytes(obj.offset, obj.byteLength).every((byte) => byte === 5));
});

leakTest("create() without a name makes private memory", async () => {
  for (const name of [undefined, null]) {
    await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, name, pin: "none" });
    assert.equal(pool.name, null);
    assert.notEqual(pool.segment.fd, null, "that a worker can be given");
    using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
    obj.bytes[0] = 1;
  }
});

leakTest("createSync() does the same, blocking", async () => {
  const name = uniqueName("sync");
  using pool = MixedMemoryAllocator.createSync({ sizeBytes: MIB, name: `/${name}`, pin: "none" });
  assert.equal(pool.name, `/${name}`);
  assert.ok(existsSync(`/dev/shm/${name}`));
  await Promise.resolve();
});

leakTest("the format decides where an object lies", async () => {
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, pin: "none" });
  const shapes = [
    ["KV_2LTD", [2, 1, 4, 8]],
    ["KV_T2D", [4, 2, 8]],
    ["KV_2TD", [2, 4, 8]],
    ["KV_MLA_FMT", [1, 2, 4, 8]],
    ["EC_TD", [4, 8]],
    ["HS_TD", [4, 8]],
    ["BINARY", [100]],
  ] as const;
  for (const [format, shape] of shapes) {
    using obj = pool.allocate({ shape, dtype: "uint8", format });
    assert.ok(obj instanceof TensorMemoryObj, format);
    assert.equal(obj.format, format);
    assert.equal(obj.segment, pool.segment);
  }
  using buffer = pool.allocate({ shape: [100], format: "BINARY_BUFFER" });
  assert.ok(buffer instanceof BytesBufferMemoryObj);
  assert.equal(pool.bufferAllocator.stats.liveObjects, 1);
  assert.equal(pool.stats.liveObjects, 0);
  assert.throws(
    () => pool.tryAllocate({ shape: [4], dtype: "half", format: "UNDEFINED" }),
    /TypeError.*UNDEFINED/,
  );
  assert.throws(
    () => pool.allocate({ shape: [4], dtype: "half", format: "UNDEFINED" }),
    /TypeError.*UNDEFINED/,
  );
  assert.throws(
    () => pool.tryAllocate({ shape: SHAPE, dtype: "half", format: "KV_3" as never }),
    TypeError,
  );
});

leakTest("what is allocated for the pool is what a connector takes, by its type, too", async () => {
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, pin: "none" });
  const ranges: ShmRange[] = [
    pool.allocate(100),
    pool.allocate({ shape: [100], format: "BINARY" }),
    pool.allocate({ shape: SHAPE, dtype: "half" }),
    ...pool.batchedAllocate({ shape: [4, 8], dtype: "half", format: "HS_TD" }, 2),
  ];
  for (const range of ranges) assert.equal(range.segment, pool.segment);
  const buffer: BytesBufferMemoryObj = pool.allocate({ shape: [9], format: "BINARY_BUFFER" });
  assert.equal(buffer.byteLength, 9);
  const layout = TensorLayout.of({ shape: [9], format: "BINARY_BUFFER" });
  const either: MemoryObj = pool.allocate(layout);
  assert.ok(either instanceof BytesBufferMemoryObj);
});

leakTest("batches and free() go to the right allocator, all or none", async () => {
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, pin: "none" });
  const tensors = pool.tryBatchedAllocate({ shape: SHAPE, dtype: "half" }, 4)!;
  const buffers = pool.tryBatchedAllocate({ shape: [10], format: "BINARY_BUFFER" }, 4)!;
  tensors[2]!.pin();
  assert.throws(() => pool.batchedFree([...buffers, ...tensors]), shmError("EBUSY"));
  assert.equal(pool.stats.liveObjects + pool.bufferAllocator.stats.liveObjects, 8);
  tensors[2]!.unpin();
  pool.free(tensors[0]!);
  pool.batchedFree([...buffers, ...tensors.slice(1)]);
  assert.equal(pool.stats.liveObjects + pool.bufferAllocator.stats.liveObjects, 0);
  assert.equal(pool.memcheck().freeBytes, MIB);
  assert.equal(pool.tryBatchedAllocate(MIB / 2 + 1, 2), null);
  await using other = await MixedMemoryAllocator.create({ sizeBytes: MIB, pin: "none" });
  using foreign = other.allocate({ shape: SHAPE, dtype: "half" });
  assert.throws(() => pool.free(foreign), shmError("EINVAL", /another allocator/));
});

leakTest("alignBytes, zeroOnFree and trackAllocations reach the pool", async () => {
  await using pool = await MixedMemoryAllocator.create({
    sizeBytes: MIB,
    pin: "none",
    alignBytes: 64,
    zeroOnFree: true,
    trackAllocations: true,
  });
  const a = pool.allocate(1);
  using b = pool.allocate(1);
  assert.equal(b.metadata.address, 64);
  a.bytes[0] = 1;
  assert.equal(pool.leakReport().objects.length, 2);
  a.refCountDown();
  assert.equal(pool.segment.bytes(0, 1)[0], 0);
});

leakTest("a page layout divides the pool into pages", async () => {
  await using pool = await MixedMemoryAllocator.create({
    sizeBytes: MIB,
    pin: "none",
    page: { shape: SHAPE, dtype: "half", format: "KV_2LTD" },
  });
  assert.ok(pool.pinAllocator instanceof PagedTensorMemoryAllocator);
  assert.equal(pool.pinAllocator.pages, MIB / 8192);
  using page = pool.allocate({ shape: SHAPE, dtype: "half" });
  assert.equal(page.physicalSizeBytes, 8192);
  using buffer = pool.allocate({ shape: [1], format: "BINARY_BUFFER" });
  assert.equal(buffer.byteLength, 1);
});

leakTest("close() revokes all views, and refuses while I/O is in flight", async () => {
  const name = uniqueName("close");
  const pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, name, pin: "none" });
  const obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  const { bytes } = obj;
  const done = obj.hold("put chunk");
  await assert.rejects(pool.close(), shmError("EBUSY", /put chunk/));
  assert.equal(pool.closed, false);
  assert.equal(bytes.length, 8192);
  done();
  await pool.close();
  await pool.close();
  assert.ok(pool.closed);
  assert.equal(bytes.length, 0);
  assert.equal(obj.valid, false);
  obj.refCountDown();
  assert.equal(existsSync(`/dev/shm/${name}`), false);
  assert.throws(
    () => pool.tryAllocate({ shape: SHAPE, dtype: "half" }),
    shmError("EBADF", /closed/),
  );
});

leakTest("a pool over a segment that was attached leaves the segment to its owner", async () => {
  const name = uniqueName("attached");
  await using owner = await ShmSegment.create({ name, sizeBytes: MIB, pin: "none" });
  {
    await using pool = new MixedMemoryAllocator(await ShmSegment.attach({ name, pin: "none" }));
    using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
    obj.bytes.fill(3);
  }
  assert.equal(owner.bytes()[0], 3);
});

leakTest("transparent huge pages are a wish for shared memory, and never an error", async () => {
  const name = uniqueName("huge");
  await using pool = await MixedMemoryAllocator.create({
    sizeBytes: 4 * MIB,
    name,
    pages: "transparent",
    pin: "none",
  });
  assert.equal(pool.sizeBytes, 4 * MIB);
});

leakTest("create() refuses wrong arguments before it takes memory", async () => {
  const create = (options: unknown) => MixedMemoryAllocator.create(options as never);
  const name = uniqueName("refused");
  for (const bad of [0, -1, 1.5, NaN, Infinity]) {
    await assert.rejects(create({ sizeBytes: bad }), RangeError);
  }
  for (const bad of ["1", null, undefined, 5n]) {
    await assert.rejects(create({ sizeBytes: bad }), TypeError);
  }
  const refused: [object, RegExp][] = [
    [{ align: 64 }, /TypeError.*no option "align"; did you mean "alignBytes"/],
    [{ alignBytes: 100 }, /RangeError: alignBytes must be a power of two/],
    [{ alignBytes: 2 ** 31 }, /RangeError: alignBytes must be/],
    [{ pin: "yes" }, /TypeError.*pin must be one of/],
    [{ pages: "4M" }, /TypeError.*pages must be one of "default", "transparent", "2M", "1G"/],
    [{ pages: "2M" }, /TypeError.*needs an anonymous segment/],
    [{ numa: { policy: "bind", nodes: [] } }, /TypeError.*numa.nodes/],
    [{ numa: { policy: "bind", nodes: [99] } }, /RangeError.*numa node/],
    [{ zeroOnFree: "yes" }, /TypeError.*zeroOnFree/],
    [{ trackAllocations: 1 }, /TypeError.*trackAllocations/],
    [{ page: { shape: [2, 2], dtype: "half" } }, /RangeError.*KV_2LTD has the shape/],
    [{ page: null }, /TypeError.*a layout is .* got null/],
    [{ page: { shapes: [2] } }, /TypeError.*a layout has no option "shapes"/],
    [{ signal: "now" }, /TypeError.*signal must be an AbortSignal/],
    [{ ifExists: "steal" }, /TypeError.*ifExists/],
    [{ populateThreads: -1 }, /RangeError.*populateThreads/],
  ];
  for (const [options, expected] of refused) {
    await assert.rejects(create({ sizeBytes: MIB, name, ...options }), expected);
    assert.equal(existsSync(`/dev/shm/${name}`), false);
  }
  await assert.rejects(create({ sizeBytes: MIB, name: "a/b" }), /RangeError.*path component/);
  await assert.rejects(create(null), TypeError);
});

leakTest("create() leaves nothing behind when the pool cannot be divided up", async () => {
  const name = uniqueName("undone");
  const page = { shape: [2, 1024, 1024, 64], dtype: "half" } as const;
  const options = { sizeBytes: MIB, name, pin: "none", page } as const;
  await assert.rejects(MixedMemoryAllocator.create(options), /RangeError.*0 pages/);
  assert.throws(() => MixedMemoryAllocator.createSync(options), /RangeError.*0 pages/);
  assert.equal(existsSync(`/dev/shm/${name}`), false);
});

leakTest("a name that a live pool has is EEXIST", async () => {
  const name = uniqueName("taken");
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: MIB, name, pin: "none" });
  await assert.rejects(MixedMemoryAllocator.create({ sizeBytes: MIB, name }), shmError("EEXIST"));
  using obj = pool.allocate({ shape: SHAPE, dtype: "half" });
  obj.bytes[0] = 1;
});
