// SPDX-License-Identifier: Apache-2.0
//
// Redis, Valkey and S3, and our worker behind LMCache's own connector, between the real LMCache and this
// library, both ways: what one side puts the other gets, and the same bytes lie under the same keys. In the in-process mode both read one
// configuration; LMCache makes its connector of it, and we a worker.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawnSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { stringify } from "yaml";
import { loadConfig } from "../../src/config/mod.ts";
import { connect } from "../../src/connector/connect.ts";
import { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import { ObjectKey } from "../../src/keys/object_key.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { locateWorker } from "../../src/native/locate.ts";
import { type ConnectorScene, connectorScene } from "../support/connector_scene.ts";
import { getAll, putAll, type StoredItem } from "../support/lmcache_files.ts";
import { RedisServer, withoutRedis } from "../support/redis_server.ts";
import { askLmcache, PYTHON_MS, skip } from "./real_lmcache.ts";

interface S3Server extends AsyncDisposable {
  readonly ports: readonly number[];
}

const servers: {
  startServer: (kind: "s3") => Promise<S3Server>;
  serverProgram: (kind: "s3") => string | null;
  INSTALL: Record<string, string>;
  BUCKET: string;
  S3_DOMAIN: string;
} = await import(new URL("../../scripts/common/store_servers.mjs", import.meta.url).href);

const SCRIPT = "lmcache_stores.py";
const SEGMENT_BYTES = 1 << 20;
const TIMEOUT_MS = 2 * PYTHON_MS + 60_000;
const DATABASE = 3;
const PASSWORD = "my-own-secret";
/** For PYTHONPATH: the client that LMCache has its valkey connectors on. */
const GLIDE = process.env["LMSHM_LMCACHE_GLIDE"];
const withoutGlide = GLIDE === undefined &&
  "LMSHM_LMCACHE_GLIDE names no valkey-glide-sync; npm run test:lmcache installs it";
const env: Record<string, string> = GLIDE === undefined ? {} : { PYTHONPATH: GLIDE };

function scene(
  name: string,
  without: string | false,
  body: (scene: ConnectorScene) => Promise<void>,
) {
  const why = skip || without;
  if (why) test(name, { skip: why }, () => {});
  else connectorScene(name, body, SEGMENT_BYTES, TIMEOUT_MS);
}

/** What is wrong, as far as one wants to read it. */
function none(wrong: unknown): void {
  assert.deepEqual((wrong as unknown[]).slice(0, 4), []);
}

/** The same, and nothing else, in both. */
function same(ours: Map<string, string>, theirs: Map<string, string>): void {
  const all = [...new Set([...ours.keys(), ...theirs.keys()])];
  none(
    all.filter((key) => ours.get(key) !== theirs.get(key))
      .map((key) => [key, ours.get(key)?.slice(0, 80), theirs.get(key)?.slice(0, 80)]),
  );
}

/** All that a server has. Each character is a byte. */
async function contents(server: RedisServer, database = 0): Promise<Map<string, string>> {
  if (database > 0) assert.equal(await server.ask("SWAPDB", "0", `${database}`), "+OK\r\n");
  const names = (await server.ask("KEYS", "*")).split("\r\n").filter((_, at) => at % 2 === 0);
  const found = new Map<string, string>();
  for (const name of names.slice(1)) {
    const text = Buffer.from(name, "latin1").toString("utf8");
    found.set(text, await server.ask("GET", text));
  }
  if (database > 0) assert.equal(await server.ask("SWAPDB", "0", `${database}`), "+OK\r\n");
  return found;
}

interface Configuration {
  readonly max_local_cpu_size?: number;
  readonly remote_url?: string;
  readonly remote_storage_plugins?: readonly string[];
  readonly extra_config?: Record<string, unknown>;
}

interface Way {
  readonly name: string;
  readonly without?: string | false;
  readonly password?: string;
  readonly args?: string[];
  /** Of database, where it is not the first. */
  readonly database?: number;
  readonly count: number;
  /** LMCache says with each object what it is. */
  readonly shapes?: boolean;
  configuration(port: number): Configuration;
}

const WAYS: readonly Way[] = [
  {
    name: "redis://",
    count: 93,
    shapes: true,
    password: PASSWORD,
    configuration: (port) => ({ remote_url: `redis://default:${PASSWORD}@127.0.0.1:${port}` }),
  },
  {
    name: "redis-cluster://",
    count: 93,
    shapes: true,
    args: ["--cluster-enabled", "yes"],
    configuration: (port) => ({ remote_url: `redis-cluster://127.0.0.1:${port}` }),
  },
  {
    name: "resp://",
    count: 54,
    password: PASSWORD,
    configuration: (port) => ({
      remote_url: `resp://127.0.0.1:${port}`,
      extra_config: { save_chunk_meta: false, username: "default", password: PASSWORD },
    }),
  },
  {
    name: "valkey://",
    without: withoutGlide,
    count: 54,
    database: DATABASE,
    // Without a login: LMCache 0.5.6 gives valkey-glide-sync 2.6 the user as the password.
    configuration: (port) => ({
      remote_url: `valkey://127.0.0.1:${port}`,
      extra_config: { save_chunk_meta: false, valkey_database: DATABASE },
    }),
  },
];

/** Writes what both read. */
function configured(s: ConnectorScene, said: Configuration): string {
  const file = s.dir.file("lmcache.yaml");
  const { extra_config = {}, ...top } = said;
  const text = stringify({
    ...{ chunk_size: 16, local_cpu: false, save_unfull_chunk: false, ...top },
    extra_config,
  });
  writeFileSync(file, text);
  return file;
}

async function ourStore(s: ConnectorScene, file: string): Promise<ShmFileConnector> {
  const { config } = loadConfig({ file, environment: null });
  return await ShmFileConnector.fromConfig(config, { segment: s.segment });
}

/** A server of its own; a cluster of one where it is to be a cluster. */
async function startRedis(s: ConnectorScene, { password = "", args = [] }: Partial<Way>) {
  const server = s.stack.use(await RedisServer.start(password, args));
  if (args.includes("--cluster-enabled")) {
    const slots = Array.from({ length: 16384 }, (_, slot) => `${slot}`);
    assert.equal(await server.ask("CLUSTER", "ADDSLOTS", ...slots), "+OK\r\n");
    while (!(await server.ask("CLUSTER", "INFO")).includes("cluster_state:ok"));
  }
  return server;
}

for (const way of WAYS) {
  const { name, count, shapes = false, without = false, database } = way;
  scene(
    `LMCache's ${name} and we keep the same, byte for byte`,
    without || withoutRedis,
    async (s) => {
      const server = await startRedis(s, way);
      const file = configured(s, way.configuration(server.port));
      const items = await askLmcache(SCRIPT, ["write", file], null, { env }) as StoredItem[];
      assert.equal(items.length, count);
      const theirs = await contents(server, database);
      assert.equal(theirs.size, shapes ? 2 * count : count);

      await using store = await ourStore(s, file);
      none(await getAll(store, items, { shapes }));
      const listed = [...new Set(await store.listAll())].sort();
      assert.deepEqual(listed, items.map(({ key }) => key).sort());

      assert.equal(await server.ask("FLUSHALL"), "+OK\r\n");
      await putAll(store, items);
      same(await contents(server, database), theirs);
      none(await askLmcache(SCRIPT, ["read", file], items, { env }));
    },
  );
}

// --- its ShmFileConnector, which its source distribution has among its tests, with our worker

const SOURCE = process.env["LMSHM_LMCACHE_SOURCE"];

/** The files of a directory. */
function files(dir: string): Map<string, string> {
  return new Map(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name), "latin1")]));
}

