// SPDX-License-Identifier: Apache-2.0
//
// TieredStore: what is asked of which tier, shared loads, writing behind, and that no reference is
// lost whatever goes wrong. Over a store in memory that can be held back, and once over a worker.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { test } from "node:test";
import { createConfig } from "../src/config/mod.ts";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { TieredStore, type TieredStoreOptions } from "../src/cache/tiered_store.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName } from "./support/leaks.ts";
import { MemoryConnector } from "./support/memory_connector.ts";
import {
  CHUNK,
  gate,
  inStore,
  isFilled,
  newChunk,
  PAGE,
  put,
  tiered,
} from "./support/tiered_scene.ts";
import { workerOf } from "./support/version1_worker.ts";
import { eventually, sleep, TempDir, withoutWorkers } from "./support/worker.ts";

tiered("get() looks in the pool, then in the store, then nowhere", async ({ store, cold, hot }) => {
  inStore(cold, "a", 7);
  {
    using obj = await store.get("a", CHUNK);
    assert.ok(isFilled(obj, 7));
    assert.deepEqual(obj?.shape, CHUNK.shape);
    assert.equal(obj?.refCount, 2, "the caller's and the hot tier's");
  }
  assert.ok(hot.exists("a"));
  cold.objects.clear();
  {
    using obj = await store.get("a", CHUNK);
    assert.ok(isFilled(obj, 7), "from the pool now");
  }
  assert.equal(await store.get("b", CHUNK), null);
  const { hotHits, coldHits, misses, loads, mismatches } = store.stats;
  assert.deepEqual({ hotHits, coldHits, misses, loads, mismatches }, {
    hotHits: 1,
    coldHits: 1,
    misses: 1,
    loads: 2,
    mismatches: 0,
  });
});

tiered("a layout may be a number of bytes", async ({ store, cold }) => {
  inStore(cold, "bytes", 9, 1000);
  using obj = await store.get("bytes", PAGE);
  assert.equal(obj?.format, "BINARY");
  assert.equal(obj?.byteLength, 1000);
  assert.ok(isFilled(obj, 9));
});

tiered(
  "a partial last chunk comes back with its true number of tokens",
  async ({ store, cold }) => {
    inStore(cold, "tail", 5, 3 * 512);
    for (const from of ["store", "pool"]) {
      using obj = await store.get("tail", CHUNK);
      assert.deepEqual(obj?.shape, [2, 1, 3, 128], from);
      assert.equal(obj?.numTokens, 3);
      assert.ok(isFilled(obj, 5));
    }
    assert.equal(store.stats.hotHits, 1);
  },
);

tiered("what cannot have the layout is a counted miss, and takes no memory", async (scene) => {
  const { store, cold, pool } = scene;
  inStore(cold, "odd", 1, 700);
  inStore(cold, "long", 1, PAGE + 512);
  inStore(cold, "empty", 1, 0);
  for (const key of ["odd", "long", "empty"]) assert.equal(await store.get(key, CHUNK), null, key);
  assert.equal(store.stats.mismatches, 3);
  assert.equal(pool.stats.liveObjects, 0);
  await put(scene, "hot", 3);
  assert.equal(await store.get("hot", { ...CHUNK, dtype: "half" }), null, "another dtype");
  assert.equal(store.stats.mismatches, 4);
  assert.equal(store.stats.misses, 4);
});

tiered("what was stored as something else is a counted miss that says why", async (scene) => {
  const { store, cold, pool } = scene;
  const stored = (key: string, metadata: Record<string, string>, byteLength = PAGE) => {
    inStore(cold, key, 1, byteLength);
    cold.metadata.set(key, metadata);
  };
  const good = { shape: "2,1,8,128", dtype: "bfloat16", format: "KV_2LTD" };
  stored("dtype", { ...good, dtype: "half" });
  stored("format", { ...good, format: "UNDEFINED" });
  stored("shape", { ...good, shape: "2,2,8,64" });
  stored("cut", { ...good }, 7 * 512);
  stored("nonsense", { ...good, shape: "many" });
  stored("long", good, 2 * PAGE);
  const faults: [string, RegExp][] = [
    ["dtype", /dtype is half, not bfloat16/],
    ["format", /format is UNDEFINED/],
    ["shape", /\[2, 2, 8, 64\]/],
    ["cut", /has 4096 bytes, and the object 3584/],
    ["nonsense", /no list of sizes/],
    ["long", /^it has more than 4096 bytes, and KV_2LTD \[2, 1, 8, 128\] bfloat16 was asked for$/],
  ];
  for (const [index, [key, fault]] of faults.entries()) {
    assert.equal(await store.get(key, CHUNK), null, key);
    assert.equal(store.stats.mismatches, index + 1, key);
    assert.equal(store.stats.lastMismatch?.key, key);
    assert.match(store.stats.lastMismatch!.fault, fault);
  }
  assert.equal(store.stats.misses, faults.length);
  assert.equal(pool.stats.liveObjects, 0);
  stored("full", good);
  stored("part", { ...good, shape: "2,1,3,128" }, 3 * 512);
  using full = await store.get("full", CHUNK);
  using part = await store.get("part", CHUNK);
  assert.deepEqual([full?.shape, part?.shape], [[2, 1, 8, 128], [2, 1, 3, 128]]);
});

