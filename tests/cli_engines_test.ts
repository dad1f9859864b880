// SPDX-License-Identifier: Apache-2.0
//
// lmshm cp between engines that have logins of their own, and to stores that keep no metadata; lmshm rm
// of many objects.

import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import type { ObjectStat } from "../src/mod.ts";
import { UsageError } from "../src/cli/command.ts";
import { parseStore } from "../src/cli/store/address.ts";
import { withLogins } from "../src/cli/store/login.ts";
import { lostNames, sameness } from "../src/cli/store/same.ts";
import { locateWorker } from "../src/native/locate.ts";
import { atTerminal, inShell, lmshm } from "./support/command_line.ts";
import { Recorder } from "./support/recorder.ts";
import { RedisServer } from "./support/redis_server.ts";
import { startServer, withoutServer } from "./support/store_servers.ts";
import { type Peer, ScriptedWorker, startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 240_000 };
const ON_REDIS = { ...LONG, skip: withoutServer("redis") };
const ON_BOTH = { ...LONG, skip: withoutServer("redis") || withoutServer("s3") };

/** Of --json. */
function jsonLines(stdout: string): Record<string, unknown>[] {
  return stdout.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** A file with a password, as it should be kept. */
function secretFile(dir: TempDir, name: string, content: string): string {
  const path = dir.file(name);
  writeFileSync(path, `${content}\n`, { mode: 0o600 });
  return path;
}

/** An environment in which each worker that is started writes down its command line. */
function noting(dir: TempDir): { env: Record<string, string>; commandLines: () => string } {
  const program = dir.file("noting-worker");
  writeFileSync(
    program,
    `#!/bin/sh\necho "$@" >> ${dir.file("arguments")}\nexec ${locateWorker()} "$@"\n`,
  );
  chmodSync(program, 0o700);
  return {
    env: { LMSHM_WORKER: program },
    commandLines: () => readFileSync(dir.file("arguments"), "utf8"),
  };
}

test("whose login a password is: FROM's, TO's, or that of the server of both", () => {
  const had = process.env["LMSHM_STORE_SECRET"];
  const logins = (from: string, to: string, given?: string, givenTo?: string) =>
    withLogins([parseStore(from, "FROM"), parseStore(to, "TO")], given, givenTo)
      .map(({ storeSecretFile }) => storeSecretFile);
  try {
    delete process.env["LMSHM_STORE_SECRET"];
    const none = undefined;
    // Two servers, each with its own.
    assert.deepEqual(logins("redis://a", "redis://b", "A", "B"), ["A", "B"]);
    assert.deepEqual(logins("redis://a", "redis://b", "A"), ["A", none]);
    assert.deepEqual(logins("redis://a", "redis://b", none, "B"), [none, "B"]);
    assert.deepEqual(logins("redis://a", "s3://bucket", "A"), ["A", none]);
    assert.deepEqual(logins("redis://a:1", "redis://a:2", "A"), ["A", none]);
    assert.deepEqual(logins("redis://u@a", "redis://v@a", "A"), ["A", none]);
    const [one, other] = ["s3://b1?endpoint=http://h:1", "s3://b1?region=x&endpoint=http://h:2"];
    assert.deepEqual(logins(one, other, "A"), ["A", none]);
    assert.deepEqual(logins("redis+unix:///a", "redis+unix:///b", "A"), ["A", none]);
    // One server under two names.
    assert.deepEqual(logins("redis://a", "valkey://A:6379/1?prefix=x", "A"), ["A", "A"]);
    assert.deepEqual(logins("redis+cluster://n1,n2", "redis+cluster://n2:6379,n3", "A"), [
      "A",
      "A",
    ]);
    assert.deepEqual(logins("s3://b1?region=x", "s3://b2/prefix", "A"), ["A", "A"]);
    assert.deepEqual(logins(one, one.replace("b1", "b2"), "A", "B"), ["A", "B"]);
    // Only one of both has a login.
    assert.equal(logins("/dir", "redis://b", "B")[1], "B");
    assert.equal(logins("/dir", "redis://b", none, "B")[1], "B");
    assert.equal(logins("tcp://host:1", "redis://b", "B")[1], "B");
    assert.equal(logins("redis://a", "/dir", "A")[0], "A");
    // None.
    assert.deepEqual(logins("redis://a", "redis://b", "A", "none"), ["A", null]);
    assert.deepEqual(logins("redis://a", "redis://b", "none", "B"), [null, "B"]);
    assert.throws(() => logins("redis://a", "/dir", "A", "B"), /--to-store-secret-file.*TO is/);
    assert.throws(() => logins("/dir", "redis://b", "A", "B"), /--store-secret-file.*FROM is/);

    process.env["LMSHM_STORE_SECRET"] = "x";
    assert.throws(() => logins("redis://a", "redis://b"), (error: Error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, /one password.*two logins.*--to-store-secret-file FILE/);
      return true;
    });
    assert.deepEqual(logins("redis://a", "redis://b", "none"), [null, none]);
    assert.deepEqual(logins("redis://a", "redis://b", none, "B"), [none, "B"]);
    assert.deepEqual(logins("redis://a", "redis://a/2"), [none, none]);
    assert.deepEqual(logins("redis://a", "s3://bucket"), [none, none]);
  } finally {
    if (had === undefined) delete process.env["LMSHM_STORE_SECRET"];
    else process.env["LMSHM_STORE_SECRET"] = had;
  }
});

