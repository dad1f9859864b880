// SPDX-License-Identifier: Apache-2.0
//
// Statistics of samples: those of the command, and what only the benchmarks' tables need.

import type { Unit } from "./results.ts";

export {
  formatNumber,
  formatSpread,
  quantile,
  ratios,
  type Spread,
  spread,
} from "../../../src/cli/statistics.ts";

/** The unit as a column's heading says it. */
export function unitName(unit: Unit): string {
  return unit === "us" ? "µs" : unit;
}
