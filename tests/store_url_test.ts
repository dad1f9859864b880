// SPDX-License-Identifier: Apache-2.0
//
// The URL that connect() takes: what it says, and that a password is in nothing that is shown.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inspect } from "node:util";
import { configFromExtra, createConfig } from "../src/config/config.ts";
import { loadConfig } from "../src/config/mod.ts";
import { isStoreUrl, parseStoreUrl, withoutSecret } from "../src/config/store_url.ts";
import { connect } from "../src/connector/connect.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { optionsFrom } from "../src/connector/shm_file_sources.ts";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { parseStore } from "../src/cli/store/address.ts";
import { lmshm } from "./support/command_line.ts";
import { shmError } from "./support/assertions.ts";
import { TempDir } from "./support/worker.ts";

const engine = (url: string, secrets = {}) => ({ kind: "engine", url, secrets });
const redis = (url: string, secret: string) => engine(url, { LMSHM_STORE_SECRET: secret });

test("parseStoreUrl() takes every form, and the password out of it", () => {
  const cases: [string, unknown][] = [
    ["/data/kv", { kind: "directory", directory: "/data/kv" }],
    ["./kv %", { kind: "directory", directory: "./kv %" }],
    ["file:///data/a%20b", { kind: "directory", directory: "/data/a b" }],
    ["tcp://h:9800", { kind: "worker", address: "h:9800", directory: "" }],
    ["tcp://[::1]:1/?dir=a%2Fb", { kind: "worker", address: "[::1]:1", directory: "a/b" }],
    ["unix:/run/w", { kind: "worker", address: "unix:/run/w", directory: "" }],
    ["unix:///run/w?dir=m", { kind: "worker", address: "unix:/run/w", directory: "m" }],
    ["redis://h", engine("redis://h")],
    ["REDIS://u@h:1/2?ttl=5", engine("REDIS://u@h:1/2?ttl=5")],
    ["redis://:p@h", redis("redis://h", "p")],
    ["valkey://u:p%40%2F%25@[::1]:6379/0", redis("valkey://u@[::1]:6379/0", "p@/%")],
    ["redis://u:a@b@h", redis("redis://u@h", "a@b")],
    ["redis://u:@h", engine("redis://u@h")],
    ["redis+unix://u:p@/run/redis?db=1", redis("redis+unix://u@/run/redis?db=1", "p")],
    ["redis+cluster://:p@a:1,[::1]:2", redis("redis+cluster://a:1,[::1]:2", "p")],
    ["s3://bucket/a?endpoint=http://h:1", engine("s3://bucket/a?endpoint=http://h:1")],
    [
      "s3://AK:s%2Bk@bucket",
      engine("s3://bucket", {
        AWS_ACCESS_KEY_ID: "AK",
        AWS_SECRET_ACCESS_KEY: "s+k",
        AWS_SESSION_TOKEN: "",
      }),
    ],
  ];
  for (const [text, said] of cases) assert.deepEqual(parseStoreUrl(text), said, text);
});

test("parseStoreUrl() says what is wrong with a URL", () => {
  const cases: [string, RegExp][] = [
    ["", /is none; accepted are \/dir/],
    ["kv", /is none/],
    ["http://h", /is none/],
    ["redis:h", /is none/],
    ["file://host/x", /names no directory/],
    ["file:///a%zz", /percent-encoding/],
    ["file:///a%00", /NUL/],
    ["/a\0", /NUL/],
    ["tcp://", /names no worker/],
    ["tcp://u:p@h:1", /names no worker/],
    ["tcp://h:1?x=1", /other parameters/],
    ["unix:", /names no worker/],
    ["rediss://h", /TLS.*tunnel/],
    ["valkeys://h", /TLS.*tunnel/],
    ["redis://h h", /%XX/],
    ["redis://u:p%zz@h", /not percent-encoded/],
    ["redis://u:p/x@h", /cannot be taken out/],
    ["redis://u:p?x@h", /cannot be taken out/],
    ["redis://h?password=p", /cannot be taken out/],
    ["s3://AK@bucket", /half of a login/],
    ["s3://AK:@bucket", /half of a login/],
    ["s3://:sk@bucket", /half of a login/],
  ];
  for (const [text, pattern] of cases) {
    const said = parseStoreUrl(text);
    assert.ok(typeof said === "string", text);
    assert.match(said, pattern, text);
  }
});