tiered("what is put carries its layout, and comes back with it", async (scene) => {
  const { store, cold, hot } = scene;
  const several = {
    shape: [[2, 1, 8, 64], [2, 3, 8, 16]],
    dtype: ["half", "uint8"],
    format: "KV_2LTD",
  } as const;
  using obj = hot.tryAllocate(several)!;
  obj.truncateTokens(5).bytes.fill(3);
  await store.put("k", obj);
  assert.deepEqual(cold.metadata.get("k"), {
    shape: "2,1,5,64+2,3,5,16",
    dtype: "half+uint8",
    format: "KV_2LTD",
  });
  hot.remove("k");
  using found = await store.get("k", several);
  assert.deepEqual(found?.shapes, [[2, 1, 5, 64], [2, 3, 5, 16]]);
  assert.deepEqual(found?.dtypes, ["half", "uint8"]);
});

tiered("who waits goes first: gets are high, what is behind or ahead is low", async (scene) => {
  const { store, cold } = scene;
  for (const key of ["a", "b", "c"]) inStore(cold, key, 1);
  const found = [
    await store.get("a", CHUNK),
    await store.get("b", CHUNK, { priority: "normal" }),
  ];
  await store.prefetch(["c"], CHUNK);
  await put(scene, "d", 1, "behind");
  await store.flush();
  await put(scene, "e", 1, "through");
  assert.deepEqual(cold.priorities, ["get a high", "get b normal", "get c low", "put d low"]);
  for (const obj of found) obj!.refCountDown();
});

tiered("a partial chunk takes no more of a full pool than it needs", async (scene) => {
  const { store, cold, hot } = scene;
  for (const key of ["a", "b", "c"]) await put(scene, key, 1);
  const { bytes } = hot.stats;
  inStore(cold, "tail", 5, 2 * PAGE);
  const large = { shape: [2, 1, 24, 128], dtype: "bfloat16", format: "KV_2LTD" } as const;
  using tail = await store.get("tail", large);
  assert.equal(tail?.byteLength, 2 * PAGE);
  assert.equal(hot.stats.evictions, 2, "not three");
  assert.equal(hot.stats.bytes, bytes);
  inStore(cold, "odd", 1, 700);
  assert.equal(await store.get("odd", CHUNK), null);
  assert.equal(hot.stats.evictions, 2, "nothing is evicted for what is another object");
}, { pages: 3 });

tiered("batchedPut() puts each pair", async (scene) => {
  const { store, cold } = scene;
  using a = newChunk(scene, 1);
  using b = newChunk(scene, 2);
  await store.batchedPut(["a", "b"], [a, b]);
  assert.deepEqual([cold.objects.get("a")?.[0], cold.objects.get("b")?.[0]], [1, 2]);
  await assert.rejects(store.batchedPut(["a"], [a, b]), RangeError);
});

tiered("concurrent gets of one key load it once, and each has a reference", async (scene) => {
  const { store, cold } = scene;
  inStore(cold, "a", 4);
  const held = gate();
  cold.before = held.wait;
  const gets = Array.from({ length: 10 }, () => store.get("a", CHUNK));
  await sleep(5);
  held.open();
  const objs = await Promise.all(gets);
  assert.deepEqual(cold.calls, ["get a"]);
  assert.equal(new Set(objs).size, 1);
  assert.equal(objs[0]?.refCount, 11);
  for (const obj of objs) obj!.refCountDown();
  const { loads, sharedLoads, coldHits } = store.stats;
  assert.deepEqual({ loads, sharedLoads, coldHits }, { loads: 1, sharedLoads: 9, coldHits: 10 });
});

