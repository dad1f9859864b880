// SPDX-License-Identifier: Apache-2.0
//
// A short run of honest clients beside hostile ones. Times are compared with times of the same run
// only; that they are right at all is for the long run's table.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  HOSTILE_KINDS,
  type HostilePhase,
  hostileSoak,
  type HostileSoakOptions,
  hugeTransferMs,
} from "./soak/hostile_soak.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;

function scene(
  name: string,
  options: Pick<HostileSoakOptions, "phases" | "turns">,
  check: (phases: readonly HostilePhase[]) => void,
): void {
  test(name, { timeout: 300_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const phases = await hostileSoak({
        seed: 1,
        phaseMs: 300,
        hugeMib: 128,
        directory: dir.path,
        ...options,
      });
      assert.equal(phases.length, options.phases.length + 1);
      for (const { name, latencies } of phases) {
        for (const [request, { count }] of Object.entries(latencies)) {
          assert.ok(count >= options.turns, `${count} of ${request} beside ${name}`);
        }
      }
      check(phases);
    }));
}

scene(
  "whatever hostile clients do, each honest request succeeds and newcomers get in",
  {
    phases: [
      ...HOSTILE_KINDS.filter((kind) => kind !== "huge").map((kind) => [kind]),
      HOSTILE_KINDS,
    ],
    turns: 5,
  },
  (phases) => {
    const did = Object.assign({}, ...phases.map(({ hostile }) => hostile));
    for (const what of ["bytes", "requests", "connections", "answers"]) {
      assert.ok(did[what] > 0, `${what}: ${JSON.stringify(did)}`);
    }
    for (const { name, workerPeakBytes, workerAfterBytes } of phases) {
      // Of four clients that have as much text in flight as they may, and what else there is.
      assert.ok(workerPeakBytes < 128 * MIB, `${workerPeakBytes} bytes beside ${name}`);
      assert.ok(workerAfterBytes < 64 * MIB, `${workerAfterBytes} bytes after ${name}`);
    }
  },
);

scene(
  "most honest requests wait for a small part of a huge transfer only",
  { phases: [["huge"]], turns: 10 },
  ([, phase]) => {
    const whole = hugeTransferMs(phase!);
    for (const request of ["put 1 MiB", "get 1 MiB"] as const) {
      const { p50Ms } = phase!.latencies[request];
      assert.ok(p50Ms < whole / 4, `${request} ${p50Ms} ms, a huge transfer ${whole} ms`);
    }
  },
);
