// SPDX-License-Identifier: Apache-2.0
//
// lmshm verify as a user runs it, in a process of its own; and what the command says of mistakes.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { version } from "../src/mod.ts";
import { locateWorker } from "../src/native/locate.ts";
import { uniqueName } from "./support/leaks.ts";
import { fixtureCommand, runFixture } from "./support/process.ts";

const MAIN = "../../src/cli/main.ts";
const SMALL = ["--size", "5MiB", "--chunk-size", "1MiB"];

/** A directory of the test's own, removed afterwards. */
async function inDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "lmshm-test-cli-"));
  try {
    await body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function cli(...args: string[]) {
  return runFixture(MAIN, args);
}

test("lmshm verify moves generated data and says so", async () => {
  await inDirectory(async (directory) => {
    const ended = await cli("verify", ...SMALL, "--storage-dir", join(directory, "kv"));
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stdout, /put: memory to files +5\.24 MB/);
    assert.match(ended.stdout, /OK: all 5 chunks \(5\.24 MB\) came back byte for byte/);
    assert.equal(ended.stderr, "", "no progress where stderr is no terminal");
    assert.deepEqual(readdirSync(directory), [], "what it made is gone");
  });
});

test("lmshm verify says that a storage directory is none", async () => {
  await inDirectory(async (directory) => {
    const file = join(directory, "file");
    writeFileSync(file, "");
    const ended = await cli("verify", ...SMALL, "--storage-dir", file);
    assert.equal(ended.code, 2, ended.stdout);
    assert.match(ended.stderr, /^lmshm: --storage-dir \S+\/file is no directory; .*\n$/);
    const below = await cli("verify", ...SMALL, "--storage-dir", join(file, "below"));
    assert.equal(below.code, 1, below.stdout);
    assert.match(below.stderr, /^lmshm: --storage-dir \S+\/file\/below cannot be made: .*\n$/);
  });
});

test("lmshm verify removes all directories that it made, and no others", async () => {
  await inDirectory(async (directory) => {
    mkdirSync(join(directory, "there"));
    const storage = join(directory, "there/a/b/c");
    const ended = await cli("verify", ...SMALL, "--storage-dir", storage);
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(readdirSync(directory), ["there"]);
    assert.deepEqual(readdirSync(join(directory, "there")), []);
  });
});

test("lmshm verify refuses at once what the disk has no room for", async () => {
  await inDirectory(async (directory) => {
    const { bavail, bsize } = statfsSync(directory);
    const size = 2 * bavail * bsize + 2 ** 30;
    const ended = await cli(
      ...["verify", "--size", `${size}`, "--chunk-size", "1GiB"],
      ...["--storage-dir", join(directory, "a/b")],
    );
    assert.equal(ended.code, 1, ended.stdout);
    assert.match(
      ended.stderr,
      /^lmshm: verify: the data has .*, and \S+ has .* free \(ENOSPC\)\. Send less/,
    );
    assert.equal(ended.stdout, "", "nothing was begun");
    assert.deepEqual(readdirSync(directory), []);
  });
});

test("lmshm verify says that a segment is not pinned", async () => {
  const ended = await cli("verify", ...SMALL, "--pin", "none");
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /^segment {2}anonymous, 5\.24 MB, not pinned$/m);
});

test("lmshm verify --json is one JSON object", async () => {
  const ended = await cli("verify", ...SMALL, "--json");
  assert.equal(ended.code, 0, ended.stderr);
  const report = JSON.parse(ended.stdout);
  assert.equal(report.ok, true);
  assert.equal(report.chunks, 5);
  assert.equal(report.bytes, 5 * 2 ** 20);
  assert.ok(report.steps.every((step: { milliseconds: number }) => step.milliseconds >= 0));
});

test("lmshm verify refuses chunks so small that there would be millions", async () => {
  await inDirectory(async (directory) => {
    const ended = await cli("verify", "--chunk-size", "1", "--storage-dir", join(directory, "kv"));
    assert.equal(ended.code, 2, ended.stdout);
    assert.match(
      ended.stderr,
      /--chunk-size 1: the data would be [0-9,]+ chunks, and at most 100,000/,
    );
    assert.deepEqual(readdirSync(directory), []);
  });
});

test("lmshm verify --input sends files through, in rounds when the pool is small", async () => {
  await inDirectory(async (directory) => {
    const file = join(directory, "input.bin");
    writeFileSync(file, Uint8Array.from({ length: 3_000_001 }, (_, index) => index * 7));
    writeFileSync(join(directory, "empty"), "");
    const ended = await cli(
      "verify",
      "--input",
      file,
      "--input",
      join(directory, "empty"),
      ...["--chunk-size", "1MB", "--pool-size", "2MiB", "--json"],
    );
    assert.equal(ended.code, 0, ended.stdout + ended.stderr);
    const report = JSON.parse(ended.stdout);
    assert.equal(report.bytes, 3_000_001);
    assert.equal(report.chunks, 5, "three full chunks, one byte, one empty file");
    assert.equal(report.segment.sizeBytes, 2 * 2 ** 20);
  });
});

