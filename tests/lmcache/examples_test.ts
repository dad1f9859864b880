// SPDX-License-Identifier: Apache-2.0
//
// The examples for LMCache, with LMCache.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { connect, fill, prompt } from "../support/lmcache_suite.ts";
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
