// SPDX-License-Identifier: Apache-2.0
//
// integrations/lmcache: lmshm-worker as a storage tier of the LMCache server. Its own tests, LMCache's
// tests of an adapter with ours in them, and the whole way through a running server.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { connect as openStore } from "../../src/connector/connect.ts";
import { ObjectKey } from "../../src/keys/object_key.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { locateWorker } from "../../src/native/locate.ts";
import { connect, fill, prompt } from "../support/lmcache_suite.ts";
import { RedisServer, withoutRedis } from "../support/redis_server.ts";
import { sleep, TempDir } from "../support/worker.ts";
import { PYTHON, RealLmcache, skip } from "./real_lmcache.ts";

const { startServer, serverProgram, INSTALL }: {
  startServer: (kind: "s3") => Promise<
    AsyncDisposable & { url: string; urlWithPassword: string; secrets: Record<string, string> }
  >;
  serverProgram: (kind: "s3") => string | null;
  INSTALL: Record<string, string>;
} = await import(new URL("../../scripts/common/store_servers.mjs", import.meta.url).href);

const timeout = 300_000;
const FOLDER = fileURLToPath(new URL("../../integrations/lmcache", import.meta.url));
const SOURCES = process.env.LMSHM_LMCACHE_SOURCE;

/** Runs a Python program in the tests' folder. Fails with what it has printed. */
function python(...words: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(PYTHON, words, {
      cwd: join(FOLDER, "tests"),
      maxBuffer: 1 << 26,
      timeout: timeout - 10_000,
      env: {
        ...process.env,
        PYTHONPATH: join(FOLDER, "src"),
        LMSHM_WORKER: locateWorker(),
        LMCACHE_LOG_LEVEL: "ERROR",
        LMCACHE_TRACK_USAGE: "false",
      },
    }, (error, stdout, stderr) => {
      const text = stdout + stderr;
      if (error === null) resolve(text);
      else reject(new Error(`${words.join(" ")}: ${error.message}\n${text.slice(-6000)}`));
    });
  });
}

function start(params: object, env: Record<string, string> = {}): Promise<RealLmcache> {
  return RealLmcache.start({
    env,
    pythonPath: join(FOLDER, "src"),
    adapter: {
      type: "plugin",
      module_path: "lmshm_lmcache",
      class_name: "LmshmL2Adapter",
      adapter_params: { worker: locateWorker(), ...params },
    },
  });
}

/** Waits until so many objects are in the directory. */
async function objectsIn(dir: string, count: number): Promise<string[]> {
  const end = performance.now() + 60_000;
  for (;;) {
    const names = readdirSync(dir).filter((name) => name.endsWith(".data"));
    if (names.length >= count) return names;
    assert.ok(performance.now() < end, `${names.length} of ${count} objects are on the disk`);
    await sleep(50);
  }
}

test("the L2 adapter's own tests pass", { skip, timeout }, async () => {
  assert.match(await python("-m", "unittest", "-v", "test_adapter"), /\nOK\n/);
});

test("LMCache's tests of an L2 adapter pass with ours", {
  skip: skip || (SOURCES === undefined ? "LMSHM_LMCACHE_SOURCE names no source tree" : false),
  timeout,
}, async () => {
  const output = await python("conformance.py", SOURCES!);
  assert.match(output, /\b4\d passed/);
  assert.doesNotMatch(output, /failed|error/);
});

test(
  "chunks go through a server to the worker's directory and back",
  { skip, timeout },
  async () => {
    using dir = new TempDir();
    const root = dir.file("l2");
    mkdirSync(root);
    await using server = await start({ root });
    await using client = await connect(server);
    await fill(client, prompt(3), 40);
    await objectsIn(root, 3);
    await server.clear(true);
    assert.equal(await client.lookup(prompt(3)), 3);
    {
      await using lease = await client.retrieve(prompt(3));
      const whole = (bytes: Uint8Array, value: number) => bytes.every((byte) => byte === value);
      assert.deepEqual(lease!.chunks.map(({ bytes }, at) => whole(bytes, 40 + at)), [
        true,
        true,
        true,
      ]);
    }
    // And by a server that has never seen them.
    await server.restart();
    assert.equal(await client.lookup(prompt(3)), 3);
  },
);

