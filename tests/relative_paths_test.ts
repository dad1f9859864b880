// SPDX-License-Identifier: Apache-2.0
//
// Relative paths mean what they mean when they are given: a program that changes its directory later
// gets the same worker again. Errors name full paths.

import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { GpuDevice } from "../src/gpu/device.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName } from "./support/leaks.ts";
import { eventually, processExists, TempDir, withoutWorkers } from "./support/worker.ts";

const TIMEOUT = { timeout: 60_000 };

/** Runs `body` in a directory of its own, with another one below it, and comes back. */
async function inDirectory(body: (path: string) => Promise<void>): Promise<void> {
  await withoutWorkers(async () => {
    using dir = new TempDir();
    const before = process.cwd();
    mkdirSync(dir.file("elsewhere"));
    process.chdir(dir.path);
    try {
      await body(realpathSync(dir.path));
    } finally {
      process.chdir(before);
    }
  });
}

async function killWorker(store: ShmFileConnector): Promise<void> {
  const pid = store.workerPid!;
  process.kill(pid, "SIGKILL");
  await eventually("the worker has gone", () => !processExists(pid) && store.workerPid !== pid);
}

test(
  "a worker of a relative path is found again after chdir()",
  TIMEOUT,
  () =>
    inDirectory(async () => {
      copyFileSync(locateWorker(), "worker");
      await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
      await using store = await ShmFileConnector.open({
        segment,
        storageDir: "kv",
        workerBinary: "./worker",
      });
      await store.put("k", segment.range());
      process.chdir("elsewhere");
      await killWorker(store);
      assert.ok(await store.get("k", segment.range()));
      assert.equal(store.stats.restarts, 1);
    }),
);

test(
  "LMSHM_WORKER may be relative, and is no name to search for",
  TIMEOUT,
  () =>
    inDirectory(async (path) => {
      copyFileSync(locateWorker(), "worker");
      const before = process.env["LMSHM_WORKER"];
      process.env["LMSHM_WORKER"] = "worker";
      try {
        assert.equal(locateWorker(), `${path}/worker`);
        await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
        await using store = await ShmFileConnector.open({ segment, storageDir: "kv" });
        await store.put("k", segment.range());
        process.chdir("elsewhere");
        await killWorker(store);
        assert.ok(await store.get("k", segment.range()));
      } finally {
        if (before === undefined) delete process.env["LMSHM_WORKER"];
        else process.env["LMSHM_WORKER"] = before;
      }
    }),
);

test(
  "paths in workerArgs mean the directory in which the connector was opened",
  TIMEOUT,
  () =>
    inDirectory(async (path) => {
      using scripts = new TempDir();
      const workerBinary = scripts.script(
        "worker.sh",
        `pwd >> ${scripts.file("where")}\nexec ${locateWorker()} "$@"`,
      );
      await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
      const options = { segment, storageDir: scripts.file("kv"), workerBinary };
      await using store = await ShmFileConnector.open({
        ...options,
        workerArgs: ["--log-level", "info"],
      });
      process.chdir("elsewhere");
      await killWorker(store);
      await store.put("k", segment.range());
      const where = readFileSync(scripts.file("where"), "utf8").trim().split("\n");
      assert.deepEqual(where, [path, path]);
      // That directory may be gone by then.
      await using late = await ShmFileConnector.open({
        ...options,
        workerArgs: ["--log-level", "info"],
      });
      process.chdir("..");
      rmSync("elsewhere", { recursive: true });
      await killWorker(late);
      await assert.rejects(
        late.put("k", segment.range()),
        shmError("ENOENT", /elsewhere, which is not there any more.*workerArgs full paths/),
      );
    }),
);

test("errors name the full path", TIMEOUT, () =>
  inDirectory(async (path) => {
    await using segment = await ShmSegment.create({
      sizeBytes: 4096,
      pin: "none",
      name: uniqueName("paths"),
    });
    const named = (name: string) => new RegExp(`${path}/${name}`);
    await assert.rejects(
      ShmFileConnector.open({ segment, storageDir: "kv", workerBinary: "./none" }),
      shmError("ENOENT", named("none")),
    );
    await assert.rejects(
      ShmFileConnector.open({
        segment,
        storageDir: "kv",
        workerAddress: "localhost:1",
        secretFile: "secret",
      }),
      shmError("ENOENT", named("secret")),
    );
    assert.throws(() => GpuDevice.open({ gpuLibrary: "./none.so" }), named("none.so"));
    await assert.rejects(
      ShmSegment.create({ sizeBytes: 4096, pin: "require", gpuLibrary: "./none.so" }),
      named("none.so"),
    );
  }));
