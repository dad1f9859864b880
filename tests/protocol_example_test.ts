// SPDX-License-Identifier: Apache-2.0
//
// The example that docs/protocol_v2.md begins with, typed as it stands: the commands by a shell, the
// requests into the worker, and its answers compared. Only the two places are other ones here.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { locateWorker } from "../src/native/locate.ts";
import { uniqueName } from "./support/leaks.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const PAGE = new URL("../docs/protocol_v2.md", import.meta.url);

/** What differs from worker to worker, and from file system to file system. */
function generally(answer: string): string {
  return answer.replace(/boot=[0-9a-f]{16}/, "boot=").replace(/ features=\S+/, "")
    .replace(/xattr=\d/, "xattr=");
}

test(
  "the first example of the protocol's page works as it is written",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const name = uniqueName("example");
      const block = /\n\n((?: {4}.*\n)+)/.exec(readFileSync(PAGE, "utf8"))![1]!;
      const lines = block.replace(/(?<!\/srv)\/kv\b/g, `/${name}`)
        .replaceAll("/srv/kv", `${dir.path}/kv`).split("\n").map((line) => line.slice(4));
      const commands = lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2));
      assert.equal(commands.length, 3);
      const [prepare = "", start = "", tidy = ""] = commands;
      assert.match(start, /^lmshm-worker --root /);
      const said = lines.filter((line) => line !== "" && !line.startsWith("$ "));
      assert.ok(said.length >= 10 && said.length % 2 === 0, "requests and answers");

      assert.equal(spawnSync("sh", ["-c", prepare]).status, 0, prepare);
      try {
        const child = spawn(locateWorker(), start.split(" ").slice(1), {
          stdio: ["pipe", "pipe", "inherit"],
        });
        const closed = once(child, "close");
        const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        for (let i = 0; i < said.length; i += 2) {
          child.stdin.write(`${said[i]}\n`);
          const { value } = await answers.next();
          assert.equal(generally(value ?? "nothing"), generally(said[i + 1]!));
        }
        assert.equal((await closed)[0], 0);
      } finally {
        assert.equal(spawnSync("sh", ["-c", tidy]).status, 0, tidy);
      }
    }),
);
