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
let outputFailed = false;

/** Writes a line to stdout. What fails then is told by printed(). */
export function print(line: string): void {
  const { promise, resolve } = Promise.withResolvers<null>();
  lastPrinted = promise;
  writeLine(process.stdout, line, (error) => {
    outputFailed ||= Boolean(error);
    if (error) printFailed.resolve(error);
    else resolve(null);
  });
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

function writeLine(
  stream: NodeJS.WriteStream,
  line: string,
  done: (error?: Error | null) => void,
): void {
  write(stream, `${line}\n`, done);
}

/** Deno throws what a file refuses, and calls back for pipes; Bun always calls back. */
function write(
  stream: NodeJS.WriteStream,
  what: string | Uint8Array,
  done: (error?: Error | null) => void,
): void {
  try {
    stream.write(what, done);
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

const SILENT = { update() {}, end() {} };

export interface StatusLine {
  /** Draws the text, as much of it as fits, in the place of the one before. */
  update(text: string): void;
  /** Wipes it away. */
  end(): void;
}

/** For work whose end is not known; silent unless stderr is a terminal. */
export function statusLine(): StatusLine {
  if (!process.stderr.isTTY) return SILENT;
  let drawn = -Infinity;
  return {
    update(text) {
      const now = performance.now();
      if (now - drawn < REDRAW_MS) return;
      drawn = now;
      process.stderr.write(`\r${shortened(text, (process.stderr.columns || 80) - 1)}\x1b[K`);
    },
    end() {
      if (drawn > -Infinity) process.stderr.write("\r\x1b[K");
      drawn = -Infinity;
    },
  };
}

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

/** Cells of a line of stdout; null where it is no terminal, and lines may be of any length. */
export function terminalColumns(): number | null {
  return process.stdout.isTTY ? process.stdout.columns || 80 : null;
}

let keysRead = false;

/** Keys are read, or were: a read that goes on may keep the process. */
export function keysAreRead(): void {
  keysRead = true;
}

/** Whether the process may have to be ended, and does not end by itself. */
export function keysWereRead(): boolean {
  return keysRead;
}

/** Whether stdout takes nothing any more, so that a long listing may as well end. */
export function outputHasFailed(): boolean {
  return outputFailed;
}

/** print() that waits until the lines are written, so that a slow reader slows the writer. */
export async function printAndWait(lines: readonly string[]): Promise<void> {
  if (lines.length === 0) return;
  print(lines.join("\n"));
  await printed();
}

/** Writes bytes to stdout, and waits until they are taken; what fails then is told by printed(). */
export async function writeBytes(bytes: Uint8Array): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<null>();
  lastPrinted = promise;
  write(process.stdout, bytes, (error) => {
    outputFailed ||= Boolean(error);
    if (error) printFailed.resolve(error);
    else resolve(null);
  });
  await printed();
}

/** At least so many cells are left of a column that is shortened. */
const LEAST_CELLS = 8;
const GAP = "  ";

/** `text` in at most `cells` cells, its middle left out where it is longer. */
export function shortened(text: string, cells: number): string {
  if (text.length <= cells) return text;
  if (cells <= 1) return text.slice(0, cells);
  const head = Math.ceil((cells - 1) / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (cells - 1 - head))}`;
}

/**
 * Rows of columns whose widths are known before the rows are: the first left-aligned, the others
 * right-aligned. At a narrow terminal the first becomes shorter, and then the last ones are left out.
 */
export function tableRow(
  cells: readonly string[],
  widths: readonly number[],
  columns = terminalColumns(),
): string {
  const sum = (ofThem: readonly number[]) => ofThem.reduce((all, one) => all + one + GAP.length, 0);
  let kept = widths;
  let first = widths[0] ?? 0;
  if (columns !== null) {
    while (kept.length > 1 && LEAST_CELLS + sum(kept.slice(1)) > columns) kept = kept.slice(0, -1);
    first = Math.min(first, Math.max(1, columns - sum(kept.slice(1))));
  }
  return kept.map((width, index) =>
    index > 0
      ? (cells[index] ?? "").padStart(width)
      : columns === null
      ? cells[0]!.padEnd(first)
      : shortened(cells[0]!, first).padEnd(first)
  ).join(GAP).trimEnd();
}

export interface Column {
  readonly title: string;
  /** Numbers stand to the right. */
  readonly right?: true;
  /** Becomes shorter at a narrow terminal; one of a table has it. */
  readonly shrinks?: true;
  /** Left out at a narrow terminal, the largest number first; without one it always stays. */
  readonly leaves?: number;
}

/**
 * A table as wide as it needs to be, or as the terminal is: columns are left out and one becomes
 * shorter until it fits.
 */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  room = terminalColumns(),
): string[] {
  const all = [columns.map(({ title }) => title), ...rows];
  const widths = columns.map((_, index) => Math.max(...all.map((row) => row[index]!.length)));
  let kept = columns.map((_, index) => index);
  const needs = (shrunk: boolean) =>
    kept.reduce((sum, index) => {
      const width = widths[index]!;
      const least = shrunk && columns[index]!.shrinks ? Math.min(width, LEAST_CELLS) : width;
      return sum + least + GAP.length;
    }, -GAP.length);
  if (room !== null) {
    const leaving = kept.filter((index) => columns[index]!.leaves !== undefined)
      .sort((a, b) => columns[a]!.leaves! - columns[b]!.leaves!);
    while (needs(true) > room && leaving.length > 0) {
      const gone = leaving.pop()!;
      kept = kept.filter((index) => index !== gone);
    }
    const shrinking = kept.find((index) => columns[index]!.shrinks);
    if (shrinking !== undefined && needs(false) > room) {
      widths[shrinking] = Math.max(1, widths[shrinking]! - (needs(false) - room));
    }
  }
  return all.map((row) =>
    kept.map((index) => {
      const cell = shortened(row[index]!, widths[index]!);
      return columns[index]!.right ? cell.padStart(widths[index]!) : cell.padEnd(widths[index]!);
    }).join(GAP).trimEnd()
  );
}
