// SPDX-License-Identifier: Apache-2.0
//
// Configuration: what files, variables and code mean, which of them wins, and that whatever is wrong
// is named with its key, value, place and remedy.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { type ConfigSources, createConfig, loadConfig } from "../src/config/mod.ts";
import { FOREIGN_EXTRA_KEYS, FOREIGN_KEYS } from "../src/config/lmcache_keys.ts";
import { editDistance, nearest } from "../src/nearest.ts";
import type { ConfigProblem } from "../src/config/problems.ts";
import { SETTING_NAMES, SETTINGS } from "../src/config/settings.ts";
import { ShmError } from "../src/errors.ts";

const GIB = 1024 ** 3;

function fromText(text: string, environment: ConfigSources["environment"] = null) {
  return loadConfig({ text, environment });
}

function fromVariables(environment: Record<string, string>) {
  return loadConfig({ file: null, environment });
}

function failure(load: () => unknown): ShmError {
  try {
    load();
  } catch (error) {
    assert.ok(error instanceof ShmError, String(error));
    return error;
  }
  throw new assert.AssertionError({ message: "was accepted" });
}

function problemsOf(load: () => unknown): readonly ConfigProblem[] {
  const error = failure(load);
  assert.equal(error.code, "ECONFIG", error.message);
  return error.details["problems"] as readonly ConfigProblem[];
}

/** The only problem, whose message holds each of `parts`. */
function problemOf(load: () => unknown, ...parts: string[]): ConfigProblem {
  const problems = problemsOf(load);
  assert.equal(problems.length, 1, JSON.stringify(problems));
  const { message, place } = problems[0]!;
  for (const part of parts) assert.ok(`${place}: ${message}`.includes(part), message);
  return problems[0]!;
}

test("createConfig() without fields has LMCache's defaults and no shared memory", () => {
  const config = createConfig();
  assert.equal(config.chunkSizeTokens, 256);
  assert.equal(config.hotTier, true);
  assert.equal(config.poolSizeBytes, 5 * GIB);
  assert.equal(config.cachePolicy, "LRU");
  assert.equal(config.blockingTimeoutMs, 10_000);
  assert.equal(config.alignBytes, 4096);
  assert.equal(config.shmName, null);
  assert.equal(config.storageDir, null);
  assert.equal(config.maxBytes, null);
  assert.ok(Object.isFrozen(config));
});

test("loadConfig() of an empty file, or none, is the defaults", () => {
  for (const text of ["", "# nothing\n", "---\n", "null\n", "extra_config:\n"]) {
    assert.deepEqual(fromText(text), { config: createConfig(), notices: [], file: null });
  }
  assert.deepEqual(fromVariables({}).config, createConfig());
});

test("loadConfig() reads LMCache's YAML: sizes in GB, booleans of YAML 1.1, extra_config", () => {
  const { config, notices } = fromText(`
chunk_size: 128
local_cpu: no
max_local_cpu_size: 0.5
blocking_timeout_secs: 2.5
cache_policy: s3-fifo
remote_serde: naive
extra_config:
  shm_name: kv
  shmfs.shm_name: /kv
  shmfs.storage_dir: /var/cache/kv
  shmfs.worker_binary: /opt/worker
  shmfs.worker_addr: 127.0.0.1:9000
  local_cpu.pinned_align_bytes: 65536
  lmshm.max_storage_size: 100
  lmshm.pin: Require
`);
  assert.deepEqual(notices, []);
  assert.equal(config.chunkSizeTokens, 128);
  assert.equal(config.hotTier, false);
  assert.equal(config.poolSizeBytes, GIB / 2);
  assert.equal(config.blockingTimeoutMs, 2500);
  assert.equal(config.cachePolicy, "S3FIFO");
  assert.equal(config.shmName, "/kv");
  assert.equal(config.storageDir, "/var/cache/kv");
  assert.equal(config.workerBinary, "/opt/worker");
  assert.equal(config.workerAddress, "127.0.0.1:9000");
  assert.equal(config.alignBytes, 65536);
  assert.equal(config.maxBytes, 100 * GIB);
  assert.equal(config.pin, "require");
});

test("loadConfig() reads JSON, since it is YAML", () => {
  const text = JSON.stringify({ chunk_size: 64, extra_config: { shm_name: "/kv" } });
  const { config } = fromText(text);
  assert.equal(config.chunkSizeTokens, 64);
  assert.equal(config.shmName, "/kv");
});

test("loadConfig() applies anchors, aliases and merge keys", () => {
  const { config } = fromText(`
extra_config:
  <<: {shm_name: /kv, lmshm.pin: none}
  shmfs.storage_dir: &dir /data
  lmshm.gpu_library: *dir
  lmshm.gpu_device: 3
`);
  assert.equal(config.shmName, "/kv");
  assert.equal(config.pin, "none");
  assert.equal(config.gpuLibrary, "/data");
  assert.equal(config.gpuDevice, 3);
});

