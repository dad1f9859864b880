// SPDX-License-Identifier: Apache-2.0
//
// How results become numbers, text and pictures. The benchmarks themselves are not run here.

import assert from "node:assert/strict";
import { test } from "node:test";
import { losses, ratioSamples } from "./compare.ts";
import { writeDocument } from "./document.ts";
import type { Environment } from "./environment.ts";
import { interleave } from "./interleave.ts";
import { fromJson, rowOf, type RunResult, SCHEMA, type Table, toJson } from "./results.ts";
import { formatNumber, formatSpread, quantile, ratios } from "./statistics.ts";
import { cellsOf, toText } from "./text_table.ts";

const RATES: Table = {
  title: "put <large>",
  conditions: "3 rounds.",
  metrics: [{ key: "rate", label: "rate", unit: "MB/s" }],
  rows: [
    rowOf("ours", "", [{ rate: 100 }, { rate: 200 }, { rate: 400 }]),
    rowOf("always faster", "a | b", [{ rate: 110 }, { rate: 210 }, { rate: 410 }]),
    rowOf("sometimes faster", "", [{ rate: 110 }, { rate: 190 }, { rate: 410 }]),
  ],
  compare: {
    metric: "rate",
    baseline: "ours",
    label: "of ours",
    better: "more",
    baselineIsOurs: true,
  },
  chart: { left: "rate", right: ["rate"], rightTitle: "rate" },
};

function environment(runtime: string): Environment {
  return {
    runtime,
    runtimeVersion: "1.2.3",
    version: "0.1.0",
    commit: "abc",
    date: "2026-01-01T00:00:00.000Z",
    processor: "A processor",
    cores: 2,
    memoryBytes: 2 ** 34,
    virtualMachine: false,
    kernel: "6.1",
    loadBefore: 0,
    backend: "liblmshm",
    compiler: "cc",
    hugePages: { enabled: "madvise" },
    shmBytes: 2 ** 33,
    fileSystem: "ext4 (rw)",
  };
}

function result(runtime: string): RunResult {
  const aims = [{
    what: "time",
    limit: 0.5,
    unit: "" as const,
    got: runtime === "bun" ? 0.4 : 0.6,
  }];
  const section = { title: "Transfers", intro: "Intro.", tables: [RATES], aims, notes: ["a note"] };
  const sections = { transfer: section };
  return { schema: SCHEMA, environment: environment(runtime), quick: false, seconds: 1, sections };
}

test("quantile() interpolates between the two nearest samples", () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(quantile([1, 2, 3], 1), 3);
  assert.equal(quantile([7], 0.99), 7);
  assert.throws(() => quantile([], 0.5), RangeError);
});

test("formatNumber() keeps three digits", () => {
  const shown = [12345.6, 99.97, 12.34, 1.005, 0.5, 0.0123, 0].map(formatNumber);
  assert.deepEqual(shown, ["12,346", "100", "12.3", "1.00", "0.500", "0.0123", "0"]);
  assert.equal(formatSpread([2, 1, 3]), "2.00 (1.00 - 3.00)");
});

test("ratios are taken round by round", () => {
  assert.deepEqual(ratios([10, 40], [20, 20]), [0.5, 2]);
  assert.deepEqual(ratioSamples(RATES, RATES.rows[1]!)!.map(formatNumber), [
    "1.10",
    "1.05",
    "1.02",
  ]);
  assert.equal(ratioSamples(RATES, RATES.rows[0]!), null);
});

test("losses() names who was better in every round, whichever side is the baseline", () => {
  assert.deepEqual(losses([RATES]).map(({ row }) => row.contender), ["always faster"]);
  const times: Table = {
    ...RATES,
    rows: [
      rowOf("common", "", [{ rate: 10 }, { rate: 10 }]),
      rowOf("ours, slower", "", [{ rate: 11 }, { rate: 12 }]),
      rowOf("ours, faster", "", [{ rate: 5 }, { rate: 6 }]),
    ],
    compare: { ...RATES.compare!, baseline: "common", better: "less", baselineIsOurs: false },
  };
  assert.deepEqual(losses([times]).map(({ row }) => row.contender), ["ours, slower"]);
  const third = { ...times, compare: { ...times.compare!, others: ["ours, slower"] } };
  assert.deepEqual(losses([third]), []);
});

test("losses() compares within a group only", () => {
  const grouped = RATES.rows.map((row) => ({ ...row, group: row.contender }));
  assert.deepEqual(losses([{ ...RATES, rows: grouped }]), []);
});

test("interleave() begins each round with another contender and drops the first round", async () => {
  const order: string[] = [];
  const contender = (name: string) => ({
    name,
    note: "",
    sample: () => Promise.resolve({ at: order.push(name) }),
  });
  const samples = await interleave(["a", "b", "c"].map(contender), 2, () => {});
  assert.equal(order.join(""), "abcbcacab");
  assert.deepEqual(samples, [[{ at: 6 }, { at: 8 }], [{ at: 4 }, { at: 9 }], [{ at: 5 }, {
    at: 7,
  }]]);
});

test("a result comes back from its file unchanged, and another format is refused", () => {
  assert.deepEqual(fromJson("x.json", toJson(result("bun"))), result("bun"));
  assert.throws(() => fromJson("x.json", '{"schema": 0}'), /x\.json is not a benchmark result/);
});

test("toText() aligns columns", () => {
  const lines = toText(cellsOf(RATES)).split("\n");
  assert.equal(lines.length, 4);
  assert.equal(lines[1], "ours              200 (100 - 400)");
  assert.ok(lines[2]!.endsWith("1.05 (1.02 - 1.10)  a | b"));
});

test("writeDocument() shows both runtimes, aims, losses and notes, and escapes text", () => {
  const { markdown, charts } = writeDocument([result("deno"), result("bun")], "bench");
  assert.match(markdown, /\|\s+\| aim \| Bun \| Deno \|/);
  assert.match(markdown, /\| time \| at most 0\.5 \| 0\.400 \| 0\.600, missed \|/);
  assert.match(markdown, /- Deno, put <large> \(of ours\): always faster 1\.05/);
  assert.match(markdown, /a \\\| b/);
  assert.match(markdown, /- Bun: a note/);
  assert.deepEqual([...charts.keys()], ["transfer.svg"]);
  const svg = charts.get("transfer.svg")!;
  assert.ok(
    svg.includes("put &#60;large&#62; - Bun") && svg.includes("put &#60;large&#62; - Deno"),
  );
  assert.ok(!svg.includes("NaN") && !svg.includes("undefined"));
});
