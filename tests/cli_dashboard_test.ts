// SPDX-License-Identifier: Apache-2.0
//
// lmshm dashboard as a server: what it keeps of a worker, who may read it, and how it begins and ends.
// The page itself is looked at in cli_dashboard_page_test.ts.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { type IncomingHttpHeaders, request as httpRequest } from "node:http";
import { hostname } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { BufferAllocator, publishPool, type WorkerInfo } from "../src/mod.ts";
import { refusalOf } from "../src/cli/dashboard/guard.ts";
import { COLUMNS, type Row, rowOf, Track, withBothVersions } from "../src/cli/dashboard/history.ts";
import { parseListen } from "../src/cli/dashboard/listen.ts";
import type { Reading } from "../src/cli/top/rates.ts";
import { lmshm, lmshmCommand } from "./support/command_line.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 120_000 };

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

/** Not fetch(), which says itself what stands in Host, Origin and Sec-Fetch-Site. */
function ask(
  url: string,
  headers: Readonly<Record<string, string>> = {},
  method = "GET",
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { agent: false, headers, method }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => body += piece);
      response.on(
        "end",
        () => resolve({ status: response.statusCode!, headers: response.headers, body }),
      );
    });
    request.on("error", reject);
    request.end();
  });
}

class Dashboard implements AsyncDisposable {
  readonly #child: ReturnType<typeof spawn>;
  readonly #gone: Promise<unknown[]>;
  readonly said: string;

  private constructor(child: ReturnType<typeof spawn>, gone: Promise<unknown[]>, said: string) {
    this.#child = child;
    this.#gone = gone;
    this.said = said;
  }