test("loadConfig() reads every variable that LMCache has for these keys", () => {
  const { config, notices } = fromVariables({
    LMCACHE_CHUNK_SIZE: "512",
    LMCACHE_LOCAL_CPU: "False",
    LMCACHE_MAX_LOCAL_CPU_SIZE: '"1.5"',
    LMCACHE_REMOTE_URL: "'shmfile:///data'",
    LMCACHE_CACHE_POLICY: "lfu",
    LMCACHE_EXTRA_CONFIG: '{"shm_name": "/kv", "lmshm.fsync": true}',
    LMCACHE_LOG_LEVEL: "DEBUG",
    PATH: "/bin",
  });
  assert.deepEqual(notices, []);
  assert.equal(config.chunkSizeTokens, 512);
  assert.equal(config.hotTier, false);
  assert.equal(config.poolSizeBytes, 1.5 * GIB);
  assert.equal(config.storageDir, "/data");
  assert.equal(config.cachePolicy, "LFU");
  assert.equal(config.shmName, "/kv");
  assert.equal(config.durability, "data");
});

test("loadConfig() prefers code to variables, variables to the file, the file to defaults", () => {
  const text = "chunk_size: 1\nmax_local_cpu_size: 1\ncache_policy: LFU\n";
  const environment = { LMCACHE_CHUNK_SIZE: "2", LMCACHE_MAX_LOCAL_CPU_SIZE: "2" };
  const overrides = { chunkSizeTokens: 3, hotTier: undefined };
  const { config } = loadConfig({ text, environment, overrides });
  assert.equal(config.chunkSizeTokens, 3);
  assert.equal(config.poolSizeBytes, 2 * GIB);
  assert.equal(config.cachePolicy, "LFU");
  assert.equal(config.hotTier, true);
});

test("LMCACHE_EXTRA_CONFIG replaces the file's extra_config as a whole, and says so", () => {
  const text = "extra_config:\n  shm_name: /kv\n  lmshm.pin: none\n";
  const replaced = fromText(text, { LMCACHE_EXTRA_CONFIG: '{"lmshm.fsync": true}' });
  assert.equal(replaced.config.shmName, null);
  assert.equal(replaced.config.pin, "auto");
  assert.equal(replaced.config.durability, "data");
  assert.equal(replaced.notices.length, 1);
  assert.match(replaced.notices[0]!, /shm_name \(configuration text:2\), lmshm\.pin/);
  assert.equal(fromText(text, { LMCACHE_EXTRA_CONFIG: "" }).config.shmName, "/kv");
});

