// SPDX-License-Identifier: Apache-2.0
//
// --json of every command prints what its description, and so its help and the manual page, documents.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { test } from "node:test";
import { ShmSegment } from "../src/mod.ts";
import { DESCRIPTIONS } from "../src/cli/commands.ts";
import type { CommandDescription } from "../src/cli/description.ts";
import { lmshm } from "./support/command_line.ts";
import { uniqueName } from "./support/leaks.ts";
import { startWorker, TempDir } from "./support/worker.ts";

test("--json prints the members that are documented, in the form that is", {
  timeout: 240_000,
}, async () => {
  using dir = new TempDir();
  const name = uniqueName("json");
  await using _segment = await ShmSegment.create({ name, sizeBytes: 4096, pin: "none" });
  const [kv, file] = [dir.file("kv"), dir.file("f")];
  writeFileSync(file, "content");
  const cases: [string, string[]][] = [
    ["put", [kv, file]],
    ["put", [kv, dir.file("none")]],
    ["put", ["--if-absent", kv, file]],
    ["ls", ["-l", kv]],
    ["stat", [kv, "f", "none"]],
    ["get", [kv, "f", "none", "-o", dir.file("out/")]],
    ["cp", [kv, dir.file("copy")]],
    ["cp", [kv, dir.file("copy")]],
    ["rm", [kv, "f", "none"]],
    ["shm ls", [name]],
    ["shm rm", [name]],
    ["shm gc", ["-n"]],
    ["doctor", ["--pool-size", "1MiB"]],
    ["bench", [dir.file("bench"), "--quick", "--chunk-size", "256KiB"]],
    ["verify", ["--size", "2MiB", "--chunk-size", "1MiB", "--pin", "none"]],
  ];
  for (const [command, args] of cases) {
    const description: CommandDescription = DESCRIPTIONS.find((one) => one.name === command)!;
    const { stdout, stderr } = await lmshm(...command.split(" "), ...args, "--json");
    const lines = stdout.split("\n").filter((line) => line !== "");
    if (description.json!.form === "object") assert.equal(lines.length, 1, command + stderr);
    if (command !== "shm gc") assert.ok(lines.length > 0, command + stderr);
    for (const line of lines) {
      for (const member of Object.keys(JSON.parse(line))) {
        assert.ok(member in description.json!.members, `${command}: ${member} is not documented`);
      }
    }
  }
});

test("--json of metrics has what INFO has", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.path);
  const { stdout, code } = await lmshm("metrics", worker.address, "--json");
  assert.equal(code, 0);
  const info = JSON.parse(stdout);
  assert.match(info.worker, /^lmshm-worker\/\d/);
  assert.equal(typeof info.uptimeMs, "number");
  assert.ok(info.verbs.attach.requests >= 1);
});
