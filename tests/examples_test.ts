// SPDX-License-Identifier: Apache-2.0
//
// The programs of examples/ run in this runtime, as a user would start them, and say that all is well.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { ask, startExample, startGateway } from "./support/example_server.ts";
import { StandIn } from "./support/lmcache_server.ts";
import { connect, fill, prompt, TOKENS_A_CHUNK } from "./support/lmcache_suite.ts";
import { runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const timeout = 120_000;

async function output(example: string, ...args: string[]): Promise<string> {
  const ended = await runFixture(`../../examples/${example}`, args, { timeoutMs: 100_000 });
  assert.equal(ended.code, 0, `${ended.stdout}${ended.stderr}`);
  assert.equal(ended.stderr, "");
  return ended.stdout;
}

test("two_processes.ts: both see the same memory", { timeout }, async () => {
  const said = await output("two_processes.ts", String(40 * 2 ** 20 + 4));
  assert.match(said, /^created \/lmshm-example-\d+: 41943044 bytes/);
  assert.match(said, /^attached .*: 41943044 bytes$/m);
  assert.match(said, /^the owner has ended: released$/m);
  assert.match(said, /^OK: both see the same memory$/m);
});

test("kv_cache.ts: both tiers keep to their limits", { timeout }, async () => {
  const said = await output("kv_cache.ts");
  assert.match(said, /^84 chunks asked for, 4\d computed$/m);
  assert.match(said, /^OK: /m);
});

test("prompt_cache.ts: the second run computes the ends of its prompts only", {
  timeout,
}, async () => {
  const said = await output("prompt_cache.ts");
  const runs = said.match(/^\w+ run: .*$/gm);
  assert.deepEqual(runs, [
    "first run: 0 tokens restored, 612 computed",
    "first run: 512 tokens restored, 100 computed",
    "first run: 512 tokens restored, 100 computed",
    "second run: 576 tokens restored, 36 computed",
    "second run: 576 tokens restored, 36 computed",
    "second run: 576 tokens restored, 36 computed",
  ]);
  assert.match(said, /^OK: /m);
});

const hasPython = spawnSync("python3", ["-c", "import mmap"]).status === 0;

test("with_python.ts: Python reads and writes objects of the pool", {
  skip: hasPython ? false : "python3 is missing",
  timeout,
}, async () => {
  const said = await output("with_python.ts");
  assert.match(said, /^python: 1000000 numbers at \d+, their squares at \d+$/m);
  assert.match(said, /^OK: /m);
});

test("gpu_chunks.ts: chunks come back, with or without a GPU", { timeout }, async () => {
  assert.match(await output("gpu_chunks.ts"), /^OK: /m);
});

test("http_server.ts: stores uploads, and serves them whole, in part and after a restart", {
  timeout,
}, async () => {
  using dir = new TempDir();
  const bytes = new Uint8Array(3_000_001).map((_, at) => at % 251);
  {
    await using server = await startExample("/chunks/KEY", "http_server.ts", [dir.path, "0"]);
    const chunk = `${server.url}/chunks/a%20key`;
    assert.equal((await ask(chunk, { method: "PUT", body: bytes })).status, 201);
    assert.deepEqual((await ask(chunk)).bytes, bytes);
    const part = await ask(chunk, { headers: { range: "bytes=1000-1999" } });
    assert.equal(part.status, 206);
    assert.equal(part.headers.get("content-range"), "bytes 1000-1999/3000001");
    assert.deepEqual(part.bytes, bytes.slice(1000, 2000));
    const end = await ask(chunk, { headers: { range: "bytes=-5" } });
    assert.deepEqual(end.bytes, bytes.slice(-5));
    const beyond = await ask(chunk, { headers: { range: "bytes=3000001-" } });
    assert.equal(beyond.status, 416);
    assert.equal(beyond.headers.get("content-range"), "bytes */3000001");
    const head = await ask(chunk, { method: "HEAD" });
    assert.equal(head.headers.get("content-length"), "3000001");
    assert.equal((await ask(`${server.url}/chunks/other`)).status, 404);
    assert.equal((await ask(`${server.url}/chunks/empty`, { method: "PUT" })).status, 411);
    // Who goes away in the middle leaves nothing held.
    const left = await fetch(chunk);
    await left.body!.cancel();
  }
  await using server = await startExample("/chunks/KEY", "http_server.ts", [dir.path, "0"]);
  const chunk = `${server.url}/chunks/a%20key`;
  assert.deepEqual((await ask(chunk)).bytes, bytes);
  const { hot, coldHits } = JSON.parse(
    new TextDecoder().decode((await ask(`${server.url}/stats`)).bytes),
  );
  assert.equal(hot.objects, 1);
  assert.equal(coldHits, 1);
  assert.equal((await ask(chunk, { method: "DELETE" })).status, 200);
  assert.equal((await ask(chunk)).status, 404);
});

// --- LMCache's servers, as a stand-in has them

const MODEL = "a-model";
const SHAPE = "2,32,bfloat16";

test("lmcache_warm.ts: chunks of one server come to another by files", { timeout }, async () => {
  using dir = new TempDir();
  const prompts = [prompt(3), prompt(2, 5000), prompt(1, 9000)];
  writeFileSync(dir.file("prompts"), prompts.map((one) => `${JSON.stringify(one)}\n`).join(""));
  const words = (address: string) => [address, MODEL, SHAPE, dir.path, dir.file("prompts")];
  {
    await using server = await StandIn.start({ chunkTokens: TOKENS_A_CHUNK });
    await using client = await connect(server, { model: MODEL });
    await fill(client, prompts[0]!, 10);
    await fill(client, prompts[1]!, 20);
    const said = await output("lmcache_warm.ts", "save", ...words(server.address));
    assert.match(said, /^OK: 5 chunks of 3 prompts saved$/m);
  }
  await using server = await StandIn.start({ chunkTokens: TOKENS_A_CHUNK });
  const said = await output("lmcache_warm.ts", "load", ...words(server.address));
  assert.match(said, /^OK: 5 chunks of 3 prompts loaded$/m);
  await using client = await connect(server, { model: MODEL });
  const found = await Promise.all(prompts.map((one) => client.lookup(one)));
  assert.deepEqual(found, [3, 2, 0]);
  await using lease = await client.retrieve(prompts[0]!);
  for (const { bytes, index } of lease!.chunks) {
    assert.ok(bytes.every((byte) => byte === 10 + index));
  }
});

test("lmcache_gateway.ts: a request goes where most of its prompt is cached", {
  timeout,
}, async () => {
  await using one = await StandIn.start({ chunkTokens: TOKENS_A_CHUNK });
  await using two = await StandIn.start({ chunkTokens: TOKENS_A_CHUNK });
  await using first = await connect(one, { model: MODEL });
  await using second = await connect(two, { model: MODEL });
  await fill(first, prompt(1));
  await fill(second, prompt(3));
  await fill(first, prompt(2, 7000));
  await using gateway = await startGateway(MODEL, [one, two]);
  assert.equal(await gateway.routed(prompt(3)), `1 ${3 * TOKENS_A_CHUNK}`);
  assert.equal(await gateway.routed(prompt(2, 7000)), `0 ${2 * TOKENS_A_CHUNK}`);
  assert.match(await gateway.routed(prompt(2, 99_000)), /^[01] 0$/);
  assert.match(await gateway.routed("a text"), /^[01] 0$/);
  await two.kill();
  assert.equal(await gateway.routed(prompt(3)), `0 ${TOKENS_A_CHUNK}`);
});
