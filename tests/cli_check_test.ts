// SPDX-License-Identifier: Apache-2.0
//
// lmshm check as a user runs it, in a process of its own: configurations that hold, and ones that
// do not, each of which must be told by the exit status and leave nothing behind.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/mod.ts";
import { uniqueName } from "./support/leaks.ts";
import { type Ended, fixtureCommand, runFixture } from "./support/process.ts";
import { version1Worker } from "./support/version1_worker.ts";
import { eventually, startWorker, TempDir } from "./support/worker.ts";

const MAIN = "../../src/cli/main.ts";
/** Of the test's own configuration alone, whatever the environment says. */
const ENV = { LMCACHE_CONFIG_FILE: "", LMCACHE_EXTRA_CONFIG: "" };

interface Step {
  name: string;
  ok: boolean | null;
  objects: number;
  bytes: number;
  milliseconds: number;
  detail: string;
}

/** A test with a directory; `check` runs the command on a configuration with a pool of 16 MiB. */
function checkTest(
  name: string,
  body: (
    dir: TempDir,
    check: (config: Record<string, unknown>, ...args: string[]) => Promise<Ended>,
  ) => Promise<void>,
): void {
  test(`lmshm check: ${name}`, { timeout: 120_000 }, async () => {
    using dir = new TempDir();
    await body(dir, (config, ...args) => {
      const file = dir.file("config.yaml");
      writeFileSync(file, JSON.stringify({ max_local_cpu_size: 1 / 64, ...config }));
      return runFixture(MAIN, ["check", "--config", file, ...args], { env: ENV });
    });
  });
}

function stepsOf({ stdout, stderr }: Ended): Map<string, Step> {
  const report = JSON.parse(stdout) as { steps?: Step[]; error?: string };
  assert.ok(report.steps, `${report.error}${stderr}`);
  return new Map(report.steps.map((step) => [step.name, step]));
}

function segmentExists(name: string): boolean {
  return readdirSync("/dev/shm").includes(name);
}

checkTest("tells what a configuration does, and removes what it made", async (dir, check) => {
  const name = uniqueName("check");
  const ended = await check({
    remote_url: `shmfile://${dir.file("kv")}?shm_name=/${name}`,
    pd_buffer_size: 1,
    extra_config: { "lmshm.max_storage_size": 0.5 },
  });
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  assert.equal(ended.stderr, "");
  assert.match(ended.stdout, /^lmshm \S+ on (bun|deno) \d+\.\S+, .*config\.yaml$/m);
  assert.match(ended.stdout, /^note {5}shared memory by \S*liblmshm\.so$/m);
  assert.match(ended.stdout, new RegExp(`^pool {5}/${name}, 16.8 MB, LRU$`, "m"));
  assert.match(ended.stdout, /^storage {2}.*\/kv, at most 537 MB$/m);
  assert.match(ended.stdout, /^notice {3}accepted, and without effect here.*pd_buffer_size/m);
  assert.match(ended.stdout, /^get from the store +ok +8 +7.86 MB +\S+ m?s +[\d,]+ MB\/s$/m);
  assert.match(ended.stdout, /^OK: everything held$/m);
  assert.deepEqual(readdirSync(dir.path), ["config.yaml"]);
  assert.ok(!segmentExists(name));
});

for (const writeMode of ["through", "behind"]) {
  checkTest(`every operation is tried and timed (${writeMode})`, async (dir, check) => {
    mkdirSync(dir.file("kv"));
    writeFileSync(dir.file("kv/precious.data"), "somebody's");
    const ended = await check({
      extra_config: { "shmfs.storage_dir": dir.file("kv"), "lmshm.write_mode": writeMode },
    }, "--json");
    assert.equal(ended.code, 0, ended.stdout + ended.stderr);
    const steps = stepsOf(ended);
    assert.deepEqual([...steps.keys()], [
      "make the pool",
      "connect the worker",
      "allocate",
      `put (${writeMode})`,
      "flush",
      "exists",
      "list",
      "get from the store",
      "metadata",
      "get from the pool",
      "check the pool's books",
      "remove",
    ]);
    for (const { name, ok, milliseconds } of steps.values()) {
      assert.equal(ok, true, name);
      assert.ok(milliseconds > 0, name);
    }
    assert.equal(steps.get("get from the store")?.objects, 8);
    assert.equal(steps.get("get from the store")?.bytes, 7.5 * 2 ** 20, "the last one half full");
    assert.deepEqual(readdirSync(dir.file("kv")), ["precious.data"]);
  });
}

