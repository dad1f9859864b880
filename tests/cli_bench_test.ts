// SPDX-License-Identifier: Apache-2.0
//
// lmshm bench: what it reports, that its words and charts say what was measured, and that nothing of
// it is left however it ends. No test says how fast anything is.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { barChart, svgChart } from "../src/cli/bench/chart.ts";
import { Neighbours } from "../src/cli/bench/helper.ts";
import { type Measure, measureOf, summaryOf, verdictOf } from "../src/cli/bench/result.ts";
import { NotHere, type Plan, sampled } from "../src/cli/bench/sampler.ts";
import { lmshm, lmshmCommand } from "./support/command_line.ts";
import { eventually, TempDir } from "./support/worker.ts";

const LONG = { timeout: 240_000 };
/** 16 MiB of memory and disk. */
const SMALL = ["--quick", "--chunk-size", "1MiB"];

/** Processes whose parent is, or was, `pid`: by the environment that names it. */
function helpersOf(pid: number): number[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map(Number).filter((one) => {
    try {
      return readFileSync(`/proc/${one}/environ`, "latin1").includes(
        `LMSHM_BENCH_ROLE=busy ${pid}\0`,
      );
    } catch {
      return false;
    }
  });
}

test("lmshm bench measures, tells all of it, and leaves nothing", LONG, async () => {
  using dir = new TempDir();
  mkdirSync(dir.file("data"));
  writeFileSync(dir.file("data/mine"), "stays");
  const svg = dir.file("bench.svg");
  const { code, stdout, stderr } = await lmshm(
    ...["bench", dir.file("data"), ...SMALL, "--json", "--svg", svg],
  );
  assert.equal(code, 0, stderr);
  const report = JSON.parse(stdout);
  assert.equal(report.ok, true);
  assert.equal(report.chunkBytes, 2 ** 20);
  const measures: Measure[] = report.measures;
  const names = measures.filter(({ beside }) => beside === 0).map(({ name }) => name);
  for (const name of ["allocation", "put", "cold get", "cached get", "round trip", "4 KiB gets"]) {
    assert.ok(names.includes(name), name);
  }
  const busy = measures.filter(({ beside }) => beside > 0);
  assert.deepEqual(busy.map(({ name }) => name), ["put", "cached get", "round trip"]);
  for (const { name, median, min, max, samples, limits, skipped } of measures) {
    if (skipped !== null) {
      assert.match(skipped, /file system/, name);
      continue;
    }
    assert.ok(samples.length >= 3, name);
    assert.ok(min! > 0 && min! <= median! && median! <= max!, name);
    assert.ok(limits.length >= 1, name);
    for (const limit of limits) {
      assert.equal(limit.samples.length, samples.length, "in turns");
      assert.ok(limit.share.min > 0 && limit.share.min <= limit.share.max, name);
      assert.ok(limit.verdict.length > 0);
    }
  }
  assert.deepEqual(readdirSync(dir.file("data")), ["mine"]);
  assert.match(readFileSync(svg, "utf8"), /^<svg [\s\S]*cached get[\s\S]*<\/svg>\n$/);
  assert.deepEqual(readdirSync(dir.path).sort(), ["bench.svg", "data"]);
});

test(
  "lmshm bench refuses at once what does not fit, and what it is told wrongly",
  LONG,
  async () => {
    using dir = new TempDir();
    const data = dir.file("new/data");
    const cases: [string[], RegExp, number][] = [
      [[data, "--chunk-size", "1GiB"], /--chunk-size takes whole pages/, 2],
      [[data, "--chunk-size", "5000"], /--chunk-size takes whole pages/, 2],
      [[data, "--svg", dir.path], /is a directory/, 2],
      [[data, "--svg", dir.file("none/x.svg")], /cannot be written/, 1],
      [[data, "second"], /takes one DIR/, 2],
      [["redis://127.0.0.1:1"], /a directory of this machine/, 2],
      [["unix:/run/w"], /a directory of this machine/, 2],
    ];
    for (const [args, message, status] of cases) {
      const ended = await lmshm("bench", ...args);
      assert.equal(ended.code, status, args.join(" ") + ended.stderr);
      assert.match(ended.stderr, message);
      assert.equal(ended.stdout, "");
    }
    assert.deepEqual(readdirSync(dir.path), [], "the directories above are gone, too");
  },
);

test("lmshm bench interrupted beside busy processes leaves none of them", LONG, async () => {
  using dir = new TempDir();
  const [command, line] = lmshmCommand("bench", dir.file("new"), ...SMALL);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stdout.on("data", (data) => said += data);
  const gone = once(child, "exit");
  await eventually("its neighbours are there", () => /^beside \d+ busy/m.test(said), 120_000);
  assert.ok(helpersOf(child.pid!).length > 0);
  process.kill(child.pid!, "SIGINT");
  assert.deepEqual(await gone, [130, null]);
  assert.deepEqual(helpersOf(child.pid!), []);
  assert.deepEqual(readdirSync(dir.path), []);
});

