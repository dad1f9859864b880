// SPDX-License-Identifier: Apache-2.0
//
// Draws tables as bars, in SVG: for each contender one metric on the left, and on the right the
// metrics that add up. Medians, with a line from the lowest to the highest sample on the left.
// Bars of one group of one table share a scale over all runtimes, so that those can be compared too.

import { isOurs } from "./compare.ts";
import type { Metric, Row, Table } from "./results.ts";
import { formatNumber, spread, unitName } from "./statistics.ts";

/** One table of one runtime. */
export interface Panel {
  readonly runtime: string;
  readonly table: Table;
}

const WIDTH = 1000;
const MARGIN = 20;
const LABEL_WIDTH = 250;
const LEFT_WIDTH = 290;
const RIGHT_WIDTH = 200;
const VALUE_WIDTH = 75;
const ROW_HEIGHT = 22;
const BAR_HEIGHT = 14;
const HEAD_HEIGHT = 62;
const LEFT_AT = MARGIN + LABEL_WIDTH + 10;
const RIGHT_AT = LEFT_AT + LEFT_WIDTH + VALUE_WIDTH;
const BLUE = "#2f6db5";
const ORANGE = "#d9822b";
const LIGHT_ORANGE = "#f0c48c";
const GREY = "#9aa5b1";
const FAINT = "#5b6770";
const INK = "#1f2933";

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${x}" y="${y.toFixed(1)}" ${more}>${escape(content)}</text>`;
}

function bar(x: number, y: number, width: number, colour: string): string {
  return `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${
    Math.max(0.5, width).toFixed(1)
  }" ` +
    `height="${BAR_HEIGHT}" fill="${colour}"/>`;
}

function median(row: Row, key: string): number {
  const samples = row.samples[key];
  return samples ? spread(samples).median : 0;
}

function stack(row: Row, keys: readonly string[]): number {
  return keys.reduce((sum, key) => sum + median(row, key), 0);
}

/** The greatest values of a group of a table's chart over all runtimes. */
function scales(title: string, group: string, panels: readonly Panel[]) {
  let left = 0;
  let right = 0;
  for (const { table } of panels) {
    if (table.title !== title || !table.chart) continue;
    for (const row of table.rows) {
      if (row.group !== group) continue;
      const samples = row.samples[table.chart.left];
      if (samples) left = Math.max(left, spread(samples).max);
      right = Math.max(right, stack(row, table.chart.right));
    }
  }
  return { left: left || 1, right: right || 1 };
}

function metricOf(table: Table, key: string): Metric | undefined {
  return table.metrics.find((metric) => metric.key === key);
}

function heading({ runtime, table }: Panel, top: number): string[] {
  const chart = table.chart!;
  const metric = metricOf(table, chart.left);
  const left = chart.leftTitle ?? (metric ? `${metric.label}, ${unitName(metric.unit)}` : "");
  return [
    text(MARGIN, top + 22, `${table.title} - ${runtime}`, 'font-size="15" font-weight="bold"'),
    text(LEFT_AT, top + 46, left, `fill="${FAINT}"`),
    text(RIGHT_AT, top + 46, chart.rightTitle, `fill="${FAINT}"`),
  ];
}

function drawRow(panel: Panel, row: Row, y: number, scale: { left: number; right: number }) {
  const { left, right } = panel.table.chart!;
  const ours = isOurs(panel.table, row);
  const drawn = [
    text(
      MARGIN + LABEL_WIDTH,
      y + 12,
      row.group ? `${row.group}: ${row.contender}` : row.contender,
      'text-anchor="end"',
    ),
  ];
  const samples = row.samples[left];
  if (samples) {
    const { median, min, max } = spread(samples);
    const at = (value: number) => LEFT_AT + value / scale.left * LEFT_WIDTH;
    const middle = y + BAR_HEIGHT / 2;
    drawn.push(
      bar(LEFT_AT, y, at(median) - LEFT_AT, ours ? BLUE : GREY),
      `<path d="M${at(min).toFixed(1)} ${middle}H${at(max).toFixed(1)}" stroke="${INK}"/>`,
      text(Math.max(at(median), at(max)) + 6, y + 12, formatNumber(median)),
    );
  }
  let x = RIGHT_AT;
  for (const [index, key] of right.entries()) {
    const width = median(row, key) / scale.right * RIGHT_WIDTH;
    if (width > 0) drawn.push(bar(x, y, width, index === 0 ? ORANGE : LIGHT_ORANGE));
    x += width;
  }
  drawn.push(text(x + 6, y + 12, formatNumber(stack(row, right))));
  return drawn;
}

/** @returns the text of an SVG file; "" when no table is to be drawn. */
export function drawChart(title: string, panels: readonly Panel[]): string {
  const charted = panels.filter(({ table }) => table.chart !== null && table.rows.length > 0);
  if (charted.length === 0) return "";
  const drawn: string[] = [];
  let top = 10;
  for (const panel of charted) {
    drawn.push(...heading(panel, top));
    top += HEAD_HEIGHT - 6;
    for (const row of panel.table.rows) {
      const scale = scales(panel.table.title, row.group, charted);
      drawn.push(...drawRow(panel, row, top, scale));
      top += ROW_HEIGHT;
    }
    top += 16;
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top}" width="${WIDTH}" ` +
    `height="${top}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="${INK}">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${WIDTH}" height="${top}" fill="#ffffff"/>`,
    ...drawn,
    "</svg>",
    "",
  ].join("\n");
}
