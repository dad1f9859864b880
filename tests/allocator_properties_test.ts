// SPDX-License-Identifier: Apache-2.0
//
// Random sequences of operations against models that are too simple to be wrong.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Block, FreeSpace } from "../src/memory/free_space.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { PagedTensorMemoryAllocator } from "../src/memory/paged_allocator.ts";
import { PageSpace } from "../src/memory/page_space.ts";
import type { PoolAllocator } from "../src/memory/pool_allocator.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { shmError } from "./support/assertions.ts";
import { withoutLeaks } from "./support/leaks.ts";

const TIMEOUT = { timeout: 120_000 };

/** The maximal runs of units that nobody has, in order. */
function gapsOf(owners: readonly (number | null)[]): { offset: number; size: number }[] {
  const gaps: { offset: number; size: number }[] = [];
  owners.forEach((owner, offset) => {
    if (owner !== null) return;
    const last = gaps.at(-1);
    if (last !== undefined && last.offset + last.size === offset) last.size++;
    else gaps.push({ offset, size: 1 });
  });
  return gaps;
}

test("FreeSpace does what an array of units does", TIMEOUT, () => {
  const operation = fc.oneof(
    { weight: 5, arbitrary: fc.record({ allocate: fc.nat(40).map((n) => n + 1) }) },
    { weight: 4, arbitrary: fc.record({ free: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ withhold: fc.nat() }) },
  );
  const operations = fc.array(operation, { maxLength: 200 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), operations, (size, sequence) => {
      const space = new FreeSpace(size);
      const owners: (number | null)[] = new Array(size).fill(null);
      const live: { id: number; block: Block; withheld: boolean }[] = [];
      let nextId = 0;
      for (const step of sequence) {
        if ("allocate" in step) {
          const wanted = step.allocate;
          const fitting = gapsOf(owners).filter((gap) => gap.size >= wanted);
          const best = fitting.reduce<typeof fitting[number] | null>(
            (found, gap) => found === null || gap.size < found.size ? gap : found,
            null,
          );
          const block = space.allocate(wanted);
          assert.equal(block?.offset ?? null, best?.offset ?? null, "best fit, or none");
          if (block !== null) {
            assert.equal(block.size, wanted);
            const id = nextId++;
            owners.fill(id, block.offset, block.offset + wanted);
            live.push({ id, block, withheld: false });
          }
        } else if ("free" in step && live.length > 0) {
          const [entry] = live.splice(step.free % live.length, 1);
          const { offset, size: units } = entry!.block;
          space.free(entry!.block);
          owners.fill(null, offset, offset + units);
        } else if ("withhold" in step && live.length > 0) {
          const entry = live[step.withhold % live.length]!;
          if (!entry.withheld) space.withhold(entry.block);
          entry.withheld = true;
        }
        const gaps = gapsOf(owners);
        assert.equal(space.findFault(), null);
        assert.equal(space.freeBlocks, gaps.length, "fully merged");
        assert.equal(space.largestFree, Math.max(0, ...gaps.map((gap) => gap.size)));
        assert.equal(space.freeSize, gaps.reduce((sum, gap) => sum + gap.size, 0));
        const withheld = live.filter((entry) => entry.withheld);
        assert.equal(space.withheldBlocks, withheld.length);
        assert.equal(space.usedBlocks, live.length - withheld.length);
        assert.equal(space.withheldSize, withheld.reduce((sum, { block }) => sum + block.size, 0));
      }
      for (const { block } of live) space.free(block);
      assert.equal(space.largestFree, size);
    }),
    { numRuns: 300 },
  );
});

