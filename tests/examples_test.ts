// SPDX-License-Identifier: Apache-2.0
//
// The programs of examples/ run in this runtime, as a user would start them, and say that all is well.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { test } from "node:test";
import { fixtureCommand, runFixture } from "./support/process.ts";
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

interface Server extends AsyncDisposable {
  readonly url: string;
}

async function startServer(directory: string): Promise<Server> {
  const [command, args] = fixtureCommand("../../examples/http_server.ts", directory, "0");
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"], env: process.env });
  const exited = once(child, "close");
  let said = "";
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (data) => {
      said += data;
      const found = /^(http:\S+)\/chunks\/KEY/m.exec(said);
      if (found) resolve(found[1]!);
    });
    void exited.then(([code]) => reject(new Error(`the server ended with status ${code}`)));
  });
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGTERM");
      await exited;
      // Its status is no proof: Deno reports the signal that was sent, however the child ended.
      assert.match(said, /^closed$/m);
    },
  };
}

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
}

async function ask(url: string, request: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, { ...request, signal: AbortSignal.timeout(30_000) });
  const { status, headers } = response;
  return { status, headers, bytes: new Uint8Array(await response.arrayBuffer()) };
}

test("http_server.ts: stores uploads, and serves them whole, in part and after a restart", {
  timeout,
}, async () => {
  using dir = new TempDir();
  const bytes = new Uint8Array(3_000_001).map((_, at) => at % 251);
  {
    await using server = await startServer(dir.path);
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
  await using server = await startServer(dir.path);
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