test("busy processes end with a bench that is killed", LONG, async () => {
  using dir = new TempDir();
  const [command, line] = lmshmCommand("bench", dir.path, ...SMALL);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "ignore"] });
  let said = "";
  child.stdout.on("data", (data) => said += data);
  const gone = once(child, "exit");
  await eventually("its neighbours are there", () => /^beside \d+ busy/m.test(said), 120_000);
  process.kill(child.pid!, "SIGKILL");
  await gone;
  await eventually("they are gone", () => helpersOf(child.pid!).length === 0);
});

test("neighbours that cannot start are told, and none is left", { timeout: 60_000 }, async () => {
  const signal = AbortSignal.abort(new Error("interrupted"));
  await assert.rejects(Neighbours.start(2, signal), /interrupted/);
  await eventually("they are gone", () => helpersOf(process.pid).length === 0);
});

test("samples are taken in turns, and a slow one moves less", { timeout: 60_000 }, async () => {
  const order: string[] = [];
  const counts = new Set<number>();
  const contender = (name: string, value: number) => ({
    name,
    sample: async (count: number) => {
      order.push(name);
      counts.add(count);
      await new Promise((resolve) => setTimeout(resolve, 2 * count));
      return value;
    },
  });
  const plan: Plan = {
    ...{ name: "it", unit: "MB/s", budget: 0.05, most: 8, least: 4 } as const,
    ours: contender("ours", 50),
    limits: [contender("one", 100), contender("two", 25)],
  };
  const options = { scale: 1, beside: 0, signal: new AbortController().signal, show: () => {} };
  const taken = await sampled(plan, options);
  assert.deepEqual(order.slice(0, 6), ["ours", "one", "two", "one", "two", "ours"]);
  assert.deepEqual([...counts], [8, 4], "all of them once, to warm up");
  assert.equal(taken.samples.length, taken.limits[1]!.samples.length);
  assert.ok(taken.samples.length >= 3);
  const measure = measureOf(taken);
  assert.equal(measure.median, 50);
  assert.deepEqual(measure.limits.map(({ share }) => share.median), [0.5, 2]);
  const elsewhere = () => Promise.reject(new NotHere("not on this file system"));
  const skipped = await sampled({ ...plan, ours: { name: "ours", sample: elsewhere } }, options);
  assert.equal(measureOf(skipped).skipped, "not on this file system");
  await assert.rejects(
    sampled({
      ...plan,
      ours: { name: "ours", sample: () => Promise.reject(new Error("broken")) },
    }, options),
    /broken/,
  );
});

test("verdicts say what the shares are, and when they are not to be relied on", () => {
  assert.equal(verdictOf([0.9, 1, 1.1], "MB/s"), "at the limit");
  assert.equal(verdictOf([1.5, 1.6, 1.7], "MB/s"), "more than one plain thread");
  assert.equal(verdictOf([0.1, 0.11, 0.12], "us"), "far from the limit");
  assert.equal(verdictOf([0.2, 0.5, 1.5], "MB/s"), "half of the limit, uncertain");
  // Less time is a larger share.
  const [limit] = measureOf({
    ...{ name: "round trip", unit: "us", beside: 0, skipped: null } as const,
    samples: [40, 50, 20],
    limits: [{ name: "a bare pipe", samples: [20, 10, 10] }],
  }).limits;
  assert.deepEqual(limit!.share, { median: 0.5, min: 0.2, max: 0.5 });
});

test("the charts fit their width and name all that was measured", () => {
  const measure = (name: string, beside: number, share: number) =>
    measureOf({
      ...{ name, unit: "MB/s", beside, skipped: null } as const,
      samples: [share * 1000],
      limits: [{ name: "write, <page cache>", samples: [1000] }],
    });
  const measures = [measure("put", 0, 0.5), measure("cached get", 0, 3), measure("put", 4, 1)];
  for (const columns of [20, 40, 60, 80, 200]) {
    const lines = barChart(measures, columns);
    assert.equal(lines.length, 3);
    for (const line of lines) assert.ok(line.length <= columns, `${columns}: ${line}`);
  }
  assert.deepEqual(barChart(measures, 40), [
    "put        [#####------|---------]  50 %",
    "cached get [#####################] 300 %",
    "put, busy  [###########|---------] 100 %",
  ]);
  assert.match(barChart(measures, 80)[0]!, / 50 % {2}half of the limit$/);
  const svg = svgChart("this & that", "about", measures);
  assert.match(svg, /this &#38; that/);
  assert.match(svg, /50 % of write, &#60;page cache&#62;: 500 MB\/s of 1,000 MB\/s/);
  assert.match(svg, /orange: beside 4 busy processes/);
  assert.deepEqual(summaryOf(measures), [
    "2 of 3 at their limits or close to them; furthest from it: put, 50 % of write, <page cache>",
    "beside 4 busy processes there is left of what it is alone: put 200 %",
  ]);
  assert.deepEqual(summaryOf([]), ["nothing could be measured"]);
});
