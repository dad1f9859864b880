// SPDX-License-Identifier: Apache-2.0
//
// list(): keys as they are asked for, in pages of the worker's, until somebody has enough of them or
// the worker is another one.

import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import type { ListOptions } from "../src/connector/remote_connector.ts";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../src/connector/shm_file_connector.ts";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName } from "./support/leaks.ts";
import { scripted } from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  processExists,
  type Script,
  ScriptedWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

/** Pages of two keys, without end: the cursor "5" comes with the keys k8 and k9. */
const endless: Script = scripted((line) => {
  const [id, verb, limit, cursor] = line.split(" ");
  if (verb !== "LIST") return undefined;
  if (limit === "0") return `${id} OK -`;
  const page = cursor === "-" ? 0 : Number(cursor);
  return `${id} OK ${page + 1} k${2 * page} k${2 * page + 1}`;
});

const listed = (worker: ScriptedWorker) => worker.lines.filter((line) => / LIST /.test(line));

type Body = (connector: ShmFileConnector, worker: ScriptedWorker) => Promise<void>;
type Others = Partial<ShmFileConnectorOptions>;

function listTest(name: string, script: Script, body: Body, others: Others = {}): void {
  test(name, { timeout: 60_000 }, () => listScene(script, others, body));
}

async function listScene(script: Script, others: Others, body: Body): Promise<void> {
  await withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const worker = stack.use(await ScriptedWorker.listen(dir, script));
    const segment = stack.use(
      await ShmSegment.create({ name: uniqueName("list"), sizeBytes: 4096, pin: "none" }),
    );
    const place = { segment, storageDir: "/d", workerAddress: worker.path, restartPauseMs: 1 };
    await body(stack.use(await ShmFileConnector.open({ ...place, ...others })), worker);
  });
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
  assert.match(listed(worker)[2]!, /^[0-9]+ LIST 1000 2 a%20b$/);
  assert.equal(connector.stats.inFlight, 0);
  await eventually("the worker is told that it was left", () => listed(worker).length === 4);
  assert.match(listed(worker)[3]!, /^[0-9]+ LIST 0 3$/);
});

listTest(
  "a listing that the worker has ended is ESTALE, and says to begin again",
  scripted((line) => {
    const [id, verb, , cursor] = line.split(" ");
    if (verb !== "LIST") return undefined;
    return cursor === "-" ? `${id} OK c1 k0` : `${id} ERROR ESTALE LIST: no such listing`;
  }),
  async (connector) => {
    await assert.rejects(connector.listAll(), (error) => {
      assert.ok(error instanceof ShmError && error.code === "ESTALE");
      assert.match(error.message, /the worker ended the listing.*Begin the listing again/s);
      assert.doesNotMatch(error.message, /cursor|begin again with -/);
      return true;
    });
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
  assert.deepEqual(await listing.next(), { done: true, value: undefined });
  await connector.ping();
  assert.equal(listed(worker).length, 1);
});

listTest("a listing of a closed connector is EBADF", endless, async (connector) => {
  const listing = connector.list();
  assert.equal((await listing.next()).value, "k0");
  await connector.close();
  await listing.next();
  await assert.rejects(listing.next(), shmError("EBADF", /closed/));
  assert.throws(() => connector.list(), shmError("EBADF", /closed/));
});

listTest("four listings, each in the loop of the one before, are an error in time", endless, async (
  connector,
  worker,
) => {
  const outer = [connector.list(), connector.list(), connector.list()];
  for (const listing of outer) await listing.next();
  const inner = connector.list({ timeoutMs: 50 });
  await assert.rejects(
    inner.next(),
    shmError(
      "ETIMEDOUT",
      /3 listings.* are open.* 50 ms.*Do not begin one in the loop of another/s,
    ),
  );
  const reason = new Error("enough");
  const aborted = connector.listAll({ signal: AbortSignal.timeout(20) });
  await assert.rejects(aborted, { name: "TimeoutError" });
  const controller = new AbortController();
  const waiting = connector.list({ signal: controller.signal }).next();
  controller.abort(reason);
  await assert.rejects(waiting, reason);
  // In the order of their coming.
  const order: number[] = [];
  const later = [0, 1].map((index) => {
    const listing = connector.list();
    return listing.next().then(() => {
      order.push(index);
      return listing.return();
    });
  });
  assert.equal(listed(worker).length, 3);
  await outer[1]!.return();
  await Promise.all(later);
  assert.deepEqual(order, [0, 1]);
  const last = connector.list().next();
  await last;
  const refused = assert.rejects(connector.list().next(), shmError("EBADF", /closed/));
  await connector.close();
  await refused;
}, { closeTimeoutMs: 100 });

