// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark gives: tables of raw samples. Medians, ratios, text and pictures are made of it
// later (statistics.ts, text_table.ts, chart.ts, document.ts), so that a stored result can always
// be looked at again. Everything here is plain JSON.

import type { Environment } from "./environment.ts";

/** The version of this format; a file of another version is not read. */
export const SCHEMA = 2;

export type Unit =
  | "ms"
  | "us"
  | "ns"
  | "MB/s"
  | "GiB/s"
  | "ops/s"
  | "s/GB"
  | "ms/GB"
  | "bytes"
  | "calls"
  | "%";

/** A column. */
export interface Metric {
  readonly key: string;
  readonly label: string;
  readonly unit: Unit;
}

/** A line: one contender. */
export interface Row {
  readonly contender: string;
  /** Rows of one group are held against each other; "" where a table has but one. */
  readonly group: string;
  /** Anything a reader must know to judge it, e.g. "blocks the event loop"; "" for nothing. */
  readonly note: string;
  /** By metric; in the order of the rounds. A metric that was not measured is absent. */
  readonly samples: Readonly<Record<string, readonly number[]>>;
}

/** Which metric is held against which contender's, in each group: the last column of a table. */
export interface Comparison {
  readonly metric: string;
  readonly baseline: string;
  readonly label: string;
  readonly better: "more" | "less";
  /** The baseline is this project's; otherwise all other rows are. */
  readonly baselineIsOurs: boolean;
  /** Rows that are nevertheless not this project's. */
  readonly others?: readonly string[];
  /** All rows that are this project's, the baseline perhaps among them; replaces both above. */
  readonly ours?: readonly string[];
}

/** Bars: a number on the left, and on the right numbers that are stacked. Keys of samples. */
export interface ChartColumns {
  readonly left: string;
  /** Absent: as the table heads that column. */
  readonly leftTitle?: string;
  readonly right: readonly string[];
  readonly rightTitle: string;
}

export interface Table {
  readonly title: string;
  /** What was done, how often, in which state of the caches. */
  readonly conditions: string;
  readonly metrics: readonly Metric[];
  readonly rows: readonly Row[];
  readonly compare: Comparison | null;
  /** The table is also drawn. */
  readonly chart: ChartColumns | null;
}

/** Something that the project set itself. Judged by its samples, so that it can be judged again. */
export interface Aim {
  readonly what: string;
  /** "less": to be at most `limit`; "more": at least. */
  readonly better: "less" | "more";
  readonly limit: number;
  /** "": a ratio. */
  readonly unit: Unit | "";
  /** In the order of the rounds. */
  readonly samples: readonly number[];
  /** Which of them counts. */
  readonly judge: "median" | "worst";
  /** What was held against what: rows and columns of the tables; "" where it goes without saying. */
  readonly basis: string;
}

/** What one benchmark gives. */
export interface Section {
  readonly title: string;
  readonly intro: string;
  readonly tables: readonly Table[];
  readonly aims: readonly Aim[];
  /** What was left out and why, and what went not as wished. */
  readonly notes: readonly string[];
}

/** A run of the program: one runtime. */
export interface RunResult {
  readonly schema: typeof SCHEMA;
  readonly environment: Environment;
  readonly quick: boolean;
  readonly seconds: number;
  /** By the benchmark's name. */
  readonly sections: Readonly<Record<string, Section>>;
}

/** One sample of one contender: a number for each metric. */
export type Sample = Readonly<Record<string, number>>;

/** Samples in the order of the rounds, as a row. */
export function rowOf(
  contender: string,
  note: string,
  samples: readonly Sample[],
  group = "",
): Row {
  const columns: Record<string, number[]> = {};
  for (const sample of samples) {
    for (const [key, value] of Object.entries(sample)) (columns[key] ??= []).push(value);
  }
  return { contender, group, note, samples: columns };
}

/** Numbers shortened to six digits: a timer knows no more. */
export function toJson(result: RunResult): string {
  const short = (_: string, value: unknown) =>
    typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(6)) : value;
  // One line for each list of numbers.
  return JSON.stringify(result, short, 1).replace(
    /\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]/g,
    (_, numbers: string) => `[${numbers.replace(/\s+/g, " ")}]`,
  ) + "\n";
}

/**
 * @returns null for a result of another version of this format.
 * @throws {Error} when the text is no result at all.
 */
export function fromJson(path: string, text: string): RunResult | null {
  const found = JSON.parse(text) as RunResult | null;
  if (typeof found?.schema !== "number") throw new Error(`${path} is not a benchmark result`);
  return found.schema === SCHEMA ? found : null;
}
