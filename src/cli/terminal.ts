// SPDX-License-Identifier: Apache-2.0
//
// What the command prints on: plain lines everywhere, and at a terminal one last line that is
// redrawn, with a bar. Progress goes to stderr, so that stdout can be piped.
//
// Lines go through the streams and not through console, whose failures one runtime throws and the
// other keeps to itself.

import process from "node:process";
import { formatBytes, formatRate } from "./format.ts";

const REDRAW_MS = 100;
const BAR_CELLS = 24;
const LEAST_BAR_CELLS = 8;
const LABEL_CELLS = 10;
/** Less time says nothing about a rate. */
const RATE_AFTER_MS = 50;

const printFailed = Promise.withResolvers<Error>();
let lastPrinted: Promise<null> = Promise.resolve(null);

/** Writes a line to stdout. What fails then is told by printed(). */
export function print(line: string): void {
  const { promise, resolve } = Promise.withResolvers<null>();
  lastPrinted = promise;
  writeLine(process.stdout, line, (error) => error ? printFailed.resolve(error) : resolve(null));
}

/**
 * Waits until every line is written, or one was not: what follows that may never be answered.
 * @returns why one was not, or null.
 */
export function printed(): Promise<Error | null> {
  return Promise.race([printFailed.promise, lastPrinted]);
}

/** Writes a line to stderr, where nothing can be done about a failure. */
export function complain(line: string): void {
  writeLine(process.stderr, line, () => {});
}

/** Deno throws what a file refuses, and calls back for pipes; Bun always calls back. */
function writeLine(
  stream: NodeJS.WriteStream,
  line: string,
  done: (error?: Error | null) => void,
): void {
  try {
    stream.write(`${line}\n`, done);
  } catch (error) {
    done(error as Error);
  }
}

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
      const ms = now - step.started;
      const text = progressText(
        { label, doneBytes, totalBytes, stepBytes: doneBytes - step.fromBytes, stepMs: ms },
        process.stderr.columns || 80,
      );
      process.stderr.write(`\r${text}\x1b[K`);
    },
    end() {
      if (drawn > -Infinity) process.stderr.write("\r\x1b[K");
      drawn = -Infinity;
    },
  };
}

/**
 * The line of a progress bar, one cell narrower than the terminal: what does not fit is left out as
 * a whole, and the bar is the first to become shorter.
 */
export function progressText(
  { label, doneBytes, totalBytes, stepBytes, stepMs }: {
    label: string;
    doneBytes: number;
    totalBytes: number;
    /** Since the label has been what it is, for the rate. */
    stepBytes: number;
    stepMs: number;
  },
  columns: number,
): string {
  const room = columns - 1;
  const share = Math.min(1, doneBytes / totalBytes);
  const percent = `${String(Math.floor(share * 100)).padStart(3)}%`;
  const size = `  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
  const rate = `  ${stepMs < RATE_AFTER_MS ? "-" : formatRate(stepBytes, stepMs)}`;
  const name = label.padEnd(LABEL_CELLS);
  for (const figures of [`${percent}${size}${rate}`, `${percent}${size}`, percent]) {
    const cells = Math.min(BAR_CELLS, room - `${name} [] ${figures}`.length);
    if (cells < LEAST_BAR_CELLS) continue;
    const full = Math.round(share * cells);
    return `${name} [${"#".repeat(full)}${"-".repeat(cells - full)}] ${figures}`;
  }
  return `${label} ${percent}`.length <= room ? `${label} ${percent}` : percent.slice(0, room);
}

/** Rows of equal columns: the first left-aligned, the others right-aligned. */
export function tableRow(cells: readonly string[], widths: readonly number[]): string {
  return cells.map((cell, index) => {
    const width = widths[index] ?? 0;
    return index === 0 ? cell.padEnd(width) : cell.padStart(width);
  }).join("  ").trimEnd();
}