checkTest("a pool without a store, and a store whose pool keeps nothing", async (dir, check) => {
  const pool = await check({ chunk_size: 3 }, "--json");
  assert.equal(pool.code, 0, pool.stdout + pool.stderr);
  assert.ok(stepsOf(pool).get("get from the pool")?.ok);
  assert.match(JSON.parse(pool.stdout).notes.join(), /names no store/);
  const store = await check(
    {
      local_cpu: false,
      chunk_size: 1,
      extra_config: { "shmfs.storage_dir": dir.file("kv") },
    },
    "--json",
    "--pool-size",
    "4MiB",
  );
  assert.equal(store.code, 0, store.stdout + store.stderr);
  assert.equal(stepsOf(store).get("get from the pool")?.ok, null);
  assert.ok(stepsOf(store).get("get from the store")?.ok);
  assert.equal(stepsOf(store).get("make the pool")?.bytes, 4 * 2 ** 20);
});

checkTest("what is asked of the worker reaches it, and is shown", async (dir, check) => {
  const ended = await check({
    extra_config: {
      "shmfs.storage_dir": dir.file("kv"),
      "lmshm.fsync": "full",
      "lmshm.io_mode": "direct",
      "lmshm.checksum": false,
    },
  });
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  assert.match(
    ended.stdout,
    /^worker {3}started, over pipes, io direct, durability full, no checksums$/m,
  );
  assert.match(
    ended.stdout,
    /^note {5}the worker: protocol 2, io direct, direct I\/O .*, durability full, metadata (not )?kept$/m,
  );
  assert.match(ended.stdout, /^note {5}objects went .*: puts: \d+ direct, \d+ cached; gets: \d+/m);
  const refused = await check({
    extra_config: {
      shm_name: uniqueName("check"),
      "shmfs.storage_dir": dir.file("kv"),
      "shmfs.worker_binary": version1Worker(dir),
      "lmshm.fsync": true,
    },
  }, "--json");
  assert.equal(refused.code, 1);
  assert.match(stepsOf(refused).get("connect the worker")!.detail, /durability "data" needs/);
});

checkTest("a worker of version 1 is told to be one", async (dir, check) => {
  const ended = await check({
    extra_config: {
      shm_name: uniqueName("check"),
      "shmfs.storage_dir": dir.file("kv"),
      "shmfs.worker_binary": version1Worker(dir),
    },
  }, "--json");
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  const step = stepsOf(ended).get("metadata");
  assert.equal(step?.ok, null);
  assert.match(step!.detail, /version 1 keeps none/);
  assert.match(stepsOf(ended).get("connect the worker")!.detail, /protocol 1, metadata not kept/);
});

