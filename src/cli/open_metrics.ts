// SPDX-License-Identifier: Apache-2.0
//
// OpenMetrics text of what a worker says of itself (INFO). Names and units follow Prometheus's
// conventions: base units, "_total" for what only grows, histograms in seconds. Pure.

import type { VerbInfo, WorkerInfo } from "../mod.ts";

export const CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Kind = "gauge" | "counter" | "histogram" | "info";
type Labels = Readonly<Record<string, string>>;

interface Sample {
  /** After the family's name: "_total", "_bucket", ... */
  readonly suffix?: string;
  readonly labels?: Labels;
  readonly value: number;
}

export interface Family {
  readonly name: string;
  readonly kind: Kind;
  readonly unit?: "bytes" | "seconds";
  readonly help: string;
}

/** Every metric that there is; the last part of a name is its unit, where it has one. */
export const FAMILIES = {
  up: { name: "lmshm_up", kind: "gauge", help: "Whether the worker answered." },
  worker: { name: "lmshm_worker", kind: "info", help: "What the worker is set to." },
  start: {
    name: "lmshm_worker_start_time_seconds",
    kind: "gauge",
    unit: "seconds",
    help: "When the worker was started, in seconds since 1970.",
  },
  clients: { name: "lmshm_worker_clients", kind: "gauge", help: "Connections now." },
  threads: {
    name: "lmshm_worker_io_threads",
    kind: "gauge",
    help: "Threads that carry out requests.",
  },
  queued: {
    name: "lmshm_worker_queued_requests",
    kind: "gauge",
    help: "Requests that wait for their turn.",
  },
  running: {
    name: "lmshm_worker_running_requests",
    kind: "gauge",
    help: "Requests that a thread is at.",
  },
  inFlight: {
    name: "lmshm_worker_in_flight_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "What the running requests move.",
  },
  maxInFlight: {
    name: "lmshm_worker_max_in_flight_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "What requests may move at one time.",
  },
  requests: {
    name: "lmshm_worker_request_duration_seconds",
    kind: "histogram",
    unit: "seconds",
    help: "From the reading of a request to its answer, by verb.",
  },
  failures: {
    name: "lmshm_worker_failures",
    kind: "counter",
    help: "Objects, or requests without any, that failed, by verb; a miss is none.",
  },
  cancelled: {
    name: "lmshm_worker_cancelled",
    kind: "counter",
    help: "Requests that were cancelled.",
  },
  moved: {
    name: "lmshm_worker_moved_bytes",
    kind: "counter",
    unit: "bytes",
    help: "Bytes of objects that were moved, by verb.",
  },
  transfers: {
    name: "lmshm_worker_transfers",
    kind: "counter",
    help: "Objects that were moved, by operation and the way they took: direct or cached, or the " +
      "engine that keeps them.",
  },
  fallbacks: {
    name: "lmshm_worker_direct_fallbacks",
    kind: "counter",
    help: "Objects that should have gone past the page cache and could not.",
  },
  lookups: {
    name: "lmshm_worker_lookups",
    kind: "counter",
    help: "Gets, by result: hit or miss.",
  },
  keptOpen: {
    name: "lmshm_worker_kept_open_files",
    kind: "gauge",
    help: "Small objects that stay open now.",
  },
  keptGets: {
    name: "lmshm_worker_kept_open_gets",
    kind: "counter",
    help: "Gets that found their object open.",
  },
  directories: {
    name: "lmshm_worker_open_directories",
    kind: "gauge",
    help: "Directories that clients use.",
  },
  quota: {
    name: "lmshm_store_limit_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "What all objects may take of the disk; 0: no limit.",
  },
  used: {
    name: "lmshm_store_used_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "What all objects take of the disk.",
  },
  objects: { name: "lmshm_store_objects", kind: "gauge", help: "Objects in all directories." },
  counted: {
    name: "lmshm_store_counted",
    kind: "gauge",
    help: "1: all that was there when the worker started is counted.",
  },
  index: {
    name: "lmshm_store_index_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "Memory that the account takes.",
  },
  evictions: {
    name: "lmshm_store_evictions",
    kind: "counter",
    help: "Objects that were removed to make room.",
  },
  evicted: {
    name: "lmshm_store_evicted_bytes",
    kind: "counter",
    unit: "bytes",
    help: "What those took of the disk.",
  },
  stale: {
    name: "lmshm_store_stale_files",
    kind: "counter",
    help: "Files that killed writers left and that were removed, by kind.",
  },
  directoryUsed: {
    name: "lmshm_directory_used_bytes",
    kind: "gauge",
    unit: "bytes",
    help: "What the objects of the directory that was named take of the disk.",
  },
  directoryObjects: {
    name: "lmshm_directory_objects",
    kind: "gauge",
    help: "Objects in the directory that was named.",
  },
} as const satisfies Readonly<Record<string, Family>>;

type FamilyId = keyof typeof FAMILIES;

function escaped(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}

