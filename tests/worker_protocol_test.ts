// SPDX-License-Identifier: Apache-2.0
//
// The pure parts of the worker client: lines, replies, addresses, limits.

import assert from "node:assert/strict";
import { test } from "node:test";
import { formatWorkerAddress, parseWorkerAddress } from "../src/worker/address.ts";
import { codeFromMessage, errnoNumber } from "../src/worker/errno_text.ts";
import { LineSplitter } from "../src/worker/line_splitter.ts";
import { describeLog, LogTail } from "../src/worker/log_tail.ts";
import { checkSecret } from "../src/worker/login.ts";
import { MAX_LINE_BYTES, parseReply } from "../src/worker/reply.ts";
import { replyError } from "../src/worker/reply_error.ts";
import { RestartLimiter } from "../src/worker/restart_limiter.ts";
import { lineOf } from "../src/worker/v1/requests.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

test("lineOf() writes words and numbers as they are", () => {
  assert.equal(lineOf("PING"), "PING\n");
  assert.equal(
    lineOf("WRITE", "/d/\u00e9\u{1f600}.data", 0xffff_ffff_ffff_ffffn, 0),
    "WRITE /d/\u00e9\u{1f600}.data 18446744073709551615 0\n",
  );
});

test("lineOf() refuses what would become another line or another path", () => {
  for (
    const path of ["", "/a\nQUIT", "/a\r", "/a\0b", "/a\u0085b", "/a\x7f", "/a b", "/a ", "\ud800"]
  ) {
    assert.throws(() => lineOf("WRITE", path, 0n, 0), RangeError, JSON.stringify(path));
  }
});

test("lineOf() keeps a line within 64 KiB of UTF-8", () => {
  const fits = `/${"x".repeat(MAX_LINE_BYTES - "READ / 0 0\n".length)}`;
  assert.equal(lineOf("READ", fits, 0n, 0).length, MAX_LINE_BYTES);
  assert.throws(() => lineOf("READ", `${fits}x`, 0n, 0), /65537 bytes/);
  const wide = `/${"\u20ac".repeat(MAX_LINE_BYTES / 3)}`;
  assert.throws(() => lineOf("READ", wide, 0n, 0), RangeError);
});

test("checkSecret() refuses an unusable secret and does not repeat it", () => {
  for (
    const secret of [
      "short",
      "with a space in the middle",
      "x".repeat(1025),
      "0123456789abcde\u00e9",
    ]
  ) {
    assert.throws(() => checkSecret(secret), (error: unknown) => {
      assert.ok(error instanceof RangeError);
      assert.ok(!error.message.includes(secret), error.message);
      return true;
    });
  }
});

test("parseReply() tells OK, its number, and ERROR with its code", () => {
  assert.deepEqual(parseReply("OK"), { ok: true, text: "", count: null });
  assert.deepEqual(parseReply("OK 33554432"), { ok: true, text: "33554432", count: 33554432 });
  assert.deepEqual(parseReply("OK 0"), { ok: true, text: "0", count: 0 });
  for (
    const text of ["-1", "1.5", "0x10", "1e3", "12 13", "9007199254740993", "99999999999999999"]
  ) {
    assert.deepEqual(parseReply(`OK ${text}`), { ok: true, text, count: null });
  }
  assert.deepEqual(parseReply("ERROR ENOENT open /x: No such file or directory"), {
    ok: false,
    code: "ENOENT",
    message: "ENOENT open /x: No such file or directory",
  });
  assert.deepEqual(parseReply("ERROR"), { ok: false, code: "EWORKER", message: "" });
});

test("parseReply() takes nothing else for a reply", () => {
  for (
    const text of [
      "",
      "ok",
      "OK1",
      "OKAY",
      " OK",
      "ERRORS x",
      "LISTENING /x",
      "\u0000OK",
      "HTTP/1.1",
    ]
  ) {
    assert.equal(parseReply(text), null, JSON.stringify(text));
  }
});

test("replyError() says what to do: about a full disk, a quota, too many open files", () => {
  const hintOf = (message: string) =>
    replyError({ ok: false, code: codeFromMessage(message), message }, "put k").hint;
  assert.match(
    hintOf("ENOSPC write /x: No space left on device")!,
    /^Free space in .*file system$/,
  );
  assert.match(
    hintOf("ENOSPC 4096 bytes do not fit: --max-bytes is 100; give the worker a larger one")!,
    /^Of a worker that is started here, maxBytes is its --max-bytes$/,
  );
  assert.match(hintOf("ENFILE open /x: Too many open files in system")!, /fs\.file-max/);
  assert.match(hintOf("EMFILE open /x: Too many open files")!, /ulimit -n/);
});

test("codeFromMessage() knows our worker's names and LMCache's texts", () => {
  assert.equal(codeFromMessage("ENOSPC write /x: No space left on device"), "ENOSPC");
  assert.equal(codeFromMessage("open failed: No such file or directory"), "ENOENT");
  assert.equal(codeFromMessage("write failed: No space left on device"), "ENOSPC");
  assert.equal(codeFromMessage("shm_open failed: Permission denied"), "EACCES");
  assert.equal(codeFromMessage("unknown command: PING"), "ENOSYS");
  assert.equal(codeFromMessage("not attached"), "EWORKER");
  assert.equal(codeFromMessage("EVERYTHING is broken"), "EVERYTHING");
  assert.equal(codeFromMessage("Error of some kind"), "EWORKER");
  assert.equal(errnoNumber("ENOENT"), 2);
  assert.equal(errnoNumber("EWORKER"), undefined);
});

