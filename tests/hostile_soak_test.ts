// SPDX-License-Identifier: Apache-2.0
//
// A short run of honest clients beside hostile ones. How long they wait is for the long run's table;
// that they wait for turns of huge requests, not for whole ones, is tested in C++,
// tests/native/worker_v2_turns_test.cc.

import assert from "node:assert/strict";
import { test } from "node:test";
import { HOSTILE_KINDS, hostileSoak } from "./soak/hostile_soak.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;

test("whatever hostile clients do, each honest request succeeds and newcomers get in", {
  timeout: 600_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const turns = 5;
    const phases = await hostileSoak({
      seed: 1,
      phases: [...HOSTILE_KINDS.map((kind) => [kind]), HOSTILE_KINDS],
      phaseMs: 300,
      turns,
      hugeMib: 128,
      directory: dir.path,
    });
    assert.equal(phases.length, HOSTILE_KINDS.length + 2);
    const did = Object.assign({}, ...phases.map(({ hostile }) => hostile));
    for (const what of ["bytes", "requests", "connections", "answers", "transfers"]) {
      assert.ok(did[what] > 0, `${what}: ${JSON.stringify(did)}`);
    }
    for (const { name, latencies, workerPeakBytes, workerAfterBytes } of phases) {
      for (const [request, { count }] of Object.entries(latencies)) {
        assert.ok(count >= turns, `${count} of ${request} beside ${name}`);
      }
      // Of four clients that have as much text in flight as they may, and what else there is.
      assert.ok(workerPeakBytes < 128 * MIB, `${workerPeakBytes} bytes beside ${name}`);
      assert.ok(workerAfterBytes < 64 * MIB, `${workerAfterBytes} bytes after ${name}`);
    }
  }));
