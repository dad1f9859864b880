// SPDX-License-Identifier: Apache-2.0
//
// How results become numbers, text and pictures. The benchmarks themselves are not run here.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { best, describeLimit, describeResult, isMet, judged, numberAim, ratioAim } from "./aims.ts";
import { drawChart } from "./chart.ts";
import { losses, ratioSamples } from "./compare.ts";
import { writeDocument } from "./document.ts";
import type { Environment } from "./environment.ts";
import { interleave } from "./interleave.ts";
import { drawOverview } from "./overview.ts";
import {
  type Aim,
  fromJson,
  rowOf,
  type RunResult,
  SCHEMA,
  type Table,
  toJson,
} from "./results.ts";
import { formatNumber, formatSpread, quantile, ratios } from "./statistics.ts";
import { parseTrace } from "./system_calls.ts";
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
    compiler: "cc",
    hugePages: { enabled: "madvise" },
    shmBytes: 2 ** 33,
    fileSystem: "ext4 (rw)",
  };
}

function aim(some: Partial<Aim> = {}): Aim {
  const samples = [0.4];
  const rest = { what: "time", better: "less", limit: 0.5, unit: "", basis: "a : b" } as const;
  return { ...rest, judge: "median", samples, ...some };
}

function result(runtime: string): RunResult {
  const aims = [aim({ samples: runtime === "bun" ? [0.4, 0.3, 0.45] : [0.6] })];
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

test("losses() holds others against the best of ours where ours are named", () => {
  const rows = [
    rowOf("ours, slow", "", [{ rate: 10 }, { rate: 10 }]),
    rowOf("ours, fast", "", [{ rate: 30 }, { rate: 30 }]),
    rowOf("between", "", [{ rate: 20 }, { rate: 20 }]),
    rowOf("ahead", "", [{ rate: 60 }, { rate: 45 }]),
    rowOf("not measured", "", [{ other: 1 }]),
  ];
  const compare = { ...RATES.compare!, baseline: "ours, slow", ours: ["ours, slow", "ours, fast"] };
  const found = losses([{ ...RATES, rows, compare }]);
  assert.deepEqual(found.map(({ row, against, ratios }) => [row.contender, against, ratios]), [
    ["ahead", "ours, fast", [2, 1.5]],
  ]);
});

test("best() picks row and column by the median", () => {
  const rows = [
    rowOf("a", "", [{ rate1: 1, rate4: 9 }, { rate1: 2, rate4: 1 }, { rate1: 3, rate4: 1 }]),
    rowOf("b", "", [{ rate1: 4 }]),
  ];
  const names = ["a", "b", "absent"];
  assert.equal(best(rows, ["a"], ["rate1", "rate4"])!.key, "rate1");
  assert.equal(best(rows, names, ["rate1", "rate4"])!.row.contender, "b");
  assert.equal(best(rows, names, ["rate1", "rate4"], "less")!.key, "rate4");
  assert.equal(best(rows, ["absent"], ["rate1"]), null);
  assert.equal(best(rows, ["b"], ["rate4"]), null);
});

test("ratioAim() divides round by round, tells what, and is absent where one is", () => {
  const rows = [rowOf("a", "", [{ rate4: 2 }, { rate4: 9 }]), rowOf("b", "", [{ ops: 4 }])];
  const mine = best(rows, ["a"], ["rate4"]);
  const other = best(rows, ["b"], ["ops"]);
  const [made] = ratioAim("speed", mine, other, "more", 0.6);
  assert.deepEqual([made!.samples, made!.basis], [[0.5], "a, 4 at a time : b"]);
  assert.deepEqual(ratioAim("speed", mine, null, "more", 1), []);
  assert.deepEqual(numberAim("speed", null, "more", 1, "us"), []);
});

test("an aim is met or missed by what its judge says, and tells how far", () => {
  const samples = [1, 2, 4];
  assert.equal(judged(aim({ samples })), 2);
  assert.equal(judged(aim({ samples, judge: "worst" })), 4);
  assert.equal(judged(aim({ samples, judge: "worst", better: "more" })), 1);
  assert.ok(isMet(aim({ samples, limit: 2 })) && isMet(aim({ samples, limit: 2, better: "more" })));
  assert.ok(!isMet(aim({ samples, limit: 1.9 })));
  assert.equal(
    describeResult(aim({ samples, limit: 4, better: "more" })),
    "2.00 (1.00 - 4.00), **missed by 50.0 %**",
  );
  assert.equal(
    describeResult(aim({ samples: [8], limit: 2 })),
    "8.00, **missed by a factor of 4.00**",
  );
  assert.equal(describeLimit(aim({ limit: 2, unit: "us", better: "more" })), "at least 2 µs");
});

test("parseTrace() joins calls in two lines and leaves out those that failed", () => {
  const text = [
    "7 read(0, 0x7f10, 0x20000) = 0x17",
    "7 pwrite64(0x5, 0x7f20, 0x1000, 0 <unfinished ...>",
    "8 sendto(0x1, 0x55, 0x6e, 0x4040, 0, 0) = -1 ENOTSOCK (Socket operation on non-socket)",
    "8 read(0x3, 0x7f30, 0x8)          = 0x8",
    "7 <... pwrite64 resumed>)         = 0x1000",
    "7 +++ exited with 0 +++",
  ].join("\n");
  assert.deepEqual(parseTrace(text), [
    { thread: 7, name: "read", args: [0n, 0x7f10n, 0x20000n], result: 0x17 },
    { thread: 8, name: "read", args: [3n, 0x7f30n, 8n], result: 8 },
    { thread: 7, name: "pwrite64", args: [5n, 0x7f20n, 0x1000n, 0n], result: 0x1000 },
  ]);
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

test("drawChart() gives each group its own scale, and its name to the rows", () => {
  const rows = [
    rowOf("a", "", [{ rate: 1000 }], "small"),
    rowOf("a", "", [{ rate: 1 }], "large"),
  ];
  const chart = { ...RATES.chart!, leftTitle: "the rate" };
  const table = { ...RATES, rows, compare: null, chart };
  const svg = drawChart("t", [{ runtime: "Bun", table }]);
  assert.ok(svg.includes(">small: a<") && svg.includes(">large: a<") && svg.includes(">the rate<"));
  const widths = [...svg.matchAll(/<rect x="280\.0"[^>]*width="([\d.]+)"/g)].map(([, width]) =>
    width
  );
  assert.deepEqual(widths, ["290.0", "290.0"]);
});

test("a result comes back from its file unchanged, and one of another format is none", () => {
  assert.deepEqual(fromJson("x.json", toJson(result("bun"))), result("bun"));
  assert.equal(fromJson("x.json", '{"schema": 0}'), null);
  assert.throws(() => fromJson("x.json", "{}"), /x\.json is not a benchmark result/);
});

test("toText() aligns columns", () => {
  const lines = toText(cellsOf(RATES)).split("\n");
  assert.equal(lines.length, 4);
  assert.equal(lines[1], "ours              200 (100 - 400)");
  assert.ok(lines[2]!.endsWith("1.05 (1.02 - 1.10)  a | b"));
});

test("writeDocument() shows both runtimes, aims, losses and notes, and escapes text", () => {
  const further = [{ file: "more.md", about: "other things" }];
  const { markdown, charts } = writeDocument([result("deno"), result("bun")], "bench", further);
  assert.match(markdown, /^- \[more\.md\]\(more\.md\): other things$/m);
  assert.match(markdown, /\|\s+\| aim \| Bun \| Deno \|/);
  assert.ok(
    markdown.includes(
      "| time | at most 0.5 | 0.400 (0.300 - 0.450), met | 0.600, **missed by 20.0 %** |",
    ),
  );
  assert.match(markdown, /^- time: a : b$/m);
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

test("the README's chart is drawn from the stored results", () => {
  const read = (name: string) =>
    readFileSync(new URL(`../../../docs/bench/${name}`, import.meta.url), "utf8");
  const results = ["bun", "deno"].map((name) => fromJson(name, read(`${name}.json`))!);
  const names: Readonly<Record<string, string>> = { bun: "Bun", deno: "Deno" };
  const svg = drawOverview(results, ({ environment }) => names[environment.runtime]!);
  assert.ok(svg.includes(">put, Bun<") && svg.includes(">get, Deno<"));
  assert.ok(!svg.includes("NaN") && !svg.includes("undefined"));
  const why = "write it again: npm run bench -- --render --write docs/benchmarks.md";
  assert.ok(svg === read("overview.svg"), why);
  assert.equal(drawOverview([result("bun")], () => "Bun"), "");
});