test("FreeSpace finds a fit whenever there is one, at every magnitude of size", TIMEOUT, () => {
  // Sizes at and next to the edges of the size classes, where an off-by-one would show.
  const edge = fc.tuple(
    fc.integer({ min: 0, max: 46 }),
    fc.nat(32),
    fc.integer({ min: -2, max: 2 }),
  )
    .map(([power, step, around]) => Math.max(1, 2 ** power * (32 + step) + around));
  fc.assert(
    fc.property(fc.array(edge, { minLength: 1, maxLength: 30 }), edge, (holes, wanted) => {
      const space = new FreeSpace(2 ** 53 - 1);
      const blocks: Block[] = [];
      // Holes of the given sizes, with a wall of one unit between them.
      let left = 2 ** 53 - 1;
      const made: number[] = [];
      for (const hole of holes) {
        if (hole + 1 > left) continue;
        blocks.push(space.allocate(hole)!, space.allocate(1)!);
        left -= hole + 1;
        made.push(hole);
      }
      if (left > 0) space.allocate(left);
      blocks.forEach((block, i) => {
        if (i % 2 === 0) space.free(block);
      });
      assert.equal(space.findFault(), null);
      assert.equal(space.largestFree, Math.max(0, ...made));
      const expected = made.filter((hole) => hole >= wanted).sort((a, b) => a - b)[0];
      const found = space.allocate(wanted);
      assert.equal(found === null, expected === undefined);
      if (found !== null) {
        const hole = made[blocks.findIndex((block) => block.offset === found.offset) / 2];
        assert.equal(hole, expected, "the smallest that is large enough");
      }
      assert.equal(space.findFault(), null);
    }),
    { numRuns: 2000 },
  );
});

test("PageSpace does what a set of pages does", TIMEOUT, () => {
  const operation = fc.tuple(fc.constantFrom("take", "give", "withhold"), fc.nat());
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 50 }), fc.array(operation), (pages, sequence) => {
      const space = new PageSpace(pages);
      const used = new Set<number>();
      const withheld = new Set<number>();
      for (const [what, pick] of sequence) {
        const inUse = [...used];
        if (what === "take") {
          const page = space.take();
          assert.equal(page === null, used.size + withheld.size === pages);
          if (page === null) continue;
          assert.ok(page >= 0 && page < pages && !used.has(page) && !withheld.has(page));
          used.add(page);
        } else if (what === "give") {
          const all = [...used, ...withheld];
          if (all.length === 0) continue;
          const page = all[pick % all.length]!;
          space.giveBack(page);
          used.delete(page);
          withheld.delete(page);
        } else if (inUse.length > 0) {
          const page = inUse[pick % inUse.length]!;
          space.withhold(page);
          used.delete(page);
          withheld.add(page);
        }
        assert.equal(space.findFault(), null);
        assert.equal(space.usedCount, used.size);
        assert.equal(space.withheldCount, withheld.size);
      }
    }),
    { numRuns: 300 },
  );
});

/** What a memory object should be like. */
interface ModelObj {
  readonly obj: TensorMemoryObj;
  readonly physicalSizeBytes: number;
  readonly pattern: number;
  byteLength: number;
  refs: number;
  pins: number;
  holds: (() => void)[];
  /** Arrays that were handed out. */
  views: Uint8Array[];
  /** The buffer was transferred to here. */
  elsewhere: Uint8Array | null;
  freed: boolean;
}

const objectStep = fc.tuple(
  fc.constantFrom(
    "allocate",
    "allocate",
    "allocate",
    "batch",
    "look",
    "look",
    "up",
    "down",
    "down",
    "down",
    "pin",
    "unpin",
    "hold",
    "release",
    "truncate",
    "transfer",
    "free",
  ),
  fc.nat(),
  fc.integer({ min: 1, max: 30_000 }),
);

/** Drives one allocator and the model of it, and compares them after every step. */
class ObjectModel {
  readonly #pool: PoolAllocator<unknown>;
  readonly #all: ModelObj[] = [];
  readonly #maxBytes: number;
  #highWaterBytes = 0;

  constructor(pool: PoolAllocator<unknown>, maxBytes: number) {
    this.#pool = pool;
    this.#maxBytes = maxBytes;
  }

