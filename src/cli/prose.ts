// SPDX-License-Identifier: Apache-2.0
//
// Sentences and lines such as "storage  /data/kv", as wide as the terminal. What fits, and everything
// where there is no terminal, is one line. A word is not broken, so that a path can be copied.

import { wrap } from "./help.ts";
import { print, terminalColumns } from "./terminal.ts";

/** The line, or as many as it takes; what follows the first stands below its text. */
export function fitted(line: string, columns = terminalColumns()): string[] {
  if (columns === null || line.length <= columns) return [line];
  // "storage  ": a word and at least two blanks.
  const label = /^ *\S+ {2,}/.exec(line)?.[0] ?? "";
  const lines = wrap(line.slice(label.length), Math.max(1, columns - label.length));
  return lines.map((text, index) => (index === 0 ? label : " ".repeat(label.length)) + text);
}

/** print(), of as many lines as it takes. */
export function printFitted(line: string): void {
  for (const one of fitted(line)) print(one);
}
