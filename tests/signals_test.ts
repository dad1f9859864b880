// SPDX-License-Identifier: Apache-2.0
//
// Every call of memory and cache that waits for something ends by its signal, with the signal's reason,
// before it has begun and while it waits.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { createConfig } from "../src/config/mod.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { MixedMemoryAllocator } from "../src/memory/mixed_allocator.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import type { Key } from "../src/keys/key.ts";
import type { CallOptions } from "../src/connector/remote_connector.ts";
import { within } from "../src/wait.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { MemoryConnector } from "./support/memory_connector.ts";
import { CHUNK, gate, inStore, newChunk, type Scene, tiered } from "./support/tiered_scene.ts";

const MIB = 2 ** 20;
const KEY = "model@1@0@1f3a@bfloat16";

/** A store whose every call waits for a gate, or for its signal as real ones do. */
class SlowConnector extends MemoryConnector {
  readonly gate = gate();

  constructor() {
    super();
    this.before = () => this.gate.wait();
  }

  async #wait({ signal }: CallOptions): Promise<void> {
    await within(this.gate.wait(), { signal, expired: () => new Error("no limit") });
  }

  override async exists(key: Key, options: CallOptions = {}): Promise<boolean> {
    await this.#wait(options);
    return await super.exists(key);
  }

  override async batchedContains(keys: readonly Key[], options: CallOptions = {}): Promise<number> {
    await this.#wait(options);
    return await super.batchedContains(keys);
  }

  override async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    await this.#wait(options);
    return await super.remove(key);
  }
}

/** Has `call` begin, aborts its signal, and expects the reason; then the same before it begins. */
async function endsBySignal(call: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const controller = new AbortController();
  const reason = new Error("enough");
  const pending = call(controller.signal);
  pending.catch(() => {});
  await sleep(5);
  controller.abort(reason);
  await assert.rejects(pending, (error) => error === reason);
  const early = new Error("early");
  await assert.rejects(call(AbortSignal.abort(early)), (error) => error === early);
}

type StoreCall = (scene: Scene, obj: TensorMemoryObj, signal: AbortSignal) => Promise<unknown>;

const CALLS: Readonly<Record<string, StoreCall>> = {
  get: ({ store }, _, signal) => store.get(KEY, CHUNK, { signal }),
  batchedGet: ({ store }, _, signal) => store.batchedGet([KEY, "other"], CHUNK, { signal }),
  "put through": ({ store }, obj, signal) => store.put(KEY, obj, { writeMode: "through", signal }),
  batchedPut: ({ store }, obj, signal) =>
    store.batchedPut([KEY], [obj], { writeMode: "through", signal }),
  exists: ({ store }, _, signal) => store.exists(KEY, { signal }),
  batchedContains: ({ store }, _, signal) => store.batchedContains([KEY], { signal }),
  prefetch: ({ store }, _, signal) => store.prefetch([KEY], CHUNK, { signal }),
  remove: ({ store }, _, signal) => store.remove(KEY, { signal }),
};

for (const [name, call] of Object.entries(CALLS)) {
  const cold = new SlowConnector();
  tiered(`${name} ends by its signal`, async (scene) => {
    inStore(cold, KEY, 1);
    const obj = newChunk(scene, 2);
    // As a real connector does, whose caller may leave before it is done.
    const { put } = cold;
    cold.put = (key, range, options = {}) =>
      within(put.call(cold, key, range, options), {
        signal: options.signal,
        expired: () => new Error("no limit"),
      });
    await endsBySignal((signal) => call(scene, obj, signal));
    cold.gate.open();
    await sleep(5);
    obj.refCountDown();
  }, { cold });
}

const slow = new SlowConnector();
tiered("flush() and a put that waits for room end by their signals", async (scene) => {
  const { store } = scene;
  const [obj, other] = [newChunk(scene, 1), newChunk(scene, 2)];
  await store.put("a", obj, { writeMode: "behind" });
  await endsBySignal((signal) => store.put("b", other, { writeMode: "behind", signal }));
  await endsBySignal((signal) => store.flush({ signal }));
  slow.gate.open();
  await store.flush();
  obj.refCountDown();
  other.refCountDown();
}, { cold: slow, maxQueuedObjects: 1 });

const busy = new SlowConnector();
tiered("what waits for an earlier change of its key ends by its signal", async (scene) => {
  const { store } = scene;
  const [obj, other] = [newChunk(scene, 1), newChunk(scene, 2)];
  const first = store.put(KEY, obj, { writeMode: "through" });
  await endsBySignal((signal) => store.put(KEY, other, { writeMode: "through", signal }));
  await endsBySignal((signal) => store.remove(KEY, { signal }));
  await endsBySignal((signal) => store.get(KEY, CHUNK, { signal }));
  busy.gate.open();
  await first;
  obj.refCountDown();
  other.refCountDown();
}, { cold: busy });

tiered("allocate() of the store and of the tier end by their signals", async (scene) => {
  const { store, hot } = scene;
  const all = hot.tryBatchedAllocate(CHUNK, 8)!;
  await endsBySignal((signal) => store.allocate(CHUNK, { signal, timeoutMs: 50_000 }));
  await endsBySignal((signal) => hot.allocate(CHUNK, { signal, timeoutMs: 50_000 }));
  await endsBySignal((signal) => hot.batchedAllocate(CHUNK, 2, { signal, timeoutMs: 50_000 }));
  for (const obj of all) obj.refCountDown();
  using obj = await store.allocate(CHUNK);
  using other = store.tryAllocate(CHUNK);
  assert.equal(obj.byteLength, other?.byteLength);
});

tiered("allocate() of a store that was closed is EBADF", async ({ store }) => {
  await store.close();
  await assert.rejects(store.allocate(CHUNK), { code: "EBADF" });
  assert.throws(() => store.tryAllocate(CHUNK), { code: "EBADF" });
});

/** Aborts while memory is being populated, which large segments let be seen. */
async function stopsOpening(
  open: (options: { signal: AbortSignal; onProgress: () => void }) => Promise<AsyncDisposable>,
): Promise<void> {
  const reason = new Error("enough");
  const controller = new AbortController();
  const { signal } = controller;
  await assert.rejects(
    open({ signal, onProgress: () => controller.abort(reason) }),
    (error) => error === reason,
  );
  const early = AbortSignal.abort(reason);
  await assert.rejects(
    open({ signal: early, onProgress: () => {} }),
    (error) => error === reason,
  );
}

test("what makes memory stops by its signal", { timeout: 120_000 }, () =>
  withoutLeaks(async () => {
    const pin = "none";
    const sizeBytes = 512 * MIB;
    await stopsOpening((options) => ShmSegment.create({ sizeBytes, pin, ...options }));
    await stopsOpening((options) => MixedMemoryAllocator.create({ sizeBytes, pin, ...options }));
    const config = createConfig({ poolSizeBytes: sizeBytes, pin });
    await stopsOpening((options) => LocalCpuBackend.fromConfig(config, options));
    const storing = { ...config, storageDir: "/x" };
    await stopsOpening((options) => TieredStore.fromConfig(storing, options));
    const name = uniqueName("signal");
    using owner = ShmSegment.createSync({ name, sizeBytes: MIB, pin });
    assert.equal(owner.name, `/${name}`);
    const signal = AbortSignal.abort(new Error("enough"));
    await assert.rejects(ShmSegment.attach({ name, pin, signal }), /enough/);
  }));