test("LineSplitter gives the same lines however the bytes are cut", () => {
  const text = "OK\r\nERROR ENOENT \u00e9\u20ac\u{1f600}\n\nOK 12\nrest";
  const whole = bytes(text);
  const expected = ["OK", "ERROR ENOENT \u00e9\u20ac\u{1f600}", "", "OK 12"];
  for (let size = 1; size <= whole.length; size++) {
    const splitter = new LineSplitter(64);
    const lines: string[] = [];
    const reused = new Uint8Array(size);
    for (let at = 0; at < whole.length; at += size) {
      const piece = whole.subarray(at, at + size);
      reused.set(piece);
      lines.push(...splitter.push(reused.subarray(0, piece.length)));
      reused.fill(0x58);
    }
    assert.deepEqual(lines, expected, `pieces of ${size}`);
    assert.deepEqual(splitter.push(bytes("\n")), ["rest"]);
  }
});

test("LineSplitter refuses a line beyond its limit, ended or not", () => {
  assert.deepEqual(new LineSplitter(8).push(bytes("1234567\n1234567\n")), ["1234567", "1234567"]);
  assert.throws(() => new LineSplitter(8).push(bytes("1\n12345678\n")), RangeError);
  assert.throws(() => new LineSplitter(8).push(bytes("12345678")), RangeError);
  const slow = new LineSplitter(8);
  for (let count = 0; count < 7; count++) slow.push(bytes("x"));
  assert.throws(() => slow.push(bytes("x")), RangeError);
});

test("parseWorkerAddress() understands the four forms", () => {
  assert.deepEqual(parseWorkerAddress("localhost:9800"), {
    kind: "tcp",
    host: "localhost",
    port: 9800,
  });
  assert.deepEqual(parseWorkerAddress("[::1]:1"), { kind: "tcp", host: "::1", port: 1 });
  assert.deepEqual(parseWorkerAddress("/run/x y.sock"), { kind: "unix", path: "/run/x y.sock" });
  assert.deepEqual(parseWorkerAddress("unix:/run/w"), { kind: "unix", path: "/run/w" });
  for (const text of ["127.0.0.1:9800", "[::1]:65535", "unix:/run/w"]) {
    assert.equal(formatWorkerAddress(parseWorkerAddress(text)), text);
  }
});

test("parseWorkerAddress() names the fault and the accepted forms", () => {
  const wrong = [
    "",
    "host",
    "host:",
    ":9800",
    "host:0",
    "host:65536",
    "::1:80",
    "unix:run/w",
    "a b:80",
    "host:8x",
  ];
  for (const text of [...wrong, `/${"x".repeat(107)}`, "/a\0b"]) {
    assert.throws(() => parseWorkerAddress(text), /"host:port", "\[::1\]:port"/, text);
  }
});

test("LogTail keeps the last 20 lines, cuts long ones, and hands out each once", () => {
  const seen: string[] = [];
  const log = new LogTail((line) => seen.push(line));
  for (let count = 0; count < 50; count++) log.push(bytes(`line ${count}\n`));
  log.push(bytes("y".repeat(3_000)));
  log.push(bytes("z".repeat(3_000)));
  log.push(bytes("\nlast\r\nunfin"));
  log.push(bytes("ished"));
  assert.equal(seen.length, 52);
  assert.equal(seen[50]!.length, 500);
  assert.deepEqual(log.lines.slice(-3), ["y".repeat(500), "last", "unfinished"]);
  assert.equal(log.lines.length, 21);
  assert.equal(log.lines[0], "line 32");
  assert.equal(describeLog(["a", "b", "c", 'd"']), '; it last wrote: "b" "c" "d\\""');
});

test("RestartLimiter never refuses to connect to a worker that somebody else runs", () => {
  let now = 0;
  const limits = { max: 2, windowMs: 60_000, pauseMs: 200, reconnects: true };
  const limiter = new RestartLimiter(limits, () => now);
  const pauses = Array.from({ length: 8 }, () => {
    const pause = limiter.take()!;
    now += pause;
    return pause;
  });
  assert.deepEqual(pauses, [0, 200, 400, 800, 1000, 1000, 1000, 1000]);
  assert.equal(limiter.availableInMs, 0);
  // Who comes later does not wait for what has passed.
  now += 700;
  assert.equal(limiter.take(), 300);
  now += 300 + 5_000;
  assert.equal(limiter.take(), 0);
  // After a long time without a loss the first attempt is at once, and the second soon after.
  now += 60_001;
  assert.deepEqual([limiter.take(), limiter.take()], [0, 200]);
  const patient = new RestartLimiter({ ...limits, pauseMs: 3_000 }, () => now);
  assert.deepEqual([patient.take(), patient.take(), patient.take()], [0, 3_000, 6_000]);
  assert.equal(new RestartLimiter({ ...limits, max: 0 }, () => now).take(), null);
});

test("RestartLimiter doubles its pause and allows so many attempts in its window", () => {
  let now = 0;
  const limiter = new RestartLimiter({ max: 4, windowMs: 1_000, pauseMs: 50 }, () => now);
  assert.deepEqual([1, 2, 3, 4, 5].map(() => limiter.take()), [0, 50, 100, 200, null]);
  now = 400;
  assert.equal(limiter.take(), null);
  assert.equal(limiter.availableInMs, 600);
  now = 1_000;
  assert.equal(limiter.availableInMs, 0);
  assert.equal(limiter.take(), 0);
  const never = new RestartLimiter({ max: 0, windowMs: 1_000, pauseMs: 50 }, () => now);
  assert.equal(never.take(), null);
  assert.equal(never.availableInMs, Infinity);
});
