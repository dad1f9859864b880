// SPDX-License-Identifier: Apache-2.0
//
// LocalCpuBackend: who holds what, what is evicted and what never, waiting for memory, and the
// reasons it gives. On real segments of a few pages.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { createConfig } from "../src/config/mod.ts";
import { ShmError } from "../src/errors.ts";
import { BufferAllocator } from "../src/memory/buffer_allocator.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { MixedMemoryAllocator } from "../src/memory/mixed_allocator.ts";
import { PagedTensorMemoryAllocator } from "../src/memory/paged_allocator.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { CACHE_POLICIES } from "../src/cache/cache_policy.ts";
import { CacheEngineKey } from "../src/keys/key.ts";
import { LocalCpuBackend, type LocalCpuBackendOptions } from "../src/cache/local_cpu_backend.ts";
import { shmError } from "./support/assertions.ts";
import { effort } from "./support/effort.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { randomNumbers } from "./support/traces.ts";
import { warningsOf } from "./support/warnings.ts";

const PAGE = 4096;
const TIMEOUT = { timeout: 60_000 };

type Options = Omit<LocalCpuBackendOptions, "allocator">;

/** A tier over a pool of so many pages. All of it is freed at the end, whatever was forgotten. */
async function withTier(
  pages: number,
  body: (tier: LocalCpuBackend, pool: TensorMemoryAllocator) => void | Promise<void>,
  options: Options = {},
): Promise<void> {
  await withoutLeaks(async () => {
    using segment = ShmSegment.createSync({ sizeBytes: pages * PAGE, pin: "none" });
    const pool = new TensorMemoryAllocator(segment);
    await using tier = new LocalCpuBackend({ allocator: pool, ...options });
    await body(tier, pool);
    if (!tier.closed) tier.memcheck();
  });
}

/** A new object of so many pages under `key`, which only the tier holds. */
function fill(tier: LocalCpuBackend, key: string, pages = 1): TensorMemoryObj {
  const obj = tier.tryAllocate(pages * PAGE)!;
  assert.ok(tier.put(key, obj));
  obj.refCountDown();
  return obj;
}

function bytesFor(tier: LocalCpuBackend, pages: number): TensorMemoryObj | null {
  return tier.tryAllocate(pages * PAGE);
}

function reasonOf(error: unknown): unknown {
  assert.ok(error instanceof ShmError, String(error));
  return error.details["reason"];
}

/** The reason why so many pages cannot be had now. */
async function whyNot(tier: LocalCpuBackend, pages: number, evict = true): Promise<ShmError> {
  try {
    (await tier.allocate(pages * PAGE, { evict, timeoutMs: 0 })).refCountDown();
  } catch (error) {
    assert.ok(error instanceof ShmError && error.code === "ENOSPC", String(error));
    return error;
  }
  throw new assert.AssertionError({ message: `${pages} pages fit` });
}

test(
  "put() takes a reference, get() gives one, and the bytes are the same",
  TIMEOUT,
  () =>
    withTier(4, (tier, pool) => {
      const obj = tier.tryAllocate({ shape: [2, 1, 4, 8], dtype: "bfloat16" })!;
      obj.bytes.fill(7);
      assert.equal(tier.put("a", obj), true);
      assert.equal(obj.refCount, 2);
      obj.refCountDown();
      {
        using found = tier.get("a");
        assert.equal(found, obj);
        assert.equal(found?.refCount, 2);
        assert.deepEqual(found?.shape, [2, 1, 4, 8]);
        assert.ok(found?.bytes.every((byte) => byte === 7));
      }
      assert.equal(obj.refCount, 1);
      assert.equal(tier.get("b"), null);
      assert.equal(tier.get("a"), obj);
      obj.refCountDown();
      const { hits, misses, puts, objects, bytes } = tier.stats;
      assert.deepEqual({ hits, misses, puts, objects, bytes }, {
        hits: 2,
        misses: 1,
        puts: 1,
        objects: 1,
        bytes: PAGE,
      });
      assert.equal(tier.remove("a"), true);
      assert.equal(obj.valid, false);
      assert.equal(pool.stats.liveObjects, 0);
    }),
);

test("a CacheEngineKey and its text are the same key", TIMEOUT, () =>
  withTier(4, (tier) => {
    const key = new CacheEngineKey({
      model: "org/model",
      worldSize: 1,
      workerId: 0,
      chunkHash: 255n,
      dtype: "bfloat16",
    });
    const obj = tier.tryAllocate(PAGE)!;
    assert.ok(tier.submitPutTask(key, obj));
    obj.refCountDown();
    assert.ok(tier.exists("org/model@1@0@ff@bfloat16"));
    assert.ok(tier.exists(CacheEngineKey.parse("org/model@1@0@ff@bfloat16")));
    assert.deepEqual(tier.getKeys(), [key.toString()]);
    assert.throws(
      () => tier.exists(3 as unknown as string),
      /a key must be a string, a CacheEngineKey or an ObjectKey, got 3/,
    );
  }));

