// SPDX-License-Identifier: Apache-2.0
//
// The shares of the limits as bars: in the terminal in plain characters, and as SVG. Medians; the bar of
// the SVG has a line from the lowest to the highest round. Pure.

import { formatNumber } from "../statistics.ts";
import { type Line, linesOf, type Measure, percent, type Unit } from "./result.ts";

/** The right end of a bar; the limit itself is in the middle. */
const SCALE = 2;
const MOST_CELLS = 48;
const LEAST_CELLS = 12;

const UNITS: Readonly<Record<Unit, string>> = { "MB/s": "MB/s", "objects/s": "obj/s", us: "µs" };

export function withUnit(value: number, unit: Unit): string {
  return `${formatNumber(value)} ${UNITS[unit]}`;
}

/** "####----|-----": full to the share, a mark at the limit. */
function bar(share: number, cells: number): string {
  const cell = (at: number) => Math.min(cells - 1, Math.round(at / SCALE * cells));
  const full = share >= SCALE ? cells : cell(share);
  const mark = cell(1);
  return Array.from(
    { length: cells },
    (_, at) => at < full ? "#" : at === mark ? "|" : "-",
  ).join("");
}

/** Lines of at most `columns` cells. */
export function barChart(measures: readonly Measure[], columns: number): string[] {
  const lines = linesOf(measures);
  if (lines.length === 0) return [];
  const labels = lines.map(({ label, measure }) =>
    `${label}${measure.beside > 0 && label === measure.name ? ", busy" : ""}`
  );
  const figures = lines.map(({ limit }) => percent(limit.share.median).padStart(6));
  const words = Math.max(...lines.map(({ limit }) => limit.verdict.length));
  const label = Math.min(
    Math.max(...labels.map((text) => text.length)),
    Math.floor(columns * 0.45),
  );
  const room = columns - label - 3 - 6;
  const verdicts = room - 2 - words >= LEAST_CELLS;
  const cells = Math.max(1, Math.min(MOST_CELLS, verdicts ? room - 2 - words : room));
  return lines.map(({ limit }, index) =>
    `${labels[index]!.slice(0, label).padEnd(label)} [${bar(limit.share.median, cells)}]${
      figures[index]
    }${verdicts ? `  ${limit.verdict}` : ""}`.trimEnd()
  );
}

const WIDTH = 860;
const MARGIN = 16;
const LABEL = 190;
const BAR = 260;
const BAR_AT = MARGIN + LABEL + 8;
const TEXT_AT = BAR_AT + BAR + 12;
const ROW = 24;
const HEAD = 66;
const BLUE = "#2f6db5";
const ORANGE = "#d9822b";
const FAINT = "#5b6770";
const INK = "#1f2933";

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${more && ` ${more}`}>${
    escape(content)
  }</text>`;
}

function svgRow({ label, measure, limit }: Line, y: number): string[] {
  const at = (share: number) => BAR_AT + Math.min(share, SCALE) / SCALE * BAR;
  const { median, min, max } = limit.share;
  const middle = y + 8;
  const figures =
    `${percent(median)} of ${limit.name}: ${withUnit(measure.median!, measure.unit)} of ` +
    withUnit(limit.median, measure.unit);
  return [
    text(BAR_AT - 8, y + 13, label, 'text-anchor="end"'),
    `<rect x="${BAR_AT}" y="${y}" width="${Math.max(1, at(median) - BAR_AT).toFixed(1)}" ` +
    `height="16" fill="${measure.beside > 0 ? ORANGE : BLUE}"/>`,
    `<path d="M${at(min).toFixed(1)} ${middle}H${at(max).toFixed(1)}" stroke="${INK}"/>`,
    text(TEXT_AT, y + 13, figures),
  ];
}

/** @returns the text of an SVG file. */
export function svgChart(title: string, about: string, measures: readonly Measure[]): string {
  const lines = linesOf(measures);
  const height = HEAD + lines.length * ROW + 20;
  const limitAt = (BAR_AT + BAR / SCALE).toFixed(1);
  const count = measures.find(({ beside }) => beside > 0)?.beside ?? 0;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" ` +
    `height="${height}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="${INK}">`,
    `<title>${escape(title)}</title>`,
    `<rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    text(MARGIN, 24, title, 'font-size="15" font-weight="bold"'),
    text(MARGIN, 44, about, `fill="${FAINT}"`),
    ...lines.flatMap((line, index) => svgRow(line, HEAD + index * ROW)),
    `<path d="M${limitAt} ${HEAD - 6}V${height - 16}" stroke="${FAINT}" stroke-dasharray="3 3"/>`,
    text(
      Number(limitAt),
      HEAD - 9,
      "the limit",
      `text-anchor="middle" fill="${FAINT}" font-size="11"`,
    ),
    ...(count === 0 ? [] : [
      text(
        BAR_AT,
        height - 4,
        `orange: beside ${count} busy processes`,
        `fill="${FAINT}" font-size="11"`,
      ),
    ]),
    "</svg>",
    "",
  ].join("\n");
}
