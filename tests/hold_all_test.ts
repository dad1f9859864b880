// SPDX-License-Identifier: Apache-2.0
//
// Holding many ranges for one operation.

import assert from "node:assert/strict";
import { test } from "node:test";
import { holdAll } from "../src/memory/hold_all.ts";
import { partOf } from "../src/memory/part_of_range.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { shmError } from "./support/assertions.ts";
import { withoutLeaks } from "./support/leaks.ts";

const LAYOUT = TensorLayout.of(4096);

test("holdAll() keeps segments and objects from being freed, until it is over", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 1 << 20, pin: "none" });
    await using other = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
    const pool = new TensorMemoryAllocator(segment.range(0, 1 << 19));
    const objs = [pool.tryAllocate(LAYOUT)!, pool.tryAllocate(LAYOUT)!];
    const release = holdAll(
      [segment.range(1 << 19, 10), objs[0]!, segment.range(1 << 19, 20), objs[1]!, other.range()],
      "test many",
    );
    for (const obj of objs) assert.throws(() => obj.refCountDown(), shmError("EBUSY", /test many/));
    await assert.rejects(segment.free(), shmError("EBUSY", /test many/));
    await assert.rejects(other.free(), shmError("EBUSY"));
    release();
    release();
    for (const obj of objs) obj.refCountDown();
  }));

test("holdAll() holds nothing when one of the ranges cannot be held", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 1 << 20, pin: "none" });
    const pool = new TensorMemoryAllocator(segment);
    const [alive, freed] = [pool.tryAllocate(LAYOUT)!, pool.tryAllocate(LAYOUT)!];
    freed.refCountDown();
    assert.throws(() => holdAll([alive, freed], "test"), shmError("EFREED"));
    alive.refCountDown();
    await segment.free();
  }));

test("a part of a range is held through the range; a segment's parts share one hold", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 1 << 20, pin: "none" });
    const pool = new TensorMemoryAllocator(segment.range(0, 1 << 19));
    const obj = pool.tryAllocate(LAYOUT)!;
    const part = partOf(partOf(obj, 1000, 2000), 10, 20);
    assert.deepEqual([part.segment, part.offset, part.byteLength], [
      segment,
      obj.offset + 1010,
      20,
    ]);
    const release = holdAll([part, partOf(segment.range(1 << 19, 10), 0, 5)], "test parts");
    assert.throws(() => obj.refCountDown(), shmError("EBUSY", /test parts/));
    await assert.rejects(segment.free(), shmError("EBUSY"));
    release();
    obj.refCountDown();
    assert.throws(() => part.hold("late"), shmError("EFREED"));
    assert.equal(partOf(segment.range(8, 8), 4, 4).hold, segment.holdRange);
  }));

test("an object of a pool within an object keeps both", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 1 << 20, pin: "none" });
    const outer = new TensorMemoryAllocator(segment).allocate(1 << 19);
    const inner = new TensorMemoryAllocator(outer).tryAllocate(LAYOUT)!;
    const release = inner.hold("test inner");
    assert.throws(() => outer.refCountDown(), shmError("EBUSY", /test inner/));
    release();
    inner.refCountDown();
    outer.refCountDown();
  }));