tiered("a get does not take the miss of another layout for its own", async (scene) => {
  const { store, cold } = scene;
  inStore(cold, "a", 4);
  const held = gate();
  cold.before = held.wait;
  const half = { ...CHUNK, shape: [2, 1, 4, 128] };
  const [mismatch, match] = [store.get("a", half), store.get("a", CHUNK)];
  await sleep(5);
  held.open();
  assert.equal(await mismatch, null);
  using obj = await match;
  assert.ok(isFilled(obj, 4));
  const { mismatches, coldHits, misses } = store.stats;
  assert.deepEqual({ mismatches, coldHits, misses }, { mismatches: 1, coldHits: 1, misses: 1 });
});

tiered("a get of a third layout does not take a miss for its own, either", async (scene) => {
  const { store, cold } = scene;
  inStore(cold, "a", 4);
  const held = gate();
  cold.before = held.wait;
  const wide = { ...CHUNK, shape: [2, 1, 4, 128] };
  const flat = { ...CHUNK, shape: [2, 1, 4, 96] };
  const [first, second] = [store.get("a", wide), store.get("a", flat)];
  const ahead = store.prefetch(["a"], CHUNK);
  const match = store.get("a", CHUNK);
  await sleep(5);
  held.open();
  assert.deepEqual([await first, await second], [null, null]);
  assert.equal(await ahead, 1);
  using obj = await match;
  assert.ok(isFilled(obj, 4));
});

tiered("an option that there is not is named", async ({ store, hot }) => {
  const wrong = { timeoutms: 5 } as object;
  const named = (name: string) => (error: unknown) => {
    assert.ok(error instanceof TypeError, String(error));
    assert.match(error.message, new RegExp(`^${name} has no option "timeoutms"; .*"timeoutMs"`));
    return true;
  };
  await assert.rejects(store.get("a", CHUNK, wrong), named("get"));
  await assert.rejects(store.batchedGet(["a"], CHUNK, wrong), named("batchedGet"));
  await assert.rejects(store.prefetch(["a"], CHUNK, wrong), named("prefetch"));
  await assert.rejects(store.remove("a", wrong), named("remove"));
  await assert.rejects(store.flush(wrong), named("flush"));
  using obj = hot.tryAllocate(CHUNK)!;
  await assert.rejects(store.put("a", obj, wrong), named("put"));
  await store.put("a", obj, { writeMode: "through", timeoutMs: 1000, priority: "low" });
});

tiered("who gives up waiting takes no reference and does not end the load", async (scene) => {
  const { store, cold, hot } = scene;
  inStore(cold, "a", 4);
  const held = gate();
  cold.before = held.wait;
  const controller = new AbortController();
  const aborted = store.get("a", CHUNK, { signal: controller.signal });
  const late = store.get("a", CHUNK, { timeoutMs: 20 });
  const patient = store.get("a", CHUNK);
  controller.abort(new Error("changed my mind"));
  await assert.rejects(aborted, /changed my mind/);
  await assert.rejects(late, shmError("ETIMEDOUT", /20 ms/));
  held.open();
  using obj = await patient;
  assert.equal(obj?.refCount, 2);
  assert.ok(hot.exists("a"));
  await assert.rejects(store.get("b", CHUNK, { timeoutMs: 0 }), RangeError);
  await assert.rejects(store.get("a", CHUNK, { signal: controller.signal }), /changed my mind/);
});

tiered("a load that fails fails all its callers, and the next one tries again", async (scene) => {
  const { store, cold, pool } = scene;
  inStore(cold, "a", 4);
  cold.before = async () => {
    await sleep(2);
    throw new ShmError("broken disk", { code: "EIO", operation: "get" });
  };
  const ended = await Promise.allSettled([store.get("a", CHUNK), store.get("a", CHUNK)]);
  for (const one of ended) assert.equal(one.status, "rejected");
  assert.equal(pool.stats.liveObjects, 0);
  cold.before = () => {};
  using obj = await store.get("a", CHUNK);
  assert.ok(isFilled(obj, 4));
});

tiered("a miss evicts nothing, a hit evicts what it needs", async (scene) => {
  const { store, cold, hot } = scene;
  await put(scene, "a", 1);
  await put(scene, "b", 2);
  assert.equal(await store.get("none", CHUNK), null);
  assert.equal(hot.size, 2);
  inStore(cold, "c", 3);
  using obj = await store.get("c", CHUNK);
  assert.ok(isFilled(obj, 3));
  assert.ok(!hot.exists("a") && hot.exists("b"));
}, { pages: 2 });

tiered("a full pool in use is an error with a limit, not a wait for ever", async (scene) => {
  const { store, cold } = scene;
  inStore(cold, "a", 1);
  using _one = newChunk(scene, 1);
  using _two = newChunk(scene, 2);
  await assert.rejects(store.get("a", CHUNK), shmError("ETIMEDOUT"));
}, { pages: 2 });