scene(
  "LMCache's ShmFileConnector, with our worker, and we keep the same files by one configuration",
  SOURCE === undefined && "LMSHM_LMCACHE_SOURCE names no source tree",
  async (s) => {
    const shm_name = `/lmshm-external-${process.pid}`;
    const file = configured(s, {
      max_local_cpu_size: 0.02,
      remote_url: "external://localhost:0/shmfile_connector/?connector_name=ShmFileConnector",
      extra_config: {
        shm_name,
        "shmfs.storage_dir": s.store,
        "shmfs.worker_binary": locateWorker(),
      },
    });
    const where = { env: { PYTHONPATH: join(SOURCE!, "tests/v1/shm_allocator") } };
    const items = await askLmcache(SCRIPT, ["write", file], null, where) as StoredItem[];
    assert.equal(items.length, 54);
    const theirs = files(s.store);
    assert.equal(theirs.size, 54);
    {
      const { config } = loadConfig({ file, environment: null });
      await using segment = await ShmSegment.create({ name: shm_name, sizeBytes: SEGMENT_BYTES });
      await using store = await ShmFileConnector.fromConfig(config, { segment });
      none(await getAll(store, items, { shapes: false }));
      for (const { key } of items) assert.equal(await store.remove(key), true);
      await putAll(store, items);
    }
    same(files(s.store), theirs);
    none(await askLmcache(SCRIPT, ["read", file], items, where));
  },
);

// --- multiprocess: keys are an ObjectKey, a value is the payload

interface Adapter {
  readonly type: string;
  readonly password: string;
  readonly without: string | false;
  said(port: number): object;
}

const ADAPTERS: readonly Adapter[] = [
  {
    type: "resp",
    password: PASSWORD,
    without: false,
    said: (port) => ({ type: "resp", host: "127.0.0.1", port, password: PASSWORD }),
  },
  {
    type: "valkey",
    password: "",
    without: withoutGlide,
    said: (port) => ({ type: "valkey", startup_nodes: `127.0.0.1:${port}` }),
  },
];

interface ObjectItem extends StoredItem {
  readonly text: string;
}

const objectKey = (item: StoredItem) => ObjectKey.parse((item as ObjectItem).text);

