// SPDX-License-Identifier: Apache-2.0
//
// What people run on a machine with a GPU, run here against a fake one: scripts/gpu_check.sh in its
// quick mode, and the example. So neither can rot until somebody has a GPU to run it on.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { locateWorker } from "../src/native/locate.ts";
import { LONG } from "./support/effort.ts";
import { fakeLibrary, KINDS, noFakes } from "./support/fake_gpu.ts";
import { type Ended, runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const SCRIPT = fileURLToPath(new URL("../scripts/gpu_check.sh", import.meta.url));
const EXAMPLE = "../../examples/gpu_chunks.ts";

function missing(program: string): string {
  try {
    execFileSync(program, ["--version"], { stdio: "ignore" });
    return "";
  } catch {
    return `${program} is missing`;
  }
}

function script(args: string[], env: Record<string, string>, timeoutMs = 150_000): Promise<Ended> {
  const child = spawn(SCRIPT, args, {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: timeoutMs,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data) => stdout += data);
  child.stderr.on("data", (data) => stderr += data);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

// The same programs, whoever starts them.
const other = !LONG && "Deno" in globalThis ? "Bun's suite runs it; LMSHM_LONG_TESTS=true" : "";
const skip = noFakes || missing("cmake") || missing("bash") || other || false;

test("scripts/gpu_check.sh passes against a fake GPU", { skip, timeout: 180_000 }, async () => {
  using dir = new TempDir();
  const ended = await script(["--quick", "--build", dir.file("build"), "--out", dir.file("out")], {
    LMSHM_GPU_LIBRARY: fakeLibrary("driver"),
    LMSHM_WORKER: locateWorker(),
    LMSHM_LIBRARY: "",
    LMSHM_GPU_CHECK_MIB: "16 32 99999999",
    OUT: "",
  });
  const shown = ended.stdout + ended.stderr;
  assert.equal(ended.code, 0, shown);
  const last = ended.stdout.trimEnd().split("\n").at(-1)!;
  assert.match(last, /^\d+ passed, 0 failed, \d+ skipped$/, shown);
  for (
    const [line, words] of [
      ["build", "ok"],
      ["pinned, asked from C", "ok +11 answers"],
      ["pinned, asked from Bun", "ok +pinned, by .*libfake_gpu_driver"],
      ["two processes at once", "ok +alone .* GB/s"],
      ["pinned, asked from Python", "(ok|skipped)"],
      ["test suite", "skipped"],
      ["register 16 MiB", "ok +16 \\d"],
      ["register 32 MiB", "ok +32 \\d"],
      ["register 99999999 MiB", "skipped"],
      ["copies", "ok"],
      ["to-device", "1\\.00 MB .* GB/s"],
      ["GPU to pool to disk and back", "ok +storing \\d\\.\\d\\d, loading \\d\\.\\d\\d"],
    ]
  ) {
    assert.match(ended.stdout, new RegExp(`^${line} +${words}`, "m"), shown);
  }
  assert.equal(readFileSync(dir.file("out/table.txt"), "utf8").trimEnd().split("\n").at(-1), last);
});

test("scripts/gpu_check.sh skips everything where there is no GPU", {
  skip,
  timeout: 180_000,
}, async () => {
  using dir = new TempDir();
  const parts = "c,bun,pair,register,copies,pipeline";
  const args = ["--quick", "--parts", parts, "--build", dir.file("build")];
  const ended = await script(args, {
    LMSHM_GPU_LIBRARY: "/nowhere/libcudart.so",
    LMSHM_WORKER: locateWorker(),
    LMSHM_LIBRARY: "",
    LMSHM_GPU_CHECK_MIB: "16",
    OUT: "",
  });
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /\n1 passed, 0 failed, 6 skipped\n$/);
  assert.ok(existsSync(dir.file("build/out-check/table.txt")), "where --help says");
});

test("scripts/gpu_check.sh fails when the GPU does", { skip, timeout: 180_000 }, async () => {
  using dir = new TempDir();
  const args = ["--quick", "--parts", "c,bun", "--build", dir.file("build")];
  const ended = await script(args, {
    LMSHM_GPU_LIBRARY: fakeLibrary("cudart"),
    FAKE_GPU_FAIL: "attr:0:1",
    LMSHM_WORKER: locateWorker(),
    LMSHM_LIBRARY: "",
    OUT: "",
  });
  assert.equal(ended.code, 1, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /\n1 passed, 2 failed, 0 skipped\n$/);
});

test("scripts/gpu_check.sh names a wrong option", { skip, timeout: 30_000 }, async () => {
  for (const args of [["--fast"], ["--parts", "c,d"], ["--bun"]]) {
    const ended = await script(args, {});
    assert.equal(ended.code, 2, args.join(" "));
    assert.match(ended.stderr, /gpu_check\.sh: /);
  }
  const help = await script(["--help"], {});
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^Usage: scripts\/gpu_check\.sh/);
  assert.match(help.stdout, /--out DIR .*default \$OUT, else out-check in the build folder/);
});

for (const kind of KINDS) {
  test(`the example moves a cache to the store and back (${kind})`, {
    skip: noFakes || false,
    timeout: 60_000,
  }, async () => {
    using dir = new TempDir();
    const ended = await runFixture(EXAMPLE, [dir.file("store")], {
      env: { LMSHM_GPU_LIBRARY: fakeLibrary(kind), LMSHM_GPU_DEVICE: "", FAKE_GPU_DELAY_US: "500" },
    });
    assert.equal(ended.code, 0, ended.stdout + ended.stderr);
    assert.match(ended.stdout, /OK: every layer is back in its pages/);
  });
}

test("the example says so and goes on without a GPU", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const ended = await runFixture(EXAMPLE, [dir.file("store")], {
    env: { LMSHM_GPU_LIBRARY: "/nowhere/libcudart.so" },
  });
  assert.equal(ended.code, 0, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /^no GPU: \/nowhere/);
  assert.match(ended.stdout, /OK: the chunks went through the pool and the store/);
});
