// SPDX-License-Identifier: Apache-2.0
//
// lmshm top: a running worker as one watches it, at a terminal as a screen that is drawn anew, and
// elsewhere a line for each sample.

import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, interruptible, UsageError } from "../command.ts";
import { TOP } from "../descriptions/top.ts";
import { complain, keysAreRead, outputHasFailed, printAndWait } from "../terminal.ts";
import { parseWorker, WorkerSource } from "../worker_source.ts";
import { LiveTerminal } from "./live_terminal.ts";
import { jsonLine, plainHeader, plainLine } from "./plain.ts";
import { screen, type Sort, SORTS } from "./screen.ts";
import { type Sample, Watch } from "./watch.ts";

const DEFAULT_INTERVAL = "2";
const MIN_INTERVAL_MS = 100;
const MAX_INTERVAL_MS = 3_600_000;
/** What the keys + and - go through. */
const INTERVALS_MS = [500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];
/** A worker that does not answer keeps nobody from leaving. */
const CLOSE_MS = 1_000;
/** An answer that takes longer is late. */
const LATE_MS = 1_000;

interface Watching {
  readonly watch: Watch;
  readonly address: string;
  readonly intervalMs: number;
  readonly count: number;
  readonly json: boolean;
  readonly signal: AbortSignal;
}

/** Seconds, with a fraction. @throws {UsageError} */
function parseInterval(text: string): number {
  const ms = /^\d+(\.\d+)?$/.test(text) ? Math.round(Number(text) * 1000) : NaN;
  if (!(ms >= MIN_INTERVAL_MS && ms <= MAX_INTERVAL_MS)) {
    throw new UsageError(`--interval takes seconds from 0.1 to 3600, got "${text}"`);
  }
  return ms;
}

/** The moments at which to look: an interval apart, whatever a look takes. */
class Beat {
  #nextAt = performance.now();

  /** Milliseconds until the next one. */
  next(intervalMs: number): number {
    const now = performance.now();
    this.#nextAt = Math.max(this.#nextAt + intervalMs, now);
    return this.#nextAt - now;
  }
}

/** A line for each sample. @returns whether the worker answered at all. */
async function printLines(watching: Watching): Promise<boolean> {
  const { watch, intervalMs, count, json, signal } = watching;
  const beat = new Beat();
  let told: string | null = null;
  let answered = false;
  const tell = (sample: Sample) => {
    const code = sample.up ? null : sample.error.code;
    if (code !== told && !json) {
      complain(`lmshm: ${sample.up ? "the worker answers again" : sample.error.message}`);
    }
    told = code;
  };
  tell(await watch.look());
  if (!json) await printAndWait([plainHeader()]);
  for (let n = 0; n < count && !outputHasFailed(); n++) {
    await pause(beat.next(intervalMs), undefined, { signal });
    const sample = await watch.look();
    answered ||= sample.up;
    tell(sample);
    await printAndWait([json ? jsonLine(sample) : plainLine(sample)]);
  }
  return answered || outputHasFailed();
}

/** A screen, until `q` is pressed. @returns whether the worker answered at all. */
async function showScreen(watching: Watching): Promise<boolean> {
  const { watch, address, count, signal } = watching;
  let { intervalMs } = watching;
  let sort: Sort = SORTS[0];
  let sample: Sample | null = null;
  let askedAt: number | null = null;
  let quit = false;
  let answered = false;
  let wake = new AbortController();
  const draw = () => {
    const waitedMs = askedAt === null ? 0 : performance.now() - askedAt;
    const { columns, rows } = terminal;
    const state = { address, sample, intervalMs, sort, columns, rows, nowMs: Date.now() };
    terminal.draw(screen({ ...state, lateMs: waitedMs < LATE_MS ? 0 : waitedMs }));
  };
  const onKey = (key: string) => {
    if (key === "q" || key === "Q") quit = true;
    else if (key === "s") sort = SORTS[(SORTS.indexOf(sort) + 1) % SORTS.length]!;
    else if (key === "+") intervalMs = INTERVALS_MS.find((ms) => ms > intervalMs) ?? intervalMs;
    else if (key === "-") intervalMs = INTERVALS_MS.findLast((ms) => ms < intervalMs) ?? intervalMs;
    else return;
    wake.abort();
  };
  let drawable = false;
  await using terminal = new LiveTerminal({ onKey, onRedraw: () => drawable && draw() });
  drawable = true;
  keysAreRead();
  const beat = new Beat();
  /** Draws, and returns after that time, or when a key has changed something. */
  const rest = async (ms: number) => {
    draw();
    wake = new AbortController();
    if (quit) return;
    await pause(ms, undefined, { signal: AbortSignal.any([signal, wake.signal]) }).catch(() => {});
    signal.throwIfAborted();
  };
  for (let n = 0; n < count && !quit; n++) {
    askedAt = performance.now();
    const look = watch.look();
    let done = false;
    const ended = look.then(() => {}, () => {}).then(() => {
      done = true;
      wake.abort();
    });
    while (!done && !quit) await rest(LATE_MS);
    if (quit) break;
    await ended;
    askedAt = null;
    sample = await look;
    answered ||= sample.up;
    let until = performance.now() + beat.next(intervalMs);
    for (let of = intervalMs; !quit;) {
      const leftMs = until - performance.now();
      if (leftMs <= 0) break;
      await rest(Math.min(leftMs, LATE_MS));
      until += intervalMs - of;
      of = intervalMs;
    }
  }
  return quit || answered;
}

/** Whether stdout is a terminal on which a screen can be drawn. */
function isScreen(): boolean {
  return process.stdout.isTTY === true && process.env["TERM"] !== "dumb";
}

export const top: Command = {
  run(args) {
    const { values, operands: [worker, ...more] } = readArguments(TOP, args);
    const { store } = parseWorker(worker);
    if (more.length > 0) throw new UsageError(`top takes one WORKER, and got "${more[0]}" too`);
    const { json, interval = DEFAULT_INTERVAL, count } = values;
    const intervalMs = parseInterval(interval);
    const samples = count === undefined ? Infinity : integerOption("count", count, 1, 1e9);
    return interruptible(json, async (signal) => {
      const source = new WorkerSource(store, values["secret-file"], signal);
      const watching: Watching = {
        watch: new Watch(() => source.info()),
        address: store.text,
        intervalMs,
        count: samples,
        json,
        signal,
      };
      try {
        return await (isScreen() && !json ? showScreen(watching) : printLines(watching));
      } finally {
        const closed = source[Symbol.asyncDispose]().catch(() => {});
        await Promise.race([closed, pause(CLOSE_MS, undefined, { ref: false })]);
      }
    }, "it watches no more");
  },
};
