// SPDX-License-Identifier: Apache-2.0
//
// A sample as a screen of any size: what matters most comes first, and what does not fit is left
// out. Pure.

import { formatAge, formatBytes, formatTime } from "../format.ts";
import { wrap } from "../help.ts";
import { type Column, shortened, table } from "../terminal.ts";
import type { VerbRates } from "./rates.ts";
import type { Sample, UpSample } from "./watch.ts";

/** By what the verbs are sorted. */
export const SORTS = ["requests", "bytes", "p99", "verb"] as const;
export type Sort = (typeof SORTS)[number];

export interface ScreenState {
  /** As the worker was named. */
  readonly address: string;
  /** Null: there is no answer yet. */
  readonly sample: Sample | null;
  /** How long an answer has been waited for; 0: none is late. */
  readonly lateMs: number;
  readonly intervalMs: number;
  readonly sort: Sort;
  readonly nowMs: number;
  readonly columns: number;
  readonly rows: number;
}

export interface ScreenLine {
  readonly text: string;
  readonly style?: "inverse";
}

const FACT_GAP = "   ";
const LEAST_BAR_CELLS = 8;
const MAX_BAR_CELLS = 30;

function clock(ms: number): string {
  return new Date(ms).toTimeString().slice(0, 8);
}

/** "0.3", "12", "1,203". */
function perSecond(value: number): string {
  if (value === 0) return "0";
  return value < 9.95 ? value.toFixed(1) : Math.round(value).toLocaleString("en-US");
}

/** Side by side, as many as fit. */
function flow(facts: readonly string[], columns: number): string[] {
  const lines: string[] = [];
  for (const fact of facts) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + FACT_GAP.length + fact.length <= columns) {
      lines[lines.length - 1] = last + FACT_GAP + fact;
    } else {
      lines.push(shortened(fact, columns));
    }
  }
  return lines;
}

function quotaLines({ info }: UpSample, columns: number): string[] {
  const { maxBytes, usedBytes, objects = 0 } = info;
  if (usedBytes === undefined) return [];
  const held = `${objects.toLocaleString("en-US")} ${objects === 1 ? "object" : "objects"}`;
  if (!maxBytes) return flow([`used ${formatBytes(usedBytes)}`, held], columns);
  const share = Math.min(1, usedBytes / maxBytes);
  const figures = `${Math.floor(share * 100)}%`;
  const sizes = `${formatBytes(usedBytes)} of ${formatBytes(maxBytes)}`;
  const cells = Math.min(MAX_BAR_CELLS, columns - `quota [] ${figures}`.length);
  if (cells < LEAST_BAR_CELLS) return flow([`quota ${figures}`, sizes, held], columns);
  const full = Math.round(share * cells);
  const bar = `quota [${"#".repeat(full)}${"-".repeat(cells - full)}] ${figures}`;
  return flow([bar, sizes, held], columns);
}

function factsOf({ info, rates }: UpSample): string[] {
  const { clients, threads, running, queued, bytesInFlight, maxBytesInFlight } = info;
  const facts: string[] = [];
  if (clients !== undefined) facts.push(`clients ${clients}`);
  if (threads !== undefined) facts.push(`threads ${threads}, ${running ?? 0} at work`);
  if (queued !== undefined) facts.push(`queue ${queued}`);
  if (bytesInFlight !== undefined) {
    const most = maxBytesInFlight === undefined ? "" : ` of ${formatBytes(maxBytesInFlight)}`;
    facts.push(`in flight ${formatBytes(bytesInFlight)}${most}`);
  }
  facts.push(
    rates.hitRatio === null ? "hits -" : `hits ${(rates.hitRatio * 100).toFixed(1)} %`,
    `errors ${perSecond(rates.errorsPerSecond)}/s, ${info.errors ?? 0} in all`,
  );
  if (info.cancelled) facts.push(`cancelled ${perSecond(rates.cancelledPerSecond)}/s`);
  if (rates.evictionsPerSecond !== null && info.maxBytes) {
    facts.push(`evictions ${perSecond(rates.evictionsPerSecond)}/s`);
  }
  if (info.fallbacks) facts.push(`not past the page cache ${info.fallbacks}`);
  if (info.counted === 0) facts.push("still counting what is there");
  return facts;
}

/** Titles are padded, so that columns stay where they are when numbers change. */
const VERB_COLUMNS: readonly Column[] = [
  { title: "verb".padEnd(8) },
  { title: "req/s".padStart(7), right: true },
  { title: "bytes/s".padStart(9), right: true, leaves: 1 },
  { title: "p50".padStart(7), right: true, leaves: 4 },
  { title: "p99".padStart(7), right: true, leaves: 2 },
  { title: "errors/s".padStart(8), right: true, leaves: 3 },
];