  static async start(...args: string[]): Promise<Dashboard> {
    const [command, line] = lmshmCommand("dashboard", ...args);
    const child = spawn(command, line, { stdio: ["ignore", "pipe", "ignore"] });
    const gone = once(child, "exit");
    const said = String((await once(child.stdout!, "data"))[0]);
    return new Dashboard(child, gone, said);
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Without what follows "#". */
  get url(): string {
    return /^LISTENING (http:\/\/\S+?:\d+\/)/.exec(this.said)![1]!;
  }

  /** Its exit status. */
  async end(): Promise<unknown> {
    // Not child.kill(): Deno then reports the signal, whatever the status was.
    process.kill(this.#child.pid!, "SIGTERM");
    return (await this.#gone)[0];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill("SIGKILL");
      await this.#gone;
    }
  }
}

/** Asks until the data are as they should be. */
async function until(
  url: string,
  what: string,
  // deno-lint-ignore no-explicit-any -- JSON
  test: (data: any) => boolean,
  headers = {},
  // deno-lint-ignore no-explicit-any
): Promise<any> {
  const end = performance.now() + 40_000;
  for (;;) {
    const data = JSON.parse((await ask(`${url}data`, headers)).body);
    if (test(data)) return data;
    if (performance.now() > end) assert.fail(`${what}: ${JSON.stringify(data).slice(0, 1000)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function value(row: Row, column: typeof COLUMNS[number]): number | null {
  return row[COLUMNS.indexOf(column)]!;
}

function reading(atMs: number, words: Partial<WorkerInfo>): Reading {
  const info: WorkerInfo = { worker: "lmshm-worker/0", verbs: {}, uptimeMs: atMs, ...words };
  return { info: withBothVersions(info), askedMs: atMs, answeredMs: atMs };
}

function verb(requests: number, bytes: number, fast: number) {
  const latency = [{ leUs: 100, count: fast }, { leUs: 1000, count: requests }, {
    leUs: Infinity,
    count: requests,
  }];
  return { requests, errors: 0, bytes, latency, latencySumUs: 0 };
}

test("rows are what happened between two answers, of both versions of the protocol", () => {
  const before = reading(10_000, {
    verbs: { get: verb(10, 1000, 10), read: verb(5, 500, 5), put: verb(0, 0, 0) },
    hits: 10,
    misses: 0,
    evictedBytes: 100,
    evictions: 1,
  });
  const now = reading(12_000, {
    verbs: {
      get: verb(110, 3000, 60),
      read: verb(105, 2500, 55),
      put: verb(0, 0, 0),
      ping: verb(8, 0, 8),
      info: verb(900, 0, 900),
    },
    hits: 25,
    misses: 5,
    usedBytes: 4096,
    evictedBytes: 1100,
    evictions: 3,
    clients: 2,
  });
  const row = rowOf(77, now, before, 2000);
  assert.equal(value(row, "atMs"), 77);
  assert.equal(value(row, "up"), 1);
  assert.equal(value(row, "gets"), 100, "get and read, in two seconds");
  assert.equal(value(row, "getBytes"), 2000);
  assert.equal(value(row, "others"), 4, "ping, and not the dashboard's own questions");
  assert.equal(value(row, "hitRatio"), 0.75);
  assert.equal(value(row, "getP50"), 0.0001, "100 of 200 took at most 100 µs");
  assert.ok(value(row, "getP99")! > 0.0009 && value(row, "getP99")! < 0.001);
  assert.equal(value(row, "putP50"), null, "there was none");
  assert.equal(value(row, "usedBytes"), 4096);
  assert.equal(value(row, "maxBytes"), null);
  assert.equal(value(row, "evictions"), 1);
  assert.equal(value(row, "evictedBytes"), 500);
  assert.equal(value(row, "restarted"), 0);
});

test("a row of a worker that is away has no numbers, and one of a new worker no old ones", () => {
  const away = rowOf(5, null, reading(1000, {}), 1000);
  assert.deepEqual(away.filter((one) => one !== null), [5, 0]);
  const first = rowOf(5, reading(86_400_000, { verbs: { get: verb(1e6, 1e9, 1) } }), null, 1000);
  assert.equal(value(first, "gets"), null, "a day's work is not the rate of a second");
  assert.equal(value(first, "restarted"), 0);
  const old = { ...reading(86_400_000, { verbs: { get: verb(1e6, 1e9, 1) } }), askedMs: 1 };
  const anew = { ...reading(500, { verbs: { get: verb(20, 100, 1) } }), askedMs: 1e9 };
  const row = rowOf(5, anew, old, 1000);
  assert.equal(value(row, "restarted"), 1);
  assert.equal(value(row, "gets"), 40, "20 in the half second since it was started");
});

test("a track keeps the last rows, and gives those that are not known yet", () => {
  const track = new Track(1000, 10);
  assert.deepEqual(track.from(-1), { next: 0, everyMs: 1000, rows: [] });
  for (let index = 0; index < 57; index++) track.add(index, null);
  const times = (first: number) => track.from(first).rows.map((row) => row[0]);
  assert.deepEqual(times(-1), [47, 48, 49, 50, 51, 52, 53, 54, 55, 56]);
  assert.deepEqual(times(0), times(-1), "what is no more is left out");
  assert.deepEqual(times(54), [54, 55, 56]);
  assert.deepEqual(times(57), []);
  assert.deepEqual(times(1000), times(-1), "a number of another dashboard");
  assert.deepEqual(times(NaN), times(-1));
  assert.equal(track.from(57).next, 57);
});

test("who may read: a table of requests", () => {
  const local = { loopback: true, names: ["node1"], token: null };
  const wide = { loopback: false, names: ["node1"], token: "t".repeat(16) };
  const bearer = { authorization: `Bearer ${wide.token}` };
  const cases: [typeof local | typeof wide, IncomingHttpHeaders, number | null, string][] = [
    [local, { host: "127.0.0.1:9809" }, null, "as the browser's address line has it"],
    [local, { host: "localhost:8080" }, null, "through an SSH tunnel"],
    [local, { host: "LOCALHOST" }, null, "names have no case"],
    [local, { host: "[::1]:9809" }, null, "IPv6"],
    [local, { host: "node1:9809" }, null, "a name that is allowed"],
    [local, {}, 403, "no Host"],
    [local, { host: "" }, 403, "an empty one"],
    [local, { host: "evil.example:9809" }, 403, "a name that was made to lead here"],
    [local, { host: "localhost.evil.example" }, 403, "one that looks like ours"],
    [local, { host: "127.0.0.1.evil.example" }, 403, "or like an address"],
    [local, { host: "node1@evil.example" }, 403, "nonsense"],
    [local, { host: "10.0.0.1:9809" }, 403, "not where it listens"],
    [wide, { host: "10.0.0.1:9809", ...bearer }, null, "an address cannot be made to lead here"],
    [wide, { host: "[fd00::1]", ...bearer }, null, "IPv6"],
    [wide, { host: "evil.example", ...bearer }, 403, "a name that was not allowed"],
    [wide, { host: "10.0.0.1" }, 401, "no token"],
    [wide, { host: "10.0.0.1", authorization: "Bearer wrong" }, 401, "a wrong one"],
    [wide, { host: "10.0.0.1", authorization: `Basic ${wide.token}` }, 401, "another scheme"],
    [local, { host: "localhost:1", origin: "http://localhost:1" }, null, "its own page"],
    [local, { host: "localhost:1", origin: "https://localhost:1" }, null, "a proxy with TLS"],
    [local, { host: "localhost:1", origin: "http://localhost:2" }, 403, "another port"],
    [local, { host: "localhost:1", origin: "http://evil.example" }, 403, "another site"],
    [local, { host: "localhost:1", origin: "null" }, 403, "a sandboxed frame"],
    [local, { host: "localhost", "sec-fetch-site": "same-origin" }, null, "its own page"],
    [local, { host: "localhost", "sec-fetch-site": "none" }, null, "typed by a person"],
    [local, { host: "localhost", "sec-fetch-site": "same-site" }, 403, "another port"],
    [local, { host: "localhost", "sec-fetch-site": "cross-site" }, 403, "another site"],
  ];
  for (const [policy, headers, status, why] of cases) {
    const refusal = refusalOf({ method: "GET", headers, data: true }, policy);
    assert.equal(refusal?.status ?? null, status, `${why}: ${JSON.stringify(headers)}`);
  }
  const link = {
    host: "localhost",
    "sec-fetch-site": "cross-site",
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
  };
  const page = (headers: IncomingHttpHeaders, method = "GET") =>
    refusalOf({ method, headers, data: false }, wide)?.status ?? null;
  assert.equal(page(link), null, "a link to the page, which holds no data");
  assert.equal(page({ ...link, "sec-fetch-dest": "iframe" }), 403, "a frame");
  assert.equal(page({ ...link, "sec-fetch-mode": "no-cors" }), 403, "a script of another site");
  assert.equal(page({ host: "localhost" }), null, "the page needs no token");
  assert.equal(page({ host: "localhost" }, "POST"), 405);
  assert.equal(refusalOf({ method: "GET", headers: link, data: true }, local)?.status, 403);
});

test("--listen reads ports, hosts and IPv6 addresses", () => {
  assert.deepEqual(parseListen(undefined), { host: "127.0.0.1", port: 9809, loopback: true });
  assert.deepEqual(parseListen("0"), { host: "127.0.0.1", port: 0, loopback: true });
  assert.deepEqual(parseListen("[::1]:80"), { host: "::1", port: 80, loopback: true });
  assert.deepEqual(parseListen("[::]:80"), { host: "::", port: 80, loopback: false });
  assert.deepEqual(parseListen("0.0.0.0:80"), { host: "0.0.0.0", port: 80, loopback: false });
  assert.equal(parseListen("127.example:80").loopback, false, "a name is no address");
  for (const text of ["", "x", "70000", "::1:80", ":80", "1:2:3", "host:"]) {
    assert.throws(() => parseListen(text), /--listen takes/, text);
  }
});

test("the dashboard shows a worker that goes and comes", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  const socket = `unix:${dir.file("w.sock")}`;
  await using first = await startWorker(socket, dir.file("kv"), ["--max-bytes", "0"]);
  await using dashboard = await Dashboard.start(`sub@${socket}`, "--listen", "0");
  const { url } = dashboard;
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/$/);
  writeFileSync(dir.file("f"), "x".repeat(10_000));
  assert.equal((await lmshm("put", `sub@${socket}`, dir.file("f"))).code, 0);
  const up = await until(
    url,
    "the put is seen",
    ({ worker }) =>
      worker.up && worker.fine.rows.some((row: Row) => value(row, "putBytes")! > 0) &&
      value(worker.fine.rows.at(-1), "dirUsedBytes")! > 0,
  );
  assert.equal(up.worker.text, `sub@${socket}`);
  assert.match(up.worker.facts.worker, /^lmshm-worker\//);
  assert.deepEqual(up.columns, COLUMNS);
  assert.ok(up.worker.coarse.rows.length >= 1);
  await first[Symbol.asyncDispose]();
  const away = await until(url, "it is away", ({ worker }) => worker.up === false);
  assert.match(away.worker.error, /w\.sock/);
  assert.ok(away.worker.sinceMs >= up.worker.sinceMs);
  await using _again = await startWorker(socket, dir.file("kv"));
  const back = await until(url, "it is back", ({ worker }) => worker.up === true);
  const states = back.worker.fine.rows.map((row: Row) => value(row, "up"));
  assert.match(states.join(""), /1.*0.*1$/, "what was is kept");
  const query =
    `run=${back.run}&fine=${back.worker.fine.next}&coarse=0&pools=${back.pools.version}`;
  const news = JSON.parse((await ask(`${url}data?${query}`)).body);
  assert.ok(news.worker.fine.rows.length < states.length, "only what is new");
  assert.equal(await dashboard.end(), 0);
});

test("a worker that does not answer is told, and keeps nobody from ending", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.file("kv"));
  await using dashboard = await Dashboard.start(worker.address, "--listen", "0");
  await until(dashboard.url, "it is up", ({ worker }) => worker.up === true);
  // Not child.kill(), after which Deno sends it no other signal.
  process.kill(worker.child.pid!, "SIGSTOP");
  try {
    await until(
      dashboard.url,
      "it is late",
      ({ worker, nowMs }) => worker.askedMs !== null && nowMs - worker.askedMs > 1_000,
    );
    assert.equal(await dashboard.end(), 0);
    const left = readdirSync("/dev/shm").filter((name) =>
      name.startsWith(`lmshm-command-${dashboard.pid}-`)
    );
    assert.deepEqual(left, []);
  } finally {
    process.kill(worker.child.pid!, "SIGCONT");
  }
});

test("every answer forbids what a page of strangers could do with it", LONG, async () => {
  await using dashboard = await Dashboard.start("--listen", "0");
  const { url } = dashboard;
  const data = JSON.parse((await ask(`${url}data`)).body);
  assert.equal(data.worker, null, "none was named");
  assert.ok(Array.isArray(data.pools.list));
  for (const path of ["", "main.js", "style.css", "data", "nothing"]) {
    const { status, headers } = await ask(url + path);
    assert.equal(status, path === "nothing" ? 404 : 200, path);
    assert.match(headers["content-security-policy"] as string, /^default-src 'none'; /);
    assert.match(headers["content-security-policy"] as string, /frame-ancestors 'none'/);
    assert.equal(headers["cross-origin-resource-policy"], "same-origin");
    assert.equal(headers["x-content-type-options"], "nosniff");
    assert.equal(headers["cache-control"], "no-store");
    for (const name of Object.keys(headers)) assert.ok(!name.startsWith("access-control"), name);
  }
  const { port } = new URL(url);
  assert.equal((await ask(url, { host: `evil.example:${port}` })).status, 403);
  assert.equal((await ask(`${url}data`, { host: `evil.example:${port}` })).status, 403);
  assert.equal((await ask(`${url}data`, { origin: "http://evil.example" })).status, 403);
  const preflight = await ask(`${url}data`, { origin: "http://evil.example" }, "OPTIONS");
  assert.equal(preflight.status, 405);
  assert.equal((await ask(url, {}, "POST")).status, 405);
  const head = await ask(url, {}, "HEAD");
  assert.equal(head.status, 200);
  assert.equal(head.body, "");
});

test("of a great many pools the first are shown, and the rest is counted", LONG, async () => {
  const name = `lmshm-test-many-${process.pid}`;
  const pools = Array.from(
    { length: 30 },
    (_, index) => publishPool(new BufferAllocator(), { name: `${name}-${index}` }),
  );
  try {
    await using dashboard = await Dashboard.start("--listen", "0");
    const { pools: { list, more, version } } = JSON.parse((await ask(`${dashboard.url}data`)).body);
    assert.equal(list.length, 24);
    assert.ok(list.length + more >= 30, `${more}`);
    assert.deepEqual(list[0].ranges, []);
    assert.equal(typeof version, "number");
  } finally {
    for (const pool of pools) pool.close();
  }
});

test("beyond loopback the data need a token, which is made if none is given", LONG, async () => {
  using dir = new TempDir();
  await using made = await Dashboard.start("--listen", "0.0.0.0:0");
  const [, token] = /^LISTENING http:\/\/\S+:\d+\/#token=([\w-]{40,})\n$/.exec(made.said) ?? [];
  assert.ok(token !== undefined, made.said);
  assert.ok(made.said.includes(hostname()));
  const url = `http://127.0.0.1:${new URL(made.url).port}/`;
  assert.equal((await ask(url)).status, 200, "the page asks for it");
  const without = await ask(`${url}data`);
  assert.equal(without.status, 401);
  assert.match(without.headers["www-authenticate"]!, /^Bearer/);
  assert.ok(!without.body.includes("pools"));
  assert.equal((await ask(`${url}data`, { authorization: `Bearer ${token}` })).status, 200);
  assert.equal((await ask(`${url}data`, { authorization: `Bearer ${token}x` })).status, 401);
  assert.equal((await ask(`${url}data?token=${token}`)).status, 401, "never in an address");
  writeFileSync(dir.file("token"), "0123456789abcdef\n", { mode: 0o600 });
  await using given = await Dashboard.start("--listen", "0", "--token-file", dir.file("token"));
  assert.match(given.said, /^LISTENING \S+:\d+\/\n$/, "it is not printed");
  assert.equal((await ask(`${given.url}data`)).status, 401, "nor on loopback is it left out");
  const bearer = { authorization: "Bearer 0123456789abcdef" };
  assert.equal((await ask(`${given.url}data`, bearer)).status, 200);
  assert.equal(await given.end(), 0);
});

test("lmshm dashboard --json says where it is", LONG, async () => {
  await using local = await Dashboard.start("--listen", "0", "--json");
  const { url, token } = JSON.parse(local.said);
  assert.equal(token, null);
  assert.equal((await ask(url)).status, 200);
  await using wide = await Dashboard.start("--listen", "0.0.0.0:0", "--json");
  const said = JSON.parse(wide.said);
  assert.deepEqual(Object.keys(said), ["url", "token"]);
  const address = `http://127.0.0.1:${new URL(said.url).port}/data`;
  assert.equal((await ask(address, { authorization: `Bearer ${said.token}` })).status, 200);
});

test("lmshm dashboard: what is wrong is told", LONG, async () => {
  using dir = new TempDir();
  for (const [name, text] of [["short", "abc"], ["open", "0123456789abcdef"]] as const) {
    writeFileSync(dir.file(name), text, { mode: 0o600 });
  }
  chmodSync(dir.file("open"), 0o644);
  await using other = await Dashboard.start("--listen", "0");
  const cases: [string[], RegExp, number][] = [
    [["nonsense"], /has no port/, 2],
    [["a:1", "b:2"], /takes one WORKER/, 2],
    [["--listen", "x"], /--listen takes PORT or HOST:PORT/, 2],
    [["--listen", new URL(other.url).port], /cannot listen.*something else listens there/, 1],
    [["--listen", "203.0.113.7:0"], /cannot listen.*this machine has no such address/, 1],
    [["--token-file", dir.file("none")], /ENOENT.*openssl rand/, 1],
    [["--token-file", dir.file("short")], /has 3 characters/, 1],
    [["--token-file", dir.file("open")], /mode is 0644.*chmod 600/, 1],
  ];
  for (const [args, message, status] of cases) {
    const ended = await lmshm("dashboard", ...args);
    assert.equal(ended.code, status, args.join(" ") + ended.stderr);
    assert.match(ended.stderr.replaceAll("\n", " "), message);
    assert.equal(ended.stdout, "");
  }
});
