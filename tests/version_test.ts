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

test("the version is the same in TypeScript, both manifests, C and the worker", () => {
  assert.equal(JSON.parse(read("package.json")).version, version);
  assert.equal(JSON.parse(read("deno.json")).version, version);
  const header = /#define LMSHM_VERSION "([^"]+)"/.exec(read("csrc/include/lmshm.h"))?.[1];
  assert.equal(header, version);
  const said = execFileSync(locateWorker(), ["--version"], { encoding: "utf8" });
  assert.match(said, new RegExp(`^lmshm-worker ${version.replaceAll(".", "\\.")}$`, "m"));
});