test(
  "put() of a key that is there replaces the object, and who has the old one keeps it",
  TIMEOUT,
  () =>
    withTier(4, (tier, pool) => {
      const first = fill(tier, "a");
      first.refCountUp();
      first.bytes.fill(1);
      using second = tier.tryAllocate(2 * PAGE)!;
      assert.equal(tier.put("a", second), true);
      assert.deepEqual([first.refCount, second.refCount], [1, 2]);
      assert.ok(first.bytes.every((byte) => byte === 1));
      {
        using found = tier.get("a");
        assert.equal(found, second);
      }
      assert.equal(tier.put("a", second), false, "it is there already");
      assert.equal(second.refCount, 2);
      const { objects, bytes, puts, duplicatePuts, evictions, removals } = tier.stats;
      assert.deepEqual({ objects, bytes, puts, duplicatePuts, evictions, removals }, {
        objects: 1,
        bytes: 2 * PAGE,
        puts: 2,
        duplicatePuts: 2,
        evictions: 0,
        removals: 0,
      });
      tier.memcheck();
      first.refCountDown();
      assert.equal(pool.stats.liveObjects, 1);
      const third = fill(tier, "a");
      assert.equal(second.refCount, 1, "not the tier's any more");
      assert.ok(third.canEvict);
      tier.memcheck();
    }),
);

test(
  "what replaces an object has the pins of its key, and can be evicted after them",
  TIMEOUT,
  () =>
    withTier(2, (tier) => {
      const old = fill(tier, "a");
      tier.pin("a");
      tier.pin("a");
      old.pin();
      const young = fill(tier, "a");
      assert.deepEqual([old.pinCount, young.pinCount], [1, 2], "one pin was placed on the object");
      tier.memcheck();
      assert.equal(bytesFor(tier, 1), null);
      old.unpin();
      assert.equal(old.valid, false);
      assert.ok(tier.unpin("a") && tier.unpin("a") && !tier.unpin("a"));
      bytesFor(tier, 2)!.refCountDown();
      assert.equal(tier.size, 0);
    }),
);

test(
  "an object that was in use and was replaced is not evicted for its key",
  TIMEOUT,
  () =>
    withTier(3, (tier) => {
      const old = fill(tier, "a");
      old.refCountUp();
      assert.equal(bytesFor(tier, 3), null, "it is passed over");
      const young = fill(tier, "a");
      young.refCountUp();
      old.refCountDown();
      assert.equal(old.valid, false);
      assert.equal(bytesFor(tier, 3), null);
      young.refCountDown();
      bytesFor(tier, 3)!.refCountDown();
      tier.memcheck();
    }),
);

for (const policy of CACHE_POLICIES) {
  test(
    `${policy}: the books add up however often objects are replaced`,
    TIMEOUT,
    () =>
      withTier(12, (tier) => {
        const kept: TensorMemoryObj[] = [];
        for (let i = 0; i < 300; i++) {
          const obj = tier.tryAllocate((1 + i % 2) * PAGE)!;
          tier.put("abc"[i * 7 % 3]!, obj);
          if (i % 5 === 0) kept.push(obj);
          else obj.refCountDown();
          if (kept.length > 2) kept.shift()!.refCountDown();
          if (i % 4 === 0) tier.get("abc"[i % 3]!)?.refCountDown();
          tier.memcheck();
        }
        for (const obj of kept) obj.refCountDown();
        const { objects } = tier.stats;
        assert.equal(tier.clear(), objects);
        assert.equal(tier.stats.allocator.liveObjects, 0);
      }, { cachePolicy: policy }),
  );
}

test(
  "submitPutTask() leaves what the key has, as LMCache does",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      const first = fill(tier, "a");
      using second = tier.tryAllocate(PAGE)!;
      assert.equal(tier.submitPutTask("a", second), false);
      assert.equal(second.refCount, 1);
      using found = tier.get("a");
      assert.equal(found, first);
      assert.equal(tier.stats.duplicatePuts, 1);
    }),
);

test("batchedPut() of one key twice keeps the last object", TIMEOUT, () =>
  withTier(4, (tier) => {
    const [a, b, c] = ["1", "2", "3"].map(() => tier.tryAllocate(PAGE)!);
    assert.equal(tier.batchedPut(["k", "other", "k"], [a!, b!, c!]), 2);
    for (const obj of [a!, b!, c!]) obj.refCountDown();
    assert.equal(a!.valid, false);
    using found = tier.get("k");
    assert.equal(found, c);
  }));

