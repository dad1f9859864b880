// SPDX-License-Identifier: Apache-2.0
//
// lmshm top: rates and percentiles of the time between two looks, screens of any size, plain lines,
// a worker that goes and comes, and a terminal that is afterwards what it was before.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmError, type WorkerInfo } from "../src/mod.ts";
import type { CommandDescription } from "../src/cli/description.ts";
import { TOP } from "../src/cli/descriptions/top.ts";
import { jsonLine, plainHeader, plainLine } from "../src/cli/top/plain.ts";
import { quantileMs, ratesBetween } from "../src/cli/top/rates.ts";
import { screen, type ScreenState } from "../src/cli/top/screen.ts";
import { type Sample, Watch } from "../src/cli/top/watch.ts";
import { workerInfo } from "../src/worker/v2/info.ts";
import {
  hasProgram,
  inShell,
  lmshm,
  lmshmCommand,
  TerminalSession,
} from "./support/command_line.ts";
import { fixtureCommand } from "./support/process.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 240_000 };
const AT_TERMINAL = {
  ...LONG,
  skip: hasProgram("script") ? false : "script (bsdutils) is not installed",
};

/** What a worker says that has run for so long, with so many gets in each bucket. */
function infoOf(uptimeMs: number, gets: readonly [number, number, number], more = {}): WorkerInfo {
  const [fast, slow, slowest] = gets;
  return workerInfo("lmshm-worker/0.1.0", {
    uptime_ms: `${uptimeMs}`,
    clients: "3",
    threads: "4",
    queued: "2",
    running: "1",
    bytes_in_flight: "33554432",
    max_bytes_in_flight: "268435456",
    errors: "5",
    cancelled: "1",
    hits: `${fast + slow}`,
    misses: `${slowest}`,
    get_requests: `${fast + slow + slowest}`,
    get_errors: "5",
    get_bytes: `${fast * 1_000_000}`,
    get_latency_us: `1000:${fast},2000:${fast + slow},inf:${fast + slow + slowest}`,
    get_latency_us_sum: "1",
    put_requests: "7",
    put_errors: "0",
    put_bytes: "7000",
    put_latency_us: "1000:7,2000:7,inf:7",
    max_bytes: "500000000",
    used_bytes: "205000000",
    objects: "1234",
    evictions: "12",
    directory_use: "1200:200000000:models%2Fa-directory-with-a-long-name,34:5000000:",
    ...more,
  });
}

const reading = (info: WorkerInfo, atMs: number) => ({ info, askedMs: atMs, answeredMs: atMs + 1 });

test("rates and percentiles are of the time between two answers alone", () => {
  const before = reading(infoOf(10_000, [1000, 0, 0]), 500);
  const now = reading(infoOf(12_000, [1010, 80, 10]), 2500);
  const rates = ratesBetween(before, now);
  assert.equal(rates.seconds, 2);
  assert.equal(rates.sinceStart, false);
  const { get, put } = rates.verbs;
  assert.equal(get!.requestsPerSecond, 50);
  assert.equal(get!.bytesPerSecond, 5_000_000);
  // 10 of 100 within 1 ms, 90 within 2 ms: the 50th is half-way through the second bucket.
  assert.equal(get!.p50Ms, 1.5);
  assert.equal(get!.p99Ms, 2, "slower than the last bound counts as that");
  assert.equal(put!.requestsPerSecond, 0);
  assert.equal(put!.p50Ms, null);
  assert.equal(rates.hitRatio, 0.9);
  assert.equal(rates.errorsPerSecond, 0);
});

test("a worker that was started again is counted from its start, however young the old one was", () => {
  const before = reading(infoOf(900, [1000, 0, 0]), 0);
  for (const uptimeMs of [100, 900, 1_500]) {
    const rates = ratesBetween(before, reading(infoOf(uptimeMs, [30, 0, 0]), 2_000));
    assert.equal(rates.sinceStart, true, `${uptimeMs}`);
    assert.equal(rates.seconds, uptimeMs / 1000);
    assert.equal(rates.verbs["get"]!.requestsPerSecond, 30 / (uptimeMs / 1000));
  }
  assert.equal(ratesBetween(null, before).sinceStart, true);
  // A slow answer does not make another worker of it.
  const slow = { info: infoOf(2_900, [1001, 0, 0]), askedMs: 2_000, answeredMs: 5_000 };
  assert.equal(ratesBetween(before, slow).sinceStart, false);
});

