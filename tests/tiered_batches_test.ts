// SPDX-License-Identifier: Apache-2.0
//
// Small objects go between pool and store in batches: how many requests that takes, and that one
// object's failure is its own.

import assert from "node:assert/strict";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { shmError } from "./support/assertions.ts";
import { CHUNK, inStore, isFilled, newChunk, PAGE, tiered } from "./support/tiered_scene.ts";
import { MemoryConnector } from "./support/memory_connector.ts";
import { test } from "node:test";

const KEYS = Array.from({ length: 64 }, (_, i) => `k${i}`);

tiered("a batch of small objects is one request to the store", async ({ store, cold }) => {
  KEYS.forEach((key, i) => inStore(cold, key, i));
  const found = await store.batchedGet([...KEYS, "missing"], CHUNK);
  assert.deepEqual(cold.batches, [65]);
  assert.equal(found.pop(), null);
  found.forEach((obj, i) => {
    assert.ok(isFilled(obj, i), `k${i}`);
    obj!.refCountDown();
  });
  assert.equal(store.stats.loads, 65);
}, { pages: 128 });

tiered("prefetch() loads small objects in batches, as many as it may at a time", async (scene) => {
  const { store, cold } = scene;
  KEYS.forEach((key, i) => inStore(cold, key, i));
  assert.equal(await store.prefetch(KEYS, CHUNK), 64);
  assert.deepEqual(cold.batches, [16, 16, 16, 16]);
  assert.ok(cold.priorities.every((priority) => priority.endsWith(" low")));
}, { pages: 128 });

for (const mode of ["through", "behind"] as const) {
  tiered(
    `batchedPut() ${mode} stores small objects in batches, with their layouts`,
    async (scene) => {
      const { store, cold } = scene;
      const objs = KEYS.map((_, i) => newChunk(scene, i));
      await store.batchedPut(KEYS, objs, { mode });
      for (const obj of objs) obj.refCountDown();
      await store.flush();
      assert.deepEqual(cold.batches, mode === "through" ? [64] : [16, 16, 16, 16]);
      assert.equal(cold.objects.size, 64);
      assert.ok(KEYS.every((key, i) => cold.objects.get(key)!.every((byte) => byte === i)));
      assert.equal(cold.metadata.get("k9")?.["shape"], "2,1,8,128");
      assert.equal(store.stats.writeErrors, 0);
    },
    { pages: 128 },
  );

  tiered(`an object of a batch that cannot be stored fails alone (${mode})`, async (scene) => {
    const { store, cold } = scene;
    cold.before = (call) => {
      if (call !== "put k5") return;
      throw new ShmError("no room", { code: "ENOSPC", operation: call });
    };
    const objs = KEYS.map((_, i) => newChunk(scene, i));
    const putting = store.batchedPut(KEYS, objs, { mode });
    if (mode === "through") await assert.rejects(putting, shmError("ENOSPC"));
    else await putting;
    for (const obj of objs) obj.refCountDown();
    if (mode === "behind") {
      await assert.rejects(store.flush(), shmError("ENOSPC", /1 object was not/));
    }
    assert.equal(cold.objects.size, 63);
    assert.ok(!cold.objects.has("k5"));
  }, { pages: 128 });
}

tiered("an object of a batch that cannot be loaded fails alone", async ({ store, cold }) => {
  KEYS.forEach((key, i) => inStore(cold, key, i));
  cold.before = (call) => {
    if (call === "get k5") throw new ShmError("broken", { code: "EIO", operation: call });
  };
  const found = await Promise.allSettled(KEYS.map((key) => store.get(key, CHUNK)));
  for (const [i, one] of found.entries()) {
    assert.equal(one.status, i === 5 ? "rejected" : "fulfilled", `k${i}`);
    if (one.status === "fulfilled") {
      assert.ok(isFilled(one.value, i));
      one.value!.refCountDown();
    }
  }
  assert.deepEqual(cold.batches, [64]);
}, { pages: 128 });

tiered("a worker that was lost is not asked again for each object", async ({ store, cold }) => {
  KEYS.forEach((key, i) => inStore(cold, key, i));
  cold.before = () => {
    throw new ShmError("gone", { code: "EWORKER", operation: "get" });
  };
  await assert.rejects(store.batchedGet(KEYS, CHUNK), shmError("EWORKER"));
  assert.equal(cold.calls.length, 64);
}, { pages: 128 });

tiered("the signal of a batch ends it", async (scene) => {
  const { store, cold } = scene;
  const controller = new AbortController();
  const { signal } = controller;
  cold.before = () => {
    controller.abort(new Error("enough"));
    signal.throwIfAborted();
  };
  const objs = [newChunk(scene, 1), newChunk(scene, 2)];
  await assert.rejects(store.batchedPut(["a", "b"], objs, { mode: "through", signal }), /enough/);
  for (const obj of objs) obj.refCountDown();
});

test("objects of a mebibyte and more go by themselves", { timeout: 60_000 }, async () => {
  const large = 2 ** 20;
  using segment = ShmSegment.createSync({ sizeBytes: 8 * large, pin: "none" });
  const allocator = new TensorMemoryAllocator(segment);
  await using hot = new LocalCpuBackend({ allocator });
  const cold = new MemoryConnector();
  await using store = new TieredStore({ hot, cold });
  const objs = hot.tryBatchedAllocate(large, 2)!;
  const small = hot.tryBatchedAllocate(large - PAGE, 2)!;
  await store.batchedPut(["a", "b", "c", "d"], [...objs, ...small]);
  assert.deepEqual(cold.batches, [2]);
  for (const obj of [...objs, ...small]) obj.refCountDown();
  hot.clear();
  const found = await store.batchedGet(["a", "b"], large);
  for (const obj of found) obj!.refCountDown();
  assert.deepEqual(cold.batches, [2]);
});