test("put() refuses what it could not evict", TIMEOUT, () =>
  withTier(4, (tier) => {
    using foreign = new BufferAllocator().allocate({ shape: [8], dtype: "uint8" });
    assert.throws(() => tier.put("a", foreign as unknown as TensorMemoryObj), TypeError);
    assert.throws(() => tier.put("a", {} as TensorMemoryObj), /memory objects of its pool/);
    using segment = ShmSegment.createSync({ sizeBytes: PAGE, pin: "none" });
    using other = new TensorMemoryAllocator(segment).allocate(8);
    assert.throws(() => tier.put("a", other), /another allocator's/);
    const freed = tier.tryAllocate(8)!;
    freed.refCountDown();
    assert.throws(() => tier.put("a", freed), shmError("EFREED"));
    const obj = fill(tier, "a");
    assert.throws(() => tier.put("b", obj), shmError("EEXIST", /has another key already/));
    assert.equal(tier.size, 1);
    assert.throws(() => tier.batchedPut(["x"], []), RangeError);
    assert.throws(
      () => tier.tryAllocate({ shape: [8], dtype: "uint8", format: "BINARY_BUFFER" }),
      TypeError,
    );
  }));

test(
  "allocate() evicts in the policy's order, and only as much as it must",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      for (const key of "abcd") fill(tier, key);
      tier.get("a")?.refCountDown();
      bytesFor(tier, 1)!.refCountDown();
      assert.deepEqual(tier.getKeys(), ["a", "c", "d"]);
      bytesFor(tier, 1)!.refCountDown();
      assert.equal(tier.size, 3, "free memory was used first");
      bytesFor(tier, 3)?.refCountDown();
      assert.deepEqual(tier.getKeys(), ["a"]);
      const { evictions, evictedBytes } = tier.stats;
      assert.deepEqual({ evictions, evictedBytes }, { evictions: 3, evictedBytes: 3 * PAGE });
    }),
);

test(
  "what is referenced, pinned or in transfer is never evicted",
  TIMEOUT,
  () =>
    withTier(4, async (tier) => {
      const a = fill(tier, "a");
      fill(tier, "b");
      const c = fill(tier, "c");
      fill(tier, "d");
      a.refCountUp();
      assert.ok(tier.pin("b"));
      const done = c.hold("put c");
      const obj = bytesFor(tier, 1);
      assert.ok(obj, "d is evicted");
      assert.deepEqual(tier.getKeys(), ["a", "b", "c"]);
      const why = await whyNot(tier, 1);
      assert.equal(reasonOf(why), "in-use");
      assert.match(
        why.message,
        /of 3 cached objects 1 are referenced, 1 pinned, 1 in transfer; 1 /,
      );
      assert.equal(tier.size, 3);
      done();
      bytesFor(tier, 1)!.refCountDown();
      assert.deepEqual(tier.getKeys(), ["a", "b"]);
      assert.ok(tier.unpin("b"));
      a.refCountDown();
      obj.refCountDown();
      bytesFor(tier, 4)!.refCountDown();
      assert.equal(tier.size, 0);
    }),
);

test(
  "an object in use keeps its place in the order until it is not",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      for (const key of "abcd") fill(tier, key);
      tier.pin("a");
      const obj = bytesFor(tier, 1)!;
      assert.deepEqual(tier.getKeys(), ["a", "c", "d"], "a was passed over");
      tier.unpin("a");
      using next = bytesFor(tier, 1)!;
      assert.ok(next);
      assert.deepEqual(tier.getKeys(), ["c", "d"], "a was the oldest");
      obj.refCountDown();
    }, { cachePolicy: "FIFO" }),
);

test("allocate() says why there is no memory", TIMEOUT, () =>
  withTier(8, async (tier) => {
    const large = await whyNot(tier, 9);
    assert.equal(reasonOf(large), "too-large");
    assert.match(large.message, /no 36864 bytes for .*: the pool has 32768 .*Make the pool larger/);
    for (const key of "abcdefgh") fill(tier, key);
    assert.equal(reasonOf(await whyNot(tier, 1, false)), "not-evicting");
    assert.equal(tier.size, 8, "nothing was evicted for what cannot be");
    for (const key of "bdfh") tier.pin(key);
    const fragmented = await whyNot(tier, 2);
    assert.equal(reasonOf(fragmented), "fragmented");
    assert.match(fragmented.message, /16384 are free, but the largest range has 4096/);
    assert.equal(fragmented.details["pinnedObjects"], 4);
    using all = bytesFor(tier, 1);
    assert.ok(all);
    using more = bytesFor(tier, 1);
    assert.ok(more);
    const inUse = await whyNot(tier, 4);
    assert.equal(reasonOf(inUse), "in-use");
    assert.equal(inUse.details["otherObjects"], 2);
    assert.equal(tier.stats.requestsWithoutRoom, 4);
    for (const key of "bdfh") tier.unpin(key);
  }));

test(
  "tryAllocate() gives null where allocate() throws, and refuses nonsense",
  TIMEOUT,
  () =>
    withTier(2, (tier) => {
      assert.equal(bytesFor(tier, 3), null);
      assert.throws(() => tier.tryAllocate(-1), RangeError);
      assert.throws(
        () => tier.tryAllocate(1, { evcit: false } as object),
        /has no option "evcit"/,
      );
      assert.throws(() => tier.tryBatchedAllocate(1, 0), RangeError);
      assert.throws(() => new LocalCpuBackend({ allocator: null as never }), TypeError);
      const { allocator } = tier;
      assert.throws(
        () => new LocalCpuBackend({ allocator, cachePolicy: "ARC" }),
        /must be one of LRU/,
      );
      assert.throws(() => new LocalCpuBackend({ allocator, hotTier: 1 as never }), TypeError);
      assert.throws(() => new LocalCpuBackend({ allocator, blockingTimeoutMs: 0 }), RangeError);
    }),
);

