// SPDX-License-Identifier: Apache-2.0
//
// Medians, spreads and ratios of samples, and how they are written. A difference is to be believed
// only if it shows in every round, so a ratio is taken round by round and keeps its spread.

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** The value below which the share `q` (0 to 1) of the samples lies, between the two nearest. */
export function quantile(samples: readonly number[], q: number): number {
  if (samples.length === 0) throw new RangeError("no samples");
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const below = sorted[Math.floor(at)]!;
  return below + (sorted[Math.ceil(at)]! - below) * (at % 1);
}

export function spread(samples: readonly number[]): Spread {
  return {
    median: quantile(samples, 0.5),
    min: Math.min(...samples),
    max: Math.max(...samples),
  };
}

/** Each sample against the baseline's of the same round. */
export function ratios(samples: readonly number[], baseline: readonly number[]): number[] {
  const rounds = Math.min(samples.length, baseline.length);
  return samples.slice(0, rounds).map((sample, round) => sample / baseline[round]!);
}

/** Three digits: "12,345", "123", "12.3", "1.23", "0.0123". */
export function formatNumber(value: number): string {
  const size = Math.abs(value);
  if (size >= 99.95) return Math.round(value).toLocaleString("en-US");
  if (size >= 9.995) return value.toFixed(1);
  if (size >= 0.9995) return value.toFixed(2);
  if (size >= 0.0995) return value.toFixed(3);
  return size < 5e-5 ? "0" : value.toFixed(4);
}

/** "123 (120 - 131)", or just "123" for one sample. */
export function formatSpread(samples: readonly number[]): string {
  const { median, min, max } = spread(samples);
  if (samples.length === 1) return formatNumber(median);
  return `${formatNumber(median)} (${formatNumber(min)} - ${formatNumber(max)})`;
}