test("lmshm check interrupted removes what it made", { timeout: 120_000 }, async () => {
  using dir = new TempDir();
  const name = uniqueName("check");
  // Each object takes its time, so that there is something to interrupt.
  const worker = workerScript(
    dir,
    `head -c "$length" /dev/zero > "$path"; sleep 0.3; echo "OK $length"`,
    // Asked for 0 bytes: is it there?
    `if [ "$length" != 0 ]; then echo "OK $(($(wc -c < "$path")))"
      elif [ -e "$path" ]; then echo OK 0; else echo "ERROR ENOENT open: no such file"; fi`,
  );
  const file = dir.file("config.yaml");
  writeFileSync(
    file,
    JSON.stringify({
      max_local_cpu_size: 1 / 64,
      extra_config: {
        shm_name: name,
        "shmfs.storage_dir": dir.file("kv"),
        "shmfs.worker_binary": worker,
      },
    }),
  );
  const [command, line] = fixtureCommand(MAIN, "check", "--config", file);
  const child = spawn(command, line, {
    env: { ...process.env, ...ENV },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const closed = once(child, "close");
  let said = "";
  child.stdout.on("data", (data) => said += data);
  child.stderr.on("data", (data) => said += data);
  const objects = () =>
    existsSync(dir.file("kv")) ? readdirSync(dir.file("kv")).filter(isObject).length : 0;
  await eventually("the first objects are written", () => objects() > 0, 60_000);
  child.kill("SIGINT");
  const [code, signal] = await closed;
  // Exit status 130; Deno's child_process reports that as if a signal had ended the process.
  assert.ok(code === 130 || signal === "SIGINT", `${code} ${signal} ${said}`);
  assert.match(said, /interrupted; everything was removed/);
  assert.deepEqual(readdirSync(dir.path).sort(), ["config.yaml", "worker.sh"]);
  assert.ok(!segmentExists(name));
});

test("lmshm check of a file that names no pool says what it takes, before it takes it", {
  timeout: 120_000,
}, async () => {
  using dir = new TempDir();
  const name = uniqueName("default");
  const file = dir.file("config.yaml");
  const extra_config = { shm_name: name, "shmfs.storage_dir": dir.file("kv") };
  writeFileSync(file, JSON.stringify({ extra_config }));
  const [command, line] = fixtureCommand(MAIN, "check", "--config", file);
  const child = spawn(command, line, {
    env: { ...process.env, ...ENV },
    stdio: ["ignore", "pipe", "ignore"],
  });
  let said = "";
  let interrupted = false;
  child.stdout.setEncoding("utf8").on("data", (data) => {
    said += data;
    if (interrupted || !said.includes("notice")) return;
    interrupted = true;
    child.kill("SIGINT");
  });
  await once(child, "close");
  const notice = said.search(/notice +the pool takes 5\.\d+ GB of memory and pins it/);
  assert.ok(notice >= 0, said);
  assert.ok(!/^step +result/m.test(said.slice(0, notice)), said);
  assert.ok(!segmentExists(name));
});

function isObject(name: string): boolean {
  return name.endsWith(".data");
}

checkTest("a running worker is connected to", async (dir, check) => {
  const name = uniqueName("check");
  mkdirSync(dir.file("kv"));
  await using worker = await startWorker(dir.file("w.sock"), dir.file("kv"));
  const extra = {
    shm_name: name,
    "shmfs.storage_dir": dir.file("kv"),
    "shmfs.worker_addr": worker.address,
  };
  const ended = await check({ extra_config: extra }, "--json");
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  assert.match(stepsOf(ended).get("connect the worker")!.detail, /w\.sock/);
  assert.deepEqual(readdirSync(dir.file("kv")), []);
  assert.ok(!segmentExists(name));
});

/** Speaks the protocol. What it does with data is the test's. */
function workerScript(dir: TempDir, write: string, read: string): string {
  return dir.script(
    "worker.sh",
    `while read -r verb path address length; do
  case "$verb" in
    WRITE) ${write} ;;
    READ) ${read} ;;
    *) echo OK ;;
  esac
done`,
  );
}

checkTest("a worker that moves nothing is found out", async (dir, check) => {
  const worker = workerScript(
    dir,
    `head -c "$length" /dev/zero > "$path"; echo "OK $length"`,
    // Asked for 0 bytes: is it there?
    `if [ "$length" != 0 ]; then echo "OK $(($(wc -c < "$path")))"
      elif [ -e "$path" ]; then echo OK 0; else echo "ERROR ENOENT open: no such file"; fi`,
  );
  const ended = await check({
    extra_config: {
      shm_name: uniqueName("check"),
      "shmfs.storage_dir": dir.file("kv"),
      "shmfs.worker_binary": worker,
    },
  }, "--json");
  assert.equal(ended.code, 1, ended.stdout + ended.stderr);
  const step = stepsOf(ended).get("get from the store");
  assert.equal(step?.ok, false);
  assert.match(step!.detail, /8 of 8 chunks: .*came back with other bytes/);
  assert.ok(!existsSync(dir.file("kv")), "its files are removed");
});

for (const writeMode of ["through", "behind"]) {
  checkTest(`a store that refuses is told (${writeMode})`, async (dir, check) => {
    const worker = workerScript(
      dir,
      `echo "ERROR ENOSPC write: No space left on device"`,
      "echo OK 0",
    );
    const ended = await check({
      extra_config: {
        shm_name: uniqueName("check"),
        "shmfs.storage_dir": dir.file("kv"),
        "shmfs.worker_binary": worker,
        "lmshm.write_mode": writeMode,
      },
    });
    assert.equal(ended.code, 1, ended.stdout + ended.stderr);
    assert.match(ended.stdout, /^(put|flush).* FAILED/m);
    assert.match(ended.stdout, /No space left on device/);
    assert.match(ended.stdout, /^FAILED$/m);
    assert.ok(!existsSync(dir.file("kv")));
  });
}

checkTest("what cannot be made is a failed step that says why", async (dir, check) => {
  const missing = dir.file("no-such-worker");
  const name = uniqueName("check");
  const ended = await check({
    extra_config: {
      shm_name: name,
      "shmfs.storage_dir": dir.file("kv"),
      "shmfs.worker_binary": missing,
    },
  }, "--json");
  assert.equal(ended.code, 1);
  const step = stepsOf(ended).get("connect the worker");
  assert.equal(step?.ok, false);
  assert.match(step!.detail, /no-such-worker/);
  assert.ok(!segmentExists(name));
  const small = await check({ extra_config: {} }, "--json", "--pool-size", "8KiB");
  assert.equal(small.code, 1);
  assert.equal(stepsOf(small).get("allocate")?.ok, false);
  const quota = await check({
    extra_config: { "shmfs.storage_dir": dir.file("kv"), "lmshm.max_storage_size": 2 ** -11 },
  }, "--json");
  assert.equal(quota.code, 1);
  assert.match(
    [...stepsOf(quota).values()].find(({ ok }) => ok === false)!.detail,
    /EFBIG|ENOSPC|Raise maxBytes/,
  );
});

checkTest("a pool of the default size is told before it is made", async (dir) => {
  const name = uniqueName("check");
  // Its name is taken, so that it is not made here.
  await using _segment = await ShmSegment.create({ name, sizeBytes: 4096, pin: "none" });
  const file = dir.file("empty.yaml");
  writeFileSync(file, `extra_config: {shm_name: ${name}}\n`);
  const ended = await runFixture(MAIN, ["check", "--config", file], { env: ENV });
  assert.equal(ended.code, 1, ended.stdout);
  assert.match(
    ended.stdout,
    /^notice {3}the pool takes 5\.37 GB of memory and pins it: .*--pool-size/m,
  );
  const less = await runFixture(
    MAIN,
    ["check", "--config", file, "--pool-size", "1MiB", "--json"],
    {
      env: ENV,
    },
  );
  assert.deepEqual(JSON.parse(less.stdout).notices, []);
});

checkTest("a wrong configuration or command line is refused", async (_dir, check) => {
  const misspelt = await check({ chunk_sise: 5 });
  assert.equal(misspelt.code, 1);
  assert.match(misspelt.stderr, /chunk_sise is no key; did you mean chunk_size\?/);
  const option = await check({}, "--pool", "1");
  assert.equal(option.code, 2, option.stderr);
  const none = await runFixture(MAIN, ["check"], { env: ENV });
  assert.equal(none.code, 2);
  assert.match(none.stderr, /check needs --config FILE/);
  const gone = await runFixture(MAIN, ["check", "--config", "/nonexistent.yaml"], { env: ENV });
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /nonexistent\.yaml/);
  const help = await runFixture(MAIN, ["check", "--help"], { env: ENV });
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^Usage: lmshm check --config FILE/);
});
