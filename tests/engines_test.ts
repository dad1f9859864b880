// SPDX-License-Identifier: Apache-2.0
//
// The whole way, from a program to a Redis or S3 server and back: what a directory does, every engine
// does, and what happens to the server meanwhile ends in clear errors and whole objects. Servers are
// started here (scripts/common/store_servers.mjs); where there is none the tests are skipped.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { createConfig } from "../src/config/mod.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { connect, type ConnectOptions } from "../src/connector/connect.ts";
import type { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import { shmError } from "./support/assertions.ts";
import { inShell } from "./support/command_line.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { Recorder } from "./support/recorder.ts";
import {
  type EngineKind,
  startServer,
  type StoreServer,
  withoutServer,
} from "./support/store_servers.ts";
import { sleep, startWorker, TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;
/** What may be said of a server that is away, or comes and goes. */
const AWAY = ["ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EAGAIN", "EIO", "ENOTCONN"];

interface Scene {
  readonly server: StoreServer;
  readonly segment: ShmSegment;
  open(url: string, options?: Partial<ConnectOptions>): Promise<ShmFileConnector>;
}

/** A test on a server of each kind, and a segment of 64 MiB. */
function onEngines(
  name: string,
  body: (scene: Scene, kind: EngineKind) => Promise<void>,
  skipped: string | false = false,
): void {
  for (const kind of ["redis", "s3"] as const) {
    const skip = withoutServer(kind) || skipped;
    test(
      `${kind}: ${name}`,
      { timeout: 240_000, skip },
      () =>
        withoutWorkers(() =>
          withoutLeaks(async () => {
            await using server = await startServer(kind);
            using segment = ShmSegment.createSync({ sizeBytes: 64 * MIB, name: null, pin: "none" });
            const open = (url: string, options: Partial<ConnectOptions> = {}) =>
              connect(url, { segment, ...options });
            await body({ server, segment, open }, kind);
          })
        ),
    );
  }
}

function fill(segment: ShmSegment, offset: number, length: number, seed: number): void {
  const bytes = segment.bytes(offset, length);
  for (let i = 0; i < length; i++) bytes[i] = i * 31 + (i >> 8) + seed;
}

function isFilled(segment: ShmSegment, offset: number, length: number, seed: number): boolean {
  return segment.bytes(offset, length).every((byte, i) =>
    byte === (i * 31 + (i >> 8) + seed & 255)
  );
}

onEngines("objects with metadata, batches, listings", async ({ server, segment, open }, kind) => {
  const log: string[] = [];
  await using connector = await open(server.urlWithPassword, {
    workerArgs: ["--log-level", "debug"],
    onLog: (line) => log.push(line),
  });
  assert.equal(connector.store, server.url);
  assert.equal(connector.keepsMetadata, true);
  const info = await connector.info();
  assert.deepEqual([info.engine, info.attributes, info.ioModes, info.durability], [kind, 1, 0, 0]);

  fill(segment, 0, 5000, 1);
  const metadata = { note: "é %;=\n" };
  await connector.put("a/b c%é", segment.range(0, 5000), { metadata, priority: "high" });
  const loaded = await connector.load("a/b c%é", segment.range(8192, 8192));
  assert.equal(loaded?.range.byteLength, 5000);
  assert.deepEqual({ ...loaded?.metadata }, metadata);
  assert.ok(isFilled(segment, 8192, 5000, 1));
  const stat = await connector.stat("a/b c%é");
  assert.equal(stat?.byteLength, 5000);
  assert.ok(stat?.crc32c !== null);
  await assert.rejects(
    connector.get("a/b c%é", segment.range(0, 4000)),
    shmError("EMSGSIZE"),
  );
  assert.equal(await connector.get("nothing", segment.range(0, 10)), null);
  assert.equal(await connector.stat("nothing"), null);

  const keys = Array.from({ length: 300 }, (_, i) => `batch/${i}`);
  const ranges = keys.map((_, i) => segment.range(MIB + i * 4096, 1000 + i));
  keys.forEach((_, i) => fill(segment, MIB + i * 4096, 1000 + i, i));
  await connector.batchedPut(keys, ranges);
  assert.equal(await connector.batchedContains([...keys, "nothing", "batch/1"]), 300);
  const into = keys.map((_, i) => segment.range(4 * MIB + i * 4096, 4096));
  const got = await connector.batchedGet(keys, into);
  got.forEach((range, i) => {
    assert.equal(range?.byteLength, 1000 + i);
    assert.ok(isFilled(segment, 4 * MIB + i * 4096, 1000 + i, i), `${i}`);
  });
  const each = await connector.loadEach(["batch/7", "nothing"], into.slice(0, 2));
  assert.deepEqual(each.map(({ status }) => status), ["fulfilled", "fulfilled"]);
  assert.equal((each[1] as PromiseFulfilledResult<unknown>).value, null);

  assert.deepEqual((await connector.listAll({ prefix: "batch/" })).sort(), [...keys].sort());
  assert.equal((await connector.listAll()).length, 301);
  assert.deepEqual(await connector.listAll({ prefix: "batch/299" }), ["batch/299"]);
  assert.equal(await connector.remove("batch/0"), true);
  assert.equal(await connector.remove("batch/0"), false);
  assert.equal(await connector.exists("batch/0"), false);
  assert.equal(await connector.exists("batch/1"), true);
  const several = ["batch/2", "nothing", "batch/3", "batch/2"];
  assert.deepEqual(await connector.batchedRemove(several), [true, false, true, false]);
  assert.deepEqual(await connector.batchedRemove(several), [false, false, false, false]);
  assert.equal(connector.engine, kind);

  // 20 MiB in one piece.
  fill(segment, 0, 20 * MIB, 3);
  await connector.put("large", segment.range(0, 20 * MIB));
  await connector.get("large", segment.range(32 * MIB, 20 * MIB));
  assert.ok(isFilled(segment, 32 * MIB, 20 * MIB, 3));

  const pid = connector.workerPid!;
  const secret = Object.values(server.secrets).at(-1)!;
  assert.ok(!readFileSync(`/proc/${pid}/cmdline`, "latin1").includes(secret));
  assert.ok(!readFileSync(`/proc/${pid}/environ`, "latin1").includes(secret));
  assert.ok(!log.join("\n").includes(secret));
});

onEngines("a tiered store whose cold tier it is", async ({ server }) => {
  const config = createConfig({
    remoteUrl: server.urlWithPassword,
    poolSizeBytes: 8 * MIB,
    pin: "none",
  });
  const layout = { shape: [2, 1, 8, 128], dtype: "bfloat16", format: "KV_2LTD" } as const;
  const keys = Array.from({ length: 40 }, (_, i) => `model@1@0@${i.toString(16)}@half`);
  await using store = await TieredStore.fromConfig(config);
  for (const [i, key] of keys.entries()) {
    const obj = await store.allocate(layout);
    obj.bytes.fill(i + 1);
    await store.put(key, obj);
    obj.refCountDown();
  }
  await store.flush();
  store.hot.clear();
  await store.prefetch(keys.slice(0, 10), layout);
  for (const [i, key] of keys.entries()) {
    using obj = await store.get(key, layout);
    assert.ok(obj !== null, key);
    assert.ok(obj.bytes.every((byte) => byte === i + 1), key);
    assert.deepEqual(obj.shape, layout.shape);
  }
  assert.equal(store.stats.misses, 0);
  // What it was stored with is held against what is asked for.
  store.hot.clear();
  assert.equal(await store.get(keys[0]!, { ...layout, shape: [2, 1, 4, 128] }), null);
});

onEngines("calls that are given up, and a server that does not answer", async (scene) => {
  const { server, segment, open } = scene;
  await using connector = await open(server.urlWithPassword);
  fill(segment, 0, 8 * MIB, 1);
  await connector.put("a", segment.range(0, 8 * MIB));
  await server.signal("SIGSTOP");
  try {
    const controller = new AbortController();
    const calls = [
      connector.put("a", segment.range(0, 8 * MIB), { signal: controller.signal }),
      connector.get("a", segment.range(16 * MIB, 8 * MIB), { signal: controller.signal }),
      connector.exists("a", { signal: controller.signal }),
    ];
    await sleep(300);
    controller.abort(new Error("enough"));
    for (const call of calls) await assert.rejects(call, /enough/);
    await assert.rejects(
      connector.get("a", segment.range(16 * MIB, 8 * MIB), { timeoutMs: 300 }),
      shmError("ETIMEDOUT"),
    );
  } finally {
    await server.signal("SIGCONT");
  }
  fill(segment, 16 * MIB, 8 * MIB, 0);
  // The memory is free again when the worker has let go of it.
  const got = await connector.get("a", segment.range(24 * MIB, 8 * MIB), { timeoutMs: 60_000 });
  assert.equal(got?.byteLength, 8 * MIB);
  assert.ok(isFilled(segment, 24 * MIB, 8 * MIB, 1));
  assert.equal(connector.stats.restarts, 0);
});

onEngines("a server that is killed in the middle, and comes back", async (scene) => {
  const { server, segment, open } = scene;
  await using connector = await open(server.urlWithPassword);
  const size = 4 * MIB;
  const keys = ["a", "b", "c", "d"];
  keys.forEach((_, i) => fill(segment, i * size, size, i));
  const put = (i: number) => connector.put(keys[i]!, segment.range(i * size, size));
  await put(0);
  let killed = false;
  const outcomes: (string | null)[] = [];
  const busy = keys.map(async (_, i) => {
    for (let round = 0; round < 1000 && !(killed && outcomes.length >= 4); round++) {
      await put(i).then(() => outcomes.push(null), (error) => {
        assert.ok(error instanceof ShmError, `${error}`);
        outcomes.push(error.code);
      });
      if (killed) await sleep(20);
    }
  });
  await sleep(100);
  await server.kill();
  outcomes.length = 0;
  killed = true;
  await Promise.all(busy);
  const failures = outcomes.filter((code) => code !== null);
  assert.ok(failures.length > 0);
  for (const code of failures) assert.ok(AWAY.includes(code), `${code}`);
  await assert.rejects(connector.exists("a"), ShmError);
  await assert.rejects(connector.listAll(), ShmError);

  await server.start();
  // It may be up before all of it is.
  for (let tries = 0;; tries++) {
    try {
      for (let i = 0; i < keys.length; i++) await put(i);
      break;
    } catch (error) {
      assert.ok(error instanceof ShmError && AWAY.includes(error.code), `${error}`);
      if (tries >= 100) throw error;
      await sleep(200);
    }
  }
  for (const [i, key] of keys.entries()) {
    const got = await connector.get(key, segment.range(32 * MIB, size));
    assert.equal(got?.byteLength, size);
    assert.ok(isFilled(segment, 32 * MIB, size, i), key);
  }
  assert.equal(connector.stats.restarts, 0, "the same worker all the time");
});

onEngines(
  "a wrong login is said clearly, and a right one may come from a file",
  async (scene, kind) => {
    const { server, segment, open } = scene;
    const wrong = server.urlWithPassword.replace("testsecret", "hushhush");
    const attempt = async () => {
      await using connector = await open(wrong);
      await connector.put("a", segment.range(0, 100));
    };
    await assert.rejects(attempt(), (error) => {
      assert.ok(error instanceof ShmError);
      assert.ok(!`${error.stack} ${JSON.stringify(error.details)}`.includes("hushhush"));
      return shmError("EACCES")(error);
    });
    using dir = new TempDir();
    const file = dir.file("secret");
    const text = kind === "redis"
      ? "testsecret\n"
      : "[default]\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n";
    writeFileSync(file, text, { mode: 0o600 });
    await using connector = await open(server.url, { storeSecretFile: file });
    await connector.put("a", segment.range(0, 100));
    assert.equal(await connector.exists("a"), true);
  },
);

/** In namespaces of its own a worker can have files in /etc of its own. */
const OWN_ETC = spawnSync("unshare", ["-m", "mount", "--bind", "/etc/hosts", "/etc/hosts"]);

onEngines(
  "a name that nobody knows any more leads where it led",
  async ({ server }) => {
    using dir = new TempDir();
    await using recorder = await Recorder.before(server.ports[0]!);
    const place = `engine.test:${recorder.port}`;
    const url = server.urlWithPassword.replace(/127\.0\.0\.1:\d+/, place);
    writeFileSync(dir.file("hosts"), "127.0.0.1 engine.test\n");
    // Nobody answers there, which is seen at once.
    writeFileSync(dir.file("resolv.conf"), "nameserver 127.0.0.1\n");
    writeFileSync(
      dir.file("worker"),
      `#!/bin/sh
       mount --bind ${dir.file("hosts")} /etc/hosts
       mount --bind ${dir.file("resolv.conf")} /etc/resolv.conf
       exec ${locateWorker()} "$@"
      `,
      { mode: 0o700 },
    );
    writeFileSync(
      dir.file("in-namespace"),
      `#!/bin/sh\nexec unshare -m --propagation private ${dir.file("worker")} "$@"\n`,
      { mode: 0o700 },
    );
    using segment = ShmSegment.createSync({ sizeBytes: MIB, name: null, pin: "none" });
    await using connector = await connect(url, {
      segment,
      workerBinary: dir.file("in-namespace"),
    });
    fill(segment, 0, 1000, 1);
    await connector.put("a", segment.range(0, 1000));
    writeFileSync(dir.file("hosts"), "");
    recorder.drop();
    await connector.put("b", segment.range(0, 1000));
    assert.equal(await connector.exists("a"), true);
    assert.equal(connector.stats.restarts, 0, "the same worker all the time");
    // A worker that has never known it is told so.
    await assert.rejects(async () => {
      await using other = await connect(url, {
        segment,
        workerBinary: dir.file("in-namespace"),
      });
      await other.exists("a");
    }, /look up engine\.test/);
  },
  OWN_ETC.status !== 0 && "mounting is not allowed here",
);

onEngines("the command takes its URL as a store", async ({ server }, kind) => {
  using dir = new TempDir();
  writeFileSync(dir.file("one"), "one");
  writeFileSync(dir.file("two"), "two".repeat(1000));
  const url = `'${server.url}'`;
  const { code, stdout, stderr } = await inShell(
    `set -e; cd ${dir.path}
     lmshm put ${url} one two --prefix d/ --metadata note=x
     lmshm ls ${url}
     lmshm get ${url} d/two -o - | cmp - two
     lmshm stat ${url} d/one --json
     lmshm cp ${url} ./copy 'd/*'
     lmshm cp ./copy ${url} 'd/one'
     lmshm rm ${url} 'd/*'
     [ -z "$(lmshm ls ${url})" ]`,
    { ...process.env as Record<string, string>, ...server.secrets },
  );
  assert.equal(code, 0, `${kind}: ${stdout}\n${stderr}`);
  // An engine lists in an order of its own.
  for (const key of ["d/one", "d/two"]) assert.match(stdout, new RegExp(`^${key}$`, "m"));
  assert.match(stdout, /"note":"x"/);
});

const NO_REDIS = withoutServer("redis");

test(
  "redis: a layout that keeps no metadata says so",
  { timeout: 120_000, skip: NO_REDIS },
  () =>
    withoutWorkers(async () => {
      await using server = await startServer("redis");
      using segment = ShmSegment.createSync({ sizeBytes: MIB, name: null, pin: "none" });
      const url = `${server.urlWithPassword}?layout=payload&chunk_bytes=100`;
      await using connector = await connect(url, { segment });
      assert.equal(connector.keepsMetadata, false);
      assert.equal((await connector.info()).attributes, 0);
      await assert.rejects(
        connector.put("a", segment.range(0, 100), { metadata: { note: "x" } }),
        shmError("ENOTSUP", /no place for metadata/),
      );
      await assert.rejects(connector.put("a", segment.range(0, 99)), ShmError);
      assert.equal(await connector.exists("a"), false);
      await connector.put("a", segment.range(0, 100));
      const found = await connector.stat("a");
      assert.deepEqual([found?.byteLength, found?.crc32c], [100, null]);
      assert.deepEqual({ ...found?.metadata }, {});
    }),
);

test(
  "redis: a running worker serves it to many",
  { timeout: 120_000, skip: NO_REDIS },
  () =>
    withoutWorkers(async () => {
      await using server = await startServer("redis");
      using dir = new TempDir();
      await using worker = await startWorker(
        `unix:${dir.file("w")}`,
        null,
        ["--store", server.url],
        server.secrets,
      );
      using segment = ShmSegment.createSync({
        sizeBytes: MIB,
        name: uniqueName("engine"),
        pin: "none",
      });
      await using one = await connect(worker.address, { segment });
      await using other = await connect(`${worker.address}?dir=.`, { segment });
      assert.equal(one.store, null);
      fill(segment, 0, 1000, 1);
      await one.put("a", segment.range(0, 1000));
      assert.equal((await other.get("a", segment.range(4096, 1000)))?.byteLength, 1000);
      assert.ok(isFilled(segment, 4096, 1000, 1));
      assert.equal((await other.info()).clients, 2);
      await assert.rejects(
        connect(`${worker.address}?dir=models`, { segment }),
        shmError("ENOTSUP", /has no directories.*prefix=/),
      );
      await assert.rejects(
        one.put("a", segment.range(0, 10), { durability: "full" } as never),
        /durability/,
      );
      await using asked = await connect(worker.address, { segment, durability: "full" });
      await assert.rejects(
        asked.put("a", segment.range(0, 10)),
        shmError("ENOTSUP", /sync=full is for directories/),
      );
    }),
);
