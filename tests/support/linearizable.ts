// SPDX-License-Identifier: Apache-2.0
//
// Whether what several callers saw of one key can be explained by its operations taking effect one
// after the other, each at some moment between its beginning and its end (M. Herlihy, J. Wing,
// "Linearizability", 1990). The search is that of J. Wing and C. Gong (1993), with visited states
// remembered. Small histories only.

export interface Operation {
  /** For messages. */
  readonly what: string;
  /** Moments of a common clock. */
  readonly start: number;
  /** Infinity: it may take effect later, or never. */
  readonly end: number;
  /** The state after it, or undefined when it cannot have taken effect in that state. */
  readonly apply: (state: number | null) => number | null | undefined;
}

/** @param initial what the key has before all of them; null: nothing. */
export function isLinearizable(history: readonly Operation[], initial: number | null): boolean {
  const operations = history.toSorted((a, b) => a.start - b.start);
  const count = operations.length;
  const seen = new Set<string>();
  const left = new Set(operations.keys());
  const search = (state: number | null): boolean => {
    let firstEnd = Infinity;
    for (const index of left) firstEnd = Math.min(firstEnd, operations[index]!.end);
    // What is left need not happen.
    if (firstEnd === Infinity) return true;
    let mask = 0n;
    for (const index of left) mask |= 1n << BigInt(index);
    const place = `${mask} ${state}`;
    if (seen.has(place)) return false;
    seen.add(place);
    for (let index = 0; index < count; index++) {
      const operation = operations[index]!;
      if (!left.has(index)) continue;
      if (operation.start > firstEnd) break;
      const next = operation.apply(state);
      if (next === undefined) continue;
      left.delete(index);
      if (search(next)) return true;
      left.add(index);
    }
    return false;
  };
  return search(initial);
}

/** The history, one operation a line. */
export function describeHistory(history: readonly Operation[]): string {
  return history.toSorted((a, b) => a.start - b.start)
    .map(({ what, start, end }) => `  ${start}..${end} ${what}`).join("\n");
}
