// SPDX-License-Identifier: Apache-2.0
//
// TensorMemoryAllocator: placement, merging, batches, accounts, bad input; and a soak.

import assert from "node:assert/strict";
import { test } from "node:test";
import { FreeSpace } from "../src/memory/free_space.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { shmError } from "./support/assertions.ts";
import { effort } from "./support/effort.ts";
import { withFakes } from "./support/fake_segment.ts";
import { liveHeapBytes } from "./support/gc.ts";
import { withoutLeaks } from "./support/leaks.ts";

const KIB = 1024;
const GIB = 2 ** 30;

const bytesOf = (byteLength: number) => TensorLayout.of(byteLength);

function mustAllocate(pool: TensorMemoryAllocator, byteLength: number): TensorMemoryObj {
  const obj = pool.tryAllocate(bytesOf(byteLength));
  assert.ok(obj, `${byteLength} bytes fit`);
  return obj;
}

test(
  "allocate() aligns every object and rounds its size up",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(64 * KIB));
    const sizes = [1, 4096, 4097, 12288];
    const objs = sizes.map((size) => mustAllocate(pool, size));
    assert.deepEqual(objs.map((obj) => obj.offset), [0, 4096, 8192, 16384]);
    assert.deepEqual(objs.map((obj) => obj.physicalSizeBytes), [4096, 4096, 8192, 12288]);
    assert.deepEqual(objs.map((obj) => obj.byteLength), sizes);
  }),
);

test(
  "allocate() gives null when nothing is large enough, and only then",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(16 * KIB));
    assert.equal(pool.tryAllocate(bytesOf(16 * KIB + 1)), null);
    const all = mustAllocate(pool, 16 * KIB);
    assert.equal(pool.tryAllocate(bytesOf(1)), null);
    assert.equal(pool.stats.attemptsWithoutRoom, 2);
    all.refCountDown();
    mustAllocate(pool, 16 * KIB);
    pool.memcheck();
  }),
);

test(
  "allocate() says ENOSPC with the numbers and why",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(16 * KIB));
    assert.throws(
      () => pool.allocate(17 * KIB),
      shmError("ENOSPC", /17408 bytes; of 16384, 16384 are free.*larger than the pool/),
    );
    const [a, , c] = pool.tryBatchedAllocate(bytesOf(4096), 4)!;
    pool.batchedFree([a!, c!]);
    assert.throws(
      () => pool.allocate(8 * KIB),
      shmError("ENOSPC", /8192 are free and 4096 of them in one piece.*in pieces/),
    );
    assert.throws(
      () => pool.allocate(12 * KIB),
      shmError("ENOSPC", /Release or evict/),
    );
  }),
);

test(
  "the smallest free range that is large enough is taken, the first among equals",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(100 * 4096));
    const objs = [3, 1, 2, 1, 5, 1, 2, 1].map((pages) => mustAllocate(pool, pages * 4096));
    const rest = mustAllocate(pool, 84 * 4096);
    for (const i of [0, 2, 4, 6]) objs[i]!.refCountDown();
    assert.equal(mustAllocate(pool, 2 * 4096).offset, objs[2]!.offset);
    assert.equal(mustAllocate(pool, 2 * 4096).offset, objs[6]!.offset);
    assert.equal(mustAllocate(pool, 4 * 4096).offset, objs[4]!.offset);
    assert.equal(mustAllocate(pool, 1 * 4096).offset, objs[4]!.offset + 4 * 4096);
    assert.equal(mustAllocate(pool, 3 * 4096).offset, objs[0]!.offset);
    assert.equal(pool.tryAllocate(bytesOf(1)), null);
    rest.refCountDown();
    pool.memcheck();
  }),
);

test(
  "freed neighbours merge, whatever the order",
  withFakes((fakeRange) => {
    const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (const order of orders) {
      const pool = new TensorMemoryAllocator(fakeRange(3 * 4096));
      const objs = pool.tryBatchedAllocate(bytesOf(4096), 3)!;
      for (const i of order) {
        objs[i]!.refCountDown();
        pool.memcheck();
      }
      assert.equal(pool.stats.largestFreeBytes, 3 * 4096, order.join());
      assert.equal(pool.stats.fragmentation, 0);
    }
  }),
);