tiered("put() through is in both tiers when it returns", async (scene) => {
  const { store, cold, hot } = scene;
  await put(scene, "a", 6);
  assert.deepEqual(cold.objects.get("a"), new Uint8Array(PAGE).fill(6));
  assert.ok(hot.exists("a"));
  cold.before = () => {
    throw new ShmError("full", { code: "ENOSPC", operation: "put" });
  };
  await assert.rejects(put(scene, "b", 7), shmError("ENOSPC"));
  assert.ok(!hot.exists("b"), "the pool has nothing that the store has not");
  assert.equal(store.stats.writeErrors, 0, "the caller was told");
});

tiered("put() behind returns at once, and flush() when it is stored", async (scene) => {
  const { store, cold, hot } = scene;
  const held = gate();
  cold.before = held.wait;
  for (let i = 0; i < 5; i++) await put(scene, `k${i}`, i, "behind");
  assert.equal(cold.objects.size, 0);
  assert.equal(store.stats.queuedObjects, 5);
  assert.equal(store.stats.queuedBytes, 5 * PAGE);
  assert.equal(cold.active, 2, "writeConcurrency");
  assert.equal(hot.clear(), 0, "what is queued is in use");
  await assert.rejects(store.flush({ timeoutMs: 10 }), shmError("ETIMEDOUT"));
  const flushed = store.flush();
  held.open();
  await flushed;
  assert.equal(cold.objects.size, 5);
  for (let i = 0; i < 5; i++) assert.equal(cold.objects.get(`k${i}`)?.[0], i);
  assert.equal(store.stats.queuedObjects + store.stats.queuedBytes, 0);
  assert.equal(store.stats.written, 5);
  assert.equal(cold.mostActive, 2);
}, { writeConcurrency: 2 });

