// SPDX-License-Identifier: Apache-2.0
//
// put, get, ls, stat, rm and cp: files into stores and out of them, of directories and of a running
// worker.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { UsageError } from "../src/cli/command.ts";
import { LOADERS } from "../src/cli/commands.ts";
import { keyPattern } from "../src/cli/store/pattern.ts";
import { parseStore } from "../src/cli/store/address.ts";
import { fileBelow } from "../src/cli/store/get.ts";
import { StoreReport, Told } from "../src/cli/store/report.ts";
import {
  hasProgram,
  inShell,
  lmshm,
  lmshmCommand,
  TerminalSession,
} from "./support/command_line.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, ScriptedWorker, startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 120_000 };

function content(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => index * 31 + seed + (index >> 8));
}

/** Of --json. */
function jsonLines(stdout: string): Record<string, unknown>[] {
  return stdout.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

test("a pattern matches keys as a shell matches names, slashes included", () => {
  const cases: [string, string, boolean][] = [
    ["*", "a/b", true],
    ["a*c", "a/b/c", true],
    ["a?c", "a/c", true],
    ["a?c", "ac", false],
    ["[a-c]x", "bx", true],
    ["[!a-c]x", "bx", false],
    ["[x", "[x", true],
    ["\\*", "*", true],
    ["a.c", "abc", false],
    ["(a|b)+", "(a|b)+", true],
    ["[z-a]", "z", false],
    ["?", "😀", true],
  ];
  for (const [text, key, matches] of cases) {
    assert.equal(keyPattern(text).matches(key), matches, `${text} ${key}`);
  }
  assert.equal(keyPattern("run7/*").prefix, "run7/");
  assert.equal(keyPattern("a\\*b").key, "a*b");
  assert.equal(keyPattern("a*b", true).key, "a*b");
});

test("a store is a directory, or one of a running worker", () => {
  const parse = (text: string) => {
    const { storageDir, workerAddress } = parseStore(text);
    return [storageDir, workerAddress];
  };
  assert.deepEqual(parse("/data/kv"), ["/data/kv", undefined]);
  assert.deepEqual(parse("kv@unix:/run/s.sock"), ["kv", "unix:/run/s.sock"]);
  assert.deepEqual(parse("kv@/run/s.sock"), ["kv", "/run/s.sock"]);
  assert.deepEqual(parse("/data@1.2.3.4:80"), ["/data", "1.2.3.4:80"]);
  assert.deepEqual(parse("@[::1]:80"), [".", "[::1]:80"]);
  assert.deepEqual(parse("./models@1:2/"), ["./models@1:2/", undefined]);
  assert.deepEqual(parse("a@b"), ["a@b", undefined]);
  assert.throws(() => parseStore("kv@host:99999"), /port 99999/);
  assert.throws(() => parseStore(""), /STORE is missing/);
});

test("a key does not lead out of the directory that its file goes to", () => {
  assert.equal(fileBelow("/out", "a/b"), "/out/a/b");
  for (const key of ["../x", "a/../../x", "/etc/passwd", "a//b", ".", "a/"]) {
    assert.throws(() => fileBelow("/out", key), shmError("EINVAL"), key);
  }
});

test("files go into a store and come out of it", LONG, async () => {
  using dir = new TempDir();
  const store = dir.file("kv");
  mkdirSync(dir.file("in/sub"), { recursive: true });
  writeFileSync(dir.file("in/a.bin"), content(3_000_001, 1));
  writeFileSync(dir.file("in/empty"), "");
  writeFileSync(dir.file("in/sub/b.bin"), content(70_000, 2));

  const put = await lmshm(
    "put",
    "-r",
    "--prefix",
    "run7/",
    "--metadata",
    "who=me",
    store,
    dir.file("in"),
  );
  assert.equal(put.code, 0, put.stderr);
  assert.match(put.stdout, /^stored 3 objects, 3\.07 MB in \S+ m?s, \S+ [kM]B\/s\n$/);
  assert.equal(put.stderr, "");

  const listed = await lmshm("ls", store);
  assert.deepEqual(listed.stdout.trim().split("\n").sort(), [
    "run7/a.bin",
    "run7/empty",
    "run7/sub/b.bin",
  ]);
  const long = await lmshm("ls", "-l", store, "run7/a*");
  assert.match(long.stdout, /^3\.00 MB {2}\d{4}-\d\d-\d\d \d\d:\d\d {2}run7\/a\.bin\n$/);

  const stat = await lmshm("stat", store, "run7/sub/b.bin");
  assert.equal(stat.code, 0, stat.stderr);
  assert.match(stat.stdout, /^key {7}run7\/sub\/b\.bin\nsize {6}70000 bytes \(70\.0 kB\), /);

  const get = await lmshm("get", store, "*", "-o", dir.file("out"), "--json");
  assert.equal(get.code, 0, get.stderr);
  assert.deepEqual(jsonLines(get.stdout).map(({ key, ok }) => [key, ok]).sort(), [
    ["run7/a.bin", true],
    ["run7/empty", true],
    ["run7/sub/b.bin", true],
  ]);
  for (const name of ["a.bin", "empty", "sub/b.bin"]) {
    assert.deepEqual(
      readFileSync(dir.file(`out/run7/${name}`)),
      readFileSync(dir.file(`in/${name}`)),
    );
  }
  assert.deepEqual(readdirSync(dir.file("out/run7")).sort(), ["a.bin", "empty", "sub"]);

  const dry = await lmshm("rm", "-n", store, "run7/*");
  assert.match(dry.stdout, /would remove 3 objects\n$/);
  const rm = await lmshm("rm", store, "run7/*");
  assert.equal(rm.stdout, "removed 3 objects\n");
  assert.deepEqual(readdirSync(store), []);
});

test("what a program writes becomes an object, and goes to another program", LONG, async () => {
  using dir = new TempDir();
  const ended = await inShell(
    `set -o pipefail
     head -c 5000000 /dev/urandom > ${dir.file("data")}
     lmshm put ${dir.file("kv")} --key k - < ${dir.file("data")} >&2 &&
     lmshm get ${dir.file("kv")} k -o - | cmp - ${dir.file("data")} &&
     lmshm get ${dir.file("kv")} k -o - | head -c 10 | wc -c`,
  );
  assert.equal(ended.code, 0, ended.stderr);
  assert.equal(ended.stdout.trim(), "10");
  assert.match(ended.stderr, /^stored 1 object, 5\.00 MB in .*\n$/, "nothing else is said");
});

test("of keys that want a file and a directory of one name, one is refused", LONG, async () => {
  using dir = new TempDir();
  const store = dir.file("kv");
  writeFileSync(dir.file("f"), "x");
  for (const key of ["a", "a/b"]) {
    const { code, stderr } = await lmshm("put", store, dir.file("f"), "--key", key);
    assert.equal(code, 0, stderr);
  }
  for (const keys of [["a", "a/b"], ["a/b", "a"]]) {
    const out = dir.file(`out${keys[0]!.length}`);
    const { code, stderr } = await lmshm("get", store, ...keys, "-o", out, "--in-flight", "1");
    assert.equal(code, 1);
    assert.match(stderr, /cannot be written: a file or a directory is in its way.*--output FILE/);
    assert.equal(stderr.trimEnd().split("\n").length, 1, stderr);
    assert.ok(existsSync(`${out}/${keys[0]}`), "the first is there");
    const left = readdirSync(out, { recursive: true, encoding: "utf8" });
    assert.ok(!left.some((name) => name.endsWith(".part")), `${left}`);
  }
});

test("put --if-absent leaves what is there, and that is no failure", LONG, async () => {
  using dir = new TempDir();
  const store = dir.file("kv");
  for (const name of ["a", "b", "c"]) writeFileSync(dir.file(name), `first ${name}`);
  await lmshm("put", store, dir.file("a"), "--metadata", "who=first");
  for (const name of ["a", "b", "c"]) writeFileSync(dir.file(name), `the second ${name}`);
  const [a, b] = [dir.file("a"), dir.file("b")];
  const put = await lmshm("put", "--if-absent", "--metadata", "who=second", store, a, b);
  assert.equal(put.code, 0, put.stderr);
  assert.match(put.stdout, /^stored 1 object, 12 B in .*, 1 skipped\n$/);
  assert.equal(put.stderr, "");
  const again = await lmshm("put", "--if-absent", "--json", store, a, b, dir.file("c"));
  assert.equal(again.code, 0, again.stderr);
  const lines = jsonLines(again.stdout).map(({ key, ok, skipped, byteLength }) =>
    [key, ok, skipped, byteLength].join()
  );
  assert.deepEqual(lines.sort(), ["a,true,true,", "b,true,true,", "c,true,false,12"]);
  const got = await inShell(`
    lmshm get ${store} a -o - && lmshm stat ${store} a &&
    printf third | lmshm put --if-absent ${store} --key a - && lmshm get ${store} a -o -`);
  assert.match(got.stdout, /^first a.*who=first.*stored 0 objects, 1 skipped\nfirst a$/s);
  // A file that is missing is missing all the same.
  const none = await lmshm("put", "--if-absent", store, dir.file("none"), "--key", "a");
  assert.equal(none.code, 1);
  assert.match(none.stderr, /ENOENT/);
});

test("what is missing is exit status 1, and the rest is done", LONG, async () => {
  using dir = new TempDir();
  writeFileSync(dir.file("a"), "a");
  const put = await lmshm("put", dir.file("kv"), dir.file("a"), dir.file("none"));
  assert.equal(put.code, 1);
  assert.match(put.stderr, /^lmshm: none: .*ENOENT/);
  assert.match(put.stdout, /^stored 1 object, .*, 1 failed\n$/);
  for (const command of ["get", "stat", "ls", "rm"]) {
    const output = command === "get" ? ["-o", dir.file("out/")] : [];
    const ended = await lmshm(command, dir.file("kv"), "none", "no*", ...output, "--json");
    assert.equal(ended.code, 1, command);
    assert.deepEqual(jsonLines(ended.stdout).map(({ key, code }) => [key, code]), [
      ["none", "MISSING"],
      ["no*", "MISSING"],
    ], command);
    assert.match(ended.stderr, /none: there is no such object\n.*no\*: nothing matches\n/);
  }
  const typo = await lmshm("ls", dir.file("kw"));
  assert.equal(typo.code, 1);
  assert.match(typo.stderr, /^lmshm: open store: .*ENOENT/);
  assert.ok(!existsSync(dir.file("kw")), "nothing is made by looking");
});

test("wrong command lines of stores are told before anything is done", LONG, async () => {
  const cases: [string[], RegExp][] = [
    [["put", "/tmp/kv"], /needs a FILE/],
    [["put", "/tmp/kv", "-"], /has no name/],
    [["put", "/tmp/kv", "--key", "k", "a", "b"], /--key names one object/],
    [["put", "/tmp/kv", "a", "--metadata", "A"], /--metadata takes NAME=TEXT/],
    [["get", "/tmp/kv"], /needs a KEY/],
    [["get", "/tmp/kv", "a", "-o", "-", "--json"], /choose/],
    [["cp", "/tmp/kv", "/tmp/kv"], /the same store/],
    [["ls", "kv@unix:relative"], /not absolute/],
  ];
  for (const [[name, ...args], message] of cases) {
    const command = await LOADERS[name!]!();
    await assert.rejects(async () => await command.run(args), (error: Error) => {
      assert.ok(error instanceof UsageError, `${name} ${args.join(" ")}: ${error}`);
      assert.match(error.message, message);
      return true;
    });
  }
});

test(
  "an object is limited by the memory of the command, and what it takes grows",
  LONG,
  async () => {
    using dir = new TempDir();
    writeFileSync(dir.file("large"), "");
    truncateSync(dir.file("large"), 70 * 2 ** 20);
    const grown = await lmshm("put", dir.file("kv"), dir.file("large"));
    assert.equal(grown.code, 0, grown.stderr);
    const refused = await lmshm(
      "get",
      dir.file("kv"),
      "large",
      "-o",
      dir.file("o"),
      "--memory",
      "8MiB",
    );
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^lmshm: large: .*73400320 bytes.*8388608 \(EFBIG\).*--memory/);
    const got = await lmshm(
      "get",
      dir.file("kv"),
      "large",
      "-o",
      dir.file("o"),
      "--memory",
      "71MiB",
    );
    assert.equal(got.code, 0, got.stderr);
    assert.deepEqual(readFileSync(dir.file("o")), readFileSync(dir.file("large")));
  },
);

