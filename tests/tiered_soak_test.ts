// SPDX-License-Identifier: Apache-2.0
//
// A short run of the soak: that it holds, and that it really did what it is for (objects were evicted
// from pool and directory, and loaded again).

import assert from "node:assert/strict";
import { test } from "node:test";
import { soak } from "./soak/tiered_soak.ts";
import { effort } from "./support/effort.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

test(
  "many operations over a tiered store lose nothing",
  { timeout: 600_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const operations = effort(8_000, 20_000);
      const report = await soak({
        operations,
        poolBytes: 2 ** 20,
        lanes: 16,
        seed: 2,
        directory: dir.path,
      });
      const { allocations, frees, puts, gets, stats } = report;
      assert.ok(allocations + frees + puts + gets >= operations);
      // One lane does that; how many turns it has is up to the others.
      assert.ok(report.memchecks > 2, `${report.memchecks} checks of the books`);
      const some = operations / 200;
      assert.ok(stats.coldHits > some, `${stats.coldHits} loaded again`);
      assert.ok(stats.hot.evictions > 4 * some, `${stats.hot.evictions} evicted from the pool`);
      assert.ok(report.evictions > some, `${report.evictions} evicted from the directory`);
    }),
);
