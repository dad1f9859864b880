// SPDX-License-Identifier: Apache-2.0
//
// A table of results as cells of text, and those aligned for a terminal or as Markdown.

import { ratioSamples } from "./compare.ts";
import type { Table } from "./results.ts";
import { formatSpread, unitName } from "./statistics.ts";

export interface Cells {
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** One column for the contender, one for each metric, one for the comparison, one for notes. */
export function cellsOf(table: Table): Cells {
  const { metrics, rows, compare } = table;
  const hasNotes = rows.some(({ note }) => note !== "");
  const head = [
    "",
    ...metrics.map(({ label, unit }) => `${label}, ${unitName(unit)}`),
    ...(compare ? [compare.label] : []),
    ...(hasNotes ? ["note"] : []),
  ];
  const cells = rows.map((row) => {
    const ratio = ratioSamples(table, row);
    return [
      row.group ? `${row.group}: ${row.contender}` : row.contender,
      ...metrics.map(({ key }) => {
        const samples = row.samples[key];
        return samples ? formatSpread(samples) : "";
      }),
      ...(compare ? [ratio ? formatSpread(ratio) : ""] : []),
      ...(hasNotes ? [row.note] : []),
    ];
  });
  return { head, rows: cells };
}

/** For a terminal: columns of equal width, numbers to the right. */
export function toText({ head, rows }: Cells): string {
  const lines = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const left = (column: number) => column === 0 || head[column] === "note";
  return lines.map((line) =>
    line.map((cell, column) =>
      left(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)
    ).join("  ").trimEnd()
  ).join("\n");
}

export function toMarkdown({ head, rows }: Cells): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = head.map((cell, column) => column === 0 || cell === "note" ? "---" : "---:");
  return [line(head), line(rule), ...rows.map(line)].join("\n");
}