test("a copy is taken up where it ended, and metadata goes along", LONG, async () => {
  using dir = new TempDir();
  const [from, to] = [dir.file("from"), dir.file("to")];
  for (const name of ["a", "b", "c"]) writeFileSync(dir.file(name), content(100_000, name.length));
  await lmshm("put", from, "--metadata", "who=me", dir.file("a"), dir.file("b"), dir.file("c"));
  const first = await lmshm("cp", from, to, "a", "b");
  assert.match(first.stdout, /^copied 2 objects, /, first.stderr);
  writeFileSync(dir.file("b"), "other bytes");
  await lmshm("put", to, dir.file("b"));
  const second = await lmshm("cp", from, to, "--json");
  assert.equal(second.code, 0, second.stderr);
  const metadata = jsonLines((await lmshm("stat", to, "c", "--json")).stdout)[0]!["metadata"];
  const keeps = Object.keys(metadata as object).length > 0;
  assert.deepEqual(
    jsonLines(second.stdout).map(({ key, skipped }) => [key, skipped]).sort(),
    [["a", keeps], ["b", false], ["c", false]],
    "a was there, b was another",
  );
  if (keeps) assert.deepEqual(metadata, { who: "me" });
  const forced = await lmshm("cp", "-f", from, to);
  assert.match(forced.stdout, /^copied 3 objects, /);
  assert.deepEqual(readFileSync(`${to}/b.data`), Buffer.from(content(100_000, 1)));
  if (!keeps) return;
  // The same bytes, but other metadata.
  await lmshm("put", from, "--metadata", "who=you", dir.file("a"));
  const third = await lmshm("cp", from, to);
  assert.match(third.stdout, /^copied 1 object, .* 2 skipped\n$/);
  const again = jsonLines((await lmshm("stat", to, "a", "--json")).stdout)[0]!["metadata"];
  assert.deepEqual(again, { who: "you" });
});