test(
  "tryBatchedAllocate() evicts for all of its objects, or gives none",
  TIMEOUT,
  () =>
    withTier(8, (tier, pool) => {
      for (const key of "abcdefgh") fill(tier, key);
      tier.pin("a");
      assert.equal(tier.tryBatchedAllocate(PAGE, 8), null);
      assert.equal(pool.stats.liveObjects, tier.size);
      const objs = tier.tryBatchedAllocate(PAGE, 7);
      assert.equal(objs?.length, 7);
      assert.deepEqual(tier.getKeys(), ["a"]);
      for (const obj of objs ?? []) obj.refCountDown();
      tier.unpin("a");
    }),
);

test(
  "objects of many sizes: evicts until there is one range that is large enough",
  TIMEOUT,
  () =>
    withTier(64, (tier) => {
      const random = randomNumbers(3);
      for (let i = 0; i < 2000; i++) {
        const obj = bytesFor(tier, 1 + Math.floor(random() * 16));
        assert.ok(obj, `object ${i}`);
        tier.put(`key ${i}`, obj);
        obj.refCountDown();
        if (i % 100 === 0) tier.memcheck();
      }
      assert.ok(tier.size > 1);
    }),
);

test(
  "works over pages, and says at once what is larger than one",
  TIMEOUT,
  () =>
    withoutLeaks(async () => {
      using segment = ShmSegment.createSync({ sizeBytes: 4 * PAGE, pin: "none" });
      const allocator = new PagedTensorMemoryAllocator(segment, {
        page: PAGE,
      });
      await using tier = new LocalCpuBackend({ allocator });
      for (const key of "abcdef") fill(tier, key);
      assert.deepEqual(tier.getKeys(), ["c", "d", "e", "f"]);
      assert.throws(() => bytesFor(tier, 2), RangeError);
      assert.equal(tier.size, 4);
    }),
);

test(
  "batchedGet() and batchedPut() let the beginning of a sequence outlive its end",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      const keys = ["chunk 0", "chunk 1", "chunk 2", "chunk 3"];
      const objs = keys.map(() => tier.tryAllocate(PAGE)!);
      assert.equal(tier.batchedPut(keys, objs), 4);
      assert.equal(tier.batchedPut(keys, objs), 0);
      for (const obj of objs) obj.refCountDown();
      bytesFor(tier, 1)!.refCountDown();
      assert.equal(tier.batchedContains(keys), 3);
      const found = tier.batchedGet(keys);
      assert.deepEqual(found, [objs[0], objs[1], objs[2], null]);
      assert.deepEqual(found.map((obj) => obj?.refCount), [2, 2, 2, undefined]);
      for (const obj of found) obj?.refCountDown();
      assert.equal(tier.stats.hits, 3);
      assert.equal(tier.stats.misses, 1);
      bytesFor(tier, 2)!.refCountDown();
      assert.equal(tier.batchedContains(keys), 2);
    }),
);

test(
  "batchedContains() counts the leading run, and pins it if asked",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      for (const key of "abd") fill(tier, key);
      assert.equal(tier.batchedContains([..."abcd"]), 2);
      assert.equal(tier.batchedContains([]), 0);
      assert.equal(tier.batchedContains([..."abd"]), 3);
      assert.equal(tier.batchedContains([..."abcd"], { pin: true }), 2);
      bytesFor(tier, 2)!.refCountDown();
      assert.deepEqual(tier.getKeys(), ["a", "b"]);
      assert.equal(tier.stats.hits + tier.stats.misses, 0);
      assert.ok(tier.unpin("a") && tier.unpin("b"));
      assert.equal(tier.unpin("b"), false, "one unpin for each pin");
      assert.equal(tier.pin("zzz"), false);
      assert.equal(tier.unpin("zzz"), false);
    }),
);

test(
  "remove() ends the pins of its key, and without force spares what is used",
  TIMEOUT,
  () =>
    withTier(4, (tier, pool) => {
      fill(tier, "a");
      tier.pin("a");
      tier.pin("a");
      assert.equal(tier.remove("a", { force: false }), false);
      assert.equal(tier.remove("a"), true);
      assert.equal(pool.stats.liveObjects, 0);
      assert.equal(tier.remove("a"), false);

      const used = fill(tier, "b");
      used.refCountUp();
      assert.equal(tier.remove("b", { force: false }), false);
      assert.equal(tier.remove("b", { force: true }), true);
      assert.equal(used.valid, true, "who has a reference keeps it");
      used.refCountDown();

      const moving = fill(tier, "c");
      const done = moving.hold("put c");
      assert.equal(tier.remove("c"), true);
      assert.equal(moving.valid, true, "I/O goes on");
      done();
      assert.equal(moving.valid, false);
      for (const key of "de") fill(tier, key);
      assert.equal(tier.batchedRemove(["d", "e", "f"]), 2);
      assert.equal(tier.stats.removals, 5);
    }),
);

