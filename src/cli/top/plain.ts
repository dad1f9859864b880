// SPDX-License-Identifier: Apache-2.0
//
// A sample as one line, for files and programs: columns of always the same units and order, or a
// JSON object. Pure.

import type { VerbRates } from "./rates.ts";
import type { Sample, UpSample } from "./watch.ts";

const TIME_CELLS = "2026-11-30T00:00:00Z".length;

interface PlainColumn {
  readonly title: string;
  readonly of: (sample: UpSample) => number | null | undefined;
  /** Behind the point. */
  readonly digits?: number;
}

function ofVerb(verb: string, title: string, of: (rates: VerbRates) => number | null) {
  return {
    title: `${verb}_${title}`,
    of: ({ rates }: UpSample) => rates.verbs[verb] && of(rates.verbs[verb]),
    digits: 1,
  };
}

function ofTransfers(verb: string): PlainColumn[] {
  return [
    { ...ofVerb(verb, "", ({ requestsPerSecond }) => requestsPerSecond), title: `${verb}/s` },
    ofVerb(verb, "MB/s", ({ bytesPerSecond }) => bytesPerSecond / 1e6),
    ofVerb(verb, "p50_ms", ({ p50Ms }) => p50Ms),
    ofVerb(verb, "p99_ms", ({ p99Ms }) => p99Ms),
  ];
}

function othersOf({ rates }: UpSample): number {
  return Object.entries(rates.verbs).reduce(
    (sum, [verb, { requestsPerSecond }]) =>
      verb === "put" || verb === "get" ? sum : sum + requestsPerSecond,
    0,
  );
}

const COLUMNS: readonly PlainColumn[] = [
  { title: "clients", of: ({ info }) => info.clients },
  { title: "queued", of: ({ info }) => info.queued },
  { title: "running", of: ({ info }) => info.running },
  ...ofTransfers("put"),
  ...ofTransfers("get"),
  { title: "hit_%", of: ({ rates }) => rates.hitRatio && rates.hitRatio * 100, digits: 1 },
  { title: "other/s", of: othersOf, digits: 1 },
  { title: "errors/s", of: ({ rates }) => rates.errorsPerSecond, digits: 1 },
  { title: "used_MB", of: ({ info }) => info.usedBytes && info.usedBytes / 1e6, digits: 1 },
];

function line(time: string, state: string, cells: readonly string[]): string {
  return [
    time.padEnd(TIME_CELLS),
    state.padEnd(5),
    ...cells.map((cell, index) => cell.padStart(Math.max(8, COLUMNS[index]!.title.length))),
  ].join(" ");
}

/** The names of the columns. */
export function plainHeader(): string {
  return line("time", "state", COLUMNS.map(({ title }) => title));
}

/** "-" stands for what is not known. */
export function plainLine(sample: Sample): string {
  const time = new Date(sample.atMs).toISOString().replace(/\.\d+/, "");
  return line(
    time,
    sample.up ? "up" : "down",
    COLUMNS.map(({ of, digits = 0 }) => {
      const value = sample.up ? of(sample) : null;
      return value === null || value === undefined ? "-" : value.toFixed(digits);
    }),
  );
}

/** Three decimals say enough of a rate. */
function rounded(value: number | null): number | null {
  return value === null ? null : Math.round(value * 1000) / 1000;
}

/** As --json prints it. */
export function jsonLine(sample: Sample): string {
  const time = new Date(sample.atMs).toISOString();
  if (!sample.up) {
    const { sinceMs, error } = sample;
    const since = new Date(sinceMs).toISOString();
    return JSON.stringify({ time, up: false, since, code: error.code, error: error.message });
  }
  const { info, rates } = sample;
  const { uptimeMs, clients, threads, queued, running, bytesInFlight, maxBytesInFlight } = info;
  const { maxBytes, usedBytes, objects } = info;
  return JSON.stringify({
    time,
    up: true,
    worker: info.worker,
    seconds: rates.seconds,
    sinceStart: rates.sinceStart,
    ...{ uptimeMs, clients, threads, queued, running, bytesInFlight, maxBytesInFlight },
    ...{ maxBytes, usedBytes, objects },
    hitRatio: rounded(rates.hitRatio),
    errorsPerSecond: rounded(rates.errorsPerSecond),
    cancelledPerSecond: rounded(rates.cancelledPerSecond),
    evictionsPerSecond: rounded(rates.evictionsPerSecond),
    verbs: Object.fromEntries(
      Object.entries(rates.verbs).map(([verb, of]) => [
        verb,
        Object.fromEntries(Object.entries(of).map(([name, value]) => [name, rounded(value)])),
      ]),
    ),
  });
}
