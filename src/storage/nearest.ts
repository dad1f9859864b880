// SPDX-License-Identifier: Apache-2.0
//
// "Did you mean ...?": the known name that a misspelled one is nearest to.

/** How many characters must be inserted, removed or replaced to turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replace = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replace, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/**
 * The one of `known` that `name` most likely was meant to be: at most three edits away and less
 * than half of its length, upper and lower case and "_" and "-" alike; null when there is none.
 */
export function nearest(name: string, known: readonly string[]): string | null {
  const plain = (text: string) => text.slice(0, 100).toLowerCase().replaceAll(/[_-]/g, "");
  let best: string | null = null;
  let bestDistance = Infinity;
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate));
    if (distance > 3 || distance * 2 >= candidate.length || distance >= bestDistance) continue;
    best = candidate;
    bestDistance = distance;
  }
  return best;
}

/** Throws a TypeError that names the first of `names` that is not known, and the nearest that is. */
export function checkKnown(
  what: string,
  kind: string,
  names: readonly string[],
  known: readonly string[],
): void {
  for (const name of names) {
    if (known.includes(name)) continue;
    const guess = nearest(name, known);
    const help = guess ? `did you mean "${guess}"?` : `it has ${known.join(", ")}`;
    throw new TypeError(`${what} has no ${kind} "${name}"; ${help}`);
  }
}