test(
  "batchedAllocate() gives all or none",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8 * 4096));
    const objs = pool.tryBatchedAllocate({ shape: [2, 1, 4, 256], dtype: "half" }, 4)!;
    assert.equal(objs.length, 4);
    assert.equal(new Set(objs.map((obj) => obj.offset)).size, 4);
    const [, second, , fourth] = objs;
    second!.refCountDown();
    fourth!.refCountDown();
    const before = pool.stats;
    assert.equal(pool.tryBatchedAllocate(bytesOf(8192), 3), null, "6 pages are free, in pieces");
    assert.equal(pool.tryBatchedAllocate(bytesOf(4096), 7), null);
    assert.deepEqual(pool.memcheck(), { ...before, attemptsWithoutRoom: 2 });
    assert.equal(pool.tryBatchedAllocate(bytesOf(4096), 6)!.length, 6);
    for (const bad of [0, -1, 1.5, NaN]) {
      assert.throws(() => pool.tryBatchedAllocate(bytesOf(1), bad), /RangeError.*count/);
    }
  }),
);

test(
  "batchedFree() frees all or none",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8 * 4096));
    const [a, b, c] = pool.tryBatchedAllocate(bytesOf(4096), 3)!;
    b!.refCountUp();
    assert.throws(
      () => pool.batchedFree([a!, b!, c!]),
      shmError("EBUSY", /2 references and 0 pins/),
    );
    assert.equal(pool.stats.liveObjects, 3);
    b!.refCountDown();
    b!.pin();
    assert.throws(() => pool.batchedFree([a!, b!]), shmError("EBUSY", /1 pins/));
    b!.unpin();
    assert.throws(() => pool.batchedFree([a!, a!]), shmError("EINVAL", /twice/));
    assert.throws(() => pool.batchedFree([a!, {} as never]), /TypeError.*MemoryObj/);
    assert.throws(() => pool.batchedFree(a as never), /TypeError.*array/);
    assert.equal(pool.stats.liveObjects, 3);
    pool.batchedFree([c!, a!, b!]);
    pool.batchedFree([]);
    assert.equal(pool.memcheck().liveObjects, 0);
  }),
);

test(
  "free() refuses what is freed, shared, or another allocator's",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(8 * 4096));
    const other = new TensorMemoryAllocator(fakeRange(8 * 4096));
    const obj = mustAllocate(pool, 1);
    assert.throws(() => other.free(obj), shmError("EINVAL", /made by another allocator/));
    obj.refCountUp();
    assert.throws(() => pool.free(obj), shmError("EBUSY", /2 references/));
    obj.refCountDown();
    pool.free(obj);
    assert.throws(() => pool.free(obj), shmError("EFREED", /was freed/));
    for (const bad of [null, undefined, 4, {}]) {
      assert.throws(() => pool.free(bad as never), TypeError);
    }
    assert.equal(pool.memcheck().freeBytes, 8 * 4096);
  }),
);

test(
  "stats accounts for every byte",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(10 * 4096));
    const [a, b] = [mustAllocate(pool, 3 * 4096), mustAllocate(pool, 4096)];
    mustAllocate(pool, 2 * 4096);
    a.refCountDown();
    assert.deepEqual(pool.stats, {
      totalBytes: 10 * 4096,
      usedBytes: 3 * 4096,
      freeBytes: 7 * 4096,
      quarantinedBytes: 0,
      largestFreeBytes: 4 * 4096,
      fragmentation: 1 - 4 / 7,
      liveObjects: 2,
      quarantinedObjects: 0,
      highWaterBytes: 6 * 4096,
      allocations: 3,
      attemptsWithoutRoom: 0,
      leakedObjects: 0,
    });
    b.refCountDown();
    assert.equal(pool.stats.highWaterBytes, 6 * 4096);
  }),
);

test(
  "alignBytes moves the start and the end of the range to multiples of it",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(100_000, 100, 99_000), { alignBytes: 512 });
    assert.equal(pool.baseOffset, 512);
    assert.equal(pool.totalBytes, Math.floor((99_100 - 512) / 512) * 512);
    const obj = mustAllocate(pool, 513);
    assert.equal(obj.offset, 512);
    assert.equal(obj.physicalSizeBytes, 1024);
    assert.equal(mustAllocate(pool, 1).offset, 1536);
  }),
);

