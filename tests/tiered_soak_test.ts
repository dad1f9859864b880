// SPDX-License-Identifier: Apache-2.0
//
// A short run of the soak: that it holds, and that it really did what it is for (objects were evicted
// from pool and directory, and loaded again).

import assert from "node:assert/strict";
import { test } from "node:test";
import { soak } from "./soak/tiered_soak.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

test(
  "20,000 operations over a tiered store lose nothing",
  { timeout: 300_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const report = await soak({
        operations: 20_000,
        poolBytes: 2 ** 20,
        lanes: 16,
        seed: 2,
        directory: dir.path,
      });
      const { allocations, frees, puts, gets, stats } = report;
      assert.ok(allocations + frees + puts + gets >= 20_000);
      assert.ok(report.memchecks > 20, `${report.memchecks} checks of the books`);
      assert.ok(stats.coldHits > 100, `${stats.coldHits} loaded again`);
      assert.ok(stats.hot.evictions > 500, `${stats.hot.evictions} evicted from the pool`);
      assert.ok(report.evictions > 100, `${report.evictions} evicted from the directory`);
    }),
);
