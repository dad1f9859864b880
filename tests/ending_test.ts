// SPDX-License-Identifier: Apache-2.0
//
// What a program leaves when it ends, or is loaded anew, with something open: process.exit() and
// uncaught exceptions, while a segment is created or freed, Workers that are terminated, bun --hot.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { disposeAll } from "../src/at_exit.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { createConfig } from "../src/config/config.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { runFixture } from "./support/process.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, processExists, TempDir } from "./support/worker.ts";

const BUN = "Bun" in globalThis;
const LIMIT = { timeout: 120_000 };

for (const how of ["exit", "exit-while-creating", "exit-while-freeing"]) {
  test(`process.exit() leaves no name: ${how}`, LIMIT, async () => {
    const name = uniqueName("ending");
    const ended = await runFixture("ending.ts", [how, name]);
    const left = existsSync(`/dev/shm/${name}`);
    ShmSegment.reclaimDead();
    assert.equal(ended.code, 0, ended.stderr);
    assert.ok(!left);
  });
}

for (const how of ["throw", "reject", "throw-while-creating"]) {
  test(`an exception that nobody catches leaves no name: ${how}`, LIMIT, async () => {
    const name = uniqueName("ending");
    const ended = await runFixture("ending.ts", [how, name]);
    const left = existsSync(`/dev/shm/${name}`);
    ShmSegment.reclaimDead();
    assert.match(ended.stderr, /on purpose/);
    assert.notEqual(ended.code, 0);
    assert.ok(!left);
  });
}

test("a Worker that disposes of all before it is terminated leaves nothing", LIMIT, async () => {
  const name = uniqueName("ending");
  const ended = await runFixture("ending.ts", ["worker-asked", name]);
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /after terminate: free/);
  assert.ok(!existsSync(`/dev/shm/${name}`));
});

test("a Worker that is terminated keeps its segment until the process ends", LIMIT, async () => {
  const name = uniqueName("ending");
  const ended = await runFixture("ending.ts", ["worker-terminated", name]);
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /after terminate: live/);
  // Bun ends without the C library's list of what to do at exit.
  if (BUN) assert.ok(ShmSegment.reclaimDead().includes(`/${name}`));
  assert.ok(!existsSync(`/dev/shm/${name}`));
});

test("disposeAll() closes connectors before it frees their segments", LIMIT, async () => {
  await withoutLeaks(async () => {
    using dir = new TempDir();
    const sizeBytes = 2 ** 20;
    const named = await ShmSegment.create({ name: uniqueName("ending"), sizeBytes, pin: "none" });
    const connector = await ShmFileConnector.open({ segment: named, storageDir: dir.path });
    const anonymous = ShmSegment.createSync({ sizeBytes, pin: "none" });
    const closed = ShmSegment.createSync({ sizeBytes, pin: "none" });
    closed.freeSync();
    const worker = connector.workerPid!;
    const range = named.range(0, 10);
    await connector.put("key", range);
    await disposeAll();
    assert.ok(named.closed && anonymous.closed);
    await assert.rejects(connector.put("key", range), shmError("EBADF"));
    await eventually("the worker has ended", () => !processExists(worker));
    await disposeAll();
  });
});

/** A store over tiers of its own, or of others, with much that is queued. */
async function busyStore(dir: TempDir, ownsTiers: boolean): Promise<TieredStore> {
  const sizeBytes = 64 * 2 ** 20;
  let store: TieredStore;
  if (ownsTiers) {
    store = await TieredStore.fromConfig(
      createConfig({ poolSizeBytes: sizeBytes, storageDir: dir.path, pin: "none" }),
    );
  } else {
    const segment = await ShmSegment.create({ sizeBytes, pin: "none" });
    const hot = new LocalCpuBackend({ allocator: new TensorMemoryAllocator(segment) });
    store = new TieredStore({
      hot,
      cold: await ShmFileConnector.open({ segment, storageDir: dir.path }),
    });
  }
  for (let i = 0; i < 30; i++) {
    using obj = store.hot.tryAllocate(2 ** 20)!;
    await store.put(`key${i}`, obj, { writeMode: "behind" });
  }
  return store;
}

