// SPDX-License-Identifier: Apache-2.0
//
// The examples for LMCache, with LMCache.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { startGateway } from "../support/example_server.ts";
import { connect, fill, prompt, TOKENS_A_CHUNK } from "../support/lmcache_suite.ts";
import { runFixture } from "../support/process.ts";
import { TempDir } from "../support/worker.ts";
import { RealLmcache, skip } from "./real_lmcache.ts";

const MODEL = "a-model";

test("LMCache: lmcache_warm.ts brings chunks over a restart", {
  skip,
  timeout: 180_000,
}, async () => {
  using dir = new TempDir();
  const prompts = [prompt(3), prompt(2, 5000)];
  writeFileSync(dir.file("prompts"), prompts.map((one) => `${JSON.stringify(one)}\n`).join(""));
  await using server = await RealLmcache.start();
  const run = async (what: string) => {
    const words = [what, server.address, MODEL, "2,32,bfloat16", dir.path, dir.file("prompts")];
    const ended = await runFixture("../../examples/lmcache_warm.ts", words);
    assert.equal(ended.code, 0, ended.stderr);
    return ended.stdout;
  };
  {
    await using client = await connect(server, { model: MODEL });
    await fill(client, prompts[0]!, 10);
    await fill(client, prompts[1]!, 20);
    assert.match(await run("save"), /^OK: 5 chunks of 2 prompts saved$/m);
  }
  await server.restart();
  assert.match(await run("load"), /^OK: 5 chunks of 2 prompts loaded$/m);
  await using client = await connect(server, { model: MODEL });
  await using lease = await client.retrieve(prompts[0]!);
  assert.deepEqual(lease!.chunks.map(({ bytes }) => bytes[99]), [10, 11, 12]);
});

test("LMCache: lmcache_gateway.ts asks the server that has most of the prompt", {
  skip,
  timeout: 300_000,
}, async () => {
  await using one = await RealLmcache.start();
  await using two = await RealLmcache.start();
  await using first = await connect(one, { model: MODEL });
  await using second = await connect(two, { model: MODEL });
  await fill(first, prompt(1));
  await fill(second, prompt(3));
  await fill(first, prompt(2, 7000));
  await using gateway = await startGateway(MODEL, [one, two]);
  const cached = (server: number, chunks: number) => `${server} ${chunks * TOKENS_A_CHUNK}`;
  assert.equal(await gateway.routed(prompt(3)), cached(1, 3));
  assert.equal(await gateway.routed(prompt(2, 7000)), cached(0, 2));
  assert.match(await gateway.routed(prompt(2, 99_000)), /^[01] 0$/);
  // One that is dead has nothing, and its engine still serves.
  await two.kill();
  assert.equal(await gateway.routed(prompt(3)), cached(0, 1));
  assert.match(await gateway.routed(prompt(2, 99_000)), /^[01] 0$/);
  // One that comes back is empty, until somebody stores.
  await two.restart();
  assert.equal(await gateway.routed(prompt(3)), cached(0, 1));
  assert.equal(await fill(second, prompt(3)), 3);
  assert.equal(await gateway.routed(prompt(3)), cached(1, 3));
});

test(
  "LMCache: lmcache_warm.ts says what a server does not do",
  { skip, timeout: 180_000 },
  async () => {
    using dir = new TempDir();
    writeFileSync(dir.file("prompts"), `${JSON.stringify(prompt(2))}\n`);
    const server = await RealLmcache.start();
    const run = (what: string, shape = "2,32,bfloat16") =>
      runFixture("../../examples/lmcache_warm.ts", [
        ...[what, server.address, MODEL, shape, dir.path, dir.file("prompts")],
      ]);
    {
      await using _ = server;
      // Nothing is there: nothing is saved, and nothing to load from.
      assert.match((await run("save")).stdout, /^OK: 0 chunks of 1 prompts saved$/m);
      assert.match((await run("load")).stdout, /^OK: 0 chunks of 1 prompts loaded$/m);
      await using client = await connect(server, { model: MODEL });
      await fill(client, prompt(2));
      const other = await run("save", "4,32,bfloat16");
      assert.equal(other.code, 1);
      assert.match(other.stderr, /EINVAL|bytes/);
    }
    const ended = await run("save");
    assert.equal(ended.code, 1);
    assert.match(ended.stderr, /ECONNREFUSED/);
  },
);
