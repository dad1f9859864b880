// SPDX-License-Identifier: Apache-2.0
//
// Reads tables: how a row stands against its group's baseline, and which contenders beat this
// project. A win counts only if it shows in every round.

import type { Row, Table } from "./results.ts";
import { quantile, ratios } from "./statistics.ts";

/** The row's compared metric by the baseline's, round by round; null where there is none. */
export function ratioSamples(table: Table, row: Row): number[] | null {
  const { compare } = table;
  if (compare === null || row.contender === compare.baseline) return null;
  const baseline = table.rows.find(({ contender, group }) =>
    contender === compare.baseline && group === row.group
  );
  const mine = row.samples[compare.metric];
  const other = baseline?.samples[compare.metric];
  return mine && other ? ratios(mine, other) : null;
}

/** Whether the row is this project's. In a table without a comparison all are. */
export function isOurs({ compare }: Table, { contender }: Row): boolean {
  if (compare === null) return true;
  if (compare.ours) return compare.ours.includes(contender);
  if (compare.others?.includes(contender)) return false;
  return (contender === compare.baseline) === compare.baselineIsOurs;
}

export interface Loss {
  readonly table: Table;
  /** Who beats this project; or, where the baseline is another's, which of ours it beats. */
  readonly row: Row;
  /** Against whom the ratios were taken. */
  readonly against: string;
  readonly ratios: readonly number[];
}

/** The best by its median among the rows of this project in a group. */
function bestOfOurs(table: Table, group: string): Row | null {
  const { metric, better } = table.compare!;
  const sign = better === "more" ? 1 : -1;
  const value = (row: Row) => sign * quantile(row.samples[metric]!, 0.5);
  const rows = table.rows.filter((row) =>
    row.group === group && isOurs(table, row) && row.samples[metric]
  );
  return rows.reduce<Row | null>(
    (best, row) => best === null || value(row) > value(best) ? row : best,
    null,
  );
}

/** Each other contender against the best of ours; where all of ours are known by name. */
function lossesToOthers(table: Table): Loss[] {
  const { metric, better } = table.compare!;
  return table.rows.flatMap((row) => {
    const best = isOurs(table, row) ? null : bestOfOurs(table, row.group);
    const theirs = row.samples[metric];
    if (best === null || !theirs) return [];
    const ratio = ratios(theirs, best.samples[metric]!);
    const beaten = ratio.every((value) => better === "more" ? value > 1 : value < 1);
    return beaten ? [{ table, row, against: best.contender, ratios: ratio }] : [];
  });
}

/** Where this project is worse in every round. */
export function losses(tables: readonly Table[]): Loss[] {
  const found: Loss[] = [];
  for (const table of tables) {
    const { compare } = table;
    if (!compare) continue;
    if (compare.ours) {
      found.push(...lossesToOthers(table));
      continue;
    }
    for (const row of table.rows) {
      const ratio = ratioSamples(table, row);
      if (ratio === null || isOurs(table, row) === compare.baselineIsOurs) continue;
      const sign = (compare.better === "more") === compare.baselineIsOurs ? 1 : -1;
      if (ratio.every((value) => (value - 1) * sign > 0)) {
        const against = compare.baselineIsOurs ? "ours" : compare.baseline;
        found.push({ table, row, against, ratios: ratio });
      }
    }
  }
  return found;
}