test("lmshm verify --worker-address goes through a running worker and a named segment", async () => {
  await inDirectory(async (directory) => {
    const socket = join(directory, "worker.sock");
    const storage = join(directory, "kv");
    mkdirSync(storage);
    const args = ["--listen", `unix:${socket}`, "--root", storage];
    const worker = spawn(locateWorker(), args, { stdio: ["ignore", "pipe", "inherit"] });
    const gone = once(worker, "exit");
    try {
      await once(worker.stdout, "data");
      const ended = await cli(
        "verify",
        ...SMALL,
        ...["--worker-address", `unix:${socket}`, "--storage-dir", storage, "--json"],
      );
      assert.equal(ended.code, 0, ended.stdout + ended.stderr);
      const report = JSON.parse(ended.stdout);
      assert.match(report.segment.name, /^\/lmshm-verify-\d+$/);
      assert.deepEqual(readdirSync(storage), []);
    } finally {
      worker.kill("SIGTERM");
      await gone;
    }
  });
});

test("lmshm verify fails when a worker stores something else", async () => {
  await inDirectory(async (directory) => {
    // Speaks the protocol and moves no data: says that it did.
    const liar = join(directory, "liar.sh");
    writeFileSync(
      liar,
      `#!/bin/sh
while read -r verb path address length; do
  case "$verb" in
    WRITE) head -c "$length" /dev/zero > "$path"; echo "OK $length" ;;
    READ) echo "OK $length" ;;
    *) echo OK ;;
  esac
done
`,
    );
    chmodSync(liar, 0o755);
    const ended = await cli(
      ...["verify", ...SMALL, "--worker-binary", liar, "--shm-name", uniqueName("liar"), "--json"],
    );
    assert.equal(ended.code, 1, ended.stderr);
    const report = JSON.parse(ended.stdout);
    assert.equal(report.ok, false);
    assert.equal(report.mismatches.length, 10, "five files and five chunks of memory");
    assert.match(report.mismatches.sort()[0], /generated\[0\]: the file .* differs/);
  });
});

test("lmshm verify interrupted removes what it made", { timeout: 60_000 }, async () => {
  await inDirectory(async (directory) => {
    const storage = join(directory, "kv");
    const [command, line] = fixtureCommand(
      MAIN,
      ...["verify", "--size", "2GiB", "--pool-size", "64MiB", "--chunk-size", "8MiB"],
      ...["--storage-dir", storage],
    );
    const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
    const closed = once(child, "close");
    let stderr = "";
    child.stderr.on("data", (data) => stderr += data);
    await once(child.stdout, "data");
    child.kill("SIGINT");
    const [code, signal] = await closed;
    // Exit status 130; Deno's child_process reports that as if a signal had ended the process.
    assert.ok(code === 130 || signal === "SIGINT", `${code} ${signal} ${stderr}`);
    assert.match(stderr, /interrupted/);
    assert.deepEqual(readdirSync(directory), []);
  });
});

test("lmshm tells what is wrong with a command line, with exit status 2", async () => {
  const cases: [string[], RegExp][] = [
    [["verfy"], /no command "verfy"/],
    [["verify", "--sise", "1"], /--sise/],
    [["verify", "--size", "big"], /--size takes a size such as .*"big"/],
    [["verify", "--in-flight", "0"], /--in-flight takes an integer from 1 to 64, got "0"/],
    [["verify", "--pin", "perhaps"], /--pin takes auto, require or none, got "perhaps"/],
    [["verify", "--worker-address", "/s", "--worker-binary", "/b"], /choose/],
    [["verify", "--worker-address", "nonsense"], /worker address "nonsense" has no port/],
  ];
  for (const [args, message] of cases) {
    const ended = await cli(...args);
    assert.equal(ended.code, 2, args.join(" "));
    assert.match(ended.stderr, message);
    assert.equal(ended.stdout, "");
  }
});

test("lmshm tells what could not be done, with exit status 1", async () => {
  const missing = await cli("verify", "--input", "/nonexistent/file");
  assert.equal(missing.code, 1);
  assert.match(missing.stderr, /ENOENT.*\/nonexistent\/file/);
  const worker = await cli("verify", ...SMALL, "--worker-binary", "/nonexistent/worker");
  assert.equal(worker.code, 1);
  assert.match(worker.stderr, /\/nonexistent\/worker/);
  const address = await cli("verify", ...SMALL, "--worker-address", "/nonexistent/socket");
  assert.equal(address.code, 1);
  assert.match(address.stderr, /\/nonexistent\/socket/);
});

test("lmshm --help and --version answer", async () => {
  const help = await cli("--help");
  assert.equal(help.code, 0);
  assert.match(help.stdout, /Usage: lmshm COMMAND/);
  assert.match((await cli("verify", "--help")).stdout, /--worker-address A/);
  assert.equal((await cli("--version")).stdout, `lmshm ${version}\n`);
  assert.equal((await cli()).code, 2);
});
