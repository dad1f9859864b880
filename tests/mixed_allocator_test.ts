// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { BytesBufferMemoryObj, TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { MixedMemoryAllocator } from "../src/memory/mixed_allocator.ts";
import { PagedTensorMemoryAllocator } from "../src/memory/paged_allocator.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";

const MIB = 2 ** 20;
const SHAPE = [2, 2, 16, 64] as const;

function leakTest(name: string, body: () => Promise<void>): void {
  test(name, { timeout: 60_000 }, () => withoutLeaks(body));
}

leakTest("create() with a name makes shared memory that others attach", async () => {
  const name = uniqueName("mixed");
  await using pool = await MixedMemoryAllocator.create(MIB, { shmName: name, pin: "none" });
  assert.equal(pool.shmName, `/${name}`);
  assert.equal(pool.sizeBytes, MIB);
  using obj = pool.allocateOrThrow(SHAPE, "half");
  assert.ok(obj instanceof TensorMemoryObj);
  await using other = await ShmSegment.attach({ name });
  obj.bytes.fill(5);
  assert.ok(other.bytes(obj.offset, obj.byteLength).every((byte) => byte === 5));
});

leakTest("create() without a name makes private memory", async () => {
  for (const shmName of [undefined, null]) {
    await using pool = await MixedMemoryAllocator.create(MIB, { shmName, pin: "none" });
    assert.equal(pool.shmName, null);
    assert.notEqual(pool.segment.fd, null, "that a worker can be given");
    using obj = pool.allocateOrThrow(SHAPE, "half");
    obj.bytes[0] = 1;
  }
});

leakTest("createSync() does the same, blocking", async () => {
  const name = uniqueName("sync");
  using pool = MixedMemoryAllocator.createSync(MIB, { shmName: `/${name}`, pin: "none" });
  assert.equal(pool.shmName, `/${name}`);
  assert.ok(existsSync(`/dev/shm/${name}`));
  await Promise.resolve();
});

leakTest("the format decides where an object lies", async () => {
  await using pool = await MixedMemoryAllocator.create(MIB, { pin: "none" });
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
    using obj = pool.allocateOrThrow(shape, "uint8", format);
    assert.ok(obj instanceof TensorMemoryObj, format);
    assert.equal(obj.format, format);
    assert.equal(obj.segment, pool.segment);
  }
  using buffer = pool.allocateOrThrow([100], null, "BINARY_BUFFER");
  assert.ok(buffer instanceof BytesBufferMemoryObj);
  assert.equal(pool.bufferAllocator.stats().liveObjects, 1);
  assert.equal(pool.stats().liveObjects, 0);
  assert.throws(() => pool.allocate([4], "half", "UNDEFINED"), /TypeError.*UNDEFINED/);
  assert.throws(() => pool.allocateOrThrow([4], "half", "UNDEFINED"), /TypeError.*UNDEFINED/);
  assert.throws(() => pool.allocate(SHAPE, "half", "KV_3" as never), TypeError);
});

leakTest("batches and free() go to the right allocator, all or none", async () => {
  await using pool = await MixedMemoryAllocator.create(MIB, { pin: "none" });
  const tensors = pool.batchedAllocate(SHAPE, "half", 4)!;
  const buffers = pool.batchedAllocate([10], null, 4, "BINARY_BUFFER")!;
  tensors[2]!.pin();
  assert.throws(() => pool.batchedFree([...buffers, ...tensors]), shmError("EBUSY"));
  assert.equal(pool.stats().liveObjects + pool.bufferAllocator.stats().liveObjects, 8);
  tensors[2]!.unpin();
  pool.free(tensors[0]!);
  pool.batchedFree([...buffers, ...tensors.slice(1)]);
  assert.equal(pool.stats().liveObjects + pool.bufferAllocator.stats().liveObjects, 0);
  assert.equal(pool.memcheck().freeBytes, MIB);
  assert.equal(pool.batchedAllocate([MIB / 2 + 1], null, 2, "BINARY"), null);
  await using other = await MixedMemoryAllocator.create(MIB, { pin: "none" });
  using foreign = other.allocateOrThrow(SHAPE, "half");
  assert.throws(() => pool.free(foreign), shmError("EINVAL", /another allocator/));
});

leakTest("align, zeroOnFree and trackAllocations reach the pool", async () => {
  await using pool = await MixedMemoryAllocator.create(MIB, {
    pin: "none",
    align: 64,
    zeroOnFree: true,
    trackAllocations: true,
  });
  const a = pool.allocateOrThrow([1], null, "BINARY");
  using b = pool.allocateOrThrow([1], null, "BINARY");
  assert.equal(b.metadata.address, 64);
  a.bytes[0] = 1;
  assert.equal(pool.leakReport().objects.length, 2);
  a.refCountDown();
  assert.equal(pool.segment.bytes(0, 1)[0], 0);
});