test("stores of a running worker, which is killed in the middle", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("root"));
  const socket = dir.file("w.sock");
  const store = `kv@unix:${socket}`;
  for (let i = 0; i < 20; i++) writeFileSync(dir.file(`f${i}`), content(200_000, i));
  {
    await using worker = await startWorker(`unix:${socket}`, dir.file("root"));
    const files = Array.from({ length: 20 }, (_, i) => dir.file(`f${i}`));
    const put = await lmshm("put", store, ...files);
    assert.equal(put.code, 0, put.stderr);
    assert.equal(readdirSync(dir.file("root/kv")).length, 20);
    const back = await lmshm("cp", store, dir.file("copy"), "f1?");
    assert.match(back.stdout, /^copied 10 objects/, back.stderr);
    assert.equal(worker.child.exitCode, null);
  }
  // Nobody is there any more: told once, not for each object, and soon.
  const gone = await lmshm("get", store, "f1", "f2", "-o", dir.file("out/"));
  assert.equal(gone.code, 1);
  assert.match(gone.stderr, /^lmshm: .*w\.sock.*\n$/);
  await using _again = await startWorker(`unix:${socket}`, dir.file("root"));
  const [command, line] = lmshmCommand(
    "cp",
    store,
    dir.file("copy2"),
    "--json",
    "--in-flight",
    "1",
  );
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
  const closed = once(child, "close");
  let said = "";
  child.stdout.on("data", (data) => said += data);
  await once(child.stdout, "data");
  _again.child.kill("SIGKILL");
  await once(_again.child, "exit");
  await using _third = await startWorker(`unix:${socket}`, dir.file("root"));
  const [code] = await closed;
  const copied = jsonLines(said).filter(({ ok }) => ok);
  // It went on with the third, or said that it did not: then the same command does the rest.
  if (code === 0) assert.equal(copied.length, 20);
  const rest = await lmshm("cp", store, dir.file("copy2"));
  assert.equal(rest.code, 0, rest.stderr);
  for (let i = 0; i < 20; i++) {
    assert.deepEqual(readFileSync(dir.file(`copy2/f${i}.data`)), readFileSync(dir.file(`f${i}`)));
  }
});