test("clear() removes what nobody uses, and says how many", TIMEOUT, () =>
  withTier(8, (tier) => {
    for (const key of "abcde") fill(tier, key);
    tier.pin("b");
    using d = tier.get("d");
    assert.ok(d);
    let told = 0;
    tier.onEvict(() => told++);
    assert.equal(tier.clear(), 3);
    assert.deepEqual(tier.getKeys(), ["b", "d"]);
    assert.equal(told, 0);
    tier.unpin("b");
    assert.equal(tier.clear(), 1);
  }));

test(
  "onEvict() tells key and object while it can still be kept",
  TIMEOUT,
  () =>
    withTier(2, (tier) => {
      const told: string[] = [];
      const stop = tier.onEvict((key, obj) => told.push(`${key} ${obj.bytes[0]} ${obj.refCount}`));
      fill(tier, "a").bytes.fill(42);
      fill(tier, "b");
      bytesFor(tier, 1)!.refCountDown();
      assert.deepEqual(told, ["a 42 1"]);
      stop();
      bytesFor(tier, 2)!.refCountDown();
      assert.equal(told.length, 1);
    }),
);

test(
  "what a listener keeps is waited for, not replaced by more evictions",
  TIMEOUT,
  () =>
    withTier(8, async (tier) => {
      const kept: TensorMemoryObj[] = [];
      tier.onEvict((_, obj) => {
        obj.refCountUp();
        kept.push(obj);
      });
      for (const key of "abcdefgh") fill(tier, key);
      assert.equal(bytesFor(tier, 2), null);
      assert.equal(kept.length, 2);
      const pending = tier.allocate(2 * PAGE);
      await sleep(5);
      assert.equal(kept.length, 4, "evicts for itself, and no more");
      for (const obj of kept.splice(0)) obj.refCountDown();
      (await pending).refCountDown();
      assert.equal(tier.size, 4);
      kept.length = 0;
      for (const key of "abcd") fill(tier, key);
      assert.equal(reasonOf(await whyNot(tier, 2)), "retained");
      for (const obj of kept) obj.refCountDown();
    }),
);

test(
  "a listener that throws stops neither the eviction nor other listeners",
  TIMEOUT,
  () =>
    withTier(2, async (tier, pool) => {
      const told: string[] = [];
      const warnings = await warningsOf(() => {
        tier.onEvict(() => {
          throw new Error("from the listener");
        });
        tier.onEvict(async () => {
          await Promise.resolve();
          throw new Error("from the promise");
        });
        tier.onEvict((key) => told.push(key));
        for (const key of "ab") fill(tier, key);
        bytesFor(tier, 1)!.refCountDown();
      });
      assert.deepEqual(told, ["a"]);
      assert.deepEqual([tier.size, pool.stats.liveObjects], [1, 1]);
      assert.deepEqual(warnings, [
        "a listener of onEvict() failed: from the listener",
        "a listener of onEvict() failed: from the promise",
      ]);
    }),
);

test(
  "a listener may use the object without a reference of its own, by hold()",
  TIMEOUT,
  () =>
    withTier(1, (tier) => {
      let done = () => {};
      tier.onEvict((_, obj) => done = obj.hold("write behind"));
      const a = fill(tier, "a");
      assert.equal(bytesFor(tier, 1), null);
      assert.equal(a.valid, true);
      done();
      assert.equal(a.valid, false);
      bytesFor(tier, 1)!.refCountDown();
    }),
);

/** Ways in which memory becomes available; each gets a full tier and returns what gives some. */
const RELEASES: Record<string, (tier: LocalCpuBackend) => () => void> = {
  "a reference is released": (tier) => {
    const a = tier.get("a")!;
    return () => a.refCountDown();
  },
  "a pin by key is ended": (tier) => {
    tier.pin("a");
    return () => void tier.unpin("a");
  },
  "a pin of the object is ended": (tier) => {
    using a = tier.get("a")!;
    a.pin();
    return () => a.unpin();
  },
  "a transfer ends": (tier) => {
    using a = tier.get("a")!;
    return a.hold("get a");
  },
  "an object in use is removed and released": (tier) => {
    const a = tier.get("a")!;
    return () => {
      tier.remove("a");
      a.refCountDown();
    };
  },
  "an object that is not cached is freed": (tier) => {
    tier.remove("a");
    const obj = tier.tryAllocate(PAGE)!;
    return () => obj.refCountDown();
  },
  "an object that is not cached is put and released": (tier) => {
    tier.remove("a");
    const obj = tier.tryAllocate(PAGE)!;
    return () => {
      tier.put("new", obj);
      obj.refCountDown();
    };
  },
  "an object that is not cached is put, and released later": (tier) => {
    tier.remove("a");
    const obj = tier.tryAllocate(PAGE)!;
    return () => {
      tier.put("new", obj);
      setTimeout(() => obj.refCountDown(), 5);
    };
  },
};