test("isStoreUrl() knows a URL, right or wrong, from a directory's name", () => {
  for (
    const text of ["redis://", "valkey+unix:///x", "s3://b", "tcp://h", "unix:/x", "file:///x"]
  ) {
    assert.ok(isStoreUrl(text), text);
  }
  for (const text of ["/redis://", "redis", "kv@1", "shmfile:///d", "http://h", ""]) {
    assert.ok(!isStoreUrl(text), text);
  }
});

const WITH_PASSWORDS = [
  "redis://u:hush@h/x y",
  "redis://:hush@h:99999999",
  "redis://u:hu/hush@h",
  "redis://u:hu?hush@h",
  "redis://u:hush%zz@h",
  "redis://h?password=hush",
  "rediss://u:hush@h",
  "s3://:hush@bucket",
  "tcp://u:hush@h:1",
  "unix:u:hush@/x",
  "http://u:hush@127.0.0.1:1",
  "redis:/:hush@127.0.0.1:1",
  "redis//:hush@127.0.0.1:1",
  "redis::hush@127.0.0.1:1",
];

test("the command takes what only looks like a URL for a mistake, not for a directory", () => {
  for (const text of ["http://h", "s3:bucket", "redis:/:p@127.0.0.1:1", "redis+cluster//h:1"]) {
    assert.throws(() => parseStore(text), { name: "UsageError", message: /is none; accepted are/ });
  }
  for (const text of ["./http://h", "redis", "s3/x", "a:b", "models:1@h:80"]) parseStore(text);
});

test("an engine that wants TLS is said to, and not taken for a worker of version 1", {
  timeout: 60_000,
}, async () => {
  using segment = ShmSegment.createSync({ sizeBytes: 4096, name: null, pin: "none" });
  await assert.rejects(
    connect("s3://bucket?endpoint=https://127.0.0.1:1", { segment }),
    shmError("EPROTONOSUPPORT", /cannot start.*needs TLS/),
  );
});

test("a password is in no error of connect(), the configuration or the command", {
  timeout: 60_000,
}, async () => {
  using segment = ShmSegment.createSync({ sizeBytes: 4096, name: null, pin: "none" });
  const hides = (error: unknown) => {
    assert.ok(error instanceof Error);
    const shown = error instanceof ShmError ? JSON.stringify(error.details) : "";
    assert.ok(!`${error.message} ${error.stack} ${shown}`.includes("hush"), error.message);
    return true;
  };
  for (const url of WITH_PASSWORDS) {
    assert.ok(!withoutSecret(url).includes("hush"), withoutSecret(url));
    if (!url.includes(":99999999")) {
      assert.throws(
        () => loadConfig({ text: `remote_url: ${JSON.stringify(url)}`, environment: null }),
        hides,
      );
    }
    await assert.rejects(connect(url, { segment, maxRestarts: 0 }), hides);
    assert.throws(() => parseStore(url), hides);
  }
  const { stderr, code } = await lmshm("ls", "redis://u:hush@127.0.0.1:1");
  assert.equal(code, 2);
  assert.match(stderr, /LMSHM_STORE_SECRET/);
  assert.ok(!stderr.includes("hush"));
});