test("a store without room is told once, and ends the command", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("root"));
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.file("root"), [
    ...["--max-bytes", "1000000"],
  ]);
  const files = ["f1", "f2", "f3"].map((name) => dir.file(name));
  for (const file of files) writeFileSync(file, content(3_000_000, 1));
  const ended = await lmshm("put", `kv@${worker.address}`, ...files, "--in-flight", "1");
  assert.equal(ended.code, 1, ended.stdout);
  assert.match(ended.stderr, /^lmshm: f1: .*ENOSPC.*\n$/);
  assert.match(ended.stdout, /^stored 0 objects, 1 failed\n$/);
});

test("a full file system ends a command, whoever tells of it", { timeout: 30_000 }, async () => {
  const report = new StoreReport(false);
  const { signal } = new AbortController();
  const failing = (code: string) => () => Promise.reject(Object.assign(new Error(code), { code }));
  await report.object("a", signal, failing("ENAMETOOLONG"));
  await assert.rejects(report.object("b", signal, failing("ENOSPC")), Told);
  assert.equal(report.failed, 2);
});

test("what a terminal would obey in a name is escaped", LONG, async () => {
  using dir = new TempDir();
  writeFileSync(dir.file("a"), "x");
  const ended = await lmshm("put", dir.file("kv"), dir.file("a"), "--key", "\x1b[31mred\n");
  assert.match(ended.stderr, /^lmshm: \\x1b\[31mred\\x0a: key .*\n$/);
});

test("a listing ends when its reader has read enough", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  for (let i = 0; i < 2000; i++) writeFileSync(dir.file(`kv/object${i}.data`), "x");
  const ended = await inShell(
    `set -o pipefail; lmshm ls ${dir.file("kv")} | head -1 | cut -c1-6; echo "\${PIPESTATUS[0]}"`,
  );
  assert.equal(ended.stdout, "object\n0\n", ended.stderr);
  assert.equal(ended.stderr, "");
  const all = await inShell(`lmshm ls ${dir.file("kv")} | sort -u | wc -l`);
  assert.equal(all.stdout.trim(), "2000");
});