tiered("a full queue makes put() wait, by number", async (scene) => {
  const { store, cold } = scene;
  const held = gate();
  cold.before = held.wait;
  await put(scene, "a", 1, "behind");
  await put(scene, "b", 2, "behind");
  let accepted = false;
  const third = put(scene, "c", 3, "behind").then(() => accepted = true);
  await sleep(10);
  assert.equal(accepted, false);
  assert.equal(store.stats.waitingPuts, 1);
  using obj = newChunk(scene, 4);
  await assert.rejects(
    store.put("d", obj, { writeMode: "behind", timeoutMs: 20 }),
    shmError("ETIMEDOUT", /full for 20 ms: 2 objects of 2/),
  );
  const controller = new AbortController();
  using other = newChunk(scene, 5);
  const given = store.put("e", other, { writeMode: "behind", signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(given, /enough/);
  held.open();
  await third;
  await store.flush();
  assert.deepEqual([...cold.objects.keys()].sort(), ["a", "b", "c"]);
}, { maxQueuedObjects: 2 });

tiered("a full queue makes put() wait, by bytes; a larger object goes alone", async (scene) => {
  const { store, cold, hot } = scene;
  const held = gate();
  cold.before = held.wait;
  {
    using large = hot.tryAllocate(3 * PAGE)!;
    await store.put("large", large, { writeMode: "behind" });
  }
  let accepted = false;
  const next = put(scene, "small", 1, "behind").then(() => accepted = true);
  await sleep(10);
  assert.equal(accepted, false);
  held.open();
  await next;
  await store.flush();
  assert.equal(cold.objects.get("large")?.length, 3 * PAGE);
}, { maxQueuedBytes: 2 * PAGE });

tiered("what is queued is found, even when the pool keeps nothing", async (scene) => {
  const { store, cold } = scene;
  const held = gate();
  cold.before = held.wait;
  await put(scene, "a", 8, "behind");
  assert.equal(await store.exists("a"), true);
  assert.equal(await store.batchedContains(["a", "b"]), 1);
  {
    using obj = await store.get("a", CHUNK);
    assert.ok(isFilled(obj, 8));
  }
  held.open();
  await store.flush();
  using obj = await store.get("a", CHUNK);
  assert.ok(isFilled(obj, 8));
  assert.equal(store.stats.coldHits, 1);
}, { hotTier: false });

tiered("two writes of a key never overlap, and the last one wins", async (scene) => {
  const { store, cold } = scene;
  const held = gate();
  cold.before = held.wait;
  for (const fill of [1, 2, 3]) await put(scene, "same", fill, "behind");
  assert.equal(cold.active, 1);
  held.open();
  await store.flush();
  assert.equal(cold.objects.get("same")?.[0], 3);
  assert.equal(cold.mostActive, 1);
  assert.equal(store.stats.replaced, 1);
  assert.equal(store.stats.written, 2);
}, { hotTier: false });

const failures: string[] = [];

tiered("what was not stored is told by onError and by the next flush()", async (scene) => {
  const { store, cold } = scene;
  cold.before = (call) => {
    if (call === "put b" || call === "put c") {
      throw new ShmError("disk full", { code: "ENOSPC", operation: call });
    }
  };
  for (const key of ["a", "b", "c", "d"]) await put(scene, key, 1, "behind");
  await assert.rejects(store.flush(), (error) => {
    assert.ok(error instanceof ShmError);
    assert.equal(error.code, "ENOSPC");
    assert.match(error.message, /2 objects were not stored; the first is b: .*disk full/);
    assert.deepEqual(error.details["keys"], ["b", "c"]);
    return true;
  });
  assert.deepEqual(failures, ["b", "c"]);
  assert.equal(store.stats.writeErrors, 2);
  await store.flush();
  assert.deepEqual([...cold.objects.keys()], ["a", "d"]);
  await store.close();
}, { onError: (_error, key) => failures.push(key) });

tiered("close() stores all that was accepted, and turns away the rest", async (scene) => {
  const { store, cold } = scene;
  const held = gate();
  cold.before = held.wait;
  for (let i = 0; i < 4; i++) await put(scene, `k${i}`, i, "behind");
  const turnedAway = put(scene, "late", 9, "behind");
  const through = put(scene, "through", 5, "through");
  inStore(cold, "x", 2);
  const loading = store.get("x", CHUNK);
  const closed = store.close();
  assert.equal(store.close(), closed);
  await assert.rejects(turnedAway, shmError("ECANCELED"));
  await assert.rejects(store.get("k0", CHUNK), shmError("EBADF"));
  held.open();
  await closed;
  await through;
  (await loading)!.refCountDown();
  assert.deepEqual([...cold.objects.keys()].sort(), ["k0", "k1", "k2", "k3", "through", "x"]);
}, { maxQueuedObjects: 4, writeConcurrency: 1 });

tiered("close() reports what was accepted and not stored", async (scene) => {
  const { store, cold } = scene;
  cold.before = (call) => {
    if (call === "put b") throw new ShmError("disk full", { code: "ENOSPC", operation: call });
  };
  await put(scene, "a", 1, "behind");
  await put(scene, "b", 1, "behind");
  await assert.rejects(store.close(), shmError("ENOSPC", /1 object was not stored/));
  assert.ok(cold.objects.has("a"));
});

tiered("close() has a limit, and names what it gave up", async (scene) => {
  const { store, cold, pool } = scene;
  const held = gate();
  cold.before = held.wait;
  await put(scene, "stuck", 1, "behind");
  await put(scene, "queued", 2, "behind");
  await assert.rejects(store.close(), (error) => {
    assert.ok(error instanceof ShmError && error.code === "ETIMEDOUT");
    assert.deepEqual((error.details["keys"] as string[]).sort(), ["queued", "stuck"]);
    return true;
  });
  scene.hot.clear();
  assert.equal(pool.stats.liveObjects, 1, "memory in use by I/O stays");
  held.open();
  await eventually("it is over", () => store.stats.queuedObjects === 0);
}, { closeTimeoutMs: 50, writeConcurrency: 1 });

tiered(
  "what close() gave up is not in the pool: the store decides, always the same",
  async (scene) => {
    const { store, cold, hot } = scene;
    const keys = ["failed", "stuck", "queued"];
    for (const key of keys) await put(scene, key, 1);
    const [writing, removing] = [gate(), gate()];
    cold.before = async (call) => {
      if (call === "put stuck") await writing.wait();
      if (call.startsWith("put")) throw new ShmError("broken", { code: "EIO", operation: call });
    };
    const removed: unknown[] = [];
    cold.remove = (key) => {
      removed.push(key);
      return removing.wait().then(() => false);
    };
    for (const key of keys) await put(scene, key, 2, "behind");
    await assert.rejects(store.close(), shmError("EIO", /3 objects were not stored/));
    const next = new TieredStore({ hot, cold });
    const looks = async () => {
      const objs = await next.batchedGet(keys, CHUNK);
      return objs.map((obj) => {
        using found = obj!;
        return found.bytes[0];
      });
    };
    assert.deepEqual(await looks(), [1, 1, 1]);
    hot.clear();
    assert.deepEqual(await looks(), [1, 1, 1]);
    writing.open();
    removing.open();
    await eventually("it is over", () => store.stats.queuedObjects === 0);
    assert.deepEqual(removed, ["failed"], "nothing is begun after close()");
    await next.close();
  },
  { closeTimeoutMs: 50, writeConcurrency: 1 },
);

for (const writeMode of ["through", "behind"] as const) {
  tiered(`a put ${writeMode} ends though its object was released too often`, async (scene) => {
    const { store, hot, cold } = scene;
    const held = gate();
    cold.before = held.wait;
    const obj = newChunk(scene, 1);
    obj.pin();
    const putting = store.put("k", obj, { writeMode });
    await eventually("it is written", () => cold.active === 1);
    // Those of the store and of the pool as well.
    while (obj.refCount > 0) obj.refCountDown();
    held.open();
    await putting;
    await store.flush();
    assert.equal(cold.objects.get("k")?.[0], 1);
    assert.equal(store.stats.queuedObjects, 0);
    hot.remove("k");
    while (obj.refCount > 0) obj.refCountDown();
    if (obj.valid) obj.unpin();
  });
}

tiered("close() waits for a removal that waits for an earlier change of its key", async (scene) => {
  const { store, cold } = scene;
  const [writing, removing] = [gate(), gate()];
  cold.before = (call) => call === "put k" ? writing.wait() : undefined;
  const remove = cold.remove.bind(cold);
  cold.remove = (key) => removing.wait().then(() => remove(key));
  const putting = put(scene, "k", 1, "through");
  const removed = store.remove("k");
  let closed = false;
  const closing = store.close().then(() => closed = true);
  writing.open();
  await putting;
  await sleep(10);
  assert.equal(closed, false);
  removing.open();
  await closing;
  assert.equal(await removed, true);
  assert.ok(!cold.objects.has("k"));
});

tiered("remove() takes the object from pool, queue, store and loads", async (scene) => {
  const { store, cold, hot } = scene;
  const held = gate();
  cold.before = held.wait;
  await put(scene, "writing", 1, "behind");
  await put(scene, "queued", 2, "behind");
  assert.equal(await store.remove("queued"), true);
  const removing = store.remove("writing");
  inStore(cold, "loading", 3);
  const loading = store.get("loading", CHUNK);
  assert.equal(await store.remove("loading"), true);
  held.open();
  assert.equal(await removing, true);
  assert.equal(await loading, null, "removed while it was loaded");
  await store.flush();
  assert.equal(cold.objects.size, 0);
  assert.equal(hot.size, 0);
  assert.equal(await store.remove("never"), false);
}, { writeConcurrency: 1 });

tiered("an object that is removed while it is loaded does not come back", async (scene) => {
  const { store, cold, hot } = scene;
  inStore(cold, "a", 3);
  const held = gate();
  cold.after = held.wait;
  const loading = store.get("a", CHUNK);
  await sleep(2);
  assert.equal(await store.remove("a"), true);
  held.open();
  assert.equal(await loading, null);
  assert.ok(!hot.exists("a"));
  assert.equal(await store.get("a", CHUNK), null);
});

tiered("prefetch() loads what is missing, so many at a time", async (scene) => {
  const { store, cold, hot } = scene;
  await put(scene, "k0", 0);
  for (let i = 1; i < 7; i++) inStore(cold, `k${i}`, i);
  cold.calls.length = 0;
  cold.mostActive = 0;
  cold.before = () => sleep(2);
  const keys = Array.from({ length: 8 }, (_, i) => `k${i}`);
  assert.equal(await store.prefetch(keys, CHUNK), 7);
  assert.equal(cold.mostActive, 3);
  assert.ok(!cold.calls.includes("get k0"));
  assert.equal(hot.batchedContains(keys), 7);
  const found = await store.batchedGet(keys, CHUNK);
  assert.deepEqual(found.map((obj) => obj?.bytes[0]), [0, 1, 2, 3, 4, 5, 6, undefined]);
  for (const obj of found) obj?.refCountDown();
  await assert.rejects(
    store.prefetch(keys, CHUNK, { signal: AbortSignal.abort(new Error("no")) }),
    /no/,
  );
  await assert.rejects(store.prefetch(keys, [CHUNK]), /8 keys and 1 layouts/);
}, { prefetchConcurrency: 3, pages: 10 });

tiered("batchedGet() keeps no reference when one of them fails", async (scene) => {
  const { store, cold } = scene;
  for (const key of ["a", "b", "c"]) inStore(cold, key, 1);
  cold.before = (call) => {
    if (call === "get b") throw new ShmError("broken", { code: "EIO", operation: call });
  };
  await assert.rejects(store.batchedGet(["a", "b", "c"], CHUNK), shmError("EIO"));
  assert.equal(scene.hot.clear(), 2, "nobody else has them");
});

tiered("batchedContains() counts the leading keys of either tier", async (scene) => {
  const { store, cold } = scene;
  await put(scene, "a", 1);
  cold.objects.delete("a");
  inStore(cold, "b", 1);
  await put(scene, "c", 1);
  inStore(cold, "e", 1);
  assert.equal(await store.batchedContains(["a", "b", "c", "d", "e"]), 3);
  assert.equal(await store.batchedContains(["a", "b"]), 2);
  assert.equal(await store.batchedContains([]), 0);
  assert.equal(await store.exists("b"), true);
  assert.equal(await store.exists("d"), false);
});

tiered("a random mix loses no reference and no object", async (scene) => {
  const { store, cold, hot } = scene;
  let state = 99;
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  cold.before = () => random(3) === 0 ? sleep(1) : undefined;
  let stored = 0;
  const one = async () => {
    for (let round = 0; round < 120; round++) {
      const id = random(30);
      const what = random(10);
      try {
        if (what < 4) {
          const obj = hot.tryAllocate(CHUNK);
          if (obj === null) continue;
          using own = obj;
          own.bytes.fill(id);
          await store.put(`k${id}`, own, { writeMode: what < 2 ? "behind" : "through" });
          stored++;
        } else if (what < 9) {
          using obj = await store.get(`k${id}`, CHUNK);
          if (obj !== null) assert.ok(isFilled(obj, id), `k${id}`);
        } else {
          await store.prefetch([`k${id}`, `k${(id + 1) % 30}`], CHUNK);
        }
      } catch (error) {
        shmError("ETIMEDOUT")(error);
      }
    }
  };
  await Promise.all(Array.from({ length: 6 }, one));
  await store.flush();
  assert.ok(stored > 100);
  for (const [key, bytes] of cold.objects) {
    assert.ok(bytes.every((byte) => byte === Number(key.slice(1))), key);
  }
  for (const key of hot.getKeys()) assert.ok(cold.objects.has(key), `${key} was stored`);
});

test("tiered store: a wrong option is refused by name", { timeout: 60_000 }, async () => {
  using segment = ShmSegment.createSync({ sizeBytes: PAGE, pin: "none" });
  await using hot = new LocalCpuBackend({ allocator: new TensorMemoryAllocator(segment) });
  const cold = new MemoryConnector();
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ hot: null }, /hot must be a LocalCpuBackend/],
    [{ cold: {} }, /cold must be a connector/],
    [{ writeMode: "later" }, /writeMode must be "through" or "behind"/],
    [{ maxQueuedObjects: 0 }, /maxQueuedObjects/],
    [{ closeTimeoutMs: 1.5 }, /closeTimeoutMs/],
    [{ onError: 1 }, /onError must be a function/],
    [{ writemode: "behind" }, /no option "writemode"/],
  ];
  for (const [options, message] of wrong) {
    assert.throws(() => new TieredStore({ hot, cold, ...options } as TieredStoreOptions), message);
  }
  await using store = new TieredStore({ hot, cold });
  await assert.rejects(store.get("a", { shape: [0], dtype: "half" }), /shape/);
  await assert.rejects(store.get("a", null as unknown as number), /a layout is/);
  for (const key of [1, {}, null] as unknown as string[]) {
    await assert.rejects(
      store.get(key, 5),
      /a key must be a string, a CacheEngineKey or an ObjectKey, got/,
    );
  }
});

