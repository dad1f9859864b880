// SPDX-License-Identifier: Apache-2.0
//
// One version everywhere.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { version } from "../src/mod.ts";
import { locateWorker } from "../src/native/locate.ts";

function read(path: string): string {
  return readFileSync(new URL(`../${path}`, import.meta.url), "utf8");
}

test("every file that repeats the version of package.json has the same", async () => {
  // What `npm version X` writes, and what a release refuses to go without.
  const { href } = new URL("../scripts/common/version.mjs", import.meta.url);
  const scripts = await import(href) as { versionProblems(): string[] };
  assert.deepEqual(scripts.versionProblems(), []);
});

test("library and worker say the version of package.json", () => {
  assert.equal(JSON.parse(read("package.json")).version, version);
  const said = execFileSync(locateWorker(), ["--version"], { encoding: "utf8" });
  assert.match(said, new RegExp(`^lmshm-worker ${version.replaceAll(".", "\\.")}$`, "m"));
});
