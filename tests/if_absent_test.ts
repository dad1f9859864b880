// SPDX-License-Identifier: Apache-2.0
//
// put() with ifAbsent: an object that is there stays as it is, and that is false, no error; with every
// kind of store, and with two tiers over one. worker_if_absent_test.ts has what is the client's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { connect, type ConnectOptions } from "../src/connector/connect.ts";
import type { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName } from "./support/leaks.ts";
import { numbers } from "./support/object_worker.ts";
import { Recorder } from "./support/open_telemetry.ts";
import { startServer, withoutServer } from "./support/store_servers.ts";
import { CHUNK, isFilled, PAGE } from "./support/tiered_scene.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;
const KINDS = ["directory", "redis", "s3"] as const;

interface Scene {
  readonly segment: ShmSegment;
  /** Another connector to the same store, with a worker of its own. */
  open(options?: Partial<ConnectOptions>): Promise<ShmFileConnector>;
}

/** Those whose server decides between several at a time; an S3 server need not. */
const DECIDING = ["directory", "redis"] as const;

function onStores(
  name: string,
  body: (scene: Scene) => Promise<void>,
  kinds: readonly (typeof KINDS)[number][] = KINDS,
): void {
  for (const kind of kinds) {
    const skip = kind === "directory" ? false : withoutServer(kind);
    test(`${kind}: ${name}`, { timeout: 120_000, skip }, () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const url = kind === "directory"
          ? dir.path
          : stack.use(await startServer(kind)).urlWithPassword;
        const segment = stack.use(
          await ShmSegment.create({ name: uniqueName("absent"), sizeBytes: 8 * MIB, pin: "none" }),
        );
        const open = async (options: Partial<ConnectOptions> = {}) =>
          stack.use(await connect(url, { segment, ...options }));
        await body({ segment, open });
      }));
  }
}

/** What the object is filled with, and how long it is. */
async function seen(
  { segment }: Scene,
  connector: ShmFileConnector,
  key: string,
): Promise<readonly [fill: number, byteLength: number]> {
  const range = await connector.get(key, segment.range(6 * MIB, 2 * MIB));
  assert.ok(range, key);
  const bytes = segment.bytes(range.offset, range.byteLength);
  assert.ok(bytes.every((byte) => byte === bytes[0]), "bytes of two objects");
  return [bytes[0]!, range.byteLength];
}

onStores("an object that is there stays, with what is stored beside it", async (scene) => {
  const { segment, open } = scene;
  const connector = await open();
  segment.bytes(0, MIB).fill(1);
  segment.bytes(MIB, 2 * MIB).fill(2);
  const options = { ifAbsent: true, metadata: { who: "first" } };
  for (const byteLength of [5000, MIB]) {
    const key = `k/${byteLength}`;
    assert.equal(await connector.put(key, segment.range(0, byteLength), options), true);
    const [before, stats] = [await connector.stat(key), connector.stats];
    const others = [segment.range(MIB, byteLength), segment.range(MIB, 10), segment.range(MIB, 0)];
    for (const other of [...others, segment.range(MIB, 2 * MIB)]) {
      const late = connector.put(key, other, { ...options, metadata: { who: "second" } });
      assert.equal(await late, false);
    }
    assert.deepEqual(await connector.stat(key), before);
    assert.equal(before?.metadata["who"], "first");
    assert.deepEqual(connector.stats, stats, "it counts neither as a put nor as bytes");
    assert.deepEqual(await seen(scene, connector, key), [1, byteLength]);
    // Without it, and with false, the object is replaced as ever.
    assert.equal(await connector.put(key, segment.range(MIB, 20), { ifAbsent: false }), true);
    assert.equal(await connector.put(key, segment.range(MIB, 30)), true);
    assert.deepEqual(await seen(scene, connector, key), [2, 30]);
    assert.equal(await connector.remove(key), true);
    assert.equal(await connector.put(key, segment.range(0, 40), options), true);
    assert.deepEqual(await seen(scene, connector, key), [1, 40]);
  }
});

onStores("a batch says of each object whether it was stored", async (scene) => {
  const { segment, open } = scene;
  const connector = await open();
  segment.bytes(0, 4096).fill(1);
  segment.bytes(4096, 4096).fill(2);
  segment.bytes(MIB, MIB).fill(3);
  const there = numbers(100).map((i) => `k/${2 * i}`);
  const large = ["large/0", "large/1"];
  await connector.batchedPut(there, there.map(() => segment.range(0, 100)));
  await connector.put(large[0]!, segment.range(0, 100));
  const keys = [...numbers(200).map((i) => `k/${i}`), ...large];
  const ranges = keys.map((key) =>
    large.includes(key) ? segment.range(MIB, MIB) : segment.range(4096, 50)
  );
  const { puts } = connector.stats;
  const stored = await connector.batchedPut(keys, ranges, { ifAbsent: true });
  assert.deepEqual(stored, keys.map((_, i) => i % 2 === 1));
  assert.equal(connector.stats.puts - puts, 101);
  assert.deepEqual(await seen(scene, connector, "k/10"), [1, 100]);
  assert.deepEqual(await seen(scene, connector, "k/11"), [2, 50]);
  assert.deepEqual(await seen(scene, connector, "large/0"), [1, 100]);
  assert.deepEqual(await seen(scene, connector, "large/1"), [3, MIB]);
});