test("a copy between two servers tells each its own password alone", ON_REDIS, async () => {
  using dir = new TempDir();
  await using from = await RedisServer.start("alphapassword");
  await using to = await RedisServer.start("betapassword");
  await using open = await RedisServer.start("");
  await using before = await Recorder.before(from.port);
  await using beforeTo = await Recorder.before(to.port);
  await using beforeOpen = await Recorder.before(open.port);
  const [source, target, third] = [before, beforeTo, beforeOpen]
    .map(({ port }) => `redis://127.0.0.1:${port}`);
  const alpha = secretFile(dir, "alpha", "alphapassword");
  const beta = secretFile(dir, "beta", "betapassword");
  writeFileSync(dir.file("object"), "content".repeat(1000));
  const { env, commandLines } = noting(dir);
  const said: string[] = [];
  const run = async (script: string, more: Record<string, string> = {}) => {
    const ended = await inShell(script, { ...env, ...more });
    said.push(ended.stdout, ended.stderr);
    return ended;
  };

  const put = `lmshm put ${source} ${dir.file("object")} --store-secret-file ${alpha}`;
  assert.equal((await run(put)).code, 0);
  const files = `--store-secret-file ${alpha} --to-store-secret-file ${beta}`;
  const copied = await run(`lmshm cp ${source} ${target} ${files}`);
  assert.match(copied.stdout, /^copied 1 object, /, copied.stderr);
  assert.match(await to.ask("EXISTS", "object"), /^:1/);
  // One of them from the environment, and of a server without a password.
  const variable = { LMSHM_STORE_SECRET: "alphapassword" };
  const again = await run(`lmshm cp ${source} ${target} --to-store-secret-file ${beta}`, variable);
  assert.match(again.stdout, /^copied 0 objects, 1 skipped\n$/, again.stderr);
  const bare = await run(`lmshm cp ${source} ${third} --to-store-secret-file none`, variable);
  assert.match(bare.stdout, /^copied 1 object, /, bare.stderr);
  const back = await run(`lmshm cp ${third} ${dir.file("kv")} --store-secret-file none`, variable);
  assert.match(back.stdout, /^copied 1 object, /, back.stderr);
  const plain = await run(`lmshm ls ${third} --store-secret-file none`, variable);
  assert.equal(plain.stdout, "object\n", plain.stderr);
  const verified = await run(
    `lmshm verify --store ${third} --size 1MiB --chunk-size 256KiB --store-secret-file none`,
    variable,
  );
  assert.equal(verified.code, 0, verified.stderr);

  // What was forgotten or is not clear is refused, and the password goes nowhere.
  const forgotten = await run(`lmshm cp ${source} ${target} --store-secret-file ${alpha}`);
  assert.equal(forgotten.code, 1);
  assert.match(forgotten.stderr, /^lmshm: TO: .*NOAUTH.*that of --to-store-secret-file$/m);
  const unclear = await run(`lmshm cp ${source} ${third}`, variable);
  assert.equal(unclear.code, 2);
  assert.match(unclear.stderr, /LMSHM_STORE_SECRET is one password/);
  const wrong = await run(`lmshm cp ${source} ${target} --store-secret-file ${beta}`);
  assert.match(wrong.stderr, /^lmshm: FROM: .*WRONGPASS/m);
  const swapped = before.sent.indexOf("betapassword");
  assert.ok(swapped > 0, "what the operator named is sent");

  assert.ok(before.sent.slice(0, swapped).includes("alphapassword"));
  assert.ok(beforeTo.sent.includes("betapassword"));
  assert.ok(!beforeTo.sent.includes("alphapassword"), "TO is not told FROM's");
  assert.ok(!/alphapassword|betapassword|AUTH/.test(beforeOpen.sent), "nor is who wants none");
  assert.ok(commandLines().includes("--store-secret-file"));
  assert.ok(!/alphapassword|betapassword/.test(commandLines()), "no command line has it");
  assert.ok(!/alphapassword|betapassword/.test(said.join("\n")), "nor does what is said");
});