test("a percentile of no request, and of the first and the last bucket", () => {
  const none = [{ leUs: 10, count: 3 }, { leUs: Infinity, count: 3 }];
  assert.equal(quantileMs(0.5, none, none), null);
  assert.equal(quantileMs(0.5, [], []), null);
  assert.equal(quantileMs(0.5, [], [{ leUs: 10, count: 2 }, { leUs: Infinity, count: 2 }]), 0.005);
  assert.equal(quantileMs(0.5, [], [{ leUs: 10, count: 0 }, { leUs: Infinity, count: 2 }]), 0.01);
});

async function samples(): Promise<Sample[]> {
  const answers: (WorkerInfo | ShmError)[] = [
    infoOf(10_000, [1000, 0, 0]),
    infoOf(12_000, [1010, 80, 10], { counted: "0", fallbacks: "3" }),
    new ShmError("connect ECONNREFUSED /run/a/rather/long/path/of/a/socket/lmshm.sock", {
      code: "ECONNREFUSED",
      operation: "connect to worker",
    }),
  ];
  const watch = new Watch(() => {
    const answer = answers.shift()!;
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
  });
  return [await watch.look(), await watch.look(), await watch.look()];
}

test("a screen has as many lines as there are, and none is longer than it is wide", async () => {
  const all: (Sample | null)[] = [null, ...await samples()];
  for (const sample of all) {
    for (let columns = 20; columns <= 120; columns += 4) {
      for (const rows of [1, 3, 10, 24, 60]) {
        const state: ScreenState = {
          address: "models/kv@unix:/run/a/rather/long/path/lmshm.sock",
          ...{ sample, columns, rows, intervalMs: 2000, lateMs: 0, sort: "requests" },
          nowMs: (sample?.atMs ?? 0) + 65_000,
        };
        const lines = screen(state);
        assert.equal(lines.length, rows);
        for (const { text } of lines) assert.ok(text.length <= columns, `${columns}: ${text}`);
      }
    }
  }
});

test("at 40 columns a screen still says what matters", async () => {
  const [, up, down] = await samples();
  const at40 = { address: "unix:/w.sock", columns: 40, rows: 24, intervalMs: 2000, lateMs: 0 };
  const text = (sample: Sample) =>
    screen({ ...at40, sample, sort: "requests", nowMs: sample.atMs + 65_000 })
      .map((line) => line.text.trimEnd()).join("\n");
  const shown = text(up!);
  for (
    const part of [
      "clients 3",
      "threads 4, 1 at work",
      "queue 2",
      "hits 90.0 %",
      "errors 0/s, 5 in all",
      "41%",
      "205 MB of 500 MB",
      "1,234 objects",
      "get            50    5.00 MB  2.00 ms",
      "still counting what is there",
      "models/a-d…-long-name    1,200    200 MB",
      "q quit",
    ]
  ) assert.ok(shown.includes(part), `${part} is not in\n${shown}`);
  assert.match(text(down!), /^GONE since \d\d:\d\d:\d\d, 65 s$/m);
  assert.match(text(down!), /ECONNREFUSED/);
  const late = screen({ ...at40, lateMs: 3_400, sample: up!, sort: "verb", nowMs: 0 });
  assert.ok(late.some((line) => line.text.includes("no answer for 3 s")));
});