test("tiered store: fromConfig() makes what a configuration describes, and close() ends it", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const name = uniqueName("tiered");
    const config = createConfig({
      poolSizeBytes: 16 * PAGE,
      shmName: `/${name}`,
      storageDir: dir.file("kv"),
      writeMode: "behind",
      maxQueuedBytes: 2 * PAGE,
      blockingTimeoutMs: 2_000,
      durability: "data",
      maxBytes: 100 * PAGE,
    });
    const store = await TieredStore.fromConfig(config);
    assert.equal(store.writeMode, "behind");
    assert.equal(store.hot.segment.name, `/${name}`);
    assert.equal((await (store.cold as ShmFileConnector).info()).maxBytes, 100 * PAGE);
    for (let i = 0; i < 20; i++) {
      using obj = await store.hot.allocate(CHUNK);
      obj.bytes.fill(i);
      await store.put(`k${i}`, obj);
    }
    assert.ok(store.stats.putWaits > 0, "the queue has two pages");
    await store.close();
    assert.ok(store.hot.closed);
    await using again = await TieredStore.fromConfig(config, { writeMode: "through" });
    assert.equal(again.writeMode, "through");
    for (let i = 0; i < 20; i++) {
      using obj = await again.get(`k${i}`, CHUNK);
      assert.ok(isFilled(obj, i), `k${i}`);
    }
    await assert.rejects(
      TieredStore.fromConfig({ ...config, shmName: null, storageDir: null }),
      /no shmfs\.storage_dir/,
    );
    await assert.rejects(
      TieredStore.fromConfig({ ...config, shmName: null, workerBinary: dir.file("none") }),
      shmError("ENOENT"),
    );
  }));