test("two keys of one server need one login", ON_REDIS, async () => {
  using dir = new TempDir();
  await using server = await RedisServer.start("testsecret");
  writeFileSync(dir.file("object"), "content");
  const ended = await inShell(
    `lmshm put ${server.url} ${
      dir.file("object")
    } && lmshm cp ${server.url} '${server.url}?prefix=x:'`,
    server.secrets,
  );
  assert.match(ended.stdout, /^copied 1 object, /m, ended.stderr);
  const file = secretFile(dir, "secret", "testsecret");
  const more = ["--store-secret-file", file];
  const again = await lmshm("cp", server.url, `${server.url}?prefix=y:`, "object", ...more);
  assert.match(again.stdout, /^copied 1 object, /, again.stderr);
  assert.match(await server.ask("EXISTS", "x:object", "y:object"), /^:2/);
});

test("a copy from Redis to S3 logs in to both", ON_BOTH, async () => {
  using dir = new TempDir();
  await using from = await RedisServer.start("alphapassword");
  await using to = await startServer("s3", "secretkey");
  await using before = await Recorder.before(from.port);
  await using beforeTo = await Recorder.before(to.ports[0]!);
  const source = `redis://127.0.0.1:${before.port}`;
  const target = to.url.replace(/127\.0\.0\.1:\d+/, `127.0.0.1:${beforeTo.port}`);
  writeFileSync(dir.file("object"), "content");
  const alpha = secretFile(dir, "alpha", "alphapassword");
  const aws = secretFile(
    dir,
    "aws",
    "[default]\naws_access_key_id = testkey\naws_secret_access_key = secretkey",
  );
  const ended = await inShell(
    `set -e
     lmshm put ${source} ${dir.file("object")} --metadata note=x --store-secret-file ${alpha}
     lmshm cp ${source} '${target}' --store-secret-file ${alpha}
     unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
     lmshm cp ${source} '${target}' --store-secret-file ${alpha} --to-store-secret-file ${aws}
     lmshm cp '${target}' '${source}?prefix=back:' --store-secret-file ${aws} \\
       --to-store-secret-file ${alpha}`,
    to.secrets,
  );
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /^copied 1 object.*\ncopied 0 objects, 1 skipped\ncopied 1 object/m);
  assert.ok(beforeTo.sent.includes("Credential=testkey/"));
  assert.ok(!beforeTo.sent.includes("alphapassword"));
  assert.ok(!/testkey|secretkey/.test(before.sent));
  assert.ok(!/alphapassword|secretkey/.test(ended.stdout + ended.stderr));
});

test("a failure of one of two stores says of which, whenever it comes", ON_BOTH, async () => {
  using dir = new TempDir();
  await using from = await RedisServer.start("alphapassword");
  await using to = await startServer("s3", "secretkey");
  writeFileSync(dir.file("object"), "content");
  const alpha = secretFile(dir, "alpha", "alphapassword");
  const aws = secretFile(
    dir,
    "aws",
    "[default]\naws_access_key_id = testkey\naws_secret_access_key = wrong",
  );
  const run = (script: string) =>
    inShell(`unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY\n${script}`);
  const [source, target] = [`redis://127.0.0.1:${from.port}`, to.url];
  const put = `lmshm put ${source} ${dir.file("object")} --store-secret-file ${alpha}`;
  assert.equal((await run(put)).code, 0);
  // A server of S3 is asked for the first object what it thinks of the login.
  const files = `--store-secret-file ${alpha} --to-store-secret-file ${aws}`;
  const wrong = await run(`lmshm cp ${source} '${target}' ${files}`);
  assert.equal(wrong.code, 1);
  assert.match(
    wrong.stderr,
    /^lmshm: object: TO: stat .*EACCES.*The login of TO is that of --to-store-secret-file\n$/,
  );
  const none = await run(`lmshm cp '${target}' ${dir.file("kv")} --store-secret-file none`);
  assert.equal(none.code, 1);
  assert.match(none.stderr, /^lmshm: FROM: list: .*give --store-secret-file/);
  // Where one file is for the only engine no other option is named.
  const only = await run(`lmshm cp ${dir.path} '${target}' object --store-secret-file ${aws}`);
  assert.doesNotMatch(only.stderr, /--to-store-secret-file/);
});