for (const { type, password, without, said } of ADAPTERS) {
  scene(
    `LMCache's L2 adapter ${type} and we keep the same, byte for byte`,
    without || withoutRedis,
    async (s) => {
      const server = await startRedis(s, { password });
      const adapter = JSON.stringify(said(server.port));
      const items = await askLmcache(SCRIPT, ["write", adapter], null, { env }) as ObjectItem[];
      assert.equal(items.length, 72);
      const theirs = await contents(server);
      const url = `redis://:${password}@127.0.0.1:${server.port}?layout=payload`;
      await using store = await connect(url, { segment: s.segment });
      none(await getAll(store, items, { shapes: false, keyOf: objectKey }));
      const listed = [...new Set(await store.listAll())].sort();
      assert.deepEqual(listed, items.map(({ text }) => text).sort());

      assert.equal(await server.ask("FLUSHALL"), "+OK\r\n");
      await putAll(store, items, objectKey);
      same(await contents(server), theirs);
      none(await askLmcache(SCRIPT, ["read", adapter], items, { env }));
    },
  );
}

// --- S3, whose name LMCache looks up with the bucket before it

/** Words that run a command where these names are 127.0.0.1; null: nobody may do that here. */
function withNames(s: ConnectorScene | null, ...names: string[]): string[] | null {
  const user = process.getuid?.() === 0 ? "-m" : "-rm";
  if (s === null) {
    const tried = spawnSync("unshare", [user, "mount", "--bind", "/etc/hosts", "/etc/hosts"]);
    return tried.status === 0 ? [] : null;
  }
  const hosts = s.dir.file("hosts");
  const text = readFileSync("/etc/hosts", "utf8");
  writeFileSync(hosts, `${text}\n127.0.0.1 ${names.join(" ")}\n`);
  const script = s.dir.script(
    "with-names",
    `exec unshare ${user} sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' '${hosts}' "$@"`,
  );
  return [script];
}

const withoutS3 = servers.serverProgram("s3") === null
  ? servers.INSTALL["s3"]!
  : withNames(null) === null && "unshare cannot give a command names of its own here";

interface S3Scene {
  readonly host: string;
  readonly prefix: string[];
  readonly worker: string;
}

async function startS3(s: ConnectorScene): Promise<S3Scene> {
  const server = s.stack.use(await servers.startServer("s3"));
  const name = `${servers.BUCKET}.${servers.S3_DOMAIN}`;
  const prefix = withNames(s, name)!;
  const worker = s.dir.file("worker");
  writeFileSync(worker, `#!/bin/sh\nexec ${prefix[0]} ${locateWorker()} "$@"\n`);
  chmodSync(worker, 0o755);
  return { host: `${name}:${server.ports[0]}`, prefix, worker };
}

/** What either side names objects by; another directory of the bucket is not to be had. */
async function removeAll(store: ShmFileConnector, keys: readonly string[]): Promise<void> {
  for (const key of keys) assert.equal(await store.remove(key), true, key);
}

scene("LMCache's s3:// and we get what the other has put", withoutS3, async (s) => {
  const { host, prefix, worker } = await startS3(s);
  const file = configured(s, {
    remote_url: `s3://${host}`,
    extra_config: {
      ...{ save_chunk_meta: false, s3_region: "us-east-1", disable_tls: true },
      ...{ aws_access_key_id: "testkey", aws_secret_access_key: "testsecret" },
      ...{ s3_num_io_threads: 4, s3_prefer_http2: false },
      "shmfs.worker_binary": worker,
    },
  });
  const items = await askLmcache(SCRIPT, ["write", file], null, { prefix }) as StoredItem[];
  assert.equal(items.length, 54);
  await using store = await ourStore(s, file);
  none(await getAll(store, items, { shapes: false }));
  // Which of "_" was "/", nobody can say.
  const names = items.map(({ key }) => key.replaceAll("/", "_"));
  assert.deepEqual((await store.listAll()).filter((key) => key.includes("@")).sort(), names.sort());
  await removeAll(store, items.map(({ key }) => key));
  await putAll(store, items);
  none(await askLmcache(SCRIPT, ["read", file], items, { prefix }));
});

scene("LMCache's L2 adapter s3 and we get what the other has put", withoutS3, async (s) => {
  const { host, prefix, worker } = await startS3(s);
  const adapter = JSON.stringify({
    ...{ type: "s3", s3_endpoint: `s3://${host}`, s3_region: "us-east-1", disable_tls: true },
    ...{ aws_access_key_id: "testkey", aws_secret_access_key: "testsecret" },
    ...{ s3_num_io_threads: 4, s3_prefer_http2: false },
  });
  const items = await askLmcache(SCRIPT, ["write", adapter], null, { prefix }) as ObjectItem[];
  assert.equal(items.length, 72);
  const port = host.split(":")[1];
  const url = `s3://testkey:testsecret@${servers.BUCKET}?endpoint=http://127.0.0.1:${port}` +
    "&layout=payload";
  await using store = await connect(url, { segment: s.segment, workerBinary: worker });
  none(await getAll(store, items, { shapes: false, keyOf: objectKey }));
  const texts = items.map(({ text }) => text);
  assert.deepEqual(
    (await store.listAll()).filter((key) => key.includes("@")).sort(),
    [...texts].sort(),
  );
  await removeAll(store, texts);
  await putAll(store, items, objectKey);
  none(await askLmcache(SCRIPT, ["read", adapter], items, { prefix }));
});