test("get writes to what --output names, and does not take its place", LONG, async () => {
  using dir = new TempDir();
  const store = dir.file("kv");
  writeFileSync(dir.file("a"), content(5000, 1));
  writeFileSync(dir.file("target"), "old");
  symlinkSync("target", dir.file("link"));
  symlinkSync("/dev/null", dir.file("null"));
  assert.equal((await lmshm("put", store, dir.file("a"))).code, 0);
  for (const name of ["link", "null"]) {
    const got = await lmshm("get", store, "a", "-o", dir.file(name));
    assert.equal(got.code, 0, got.stderr);
    assert.ok(lstatSync(dir.file(name)).isSymbolicLink(), name);
  }
  assert.deepEqual(readFileSync(dir.file("target")), readFileSync(dir.file("a")));
  const pipe = await inShell(
    `cd ${dir.path} && mkfifo pipe && lmshm get kv a -o pipe; echo $?; test -p pipe && echo pipe`,
  );
  assert.equal(pipe.stdout, "wrote 0 objects, 1 failed\n1\npipe\n");
  assert.match(pipe.stderr, /^lmshm: a: .*pipe is no file \(EINVAL\)/);
});

test("the file of a long name that is not ASCII is written", LONG, async () => {
  using dir = new TempDir();
  writeFileSync(dir.file("a"), "bytes");
  const key = "\u00e9".repeat(120);
  await lmshm("put", dir.file("kv"), dir.file("a"), "--key", key);
  const got = await lmshm("get", dir.file("kv"), key, "-o", dir.file("out/"));
  assert.equal(got.code, 0, got.stderr);
  assert.deepEqual(readdirSync(dir.file("out")), [key]);
});