test(
  "offsets beyond 4 GiB, and beyond 2^45, are exact",
  withFakes((fakeRange) => {
    for (const sizeBytes of [64 * GIB, 2 ** 45 + 8192, 2 ** 53 - 4096]) {
      const pool = new TensorMemoryAllocator(fakeRange(sizeBytes));
      const first = mustAllocate(pool, sizeBytes - 3 * 4096);
      const second = mustAllocate(pool, 4096);
      const third = mustAllocate(pool, 4097);
      assert.equal(second.offset, sizeBytes - 3 * 4096);
      assert.equal(third.offset, sizeBytes - 2 * 4096);
      assert.equal(third.dataPointer, 0x7000_0000_0000n + BigInt(sizeBytes) - 8192n);
      assert.equal(third.metadata.address, third.offset);
      pool.memcheck();
      first.refCountDown();
      third.refCountDown();
      second.refCountDown();
      assert.equal(pool.memcheck().largestFreeBytes, sizeBytes);
    }
  }),
);

test(
  "the constructor refuses wrong memory and wrong options before it does anything",
  withFakes((fakeRange) => {
    const range = fakeRange(64 * KIB);
    const make = (memory: unknown, options?: unknown) => () =>
      new TensorMemoryAllocator(memory as never, options as never);
    for (const bad of [null, undefined, 5, {}, "kv"]) {
      assert.throws(make(bad), /TypeError.*needs a ShmSegment or a ShmRange/);
    }
    assert.throws(make(range, { alignBytes: 3000 }), /RangeError.*power of two, got 3000/);
    assert.throws(make(range, { alignBytes: 4 }), /RangeError.*alignBytes/);
    assert.throws(make(range, { alignBytes: NaN }), RangeError);
    assert.throws(make(range, { alignBytes: "4096" }), /TypeError.*alignBytes.*"4096"/);
    assert.throws(make(range, { alignBytes: 128 * KIB }), /RangeError.*smaller than its alignment/);
    assert.throws(make(range, { align: 4096 }), /TypeError.*no option "align"/);
    assert.throws(make(range, { zeroOnFree: 1 }), /TypeError.*zeroOnFree must be true or false/);
    assert.throws(make(range, { trackAllocations: "yes" }), /TypeError.*trackAllocations/);
    assert.throws(make(range, { detectLeaks: 0 }), /TypeError.*detectLeaks/);
    assert.throws(make(range, null), TypeError);
    assert.throws(make({ ...range, byteLength: 65 * KIB }), /RangeError/);
    assert.throws(make({ ...range, offset: -1 }), RangeError);
  }),
);

test(
  "allocate() refuses wrong arguments and takes nothing",
  withFakes((fakeRange) => {
    const pool = new TensorMemoryAllocator(fakeRange(64 * KIB));
    assert.throws(() => pool.tryAllocate({ shape: [2, 2, -2, 2], dtype: "half" }), RangeError);
    assert.throws(
      () => pool.tryAllocate({ shape: [2, 2, 2, 2], dtype: "float17" as never }),
      /TypeError.*"float17"/,
    );
    assert.throws(
      () => pool.tryAllocate({ shape: [2, 2, 2, 2], dtype: "half", format: "KV" as never }),
      TypeError,
    );
    assert.throws(
      () => pool.tryAllocate({ shape: [5], format: "BINARY_BUFFER" }),
      /TypeError.*BufferAllocator/,
    );
    assert.equal(pool.stats.allocations, 0);
    assert.equal(pool.stats.attemptsWithoutRoom, 0);
  }),
);