onStores("one key many times in a batch is stored once", async (scene) => {
  const { segment, open } = scene;
  const connector = await open();
  segment.bytes(0, 4096).fill(1);
  const same = numbers(20).map(() => "same");
  const once = await connector.putEach(same, same.map((_, i) => segment.range(0, 10 + i)), {
    ifAbsent: true,
  });
  const values = once.map((one) => `${one.status === "fulfilled" ? one.value : one.reason}`);
  assert.deepEqual(values.toSorted(), [...Array(19).fill("false"), "true"]);
  assert.deepEqual(await seen(scene, connector, "same"), [1, 10 + values.indexOf("true")]);
}, DECIDING);

onStores("of two connectors that put under one key one stores its object", async (scene) => {
  const { segment, open } = scene;
  const both = [await open(), await open()];
  both.forEach((_, who) => segment.bytes(who * MIB, MIB).fill(1 + who));
  const keys = numbers(60).map((i) => `k/${i}`);
  const sizeOf = (i: number) => i % 10 === 9 ? MIB : 100;
  const stored = await Promise.all(both.map((connector, who) =>
    Promise.all(keys.map((key, i) => {
      const range = segment.range(who * MIB, sizeOf(i));
      return connector.put(key, range, { ifAbsent: true });
    }))
  ));
  for (const [i, key] of keys.entries()) {
    assert.notEqual(stored[0]![i], stored[1]![i], `${key}: one of them, and not both`);
    const winner = stored[0]![i] ? 1 : 2;
    assert.deepEqual(await seen(scene, both[0]!, key), [winner, sizeOf(i)], key);
  }
  const puts = both.map((connector) => connector.stats.puts);
  assert.equal(puts[0]! + puts[1]!, keys.length);
}, DECIDING);

onStores("signal and timeoutMs count as for every put", async (scene) => {
  const { segment, open } = scene;
  const connector = await open();
  const range = segment.range(0, 100);
  const enough = new Error("enough");
  const signal = AbortSignal.abort(enough);
  await assert.rejects(connector.put("k", range, { ifAbsent: true, signal }), enough);
  await assert.rejects(connector.batchedPut(["k"], [range], { ifAbsent: true, signal }), enough);
  assert.equal(await connector.exists("k"), false);
  const patient = { ifAbsent: true, timeoutMs: 60_000, signal: new AbortController().signal };
  assert.equal(await connector.put("k", range, patient), true);
  assert.deepEqual(await connector.batchedPut(["k", "l"], [range, range], patient), [false, true]);
});

onStores("telemetry knows of no bytes and no error where nothing was stored", async (scene) => {
  const { segment, open } = scene;
  await using recorder = new Recorder();
  const connector = await open({ telemetry: recorder });
  const range = segment.range(0, 100);
  const options = { ifAbsent: true };
  await connector.put("a", range, options);
  await connector.put("a", range, options);
  await connector.batchedPut(["a", "b", "c"], [range, range, range], options);
  const bytes = await recorder.counted("lmshm.client.bytes");
  assert.deepEqual(
    bytes.map(({ value, attributes }) => [attributes["db.operation.name"], value]).sort(),
    [["BATCH put", 200], ["put", 100]],
  );
  assert.deepEqual(await recorder.counted("lmshm.client.errors"), []);
  assert.deepEqual(await recorder.counted("lmshm.client.lookups"), []);
});

test("two stores over one directory: each object is one's, and both see it", {
  timeout: 120_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using stack = new AsyncDisposableStack();
    const open = async () =>
      stack.use(
        await TieredStore.create({
          hot: { sizeBytes: 64 * PAGE, name: uniqueName("absent"), pin: "none" },
          cold: { storageDir: dir.path },
        }),
      );
    const both = [await open(), await open()];
    const keys = Array.from({ length: 20 }, (_, i) => `k${i}`);
    const stored = await Promise.all(both.map(async (store, who) => {
      const objs = await Promise.all(keys.map(() => store.allocate(CHUNK)));
      for (const obj of objs) obj.bytes.fill(1 + who);
      const stored = await store.batchedPut(keys, objs, { ifAbsent: true });
      for (const obj of objs) obj.refCountDown();
      return stored;
    }));
    for (const [i, key] of keys.entries()) {
      assert.notEqual(stored[0]![i], stored[1]![i], `${key}: one of them, and not both`);
      for (const store of both) {
        using obj = await store.get(key, CHUNK);
        assert.ok(isFilled(obj, stored[0]![i] ? 1 : 2), key);
      }
    }
  }));
