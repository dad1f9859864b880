// SPDX-License-Identifier: Apache-2.0
//
// The client of LMCache against LMCache: what tests/lmcache_client_test.ts has of a stand-in, and what
// takes long, or a real server alone can show.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { shmError } from "../support/assertions.ts";
import { connect, fill, lmcacheTests, prompt } from "../support/lmcache_suite.ts";
import { sleep, TempDir } from "../support/worker.ts";
import { NEWER, RealLmcache, skip } from "./real_lmcache.ts";

const timeout = 180_000;

lmcacheTests("LMCache", (settings) => RealLmcache.start(settings), skip);

test(
  "LMCache: a lease outlives the server's lock, which is renewed",
  { skip, timeout },
  async () => {
    await using server = await RealLmcache.start({ readTtlSeconds: 10 });
    await using client = await connect(server, { leaseMs: 8_000 });
    await fill(client, prompt(1));
    await using lease = await client.retrieve(prompt(1));
    await sleep(15_000);
    await server.clear();
    assert.ok(lease!.valid);
    assert.equal(lease!.chunks[0]!.bytes[0], 1);
    assert.equal(await client.lookup(prompt(1)), 1);
  },
);

test("LMCache: a lease whose chunks are gone by force is lost", { skip, timeout }, async () => {
  await using server = await RealLmcache.start();
  await using client = await connect(server, { leaseMs: 4_000 });
  await fill(client, prompt(1));
  const lease = await client.retrieve(prompt(1));
  await server.clear(true);
  await sleep(3_000);
  assert.ok(!lease!.valid);
  await assert.rejects(lease!.release(), shmError("ESTALE"));
});

test("LMCache: what was given up can be stored by others when the server's time is over", {
  skip,
  timeout,
}, async () => {
  await using server = await RealLmcache.start({ writeTtlSeconds: 3 });
  await using other = await connect(server);
  const client = await connect(server, { storeMs: 1_000 });
  await assert.rejects(client.store(prompt(1), () => Promise.reject(new Error("broken"))));
  assert.equal(await fill(other, prompt(1)), 0);
  await sleep(4_000);
  assert.equal(await other.lookup(prompt(1)), 0);
  assert.equal(await fill(other, prompt(1), 8), 1);
  await client.close();
  await using lease = await other.retrieve(prompt(1));
  assert.equal(lease!.chunks[0]!.bytes[0], 8);
});

test(
  "LMCache: more than the pool holds evicts what nobody has leased",
  { skip, timeout },
  async () => {
    await using server = await RealLmcache.start({ poolGigabytes: 0.01 });
    const kvShape = { layers: 4, hiddenSize: 2048, dtype: "bfloat16" } as const; // 512 KiB a chunk
    await using client = await connect(server, { kvShape });
    await fill(client, prompt(1), 200);
    await using lease = await client.retrieve(prompt(1));
    let stored = 0;
    for (let first = 10_000; stored < 60 && first < 10_000 + 400 * 100; first += 100) {
      const now = await fill(client, prompt(1, first), 7);
      stored += now;
      // No room: the server evicts in its own time.
      if (now === 0) await sleep(100);
    }
    assert.ok(stored >= 60, `${stored} of 60 were stored`);
    assert.ok(lease!.valid && lease!.chunks[0]!.bytes.every((byte) => byte === 200));
  },
);

test("LMCache: chunks that it has on disk are found and retrieved", { skip, timeout }, async () => {
  using dir = new TempDir();
  const base_path = dir.file("l2");
  mkdirSync(base_path);
  await using server = await RealLmcache.start({ adapter: { type: "fs", base_path } });
  await using client = await connect(server);
  await fill(client, prompt(2), 30);
  const end = performance.now() + 60_000;
  while (readdirSync(base_path).filter((name) => name.endsWith(".data")).length < 2) {
    assert.ok(performance.now() < end, "it writes them to the disk");
    await sleep(50);
  }
  await server.restart();
  assert.equal(await client.lookup(prompt(2)), 2);
  await using lease = await client.retrieve(prompt(2));
  assert.deepEqual(lease!.chunks.map(({ bytes }) => bytes[9]), [30, 31]);
});

test("LMCache 0.5.7rc2 is refused, and named", {
  skip: skip || (NEWER === undefined ? "LMSHM_LMCACHE_NEWER names no other version" : false),
  timeout,
}, async () => {
  await using server = await RealLmcache.start({ pythonPath: NEWER! });
  await assert.rejects(
    connect(server),
    shmError("EPROTONOSUPPORT", /speaks the protocol of 0\.5\.7 or newer/),
  );
});

test("LMCache that speaks ZeroMQ is refused", { skip, timeout }, async () => {
  await using server = await RealLmcache.start({ transport: "zmq" });
  await assert.rejects(connect(server, { timeoutMs: 3_000 }), (error: { message: string }) => {
    assert.match(error.message, /--transport grpc|not done within|deadline|time/);
    return true;
  });
});