listTest("without a timeoutMs a listing waits for a place as long as others go on", endless, async (
  connector,
) => {
  const outer = [connector.list(), connector.list(), connector.list()];
  for (const listing of outer) await listing.next();
  let failed = false;
  const begun = performance.now();
  let last = begun;
  let longestMs = 0; // in which none of them went on
  const waiting = connector.list().next();
  const refused = assert.rejects(
    waiting,
    shmError("ETIMEDOUT", /none of them ended within 500 ms/),
  )
    .then(() => failed = true);
  while (performance.now() - begun < 1_250) {
    for (let key = 0; key < 2; key++) await outer[0]!.next();
    await new Promise((resolve) => setTimeout(resolve, 10));
    const now = performance.now();
    longestMs = Math.max(longestMs, now - last);
    last = now;
  }
  assert.ok(!failed || longestMs >= 500, `refused, though all went on within ${longestMs} ms`);
  await refused;
}, { controlTimeoutMs: 500 });

test(
  "a page that nobody waits for any more leaves no listing behind",
  { timeout: 60_000 },
  async () => {
    const held: string[] = [];
    let hold = true;
    const script = scripted((line) => {
      const [id, verb, limit, cursor] = line.split(" ");
      if (verb === "CANCEL") return `${id} OK`;
      if (verb !== "LIST") return undefined;
      if (limit === "0") return `${id} OK -`;
      if (!hold) return `${id} OK - last`;
      held.push(id!);
      return cursor === "-" ? "" : undefined;
    });
    await listScene(script, {}, async (connector, worker) => {
      for (let times = 1; times <= 3; times++) {
        const controller = new AbortController();
        const reason = new Error("enough");
        const refused = assert.rejects(connector.listAll({ signal: controller.signal }), reason);
        await eventually("the worker is asked", () => held.length === times);
        controller.abort(reason);
        await refused;
      }
      await assert.rejects(connector.listAll({ timeoutMs: 20 }), shmError("ETIMEDOUT", /are open/));
      hold = false;
      for (const id of held) worker.sendAll(`${id} OK c${id} k\n`);
      assert.deepEqual(await connector.listAll(), ["last"]);
      await eventually("all are ended", () => {
        const ended = listed(worker).filter((line) => / LIST 0 c/.test(line));
        return ended.length === held.length;
      });
    });
  },
);

listTest("list() says what it takes", endless, async (connector) => {
  const list = (options: unknown) => () => connector.list(options as ListOptions);
  assert.throws(list({ prefx: "a" }), {
    name: "TypeError",
    message: 'list has no option "prefx"; did you mean "prefix"?',
  });
  assert.throws(list({ colour: 1 }), { name: "TypeError", message: /it has .*prefix/ });
  for (const wrong of [null, "a", 7]) {
    assert.throws(list(wrong), {
      name: "TypeError",
      message: /^list takes an options object, got /,
    });
  }
  await assert.rejects(connector.listAll(null as unknown as ListOptions), {
    name: "TypeError",
    message: "list takes an options object, got null",
  });
});

/** A connector of a directory with so many keys, and a worker of its own. */
async function realScene(
  count: number,
  body: (connector: ShmFileConnector) => Promise<void>,
): Promise<void> {
  await withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const segment = stack.use(await ShmSegment.create({ sizeBytes: 4096, pin: "none" }));
    const connector = stack.use(
      await ShmFileConnector.open({ segment, storageDir: dir.path, restartPauseMs: 1 }),
    );
    for (let index = 0; index < count; index++) writeFileSync(dir.file(`key-${index}.data`), "");
    await body(connector);
  });
}

test(
  "listings that are left early end no other one",
  { timeout: 120_000 },
  () =>
    realScene(3_500, async (connector) => {
      const keys = new Set<string>();
      for await (const key of connector.list()) {
        keys.add(key);
        if (keys.size % 200 !== 0) continue;
        for await (const _ of connector.list()) break;
        for await (const _ of connector.list({ prefix: "key-1" })) break;
      }
      assert.equal(keys.size, 3_500);
    }),
);

test(
  "eight listAll() at once have all keys",
  { timeout: 120_000 },
  () =>
    realScene(6_000, async (connector) => {
      const all = await Promise.all(Array.from({ length: 8 }, () => connector.listAll()));
      for (const keys of all) assert.equal(new Set(keys).size, 6_000);
      // A listing of one page needs no place while it is read.
      const nested = Array.from({ length: 6 }, () => connector.list({ prefix: "key-59" }));
      for (const listing of nested) assert.equal((await listing.next()).done, false);
      for (const listing of nested) await listing.return();
    }),
);

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
