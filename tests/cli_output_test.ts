// SPDX-License-Identifier: Apache-2.0
//
// Where the command's lines go: output that is lost is a failure, a reader that has enough is none,
// and the progress bar fits its terminal.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { progressText } from "../src/cli/terminal.ts";
import { fixtureCommand } from "./support/process.ts";

const MAIN = "../../src/cli/main.ts";
const NO_GPU = { LMSHM_GPU_LIBRARY: "/nowhere/libcudart.so" };

/** Runs the command in a shell, so that its stdout can be anything. */
function shell(redirection: string, ...args: string[]): Promise<{ code: number; stderr: string }> {
  const [command, line] = fixtureCommand(MAIN, ...args);
  const child = spawn("bash", [
    "-c",
    `"$0" "$@" ${redirection}; exit "\${PIPESTATUS[0]}"`,
    command,
    ...line,
  ], {
    env: { ...process.env, ...NO_GPU },
    stdio: ["ignore", "ignore", "pipe"],
    timeout: 60_000,
  });
  let stderr = "";
  child.stderr.on("data", (data) => stderr += data);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? -1, stderr }));
  });
}

function hasFull(): boolean {
  try {
    closeSync(openSync("/dev/full", "r"));
    return true;
  } catch {
    return false;
  }
}

test("lmshm fails when its output cannot be written", {
  skip: hasFull() ? false : "there is no /dev/full",
  timeout: 60_000,
}, async () => {
  for (const args of [["--version"], ["--help"], ["check", "--help"], ["gpu"], ["gpu", "--json"]]) {
    const { code, stderr } = await shell(">/dev/full", ...args);
    assert.equal(code, 1, args.join(" "));
    assert.match(stderr, /^lmshm: standard output cannot be written: .*[Nn]o space left.*\n$/);
  }
  assert.equal((await shell(">/dev/full", "nonsense")).code, 2, "the first failure counts");
});

test("lmshm is quiet when its reader has read enough", { timeout: 60_000 }, async () => {
  assert.deepEqual(await shell("| true", "--help"), { code: 0, stderr: "" });
  assert.deepEqual(await shell("| true", "gpu"), { code: 1, stderr: "" }, "there is no GPU");
});

test("a progress bar fits its terminal, and shows no rate of no time", () => {
  const half = { label: "allocate", doneBytes: 512e6, totalBytes: 1024e6, stepBytes: 512e6 };
  const wide = progressText({ ...half, stepMs: 1000 }, 100);
  assert.equal(wide, "allocate   [############------------]  50%  512 MB of 1.02 GB  512 MB/s");
  assert.match(progressText({ ...half, stepMs: 0.01 }, 100), / GB {2}-$/);
  for (let columns = 1; columns <= 100; columns++) {
    const text = progressText({ ...half, stepMs: 1000 }, columns);
    assert.ok(text.length < columns, `${columns}: ${text}`);
    // Whole words, or nothing of them.
    if (text.length > 4) assert.match(text, /50%( {2}512 MB of 1\.02 GB( {2}512 MB\/s)?)?$/);
  }
});
