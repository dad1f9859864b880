// SPDX-License-Identifier: Apache-2.0
//
// What was measured, set against its limit, and what that says in words. Pure.

import { quantile, ratios, type Spread, spread } from "../statistics.ts";

export type Unit = "MB/s" | "objects/s" | "us";

/** Samples of something and, round by round, of what it is compared with. */
export interface Sampled {
  readonly name: string;
  readonly unit: Unit;
  /** Busy processes beside it. */
  readonly beside: number;
  readonly samples: readonly number[];
  readonly limits: readonly { readonly name: string; readonly samples: readonly number[] }[];
  /** Why it was not measured; null: it was. */
  readonly skipped: string | null;
}

export interface Limit extends Spread {
  readonly name: string;
  readonly samples: readonly number[];
  /** Of the limit, 1: as fast. Less time is a larger share, too. */
  readonly share: Spread;
  readonly verdict: string;
}

/** As --json has it. */
export interface Measure {
  readonly name: string;
  readonly unit: Unit;
  readonly beside: number;
  readonly median: number | null;
  readonly min: number | null;
  readonly max: number | null;
  readonly samples: readonly number[];
  readonly skipped: string | null;
  readonly limits: readonly Limit[];
}

/** The first whose least share is reached. */
const VERDICTS: readonly (readonly [least: number, words: string])[] = [
  [1.15, "more than one plain thread"],
  [0.85, "at the limit"],
  [0.65, "close to the limit"],
  [0.4, "half of the limit"],
  [0, "far from the limit"],
];
/** The middle half of the rounds lies further apart than this: the machine was not quiet. */
const UNCERTAIN = 2;

/** What the shares of all rounds say. */
export function verdictOf(shares: readonly number[], unit: Unit): string {
  const median = quantile(shares, 0.5);
  const found = VERDICTS.findIndex(([least]) => median >= least);
  const words = found === 0 && unit === "us" ? "faster than the limit" : VERDICTS[found]![1];
  const apart = quantile(shares, 0.75) / quantile(shares, 0.25);
  return apart > UNCERTAIN ? `${words}, uncertain` : words;
}

/** Sets what was sampled against its limits. */
export function measureOf({ name, unit, beside, samples, limits, skipped }: Sampled): Measure {
  const facts = { name, unit, beside, skipped };
  if (samples.length === 0 || skipped !== null) {
    return { ...facts, median: null, min: null, max: null, samples: [], limits: [] };
  }
  return {
    ...facts,
    ...spread(samples),
    samples,
    limits: limits.map((limit) => {
      const shares = unit === "us"
        ? ratios(limit.samples, samples)
        : ratios(samples, limit.samples);
      return {
        ...limit,
        ...spread(limit.samples),
        share: spread(shares),
        verdict: verdictOf(shares, unit),
      };
    }),
  };
}

/** One line of table and chart. */
export interface Line {
  /** What was measured, and against what. */
  readonly label: string;
  readonly measure: Measure;
  readonly limit: Limit;
}

/** A line for each measure and limit; that of a second limit of a measure is called by the limit. */
export function linesOf(measures: readonly Measure[]): Line[] {
  return measures.flatMap((measure) =>
    measure.limits.map((limit, index) => ({
      label: index === 0 ? measure.name : `  of ${limit.name}`,
      measure,
      limit,
    }))
  );
}

/** The last lines: how many are where they should be, and what the neighbours cost. */
export function summaryOf(measures: readonly Measure[]): string[] {
  const lines = linesOf(measures);
  if (lines.length === 0) return ["nothing could be measured"];
  const near = lines.filter(({ limit }) => limit.share.median >= 0.65).length;
  const least = lines.toSorted((a, b) => a.limit.share.median - b.limit.share.median)[0]!;
  const where = least.measure.beside > 0 ? " beside busy processes" : "";
  const beside = measures.flatMap((busy) => {
    const alone = measures.find(({ name, beside }) => name === busy.name && beside === 0);
    if (busy.beside === 0 || busy.median === null || !alone?.median) return [];
    const kept = busy.unit === "us" ? alone.median / busy.median : busy.median / alone.median;
    return [`${busy.name} ${percent(kept)}`];
  });
  const count = measures.find(({ beside }) => beside > 0)?.beside ?? 0;
  return [
    `${near} of ${lines.length} at their limits or close to them; furthest from it: ` +
    `${least.measure.name}${where}, ${percent(least.limit.share.median)} of ${least.limit.name}`,
    ...(beside.length === 0
      ? []
      : [`beside ${count} busy processes there is left of what it is alone: ${beside.join(", ")}`]),
  ];
}

/** "87 %". */
export function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