  step(what: string, pick: number, size: number): void {
    const byteLength = Math.min(size, this.#maxBytes);
    if (what === "allocate") return this.#allocate(byteLength, 1);
    if (what === "batch") return this.#allocate(byteLength, 1 + pick % 5);
    const target = this.#all[pick % Math.max(1, this.#all.length)];
    if (target === undefined) return;
    if (target.freed) return this.#useFreed(target);
    this.#use(target, what, size);
  }

  /** Releases everything, and expects all to be one free range. */
  finish(): void {
    for (const target of this.#all) {
      for (const release of target.holds.splice(0)) release();
      while (!target.freed) this.#use(target, target.refs > 0 ? "down" : "unpin", 0);
    }
    this.check();
    const { freeBytes, totalBytes } = this.#pool.stats;
    assert.equal(freeBytes, totalBytes);
  }

  check(): void {
    const live = this.#all.filter((target) => !target.freed);
    const sum = (list: ModelObj[]) => list.reduce((n, target) => n + target.physicalSizeBytes, 0);
    const stats = this.#pool.memcheck();
    this.#highWaterBytes = Math.max(this.#highWaterBytes, sum(live));
    assert.equal(stats.liveObjects, live.length);
    assert.equal(stats.usedBytes, sum(live));
    assert.equal(stats.quarantinedObjects, 0);
    assert.equal(stats.quarantinedBytes, 0);
    assert.equal(stats.freeBytes, stats.totalBytes - sum(live));
    assert.equal(stats.highWaterBytes, this.#highWaterBytes);
    assert.equal(stats.leakedObjects, 0);
    const spans = live.map(({ obj, physicalSizeBytes }) => ({
      begin: obj.offset,
      end: obj.offset + physicalSizeBytes,
    })).sort((a, b) => a.begin - b.begin);
    spans.forEach(({ begin }, i) => assert.ok(i === 0 || spans[i - 1]!.end <= begin, "no overlap"));
    for (const target of this.#all) this.#checkContent(target);
  }

  #checkContent({ obj, views, elsewhere, freed, pattern, refs, pins, holds }: ModelObj): void {
    for (const view of views) {
      if (freed || elsewhere !== null) {
        assert.equal(view.length, 0);
        assert.equal(view[0], undefined);
      } else {
        assert.ok(view.every((byte) => byte === pattern), "nobody else wrote here");
      }
    }
    const seen = freed ? 0 : pattern;
    assert.ok(elsewhere === null || elsewhere.every((byte) => byte === seen), "not its own bytes");
    assert.equal(obj.valid, !freed);
    assert.equal(obj.canEvict, !freed && refs === 1 && pins === 0 && holds.length === 0);
  }

  #allocate(byteLength: number, count: number): void {
    const before = this.#pool.stats;
    const objs = this.#pool.tryBatchedAllocate(byteLength, count);
    if (objs === null) {
      const { attemptsWithoutRoom } = this.#pool.stats;
      assert.deepEqual(this.#pool.stats, { ...before, attemptsWithoutRoom });
      assert.ok(count > 1 || before.largestFreeBytes < byteLength, "null only when it is full");
      return;
    }
    assert.equal(objs.length, count);
    for (const obj of objs) {
      assert.equal(obj.offset % this.#pool.alignBytes, 0);
      assert.ok(obj.physicalSizeBytes >= byteLength);
      this.#all.push({
        obj,
        physicalSizeBytes: obj.physicalSizeBytes,
        pattern: this.#all.length % 251,
        byteLength,
        refs: 1,
        pins: 0,
        holds: [],
        views: [],
        elsewhere: null,
        freed: false,
      });
    }
  }

  #useFreed({ obj }: ModelObj): void {
    const uses = [
      () => obj.bytes,
      () => obj.refCountUp(),
      () => obj.refCountDown(),
      () => obj.unpin(),
      () => obj.hold("late"),
      () => this.#pool.free(obj),
    ];
    for (const use of uses) assert.throws(use, shmError("EFREED"));
  }