leakTest("paging divides the pool into pages", async () => {
  await using pool = await MixedMemoryAllocator.create(MIB, {
    pin: "none",
    paging: { shapes: SHAPE, dtypes: "half", format: "KV_2LTD" },
  });
  assert.ok(pool.pinAllocator instanceof PagedTensorMemoryAllocator);
  assert.equal(pool.pinAllocator.pages, MIB / 8192);
  using page = pool.allocateOrThrow(SHAPE, "half");
  assert.equal(page.physicalSizeBytes, 8192);
  using buffer = pool.allocateOrThrow([1], null, "BINARY_BUFFER");
  assert.equal(buffer.byteLength, 1);
});

leakTest("close() revokes all views, and refuses while I/O is in flight", async () => {
  const name = uniqueName("close");
  const pool = await MixedMemoryAllocator.create(MIB, { shmName: name, pin: "none" });
  const obj = pool.allocateOrThrow(SHAPE, "half");
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
  assert.throws(() => pool.allocate(SHAPE, "half"), shmError("EBADF", /closed/));
});

leakTest("a pool over a segment that was attached leaves the segment to its owner", async () => {
  const name = uniqueName("attached");
  await using owner = await ShmSegment.create({ name, sizeBytes: MIB, pin: "none" });
  {
    await using pool = new MixedMemoryAllocator(await ShmSegment.attach({ name, pin: "none" }));
    using obj = pool.allocateOrThrow(SHAPE, "half");
    obj.bytes.fill(3);
  }
  assert.equal(owner.bytes()[0], 3);
});

leakTest("hugePages: true is a wish for shared memory, and never an error", async () => {
  const name = uniqueName("huge");
  await using pool = await MixedMemoryAllocator.create(4 * MIB, {
    shmName: name,
    hugePages: true,
    pin: "none",
  });
  assert.equal(pool.sizeBytes, 4 * MIB);
});

leakTest("create() refuses wrong arguments before it takes memory", async () => {
  const create = (size: unknown, options?: unknown) =>
    MixedMemoryAllocator.create(size as never, options as never);
  const shmName = uniqueName("refused");
  for (const bad of [0, -1, 1.5, NaN, Infinity]) await assert.rejects(create(bad), RangeError);
  for (const bad of ["1", null, undefined, 5n]) await assert.rejects(create(bad), TypeError);
  const refused: [object, RegExp][] = [
    [{ alignBytes: 64 }, /TypeError.*no option "alignBytes"; it has .*align/],
    [{ align: 100 }, /RangeError: align must be a power of two/],
    [{ align: 2 ** 31 }, /RangeError: align must be/],
    [{ pin: "yes" }, /TypeError.*pin must be one of/],
    [{ hugePages: "4M" }, /TypeError.*hugePages must be one of "transparent", "2M", "1G"/],
    [{ hugePages: "2M" }, /TypeError.*needs an anonymous segment/],
    [{ numa: { policy: "bind", nodes: [] } }, /TypeError.*numa.nodes/],
    [{ numa: { policy: "bind", nodes: [99] } }, /RangeError.*numa node/],
    [{ zeroOnFree: "yes" }, /TypeError.*zeroOnFree/],
    [{ trackAllocations: 1 }, /TypeError.*trackAllocations/],
    [{ paging: { shapes: [2, 2], dtypes: "half" } }, /RangeError.*KV_2LTD has the shape/],
    [{ paging: null }, /TypeError.*paging takes an options object, got null/],
    [{ paging: { shape: [2] } }, /TypeError.*paging has no option "shape"/],
    [{ ifExists: "steal" }, /TypeError.*ifExists/],
    [{ populateThreads: -1 }, /RangeError.*populateThreads/],
  ];
  for (const [options, expected] of refused) {
    await assert.rejects(create(MIB, { shmName, ...options }), expected);
    assert.equal(existsSync(`/dev/shm/${shmName}`), false);
  }
  await assert.rejects(create(MIB, { shmName: "a/b" }), /RangeError.*path component/);
  await assert.rejects(create(MIB, null), TypeError);
});

leakTest("create() leaves nothing behind when the pool cannot be divided up", async () => {
  const shmName = uniqueName("undone");
  const paging = { shapes: [2, 1024, 1024, 64], dtypes: "half" } as const;
  const options = { shmName, pin: "none", paging } as const;
  await assert.rejects(MixedMemoryAllocator.create(MIB, options), /RangeError.*0 pages/);
  assert.throws(() => MixedMemoryAllocator.createSync(MIB, options), /RangeError.*0 pages/);
  assert.equal(existsSync(`/dev/shm/${shmName}`), false);
});

leakTest("a name that a live pool has is EEXIST", async () => {
  const shmName = uniqueName("taken");
  await using pool = await MixedMemoryAllocator.create(MIB, { shmName, pin: "none" });
  await assert.rejects(MixedMemoryAllocator.create(MIB, { shmName }), shmError("EEXIST"));
  using obj = pool.allocateOrThrow(SHAPE, "half");
  obj.bytes[0] = 1;
});
