// SPDX-License-Identifier: Apache-2.0
//
// The one picture of the README: chunks of 33.5 MB to files and back, how fast, and what that costs
// the JavaScript process. Readable on light and on dark pages: it has a background of its own.

import type { Row, RunResult, Table } from "./results.ts";
import { formatNumber, spread } from "./statistics.ts";

/** What is drawn of each table, and how it is called. A contender that a runtime lacks is left out. */
const PANELS: readonly { title: string; table: string; rows: readonly [string, string][] }[] = [
  {
    title: "put",
    table: "put: 33.5 MB",
    rows: [
      ["ours", "lmshm"],
      ["fs/promises writeFile, rename", "fs/promises, rename"],
      ["Bun.write", "Bun.write"],
      ["Deno.writeFile", "Deno.writeFile"],
    ],
  },
  {
    title: "get",
    table: "get: 33.5 MB, in the page cache",
    rows: [
      ["ours", "lmshm, into the pool"],
      ["fs/promises readFile", "fs/promises, new buffer"],
      ["Bun.file().arrayBuffer", "Bun.file, new buffer"],
      ["Deno.readFile", "Deno.readFile, new buffer"],
    ],
  },
];

const WIDTH = 860;
const LABEL_AT = 250;
const RATE_AT = 262;
const RATE_WIDTH = 220;
const CPU_AT = 562;
const CPU_WIDTH = 220;
const ROW_HEIGHT = 20;
const STYLE = `
.page { fill: #ffffff } .ink { fill: #1f2933 } .faint { fill: #5b6770 }
.ours { fill: #2f6db5 } .other { fill: #9aa5b1 } .cpu { fill: #d9822b }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 }
.ours { fill: #5b9be6 } .other { fill: #6e7681 } .cpu { fill: #e0914a }
}`;

interface Bar {
  readonly runtime: string;
  readonly label: string;
  readonly isOurs: boolean;
  readonly rate: number;
  readonly cpu: number;
}

function median(row: Row, key: string): number | null {
  const samples = row.samples[key];
  return samples && samples.length > 0 ? spread(samples).median : null;
}

function barsOf(
  table: Table | undefined,
  rows: readonly [string, string][],
  runtime: string,
): Bar[] {
  return rows.flatMap(([contender, label]) => {
    const row = table?.rows.find((one) => one.contender === contender);
    if (row === undefined) return [];
    const [rate, cpu] = [median(row, "rate4"), median(row, "script4")];
    return rate === null || cpu === null
      ? []
      : [{ runtime, label, isOurs: contender === "ours", rate, cpu }];
  });
}

function text(x: number, y: number, words: string, more = 'class="ink"'): string {
  const escaped = words.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
  return `<text x="${x.toFixed(1)}" y="${y}" ${more}>${escaped}</text>`;
}

function bar(x: number, y: number, width: number, kind: string): string {
  return `<rect x="${x}" y="${y}" width="${
    Math.max(0.5, width).toFixed(1)
  }" height="13" class="${kind}"/>`;
}

/** @returns the text of an SVG file; "" when the results do not have what it shows. */
export function drawOverview(results: readonly RunResult[], nameOf: (result: RunResult) => string) {
  const panels = PANELS.map(({ title, table, rows }) => ({
    title,
    bars: results.flatMap((result) => {
      const found = result.sections["large"]?.tables.find((one) => one.title === table);
      return barsOf(found, rows, nameOf(result));
    }),
  })).filter(({ bars }) => bars.some(({ isOurs }) => isOurs));
  if (panels.length === 0) return "";
  const drawn: string[] = [
    text(RATE_AT, 24, "MB/s", 'class="faint"'),
    text(CPU_AT, 24, "CPU of the JavaScript process, s/GB", 'class="faint"'),
  ];
  const all = panels.flatMap(({ bars }) => bars);
  const mostCpu = Math.max(...all.map(({ cpu }) => cpu));
  let y = 26;
  for (const { title, bars } of panels) {
    const mostRate = Math.max(...bars.map(({ rate }) => rate));
    let runtime = "";
    for (const one of bars) {
      if (one.runtime !== runtime) {
        runtime = one.runtime;
        y += 20;
        drawn.push(text(16, y, `${title}, ${runtime}`, 'class="ink" font-weight="bold"'));
        y -= 11;
      }
      const kind = one.isOurs ? "ours" : "other";
      const weight = one.isOurs ? ' font-weight="bold"' : "";
      const rate = one.rate / mostRate * RATE_WIDTH;
      const cpu = one.cpu / mostCpu * CPU_WIDTH;
      drawn.push(
        text(LABEL_AT, y + 11, one.label, `class="ink" text-anchor="end"${weight}`),
        bar(RATE_AT, y, rate, kind),
        text(RATE_AT + rate + 6, y + 11, formatNumber(one.rate)),
        bar(CPU_AT, y, cpu, "cpu"),
        text(CPU_AT + cpu + 6, y + 11, formatNumber(one.cpu)),
      );
      y += ROW_HEIGHT;
    }
    y += 4;
  }
  y += 26;
  drawn.push(text(
    16,
    y,
    "Chunks of 33.5 MB, 4 in flight, through the page cache, medians; lmshm with checksums. " +
      "All contenders: docs/benchmarks.md",
    'class="faint" font-size="12"',
  ));
  const height = y + 16;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" ` +
    `height="${height}" font-family="Helvetica, Arial, sans-serif" font-size="13">`,
    "<title>Chunks of 33.5 MB: throughput, and CPU time of the JavaScript process</title>",
    `<style>${STYLE}</style>`,
    `<rect width="${WIDTH}" height="${height}" class="page"/>`,
    ...drawn,
    "</svg>",
    "",
  ].join("\n");
}
