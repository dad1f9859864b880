// SPDX-License-Identifier: Apache-2.0
//
// A short run of programs that are killed at any moment.

import assert from "node:assert/strict";
import { test } from "node:test";
import { killedOwnerSoak, STEPS } from "./soak/killed_owner_soak.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

test("after a program is killed its name is free to use and its objects are whole", {
  timeout: 600_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const { kills } = await killedOwnerSoak({
      seed: 1,
      kills: 2 * STEPS.length,
      directory: dir.path,
    });
    assert.ok(STEPS.every((step) => kills[step] === 2), JSON.stringify(kills));
  }));
