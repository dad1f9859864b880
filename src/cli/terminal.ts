// SPDX-License-Identifier: Apache-2.0
//
// What the command prints on: plain lines everywhere, and at a terminal one last line that is
// redrawn, with a bar. Progress goes to stderr, so that stdout can be piped.

import process from "node:process";
import { formatBytes, formatRate } from "./format.ts";

const REDRAW_MS = 100;
const BAR_CELLS = 24;
const LABEL_CELLS = 10;

export interface Progress {
  /** So many of the total bytes are done. A new label begins a new rate. */
  update(label: string, doneBytes: number): void;
  /** Wipes the bar away. */
  end(): void;
}

const SILENT: Progress = { update() {}, end() {} };

/** A progress bar for `totalBytes`, silent unless stderr is a terminal. */
export function progress(totalBytes: number): Progress {
  if (!process.stderr.isTTY || totalBytes <= 0) return SILENT;
  let drawn = -Infinity;
  let done = 0;
  let step = { label: "", started: performance.now(), fromBytes: 0 };
  return {
    update(label, doneBytes) {
      if (label !== step.label) step = { label, started: performance.now(), fromBytes: done };
      done = doneBytes;
      const now = performance.now();
      if (now - drawn < REDRAW_MS) return;
      drawn = now;
      const share = Math.min(1, doneBytes / totalBytes);
      const full = Math.round(share * BAR_CELLS);
      const bar = "#".repeat(full) + "-".repeat(BAR_CELLS - full);
      const rate = formatRate(doneBytes - step.fromBytes, now - step.started);
      const text =
        `${label.padEnd(LABEL_CELLS)} [${bar}] ${String(Math.floor(share * 100)).padStart(3)}%  ` +
        `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}  ${rate}`;
      process.stderr.write(`\r${text.slice(0, (process.stderr.columns ?? 80) - 1)}\x1b[K`);
    },
    end() {
      if (drawn > -Infinity) process.stderr.write("\r\x1b[K");
      drawn = -Infinity;
    },
  };
}

/** Rows of equal columns: the first left-aligned, the others right-aligned. */
export function tableRow(cells: readonly string[], widths: readonly number[]): string {
  return cells.map((cell, index) => {
    const width = widths[index] ?? 0;
    return index === 0 ? cell.padEnd(width) : cell.padStart(width);
  }).join("  ").trimEnd();
}
