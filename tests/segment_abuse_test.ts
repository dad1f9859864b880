// SPDX-License-Identifier: Apache-2.0
//
// No sequence of calls through the public API may crash the process: fixtures/abuse.ts tries, in a
// process of its own.

import assert from "node:assert/strict";
import { test } from "node:test";
import { runFixture } from "./support/process.ts";

test("a process that abuses segments survives", { timeout: 120_000 }, async () => {
  const ended = await runFixture("abuse.ts", [], { timeoutMs: 100_000 });
  assert.deepEqual(
    { code: ended.code, signal: ended.signal, last: ended.stdout.trim().split("\n").at(-1) },
    { code: 0, signal: null, last: "survived" },
    ended.stderr.slice(-2000),
  );
});
