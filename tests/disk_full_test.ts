// SPDX-License-Identifier: Apache-2.0
//
// A storage directory whose disk is full, for real: a small file system in memory. What does not fit
// is told as ENOSPC, what was there stays whole, and with room again all goes on. Mounting needs
// privileges; where they are missing the tests are skipped, and say so.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { uniqueName } from "./support/leaks.ts";
import { workerOf } from "./support/version1_worker.ts";
import { shmError } from "./support/assertions.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;
const CHUNK = { shape: [2, 1, 64, 256], dtype: "bfloat16", format: "KV_2LTD" } as const;
const CHUNK_BYTES = 2 * 64 * 256 * 2;

/** A file system of `bytes` bytes. */
class SmallDisk implements Disposable {
  readonly path: string;

  constructor(dir: TempDir, bytes: number) {
    this.path = dir.file("disk");
    mkdirSync(this.path);
    const args = ["-t", "tmpfs", "-o", `size=${bytes},mode=0700`, "lmshm-test", this.path];
    const { status, stderr, error } = spawnSync("mount", args, { encoding: "utf8" });
    if (status !== 0) throw new Error(`mount: ${error?.message ?? stderr}`);
  }

  [Symbol.dispose](): void {
    const { status, stderr } = spawnSync("umount", ["-l", this.path], { encoding: "utf8" });
    if (status !== 0) throw new Error(`umount: ${stderr}`);
  }
}

function whyNot(): string | false {
  using dir = new TempDir();
  try {
    using _disk = new SmallDisk(dir, MIB);
    return false;
  } catch (error) {
    return `no file system can be mounted here: ${(error as Error).message.trim()}`;
  }
}

const skip = whyNot();

for (const protocol of [1, 2] as const) {
  test(`a full disk is ENOSPC, and harms no object (version ${protocol})`, {
    timeout: 60_000,
    skip,
  }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const disk = stack.use(new SmallDisk(dir, MIB));
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("full"), sizeBytes: 4 * MIB, pin: "none" }),
      );
      const options = { segment, storageDir: disk.path, workerBinary: workerOf(protocol, dir) };
      const connector = stack.use(await ShmFileConnector.open(options));
      const size = 300 * 1024;
      for (let index = 0; index < 3; index++) {
        segment.bytes(0, size).fill(index + 1);
        await connector.put(`k${index}`, segment.range(0, size));
      }
      const full = shmError("ENOSPC", /put .*No space left.*Free space/);
      await assert.rejects(connector.put("k3", segment.range(0, size)), full);
      await assert.rejects(connector.put("k1", segment.range(0, 2 * size)), full);
      await assert.rejects(connector.put("k4", segment.range(0, 2 * MIB)), full);
      assert.deepEqual((await connector.listAll()).sort(), ["k0", "k1", "k2"]);
      assert.deepEqual(readdirSync(disk.path).length, 3, "no temporary is left");
      for (let index = 0; index < 3; index++) {
        const found = await connector.get(`k${index}`, segment.range(2 * MIB, MIB));
        assert.equal(found?.byteLength, size);
        const bytes = segment.bytes(2 * MIB, size);
        assert.ok(bytes.every((byte) => byte === index + 1), `k${index}`);
      }
      assert.equal(await connector.remove("k0"), true);
      await connector.put("k3", segment.range(0, size));
      assert.equal(connector.stats.inFlight, 0);
    }));

  test(`tiered store: what a full disk refuses stays in the pool (version ${protocol})`, {
    timeout: 60_000,
    skip,
  }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const disk = stack.use(new SmallDisk(dir, MIB));
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("full"), sizeBytes: 4 * MIB, pin: "none" }),
      );
      const pool = new TensorMemoryAllocator(segment);
      const hot = stack.use(new LocalCpuBackend({ allocator: pool }));
      const options = { segment, storageDir: disk.path, workerBinary: workerOf(protocol, dir) };
      const cold = stack.use(await ShmFileConnector.open(options));
      const store = new TieredStore({ hot, cold, writeMode: "behind" });
      const putOne = async (index: number) => {
        using obj = await hot.allocate(CHUNK);
        obj.bytes.fill(index);
        await store.put(`k${index}`, obj);
      };
      const count = 2 * MIB / CHUNK_BYTES;
      for (let index = 0; index < count; index++) await putOne(index);
      let missing: string[] = [];
      await assert.rejects(store.flush(), (error) => {
        shmError("ENOSPC", /objects were not stored/)(error);
        missing = (error as { details: { keys: string[] } }).details.keys;
        return true;
      });
      assert.ok(missing.length >= count / 2 - 2 && missing.length < count, `${missing.length}`);
      assert.equal(store.stats.writeErrors, missing.length);
      assert.equal((await cold.listAll()).length, count - missing.length);
      const check = async () => {
        for (let index = 0; index < count; index++) {
          using obj = await store.get(`k${index}`, CHUNK);
          assert.ok(obj?.bytes.every((byte) => byte === index), `k${index}`);
        }
      };
      await check();
      // Room again: what was told to be missing is put once more, from the pool.
      for (const key of await cold.listAll()) await store.cold.remove(key);
      for (const key of missing.slice(0, 4)) {
        using obj = hot.get(key)!;
        await store.put(key, obj, { writeMode: "through" });
      }
      assert.deepEqual((await cold.listAll()).sort(), missing.slice(0, 4).sort());
      await check();
      await store.close();
    }));
}
