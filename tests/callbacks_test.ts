// SPDX-License-Identifier: Apache-2.0
//
// Functions of the user that fail: nobody but the user is told, once, and everything else goes on.
// Ranges with a hold() of the user's, listeners, callbacks.

import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { ShmError } from "../src/errors.ts";
import { BufferAllocator } from "../src/memory/buffer_allocator.ts";
import { holdAll } from "../src/memory/hold_all.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { CHUNK, newChunk, PAGE, tiered } from "./support/tiered_scene.ts";
import { workerOf } from "./support/version1_worker.ts";
import { warningsOf } from "./support/warnings.ts";
import { eventually, TempDir, withoutWorkers } from "./support/worker.ts";

const END = "the end of a hold() failed: from release";

/** A range as a program may make it for itself. */
function ownRange(range: ShmRange, hold: () => unknown): ShmRange {
  const { segment, offset, byteLength } = range;
  return { segment, offset, byteLength, hold: hold as () => () => void };
}

function throwing(range: ShmRange): ShmRange {
  return ownRange(range, () => () => {
    throw new Error("from release");
  });
}

for (const protocol of [1, 2] as const) {
  test(
    `a release that throws becomes a warning, and calls go on (version ${protocol})`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const segment = stack.use(
          await ShmSegment.create({
            name: uniqueName("callbacks"),
            sizeBytes: 16 * PAGE,
            pin: "none",
          }),
        );
        const options = {
          segment,
          storageDir: dir.file("kv"),
          workerBinary: workerOf(protocol, dir),
        };
        const store = await ShmFileConnector.open(options);
        const [a, b, c] = [0, 1, 2].map((page) => segment.range(page * PAGE, PAGE));
        segment.bytes(0, PAGE).fill(1);
        const warnings = await warningsOf(async () => {
          await store.put("a", throwing(a!));
          await store.batchedPut(["b", "c"], [throwing(a!), a!]);
          assert.ok(await store.get("a", throwing(b!)));
          const found = await store.batchedGet(["b", "none", "c"], [c!, throwing(b!), b!]);
          assert.deepEqual(found.map((one) => one?.byteLength), [PAGE, undefined, PAGE]);
          // One signal for all: who is told later is told all the same.
          const controller = new AbortController();
          const { signal } = controller;
          const calls = [throwing(a!), a!, b!].map((range, i) =>
            store.put(`late-${i}`, range, { signal })
          );
          controller.abort(new Error("enough"));
          const ended = await Promise.allSettled(calls);
          assert.ok(
            ended.every((one) => one.status === "fulfilled" || /enough/.test(one.reason)),
          );
          await store.put("a", a!);
          assert.equal(await store.exists("a"), true);
          await eventually("nothing is in flight", () => store.stats.inFlight === 0);
        });
        assert.ok(warnings.length >= 5, warnings.join("\n"));
        assert.ok(warnings.every((warning) => warning === END), warnings.join("\n"));
        assert.deepEqual(await warningsOf(() => store.close()), []);
      }),
  );

  test(
    `a hold() that gives no function fails its own call (version ${protocol})`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const segment = stack.use(
          await ShmSegment.create({
            name: uniqueName("callbacks"),
            sizeBytes: 16 * PAGE,
            pin: "none",
          }),
        );
        const options = {
          segment,
          storageDir: dir.file("kv"),
          workerBinary: workerOf(protocol, dir),
        };
        const store = await ShmFileConnector.open(options);
        const [a, b] = [segment.range(0, PAGE), segment.range(PAGE, PAGE)];
        const wrong = [
          ownRange(a, () => undefined),
          ownRange(a, () => Promise.resolve(() => {})),
          ownRange(a, () => {
            throw new TypeError("hold() must give nothing at all");
          }),
        ];
        const fault = { name: "TypeError", message: /hold\(\) must give/ };
        for (const range of wrong) {
          const others = [store.put("x", b), store.put("y", b)];
          await assert.rejects(store.put("k", range), fault);
          await assert.rejects(store.get("k", range), fault);
          await assert.rejects(store.batchedPut(["k", "l"], [b, range]), fault);
          await assert.rejects(store.batchedGet(["x", "y"], [b, range]), fault);
          await Promise.all(others);
        }
        assert.equal(store.stats.inFlight, 0);
        await store.put("k", a);
        assert.ok(await store.get("k", b));
        await store.close();
        await segment.free();
      }),
  );

  test(
    `memory of the option allocate that fails concerns its call alone (version ${protocol})`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const segment = stack.use(
          await ShmSegment.create({
            name: uniqueName("callbacks"),
            sizeBytes: 16 * PAGE,
            pin: "none",
          }),
        );
        const range = segment.range(0, PAGE);
        let allocate: () => ShmRange | null = () => range;
        const store = await ShmFileConnector.open({
          segment,
          storageDir: dir.file("kv"),
          workerBinary: workerOf(protocol, dir),
          allocate: () => allocate(),
        });
        await store.put("k", segment.range(0, 100));
        allocate = () => {
          throw new Error("from allocate");
        };
        await assert.rejects(store.get("k"), /from allocate/);
        allocate = () => ({} as ShmRange);
        await assert.rejects(store.get("k"), TypeError);
        allocate = () => throwing(range);
        const warnings = await warningsOf(async () => assert.ok(await store.get("k")));
        assert.ok(warnings.length > 0 && warnings.every((warning) => warning === END));
        allocate = () => range;
        assert.equal((await store.get("k"))?.byteLength, 100);
        await store.close();
      }),
  );
}