test("loadConfig() reads the file that LMCACHE_CONFIG_FILE names, unless told otherwise", () => {
  const dir = mkdtempSync(join(tmpdir(), `lmshm-config-${process.pid}-`));
  try {
    const [a, b] = [join(dir, "a.yaml"), join(dir, "b.yaml")] as const;
    writeFileSync(a, "chunk_size: 11\n");
    writeFileSync(b, "chunk_size: 22\n");
    const environment = { LMCACHE_CONFIG_FILE: a };
    assert.equal(loadConfig({ environment }).config.chunkSizeTokens, 11);
    assert.equal(loadConfig({ environment }).file, a);
    assert.equal(loadConfig({ environment, file: b }).config.chunkSizeTokens, 22);
    assert.equal(loadConfig({ environment, file: null }).config.chunkSizeTokens, 256);
    const gone = failure(() => loadConfig({ environment: { LMCACHE_CONFIG_FILE: `${a}x` } }));
    assert.equal(gone.code, "ENOENT");
    assert.ok(gone.message.includes(`${a}x`) && gone.message.includes("LMCACHE_CONFIG_FILE"));
    assert.equal(failure(() => loadConfig({ environment, file: dir })).code, "EISDIR");
    writeFileSync(a, "#".repeat((1 << 20) + 1));
    assert.match(failure(() => loadConfig({ environment })).message, /1048577 bytes/);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

test("keys of other parts of LMCache are accepted with one notice, whatever their value", () => {
  const { notices } = fromText(
    "enable_pd: [1, 2]\nlocal_disk: file:///x/\nec_local_cpu: 3\n" +
      "extra_config:\n  nixl_pool_size: x\n  save_only_first_rank: true\n",
    { LMCACHE_P2P_HOST: "x" },
  );
  assert.equal(notices.length, 1);
  const parts = [
    "enable_pd (configuration text:1)",
    "local_disk (configuration text:2)",
    "ec_local_cpu (configuration text:3)",
    "nixl_pool_size (configuration text:5)",
    "save_only_first_rank (configuration text:6)",
    "p2p_host (environment variable LMCACHE_P2P_HOST)",
  ];
  for (const part of parts) assert.ok(notices[0]!.includes(part), notices[0]!);
});

test("every known key of LMCache is either a setting or accepted", () => {
  const top = [...FOREIGN_KEYS].map((key) => `${key}: x\n`).join("");
  const extra = [...FOREIGN_EXTRA_KEYS].map((key) => `  ${key}: x\n`).join("");
  assert.equal(fromText(`${top}extra_config:\n${extra}`).notices.length, 1);
  for (const name of SETTING_NAMES) {
    const { section, key } = SETTINGS[name];
    assert.ok(!(section === "top" ? FOREIGN_KEYS : FOREIGN_EXTRA_KEYS).has(key), key);
  }
});

test("an unknown key is an error that names it, its line and the nearest valid one", () => {
  const at = problemOf(() => fromText("local_cpu: true\nchunk_sise: 3\n"), "configuration text:2");
  assert.equal(at.key, "chunk_sise");
  assert.equal(at.value, 3);
  assert.equal(at.nearest, "chunk_size");
  const cases: [string, string | undefined][] = [
    ["Chunk-Size: 3", "chunk_size"],
    ["max_local_cpu_sizes: 3", "max_local_cpu_size"],
    ["extra_confg: {}", "extra_config"],
    ["shm_name: /kv", "shm_name"],
    ["lmshm.pin: none", "lmshm.pin"],
    ["extra_config: {chunk_size: 3}", "chunk_size"],
    ["extra_config: {shmfs.storage-dri: /x}", "shmfs.storage_dir"],
    ["extra_config: {lmshm.pins: none}", "lmshm.pin"],
    ["extra_config: {lmshm.completely_different: 3}", undefined],
    ["extra_config: {shmfs.completely_different: 3}", undefined],
  ];
  for (const [text, expected] of cases) {
    const problem = problemOf(() => fromText(text));
    assert.equal(problem.nearest, expected, problem.message);
  }
  problemOf(() => fromVariables({ LMCACHE_CHUNK_SISE: "3" }), "LMCACHE_CHUNK_SISE", "chunk_size?");
  problemOf(
    () => fromVariables({ LMCACHE_EXTRA_CONFIG: '{"shm_nane": "/kv"}' }),
    "LMCACHE_EXTRA_CONFIG, key shm_nane",
    "did you mean shm_name?",
  );
});

test("variables of LMCache's other programs are nobody's business here", () => {
  const { notices } = fromVariables({
    LMCACHE_REQUEST_TELEMETRY_ENDPOINT: "x",
    LMCACHE_COORDINATOR_URL: "x",
    LMCACHE_USE_EXPERIMENTAL: "True",
    LMCACHE_LOG_LEVEL: "INFO",
  });
  assert.deepEqual(notices, []);
});

test("keys that LMCache passes over are passed over, in one notice that says so", () => {
  const { config, notices } = fromText(
    "local_device: cpu\nasync_loading: 1\nextra_config:\n  plugin.frontend.port: 1\n" +
      "  request_timeout: 2\n  ext_log_connector_stuck_time: 3\n  key1: 4\n",
  );
  assert.deepEqual(config, createConfig());
  assert.deepEqual(notices, [
    "accepted, and without effect here, since other parts of LMCache read them: " +
    "plugin.frontend.port (configuration text:4), request_timeout (configuration text:5)",
    "unknown, and passed over as LMCache does: local_device (configuration text:1), " +
    "async_loading (configuration text:2; did you mean enable_async_loading?), " +
    "ext_log_connector_stuck_time (configuration text:6), key1 (configuration text:7)",
  ]);
});

test("lmshm.foreign_keys lets keys of other programs pass that are nearly ours", () => {
  const { notices } = fromText(
    "extra_config:\n  lmshm.a: 1\n  lmshm.b: 2\n  shm_nam: 3\n" +
      "  lmshm.foreign_keys: [lmshm.*, shm_nam]\n",
  );
  assert.equal(notices.length, 1);
  assert.match(notices[0]!, /lmshm\.a .*lmshm\.b .*shm_nam/);
  problemOf(() => fromText("extra_config: {shm_nam: 1}"), "did you mean shm_name?");
});

test("a pool of no size is a configuration, as LMCache's prefill nodes have it", () => {
  assert.equal(fromText("max_local_cpu_size: 0\n").config.poolSizeBytes, 0);
  assert.equal(fromText("max_local_cpu_size: '0.0'\n").config.poolSizeBytes, 0);
  assert.equal(fromText("local_cpu: 'false'\n").config.hotTier, false);
  problemOf(() => fromText("max_local_cpu_size: 0.000001\n"), "GB");
});

test("remote_serde matters where there is a store", () => {
  const { notices } = fromText("remote_serde: cachegen\n");
  assert.deepEqual(notices, [
    'remote_serde "cachegen" (configuration text:1) is without effect: there is no store',
  ]);
  const store = "remote_serde: cachegen\nextra_config: {shmfs.storage_dir: /x}\n";
  problemOf(() => fromText(store), 'remote_serde is "cachegen"', "accepted with a store is naive");
});

const EXTERNAL = "external://host:0/my.module/?connector_name=ShmFileConnector";

test("LMCache's own words for its shared-memory connector describe the store", () => {
  const { config, notices } = fromText(
    `remote_url: ${EXTERNAL}\nextra_config: {shm_name: /kv, shmfs.storage_dir: /d, ` +
      "shmfs.worker_addr: '10.0.0.1:9800'}\n",
  );
  assert.deepEqual(notices, []);
  assert.deepEqual(
    [config.storageDir, config.shmName, config.workerAddress, config.saveChunkMeta],
    ["/d", "/kv", "10.0.0.1:9800", false],
  );
  const alone = fromText(`remote_url: ${EXTERNAL}\n`);
  assert.equal(alone.config.storageDir, "/tmp/lmcache_shmfs");
  assert.match(alone.notices[0]!, /no shmfs\.storage_dir: .*LMCache's default/);
  const plugin = fromText(
    "remote_storage_plugins: [kv]\nextra_config:\n  remote_storage_plugin.kv.module_path: m\n" +
      "  remote_storage_plugin.kv.class_name: ShmFileConnectorAdapter\n  shmfs.storage_dir: /e\n",
  );
  assert.equal(plugin.config.storageDir, "/e");
  problemOf(
    () => fromText("remote_url: external://h:0/m/?connector_name=Other\n"),
    'names the connector "Other"',
    "connector_name=ShmFileConnector",
  );
});

test("fs:// is its directory, with LMCache's headers unless they are switched off", () => {
  const saves = (text: string) => {
    const { config, notices } = fromText(text);
    return [config.storageDir, config.saveChunkMeta, notices.length];
  };
  const url = "remote_url: fs://host:0/tmp/a%20b\n";
  assert.deepEqual(saves(url), ["/tmp/a%20b", true, 0]);
  assert.deepEqual(saves(`${url}extra_config: {save_chunk_meta: false}\n`), [
    ...["/tmp/a%20b", false, 0],
  ]);
  assert.deepEqual(
    saves(`${url}use_layerwise: true\nextra_config: {save_chunk_meta: false}\n`),
    ["/tmp/a%20b", true, 0],
  );
  const named = (name: string) =>
    `remote_storage_plugins: ["${name}"]\nextra_config:\n  ` +
    `remote_storage_plugin.${name}.base_path: /p\n`;
  assert.deepEqual(saves(named("fs")), ["/p", true, 0]);
  assert.deepEqual(saves(named("fs.primary")), ["/p", true, 0]);
  assert.deepEqual(saves("remote_storage_plugins: fs\nextra_config: {fs_base_path: /q}\n"), [
    ...["/q", true, 0],
  ]);
  assert.deepEqual(saves(`${named("mooncakestore")}  shmfs.storage_dir: /s\n`), ["/s", false, 2]);
  // Of the shared-memory connector it is not heeded by LMCache either.
  assert.deepEqual(saves("extra_config: {shmfs.storage_dir: /s, save_chunk_meta: true}\n"), [
    ...["/s", false, 1],
  ]);
  assert.equal(createConfig({ storageDir: "/s", saveChunkMeta: true }).saveChunkMeta, true);
  for (
    const several of ["remote_url: 'fs://h:0/a,/b'\n", `${named("fs")}`.replace("/p", "/a,/b")]
  ) {
    problemOf(() => fromText(several), "a store here has one");
  }
  problemOf(
    () =>
      fromText(
        "remote_storage_plugins: [fs.a, fs.b]\nextra_config:\n" +
          "  remote_storage_plugin.fs.a.base_path: /a\n  remote_storage_plugin.fs.b.base_path: /b\n",
      ),
    "more than one place",
  );
});

test("lmshm.file_mode is octal however it is written, and lets not everybody write", () => {
  const mode = (text: string) =>
    fromText(`extra_config: {lmshm.file_mode: ${text}}`).config.fileMode;
  for (const text of ["'0644'", "'644'", "0644"]) assert.equal(mode(text), 0o644, text);
  for (const text of ["644", "'0666'", "0666", "'0400'", "'0755'", "'rw'", "-1"]) {
    problemOf(() => mode(text), "lmshm.file_mode is", "octal mode");
  }
  problemOf(() => createConfig({ fileMode: 0o666 }), "fileMode is 438", "0o640");
  const group = (text: string) =>
    fromText(`extra_config: {lmshm.file_group: ${text}}`).config.fileGroup;
  assert.deepEqual([group("kv"), group("1000"), group("'1000'")], ["kv", "1000", "1000"]);
  problemOf(() => group("-1"), "lmshm.file_group is -1", "a name or a number");
});

test("a value that is not accepted is an error with key, value, place and what is accepted", () => {
  const cases: [string, string, string][] = [
    ["chunk_size: 0", "chunk_size is 0", "an integer from 1 to 1048576 tokens"],
    ["chunk_size: 1.5", "chunk_size is 1.5", "an integer"],
    ["chunk_size: lots", 'chunk_size is "lots"', "an integer"],
    ["chunk_size: [1]", "chunk_size is [1]", "an integer"],
    ["local_cpu: maybe", 'local_cpu is "maybe"', "true or false"],
    ["max_local_cpu_size: -5", "max_local_cpu_size is -5", "GB"],
    ["max_local_cpu_size: .inf", "max_local_cpu_size is Infinity", "GB"],
    ["max_local_cpu_size: 5GB", 'max_local_cpu_size is "5GB"', "GB"],
    ["cache_policy: COST_AWARE", 'cache_policy is "COST_AWARE"', "LRU, LFU, FIFO, MRU, S3FIFO"],
    ["blocking_timeout_secs: 0", "blocking_timeout_secs is 0", "seconds"],
    ["extra_config: {shm_name: a/b}", 'shm_name is "a/b"', "one path component"],
    ["extra_config: {shm_name: ''}", 'shm_name is ""', "one path component"],
    ["extra_config: {shm_name: ..}", 'shm_name is ".."', "one path component"],
    ["extra_config: {shmfs.worker_addr: localhost}", '"localhost"', "host:port"],
    ["extra_config: {shmfs.worker_addr: 'a:0'}", '"a:0"', "host:port"],
    ["extra_config: {local_cpu.pinned_align_bytes: 100}", "is 100", "a power of two"],
    ["extra_config: {lmshm.numa: 'bind:64'}", '"bind:64"', "interleave:0-3,6"],
    ["extra_config: {lmshm.populate_threads: 65}", "is 65", "from 0 to 64"],
    ["extra_config: {lmshm.foreign_keys: [1]}", "is [1]", "a list of names"],
    ["extra_config: {lmshm.pad_bytes: 3000}", "is 3000", "a power of two"],
  ];
  for (const [text, value, accepted] of cases) {
    problemOf(() => fromText(text), "configuration text:1", value, `accepted is`, accepted);
  }
  problemOf(
    () => fromVariables({ LMCACHE_LOCAL_CPU: "yes" }),
    "environment variable LMCACHE_LOCAL_CPU",
    'local_cpu is "yes"',
  );
});

test("all problems are reported at once", () => {
  const load = () => fromText("chunk_sise: 1\nlocal_cpu: 7\nremote_url: mooncake://h:1\n");
  assert.equal(problemsOf(load).length, 3);
  assert.match(failure(load).message, /3 problems:\n {2}configuration text:2: local_cpu/);
  assert.match(failure(load).message, /\n {2}configuration text:.* \(ECONFIG\)$/);
});

test("what is no YAML mapping is an error with its place", () => {
  assert.match(failure(() => fromText("a: b: c")).message, /configuration text:1:4/);
  assert.match(failure(() => fromText("x: 1\nx: 2")).message, /:2:1: Map keys must be unique/);
  assert.match(failure(() => fromText("- 1")).message, /mapping of keys to values/);
  assert.match(failure(() => fromText("just text")).message, /mapping of keys to values/);
  assert.match(failure(() => fromText("a: 1\n---\nb: 2")).message, /document/);
  assert.match(failure(() => fromText("extra_config: [1]")).message, /extra_config is \[1\]/);
  assert.match(failure(() => fromText("chunk_size: *x")).message, /x/);
  const bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" +
    [..."bcdefgh"].map((name, i) =>
      `${name}: &${name} [${Array(10).fill(`*${"abcdefg"[i]}`).join(",")}]\n`
    ).join("");
  assert.equal(failure(() => fromText(bomb)).code, "ECONFIG");
});

test("LMCACHE_EXTRA_CONFIG that is no JSON object is an error that does not show its secrets", () => {
  const error = failure(() =>
    fromVariables({ LMCACHE_EXTRA_CONFIG: `{"a": 1, "password": 'hunter2'}` })
  );
  assert.equal(error.code, "ECONFIG");
  assert.match(error.message, /LMCACHE_EXTRA_CONFIG: extra_config must be a JSON object/);
  assert.ok(!JSON.stringify(error.details).includes("password"));
  assert.match(
    failure(() => fromVariables({ LMCACHE_EXTRA_CONFIG: "[1]" })).message,
    /extra_config is \[1\]/,
  );
});

test("remote_url gives directory, segment, worker and address", () => {
  const parts = (url: string) => {
    const { config } = fromText(`remote_url: ${JSON.stringify(url)}`);
    const { storageDir, shmName, workerBinary, workerAddress } = config;
    return { storageDir, shmName, workerBinary, workerAddress };
  };
  assert.deepEqual(parts("shmfile:///data/kv"), {
    storageDir: "/data/kv",
    shmName: null,
    workerBinary: null,
    workerAddress: null,
  });
  assert.deepEqual(parts("shmfile://host:19800/data?shm_name=/kv&worker_bin=/opt/my%20worker"), {
    storageDir: "/data",
    shmName: "/kv",
    workerBinary: "/opt/my worker",
    workerAddress: "host:19800",
  });
  assert.equal(parts("SHMFILE://[::1]:80/a b%23").storageDir, "/a b#");
  assert.equal(parts("shmfile://[::1]:80/a").workerAddress, "[::1]:80");
  assert.equal(parts("shmfile:///a?worker_addr=unix:/run/w").workerAddress, "unix:/run/w");
});

test("a remote_url that is not accepted says why, and what was probably meant", () => {
  const cases: [string, string][] = [
    ["/data", "is no URL"],
    ["mooncake://h:1/", "the scheme mooncake://"],
    ["shmfile://data", "shmfile:///data has three slashes"],
    ["shmfile://data/kv", "shmfile:///data/kv has three slashes"],
    ["shmfile://h:99999/x", 'has "h:99999"'],
    ["shmfile:///", "names no directory"],
    ["shmfile:///a#b", "%23"],
    ["shmfile:///a%zz", "percent-encoding"],
    ["shmfile:///a?shm_nam=/x", 'did you mean "shm_name"?'],
    ["shmfile:///a?shm_name=/x/y", 'shm_name="/x/y"'],
    ["shmfile:///a?shm_name=x&shm_name=y", "more than once"],
    ["shmfile:///a?worker_bin=", "empty worker_bin"],
    ["shmfile://h:1/a?worker_addr=unix:/x", "both a host and worker_addr"],
    ["shmfile:///a?worker_addr=nowhere", 'worker_addr="nowhere"'],
  ];
  for (const [url, part] of cases) {
    const text = `remote_url: ${JSON.stringify(url)}`;
    assert.equal(problemOf(() => fromText(text), part).key, "remote_url");
  }
});

test("remote_url wins over keys of the same source with a notice, and loses to a higher one", () => {
  const text = "remote_url: shmfile:///a?shm_name=/u\n" +
    "extra_config: {shmfs.storage_dir: /b, shm_name: /u}\n";
  const same = fromText(text);
  assert.equal(same.config.storageDir, "/a");
  assert.equal(same.notices.length, 1);
  assert.match(same.notices[0]!, /"\/a", which wins over extra_config's shmfs\.storage_dir/);
  const higher = fromText("remote_url: shmfile:///a\n", {
    LMCACHE_EXTRA_CONFIG: '{"shmfs.storage_dir": "/c"}',
  });
  assert.equal(higher.config.storageDir, "/c");
  const code = loadConfig({ text, environment: null, overrides: { storageDir: "/d" } });
  assert.equal(code.config.storageDir, "/d");
  assert.equal(code.config.shmName, "/u");
  const none = loadConfig({ text, environment: null, overrides: { shmName: null } });
  assert.equal(none.config.shmName, null);
  const url = createConfig({ remoteUrl: "shmfile:///e" });
  assert.equal(url.storageDir, "/e");
});

test("shm_name and shmfs.shm_name name one segment", () => {
  assert.equal(fromText("extra_config: {shmfs.shm_name: kv}").config.shmName, "/kv");
  problemOf(
    () => fromText("extra_config: {shm_name: /a, shmfs.shm_name: /b}"),
    'shmfs.shm_name is "/b" and shm_name is "/a"',
  );
});

test("local_cpu_use_hugepages asks for the pages that the memory can have", () => {
  const text = "local_cpu_use_hugepages: true\n";
  assert.equal(fromText(text).config.pages, "2M");
  const named = fromText(`${text}extra_config: {shm_name: /kv}`);
  assert.equal(named.config.pages, "transparent");
  assert.equal(named.notices.length, 1);
  assert.equal(fromText(`${text}extra_config: {lmshm.pages: 1G}`).config.pages, "1G");
  problemOf(
    () => fromText("extra_config: {lmshm.pages: 2M, shm_name: /kv}"),
    "needs memory without a name",
  );
});

test("numa_mode and lmshm.numa place the pool", () => {
  const numaOf = (text: string) => fromText(text).config.numa;
  assert.deepEqual(numaOf("extra_config: {lmshm.numa: 'interleave:0-2,5,1'}"), {
    policy: "interleave",
    nodes: [0, 1, 2, 5],
  });
  assert.deepEqual(numaOf("numa_mode: manual\nextra_config: {gpu_to_numa_mapping: {0: 1, 1: 1}}"), {
    policy: "bind",
    nodes: [1],
  });
  problemOf(() => numaOf("numa_mode: manual"), "gpu_to_numa_mapping");
  assert.equal(numaOf("numa_mode: null"), null);
  const auto = fromText("numa_mode: auto");
  assert.equal(auto.config.numa, null);
  assert.equal(auto.notices.length, 1);
  const numa = { policy: "bind", nodes: [3] } as const;
  assert.deepEqual(createConfig({ numa }).numa, numa);
});

test("createConfig() checks fields in their own units", () => {
  problemOf(() => createConfig({ poolSizeBytes: 0.5 }), "integer number of bytes");
  problemOf(() => createConfig({ blockingTimeoutMs: 0 }), "milliseconds from 1");
  problemOf(() => createConfig({ cachePolicy: "lru" as "LRU" }), "one of LRU");
  problemOf(() => createConfig({ hotTier: null as unknown as boolean }), "true or false");
  const misnamed = problemOf(() => createConfig({ chunk_size: 3 } as object));
  assert.equal(misnamed.nearest, "chunkSizeTokens");
  assert.equal(
    problemOf(() => createConfig({ workerBinry: "x" } as object)).nearest,
    "workerBinary",
  );
  assert.throws(() => loadConfig({ flie: "x" } as object), /has no option "flie"/);
  assert.throws(() => loadConfig({ file: "x", text: "" }), /not both/);
  assert.throws(() => loadConfig({ file: 3 as unknown as string }), /file must be a path/);
});

test("a value that a kind accepts from code, it accepts back as a file would say it", () => {
  fc.assert(fc.property(
    fc.record({
      chunkSizeTokens: fc.integer({ min: 1, max: 1 << 20 }),
      hotTier: fc.boolean(),
      blockingTimeoutMs: fc.integer({ min: 1, max: 0x7fff_ffff }),
      cachePolicy: fc.constantFrom("LRU", "LFU", "FIFO", "MRU", "S3FIFO"),
      quarterGib: fc.integer({ min: 1, max: 1 << 20 }),
    }),
    ({ quarterGib, ...fields }) => {
      const config = createConfig({ ...fields, poolSizeBytes: quarterGib * GIB / 4 });
      const text = [
        `chunk_size: ${fields.chunkSizeTokens}`,
        `local_cpu: ${fields.hotTier ? "True" : "False"}`,
        `blocking_timeout_secs: ${fields.blockingTimeoutMs / 1000}`,
        `cache_policy: ${fields.cachePolicy.toLowerCase()}`,
        `max_local_cpu_size: ${quarterGib / 4}`,
      ].join("\n");
      assert.deepEqual(fromText(text).config, config);
    },
  ));
});

test(
  "whatever the text, loadConfig() gives a configuration or an ECONFIG",
  { timeout: 60_000 },
  () => {
    const keys = SETTING_NAMES.map((name) => SETTINGS[name].key);
    const scalar = fc.oneof(
      fc.string(),
      fc.double(),
      fc.integer(),
      fc.boolean(),
      fc.constantFrom("null", "{}", "[]", "bind:0", "shmfile:///x", "/kv", "*a", "!!set {a}"),
    );
    const line = fc.tuple(fc.oneof(fc.constantFrom(...keys), fc.string()), scalar)
      .map(([key, value]) => `${key}: ${value}`);
    const text = fc.oneof(
      fc.string(),
      fc.array(line, { maxLength: 5, size: "max" }).map((all) => all.join("\n")),
    );
    fc.assert(
      fc.property(text, text, (top, extra) => {
        const indented = extra.split("\n").map((part) => `  ${part}`).join("\n");
        try {
          const { config } = fromText(`${top}\nextra_config:\n${indented}\n`);
          assert.ok(config.poolSizeBytes >= 4096);
        } catch (error) {
          assert.ok(error instanceof ShmError && error.code === "ECONFIG", String(error));
        }
      }),
      { numRuns: 500 },
    );
  },
);

/** The recursive definition. */
function slowDistance(a: string, b: string): number {
  if (a === "" || b === "") return a.length + b.length;
  const same = a.at(-1) === b.at(-1) ? 0 : 1;
  const [a1, b1] = [a.slice(0, -1), b.slice(0, -1)];
  const options = [
    slowDistance(a1, b) + 1,
    slowDistance(a, b1) + 1,
    slowDistance(a1, b1) + same,
  ];
  if (a.length > 1 && b.length > 1 && a.at(-1) === b.at(-2) && a.at(-2) === b.at(-1)) {
    options.push(slowDistance(a.slice(0, -2), b.slice(0, -2)) + 1);
  }
  return Math.min(...options);
}

test("editDistance() counts insertions, removals, replacements and exchanges", () => {
  assert.equal(editDistance("chunk_size", "chunk_size"), 0);
  assert.equal(editDistance("chunk_sise", "chunk_size"), 1);
  assert.equal(editDistance("chnuk_size", "chunk_size"), 1);
  assert.equal(editDistance("", "abc"), 3);
  assert.equal(editDistance("ca", "abc"), 3);
  const word = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 5 });
  fc.assert(fc.property(word, word, (a, b) => {
    assert.equal(editDistance(a, b), slowDistance(a, b));
    assert.equal(editDistance(a, b), editDistance(b, a));
  }));
});

test("nearest() finds what was meant, and nothing where nothing was", () => {
  const known = ["chunk_size", "local_cpu", "max_local_cpu_size", "pin"];
  assert.equal(nearest("chunksize", known), "chunk_size");
  assert.equal(nearest("CHUNK-SIZE", known), "chunk_size");
  assert.equal(nearest("local_cup", known), "local_cpu");
  assert.equal(nearest("pni", known), "pin");
  assert.equal(nearest("workerAddr", ["workerArgs", "workerAddress"]), "workerAddress");
  assert.equal(nearest("zzz", known), null);
  assert.equal(nearest("x".repeat(100_000), known), null);
  assert.equal(nearest("chunk_size", []), null);
});

/** Rows of the manual's tables of settings, by key. */
function manualRows(): Map<string, string[]> {
  const manual = readFileSync(new URL("../docs/configuration.md", import.meta.url), "utf8");
  const rows = manual.split("\n").filter((line) => /^\| `[a-z_.]+` \|/.test(line))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
  return new Map(rows.map((cells) => [cells[0]!.replaceAll("`", ""), cells]));
}

test("docs/configuration.md has every setting with its field and default", () => {
  const rows = manualRows();
  const fields = createConfig();
  assert.deepEqual(new Set(rows.keys()), new Set(SETTING_NAMES.map((name) => SETTINGS[name].key)));
  for (const name of SETTING_NAMES) {
    const { section, key, kind, fallback } = SETTINGS[name];
    const [, field, , text] = rows.get(key)!;
    assert.equal(field, name in fields ? `\`${name}\`` : "", key);
    const value = parseDefault(text!);
    if (value === null || Array.isArray(value)) {
      assert.deepEqual(value, fallback, `${section} ${key}`);
    } else if (name === "pages") {
      assert.equal(value, fields.pages);
    } else {
      assert.deepEqual(kind.read(value), fallback, `${section} ${key}`);
    }
  }
});

/** A default as the manual writes it. */
function parseDefault(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function example(name: string): string {
  return fileURLToPath(new URL(`../examples/${name}`, import.meta.url));
}

test("the examples are accepted without a notice", () => {
  for (const name of readdirSync(example(""))) {
    if (!name.endsWith(".yaml")) continue;
    const { notices } = loadConfig({ file: example(name), environment: null });
    assert.deepEqual(notices, [], name);
  }
});

test("examples/lmshm-all-settings.yaml has every setting with its default", () => {
  const file = example("lmshm-all-settings.yaml");
  assert.deepEqual(loadConfig({ file, environment: null }).config, createConfig());
  const text = readFileSync(file, "utf8");
  for (const name of SETTING_NAMES) {
    const { section, key } = SETTINGS[name];
    const indent = section === "top" ? "" : "  ";
    assert.ok(text.includes(`\n${indent}${key}: `), key);
  }
});

test("examples/lmcache.yaml describes a hot tier in shared memory and a store", () => {
  const { config } = loadConfig({ file: example("lmcache.yaml"), environment: null });
  assert.equal(config.shmName, "/lmshm-example");
  assert.equal(config.storageDir, "/tmp/lmshm-example");
  assert.equal(config.poolSizeBytes, 2 * GIB);
  assert.equal(config.maxBytes, 10 * GIB);
});
