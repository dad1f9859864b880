// SPDX-License-Identifier: Apache-2.0
//
// What happened between two answers of a worker to INFO: rates, and percentiles of the requests of
// that time alone, from the difference of two histograms. Pure.

import type { LatencyBucket, VerbInfo, WorkerInfo } from "../../mod.ts";

/** An answer to INFO, and when it was asked for and came: performance.now(). */
export interface Reading {
  readonly info: WorkerInfo;
  readonly askedMs: number;
  readonly answeredMs: number;
}

export interface VerbRates {
  readonly requestsPerSecond: number;
  readonly bytesPerSecond: number;
  readonly errorsPerSecond: number;
  /** Null: there was no request. More than the histogram's last bound counts as that. */
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
}

export interface Rates {
  /** How long a time it is. */
  readonly seconds: number;
  /** It is the time since the worker was started, which is not the one of the answer before. */
  readonly sinceStart: boolean;
  /** Of the worker's verbs, in their order. */
  readonly verbs: Readonly<Record<string, VerbRates>>;
  /** Of the objects that were to be got; null: none was. */
  readonly hitRatio: number | null;
  readonly errorsPerSecond: number;
  readonly cancelledPerSecond: number;
  /** Null: the worker does not count them. */
  readonly evictionsPerSecond: number | null;
}

const NOTHING: VerbInfo = { requests: 0, errors: 0, bytes: 0, latency: [], latencySumUs: 0 };
/** Milliseconds that rounding may take from an uptime. */
const ROUNDING_MS = 2;

/**
 * Whether both are of the same process: its uptime has grown by at least the time between one answer
 * and the next question.
 */
function isSameWorker(before: Reading, now: Reading): boolean {
  const leastMs = now.askedMs - before.answeredMs - ROUNDING_MS;
  return (now.info.uptimeMs ?? 0) - (before.info.uptimeMs ?? 0) >= leastMs;
}

/** How many were at most so slow. */
function countAt(latency: readonly LatencyBucket[], leUs: number): number {
  return latency.findLast((bucket) => bucket.leUs <= leUs)?.count ?? 0;
}

/**
 * The time within which that share of the requests between two histograms was answered, in
 * milliseconds, taking them as evenly spread within a bucket, as Prometheus's histogram_quantile()
 * does; null: there were none.
 */
export function quantileMs(
  share: number,
  before: readonly LatencyBucket[],
  now: readonly LatencyBucket[],
): number | null {
  const counts = now.map(({ leUs, count }) => ({ leUs, count: count - countAt(before, leUs) }));
  const all = counts.at(-1)?.count ?? 0;
  if (all <= 0) return null;
  const rank = share * all;
  let lower = { leUs: 0, count: 0 };
  for (const bucket of counts) {
    if (bucket.count >= rank && bucket.count > lower.count) {
      if (bucket.leUs === Infinity) break;
      const part = (rank - lower.count) / (bucket.count - lower.count);
      return (lower.leUs + (bucket.leUs - lower.leUs) * part) / 1000;
    }
    lower = bucket;
  }
  return lower.leUs / 1000;
}

/** @param before of the same address; null: there is none. Of another process it does not count. */
export function ratesBetween(before: Reading | null, now: Reading): Rates {
  const same = before !== null && isSameWorker(before, now);
  const old: WorkerInfo = same ? before.info : { worker: now.info.worker, verbs: {} };
  const { info } = now;
  const seconds = Math.max(1, (info.uptimeMs ?? 0) - (old.uptimeMs ?? 0)) / 1000;
  const grown = (member: "errors" | "cancelled" | "hits" | "misses" | "evictions") =>
    Math.max(0, (info[member] ?? 0) - (old[member] ?? 0));
  const verbs = Object.entries(info.verbs).map(([verb, counts]): [string, VerbRates] => {
    const { requests, bytes, errors, latency } = old.verbs[verb] ?? NOTHING;
    return [verb, {
      requestsPerSecond: (counts.requests - requests) / seconds,
      bytesPerSecond: (counts.bytes - bytes) / seconds,
      errorsPerSecond: (counts.errors - errors) / seconds,
      p50Ms: quantileMs(0.5, latency, counts.latency),
      p99Ms: quantileMs(0.99, latency, counts.latency),
    }];
  });
  const [hits, misses] = [grown("hits"), grown("misses")];
  return {
    seconds,
    sinceStart: !same,
    verbs: Object.fromEntries(verbs),
    hitRatio: hits + misses === 0 ? null : hits / (hits + misses),
    errorsPerSecond: grown("errors") / seconds,
    cancelledPerSecond: grown("cancelled") / seconds,
    evictionsPerSecond: info.evictions === undefined ? null : grown("evictions") / seconds,
  };
}