test(
  "onLog and onWorkerLost that throw or reject stop nothing",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const segment = stack.use(await ShmSegment.create({ sizeBytes: PAGE, pin: "none" }));
      let lines = 0;
      let lost = 0;
      const warnings = await warningsOf(async () => {
        const store = await ShmFileConnector.open({
          segment,
          storageDir: dir.file("kv"),
          workerArgs: ["--log-level", "debug"],
          onLog: () => {
            if (lines++ === 0) throw new Error("from onLog");
          },
          onWorkerLost: async () => {
            lost++;
            await Promise.resolve();
            throw new Error("from onWorkerLost");
          },
        });
        await store.put("k", segment.range());
        await eventually("the worker has logged", () => lines > 1);
        process.kill(store.workerPid!, "SIGKILL");
        await eventually("the loss was told", () => lost === 1);
        await store.put("k", segment.range());
        await store.close();
      });
      assert.deepEqual(warnings, [
        "onLog failed: from onLog",
        "onWorkerLost failed: from onWorkerLost",
      ]);
    }),
);

let told = 0;

tiered("an onError that throws is not called for less", async (scene) => {
  const { store, cold } = scene;
  cold.before = (call) => {
    if (call !== "put c") throw new ShmError("full", { code: "ENOSPC", operation: call });
  };
  const warnings = await warningsOf(async () => {
    for (const key of ["a", "b", "c"]) {
      using obj = newChunk(scene, 1);
      await store.put(key, obj, { writeMode: "behind" });
    }
    await assert.rejects(store.flush(), shmError("ENOSPC", /2 objects were not stored/));
    await store.flush();
  });
  assert.deepEqual(warnings, ["onError failed: from onError", "onError failed: from onError"]);
  assert.equal(told, 2);
  assert.ok(cold.objects.has("c"));
  using obj = await store.get("c", CHUNK);
  assert.ok(obj);
}, {
  onError: () => {
    told++;
    throw new Error("from onError");
  },
});

test("listeners of memory that throw keep nobody from being told", async () => {
  await withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 4 * PAGE, pin: "none" });
    for (const pool of [new TensorMemoryAllocator(segment), new BufferAllocator()]) {
      const format = pool instanceof BufferAllocator ? "BINARY_BUFFER" : "BINARY";
      const heard: string[] = [];
      const warnings = await warningsOf(() => {
        pool.onFree(() => {
          throw new Error("from onFree");
        });
        pool.onFree(() => heard.push("free"));
        const obj = pool.allocate({ shape: [8], dtype: "uint8", format });
        obj.onceIdle(() => {
          throw new Error("from onceIdle");
        });
        obj.onceIdle(() => heard.push("idle"));
        obj.refCountDown();
        assert.equal(obj.valid, false);
      });
      assert.deepEqual(heard.sort(), ["free", "idle"]);
      assert.deepEqual(warnings.sort(), [
        "a listener of onFree() failed: from onFree",
        "a listener of onceIdle() failed: from onceIdle",
      ]);
      assert.equal(pool.stats.liveObjects, 0);
    }
  });
});

test("an onProgress that throws ends create(); a promise that rejects is a warning", async () => {
  await withoutLeaks(async () => {
    const options = { sizeBytes: 64 * 2 ** 20, pin: "none" } as const;
    const throws = () => {
      throw new Error("from onProgress");
    };
    await assert.rejects(ShmSegment.create({ ...options, onProgress: throws }), /from onProgress/);
    let calls = 0;
    const rejects = async () => {
      await Promise.resolve();
      if (calls++ === 0) throw new Error("from onProgress");
    };
    const warnings = await warningsOf(async () => {
      const segment = await ShmSegment.create({ ...options, onProgress: rejects as () => void });
      await segment.free();
    });
    assert.ok(calls > 0);
    assert.deepEqual(warnings, ["onProgress failed: from onProgress"]);
  });
});

test("holdAll() ends every hold, whatever one of them throws", async () => {
  await withoutLeaks(async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 4 * PAGE, pin: "none" });
    const pool = new TensorMemoryAllocator(segment);
    using obj = pool.allocate(8);
    const warnings = await warningsOf(() => {
      const release = holdAll([throwing(obj), obj, segment.range()], "test");
      assert.equal(obj.inFlight, 1);
      release();
      release();
      assert.equal(obj.inFlight, 0);
    });
    assert.deepEqual(warnings, [END]);
    assert.throws(() => holdAll([obj, ownRange(obj, () => null)], "test"), TypeError);
    assert.equal(obj.inFlight, 0);
  });
});