for (const [what, occupy] of Object.entries(RELEASES)) {
  test(
    `allocate() gets its memory when ${what}`,
    TIMEOUT,
    () =>
      withTier(2, async (tier, pool) => {
        fill(tier, "a");
        fill(tier, "b");
        const free = occupy(tier);
        using b = tier.get("b");
        assert.ok(b);
        const pending = tier.allocate(PAGE, { timeoutMs: 30_000 });
        await sleep(10);
        const attempts = pool.stats.attemptsWithoutRoom;
        assert.equal(tier.stats.waiting, 1);
        await sleep(30);
        assert.equal(pool.stats.attemptsWithoutRoom, attempts, "waiting is not polling");
        free();
        using obj = await pending;
        assert.equal(obj.refCount, 1);
        assert.equal(tier.stats.waiting, 0);
        assert.equal(tier.stats.waits, 1);
        tier.memcheck();
      }),
  );
}

test("allocate() does not wait where it need not", TIMEOUT, () =>
  withTier(2, async (tier) => {
    for (const key of "ab") fill(tier, key);
    using obj = await tier.allocate(2 * PAGE);
    assert.ok(obj.valid);
    assert.equal(tier.stats.waits, 0);
    assert.equal(tier.size, 0);
  }));

test(
  "allocate() serves those who wait in their order, the large one first",
  TIMEOUT,
  () =>
    withTier(4, async (tier) => {
      const held = tier.tryBatchedAllocate(PAGE, 4)!;
      const order: string[] = [];
      const wait = async (name: string, pages: number) => {
        const obj = await tier.allocate(pages * PAGE);
        order.push(name);
        return obj;
      };
      const waiting = [wait("large", 4), wait("small", 1), wait("smaller", 1)];
      for (const obj of held) {
        await sleep(1);
        assert.deepEqual(order, []);
        obj.refCountDown();
      }
      const large = await waiting[0]!;
      await sleep(1);
      assert.deepEqual(order, ["large"]);
      large.refCountDown();
      for (const obj of await Promise.all(waiting.slice(1))) obj.refCountDown();
      assert.deepEqual(order, ["large", "small", "smaller"]);
    }),
);

test(
  "allocate() times out with the reason, and lets the next one try",
  TIMEOUT,
  () =>
    withTier(4, async (tier) => {
      const held = tier.tryBatchedAllocate(PAGE, 3)!;
      const large = tier.allocate(4 * PAGE, { timeoutMs: 20 });
      const small = tier.allocate(PAGE);
      await assert.rejects(large, (error) => {
        shmError("ETIMEDOUT", /no 16384 bytes .* within 20 ms: 4096 of 16384 are free/)(error);
        assert.equal(reasonOf(error), "in-use");
        return true;
      });
      (await small).refCountDown();
      assert.equal(tier.stats.requestsWithoutRoom, 1);
      for (const obj of held) obj.refCountDown();
    }),
);

test(
  "allocate() uses the tier's own limit when it is not told one",
  TIMEOUT,
  () =>
    withTier(1, async (tier) => {
      using held = bytesFor(tier, 1);
      assert.ok(held);
      await assert.rejects(
        tier.allocate(PAGE),
        shmError("ETIMEDOUT", /within 15 ms/),
      );
      await assert.rejects(
        tier.batchedAllocate(1, 1, { timeoutMs: -1 }),
        RangeError,
      );
    }, { blockingTimeoutMs: 15 }),
);

test(
  "allocate() ends at once for what can never fit, and by its signal",
  TIMEOUT,
  () =>
    withTier(2, async (tier) => {
      await assert.rejects(tier.allocate(3 * PAGE), (error) => {
        assert.equal(reasonOf(error), "too-large");
        return true;
      });
      using held = bytesFor(tier, 2);
      assert.ok(held);
      const controller = new AbortController();
      const pending = tier.allocate(PAGE, { signal: controller.signal });
      const reason = new Error("not needed any more");
      controller.abort(reason);
      await assert.rejects(pending, (error) => error === reason);
      await assert.rejects(
        tier.allocate(PAGE, { signal: controller.signal }),
        (error) => error === reason,
      );
      assert.equal(tier.stats.waiting, 0);
      const wrong = { signal: {} as AbortSignal };
      await assert.rejects(tier.allocate(PAGE, wrong), TypeError);
    }),
);

test(
  "batchedAllocate() waits for all of its objects",
  TIMEOUT,
  () =>
    withTier(4, async (tier) => {
      const held = tier.tryBatchedAllocate(PAGE, 4)!;
      const pending = tier.batchedAllocate(PAGE, 3);
      for (const obj of held) obj.refCountDown();
      const objs = await pending;
      assert.equal(objs.length, 3);
      for (const obj of objs) obj.refCountDown();
    }),
);