/** What the command says on stderr until it ends, which it does soon. */
async function lastWords(child: ChildProcess): Promise<string> {
  let ended = false;
  let stderr = "";
  child.stderr!.on("data", (data) => stderr += data);
  child.once("close", () => ended = true);
  try {
    await eventually("the command has ended", () => ended);
  } finally {
    if (!ended) process.kill(child.pid!, "SIGKILL");
  }
  return stderr;
}

/** Sends SIGTERM to the command when `begun` resolves; it ends in its own way. */
async function interrupt(child: ChildProcess, begun: Promise<unknown>): Promise<void> {
  void begun.then(() => child.kill("SIGTERM"));
  assert.match(await lastWords(child), /^lmshm: interrupted; what was done before stays\n$/);
}

test("put refuses a pipe before it waits for what comes out of it", LONG, async () => {
  using dir = new TempDir();
  await inShell(`mkfifo ${dir.file("pipe")}`);
  const [command, line] = lmshmCommand("put", dir.file("kv"), dir.file("pipe"));
  const child = spawn(command, line, { stdio: ["ignore", "ignore", "pipe"] });
  assert.match(
    await lastWords(child),
    /pipe is no regular file \(EINVAL\)\. .*put - --key KEY/,
  );
});

test("a put of stdin is interrupted while nothing comes", LONG, async () => {
  using dir = new TempDir();
  const [command, line] = lmshmCommand("put", dir.file("kv"), "-", "--key", "k");
  const child = spawn(command, line, { stdio: ["pipe", "ignore", "pipe"] });
  child.stdin.on("error", () => {});
  // More than fits between the two: when it is written, the command has read some.
  const read = new Promise<void>((resolve) =>
    child.stdin.write(new Uint8Array(8 * 2 ** 20), () => resolve())
  );
  await interrupt(child, read);
  assert.deepEqual(readdirSync(dir.file("kv")), []);
});

test("a command is interrupted while a worker does not answer it", LONG, async () => {
  using dir = new TempDir();
  await using mute = await ScriptedWorker.listen(dir, () => "");
  const [command, line] = lmshmCommand("ls", `kv@unix:${mute.path}`);
  const child = spawn(command, line, { stdio: ["ignore", "ignore", "pipe"] });
  await interrupt(child, eventually("it asks", () => mute.lines.length > 0));
});

test("an interrupted get leaves no half file", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  for (let i = 0; i < 200; i++) {
    writeFileSync(dir.file(`kv/o${i}.data`), "");
    truncateSync(dir.file(`kv/o${i}.data`), 4 * 2 ** 20);
  }
  const [command, line] = lmshmCommand("get", dir.file("kv"), "*", "-o", dir.file("out"), "--json");
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
  const closed = once(child, "close");
  let stderr = "";
  child.stderr.on("data", (data) => stderr += data);
  child.stdout.once("data", () => child.kill("SIGINT"));
  child.stdout.on("data", () => {});
  const [code, signal] = await closed;
  // Exit status 130; Deno's child_process reports that as if a signal had ended the process.
  assert.ok(code === 130 || signal === "SIGINT" || code === 0, `${code} ${signal} ${stderr}`);
  for (const name of readdirSync(dir.file("out"))) {
    assert.match(name, /^o\d+$/, "no temporary is left");
    assert.equal(readFileSync(dir.file(`out/${name}`)).length, 4 * 2 ** 20);
  }
});

test("what takes long is named at a terminal, with its time", {
  ...LONG,
  skip: hasProgram("script") ? false : "script (bsdutils) is not installed",
}, async () => {
  using dir = new TempDir();
  const [command, line] = lmshmCommand("put", dir.file("kv"), "-", "--key", "typed");
  await using session = new TerminalSession([command, ...line], 80, 24);
  await session.shows(/\r0 objects, typed for \d s/);
  session.type("some text\n\x04");
  assert.equal(await session.status, 0);
  // It is wiped away before the summary comes.
  const wiped = session.shown.split("\r\x1b[K");
  assert.match(wiped.at(-1)!, /^stored 1 object, 10 B in .*\r\n$/);
});
