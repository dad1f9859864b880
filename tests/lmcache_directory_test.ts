// SPDX-License-Identifier: Apache-2.0
//
// One directory for LMCache and this library: what a reader that knows LMCache's names alone finds
// in it, and what is found of the files that such a writer made, which have no attributes.

import assert from "node:assert/strict";
import { copyFileSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { CacheEngineKey } from "../src/keys/key.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { uniqueName } from "./support/leaks.ts";
import { workerOf } from "./support/version1_worker.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

/** 512 bytes a token. */
const CHUNK = { shape: [2, 1, 8, 128], dtype: "bfloat16", format: "KV_2LTD" } as const;
const CHUNK_BYTES = 4096;

/** LMCache's rule, and nothing else: a file beside the others, slashes written out. */
function lmcachePath(directory: string, key: string): string {
  return `${directory}/${key.replaceAll("/", "-SEP-")}.data`;
}

/** Writes as LMCache's worker does: in place, and nothing but the payload. */
function lmcacheWrite(directory: string, key: string, bytes: Uint8Array): void {
  writeFileSync(lmcachePath(directory, key), bytes);
}

function keyOf(chunk: number): string {
  return new CacheEngineKey({
    model: "meta-llama/Llama-3.1-8B",
    worldSize: 8,
    workerId: 3,
    chunkHash: BigInt(0x1000 + chunk),
    dtype: "bfloat16",
    tags: [["tenant", "a"]],
  }).toString();
}

function pattern(byteLength: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: byteLength }, (_, at) => (at * 7 + seed * 13) & 0xff);
}

interface Scene {
  readonly store: TieredStore;
  readonly hot: LocalCpuBackend;
  readonly cold: ShmFileConnector;
  readonly directory: string;
}

for (const protocol of [1, 2] as const) {
  const scene = (name: string, body: (scene: Scene) => Promise<void>) =>
    test(`${name} (version ${protocol})`, { timeout: 60_000 }, () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const directory = dir.file("kv");
        const segment = stack.use(
          await ShmSegment.create({
            name: uniqueName("lmcache"),
            sizeBytes: 16 * CHUNK_BYTES,
            pin: "none",
          }),
        );
        const pool = new TensorMemoryAllocator(segment);
        const hot = stack.use(new LocalCpuBackend({ allocator: pool }));
        const options = { segment, storageDir: directory, workerBinary: workerOf(protocol, dir) };
        const cold = stack.use(await ShmFileConnector.open(options));
        const store = stack.use(new TieredStore({ hot, cold }));
        await body({ store, hot, cold, directory });
      }));

  scene("LMCache finds what we wrote, by its names and byte for byte", async (s) => {
    for (let chunk = 0; chunk < 4; chunk++) {
      using obj = s.hot.tryAllocate(CHUNK)!;
      if (chunk === 3) obj.truncateTokens(5);
      obj.bytes.set(pattern(obj.byteLength, chunk));
      await s.store.put(keyOf(chunk), obj);
    }
    for (let chunk = 0; chunk < 4; chunk++) {
      const bytes = new Uint8Array(readFileSync(lmcachePath(s.directory, keyOf(chunk))));
      assert.deepEqual(bytes, pattern(chunk === 3 ? 5 * 512 : CHUNK_BYTES, chunk));
    }
    assert.equal(readdirSync(s.directory).length, 4, "and nothing beside");
  });

  scene("what LMCache wrote is found, partial last chunks with their true shape", async (s) => {
    for (let chunk = 0; chunk < 4; chunk++) {
      const byteLength = chunk === 3 ? 3 * 512 : CHUNK_BYTES;
      lmcacheWrite(s.directory, keyOf(chunk), pattern(byteLength, chunk));
    }
    const keys = [0, 1, 2, 3, 4].map(keyOf);
    assert.equal(await s.store.batchedContains(keys), 4);
    assert.deepEqual((await s.cold.listAll()).sort(), keys.slice(0, 4).sort());
    const found = await s.store.batchedGet(keys, CHUNK);
    assert.deepEqual(found.map((obj) => obj?.shape.join() ?? null), [
      ...["2,1,8,128", "2,1,8,128", "2,1,8,128", "2,1,3,128"],
      null,
    ]);
    for (const [chunk, obj] of found.entries()) {
      if (obj === null) continue;
      assert.deepEqual(obj.bytes.slice(), pattern(obj.byteLength, chunk));
      obj.refCountDown();
    }
    const { metadata, crc32c } = (await s.cold.stat(keys[3]!))!;
    assert.deepEqual([metadata, crc32c], [{}, null]);
    // Half a token is no chunk: LMCache was interrupted, and it writes in place.
    lmcacheWrite(s.directory, keyOf(5), pattern(700, 5));
    assert.equal(await s.store.get(keyOf(5), CHUNK), null);
    assert.match(s.store.stats.lastMismatch!.fault, /700 is no multiple of 512/);
  });

  scene("what LMCache writes over our object is taken for what it is now", async (s) => {
    using obj = s.hot.tryAllocate(CHUNK)!;
    obj.bytes.fill(1);
    const key = keyOf(0);
    await s.store.put(key, obj);
    s.hot.remove(key);
    // A new file in its place, as LMCache's own disk backend makes them: no attributes any more.
    const path = lmcachePath(s.directory, key);
    writeFileSync(`${path}.new`, pattern(CHUNK_BYTES, 9));
    renameSync(`${path}.new`, path);
    {
      using found = await s.store.get(key, CHUNK);
      assert.deepEqual(found?.bytes.slice(), pattern(CHUNK_BYTES, 9));
      s.hot.remove(key);
    }
    // In place, under our attributes: they do not match, and nobody can know which is right.
    await s.cold.put(key, obj);
    lmcacheWrite(s.directory, key, pattern(2 * 512, 4));
    using found = await s.store.get(key, CHUNK);
    if (protocol === 1) assert.deepEqual(found?.shape, [2, 1, 2, 128]);
    else assert.equal(found, null);
    assert.equal(s.cold.stats.mismatches, protocol === 1 ? 0 : 1);
  });

  scene("a directory whose attributes were lost by copying is served all the same", async (s) => {
    for (let chunk = 0; chunk < 3; chunk++) {
      using obj = s.hot.tryAllocate(CHUNK)!;
      if (chunk === 2) obj.truncateTokens(1);
      obj.bytes.set(pattern(obj.byteLength, chunk));
      await s.store.put(keyOf(chunk), obj);
      s.hot.remove(keyOf(chunk));
      const path = lmcachePath(s.directory, keyOf(chunk));
      copyFileSync(path, `${path}.copy`);
      renameSync(`${path}.copy`, path);
      assert.deepEqual((await s.cold.stat(keyOf(chunk)))?.metadata, {});
    }
    for (let chunk = 0; chunk < 3; chunk++) {
      using found = await s.store.get(keyOf(chunk), CHUNK);
      assert.equal(found?.numTokens, chunk === 2 ? 1 : 8);
      assert.deepEqual(found!.bytes.slice(), pattern(found!.byteLength, chunk));
    }
  });
}
