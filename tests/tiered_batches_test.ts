// SPDX-License-Identifier: Apache-2.0
//
// Small objects go between pool and store in batches: how many requests that takes, that one object's
// failure, signal and time limit are its own, and that nothing is asked for twice.

import assert from "node:assert/strict";
import { ShmError } from "../src/errors.ts";
import type { Key } from "../src/keys/key.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import type { PutOptions } from "../src/connector/remote_connector.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { settlesWithin, within } from "../src/wait.ts";
import { shmError } from "./support/assertions.ts";
import { CHUNK, gate, inStore, isFilled, newChunk, PAGE, tiered } from "./support/tiered_scene.ts";
import { MemoryConnector } from "./support/memory_connector.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";
import { test } from "node:test";

const KEYS = Array.from({ length: 64 }, (_, i) => `k${i}`);

tiered(
  "a batch of small objects is a request to the store for each 64",
  async ({ store, cold }) => {
    KEYS.forEach((key, i) => inStore(cold, key, i));
    const found = await store.batchedGet([...KEYS, "missing"], CHUNK);
    assert.equal(cold.calls.length, 65);
    assert.deepEqual(cold.batches, [64], "one is no batch");
    assert.equal(found.pop(), null);
    found.forEach((obj, i) => {
      assert.ok(isFilled(obj, i), `k${i}`);
      obj!.refCountDown();
    });
    assert.equal(store.stats.loads, 65);
  },
  { pages: 128 },
);

tiered("prefetch() loads small objects in batches, as many as it may at a time", async (scene) => {
  const { store, cold } = scene;
  KEYS.forEach((key, i) => inStore(cold, key, i));
  assert.equal(await store.prefetch(KEYS, CHUNK), 64);
  assert.deepEqual(cold.batches, [16, 16, 16, 16]);
  assert.ok(cold.priorities.every((priority) => priority.endsWith(" low")));
}, { pages: 128 });

for (const writeMode of ["through", "behind"] as const) {
  tiered(
    `batchedPut() ${writeMode} stores small objects in batches, with their layouts`,
    async (scene) => {
      const { store, cold } = scene;
      const objs = KEYS.map((_, i) => newChunk(scene, i));
      await store.batchedPut(KEYS, objs, { writeMode });
      for (const obj of objs) obj.refCountDown();
      await store.flush();
      assert.deepEqual(cold.batches, writeMode === "through" ? [64] : [16, 16, 16, 16]);
      assert.equal(cold.objects.size, 64);
      assert.ok(KEYS.every((key, i) => cold.objects.get(key)!.every((byte) => byte === i)));
      assert.equal(cold.metadata.get("k9")?.["shape"], "2,1,8,128");
      assert.equal(store.stats.writeErrors, 0);
    },
    { pages: 128 },
  );

  tiered(`an object of a batch that cannot be stored fails alone (${writeMode})`, async (scene) => {
    const { store, cold } = scene;
    cold.before = (call) => {
      if (call !== "put k5") return;
      throw new ShmError("no room", { code: "ENOSPC", operation: call });
    };
    const objs = KEYS.map((_, i) => newChunk(scene, i));
    const putting = store.batchedPut(KEYS, objs, { writeMode });
    if (writeMode === "through") await assert.rejects(putting, shmError("ENOSPC"));
    else await putting;
    for (const obj of objs) obj.refCountDown();
    if (writeMode === "behind") {
      await assert.rejects(store.flush(), shmError("ENOSPC", /1 object was not/));
    }
    assert.equal(cold.objects.size, 63);
    assert.ok(!cold.objects.has("k5"));
    const puts = cold.calls.filter((call) => call.startsWith("put "));
    assert.deepEqual(puts, KEYS.map((key) => `put ${key}`), "each once");
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
  assert.deepEqual(cold.calls, KEYS.map((key) => `get ${key}`), "each once");
}, { pages: 128 });

tiered("the first of many small objects does not wait for the last", async ({ store, cold }) => {
  const keys = Array.from({ length: 130 }, (_, i) => `k${i}`);
  keys.forEach((key, i) => inStore(cold, key, i));
  const last = gate();
  cold.before = (call) => call === "get k129" ? last.wait() : undefined;
  const getting = keys.map((key) => store.get(key, CHUNK));
  const early = await settlesWithin(Promise.all(getting.slice(0, 128)), 10_000);
  last.open();
  for (const obj of await Promise.all(getting)) obj!.refCountDown();
  assert.ok(early, "the first 128 wait for the last");
  assert.deepEqual(cold.batches, [64, 64, 2]);
}, { pages: 256 });

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
  await assert.rejects(
    store.batchedPut(["a", "b"], objs, { writeMode: "through", signal }),
    /enough/,
  );
  for (const obj of objs) obj.refCountDown();
});