test("an option for a secret that is empty, or for another store, is refused", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  for (
    const [args, said] of [
      [["ls", "redis://h", "--store-secret-file", ""], /--store-secret-file is empty.*none/],
      [
        ["cp", "redis://a", "redis://b", "--to-store-secret-file="],
        /--to-store-secret-file is empty/,
      ],
      [
        ["cp", "redis://a", "redis://b", "--to-secret-file", "x"],
        /--to-secret-file is for a worker at host:port, and TO is redis:\/\/b.*--to-store-secret-file/,
      ],
      [["cp", dir.file("kv"), "kv@unix:/w", "--to-secret-file", "x"], /and TO is kv@unix:\/w/],
    ] as const
  ) {
    const ended = await lmshm(...args);
    assert.equal(ended.code, 2, ended.stderr);
    assert.match(ended.stderr, said);
  }
});

test(
  "where metadata is not kept a copy says so once, and is not made again",
  ON_REDIS,
  async () => {
    using dir = new TempDir();
    await using server = await RedisServer.start("testsecret");
    const payload = `${server.url}?layout=payload`;
    const run = async (...args: string[]) => {
      const quoted = args.map((word) => `'${word}'`).join(" ");
      const ended = await inShell(`lmshm ${quoted}`, server.secrets);
      assert.equal(ended.code, 0, ended.stderr);
      return ended;
    };
    for (const name of ["a", "b", "c"]) writeFileSync(dir.file(name), name.repeat(100));
    const source = `${server.url}?prefix=from:`;
    await run("put", source, dir.file("a"), dir.file("b"), "--metadata", "note=x");
    await run("put", source, dir.file("c"));

    const first = await run("cp", source, `${payload}&prefix=to:`, "--json");
    const note = /^lmshm: TO has no place for metadata \(note\).*layout=lmshm$/gm;
    assert.equal(first.stderr.match(note)?.length, 1, first.stderr);
    const told = (stdout: string) =>
      jsonLines(stdout).map(({ key, skipped, compared, lost }) => [key, skipped, compared, lost])
        .sort();
    assert.deepEqual(told(first.stdout), [
      ["a", false, undefined, ["note"]],
      ["b", false, undefined, ["note"]],
      ["c", false, undefined, undefined],
    ]);
    assert.match(await server.ask("GET", "to:a"), /\r\na{100}\r\n/);

    const second = await run("cp", source, `${payload}&prefix=to:`, "--json");
    assert.deepEqual(told(second.stdout), [
      ["a", true, ["length"], ["note"]],
      ["b", true, ["length"], ["note"]],
      ["c", true, ["length"], undefined],
    ]);
    assert.equal(second.stderr.match(note)?.length, 1, second.stderr);
    assert.equal(second.stderr.match(/keeps no checksums.*--force/g)?.length, 1, second.stderr);

    // What has another length is another object; and a copy can be asked for.
    writeFileSync(dir.file("c"), "other");
    await run("put", source, dir.file("c"));
    const third = await run("cp", source, `${payload}&prefix=to:`);
    assert.match(third.stdout, /^copied 1 object, .* 2 skipped\n$/);
    const forced = await run("cp", "--force", source, `${payload}&prefix=to:`);
    assert.match(forced.stdout, /^copied 3 objects, /);

    // What LMCache's layout has a place for goes along, and is not called lost.
    const layout = ["--metadata", "shape=100", "--metadata", "dtype=uint8"];
    await run("put", source, dir.file("a"), ...layout, "--metadata", "note=x");
    const lmcache = `${server.url}?layout=lmcache-redis&prefix=lm:`;
    const fourth = await run("cp", source, lmcache, "a", "--json");
    assert.deepEqual(told(fourth.stdout), [["a", false, undefined, ["note"]]]);
    const stat = jsonLines((await run("stat", lmcache, "a", "--json")).stdout)[0]!;
    const { shape, dtype } = stat["metadata"] as Record<string, string>;
    assert.deepEqual([shape, dtype], ["100", "uint8"]);
    // One that it has no place for does not keep the bytes from being copied.
    const unfit = ["--metadata", "shape=9,9", "--metadata", "dtype=uint8"];
    await run("put", source, dir.file("b"), ...unfit);
    const fifth = await run("cp", source, lmcache, "b", "--json");
    assert.deepEqual(told(fifth.stdout), [["b", false, undefined, ["shape"]]]);

    // A put that names metadata is refused instead.
    const refused = await inShell(
      `lmshm put '${payload}' ${dir.file("a")} --metadata note=x`,
      server.secrets,
    );
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /no place for metadata \(ENOTSUP\).*redis URL.*layout=lmshm/);
  },
);

