// SPDX-License-Identifier: Apache-2.0
//
// Patterns of keys, as shells have them, but for "/", which is a character like any other: keys are
// flat. Pure.

export interface KeyPattern {
  /** As it was said. */
  readonly text: string;
  /** The key itself; null: it is a pattern. */
  readonly key: string | null;
  /** What all keys that match begin with. */
  readonly prefix: string;
  matches(key: string): boolean;
}

function literally(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

/** "[a-z]" at `at` as an expression and where it ends; null: the bracket is a character. */
function bracket(text: string, at: number): { source: string; end: number } | null {
  let from = at + 1;
  const negated = text[from] === "!" || text[from] === "^";
  if (negated) from++;
  const end = text.indexOf("]", from + 1);
  if (end < 0) return null;
  const inside = text.slice(from, end).replaceAll(/[\\\]^[]/g, "\\$&");
  return { source: `[${negated ? "^" : ""}${inside}]`, end };
}

/** @param literal the text is a key, whatever is in it */
export function keyPattern(text: string, literal = false): KeyPattern {
  let source = "";
  let prefix = "";
  let special = false;
  for (let at = 0; at < text.length; at++) {
    const char = text[at]!;
    const set = char === "[" && !literal ? bracket(text, at) : null;
    if (literal) {
      prefix += char;
    } else if (set !== null) {
      special = true;
      source += set.source;
      at = set.end;
    } else if (char === "*" || char === "?") {
      special = true;
      source += char === "*" ? ".*" : ".";
    } else {
      const plain = char === "\\" && at + 1 < text.length ? text[++at]! : char;
      source += literally(plain);
      if (!special) prefix += plain;
    }
  }
  if (!special) return { text, key: prefix, prefix, matches: (key) => key === prefix };
  let expression: RegExp;
  try {
    expression = new RegExp(`^${source}$`, "su");
  } catch {
    // A range that ends before it begins, such as [z-a], matches nothing.
    return { text, key: null, prefix, matches: () => false };
  }
  return { text, key: null, prefix, matches: (key) => expression.test(key) };
}