  #use(target: ModelObj, what: string, size: number): void {
    const { obj } = target;
    switch (what) {
      case "look":
        if (target.elsewhere !== null) {
          assert.throws(() => obj.bytes, shmError("EMOVED"));
        } else {
          assert.equal(obj.bytes.length, target.byteLength);
          if (target.views.length === 0) obj.bytes.fill(target.pattern);
          target.views.push(obj.bytes);
        }
        break;
      case "transfer":
        if (target.views.length === 0 || target.elsewhere !== null) break;
        target.elsewhere = new Uint8Array(obj.bytes.buffer.transfer());
        break;
      case "truncate": {
        const byteLength = 1 + size % target.byteLength;
        obj.truncateBytes(byteLength);
        target.byteLength = byteLength;
        break;
      }
      case "up":
        obj.refCountUp();
        target.refs++;
        break;
      case "pin":
        obj.pin();
        target.pins++;
        break;
      case "hold":
        target.holds.push(obj.hold("step"));
        break;
      case "release": {
        const release = target.holds.pop();
        release?.();
        release?.();
        break;
      }
      case "down":
        this.#release(target, "refs", () => obj.refCountDown());
        break;
      case "unpin":
        this.#release(target, "pins", () => obj.unpin());
        break;
      case "free":
        if (target.refs === 1 && target.pins === 0 && target.holds.length === 0) {
          this.#pool.free(obj);
          target.freed = true;
        } else {
          assert.throws(() => this.#pool.free(obj), shmError("EBUSY"));
        }
        break;
    }
  }

  #release(target: ModelObj, what: "refs" | "pins", release: () => void): void {
    const last = target.refs + target.pins === 1;
    if (target[what] === 0) {
      assert.throws(release, shmError("EINVAL"));
    } else if (last && target.holds.length > 0) {
      assert.throws(release, shmError("EBUSY"));
    } else {
      release();
      target[what]--;
      target.freed = last;
    }
  }
}

function objectProperty(
  name: string,
  makePool: (segment: ShmSegment) => PoolAllocator<unknown>,
  maxBytes: number,
): void {
  test(name, TIMEOUT, () =>
    withoutLeaks(() => {
      fc.assert(
        fc.property(fc.array(objectStep, { maxLength: 120 }), (sequence) => {
          using segment = ShmSegment.createSync({ sizeBytes: 128 << 10, pin: "none" });
          const model = new ObjectModel(makePool(segment), maxBytes);
          for (const [what, pick, size] of sequence) {
            model.step(what, pick, size);
            model.check();
          }
          model.finish();
        }),
        { numRuns: 200 },
      );
    }));
}

objectProperty(
  "objects of TensorMemoryAllocator never overlap, and their views die with them",
  (segment) => new TensorMemoryAllocator(segment, { alignBytes: 1024 }),
  30_000,
);

objectProperty(
  "objects of PagedTensorMemoryAllocator never overlap, and their views die with them",
  (segment) => new PagedTensorMemoryAllocator(segment, { page: 10_000 }),
  10_000,
);

test("a layout's size and its tokens determine each other", TIMEOUT, () => {
  const dimension = fc.integer({ min: 1, max: 64 });
  const dtype = fc.constantFrom("half", "bfloat16", "float", "fp8_e4m3", "double" as const);
  fc.assert(
    fc.property(dimension, dimension, dimension, dimension, dtype, (l, t, d, wanted, type) => {
      const layout = TensorLayout.of({ shape: [2, l, t, d], dtype: type });
      const other = layout.withTokens(wanted);
      assert.equal(other.numTokens, wanted);
      assert.equal(other.byteLength, layout.tokenBytes! * wanted);
      assert.ok(layout.withByteLength(other.byteLength).equals(other));
      assert.ok(other.withTokens(t).equals(layout));
    }),
  );
});