test("options that say two things about the store, or nothing that it can do", async () => {
  using segment = ShmSegment.createSync({ sizeBytes: 4096, name: null, pin: "none" });
  const open = (options: Record<string, unknown>) =>
    ShmFileConnector.open({ segment, ...options } as never);
  for (
    const [options, pattern] of [
      [{ store: "redis://h", storageDir: "/d" }, /store and storageDir exclude each other/],
      [{ store: "redis://h", workerAddress: "h:1" }, /store and workerAddress exclude each other/],
      [{ store: 7 }, /store must be a URL/],
      [{ storageDir: "/d", storeSecretFile: "/f" }, /storeSecretFile is for an engine/],
      [{ store: "/d", storeSecretFile: "/f" }, /storeSecretFile is for an engine/],
      [{ store: "redis://:p@h", storeSecretFile: "/f" }, /exclude each other/],
      [{ store: "tcp://h:1", workerArgs: [] }, /is for a worker that is started here/],
      [{}, /storageDir must be a path/],
    ] as const
  ) await assert.rejects(open(options), { name: "TypeError", message: pattern });
  for (const options of [{ maxBytes: 1e6 }, { ioMode: "direct" }, { durability: "full" }]) {
    await assert.rejects(
      open({ store: "redis://h", ...options }),
      shmError("ENOTSUP", /is for directories, and the store is redis:\/\/h \(/),
    );
  }
  await assert.rejects(connect(7 as never, { segment }), /connect\(\) takes a URL, got/);
});

test("remote_url takes what connect() takes", () => {
  const options = (yaml: Record<string, unknown>) => {
    const { config } = loadConfig({ text: JSON.stringify(yaml), environment: null });
    const said = Object.entries(optionsFrom(config).options);
    return Object.fromEntries(said.filter(([, value]) => value !== undefined));
  };
  assert.deepEqual(options({ remote_url: "redis://h:1?prefix=kv&layout=lmshm" }), {
    store: "redis://h:1?prefix=kv&layout=lmshm",
  });
  assert.deepEqual(
    options({
      remote_url: "s3://bucket?layout=lmshm",
      extra_config: { "lmshm.store_secret_file": "/s", "shmfs.storage_dir": "/d" },
    }),
    { store: "s3://bucket?layout=lmshm", storeSecretFile: "/s" },
  );
  assert.deepEqual(options({ remote_url: "file:///data/kv" }), { storageDir: "/data/kv" });
  assert.deepEqual(options({ remote_url: "unix:/run/w" }), { store: "unix:/run/w" });
  assert.deepEqual(options({ remote_url: "shmfile:///data/kv" }), { storageDir: "/data/kv" });
  const code = createConfig({ remoteUrl: "redis://h" });
  assert.equal(optionsFrom(code).options.store, "redis://h");
  assert.equal(optionsFrom("valkey://h").options.store, "valkey://h");
  assert.throws(() => optionsFrom(configFromExtra({})), /no shmfs\.storage_dir/);
  const { notices } = loadConfig({
    text: JSON.stringify({
      remote_url: "redis://h",
      extra_config: { "shmfs.storage_dir": "/d" },
    }),
    environment: null,
  });
  assert.match(notices.join(), /remote_url wins over shmfs\.storage_dir = "\/d"/);
});

test("a configuration that is printed, or written as JSON, hides its password", () => {
  const text = 'remote_url: "redis://u:hush@h:1/2?layout=lmshm"';
  const { config } = loadConfig({ text, environment: null });
  for (const all of [config, createConfig({ remoteUrl: config.remoteUrl })]) {
    for (const shown of [inspect({ all }, { depth: 9 }), JSON.stringify({ all })]) {
      assert.ok(shown.includes("redis://u:***@h:1/2") && !shown.includes("hush"), shown);
    }
    assert.equal(optionsFrom(all).options.store, "redis://u:hush@h:1/2?layout=lmshm");
  }
});

test("connect() opens a directory by its path and its URL", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  using segment = ShmSegment.createSync({ sizeBytes: 8192, name: null, pin: "none" });
  segment.bytes(0, 100).fill(7);
  for (const url of [dir.file("kv"), `file://${dir.file("kv")}`]) {
    await using connector = await connect(url, { segment, durability: "data" });
    assert.equal(connector.store, null);
    await connector.put("a", segment.range(0, 100));
    assert.deepEqual(await connector.listAll(), ["a"]);
    const { engine: name, attributes, ioModes, durability, maxObjectBytes } = await connector
      .info();
    assert.deepEqual([name, ioModes, durability, maxObjectBytes], ["directory", 1, 1, undefined]);
    assert.equal(attributes, connector.keepsMetadata ? 1 : 0);
  }
});