test(
  "a copy between two workers proves to each that it knows that one's secret",
  LONG,
  async () => {
    using dir = new TempDir();
    const secrets = ["one", "other"].map((name) => secretFile(dir, name, name.repeat(8)));
    for (const name of ["a", "b"]) mkdirSync(dir.file(name));
    const listen = (root: string, secret: string) =>
      startWorker("127.0.0.1:0", dir.file(root), ["--secret-file", secret]);
    await using from = await listen("a", secrets[0]!);
    await using to = await listen("b", secrets[1]!);
    writeFileSync(dir.file("object"), "content");
    const [source, target] = [`@${from.address}`, `@${to.address}`] as const;
    const given = ["--secret-file", secrets[0]!];
    const put = await lmshm("put", source, dir.file("object"), ...given);
    assert.equal(put.code, 0, put.stderr);
    const refused = await lmshm("cp", source, target, ...given);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^lmshm: TO: .*EACCES/);
    const copied = await lmshm("cp", source, target, ...given, "--to-secret-file", secrets[1]!);
    assert.match(copied.stdout, /^copied 1 object, /, copied.stderr);
  },
);

test("a copy is taken for one by all that both stores tell", () => {
  const one: ObjectStat = {
    ...{ byteLength: 5, mtimeMs: 1000, diskBytes: 5, crc32c: 7 },
    metadata: { note: "x" },
  };
  const cases: [Partial<ObjectStat>, boolean, readonly string[] | null][] = [
    [{}, true, ["length", "checksum", "metadata"]],
    [{ mtimeMs: 1 }, true, ["length", "checksum", "metadata"]],
    [{ byteLength: 6 }, true, null],
    [{ crc32c: 8 }, true, null],
    [{ metadata: {} }, true, null],
    [{ metadata: {} }, false, ["length", "checksum"]],
    [{ crc32c: null, metadata: {} }, false, ["length", "time"]],
    [{ crc32c: null, metadata: {}, mtimeMs: 999 }, false, null],
    [{ crc32c: null, metadata: {}, mtimeMs: 0 }, false, ["length"]],
    [{ crc32c: null, byteLength: 4, mtimeMs: 0 }, false, null],
  ];
  for (const [changes, keeps, equal] of cases) {
    assert.deepEqual(sameness(one, { ...one, ...changes }, keeps), equal, JSON.stringify(changes));
  }
  assert.deepEqual(lostNames(one, { ...one, metadata: {} }, false), ["note"]);
  assert.deepEqual(lostNames(one, one, false), []);
  assert.deepEqual(lostNames(one, null, true), []);
});

/** A worker of version 2 that has so many objects. */
function withObjects(
  dir: TempDir,
  count: number,
  remove: (keys: readonly string[], peer: Peer) => string,
): Promise<ScriptedWorker> {
  return ScriptedWorker.listen(dir, (line, peer) => {
    const [id, verb, ...words] = line.split(" ");
    if (id === "HELLO") {
      return "OK 2 boot=0123456789abcdef worker=x/1 xattr=1 window=64 engine=redis";
    }
    if (verb === "LIST") {
      const keys = Array.from({ length: count }, (_, i) => `obj/${i}`);
      return `${id} OK - ${keys.join(" ")}`;
    }
    return verb === "REMOVE" ? remove(words, peer).replace("ID", id!) : `${id} OK`;
  });
}

