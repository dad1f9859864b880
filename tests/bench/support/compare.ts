// SPDX-License-Identifier: Apache-2.0
//
// Reads tables: how a row stands against its group's baseline, and which contenders beat this
// project. A win counts only if it shows in every round.

import type { Row, Table } from "./results.ts";
import { ratios } from "./statistics.ts";

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
  if (compare.others?.includes(contender)) return false;
  return (contender === compare.baseline) === compare.baselineIsOurs;
}

export interface Loss {
  readonly table: Table;
  /** Who beats this project; or, where the baseline is another's, which of ours it beats. */
  readonly row: Row;
  readonly ratios: readonly number[];
}

/** Where this project is worse in every round. */
export function losses(tables: readonly Table[]): Loss[] {
  const found: Loss[] = [];
  for (const table of tables) {
    const { compare } = table;
    if (!compare) continue;
    for (const row of table.rows) {
      const ratio = ratioSamples(table, row);
      if (ratio === null || isOurs(table, row) === compare.baselineIsOurs) continue;
      const sign = (compare.better === "more") === compare.baselineIsOurs ? 1 : -1;
      if (ratio.every((value) => (value - 1) * sign > 0)) {
        found.push({ table, row, ratios: ratio });
      }
    }
  }
  return found;
}
