// SPDX-License-Identifier: Apache-2.0
//
// A short run of programs that share a directory.

import assert from "node:assert/strict";
import { test } from "node:test";
import { sharedDirectorySoak, SHARINGS } from "./soak/shared_directory_soak.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

for (const sharing of SHARINGS) {
  test(`programs that share a directory get whole values of their keys: ${sharing.name}`, {
    timeout: 600_000,
  }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const report = await sharedDirectorySoak({
        seed: 1,
        sharing,
        milliseconds: 800,
        directory: dir.path,
      });
      if (sharing.kills) {
        assert.ok(report["programs killed"]! > 0, JSON.stringify(report));
        return;
      }
      for (const what of ["puts", "hits", "misses", "removals"]) {
        assert.ok(report[what]! > 0, `${what}: ${JSON.stringify(report)}`);
      }
    }));
}
