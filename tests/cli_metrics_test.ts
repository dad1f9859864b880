// SPDX-License-Identifier: Apache-2.0
//
// lmshm metrics: what the worker counts, as OpenMetrics, once and for whoever scrapes.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { get as httpGet } from "node:http";
import process from "node:process";
import { test } from "node:test";
import { FAMILIES, type Family, openMetrics } from "../src/cli/open_metrics.ts";
import { workerInfo } from "../src/worker/v2/info.ts";
import { lmshm, lmshmCommand } from "./support/command_line.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 120_000 };

function fetchText(url: string): Promise<{ status: number; type: string; body: string }> {
  return new Promise((resolve, reject) => {
    httpGet(url, { agent: false }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (piece) => body += piece);
      response.on("end", () =>
        resolve({
          status: response.statusCode!,
          type: response.headers["content-type"] ?? "",
          body,
        }));
    }).on("error", reject);
  });
}

test("INFO becomes OpenMetrics: units, histograms, labels", () => {
  const info = workerInfo("lmshm-worker/0.1.0", {
    io: "auto",
    fs: 'a"b\\c',
    uptime_ms: "2000",
    clients: "3",
    put_requests: "9",
    put_errors: "1",
    put_bytes: "1000",
    put_latency_us: "100:5,1000:7,inf:9",
    put_latency_us_sum: "4500",
    hits: "2",
    misses: "1",
    used_bytes: "4096",
    dir_used_bytes: "4096",
  });
  const text = openMetrics(info, "kv", 1_000_000_000_000);
  for (
    const line of [
      "lmshm_up 1",
      "# TYPE lmshm_worker info",
      'lmshm_worker_info{version="0.1.0",io="auto",fs="a\\"b\\\\c"} 1',
      "lmshm_worker_start_time_seconds 999999998",
      "lmshm_worker_clients 3",
      "# TYPE lmshm_worker_request_duration_seconds histogram",
      "# UNIT lmshm_worker_request_duration_seconds seconds",
      'lmshm_worker_request_duration_seconds_bucket{verb="put",le="0.0001"} 5',
      'lmshm_worker_request_duration_seconds_bucket{verb="put",le="+Inf"} 9',
      'lmshm_worker_request_duration_seconds_sum{verb="put"} 0.0045',
      'lmshm_worker_request_duration_seconds_count{verb="put"} 9',
      'lmshm_worker_failures_total{verb="put"} 1',
      'lmshm_worker_moved_bytes_total{verb="put"} 1000',
      'lmshm_worker_lookups_total{result="hit"} 2',
      "lmshm_store_used_bytes 4096",
      'lmshm_directory_used_bytes{directory="kv"} 4096',
    ]
  ) assert.ok(text.split("\n").includes(line), `${line}\nis not in\n${text}`);
  assert.ok(text.endsWith("\n# EOF\n"));
  assert.ok(!openMetrics(info, null, 0).includes("lmshm_directory"), "none was named");
  assert.match(openMetrics(null, null, 0), /\nlmshm_up 0\n# EOF\n$/);
});

test("docs/operations.md names metrics that exist, and all of their families' beginnings", () => {
  const text = readFileSync(new URL("../docs/operations.md", import.meta.url), "utf8");
  const families: Family[] = Object.values(FAMILIES);
  const names = families.map(({ name, kind }) => kind === "counter" ? `${name}_total` : name);
  for (const [name] of text.matchAll(/\blmshm_(?:up|worker|store|directory)\w*/g)) {
    const plain = name.replace(/_(bucket|sum|count|info)$/, "");
    assert.ok(names.includes(name) || names.includes(plain), `${name} is no metric`);
  }
  for (const name of names) {
    const last = name.replace(/^lmshm_[a-z]+_/, "");
    assert.ok(text.includes(name) || text.includes(`..._${last}`), `${name} is not told`);
  }
});

const PARSER = `
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    print(family.name, family.type, len(family.samples))
`;
const hasParser =
  spawnSync("python3", ["-c", "import prometheus_client.openmetrics.parser"]).status === 0;

test("the parser of Prometheus's client takes all that a worker tells", {
  ...LONG,
  skip: hasParser ? false : "prometheus_client is not installed (pip install prometheus-client)",
}, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  await using worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.file("kv"), [
    ...["--max-bytes", "0"],
  ]);
  writeFileSync(dir.file("f"), "x".repeat(10_000));
  const put = await lmshm("put", `sub@${worker.address}`, dir.file("f"));
  assert.equal(put.code, 0, put.stderr);
  const { code, stdout, stderr } = await lmshm("metrics", `sub@${worker.address}`);
  assert.equal(code, 0, stderr);
  const parsed = spawnSync("python3", ["-c", PARSER], { input: stdout, encoding: "utf8" });
  assert.equal(parsed.status, 0, parsed.stderr);
  const families = new Map(
    parsed.stdout.trim().split("\n").map((line) => line.split(" ") as [string, string, string])
      .map(([name, type, samples]) => [name, [type, Number(samples)]]),
  );
  assert.equal(families.get("lmshm_worker_request_duration_seconds")?.[0], "histogram");
  assert.equal(families.get("lmshm_worker_moved_bytes")?.[0], "counter");
  assert.equal(families.get("lmshm_store_used_bytes")?.[0], "gauge");
  assert.equal(families.get("lmshm_directory_objects")?.[1], 1);
  assert.match(stdout, /^lmshm_directory_objects\{directory="sub"\} 1$/m);
  assert.match(stdout, /^lmshm_worker_moved_bytes_total\{verb="put"\} 10000$/m);
});