test("plain lines and JSON are the same for whatever happens", async () => {
  const [, up, down] = await samples();
  const titles = plainHeader().split(/ +/);
  const [ups, downs] = [plainLine(up!).split(/ +/), plainLine(down!).split(/ +/)];
  assert.equal(ups.length, titles.length);
  assert.equal(downs.length, titles.length);
  assert.equal(plainLine(up!).length, plainHeader().length);
  const cell = (title: string) => ups[titles.indexOf(title)];
  assert.equal(cell("state"), "up");
  assert.equal(cell("get/s"), "50.0");
  assert.equal(cell("get_MB/s"), "5.0");
  assert.equal(cell("get_p99_ms"), "2.0");
  assert.equal(cell("put_p99_ms"), "-");
  assert.equal(cell("hit_%"), "90.0");
  assert.equal(cell("used_MB"), "205.0");
  assert.deepEqual(downs.slice(1), ["down", ...titles.slice(2).map(() => "-")]);
  const { members } = (TOP as CommandDescription).json!;
  for (const sample of [up!, down!]) {
    for (const member of Object.keys(JSON.parse(jsonLine(sample)))) assert.ok(member in members);
  }
});

test("only what waiting repairs is waited for", async () => {
  for (const [code, waits] of [["ENOENT", true], ["EACCES", false], ["ENOTSUP", false]] as const) {
    const error = new ShmError("no", { code, operation: "connect to worker" });
    const look = new Watch(() => Promise.reject(error)).look();
    if (waits) assert.equal((await look).up, false);
    else await assert.rejects(look, error);
  }
});

test("lmshm top prints a line a sample, also of a worker that goes and comes", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  const socket = `unix:${dir.file("w.sock")}`;
  await using first = await startWorker(socket, dir.file("kv"), ["--max-bytes", "0"]);
  const [command, line] = lmshmCommand("top", `sub@${socket}`, "--interval", "0.2", "--json");
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
  const gone = once(child, "exit");
  const lines: Record<string, unknown>[] = [];
  let rest = "";
  let seen = Promise.withResolvers<void>();
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    for (const part of parts) lines.push(JSON.parse(part));
    seen.resolve();
    seen = Promise.withResolvers<void>();
  });
  // deno-lint-ignore no-explicit-any
  const until = async (what: string, test: (line: any) => boolean, from = lines.length) => {
    while (!lines.slice(from).some(test)) {
      assert.equal(child.exitCode, null, what);
      await seen.promise;
    }
  };
  await until("up", ({ up }) => up === true);
  writeFileSync(dir.file("f"), "x".repeat(10_000));
  const put = lmshm("put", `sub@${socket}`, dir.file("f"));
  await until("the put is seen", ({ verbs }) => verbs.put.requestsPerSecond > 0);
  assert.equal((await put).code, 0);
  await until("what is stored is seen", ({ objects }) => objects === 1);
  await first[Symbol.asyncDispose]();
  await until("it is gone", ({ up, since, code }) => up === false && since && code);
  const before = lines.length;
  await using _again = await startWorker(socket, dir.file("kv"));
  await until(
    "it is another one",
    ({ up, sinceStart }) => up === true && sinceStart === true,
    before,
  );
  await until("it goes on", ({ up, sinceStart }) => up === true && sinceStart === false);
  // Not child.kill(): Deno then reports the signal, whatever the status was.
  process.kill(child.pid!, "SIGTERM");
  assert.deepEqual(await gone, [130, null]);
});

test("lmshm top ends with its count, with its reader, and says what is wrong", LONG, async () => {
  using dir = new TempDir();
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.path);
  const counted = await lmshm("top", worker.address, "-i", "0.1", "-n", "2");
  assert.equal(counted.code, 0, counted.stderr);
  const lines = counted.stdout.trimEnd().split("\n");
  assert.equal(lines.length, 3);
  assert.match(lines[0]!, /^time +state +clients +queued /);
  assert.match(lines[2]!, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ up +1 +0 /);
  const head = await inShell(
    `set -o pipefail; lmshm top ${worker.address} -i 0.1 | head -n 2 >/dev/null; echo "$?"`,
  );
  assert.equal(head.stdout, "0\n");
  assert.equal(head.stderr, "");
  const full = await inShell(`lmshm top ${worker.address} -i 0.1 > /dev/full; echo "$?"`);
  assert.equal(full.stdout, "1\n");
  assert.match(full.stderr, /standard output cannot be written/);
  const away = await lmshm("top", `unix:${dir.file("none.sock")}`, "-i", "0.1", "-n", "2");
  assert.equal(away.code, 1);
  assert.match(away.stderr, /^lmshm: .*none\.sock/);
  assert.equal(away.stderr.trimEnd().split("\n").length, 1, "it is said once");
  assert.equal(away.stdout.match(/ down /g)?.length, 2);
  const cases: [string[], RegExp][] = [
    [["top"], /WORKER is missing/],
    [["top", "nonsense"], /has no port/],
    [["top", worker.address, "again"], /takes one WORKER/],
    [["top", worker.address, "-i", "0"], /--interval takes seconds/],
    [["top", worker.address, "-n", "0"], /--count takes an integer/],
  ];
  for (const [args, message] of cases) {
    const ended = await lmshm(...args);
    assert.equal(ended.code, 2, args.join(" ") + ended.stderr);
    assert.match(ended.stderr, message);
  }
});