/** Its puts wait until the gate is open, or as long as their options say. */
class PatientConnector extends MemoryConnector {
  readonly gate = gate();

  override async put(key: Key, range: ShmRange, options: PutOptions = {}): Promise<boolean> {
    const { signal, timeoutMs: limitMs } = options;
    const expired = () => new ShmError("too late", { code: "ETIMEDOUT", operation: `put ${key}` });
    this.calls.push(`waits ${key}`);
    if (key !== "full") await within(this.gate.wait(), { signal, limitMs, expired });
    return await super.put(key, range, options);
  }
}

const timed = new PatientConnector();
tiered("the timeoutMs of a batched put counts once for each object", async (scene) => {
  const { store } = scene;
  timed.before = (call) => {
    if (call === "put full") throw new ShmError("full", { code: "ENOSPC", operation: call });
  };
  const objs = [newChunk(scene, 1), newChunk(scene, 2)];
  const putting = store.batchedPut(["full", "slow"], objs, { writeMode: "through", timeoutMs: 50 });
  await assert.rejects(putting, shmError("ENOSPC"));
  for (const obj of objs) obj.refCountDown();
  assert.deepEqual(timed.calls, ["waits full", "put full", "waits slow"]);
}, { cold: timed });

const signalled = new PatientConnector();
tiered("each put has the signal that its options had when it was called", async (scene) => {
  const { store } = scene;
  const [first, second] = [new AbortController(), new AbortController()];
  const objs = [newChunk(scene, 1), newChunk(scene, 2)];
  const options = { writeMode: "through" as const, signal: first.signal };
  const kept = store.put("a", objs[0]!, options);
  options.signal = second.signal;
  const given = store.put("b", objs[1]!, options);
  given.catch(() => {});
  await new Promise((resolve) => setImmediate(resolve));
  second.abort(new Error("enough"));
  await new Promise((resolve) => setImmediate(resolve));
  signalled.gate.open();
  await kept;
  await assert.rejects(given, /enough/);
  for (const obj of objs) obj.refCountDown();
  assert.deepEqual([...signalled.objects.keys()], ["a"]);
}, { cold: signalled });

test(
  "an object of a batch that fails is counted once",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const segment = stack.use(await ShmSegment.create({ sizeBytes: 16 * PAGE, pin: "none" }));
      const hot = stack.use(new LocalCpuBackend({ allocator: new TensorMemoryAllocator(segment) }));
      const cold = stack.use(await ShmFileConnector.open({ segment, storageDir: dir.file("kv") }));
      const store = stack.use(new TieredStore({ hot, cold }));
      const keys = ["a", "b", "long", "d"];
      for (const key of keys) {
        using obj = await hot.allocate(key === "long" ? 2 * PAGE : PAGE);
        await store.put(key, obj);
      }
      hot.clear();
      const found = await store.batchedGet(keys, PAGE);
      assert.deepEqual(found.map((obj) => obj?.byteLength ?? null), [PAGE, PAGE, null, PAGE]);
      for (const obj of found) obj?.refCountDown();
      const { gets, hits, bytesGot } = cold.stats;
      assert.deepEqual({ gets, hits, bytesGot }, { gets: 4, hits: 3, bytesGot: 3 * PAGE });
    }),
);

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

test("a batch has at most 4 MiB", { timeout: 60_000 }, async () => {
  const bytes = 2 ** 19;
  using segment = ShmSegment.createSync({ sizeBytes: 20 * bytes, pin: "none" });
  await using hot = new LocalCpuBackend({ allocator: new TensorMemoryAllocator(segment) });
  const cold = new MemoryConnector();
  await using store = new TieredStore({ hot, cold });
  const objs = hot.tryBatchedAllocate(bytes, 20)!;
  await store.batchedPut(KEYS.slice(0, 20), objs);
  for (const obj of objs) obj.refCountDown();
  assert.deepEqual(cold.batches, [8, 8, 4]);
});