test("lmshm metrics --listen serves a worker that goes and comes", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  const socket = `unix:${dir.file("w.sock")}`;
  const first = await startWorker(socket, dir.file("kv"));
  const [command, line] = lmshmCommand("metrics", socket, "--listen", "0");
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
  const gone = once(child, "exit");
  const said = String((await once(child.stdout, "data"))[0]);
  const url = /^LISTENING (http:\/\/127\.0\.0\.1:\d+\/metrics)\n$/.exec(said)![1]!;
  const one = await fetchText(url);
  assert.equal(one.status, 200);
  assert.match(one.type, /^application\/openmetrics-text; version=1\.0\.0/);
  assert.match(one.body, /^lmshm_up 1$/m);
  assert.equal((await fetchText(url.replace("/metrics", "/"))).status, 404);
  await first[Symbol.asyncDispose]();
  const away = await fetchText(url);
  assert.equal(away.status, 200);
  assert.match(away.body, /^lmshm_up 0$/m);
  await using _again = await startWorker(socket, dir.file("kv"));
  assert.match((await fetchText(url)).body, /^lmshm_up 1$/m);
  // Not child.kill(): Deno then reports the signal, whatever the status was.
  process.kill(child.pid!, "SIGTERM");
  assert.deepEqual(await gone, [0, null]);
});

test("lmshm metrics: what is wrong is told", LONG, async () => {
  const cases: [string[], RegExp, number][] = [
    [["metrics"], /WORKER is missing/, 2],
    [["metrics", "/"], /./, 1],
    [["metrics", "nonsense"], /has no port/, 2],
    [["metrics", "unix:/nonexistent.sock", "--listen", "0.0.0.0:1"], /on loopback only/, 2],
    [["metrics", "unix:/nonexistent.sock", "--listen", "x"], /takes PORT/, 2],
    [["metrics", "unix:/nonexistent.sock"], /nonexistent\.sock/, 1],
  ];
  for (const [args, message, status] of cases) {
    const ended = await lmshm(...args);
    assert.equal(ended.code, status, args.join(" ") + ended.stderr);
    assert.match(ended.stderr, message);
  }
});
