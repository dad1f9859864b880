// SPDX-License-Identifier: Apache-2.0
//
// TieredStore: put() with ifAbsent leaves both tiers as they are where get() would find an object, in
// the pool, in the queue or in the store. One case each; tiered_linearizable_test.ts looks for the rest.

import assert from "node:assert/strict";
import { ShmError } from "../src/errors.ts";
import { shmError } from "./support/assertions.ts";
import { CHUNK, gate, inStore, newChunk, put, type Scene, tiered } from "./support/tiered_scene.ts";

const THROUGH = { writeMode: "through", ifAbsent: true } as const;

/** put() with ifAbsent of a new chunk, which is released. */
async function putAbsent(scene: Scene, key: string, fill: number): Promise<boolean> {
  using obj = newChunk(scene, fill);
  return await scene.store.put(key, obj, THROUGH);
}

/** What get() gives: the byte that fills it, or null. */
async function got({ store }: Scene, key: string): Promise<number | null> {
  using obj = await store.get(key, CHUNK);
  return obj === null ? null : obj.bytes[0]!;
}

tiered("an absent object is put into both tiers", async (scene) => {
  const { hot, cold } = scene;
  assert.equal(await putAbsent(scene, "k", 1), true);
  assert.equal(cold.objects.get("k")?.[0], 1);
  assert.ok(hot.exists("k"));
  assert.equal(await got(scene, "k"), 1);
});

tiered("one in the pool stays, and the store is not asked", async (scene) => {
  const { cold } = scene;
  await put(scene, "k", 1);
  const calls = cold.calls.length;
  assert.equal(await putAbsent(scene, "k", 2), false);
  assert.equal(cold.calls.length, calls);
  assert.equal(await got(scene, "k"), 1);
  assert.equal(cold.objects.get("k")?.[0], 1);
});

tiered("one in the store alone stays, and the pool gets nothing of the new one", async (scene) => {
  const { hot, cold, store } = scene;
  inStore(cold, "k", 1);
  assert.equal(await putAbsent(scene, "k", 2), false);
  assert.equal(hot.exists("k"), false);
  assert.equal(await got(scene, "k"), 1);
  // The same memory may be put under another key then.
  using obj = newChunk(scene, 3);
  assert.equal(await store.put("k", obj, THROUGH), false);
  assert.equal(await store.put("other", obj, THROUGH), true);
});

tiered("one that is queued, or being written, is there", async (scene) => {
  const { store, hot, cold } = scene;
  const held = gate();
  cold.before = (call) => call === "put busy" ? held.wait() : undefined;
  await put(scene, "busy", 9, "behind");
  await put(scene, "k", 1, "behind");
  hot.clear();
  assert.equal(store.stats.queuedObjects, 2, "one is written, one waits for it");
  assert.equal(await putAbsent(scene, "k", 2), false);
  assert.equal(cold.objects.has("k"), false);
  const late = putAbsent(scene, "busy", 8);
  held.open();
  assert.equal(await late, false);
  await store.flush();
  assert.equal(store.stats.written, 2, "what was held back for it is written after all");
  assert.deepEqual([cold.objects.get("k")?.[0], cold.objects.get("busy")?.[0]], [1, 9]);
}, { writeConcurrency: 1 });

tiered("puts and removals before it come first", async (scene) => {
  const { store, cold } = scene;
  const held = gate();
  cold.before = (call) => call === "put k" ? held.wait() : undefined;
  using first = newChunk(scene, 1);
  const all = [
    store.put("k", first, { writeMode: "through" }),
    putAbsent(scene, "k", 2),
    store.remove("k"),
    putAbsent(scene, "k", 3),
    putAbsent(scene, "k", 4),
  ];
  held.open();
  assert.deepEqual(await Promise.all(all), [true, false, true, true, false]);
  assert.equal(await got(scene, "k"), 3);
  assert.equal(cold.objects.get("k")?.[0], 3);
});

tiered("a load that goes on brings the object that is there", async (scene) => {
  const { cold } = scene;
  inStore(cold, "k", 1);
  const held = gate();
  cold.after = (call) => call === "get k" ? held.wait() : undefined;
  const early = got(scene, "k");
  const stored = putAbsent(scene, "k", 2);
  held.open();
  assert.equal(await stored, false);
  assert.equal(await early, 1);
  assert.equal(await got(scene, "k"), 1);
});

tiered("batchedPut() tells of each, and of one key twice the first is stored", async (scene) => {
  const { store, cold } = scene;
  inStore(cold, "cold", 1);
  await put(scene, "hot", 2);
  const objs = [3, 4, 5, 6, 7].map((fill) => newChunk(scene, fill));
  const keys = ["a", "cold", "hot", "b", "a"];
  const stored = await store.batchedPut(keys, objs, THROUGH);
  for (const obj of objs) obj.refCountDown();
  assert.deepEqual(stored, [true, false, false, true, false]);
  assert.deepEqual(cold.batches, [3], "a, cold and b together");
  const seen = await Promise.all(["a", "cold", "hot", "b"].map((key) => got(scene, key)));
  assert.deepEqual(seen, [3, 1, 2, 6]);
});

tiered("a failure is the call's, and the key can be put again", async (scene) => {
  const { cold } = scene;
  cold.before = (call) => {
    if (call === "put k") throw new ShmError("full", { code: "ENOSPC", operation: call });
  };
  await assert.rejects(putAbsent(scene, "k", 1), shmError("ENOSPC"));
  cold.before = () => {};
  assert.equal(await got(scene, "k"), null);
  assert.equal(await putAbsent(scene, "k", 2), true);
  assert.equal(await got(scene, "k"), 2);
});

tiered("behind it is refused, and nothing is queued", async (scene) => {
  const { store, cold } = scene;
  using obj = newChunk(scene, 1);
  const refused = shmError("EINVAL", /writeMode: "through"/);
  await assert.rejects(store.put("k", obj, { ifAbsent: true }), refused);
  await assert.rejects(store.put("k", obj, { ifAbsent: true, writeMode: "behind" }), refused);
  await assert.rejects(store.batchedPut(["k"], [obj], { ifAbsent: true }), refused);
  await assert.rejects(store.put("k", obj, { ifAbsent: 1 as never }), /^TypeError: ifAbsent/);
  await store.flush();
  assert.deepEqual([cold.calls, store.stats.queuedObjects, obj.refCount], [[], 0, 1]);
  assert.equal(await store.put("k", obj, { ifAbsent: false }), true);
}, { writeMode: "behind" });