test("memcheck() finds books that do not add up", () => {
  const broken = (wreck: (space: FreeSpace) => void): string | null => {
    const space = new FreeSpace(100);
    const blocks = [10, 20, 30].map((size) => space.allocate(size)!);
    space.free(blocks[1]!);
    assert.equal(space.findFault(), null);
    wreck(space);
    return space.findFault();
  };
  const at = (space: FreeSpace, offset: number) =>
    [...space.blocks()].find((block) => block.offset === offset) as {
      size: number;
      state: string;
      priority: number;
      before: unknown;
      after: unknown;
    };
  assert.match(broken((space) => at(space, 0).size = 9) ?? "", /begins where 9 was expected/);
  assert.match(broken((space) => at(space, 0).size = 11) ?? "", /begins where 11 was expected/);
  assert.match(broken((space) => at(space, 30).state = "free") ?? "", /are not merged/);
  assert.match(broken((space) => at(space, 0).state = "withheld") ?? "", /withheld: 10 counted, 0/);
  assert.match(broken((space) => at(space, 60).state = "used") ?? "", /free: 20 counted, 60/);
  assert.match(broken((space) => at(space, 30).before = null) ?? "", /lost its neighbour/);
  assert.match(broken((space) => at(space, 30).after = null) ?? "", /end at 60 of 100/);
  assert.match(broken((space) => at(space, 60).size = 41) ?? "", /end at 101 of 100/);
  assert.match(broken((space) => at(space, 60).size = 0.5) ?? "", /size 0.5/);
  assert.match(
    broken((space) => {
      at(space, 0).size = 9;
      (at(space, 10) as { offset?: number }).offset = 9;
      at(space, 9).size = 21;
    }) ?? "",
    /free: 61 counted, 60/,
  );
});

test("FreeSpace refuses to free or withhold what is not in use", () => {
  const space = new FreeSpace(10);
  const a = space.allocate(4)!;
  const b = space.allocate(4)!;
  space.withhold(b);
  assert.throws(() => space.withhold(b), shmError("EFREED", /at 4 is withheld/));
  space.free(a);
  assert.throws(() => space.free(a), shmError("EFREED", /at 0 is free/));
  space.free(b);
  assert.throws(() => space.free(b), shmError("EFREED", /at 4 is merged/));
  assert.equal(space.findFault(), null);
  assert.equal(space.largestFree, 10);
});

test("ranges of one segment can be divided up by several allocators", () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 64 * KIB, pin: "none" });
    const left = new TensorMemoryAllocator(segment.range(0, 32 * KIB));
    const right = new TensorMemoryAllocator(segment.range(32 * KIB, 32 * KIB), { alignBytes: 64 });
    using a = mustAllocate(left, 32 * KIB);
    using b = mustAllocate(right, 100);
    using c = mustAllocate(right, 100);
    a.bytes.fill(1);
    b.bytes.fill(2);
    c.bytes.fill(3);
    assert.ok(a.bytes.every((byte) => byte === 1));
    assert.equal(c.offset, 32 * KIB + 128);
    assert.ok(b.bytes.every((byte) => byte === 2));
  }));

test("soak: many objects through a full pool of 64 MiB, with flat memory", {
  timeout: 600_000,
}, () =>
  withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 64 << 20, pin: "none" });
    const pool = new TensorMemoryAllocator(segment);
    const layouts = [1, 3, 16, 40, 200, 700].map((kib) => bytesOf(kib * KIB));
    let state = 1;
    const random =
      () => (state = Math.imul(state, 1664525) + 1013904223 | 0, (state >>> 1) / 2 ** 31);
    const live: TensorMemoryObj[] = [];
    const evictOne = () => {
      const index = Math.floor(random() * live.length);
      const victim = live[index]!;
      live[index] = live.at(-1)!;
      live.pop();
      victim.refCountDown();
    };
    const count = effort(480_000, 3_000_000);
    const liveKiB: number[] = [];
    for (let made = 1; made <= count; made++) {
      const layout = layouts[Math.floor(random() ** 2 * layouts.length)]!;
      let obj: TensorMemoryObj | null;
      while ((obj = pool.tryAllocate(layout)) === null) evictOne();
      live.push(obj);
      if (made % 16 === 0) obj.bytes[0] = made;
      if (made % (count / 12) === 0) {
        pool.memcheck();
        liveKiB.push(Math.round(await liveHeapBytes() / 1024));
      }
    }
    const { allocations, attemptsWithoutRoom, leakedObjects, quarantinedBytes } = pool.memcheck();
    assert.equal(allocations, count);
    assert.ok(attemptsWithoutRoom > count / 3, "the pool was full throughout");
    assert.equal(leakedObjects + quarantinedBytes, 0);
    // One lost word an object would be 11 MiB in the second half of the long form; in that of the
    // short one, a lost object each.
    const growthKiB = liveKiB.at(-1)! - liveKiB[5]!;
    assert.ok(growthKiB < 4096, `grew by ${growthKiB} KiB in the second half: ${liveKiB}`);
    pool.batchedFree(live);
    assert.equal(pool.memcheck().largestFreeBytes, pool.totalBytes);
  }));