test(
  "close() ends all waiting and lets go of everything; further calls say EBADF",
  TIMEOUT,
  () =>
    withTier(2, async (tier, pool) => {
      fill(tier, "a");
      using b = bytesFor(tier, 1);
      tier.pin("a");
      const pending = tier.allocate(PAGE);
      const ended = assert.rejects(pending, shmError("ECANCELED"));
      await tier.close();
      await ended;
      await tier.close();
      assert.equal(pool.stats.liveObjects, 1, "pins of keys end, references do not");
      assert.ok(b?.valid);
      for (
        const call of [
          () => tier.get("a"),
          () => tier.put("c", b!),
          () => tier.exists("a"),
          () => tier.tryAllocate(1),
          () => tier.tryBatchedAllocate(1, 1),
          () => tier.clear(),
          () => tier.memcheck(),
        ]
      ) assert.throws(call, shmError("EBADF", /hot tier is closed/));
      await assert.rejects(tier.allocate(1), shmError("EBADF"));
    }),
);

test("without a hot tier it only allocates", TIMEOUT, () =>
  withTier(2, async (tier) => {
    const obj = bytesFor(tier, 2);
    assert.ok(obj);
    assert.equal(tier.put("a", obj), false);
    assert.equal(tier.get("a"), null);
    assert.equal(obj.refCount, 1);
    assert.equal(reasonOf(await whyNot(tier, 1)), "not-evicting");
    obj.refCountDown();
  }, { hotTier: false }));

test(
  "an object that was freed under the tier is a miss, and memcheck() says so",
  TIMEOUT,
  () =>
    withTier(4, (tier) => {
      const a = fill(tier, "a");
      const b = fill(tier, "b");
      a.refCountDown();
      b.refCountDown();
      assert.throws(() => tier.memcheck(), shmError("ECORRUPT", /"a": .* was freed under/));
      assert.equal(tier.get("a"), null);
      bytesFor(tier, 4)!.refCountDown();
      const { lost, misses, objects, evictions } = tier.stats;
      assert.deepEqual({ lost, misses, objects, evictions }, {
        lost: 1,
        misses: 1,
        objects: 1,
        evictions: 0,
      });
      assert.equal(tier.exists("b"), false);
      assert.equal(tier.stats.lost, 2);
    }),
);

test(
  "fromConfig() makes shared memory when there is a name, and owns it",
  TIMEOUT,
  () =>
    withoutLeaks(async () => {
      const shmName = `/${uniqueName("hot")}`;
      const config = createConfig({
        shmName,
        poolSizeBytes: 16 * PAGE,
        pin: "none",
        cachePolicy: "S3FIFO",
        alignBytes: 8192,
      });
      const tier = await LocalCpuBackend.fromConfig(config);
      assert.ok(tier.allocator instanceof MixedMemoryAllocator);
      assert.equal(tier.allocator.name, shmName);
      assert.equal(tier.cachePolicy, "S3FIFO");
      assert.ok(readdirSync("/dev/shm").includes(shmName.slice(1)));
      const obj = fill(tier, "a");
      assert.equal(obj.physicalSizeBytes, 8192);
      const done = obj.hold("put a");
      await assert.rejects(tier.close(), shmError("EBUSY"));
      assert.ok(tier.exists("a"), "nothing has happened");
      done();
      await tier.close();
      assert.equal(obj.valid, false);
      assert.ok(!readdirSync("/dev/shm").includes(shmName.slice(1)));
    }),
);

test(
  "create() makes a tier and its pool from options, or leaves nothing behind",
  TIMEOUT,
  () =>
    withoutLeaks(async () => {
      const name = uniqueName("created");
      const options = { name, sizeBytes: 4 * PAGE, pin: "none", alignBytes: 8192 } as const;
      await using tier = await LocalCpuBackend.create({ ...options, cachePolicy: "MRU" });
      assert.equal(tier.segment.name, `/${name}`);
      assert.equal(tier.cachePolicy, "MRU");
      assert.equal(tier.tryAllocate(1)?.physicalSizeBytes, 8192);
      await tier.close();
      for (
        const wrong of [{ blockingTimeoutMs: 0 }, { hotTier: 1 }, { page: 0 }, { sizeBytes: 0 }]
      ) {
        await assert.rejects(
          LocalCpuBackend.create({ ...options, ...wrong } as typeof options),
          /TypeError|RangeError/,
        );
      }
      await assert.rejects(
        LocalCpuBackend.create({ ...options, shmName: "x" } as typeof options),
        /TypeError: LocalCpuBackend.create has no option "shmName"/,
      );
      assert.ok(!readdirSync("/dev/shm").includes(name));
    }),
);

test("fromConfig() without a name makes no shared memory", TIMEOUT, () =>
  withoutLeaks(async () => {
    const before = readdirSync("/dev/shm").filter((name) => name.startsWith("lmshm"));
    const config = createConfig({ poolSizeBytes: 4 * PAGE, pin: "none", hotTier: false });
    await using tier = await LocalCpuBackend.fromConfig(config);
    assert.ok(tier.allocator instanceof MixedMemoryAllocator);
    assert.equal(tier.allocator.name, null);
    assert.equal(tier.hotTier, false);
    const after = readdirSync("/dev/shm").filter((name) => name.startsWith("lmshm"));
    assert.deepEqual(after.filter((name) => !before.includes(name)), []);
  }));

