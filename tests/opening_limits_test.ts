// SPDX-License-Identifier: Apache-2.0
//
// Opening a connector or a store ends by its signal and its timeoutMs, whatever it waits for at that
// moment: a worker that is started and says nothing, one that answers half of what is said first, one
// of version 1. Nothing is left behind then: no process, no connection, no segment.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { createConfig } from "../src/config/mod.ts";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName } from "./support/leaks.ts";
import { helloAnswer } from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  processExists,
  type Script,
  ScriptedWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const SIZE = 1 << 20;
const REASON = new Error("enough");
/** So that nothing else ends the waiting. */
const PATIENT = { controlTimeoutMs: 600_000 };

interface Scene {
  readonly dir: TempDir;
  readonly segment: ShmSegment;
}

function scene(name: string, body: (scene: Scene) => Promise<void>): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const name = uniqueName("opening");
      await using segment = await ShmSegment.create({ name, sizeBytes: SIZE, pin: "none" });
      await body({ dir, segment });
    }));
}

/** A program that takes what it is told and answers nothing; and its process, once it runs. */
function muteWorker(dir: TempDir): { workerBinary: string; pid: () => number | null } {
  const file = dir.file("pid");
  return {
    workerBinary: dir.script(
      "mute.sh",
      // Its answers' pipe stays open.
      `echo $$ > ${file}.new; mv ${file}.new ${file}; exec 4>&1; exec cat > /dev/null`,
    ),
    pid: () => existsSync(file) ? Number(readFileSync(file, "utf8")) : null,
  };
}

/** Aborts an opening as soon as `begun` holds, and expects the reason. */
async function abortsWhen(
  begun: () => boolean,
  open: (signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  const controller = new AbortController();
  const opening = assert.rejects(open(controller.signal), (error) => error === REASON);
  await eventually("it has begun", begun);
  controller.abort(REASON);
  await opening;
}

scene("open() with a worker that says nothing ends by its signal", async ({ dir, segment }) => {
  const { workerBinary, pid } = muteWorker(dir);
  const options = { ...PATIENT, segment, storageDir: dir.file("kv"), workerBinary };
  await abortsWhen(() => pid() !== null, (signal) => ShmFileConnector.open({ ...options, signal }));
  await eventually("the worker has gone", () => !processExists(pid()!));
});

scene("open() with a worker that says nothing ends by timeoutMs", async ({ dir, segment }) => {
  const { workerBinary } = muteWorker(dir);
  await assert.rejects(
    ShmFileConnector.open({
      ...{ ...PATIENT, segment, storageDir: dir.file("kv"), workerBinary },
      timeoutMs: 50,
    }),
    shmError("ETIMEDOUT", /^open connector: not done within 50 ms/),
  );
});

/** Workers at a socket, by what they do not answer any more. */
const SOCKETS: Readonly<Record<string, { script: Script; last: RegExp }>> = {
  "HELLO": { script: () => "", last: /^HELLO/ },
  "ATTACH": {
    script: (line) => line.startsWith("HELLO") ? helloAnswer() : "",
    last: /^1 ATTACH/,
  },
  "ATTACH of version 1": {
    script: (line) => line.startsWith("HELLO") ? "ERROR unknown command: HELLO" : "",
    last: /^ATTACH/,
  },
};

for (const [what, { script, last }] of Object.entries(SOCKETS)) {
  scene(`open() ends by its signal and its limit while ${what} is unanswered`, async (s) => {
    const { dir, segment } = s;
    await using worker = await ScriptedWorker.listen(dir, script);
    const options: ShmFileConnectorOptions = {
      ...PATIENT,
      segment,
      storageDir: dir.path,
      workerAddress: worker.path,
      onWorkerLost: () => assert.fail("nothing was lost that ever was there"),
    };
    const waits = () => last.test(worker.lines.at(-1) ?? "");
    await abortsWhen(waits, (signal) => ShmFileConnector.open({ ...options, signal }));
    await eventually("the connection is closed", () => worker.open === 0);
    await assert.rejects(
      ShmFileConnector.open({ ...options, timeoutMs: 50 }),
      shmError("ETIMEDOUT", /open connector: not done within 50 ms/),
    );
    assert.ok(waits());
    await eventually("the connection is closed", () => worker.open === 0);
  });
}

scene("a signal that is up already starts nothing", async ({ dir, segment }) => {
  const { workerBinary, pid } = muteWorker(dir);
  const signal = AbortSignal.abort(REASON);
  const storageDir = dir.file("kv");
  const isReason = (error: unknown) => error === REASON;
  await assert.rejects(
    ShmFileConnector.open({ segment, storageDir, workerBinary, signal }),
    isReason,
  );
  const hot = { sizeBytes: SIZE, pin: "none" } as const;
  await assert.rejects(
    TieredStore.create({ hot, cold: { storageDir, workerBinary }, signal }),
    isReason,
  );
  assert.ok(!existsSync(storageDir));
  assert.equal(pid(), null);
});

test("an open connector minds neither the signal nor the limit that it was opened with", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using segment = await ShmSegment.create({ sizeBytes: SIZE, pin: "none" });
    const controller = new AbortController();
    await using connector = await ShmFileConnector.open({
      ...{ segment, storageDir: dir.path },
      ...{ signal: controller.signal, timeoutMs: 60_000 },
    });
    controller.abort(REASON);
    await connector.put("k", segment.range(0, 10));
    assert.equal(connector.stats.restarts, 0);
  }));

for (const form of ["create", "fromConfig"] as const) {
  test(`TieredStore.${form}() ends by its signal and its limit while the worker says nothing`, {
    timeout: 60_000,
  }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const name = uniqueName("opening");
      const { workerBinary, pid } = muteWorker(dir);
      const storageDir = dir.file("kv");
      const open = (limits: { signal?: AbortSignal; timeoutMs?: number }) =>
        form === "create"
          ? TieredStore.create({
            hot: { name, sizeBytes: SIZE, pin: "none" },
            cold: { ...PATIENT, storageDir, workerBinary },
            ...limits,
          })
          : TieredStore.fromConfig(
            createConfig({
              ...{ shmName: name, poolSizeBytes: SIZE, pin: "none" },
              ...{ storageDir, workerBinary },
            }),
            limits,
          );
      await abortsWhen(() => pid() !== null, (signal) => open({ signal }));
      await eventually("the worker has gone", () => !processExists(pid()!));
      assert.ok(!existsSync(`/dev/shm/${name}`), "the pool has gone, too");
      await assert.rejects(
        open({ timeoutMs: 300 }),
        shmError("ETIMEDOUT", /^create store: not done within 300 ms/),
      );
      assert.ok(!existsSync(`/dev/shm/${name}`));
    }));
}
