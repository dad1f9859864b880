// SPDX-License-Identifier: Apache-2.0
//
// A program that keeps its objects in Redis or Valkey: connect(url), and everything above it.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import process from "node:process";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { connect } from "../src/connector/connect.ts";
import { ShmError } from "../src/errors.ts";
import { ObjectKey } from "../src/keys/object_key.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { lmshm } from "./support/command_line.ts";
import { RedisServer, withoutRedis } from "./support/redis_server.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const MIB = 2 ** 20;
const options = { skip: withoutRedis, timeout: 100_000 };
let names = 0;

async function newSegment(bytes: number): Promise<ShmSegment> {
  return await ShmSegment.create({
    name: `lmshm-redis-${process.pid}-${names++}`,
    sizeBytes: bytes,
    pin: "none",
  });
}

test("connect() to a server stores, gets, lists and removes objects", options, async () => {
  await using server = await RedisServer.start();
  using segment = await newSegment(8 * MIB);
  const url = `redis://127.0.0.1:${server.port}?prefix=kv:&ttl=1000`;
  await using store = await connect(url, { segment });
  const data = segment.range(0, 3 * MIB);
  const bytes = (one: ShmRange) => segment.view(one.offset, one.byteLength).bytes;
  bytes(data).forEach((_, i, all) => all[i] = (i * 7 + (i >> 9)) & 255);
  await store.put("model@1@0@abc@half", data, { metadata: { tenant: "a" } });
  const space = segment.range(4 * MIB, 4 * MIB);
  const found = await store.get("model@1@0@abc@half", space);
  assert.equal(found?.byteLength, 3 * MIB);
  assert.deepEqual(bytes(space).slice(0, 3 * MIB), bytes(data).slice());
  assert.equal(await store.get("none", space), null);
  const stat = await store.stat("model@1@0@abc@half");
  assert.deepEqual([stat?.byteLength, stat?.metadata["tenant"]], [3 * MIB, "a"]);
  assert.match(await server.ask("TTL", "kv:model@1@0@abc@half"), /^:(1000|9\d\d)\r\n$/);

  const keys = Array.from({ length: 100 }, (_, i) => `k${i}`);
  const parts = keys.map((_, i) => segment.range(i * 4096, 4096));
  await store.batchedPut(keys, parts);
  const wanted = [...keys.slice(0, 50), "none"];
  const places = wanted.map((_, i) => segment.range(4 * MIB + i * 4096, 4096));
  const got = await store.batchedGet(wanted, places);
  assert.deepEqual(got.map((one) => one !== null), wanted.map((key) => key !== "none"));
  assert.deepEqual(bytes(places[49]!).slice(), bytes(parts[49]!).slice());
  const listed = [];
  for await (const key of store.list({ prefix: "k" })) listed.push(key);
  assert.deepEqual([...new Set(listed)].sort(), [...keys].sort());
  assert.equal(await store.remove("k0"), true);
  assert.equal(await store.remove("k0"), false);
  assert.equal(await store.exists("k0"), false);
});

test("a password goes to the worker and nowhere else", options, async () => {
  await using server = await RedisServer.start("my-own-secret");
  using segment = await newSegment(MIB);
  const url = (password: string) => `redis://default:${password}@127.0.0.1:${server.port}`;
  await using store = await connect(url("my-own-secret"), { segment });
  await store.put("k", segment.range(0, 1000));
  assert.ok(!readFileSync(`/proc/${store.workerPid}/cmdline`, "utf8").includes("secret"));
  await assert.rejects(connect(url("wrong-secret"), { segment }), (error) => {
    assert.ok(error instanceof Error);
    assert.match(error.message, /WRONGPASS|password/);
    assert.ok(!`${error.message} ${error.stack}`.includes("wrong-secret"));
    return true;
  });
});

test("a server that goes away is an error with its name", options, async () => {
  await using server = await RedisServer.start();
  using segment = await newSegment(MIB);
  await using store = await connect(`redis+unix://${server.socketPath}`, { segment });
  await store.put("k", segment.range(0, 1000));
  await server.kill();
  await assert.rejects(store.put("k", segment.range(0, 1000)), (error) => {
    assert.ok(error instanceof ShmError);
    assert.match(error.code, /^(ECONNREFUSED|ECONNRESET|ENOENT)$/);
    assert.ok(error.message.includes(server.socketPath));
    return true;
  });
});

test("lmshm verify says what failed first, not that cleaning up failed, too", options, async () => {
  await using server = await RedisServer.start();
  await server.ask("ACL", "SETUSER", "default", "-set", "-unlink");
  const store = `redis://127.0.0.1:${server.port}`;
  const { code, stderr } = await lmshm("verify", "--store", store, "--size", "4MiB");
  assert.equal(code, 1, stderr);
  assert.match(stderr, /lmshm: put /);
});

test("an ObjectKey is spelled as LMCache's adapters for Redis spell it", options, async () => {
  await using server = await RedisServer.start();
  const key = new ObjectKey({
    ...{ model: "a/model", kvRank: ObjectKey.kvRank(2, 1), chunkHash: "1f3a", salt: "s" },
  });
  const text = "a/model@02010201@0@1f3a@s";
  const url = `redis://127.0.0.1:${server.port}?layout=payload`;
  await using store = await TieredStore.create({
    hot: { sizeBytes: MIB, name: `/lmshm-redis-${process.pid}-${names++}`, pin: "none" },
    cold: { store: url },
  });
  const chunk = { shape: [2, 1, 4, 64], dtype: "half" } as const;
  {
    using obj = await store.allocate(chunk);
    await store.put(key, obj);
  }
  await store.flush();
  assert.equal(await server.ask("STRLEN", text), ":1024\r\n");
  assert.equal(await server.ask("DBSIZE"), ":1\r\n");
  assert.equal(await store.exists(key), true);
  assert.equal(await store.cold.exists(key), true);
  assert.equal(await store.cold.exists(text), true);
  // A worker that runs already says what is behind it.
  using dir = new TempDir();
  await using worker = await startWorker(dir.file("w.sock"), null, ["--store", url]);
  using segment = await newSegment(MIB);
  await using other = await connect(`unix:${dir.file("w.sock")}`, { segment });
  assert.equal(await other.exists(key), true, worker.address);
  assert.equal(await store.remove(key), true);
  assert.equal(await server.ask("DBSIZE"), ":0\r\n");
});

test("lmshm check tries a server that LMCache's configuration names", options, async () => {
  await using server = await RedisServer.start();
  using dir = new TempDir();
  const text = (scheme: string) =>
    `max_local_cpu_size: 0.01\nremote_url: "${scheme}://127.0.0.1:${server.port}"\n`;
  for (const [scheme, layout] of [["redis", "lmcache-redis"], ["valkey", "payload"]] as const) {
    writeFileSync(dir.file("lmcache.yaml"), text(scheme));
    const { code, stdout, stderr } = await lmshm("check", "--config", dir.file("lmcache.yaml"));
    assert.equal(code, 0, stdout + stderr);
    assert.ok(stdout.includes(`redis://127.0.0.1:${server.port}?layout=${layout}\n`), stdout);
    assert.match(stdout, /get from the store +ok/);
    assert.match(stdout, /metadata +- *\n +the layout of its objects, which is LMCache's/);
    assert.equal(await server.ask("DBSIZE"), ":0\r\n");
  }
});
