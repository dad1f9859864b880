// SPDX-License-Identifier: Apache-2.0
//
// The scripts as a user sees them: help, and words instead of a stack where the tree is read-only.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const FIXTURES = fileURLToPath(new URL("fixtures/", import.meta.url));

test("each script of npm prints its help", { timeout: 60_000 }, async () => {
  for (const name of ["build", "compile", "pack", "release"]) {
    const ended = await runFixture(`../../scripts/${name}.mjs`, ["--help"]);
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stdout, new RegExp(`^Usage: npm run ${name} -- `));
  }
});

test("a folder that cannot be written is told without a stack", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const system = fileURLToPath(new URL("../scripts/common/system.mjs", import.meta.url));
  writeFileSync(dir.file("file"), "");
  // The folder of the log cannot be made, or the log itself not opened.
  for (const log of [dir.file("file/logs/build.log"), dir.path]) {
    const script = dir.file("script.mjs");
    writeFileSync(
      script,
      `import { run, runMain } from ${JSON.stringify(system)};
await runMain(() => run("true", [], { log: ${JSON.stringify(log)}, quiet: true }));\n`,
    );
    const ended = await runFixture(relative(FIXTURES, script), []);
    assert.equal(ended.code, 1, ended.stdout);
    assert.match(ended.stderr, /^lmshm: E(NOTDIR|EXIST|ISDIR).* must be writable .*\n$/);
  }
});

test("an interruption is passed on to a command that cleans up", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const system = fileURLToPath(new URL("../scripts/common/system.mjs", import.meta.url));
  const script = dir.file("script.mjs");
  const command =
    "trap 'echo cleaned; exit 7' TERM; echo up; for i in $(seq 600); do sleep 0.05; done";
  writeFileSync(
    script,
    `import { run } from ${JSON.stringify(system)};
const status = await run("sh", ["-c", ${JSON.stringify(command)}], { cleansUp: true });
console.log("status", status);\n`,
  );

  const child = spawn("node", [script], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (data) => {
    said += data;
    // Not SIGINT, which a shell has its background jobs ignore.
    if (said === "up\n") child.kill("SIGTERM");
  });
  await once(child, "close");
  assert.equal(said, "up\ncleaned\nstatus 7\n");
});
