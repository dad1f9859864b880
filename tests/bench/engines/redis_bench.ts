// SPDX-License-Identifier: Apache-2.0
//
// Objects to a Redis or Valkey server on this machine and back into the pool: this project against a
// C program that does the least that can be done, and against the clients that a TypeScript program
// has without it. Then the same objects over three masters of a cluster.

import { connect } from "../../../src/mod.ts";
import { Arena } from "../data_plane/arena.ts";
import { ConnectorMover } from "../data_plane/movers.ts";
import type { Entry } from "../data_plane/sampling.ts";
import { best, ratioAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import type { Aim, Comparison, Metric, Row, Section, Table } from "../support/results.ts";
import { BUN, C_CLIENT, CClient, IOREDIS, redisClients } from "./clients.ts";
import { type Direction, exchange, type Group } from "./exchange.ts";
import { RedisNodes } from "./redis_nodes.ts";
import { withoutRedis } from "../../support/redis_server.ts";

const OURS = "ours";
const UNCHECKED = "ours, no checksum";
const ONE_NODE = "ours, one node";
const THREE_MASTERS = "ours, three masters";
const SMALL: Group = { label: "64 KiB", objectBytes: 65_536, count: 1024, rounds: 7 };
const MEDIUM: Group = { label: "1 MiB", objectBytes: 2 ** 20, count: 128, rounds: 7 };
const LARGE: Group = {
  ...{ label: "33.5 MB", objectBytes: 33_554_432, count: 6, rounds: 7, gapsWith: 4 },
};
const GROUPS = [SMALL, MEDIUM, LARGE];
const LANES: Readonly<Record<string, readonly number[]>> = {
  [SMALL.label]: [1, 4, 16],
  [MEDIUM.label]: [1, 4, 16],
  [LARGE.label]: [1, 4],
};
const BATCHES = ["batch", "batches"] as const;

const RATES: readonly Metric[] = [
  ...([["1", "one at a time"], ["4", "4 in flight"], ["16", "16 in flight"]] as const),
  ...([["batch", "batches of 256"], ["batches", "4 batches at a time"]] as const),
].map(([lanes, label]) => ({ key: `rate${lanes}`, label, unit: "MB/s" }));
const CPU: readonly Metric[] = [["4", "4 in flight"], ["batches", "batches"]].flatMap((
  [lanes, label],
) => [
  { key: `script${lanes}`, label: `CPU of JavaScript's process, ${label}`, unit: "s/GB" as const },
  { key: `cpu${lanes}`, label: `of all but the server, ${label}`, unit: "s/GB" as const },
]);
const GAP: Metric = {
  key: "gap",
  label: "longest gap of the event loop, 4 in flight",
  unit: "ms",
};
const COMPARE: Comparison = {
  ...{ metric: "rate4", baseline: OURS, label: "4 in flight, of ours", better: "more" },
  ...{ baselineIsOurs: true, ours: [OURS, UNCHECKED] },
};

function tableOf(direction: Direction, rows: Row[], conditions: string): Table {
  return {
    title: `${direction}: a server of this machine`,
    conditions,
    metrics: [...RATES, ...CPU, GAP],
    rows,
    compare: COMPARE,
    chart: null,
  };
}

async function conditionsOf(server: RedisNodes, groups: readonly Group[]): Promise<string> {
  const how = groups.map(({ label, count, rounds }) => `${count} of ${label}, ${rounds} rounds`);
  return `${await server.version()} on loopback, in memory alone. ${how.join("; ")}. Each sample ` +
    "puts its objects, gets them into a cleared pool, and compares every byte.";
}

async function oneServer(
  arena: Arena,
  groups: readonly Group[],
  { show }: Context,
  notes: string[],
): Promise<Table[]> {
  await using server = await RedisNodes.start();
  const [port] = server.ports;
  const { segment } = arena;
  await using store = await connect(server.url("a:"), { segment });
  await using unchecked = await connect(server.url("b:"), { segment, checksum: false });
  const [clients, missing] = await redisClients(port!);
  notes.push(...missing);
  let program: CClient | null = null;
  try {
    program = new CClient(port!);
  } catch (error) {
    notes.push((error as Error).message);
  }
  const rows: Record<Direction, Row[]> = { put: [], get: [] };
  try {
    for (const group of groups) {
      const lanes = LANES[group.label]!;
      const small = group.label === SMALL.label ? BATCHES : [];
      const entries: Entry[] = [
        { mover: new ConnectorMover(OURS, "the defaults", store), lanes: [...lanes, ...small] },
        {
          mover: new ConnectorMover(UNCHECKED, "no CRC-32C", unchecked),
          lanes: [...lanes, ...small],
        },
        ...clients.map((mover) => ({ mover, lanes })),
        ...program === null ? [] : [{ mover: program, lanes: [...lanes, ...small] }],
      ];
      const step = (text: string) => show(`Redis, ${group.label}, ${text}`);
      const taken = await exchange(entries, arena, group, step);
      rows.put.push(...taken.put);
      rows.get.push(...taken.get);
    }
  } finally {
    for (const client of clients) client.close();
  }
  const conditions = await conditionsOf(server, groups);
  return [tableOf("put", rows.put, conditions), tableOf("get", rows.get, conditions)];
}

async function threeMasters(
  arena: Arena,
  groups: readonly Group[],
  { show }: Context,
): Promise<Table[]> {
  await using server = await RedisNodes.start();
  await using cluster = await RedisNodes.start(3);
  const { segment } = arena;
  await using one = await connect(server.url("c:"), { segment });
  await using three = await connect(cluster.url("c:"), { segment });
  const rows: Record<Direction, Row[]> = { put: [], get: [] };
  for (const { gapsWith: _, ...group } of groups) {
    const lanes = [...LANES[group.label]!, ...group.label === SMALL.label ? BATCHES : []];
    const entries: Entry[] = [
      { mover: new ConnectorMover(ONE_NODE, "", one), lanes },
      { mover: new ConnectorMover(THREE_MASTERS, "a cluster on this machine", three), lanes },
    ];
    const step = (text: string) => show(`three masters, ${group.label}, ${text}`);
    const taken = await exchange(entries, arena, group, step);
    rows.put.push(...taken.put);
    rows.get.push(...taken.get);
  }
  const conditions = await conditionsOf(server, groups);
  return (["put", "get"] as const).map((direction) => ({
    title: `${direction}: three masters beside one server`,
    conditions,
    metrics: [...RATES, ...CPU],
    rows: rows[direction],
    compare: {
      ...{ metric: "rate4", baseline: ONE_NODE, label: "4 in flight, of one" },
      ...{ better: "more", baselineIsOurs: true, ours: [ONE_NODE, THREE_MASTERS] },
    },
    chart: null,
  }));
}

function rowsOf({ rows }: Table, { label }: Group): Row[] {
  return rows.filter(({ group }) => group === label);
}

const LARGE_RATES = ["rate1", "rate4"];

/** Against whom, and by how much more. */
function largeAims(direction: Direction, table: Table, times: number): Aim[] {
  const rows = rowsOf(table, LARGE);
  const what = `Redis, ${direction} 33.5 MB`;
  const mine = best(rows, [OURS], LARGE_RATES);
  const script = (name: string) => best(rows, [name], ["script4"], "less");
  return [
    ...ratioAim(
      `${what}: throughput, of the C client's`,
      mine,
      best(rows, [C_CLIENT], LARGE_RATES),
      "more",
      0.9,
    ),
    ...[BUN, IOREDIS].flatMap((name) => [
      ...ratioAim(
        `${what}: throughput, of ${name}`,
        mine,
        best(rows, [name], LARGE_RATES),
        "more",
        times,
      ),
      ...ratioAim(
        `${what}: CPU of JavaScript's process, of ${name}`,
        script(OURS),
        script(name),
        "less",
        0.1,
      ),
    ]),
  ];
}

function smallAims(direction: Direction, table: Table): Aim[] {
  const rows = rowsOf(table, SMALL);
  const keys = BATCHES.map((lanes) => `rate${lanes}`);
  return ratioAim(
    `Redis, ${direction} 64 KiB, batched: throughput, of the C client's, pipelined`,
    best(rows, [OURS], keys),
    best(rows, [C_CLIENT], keys),
    "more",
    0.8,
  );
}

function clusterAims(direction: Direction, table: Table): Aim[] {
  return [SMALL, MEDIUM, LARGE].flatMap((group) => {
    const rows = rowsOf(table, group);
    const keys = RATES.map(({ key }) => key);
    return ratioAim(
      `Redis, ${direction} ${group.label}: throughput of three masters, of one node's`,
      best(rows, [THREE_MASTERS], keys),
      best(rows, [ONE_NODE], keys),
      "more",
      1,
    );
  });
}

function quicker(group: Group): Group {
  return { ...group, rounds: 1, count: Math.ceil(group.count / 4) };
}

async function run(context: Context): Promise<Section> {
  const about = {
    title: "Redis and Valkey",
    intro: "Client, worker and server share the CPUs of this machine: a server elsewhere leaves " +
      "more to the others, and its network takes the rest. The C program sends from and receives " +
      "into ordinary memory and knows every reply in advance; where others have many under way, " +
      "it has four connections, or one that is pipelined for 64 KiB.",
  };
  if (withoutRedis !== false) {
    return { ...about, tables: [], aims: [], notes: [`Not measured. ${withoutRedis}.`] };
  }
  const groups = context.quick ? GROUPS.map(quicker) : GROUPS;
  const poolBytes = Math.max(...groups.map(({ objectBytes, count }) => objectBytes * count));
  await using arena = await Arena.open(poolBytes, context.directory, false);
  const notes: string[] = [];
  const [put, get] = await oneServer(arena, groups, context, notes);
  const [put3, get3] = await threeMasters(arena, groups, context);
  return {
    ...about,
    tables: [put!, get!, put3!, get3!],
    aims: [
      ...largeAims("put", put!, 1.4),
      ...largeAims("get", get!, 1.6),
      ...smallAims("put", put!),
      ...smallAims("get", get!),
      ...clusterAims("put", put3!),
      ...clusterAims("get", get3!),
    ],
    notes,
  };
}

export const redisBenchmark: Benchmark = {
  name: "redis",
  summary: "put and get on a Redis or Valkey server, and on three masters",
  run,
};