for (const ownsTiers of [true, false]) {
  for (const how of ["close", "disposeAll"]) {
    const tiers = ownsTiers ? "its own" : "others'";
    test(`disposeAll() waits for a store over ${tiers} tiers after ${how}()`, LIMIT, async () => {
      await withoutLeaks(async () => {
        using dir = new TempDir();
        const store = await busyStore(dir, ownsTiers);
        const closing = how === "close" ? store.close() : disposeAll();
        await disposeAll();
        assert.equal(store.stats.queuedObjects, 0);
        assert.equal(store.stats.written, 30);
        await closing;
      });
    });
  }
}

test("disposeAll() waits for a connector and a segment that are being closed", LIMIT, async () => {
  await withoutLeaks(async () => {
    using dir = new TempDir();
    const options = { name: uniqueName("ending"), sizeBytes: 64 * 2 ** 20, pin: "none" } as const;
    const segment = await ShmSegment.create(options);
    const connector = await ShmFileConnector.open({ segment, storageDir: dir.path });
    const putting = connector.put("key", segment.range());
    const closing = connector.close();
    await disposeAll();
    assert.ok(segment.closed);
    await Promise.all([putting, closing]);
    const again = await ShmSegment.create(options);
    const freeing = again.free();
    let free = false;
    void freeing.then(() => free = true);
    await disposeAll();
    assert.ok(free);
    assert.equal(ShmSegment.nameState(options.name), "free");
  });
});

test("disposeAll() goes on after what cannot be closed, and names it", LIMIT, async () => {
  const [held, free] = [1, 2].map(() => ShmSegment.createSync({ sizeBytes: 4096, pin: "none" }));
  const release = held!.hold("a copy");
  await assert.rejects(disposeAll(), (error: unknown) => {
    assert.ok(error instanceof AggregateError);
    assert.match(error.message, /a copy/);
    return error.errors.length === 1;
  });
  assert.ok(free!.closed && !held!.closed);
  release();
  await disposeAll();
  assert.ok(held!.closed);
});

function hotProgram(name: string, store: string, turn: number): string {
  const library = fileURLToPath(new URL("../src/mod.ts", import.meta.url));
  return `
import { disposeAll, ShmFileConnector, ShmSegment } from ${JSON.stringify(library)};
await disposeAll();
const segment = await ShmSegment.create({ name: ${
    JSON.stringify(name)
  }, sizeBytes: 2 ** 20, pin: "none" });
const connector = await ShmFileConnector.open({ segment, storageDir: ${JSON.stringify(store)} });
await connector.put("key", segment.range(0, 10));
console.log("turn ${turn}", connector.workerPid);
setInterval(() => {}, 1000);
`;
}

test("bun --hot: a program that is loaded anew disposes of what it had before", {
  ...LIMIT,
  skip: BUN ? false : "Deno reloads modules with deno run --watch only, in a new process or realm",
}, async () => {
  using dir = new TempDir();
  const name = uniqueName("hot");
  const [program, store] = [dir.file("program.ts"), dir.file("store")];
  writeFileSync(program, hotProgram(name, store, 0));
  const child = spawn(process.execPath, ["--hot", program], { stdio: ["ignore", "pipe", "pipe"] });
  const ended = new Promise((resolve) => child.on("close", resolve));
  let output = "";
  child.stdout.on("data", (data) => output += data);
  child.stderr.on("data", (data) => output += data);
  const workerOf = async (turn: number): Promise<number> => {
    const line = new RegExp(`turn ${turn} (\\d+)`);
    await eventually(`turn ${turn}: ${output}`, () => line.test(output));
    return Number(line.exec(output)![1]);
  };
  try {
    const workers = [await workerOf(0)];
    for (let turn = 1; turn <= 2; turn++) {
      writeFileSync(program, hotProgram(name, store, turn));
      workers.push(await workerOf(turn));
    }
    await eventually("the earlier workers end", () => workers.filter(processExists).length === 1);
    assert.equal(readdirSync("/dev/shm").filter((entry) => entry.includes(name)).length, 1);
  } finally {
    child.kill("SIGTERM");
    await ended;
    ShmSegment.reclaimDead();
  }
});
