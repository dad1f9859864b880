// SPDX-License-Identifier: Apache-2.0
//
// A worker with --max-bytes, as a program meets it: the limit over directories, the order in which
// objects go, a restart with less, and what INFO says of it. (What others write at the same time is
// tested in C++, tests/native/worker_v2_quota_test.cc.)

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, statSync } from "node:fs";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName } from "./support/leaks.ts";
import { RawClient } from "./support/raw_client.ts";
import { RawWorker } from "./support/raw_worker.ts";
import { eventually, TempDir, withoutWorkers } from "./support/worker.ts";

const BLOCK = 4096;
const OPTIONS = { timeout: 60_000 };

/** What the objects directly in a directory take of the disk. */
function diskBytes(path: string): number {
  return readdirSync(path).filter((name) => name.endsWith(".data"))
    // The worker may remove one meanwhile.
    .map((name) => statSync(`${path}/${name}`, { throwIfNoEntry: false })?.blocks ?? 0)
    .reduce((sum, blocks) => sum + blocks * 512, 0);
}

async function infoOf(client: RawClient): Promise<Record<string, string>> {
  const words = (await client.demand("INFO")).split(" ");
  return Object.fromEntries(words.map((word) => word.split("=", 2)));
}

async function counted(client: RawClient): Promise<void> {
  const end = performance.now() + 20_000;
  while ((await infoOf(client))["counted"] !== "1") {
    assert.ok(performance.now() < end, "the directory is counted in time");
  }
}

/** A directory, and clients of a worker over it that have attached a segment. */
async function withStore(
  body: (
    start: (maxBytes: number) => Promise<[RawClient, RawWorker]>,
    root: string,
  ) => Promise<void>,
): Promise<void> {
  await withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const root = dir.file("root");
    mkdirSync(root, { mode: 0o700 });
    const segment = stack.use(
      await ShmSegment.create({ name: uniqueName("quota"), sizeBytes: 2 ** 20, pin: "none" }),
    );
    let sockets = 0;
    await body(async (maxBytes) => {
      const worker = new RawWorker(root, dir.file(`w${sockets++}`), ["--max-bytes", `${maxBytes}`]);
      stack.use(worker);
      await worker.start();
      const client = await RawClient.connect(worker, "unix");
      stack.defer(() => client.socket.destroy());
      await client.demand(`ATTACH ${segment.name} ${segment.sizeBytes} -`);
      await counted(client);
      return [client, worker];
    }, root);
  });
}

test(
  "a worker with --max-bytes keeps to it, and what was used longest ago goes",
  OPTIONS,
  () =>
    withStore(async (start, root) => {
      const [client] = await start(8 * BLOCK);
      for (const key of ["a", "b", "c", "d"]) await client.demand(`PUT ${key} 0 ${2 * BLOCK}`);
      await client.demand(`GET a ${32 * BLOCK} ${2 * BLOCK}`);
      await client.demand(`PUT e 0 ${2 * BLOCK}`);
      assert.equal(await client.demand("EXISTS a b c d e"), "10111");
      const info = await infoOf(client);
      assert.equal(info["max_bytes"], `${8 * BLOCK}`);
      assert.equal(info["used_bytes"], `${8 * BLOCK}`);
      assert.equal(info["objects"], "4");
      assert.equal(info["evictions"], "1");
      assert.equal(info["evicted_bytes"], `${2 * BLOCK}`);
      assert.equal(diskBytes(root), 8 * BLOCK);
      assert.match(
        await client.ask(`PUT big 0 ${9 * BLOCK}`),
        /^ERROR ENOSPC put big: 36864 bytes do not fit: --max-bytes is 32768; give the worker a larger one$/,
      );
      assert.equal(
        await client.demand("EXISTS a c d e"),
        "1111",
        "nothing went for what cannot fit",
      );
    }),
);

test(
  "a worker that is started with a lower limit shrinks what is there",
  OPTIONS,
  () =>
    withStore(async (start, root) => {
      const [first, worker] = await start(100 * BLOCK);
      for (let index = 0; index < 40; index++) await first.demand(`PUT k${index} 0 ${BLOCK}`);
      assert.equal(diskBytes(root), 40 * BLOCK);
      await first.close();
      await worker[Symbol.asyncDispose]();
      const [second] = await start(20 * BLOCK);
      await eventually("it is below the limit", () => diskBytes(root) <= 20 * BLOCK);
      assert.equal(await second.demand("EXISTS k39"), "1");
      assert.ok(diskBytes(root) >= 17 * BLOCK, `${diskBytes(root)}`);
    }),
);

test(
  "INFO counts hits, misses, errors and bytes, and its histograms are cumulative",
  OPTIONS,
  () =>
    withStore(async (start) => {
      const [client] = await start(100 * BLOCK);
      await client.demand(`PUT a 0 ${BLOCK}`);
      await client.demand(`GET a 0 ${BLOCK}`);
      await client.demand(`GET a 0 ${BLOCK} ; nothing 0 ${BLOCK}`);
      assert.match(await client.ask(`GET a 0 1`), /^ERROR EMSGSIZE /);
      const info = await infoOf(client);
      assert.equal(info["hits"], "2");
      assert.equal(info["misses"], "1");
      assert.equal(info["put_bytes"], `${BLOCK}`);
      assert.equal(info["get_bytes"], `${2 * BLOCK}`);
      assert.equal(info["put_requests"], "1");
      assert.equal(info["get_requests"], "3");
      assert.equal(info["get_errors"], "1");
      assert.equal(info["put_errors"], "0");
      const buckets = info["get_latency_us"]!.split(",").map((word) => word.split(":"));
      assert.equal(buckets.at(-1)![0], "inf");
      assert.equal(buckets.at(-1)![1], "3");
      const counts = buckets.map(([, count]) => Number(count));
      assert.deepEqual(counts, [...counts].sort((a, b) => a - b), "cumulative");
      const bounds = buckets.slice(0, -1).map(([bound]) => Number(bound));
      assert.deepEqual(bounds.slice(0, 4), [10, 20, 50, 100]);
      assert.ok(Number(info["get_latency_us_sum"]) >= 0);
    }),
);
