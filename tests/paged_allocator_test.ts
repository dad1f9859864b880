// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { PageSpace } from "../src/memory/page_space.ts";
import { PagedTensorMemoryAllocator } from "../src/memory/paged_allocator.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { shmError } from "./support/assertions.ts";
import { withFakes } from "./support/fake_segment.ts";
import { withoutLeaks } from "./support/leaks.ts";

/** 8,192 bytes. */
const PAGE = { page: { shape: [2, 2, 16, 64], dtype: "half" } } as const;

test(
  "pages are the layout's size, rounded up to the alignment",
  withFakes((fakeRange) => {
    const pool = new PagedTensorMemoryAllocator(fakeRange(100_000), {
      page: { shape: [2, 1, 3, 1000], dtype: "half" },
    });
    assert.equal(pool.pageLayout.byteLength, 12_000);
    assert.equal(pool.pageBytes, 12_288);
    assert.equal(pool.pages, 8, "what is left at the end is not used");
    assert.equal(pool.stats.totalBytes, 8 * 12_288);
    const [a, b] = pool.tryBatchedAllocate(pool.pageLayout, 2)!;
    assert.deepEqual([a!.offset, b!.offset], [0, 12_288]);
    assert.equal(a!.physicalSizeBytes, 12_288);
    assert.equal(a!.byteLength, 12_000);
  }),
);

test(
  "every page is handed out once, and again after it was freed",
  withFakes((fakeRange) => {
    const pool = new PagedTensorMemoryAllocator(fakeRange(16 * 8192), PAGE);
    const objs = pool.tryBatchedAllocate(pool.pageLayout, 16)!;
    assert.equal(new Set(objs.map((obj) => obj.offset)).size, 16);
    assert.equal(pool.tryAllocate(pool.pageLayout), null);
    assert.equal(pool.memcheck().freeBytes, 0);
    assert.equal(pool.memcheck().largestFreeBytes, 0);
    const freed = objs[7]!.offset;
    objs[7]!.refCountDown();
    assert.equal(pool.tryAllocate(PAGE.page)!.offset, freed);
    assert.equal(pool.memcheck().attemptsWithoutRoom, 1);
  }),
);

test(
  "free pages are no fragments",
  withFakes((fakeRange) => {
    const pool = new PagedTensorMemoryAllocator(fakeRange(16 * 8192), PAGE);
    const objs = pool.tryBatchedAllocate(pool.pageLayout, 16)!;
    pool.batchedFree(objs.filter((_, i) => i % 2 === 0));
    assert.equal(pool.memcheck().fragmentation, 0);
    assert.equal(pool.tryBatchedAllocate(pool.pageLayout, 9), null, "all or none");
    assert.equal(pool.memcheck().liveObjects, 8);
    assert.equal(pool.tryBatchedAllocate(pool.pageLayout, 8)!.length, 8);
  }),
);

test(
  "a smaller object takes a page, a larger one is refused",
  withFakes((fakeRange) => {
    const pool = new PagedTensorMemoryAllocator(fakeRange(16 * 8192), PAGE);
    const small = pool.tryAllocate(pool.pageLayout.withTokens(1))!;
    assert.equal(small.byteLength, 512);
    assert.equal(small.physicalSizeBytes, 8192);
    assert.ok(pool.tryAllocate(8192));
    assert.throws(() => pool.tryAllocate(8193), /RangeError.*8193.*which has 8192/);
    assert.equal(pool.memcheck().usedBytes, 2 * 8192);
  }),
);

test(
  "objects of several tensors fit into pages made for them",
  withFakes((fakeRange) => {
    const pool = new PagedTensorMemoryAllocator(fakeRange(1 << 20), {
      page: { shape: [[2, 1, 16, 64], [2, 1, 16, 32]], dtype: ["half", "float"] },
      alignBytes: 64,
    });
    assert.equal(pool.pageBytes, 4096 + 4096);
    assert.deepEqual(pool.tryAllocate(pool.pageLayout)!.dtypes, ["half", "float"]);
  }),
);

test(
  "the constructor refuses memory without a page, and wrong options",
  withFakes((fakeRange) => {
    const make = (range: unknown, options: unknown) => () =>
      new PagedTensorMemoryAllocator(range as never, options as never);
    const range = fakeRange(1 << 20);
    assert.throws(make(fakeRange(8191), PAGE), /RangeError.*8191 bytes has 0 pages of 8192/);
    assert.throws(make(fakeRange(2 ** 50), { ...PAGE, alignBytes: 8 }), /RangeError.*2147483647/);
    assert.throws(make(range, { page: { dtype: "half" } }), /TypeError.*shape must be/);
    assert.throws(make(range, { page: { shape: [2, 1, 1, 1] } }), /TypeError.*dtype/);
    assert.throws(make(range, { ...PAGE, shapes: 1 }), /TypeError.*no option "shapes"/);
    assert.throws(make(range, undefined), TypeError);
    assert.throws(make(null, PAGE), /TypeError.*ShmSegment/);
  }),
);

test("pages of a segment have views that are revoked, also when their buffer has moved", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 4 * 8192, pin: "none" });
    const pool = new PagedTensorMemoryAllocator(segment, PAGE);
    const [a, b] = pool.tryBatchedAllocate(pool.pageLayout, 2)!;
    const { bytes } = a!;
    bytes.fill(1);
    b!.bytes.fill(2);
    assert.ok(bytes.every((byte) => byte === 1));
    a!.refCountDown();
    assert.equal(bytes.length, 0);
    assert.throws(() => a!.refCountDown(), shmError("EFREED"));
    const elsewhere = new Uint8Array(b!.bytes.buffer.transfer());
    b!.refCountDown();
    const rest = pool.tryBatchedAllocate(pool.pageLayout, 4)!;
    for (const obj of rest) obj.bytes.fill(3);
    assert.ok(elsewhere.every((byte) => byte === 0));
    assert.equal(pool.tryAllocate(pool.pageLayout), null);
    pool.batchedFree(rest);
    pool.memcheck();
  }));

test("PageSpace refuses to give back or withhold what is not in use", () => {
  const space = new PageSpace(3);
  const page = space.take()!;
  space.giveBack(page);
  for (const bad of [page, 2, 3, -1]) {
    assert.throws(() => space.giveBack(bad), shmError("EFREED"));
    assert.throws(() => space.withhold(bad), shmError("EFREED"));
  }
  const withheld = space.take()!;
  space.withhold(withheld);
  assert.deepEqual([space.freeCount, space.usedCount, space.withheldCount], [2, 0, 1]);
  assert.equal(space.findFault(), null);
  space.giveBack(withheld);
  assert.equal(space.freeCount, 3);
});

test("a hundred thousand pages are taken and given back in any order", () => {
  const space = new PageSpace(100_000);
  const pages = Array.from({ length: 100_000 }, () => space.take()!);
  assert.equal(space.take(), null);
  assert.equal(new Set(pages).size, 100_000);
  for (let i = 0; i < 100_000; i++) space.giveBack(pages[(i * 7919) % 100_000]!);
  assert.equal(space.findFault(), null);
  assert.equal(space.freeCount, 100_000);
});
