// SPDX-License-Identifier: Apache-2.0
//
// Objects to an S3 server of this machine (SeaweedFS) and back into the pool: this project, curl and
// Bun's own client.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { connect } from "../../../src/mod.ts";
import { startServer, withoutServer } from "../../support/store_servers.ts";
import { Arena } from "../data_plane/arena.ts";
import { ConnectorMover } from "../data_plane/movers.ts";
import type { Entry } from "../data_plane/sampling.ts";
import { best, ratioAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import type { Aim, Metric, Row, Section, Table } from "../support/results.ts";
import { BUN, CURL, Curl, s3Clients } from "./clients.ts";
import { type Direction, exchange, type Group } from "./exchange.ts";

const OURS = "ours";
const LANES = [1, 4] as const;
const LARGE: Group = {
  ...{ label: "33.5 MB", objectBytes: 33_554_432, count: 4, rounds: 5, gapsWith: 4 },
};
const GROUPS: readonly Group[] = [
  { label: "64 KiB", objectBytes: 65_536, count: 128, rounds: 5 },
  { label: "1 MiB", objectBytes: 2 ** 20, count: 24, rounds: 5 },
  LARGE,
];
const RATES: readonly Metric[] = LANES.map((lanes) => ({
  key: `rate${lanes}`,
  label: `${lanes} in flight`,
  unit: "MB/s",
}));
const METRICS: readonly Metric[] = [
  ...RATES,
  { key: "script4", label: "CPU of JavaScript's process, 4 in flight", unit: "s/GB" },
  { key: "cpu4", label: "CPU of all processes but the server, 4 in flight", unit: "s/GB" },
  { key: "gap", label: "longest gap of the event loop, 4 in flight", unit: "ms" },
];

function aimOf(direction: Direction, { rows }: Table): Aim[] {
  const large = rows.filter(({ group }) => group === LARGE.label);
  const keys = RATES.map(({ key }) => key);
  return ratioAim(
    `S3, ${direction} 33.5 MB: throughput, of the best of curl and Bun's client`,
    best(large, [OURS], keys),
    best(large, [CURL, BUN], keys),
    "more",
    0.9,
  );
}

function quicker(group: Group): Group {
  return { ...group, rounds: 1, count: Math.ceil(group.count / 4) };
}

async function run(context: Context): Promise<Section> {
  const groups = context.quick ? GROUPS.map(quicker) : GROUPS;
  const poolBytes = Math.max(...groups.map(({ objectBytes, count }) => objectBytes * count));
  const about = {
    title: "S3",
    intro: "Client, worker and server share the CPUs of this machine. The server spends several " +
      "CPU seconds on a gigabyte that is put, so a put mostly measures the server.",
  };
  const missing = withoutServer("s3");
  if (missing !== false) {
    return { ...about, tables: [], aims: [], notes: [`Not measured. ${missing}.`] };
  }
  await using server = await startServer("s3");
  await using arena = await Arena.open(poolBytes, context.directory, false);
  await using store = await connect(server.urlWithPassword, { segment: arena.segment });
  const { hostname, searchParams } = new URL(server.url);
  const bucket = {
    name: hostname,
    endpoint: searchParams.get("endpoint")!,
    accessKeyId: server.secrets.AWS_ACCESS_KEY_ID!,
    secretAccessKey: server.secrets.AWS_SECRET_ACCESS_KEY!,
  };
  const noCurl = Curl.whyNone();
  const folder = mkdtempSync("/dev/shm/lmshm-bench-");
  const rows: Record<Direction, Row[]> = { put: [], get: [] };
  try {
    for (const group of groups) {
      const files = join(folder, group.label);
      mkdirSync(files);
      const movers = [
        new ConnectorMover(OURS, "the defaults, with checksums", store),
        ...noCurl === null ? [new Curl(bucket, files)] : [],
        ...await s3Clients(bucket),
      ];
      const entries: Entry[] = movers.map((mover) => ({ mover, lanes: LANES }));
      const step = (text: string) => context.show(`S3, ${group.label}, ${text}`);
      const taken = await exchange(entries, arena, group, step);
      rows.put.push(...taken.put);
      rows.get.push(...taken.get);
      rmSync(files, { recursive: true });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const how = groups.map(({ label, count, rounds }) => `${count} of ${label}, ${rounds} rounds`);
  const tables = (["put", "get"] as const).map((direction): Table => ({
    title: `${direction}: an S3 server of this machine`,
    conditions: `SeaweedFS on loopback, with its files on a disk. ${how.join("; ")}. Each sample ` +
      "puts its objects, gets them into a cleared pool, and compares every byte.",
    metrics: METRICS,
    rows: rows[direction],
    compare: {
      ...{ metric: "rate4", baseline: OURS, label: "4 in flight, of ours", better: "more" },
      ...{ baselineIsOurs: true, ours: [OURS] },
    },
    chart: null,
  }));
  return {
    ...about,
    tables,
    aims: [...aimOf("put", tables[0]!), ...aimOf("get", tables[1]!)],
    notes: noCurl === null ? [] : [noCurl],
  };
}

export const s3Benchmark: Benchmark = {
  name: "s3",
  summary: "put and get on an S3 server: beside curl and Bun's client",
  run,
};