test("a chunk that the disk has changed is a miss for the server's clients", {
  skip,
  timeout,
}, async () => {
  using dir = new TempDir();
  const root = dir.file("l2");
  mkdirSync(root);
  await using server = await start({ root });
  await using client = await connect(server);
  await fill(client, prompt(1), 50);
  const [name] = await objectsIn(root, 1);
  const path = join(root, name!);
  const bytes = readFileSync(path);
  bytes[100]! ^= 1;
  writeFileSync(path, bytes);
  await server.clear(true);
  await using lease = await client.retrieve(prompt(1));
  assert.equal(lease, null);
});

test("a server and lmcache's own fs adapter share the directory", { skip, timeout }, async () => {
  using dir = new TempDir();
  const root = dir.file("l2");
  mkdirSync(root);
  {
    await using server = await RealLmcache.start({ adapter: { type: "fs", base_path: root } });
    await using client = await connect(server);
    await fill(client, prompt(2), 60);
    await objectsIn(root, 2);
  }
  await using server = await start({ root });
  await using client = await connect(server);
  await using lease = await client.retrieve(prompt(2));
  assert.deepEqual(lease!.chunks.map(({ bytes }) => [bytes[0], bytes.at(-1)]), [[60, 60], [
    61,
    61,
  ]]);
});

test("a server with ours and one with LMCache's resp adapter share a Redis server", {
  skip: skip || withoutRedis,
  timeout,
}, async () => {
  await using redis = await RedisServer.start("my-own-secret");
  const { port } = redis;
  const store = `redis://127.0.0.1:${port}?layout=payload`;
  await using ours = await start({ store }, { LMSHM_STORE_SECRET: "my-own-secret" });
  await using theirs = await RealLmcache.start({
    adapter: { type: "resp", host: "127.0.0.1", port, password: "my-own-secret" },
  });
  const stored = async (count: number) => {
    const end = performance.now() + 60_000;
    while (await redis.ask("DBSIZE") !== `:${count}\r\n`) {
      assert.ok(performance.now() < end, `${count} objects are in the server`);
      await sleep(50);
    }
  };
  await using first = await connect(ours);
  await using second = await connect(theirs);
  await fill(first, prompt(2), 70);
  await stored(2);
  await fill(second, prompt(3, 5000), 80);
  await stored(5);
  for (
    const [client, tokens, value] of [[second, prompt(2), 70], [
      first,
      prompt(3, 5000),
      80,
    ]] as const
  ) {
    await using lease = await client.retrieve(tokens);
    assert.deepEqual(
      lease!.chunks.map(({ bytes, index }) => bytes.every((byte) => byte === value + index)),
      lease!.chunks.map(() => true),
    );
    assert.equal(lease!.chunks.length, Math.floor(tokens.length / client.chunkTokens));
  }
});

test("chunks go through a server to an S3 bucket and back", {
  skip: skip || (serverProgram("s3") === null && INSTALL["s3"]!),
  timeout,
}, async () => {
  await using s3 = await startServer("s3");
  await using server = await start({ store: `${s3.url}&layout=payload` }, s3.secrets);
  await using client = await connect(server);
  await fill(client, prompt(3), 90);
  using segment = ShmSegment.createSync({ sizeBytes: 4096, name: null, pin: "none" });
  await using bucket = await openStore(`${s3.urlWithPassword}&layout=payload`, { segment });
  const end = performance.now() + 60_000;
  while ((await bucket.listAll()).filter((key) => ObjectKey.tryParse(key) !== null).length < 3) {
    assert.ok(performance.now() < end, "3 objects are in the bucket");
    await sleep(50);
  }
  await server.clear(true);
  await using lease = await client.retrieve(prompt(3));
  assert.deepEqual(lease!.chunks.map(({ bytes }) => [bytes[0], bytes.at(-1)]), [
    ...[[90, 90], [91, 91], [92, 92]],
  ]);
});
