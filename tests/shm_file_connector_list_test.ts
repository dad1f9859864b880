// SPDX-License-Identifier: Apache-2.0
//
// list(): keys as they are asked for, in pages of the worker's, until somebody has enough of them or
// the worker is another one.

import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName } from "./support/leaks.ts";
import { scripted } from "./support/object_worker.ts";
import {
  eventually,
  processExists,
  type Script,
  ScriptedWorker,
  shmError,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

/** Pages of two keys, without end: the cursor "5" comes with the keys k8 and k9. */
const endless: Script = scripted((line) => {
  const [id, verb, , cursor] = line.split(" ");
  if (verb !== "LIST") return undefined;
  const page = cursor === "-" ? 0 : Number(cursor);
  return `${id} OK ${page + 1} k${2 * page} k${2 * page + 1}`;
});

const listed = (worker: ScriptedWorker) => worker.lines.filter((line) => / LIST /.test(line));

function listTest(
  name: string,
  script: Script,
  body: (connector: ShmFileConnector, worker: ScriptedWorker) => Promise<void>,
): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const worker = stack.use(await ScriptedWorker.listen(dir, script));
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("list"), sizeBytes: 4096, pin: "none" }),
      );
      const options = { segment, storageDir: "/d", workerAddress: worker.path, restartPauseMs: 1 };
      await body(stack.use(await ShmFileConnector.open(options)), worker);
    }));
}

listTest("a page is asked for when its first key is, and none after the last", endless, async (
  connector,
  worker,
) => {
  const keys: string[] = [];
  const listing = connector.list({ prefix: "a b" });
  assert.equal(listed(worker).length, 0, "nothing is asked before the first key is");
  for await (const key of listing) {
    keys.push(key);
    assert.equal(listed(worker).length, Math.ceil(keys.length / 2));
    if (keys.length === 5) break;
  }
  assert.deepEqual(keys, ["k0", "k1", "k2", "k3", "k4"]);
  assert.equal(listed(worker).length, 3);
  assert.match(listed(worker)[2]!, /^[0-9]+ LIST 1000 2 a%20b$/);
  assert.equal(connector.stats.inFlight, 0);
});

listTest(
  "a listing that the worker has ended is ESTALE, and says to begin again",
  scripted((line) => {
    const [id, verb, , cursor] = line.split(" ");
    if (verb !== "LIST") return undefined;
    return cursor === "-" ? `${id} OK c1 k0` : `${id} ERROR ESTALE LIST: no such listing`;
  }),
  async (connector) => {
    await assert.rejects(connector.listAll(), shmError("ESTALE", /Begin the listing again/));
    assert.equal(connector.stats.restarts, 0);
  },
);

listTest("a cursor is not told to another connection", endless, async (connector, worker) => {
  const listing = connector.list()[Symbol.asyncIterator]();
  assert.equal((await listing.next()).value, "k0");
  assert.equal((await listing.next()).value, "k1");
  worker.dropClients();
  await connector.ping();
  await assert.rejects(listing.next(), shmError("ESTALE", /worker was replaced.*[Bb]egin/));
  assert.equal(listed(worker).length, 1);
  assert.deepEqual(await listing.next(), { done: true, value: undefined });
});

listTest("a listing of a closed connector is EBADF", endless, async (connector) => {
  const listing = connector.list();
  assert.equal((await listing.next()).value, "k0");
  await connector.close();
  await listing.next();
  await assert.rejects(listing.next(), shmError("EBADF", /closed/));
  assert.throws(() => connector.list(), shmError("EBADF", /closed/));
});

test("3,000 keys are listed exactly once, and a killed worker ends a listing", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const segment = stack.use(await ShmSegment.create({ sizeBytes: 4096, pin: "none" }));
    const connector = stack.use(
      await ShmFileConnector.open({ segment, storageDir: dir.path, restartPauseMs: 1 }),
    );
    for (let index = 0; index < 3_000; index++) writeFileSync(dir.file(`key-${index}.data`), "");
    const keys: string[] = [];
    for await (const key of connector.list()) keys.push(key);
    assert.equal(keys.length, 3_000);
    assert.equal(new Set(keys).size, 3_000);
    assert.deepEqual(
      (await connector.listAll({ prefix: "key-12" })).sort(),
      keys.filter((key) => key.startsWith("key-12")).sort(),
    );
    const listing = connector.list();
    await listing.next();
    const pid = connector.workerPid!;
    process.kill(pid, "SIGKILL");
    await eventually("it is gone", () => !processExists(pid));
    await connector.ping();
    await assert.rejects(async () => {
      for await (const _ of listing);
    }, shmError("ESTALE"));
    assert.equal((await connector.listAll()).length, 3_000, "and can be begun again");
    assert.equal(readdirSync(dir.path).length, 3_000);
  }));