test("tiered store: create() makes both tiers from options, and close() ends them", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const name = uniqueName("tiered");
    const options = {
      hot: { name, sizeBytes: 16 * PAGE, pin: "none", cachePolicy: "FIFO" },
      cold: { storageDir: dir.file("kv"), maxBytes: 100 * PAGE },
      writeMode: "behind",
    } as const;
    const store = await TieredStore.create(options);
    assert.equal(store.hot.cachePolicy, "FIFO");
    assert.equal(store.hot.segment.name, `/${name}`);
    assert.equal((await (store.cold as ShmFileConnector).info()).maxBytes, 100 * PAGE);
    using obj = await store.allocate(CHUNK);
    await store.put("k", obj);
    await store.close();
    assert.ok(store.hot.closed);
    assert.deepEqual(readdirSync(dir.file("kv")), ["k.data"]);
    const cold = { storageDir: dir.file("kv"), workerBinary: dir.file("none") };
    await assert.rejects(TieredStore.create({ ...options, cold }), shmError("ENOENT"));
    await assert.rejects(
      TieredStore.create({ ...options, storageDir: dir.path } as typeof options),
      /TypeError: TieredStore.create has no option "storageDir"/,
    );
  }));

for (const protocol of [1, 2] as const) {
  test(
    `tiered store: a directory that is gone is told, and nothing is lost (version ${protocol})`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const name = uniqueName("gone");
        const segment = stack.use(
          await ShmSegment.create({ name, sizeBytes: 16 * PAGE, pin: "none" }),
        );
        const pool = new TensorMemoryAllocator(segment);
        const hot = stack.use(new LocalCpuBackend({ allocator: pool }));
        const storageDir = dir.file("kv");
        const workerBinary = workerOf(protocol, dir);
        const cold = stack.use(await ShmFileConnector.open({ segment, storageDir, workerBinary }));
        assert.equal(cold.protocol, protocol);
        const store = new TieredStore({ hot, cold, writeMode: "behind" });
        const putOne = async (key: string, writeMode?: "through" | "behind") => {
          using obj = await hot.allocate(CHUNK);
          await store.put(key, obj, { writeMode });
        };
        await putOne("before");
        await store.flush();
        rmSync(storageDir, { recursive: true });
        await putOne("behind");
        await assert.rejects(store.flush(), shmError("ENOENT", /1 object was not stored.*behind/));
        await assert.rejects(putOne("through", "through"), shmError("ENOENT", /put through/));
        for (const key of ["before", "behind"]) {
          using obj = await store.get(key, CHUNK);
          assert.ok(obj !== null, `${key} is in the pool still`);
        }
        assert.equal(await store.get("through", CHUNK), null, "its caller was told");
        assert.equal(await store.get("never", CHUNK), null);
        hot.clear();
        assert.equal(await store.get("before", CHUNK), null);
        await store.close();
        // A load that found nothing gives its memory back when the worker has let go of it.
        await eventually("all memory is back", () => pool.stats.liveObjects === 0);
      }),
  );
}