const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";

/** The terminal shows again what it showed before, and what came after that. */
function restored(shown: string): string {
  assert.ok(shown.includes(ENTER), "the screen was entered");
  assert.ok(shown.lastIndexOf(LEAVE) > shown.lastIndexOf(ENTER), JSON.stringify(shown.slice(-500)));
  return shown.slice(shown.lastIndexOf(LEAVE) + LEAVE.length);
}

function topAt(address: string, columns: number, rows: number, ...args: string[]) {
  const [command, line] = lmshmCommand("top", address, ...args);
  return new TerminalSession([command, ...line], columns, rows);
}

test(
  "at a terminal: keys, another size, a worker that goes and comes, q",
  AT_TERMINAL,
  async () => {
    using dir = new TempDir();
    mkdirSync(dir.file("kv"));
    const socket = `unix:${dir.file("w.sock")}`;
    await using first = await startWorker(socket, dir.file("kv"));
    await using session = topAt(socket, 40, 20, "-i", "0.5");
    await session.shows(/clients 1/);
    // deno-lint-ignore no-control-regex
    for (const line of session.shown.split(ENTER)[1]!.split(/\r+\n|\x1b\[H/)) {
      // deno-lint-ignore no-control-regex
      assert.ok(line.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, "").length <= 40, line);
    }
    session.type("s");
    await session.shows(/s sort: bytes/);
    session.type("+");
    await session.shows(/every 1 s/);
    session.type("-");
    await session.shows(/every 0.5 s/);
    assert.ok(!session.shown.includes("p50"), "no room for it");
    session.resize(100, 30);
    await session.shows(/p50/);
    await first[Symbol.asyncDispose]();
    await session.shows(/GONE since/);
    const from = session.shown.length;
    await using _again = await startWorker(socket, dir.file("kv"));
    await session.shows(/clients 1/, from);
    session.type("q");
    assert.equal(await session.status, 0);
    assert.equal(restored(session.shown), "");
  },
);

test(
  "a worker that does not answer is late, and keeps nobody from leaving",
  AT_TERMINAL,
  async () => {
    using dir = new TempDir();
    await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.path);
    await using session = topAt(worker.address, 80, 24, "-i", "0.5");
    await session.shows(/clients 1/);
    process.kill(worker.child.pid!, "SIGSTOP");
    try {
      await session.shows(/no answer for \d s/);
      session.type("q");
      assert.equal(await session.status, 0);
      assert.equal(restored(session.shown), "");
    } finally {
      process.kill(worker.child.pid!, "SIGCONT");
    }
  },
);

test("Ctrl-C and SIGTERM leave the terminal as it was", AT_TERMINAL, async () => {
  using dir = new TempDir();
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.path);
  for (
    const end of [
      (session: TerminalSession) => session.type("\x03"),
      (session: TerminalSession) => process.kill(session.pid(), "SIGTERM"),
    ]
  ) {
    await using session = topAt(worker.address, 80, 24);
    await session.shows(/clients 1/);
    end(session);
    assert.equal(await session.status, 130);
    assert.match(restored(session.shown), /^lmshm: interrupted; it watches no more\r\n$/);
  }
});

test("a failure leaves the terminal as it was, wherever it comes from", AT_TERMINAL, async () => {
  const [command, line] = fixtureCommand("live_terminal_crash.ts");
  await using session = new TerminalSession([command, ...line], 80, 24);
  assert.equal(await session.status, 1);
  assert.match(restored(session.shown), /Error: it broke/);
});
