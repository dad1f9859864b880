// SPDX-License-Identifier: Apache-2.0
//
// Directories and configurations between the real LMCache and this library, both ways. Needs Python with
// LMCache 0.5.x and torch, of the environment that LMSHM_LMCACHE_VENV names: `npm run test:lmcache`
// installs one.
// tests/lmcache_files_test.ts has the same from what was recorded.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadConfig } from "../../src/config/mod.ts";
import { ObjectKey } from "../../src/keys/object_key.ts";
import { connectorScene } from "../support/connector_scene.ts";
import { getAll, putAll, type StoredItem } from "../support/lmcache_files.ts";

const VENV = process.env["LMSHM_LMCACHE_VENV"] ?? "";
const PYTHON = VENV === "" ? "" : join(VENV, "bin/python");
const SCRIPT = fileURLToPath(new URL("lmcache_files.py", import.meta.url));
const SEGMENT_BYTES = 1 << 20;
/** Loading torch takes that long on a busy machine. */
const PYTHON_MS = 240_000;
const TIMEOUT_MS = 2 * PYTHON_MS + 60_000;

if (PYTHON === "") {
  test("directories of the real LMCache", {
    skip: "LMSHM_LMCACHE_VENV names no environment with LMCache; npm run test:lmcache installs one",
  }, () => {});
}

function lmcache(args: readonly string[], input?: unknown): unknown {
  const { status, stdout, stderr, error } = spawnSync(PYTHON, [SCRIPT, ...args], {
    encoding: "utf8",
    input: input === undefined ? "" : JSON.stringify(input),
    timeout: PYTHON_MS,
    maxBuffer: 1 << 26,
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" },
  });
  assert.equal(error, undefined);
  assert.equal(status, 0, stderr.split("\n").slice(-12).join("\n"));
  return JSON.parse(stdout);
}

interface Way {
  readonly connector: string;
  readonly options: { saveChunkMeta?: boolean; padBytes?: number };
  readonly shapes: boolean;
}

const WAYS: readonly Way[] = [
  { connector: "fs", options: { saveChunkMeta: true }, shapes: true },
  { connector: "fs-plain", options: {}, shapes: false },
  { connector: "mp-fs", options: {}, shapes: false },
  { connector: "mp-fs_native", options: {}, shapes: false },
  { connector: "mp-fs_native-odirect", options: { padBytes: 4096 }, shapes: false },
];

for (const { connector, options, shapes } of PYTHON === "" ? [] : WAYS) {
  const multiprocess = connector.startsWith("mp-");
  const keyOf = ({ key }: StoredItem) => multiprocess ? ObjectKey.parse(key) : key;

  connectorScene(
    `what LMCache's ${connector} writes, we read`,
    async (s) => {
      const items = lmcache(["write", connector, s.store]) as StoredItem[];
      assert.equal(items.length, 72);
      const store = await s.open(options);
      assert.deepEqual(await getAll(store, items, { shapes, keyOf }), []);
      assert.deepEqual((await store.listAll()).sort(), items.map(({ key }) => key).sort());
    },
    SEGMENT_BYTES,
    TIMEOUT_MS,
  );

  connectorScene(
    `what we write, LMCache's ${connector} reads`,
    async (s) => {
      const items = lmcache(["list", connector]) as StoredItem[];
      assert.equal(items.length, 72);
      const store = await s.open({ ...options, fileMode: 0o644 });
      await putAll(store, items, keyOf);
      assert.deepEqual(readdirSync(s.store).sort(), items.map(({ file }) => file).sort());
      assert.equal(statSync(`${s.store}/${items[0]!.file}`).mode & 0o777, 0o644);
      assert.deepEqual(lmcache(["read", connector, s.store], items), []);
    },
    SEGMENT_BYTES,
    TIMEOUT_MS,
  );
}

if (PYTHON !== "") {
  test(
    "LMCache's loader and ours make the same of examples/lmcache.yaml",
    { timeout: TIMEOUT_MS },
    () => {
      const file = fileURLToPath(new URL("../../examples/lmcache.yaml", import.meta.url));
      const theirs = lmcache(["config", file]) as Record<string, unknown>;
      const { config, notices } = loadConfig({ file, environment: null });
      assert.deepEqual(notices, []);
      const extra = theirs["extra_config"] as Record<string, unknown>;
      assert.deepEqual(
        [theirs["chunk_size"], theirs["local_cpu"], theirs["cache_policy"], theirs["remote_url"]],
        [config.chunkSizeTokens, config.hotTier, config.cachePolicy, config.remoteUrl],
      );
      assert.equal((theirs["max_local_cpu_size"] as number) * 1024 ** 3, config.poolSizeBytes);
      assert.equal(extra["shm_name"], config.shmName);
      assert.equal(extra["shmfs.storage_dir"], config.storageDir);
    },
  );
}
