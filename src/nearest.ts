// SPDX-License-Identifier: Apache-2.0
//
// The known name that a misspelled one was most likely meant to be.

/**
 * How many single edits turn `a` into `b`: a character inserted, removed or replaced, or two
 * neighbours exchanged (the "optimal string alignment" form of Damerau's distance).
 */
export function editDistance(a: string, b: string): number {
  // Rows of the usual table: two back, one back, current.
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let edits = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        edits = Math.min(edits, before[j - 2]! + 1);
      }
      row.push(edits);
    }
    before = last;
    last = row;
  }
  return last[b.length]!;
}

/** Beyond this, no name of ours is meant; it also bounds the work. */
const MAX_LENGTH = 100;

/**
 * The one of `known` that is fewest edits from `name`, the first of several, or else the shortest that
 * begins with it ("workerAddr" for "workerAddress"); null when all are more than a third of their length
 * away. Case, "-" and "_" do not count as differences.
 */
export function nearest(name: string, known: Iterable<string>): string | null {
  if (name.length > MAX_LENGTH) return null;
  const plain = plainForm(name);
  const longer = [...known].filter((one) => plain.length >= 4 && plainForm(one).startsWith(plain));
  if (longer.length > 0) return longer.toSorted((a, b) => a.length - b.length)[0]!;
  let best: string | null = null;
  let bestEdits = Infinity;
  for (const candidate of known) {
    const other = plainForm(candidate);
    const limit = Math.max(1, Math.floor(other.length / 3));
    if (Math.abs(other.length - plain.length) > Math.min(limit, bestEdits - 1)) continue;
    const edits = editDistance(plain, other);
    if (edits > limit || edits >= bestEdits) continue;
    best = candidate;
    bestEdits = edits;
  }
  return best;
}

function plainForm(name: string): string {
  return name.toLowerCase().replaceAll(/[-_]/g, "");
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
