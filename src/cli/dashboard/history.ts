// SPDX-License-Identifier: Apache-2.0
//
// What a worker has done, as rows of numbers: the last 15 minutes second by second, the last six hours
// in steps of 15 seconds. A row of the coarse kind is made of the worker's own counts and histograms at
// its two ends, not of the rows between them, so its percentiles are right.

import type { VerbInfo, WorkerInfo } from "../../mod.ts";
import { ratesBetween, type Reading } from "../top/rates.ts";

/** What the numbers of a row are, null where one is not known. Times are in seconds, but for atMs. */
export const COLUMNS = [
  "atMs",
  /** 1: the worker answered. */
  "up",
  /** 1: it was started since the row before. */
  "restarted",
  ...["getBytes", "putBytes", "gets", "puts", "others", "errors"],
  ...["getP50", "getP99", "putP50", "putP99", "hitRatio"],
  ...["usedBytes", "maxBytes", "dirUsedBytes", "objects", "evictions", "evictedBytes"],
  ...["queued", "running", "clients"],
] as const;

export type Row = readonly (number | null)[];

const NOTHING: VerbInfo = { requests: 0, errors: 0, bytes: 0, latency: [], latencySumUs: 0 };
/** Who watches asks for these. */
const WATCHING = ["info"];
/** The bounds of a worker's histograms are the same for all verbs. */
function together(one: VerbInfo, other: VerbInfo): VerbInfo {
  const [longer, shorter] = one.latency.length >= other.latency.length
    ? [one.latency, other.latency]
    : [other.latency, one.latency];
  return {
    requests: one.requests + other.requests,
    errors: one.errors + other.errors,
    bytes: one.bytes + other.bytes,
    latency: longer.map(({ leUs, count }, index) => ({
      leUs,
      count: count + (shorter[index]?.count ?? 0),
    })),
    latencySumUs: one.latencySumUs + other.latencySumUs,
  };
}

/** Version 1 says READ and WRITE for what is get and put since. */
export function withBothVersions(info: WorkerInfo): WorkerInfo {
  const { get = NOTHING, put = NOTHING, read = NOTHING, write = NOTHING, ...others } = info.verbs;
  return { ...info, verbs: { ...others, get: together(get, read), put: together(put, write) } };
}

/** Enough for a chart. */
function rounded(value: number | null | undefined): number | null {
  return value === null || value === undefined ? null : Number(value.toPrecision(5));
}

function seconds(ms: number | null | undefined): number | null {
  return ms === null || ms === undefined ? null : rounded(ms / 1000);
}

/**
 * @param now null: the worker did not answer
 * @param before of the row before; null: none is known
 */
export function rowOf(
  atMs: number,
  now: Reading | null,
  before: Reading | null,
  everyMs: number,
): Row {
  if (now === null) return COLUMNS.map((name) => name === "atMs" ? atMs : name === "up" ? 0 : null);
  const { info } = now;
  const rates = ratesBetween(before, now);
  // All that an old worker did in its life would not be a rate of this moment.
  const known = !rates.sinceStart || rates.seconds * 1000 <= 2 * everyMs;
  const { get, put, ...others } = known ? rates.verbs : {};
  const sumOfOthers = Object.entries(others).reduce(
    (sum, [verb, { requestsPerSecond }]) => WATCHING.includes(verb) ? sum : sum + requestsPerSecond,
    0,
  );
  const evictedBefore = rates.sinceStart ? 0 : before?.info.evictedBytes ?? 0;
  const evictedBytes = info.evictedBytes === undefined
    ? null
    : (info.evictedBytes - evictedBefore) / rates.seconds;
  const values: Readonly<Record<typeof COLUMNS[number], number | null | undefined>> = {
    atMs,
    up: 1,
    restarted: rates.sinceStart && before !== null ? 1 : 0,
    getBytes: rounded(get?.bytesPerSecond),
    putBytes: rounded(put?.bytesPerSecond),
    gets: rounded(get?.requestsPerSecond),
    puts: rounded(put?.requestsPerSecond),
    others: known ? rounded(sumOfOthers) : null,
    errors: known ? rounded(rates.errorsPerSecond) : null,
    getP50: seconds(get?.p50Ms),
    getP99: seconds(get?.p99Ms),
    putP50: seconds(put?.p50Ms),
    putP99: seconds(put?.p99Ms),
    hitRatio: known ? rounded(rates.hitRatio) : null,
    usedBytes: info.usedBytes,
    // 0: there is none.
    maxBytes: info.maxBytes || null,
    dirUsedBytes: info.dirUsedBytes,
    objects: info.objects,
    evictions: known ? rounded(rates.evictionsPerSecond) : null,
    evictedBytes: known ? rounded(evictedBytes) : null,
    queued: info.queued,
    running: info.running,
    clients: info.clients,
  };
  return COLUMNS.map((name) => values[name] ?? null);
}

/** The last rows of one kind. */
export class Track {
  readonly everyMs: number;
  readonly #capacity: number;
  readonly #rows: Row[] = [];
  #next = 0;
  #last: Reading | null = null;

  constructor(everyMs: number, capacity: number) {
    this.everyMs = everyMs;
    this.#capacity = capacity;
  }

  add(atMs: number, now: Reading | null): void {
    this.#rows.push(rowOf(atMs, now, this.#last, this.everyMs));
    if (now !== null) this.#last = now;
    this.#next++;
    // Not one by one: that would move all of them each time.
    if (this.#rows.length >= 2 * this.#capacity) {
      this.#rows.splice(0, this.#rows.length - this.#capacity);
    }
  }

  /** Rows from a number on, and the number of the next one; of a number that is no more, all. */
  from(first: number): { next: number; everyMs: number; rows: readonly Row[] } {
    const kept = Math.min(this.#capacity, this.#rows.length);
    const missing = first >= 0 && first <= this.#next ? this.#next - first : kept;
    const count = Math.min(kept, missing);
    return {
      next: this.#next,
      everyMs: this.everyMs,
      rows: count === 0 ? [] : this.#rows.slice(-count),
    };
  }
}
