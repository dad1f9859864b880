// SPDX-License-Identifier: Apache-2.0
//
// lmshm worker: the process that was started is the worker, with everything that this means.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { locateWorker } from "../src/native/locate.ts";
import { inShell, lmshm, lmshmCommand } from "./support/command_line.ts";
import { TempDir } from "./support/worker.ts";

/** The first line of a child's stdout. */
async function firstLine(child: ChildProcess): Promise<string> {
  let said = "";
  for await (const chunk of child.stdout!) {
    said += chunk;
    if (said.includes("\n")) break;
  }
  return said.split("\n")[0]!;
}

/** 32 and 33, which the C library uses by itself, in the runtime that starts both as well. */
const OF_THE_C_LIBRARY = 0b11n << 31n;

/** The signals that are blocked, and that are ignored. */
function signalsOf(pid: number): bigint[] {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Array.from(
    status.matchAll(/^Sig(?:Blk|Ign):\s*([0-9a-f]+)$/gm),
    ([, bits]) => BigInt(`0x${bits}`) & ~OF_THE_C_LIBRARY,
  );
}

/** Of stdout and stderr, whether they wait among them. */
function outputFlags(pid: number): string[] {
  return [1, 2].map((fd) =>
    /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8"))![1]!
  );
}

/** Both start `--listen` on a socket of their own. */
async function listening(command: string, args: string[]): Promise<{
  child: ChildProcess;
  gone: Promise<unknown[]>;
}> {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  assert.match(await firstLine(child), /^LISTENING unix:/);
  return { child, gone };
}

test("lmshm worker becomes the worker, and is ended as one", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  const args = (name: string) => ["--listen", `unix:${dir.file(name)}`, "--root", dir.file("kv")];
  const [command, line] = lmshmCommand("worker", ...args("a.sock"));
  const became = await listening(command, line);
  const direct = await listening(locateWorker(), args("b.sock"));
  try {
    const { pid } = became.child;
    assert.equal(readlinkSync(`/proc/${pid}/exe`), locateWorker());
    assert.equal(
      basename(readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[0]!),
      "lmshm-worker",
    );
    const signals = signalsOf(pid!);
    assert.equal(signals.length, 2);
    assert.deepEqual(signals, signalsOf(direct.child.pid!));
    assert.deepEqual(outputFlags(pid!), outputFlags(direct.child.pid!));
  } finally {
    // Not child.kill(): Deno then reports the signal, whatever the status was.
    process.kill(became.child.pid!, "SIGTERM");
    process.kill(direct.child.pid!, "SIGTERM");
  }
  assert.deepEqual(await became.gone, [0, null]);
  await direct.gone;
});

test("lmshm worker serves its stdin, and ends with it", { timeout: 60_000 }, async () => {
  const ended = await inShell(`printf 'HELLO 2\\n' | lmshm worker --root /tmp --log-level error`);
  assert.match(ended.stdout, /^OK 2 boot=/);
  assert.equal(ended.code, 0, ended.stderr);
});

test("lmshm worker has the worker's messages and exit statuses", { timeout: 60_000 }, async () => {
  const wrong = await lmshm("worker", "--lisen", "unix:/tmp/x");
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /^lmshm-worker: .*--lisen.*--listen/);
  const noRoot = await lmshm("worker", "--listen", "unix:/tmp/x.sock", "--root", "/nonexistent/x");
  assert.equal(noRoot.code, 3);
  assert.match(noRoot.stderr, /cannot start/);
});

test("lmshm worker says why there is no worker to become", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const text = dir.script("text", "");
  const missing = await inShell("lmshm worker", { LMSHM_WORKER: dir.file("none") });
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /^lmshm: locate worker: .*none \(from LMSHM_WORKER\)/);
  const broken = await inShell(`printf garbage > ${text}; lmshm worker`, { LMSHM_WORKER: text });
  assert.equal(broken.code, 1);
  assert.match(broken.stderr, /^lmshm: become worker: .*cannot be run \(ENOEXEC\)/);
});
