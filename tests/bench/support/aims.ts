// SPDX-License-Identifier: Apache-2.0
//
// Makes aims of the rows of tables, and judges them. Which of several contenders or settings is
// "the best" is decided by the medians of the same run; ratios are taken round by round.

import type { Aim, Row, Unit } from "./results.ts";
import { formatNumber, quantile, ratios, spread, unitName } from "./statistics.ts";

/** One column of one row. */
export interface Picked {
  readonly row: Row;
  readonly key: string;
  readonly samples: readonly number[];
}

/** A row and one of its columns, as the table heads it. */
export type Named = Pick<Picked, "row" | "key">;

/**
 * The best of some rows and columns.
 * @param rows contenders' names; only those that were measured count
 * @returns null when none of them was measured
 */
export function best(
  rows: readonly Row[],
  names: readonly string[],
  keys: readonly string[],
  better: "more" | "less" = "more",
): Picked | null {
  let found: Picked | null = null;
  let value = better === "more" ? -Infinity : Infinity;
  for (const row of rows) {
    if (!names.includes(row.contender)) continue;
    for (const key of keys) {
      const samples = row.samples[key];
      if (!samples) continue;
      const median = quantile(samples, 0.5);
      if (better === "more" ? median <= value : median >= value) continue;
      found = { row, key, samples };
      value = median;
    }
  }
  return found;
}

const SETTINGS: Readonly<Record<string, string>> = {
  batch: "batched",
  batches: "several batches at a time",
};

/** Columns of so many objects under way end in their number, whatever is measured. */
function describe({ row, key }: Named): string {
  const setting = /^(?:rate|ops|durable|cpu|script)(batch|batches|\d+)$/.exec(key)?.[1];
  if (setting === undefined) return row.contender;
  return `${row.contender}, ${SETTINGS[setting] ?? `${setting} at a time`}`;
}

/** @returns nothing when one of both was not measured, so that it can be spread into a list. */
export function ratioAim(
  what: string,
  mine: Picked | null,
  other: Picked | null,
  better: "more" | "less",
  limit: number,
): Aim[] {
  if (mine === null || other === null) return [];
  return [{
    what,
    better,
    limit,
    unit: "",
    samples: ratios(mine.samples, other.samples),
    judge: "median",
    basis: `${describe(mine)} : ${describe(other)}`,
  }];
}

/** As ratioAim(), for a number that stands for itself. */
export function numberAim(
  what: string,
  mine: Picked | null,
  better: "more" | "less",
  limit: number,
  unit: Unit,
): Aim[] {
  if (mine === null) return [];
  const { samples } = mine;
  return [{ what, better, limit, unit, samples, judge: "median", basis: describe(mine) }];
}

/** The number that counts. */
export function judged({ samples, judge, better }: Aim): number {
  if (judge === "median") return quantile(samples, 0.5);
  return better === "less" ? Math.max(...samples) : Math.min(...samples);
}

export function isMet(aim: Aim): boolean {
  const got = judged(aim);
  return aim.better === "less" ? got <= aim.limit : got >= aim.limit;
}

/** "at least 0.85", "at most 2 ms". */
export function describeLimit({ better, limit, unit }: Aim): string {
  return `at ${better === "less" ? "most" : "least"} ${limit}${unit && ` ${unitName(unit)}`}`;
}

/** "0.912 (0.88 - 0.94), met", "3.1 (2.9 - 3.3), missed by 55 %". */
export function describeResult(aim: Aim): string {
  const { samples, limit, better } = aim;
  const got = judged(aim);
  const { min, max } = spread(samples);
  const range = samples.length > 1 ? ` (${formatNumber(min)} - ${formatNumber(max)})` : "";
  if (isMet(aim)) return `${formatNumber(got)}${range}, met`;
  const far = better === "less" ? got / limit - 1 : 1 - got / limit;
  const distance = far >= 2
    ? `a factor of ${formatNumber(got / limit)}`
    : `${formatNumber(far * 100)} %`;
  return `${formatNumber(got)}${range}, **missed by ${distance}**`;
}