function removals({ lines }: ScriptedWorker): number[] {
  return lines.filter((line) => line.includes(" REMOVE ")).map((line) =>
    line.split(" ").length - 2
  );
}

test("rm removes what a pattern finds with few requests", LONG, async () => {
  using dir = new TempDir();
  const yes = (keys: readonly string[]) => `ID OK ${"1".repeat(keys.length)}`;
  await using worker = await withObjects(dir, 300, yes);
  const ended = await lmshm("rm", `kv@unix:${worker.path}`, "obj/*", "named", "--json");
  assert.equal(ended.code, 0, ended.stderr);
  const lines = jsonLines(ended.stdout);
  assert.equal(lines.length, 301);
  assert.ok(lines.every(({ ok, removed }) => ok === true && removed === true));
  assert.deepEqual(removals(worker).sort((a, b) => a - b), [1, 44, 128, 128]);
  // At a terminal it says how far it is.
  const shown = await atTerminal(80, `lmshm rm kv@unix:${worker.path} 'obj/*'`);
  assert.match(shown.stdout, /\b\d+ objects.*\bremoved 300 objects/s);
  const dry = await lmshm("rm", "-n", `kv@unix:${worker.path}`, "obj/*");
  assert.match(dry.stdout, /^obj\/299\nwould remove 300 objects\n$/m);
  assert.equal(removals(worker).length, 4 + 3, "nothing is removed, and nobody is asked again");
  // What a pattern found is not asked for again where it is named, too.
  const args = ["obj/*", "obj/7", "named", "named", "--json"];
  const twice = await lmshm("rm", `kv@unix:${worker.path}`, ...args);
  assert.equal(jsonLines(twice.stdout).length, 301);
  assert.deepEqual(removals(worker).slice(7).sort((a, b) => a - b), [1, 44, 128, 128]);
});

test("of objects that are removed together the one at fault is named", LONG, async () => {
  using dir = new TempDir();
  await using worker = await withObjects(dir, 20, (keys) => {
    if (keys.includes("obj/7")) return "ID ERROR EACCES remove obj/7: no right";
    // A request that failed has removed some.
    return `ID OK ${keys.map((key) => key === "obj/3" ? "0" : "1").join("")}`;
  });
  const ended = await lmshm("rm", `kv@unix:${worker.path}`, "obj/*");
  assert.equal(ended.code, 1);
  assert.equal(ended.stdout, "removed 19 objects, 1 failed\n");
  assert.match(ended.stderr, /^lmshm: obj\/7: .*no right.*\n$/);
  assert.deepEqual(removals(worker), [20, ...Array<number>(20).fill(1)]);
});

test("where the server is gone a removal is told once, and not repeated", LONG, async () => {
  using dir = new TempDir();
  await using worker = await withObjects(
    dir,
    20,
    () => "ID ERROR ECONNRESET remove obj/0: whether the object was removed is not known",
  );
  const store = `kv@unix:${worker.path}`;
  const ended = await lmshm("rm", store, "obj/*");
  assert.equal(ended.code, 1);
  assert.match(ended.stderr, /^lmshm: obj\/0 and 19 more: .*is not known.*\n$/);
  assert.equal(ended.stdout, "removed 0 objects, 20 failed\n");
  assert.deepEqual(removals(worker), [20]);
  const json = await lmshm("rm", store, "obj/*", "--json");
  assert.deepEqual(
    jsonLines(json.stdout).map(({ ok, code }) => [ok, code]),
    Array.from({ length: 20 }, () => [false, "ECONNRESET"]),
  );
});

test("rm of many objects in an engine removes them all", ON_REDIS, async () => {
  await using server = await RedisServer.start("testsecret");
  const names = Array.from({ length: 1500 }, (_, i) => [`obj/${i}`, "x"]).flat();
  await server.ask("MSET", ...names, "other", "x");
  const ended = await inShell(`lmshm rm ${server.url} 'obj/*'`, server.secrets);
  assert.equal(ended.stdout, "removed 1500 objects\n", ended.stderr);
  assert.match(await server.ask("DBSIZE"), /^:1\r/);
});
