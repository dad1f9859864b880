// SPDX-License-Identifier: Apache-2.0
//
// How the library is loaded: synchronously, all of it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { runtime } from "../src/native/ffi.ts";
import { runFixture } from "./support/process.ts";

const LONG = { timeout: 120_000 };

test("Workers get every message that was posted while they load the library", LONG, async () => {
  // Many Workers, so that loading takes long. If the library awaited something meanwhile, one in five
  // of them would lose its messages in Bun.
  const ended = await runFixture("early_messages_main.ts", ["3", "24", "20"], {
    timeoutMs: 100_000,
  });
  const answered = Array.from({ length: 3 }, () => new Array(24).fill(20).join(" "));
  assert.equal(ended.stdout.trim(), answered.join("\n"), ended.stderr.slice(-2000));
});

test("require() loads the library", { timeout: 60_000 }, async () => {
  const ended = await runFixture("require.cjs");
  assert.equal(ended.code, 0, ended.stderr);
  assert.equal(ended.stdout.trim(), runtime.name);
});