/** What a random user holds, to be compared with what the tier says. */
class Holder {
  readonly #tier: LocalCpuBackend;
  readonly #held: { obj: TensorMemoryObj; mark: number; release: () => void }[] = [];
  #mark = 0;

  constructor(tier: LocalCpuBackend) {
    this.#tier = tier;
  }

  apply(operation: string, number: number): void {
    const key = `key ${number % 12}`;
    switch (operation) {
      case "load": {
        const obj = this.#tier.get(key) ?? this.#load(key, 1 + number % 3);
        if (obj !== null) this.#keep(obj, () => obj.refCountDown());
        break;
      }
      case "pin": {
        if (!this.#tier.pin(key)) break;
        using obj = this.#tier.get(key)!;
        // By the object: the key may be removed meanwhile, which ends the pins of the key.
        obj.pin();
        this.#tier.unpin(key);
        this.#keep(obj, () => obj.unpin());
        break;
      }
      case "hold": {
        using obj = this.#tier.get(key);
        if (obj === null) break;
        const mine = obj;
        mine.refCountUp();
        const done = mine.hold("test");
        this.#keep(mine, () => {
          done();
          mine.refCountDown();
        });
        break;
      }
      case "remove":
        this.#tier.remove(key, { force: number % 2 === 0 });
        break;
      case "clear":
        this.#tier.clear();
        break;
      case "release": {
        const [entry] = this.#held.splice(number % Math.max(1, this.#held.length), 1);
        entry?.release();
        break;
      }
    }
    this.#check();
  }

  releaseAll(): void {
    for (const { release } of this.#held.splice(0)) release();
  }

  #load(key: string, pages: number): TensorMemoryObj | null {
    const obj = bytesFor(this.#tier, pages);
    if (obj === null) return null;
    obj.bytes.fill(++this.#mark % 256);
    assert.ok(this.#tier.put(key, obj));
    return obj;
  }

  #keep(obj: TensorMemoryObj, release: () => void): void {
    this.#held.push({ obj, mark: obj.bytes[0]!, release });
  }

  /** What is held is there, and nobody has written into it. */
  #check(): void {
    for (const { obj, mark } of this.#held) {
      assert.ok(obj.valid);
      assert.equal(obj.bytes[0], mark);
      assert.equal(obj.bytes.at(-1), mark);
    }
    this.#tier.memcheck();
  }
}

for (const policy of CACHE_POLICIES) {
  test(
    `${policy}: whatever is done, what is held stays, and the books add up`,
    { timeout: 120_000 },
    () =>
      withTier(16, (tier, pool) => {
        const operation = fc.tuple(
          fc.constantFrom("load", "load", "load", "release", "release", "pin", "hold", "remove"),
          fc.nat(1000),
        );
        const rarely = fc.tuple(fc.constant("clear"), fc.constant(0));
        const sequence = fc.array(
          fc.oneof({ weight: 40, arbitrary: operation }, { weight: 1, arbitrary: rarely }),
          { maxLength: 150, size: "max" },
        );
        fc.assert(
          fc.property(sequence, (operations) => {
            const holder = new Holder(tier);
            for (const [what, number] of operations) holder.apply(what, number);
            holder.releaseAll();
            const all = bytesFor(tier, 16);
            assert.ok(all, "everything can be evicted");
            all.refCountDown();
            assert.equal(tier.size, 0);
            assert.equal(pool.stats.liveObjects, 0);
          }),
          { numRuns: 60 },
        );
      }, { cachePolicy: policy }),
  );
}

test(
  "soak: many times the pool goes through, with waiting, and nothing is left",
  { timeout: 600_000 },
  () =>
    withTier(100, async (tier, pool) => {
      const random = randomNumbers(7);
      const rounds = effort(200, 800);
      const worker = async (): Promise<void> => {
        for (let i = 0; i < rounds; i++) {
          const key = `chunk ${Math.floor(1000 * random() ** 2)}`;
          let obj = tier.get(key);
          if (obj === null) {
            obj = await tier.allocate(PAGE);
            obj.bytes.fill(1);
            tier.put(key, obj);
          }
          if (random() < 0.3) await Promise.resolve();
          obj.refCountDown();
        }
      };
      // More at once than there are pages, so that some have to wait.
      const workers = Array.from({ length: 150 }, worker);
      const checks = setInterval(() => tier.memcheck(), 5);
      await Promise.all(workers);
      clearInterval(checks);
      const { hits, misses, evictions, waiting, objects } = tier.stats;
      assert.equal(hits + misses, 150 * rounds);
      assert.ok(evictions > 100 && waiting === 0);
      assert.equal(pool.stats.liveObjects, objects);
      assert.equal(tier.clear(), objects);
      assert.equal(pool.stats.usedBytes, 0);
    }),
);