const DIRECTORY_COLUMNS: readonly Column[] = [
  { title: "directory", shrinks: true },
  { title: "objects", right: true, leaves: 1 },
  { title: "used".padStart(8), right: true },
];

function inOrder([nameA, a]: [string, VerbRates], [nameB, b]: [string, VerbRates], sort: Sort) {
  const by = sort === "requests"
    ? b.requestsPerSecond - a.requestsPerSecond
    : sort === "bytes"
    ? b.bytesPerSecond - a.bytesPerSecond
    : sort === "p99"
    ? (b.p99Ms ?? -1) - (a.p99Ms ?? -1)
    : 0;
  return by || (nameA < nameB ? -1 : 1);
}

function verbLines({ info, rates }: UpSample, sort: Sort, columns: number): string[] {
  const time = (ms: number | null) => ms === null ? "-" : formatTime(ms);
  const rows = Object.entries(rates.verbs)
    .filter(([verb]) => info.verbs[verb]!.requests > 0)
    .sort((a, b) => inOrder(a, b, sort))
    .map(([verb, of]) => [
      verb,
      perSecond(of.requestsPerSecond),
      of.bytesPerSecond === 0 ? "-" : formatBytes(of.bytesPerSecond),
      time(of.p50Ms),
      time(of.p99Ms),
      perSecond(of.errorsPerSecond),
    ]);
  return table(VERB_COLUMNS, rows, columns);
}

function directoryLines({ info }: UpSample, columns: number): string[] {
  const uses = info.directoryUse ?? [];
  if (uses.length === 0) return [];
  const rows = uses.map(({ directory, objects, usedBytes }) => [
    directory === "" ? "(root)" : directory.replaceAll(/\p{Cc}/gu, "?"),
    objects.toLocaleString("en-US"),
    formatBytes(usedBytes),
  ]);
  return table(DIRECTORY_COLUMNS, rows, columns);
}

function plain(lines: readonly string[]): ScreenLine[] {
  return lines.map((text) => ({ text }));
}

/** A table, its heading in inverse as wide as the screen. */
function withHeading([heading, ...rows]: readonly string[], columns: number): ScreenLine[] {
  if (heading === undefined) return [];
  return [{ text: heading.padEnd(columns), style: "inverse" }, ...plain(rows)];
}

function upLines(sample: UpSample, { sort, columns }: ScreenState): ScreenLine[] {
  const directories = withHeading(directoryLines(sample, columns), columns);
  return [
    ...plain(flow(factsOf(sample), columns)),
    ...plain(quotaLines(sample, columns)),
    { text: "" },
    ...withHeading(verbLines(sample, sort, columns), columns),
    ...(directories.length === 0 ? [] : [{ text: "" }, ...directories]),
  ];
}

function header({ address, sample, lateMs, intervalMs, columns }: ScreenState): ScreenLine[] {
  const about: string[] = [];
  if (sample?.up) {
    const { info, rates } = sample;
    about.push(
      info.worker,
      `up ${formatAge(info.uptimeMs ?? 0)}`,
      rates.sinceStart ? "since its start" : `of ${formatTime(rates.seconds * 1000)}`,
    );
  }
  about.push(`every ${intervalMs / 1000} s`);
  if (sample !== null) about.push(clock(sample.atMs));
  if (lateMs > 0) about.push(`no answer for ${formatAge(lateMs)}`);
  return plain([shortened(`lmshm top  ${address}`, columns), ...flow(about, columns)]);
}

/** All lines, at most `rows`, none longer than `columns`. */
export function screen(state: ScreenState): ScreenLine[] {
  const { sample, nowMs, sort, columns, rows } = state;
  const lines: ScreenLine[] = [...header(state), { text: "" }];
  if (sample === null) {
    lines.push(...plain(wrap("waiting for the worker's answer", columns)));
  } else if (sample.up) {
    lines.push(...upLines(sample, state));
  } else {
    const since = `GONE since ${clock(sample.sinceMs)}, ${formatAge(nowMs - sample.sinceMs)}`;
    lines.push(
      { text: since.padEnd(columns), style: "inverse" },
      ...plain(wrap(sample.error.message.replaceAll(/\p{Cc}/gu, "?"), columns)),
      ...plain(["", ...wrap("It is looked for once an interval.", columns)]),
    );
  }
  const keys = flow(["q quit", `s sort: ${sort}`, "+ - interval"], columns);
  const room = Math.max(0, rows - keys.length);
  const shown = lines.slice(0, room);
  while (shown.length < room) shown.push({ text: "" });
  return [...shown, ...plain(keys)].slice(0, rows).map((line) => ({
    ...line,
    text: line.text.slice(0, columns),
  }));
}