function number(value: number): string {
  return value === Infinity ? "+Inf" : String(value);
}

function familyLines(id: FamilyId, samples: readonly Sample[]): string[] {
  if (samples.length === 0) return [];
  const { name, kind, unit, help }: Family = FAMILIES[id];
  return [
    `# TYPE ${name} ${kind}`,
    ...(unit === undefined ? [] : [`# UNIT ${name} ${unit}`]),
    `# HELP ${name} ${escaped(help)}`,
    ...samples.map(({ suffix = kind === "counter" ? "_total" : "", labels = {}, value }) => {
      const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`);
      return `${name}${suffix}${pairs.length === 0 ? "" : `{${pairs.join()}}`} ${number(value)}`;
    }),
  ];
}

/** A sample if the worker tells of it. */
function one(value: unknown, labels: Labels = {}): Sample[] {
  return typeof value === "number" ? [{ labels, value }] : [];
}

function histogram(verb: string, { latency, latencySumUs }: VerbInfo): Sample[] {
  if (latency.length === 0) return [];
  return [
    ...latency.map(({ leUs, count }): Sample => ({
      suffix: "_bucket",
      labels: { verb, le: leUs === Infinity ? "+Inf" : (leUs / 1e6).toString() },
      value: count,
    })),
    { suffix: "_sum", labels: { verb }, value: latencySumUs / 1e6 },
    { suffix: "_count", labels: { verb }, value: latency.at(-1)!.count },
  ];
}

function settings(info: WorkerInfo): Sample {
  const labels: Record<string, string> = {};
  const [, version] = info.worker.split("/");
  if (version !== undefined) labels["version"] = version;
  for (const name of ["io", "sync", "direct", "fs", "engine"] as const) {
    if (info[name] !== undefined) labels[name] = String(info[name]);
  }
  return { suffix: "_info", labels, value: 1 };
}

/**
 * The text, with its "# EOF".
 * @param info null: the worker did not answer
 * @param directory as a label; null: none was named
 * @param nowMs the time, in milliseconds since 1970
 */
export function openMetrics(
  info: WorkerInfo | null,
  directory: string | null,
  nowMs: number,
): string {
  const up = familyLines("up", [{ value: info === null ? 0 : 1 }]);
  if (info === null) return [...up, "# EOF", ""].join("\n");
  const verbs = Object.entries(info.verbs);
  const ofVerbs = (of: (verb: VerbInfo) => number) =>
    verbs.map(([verb, counts]): Sample => ({ labels: { verb }, value: of(counts) }));
  const inDirectory: Labels = { directory: directory ?? "" };
  const uptimeMs = info.uptimeMs;
  const samples: Record<Exclude<FamilyId, "up">, Sample[]> = {
    worker: [settings(info)],
    start: one(uptimeMs === undefined ? undefined : Math.round(nowMs - uptimeMs) / 1000),
    clients: one(info.clients),
    threads: one(info.threads),
    queued: one(info.queued),
    running: one(info.running),
    inFlight: one(info.bytesInFlight),
    maxInFlight: one(info.maxBytesInFlight),
    requests: verbs.flatMap(([verb, counts]) => histogram(verb, counts)),
    failures: ofVerbs(({ errors }) => errors),
    cancelled: one(info.cancelled),
    moved: ofVerbs(({ bytes }) => bytes).filter(({ labels }) =>
      /^(put|get|write|read)$/.test(labels!["verb"]!)
    ),
    transfers: [
      ...one(info.putsDirect, { operation: "put", way: "direct" }),
      ...one(info.putsCached, { operation: "put", way: "cached" }),
      ...one(info.getsDirect, { operation: "get", way: "direct" }),
      ...one(info.getsCached, { operation: "get", way: "cached" }),
      ...(info.putsCached !== undefined || info.engine === undefined ? [] : [
        ...one(info.puts, { operation: "put", way: info.engine }),
        ...one(info.gets, { operation: "get", way: info.engine }),
      ]),
    ],
    fallbacks: one(info.fallbacks),
    lookups: [...one(info.hits, { result: "hit" }), ...one(info.misses, { result: "miss" })],
    keptOpen: one(info.keptOpen),
    keptGets: one(info.getsKept),
    directories: one(info.directories),
    quota: one(info.maxBytes),
    used: one(info.usedBytes),
    objects: one(info.objects),
    counted: one(info.counted),
    index: one(info.indexBytes),
    evictions: one(info.evictions),
    evicted: one(info.evictedBytes),
    stale: [
      ...one(info.staleTemporaries, { kind: "temporary" }),
      ...one(info.staleKeys, { kind: "key" }),
    ],
    directoryUsed: directory === null ? [] : one(info.dirUsedBytes, inDirectory),
    directoryObjects: directory === null ? [] : one(info.dirObjects, inDirectory),
  };
  return [
    ...up,
    ...Object.entries(samples).flatMap(([id, list]) => familyLines(id as FamilyId, list)),
    "# EOF",
    "",
  ].join("\n");
}