test(
  "tiered store: bytes survive pool, worker and files",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      mkdirSync(dir.file("kv"));
      const segment = stack.use(await ShmSegment.create({ sizeBytes: 16 * PAGE, pin: "none" }));
      const hot = stack.use(
        new LocalCpuBackend({
          allocator: new TensorMemoryAllocator(segment),
          blockingTimeoutMs: 9_000,
        }),
      );
      const cold = stack.use(await ShmFileConnector.open({ segment, storageDir: dir.file("kv") }));
      const store = stack.use(new TieredStore({ hot, cold, writeMode: "behind" }));
      const keys = Array.from({ length: 100 }, (_, i) => `model@1@0@${i.toString(16)}@bfloat16`);
      for (const [i, key] of keys.entries()) {
        using obj = await hot.allocate(CHUNK);
        obj.bytes.fill(i);
        if (i === 99) obj.truncateTokens(5);
        await store.put(key, obj);
      }
      await store.flush();
      assert.equal((await cold.listAll()).length, 100, "six times what the pool holds");
      for (const [i, key] of keys.entries()) {
        using obj = await store.get(key, CHUNK);
        assert.equal(obj?.numTokens, i === 99 ? 5 : 8);
        assert.ok(isFilled(obj, i), key);
      }
      hot.memcheck();
    }),
);
