// SPDX-License-Identifier: Apache-2.0
//
// Objects of 4 KiB, 64 KiB and 1 MiB, on the disk and in tmpfs: one at a time, many in flight, in
// batches. What counts here is what an object costs besides its bytes: making and opening files,
// attributes, requests and answers.

import { best, ratioAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { interleave } from "../support/interleave.ts";
import { syncFileSystem } from "../support/page_cache.ts";
import {
  type Aim,
  type Comparison,
  type Metric,
  type Row,
  rowOf,
  type Section,
  type Table,
} from "../support/results.ts";
import { Arena, emptyFiles, type Load, type Place } from "./arena.ts";
import {
  C_CACHED,
  C_DIRECT,
  C_WORKER_CALLS,
  Connectors,
  OURS,
  OURS_DIRECT,
  OURS_OPENING,
  OURS_UNCHECKED,
  VERSION_1,
  Yardsticks,
} from "./contenders.ts";
import { BATCH_OBJECTS, BATCHES, type Lanes, WayMover } from "./movers.ts";
import { type Entry, reader, writer } from "./sampling.ts";
import { readWays, writeWays } from "./ways.ts";

const MANY = 64;
const ALL_OURS = [VERSION_1, OURS, OURS_DIRECT, OURS_UNCHECKED, OURS_OPENING];
const VERSION_2 = [OURS, OURS_UNCHECKED];
const OUR_COLUMNS = [`ops${MANY}`, "opsbatch", "opsbatches"];

interface Plan {
  readonly label: string;
  readonly objectBytes: number;
  readonly puts: number;
  readonly gets: number;
  readonly coldGets: number;
  readonly rounds: number;
}

const PLANS: readonly Plan[] = [
  { label: "4 KiB", objectBytes: 4096, puts: 1024, gets: 4096, coldGets: 512, rounds: 5 },
  { label: "64 KiB", objectBytes: 65_536, puts: 256, gets: 512, coldGets: 256, rounds: 3 },
  { label: "1 MiB", objectBytes: 2 ** 20, puts: 48, gets: 96, coldGets: 48, rounds: 3 },
];

function quicker(plan: Plan): Plan {
  const { puts, gets, coldGets } = plan;
  return { ...plan, rounds: 1, puts: puts / 2, gets: gets / 2, coldGets: coldGets / 2 };
}

function column(lanes: Lanes, label: string): Metric {
  return { key: `ops${lanes}`, label, unit: "ops/s" };
}

const RATES: readonly Metric[] = [
  column(1, "one at a time"),
  column(2, "2 threads"),
  column(MANY, `${MANY} in flight`),
  column("batch", `batches of ${BATCH_OBJECTS}`),
  column("batches", `${BATCHES} such batches at a time`),
];
const DURABLE: readonly Metric[] = [
  { key: "durable2", label: "2 threads, until on disk", unit: "MB/s" },
  { key: `durable${MANY}`, label: `${MANY} in flight, until on disk`, unit: "MB/s" },
];
const CPU: readonly Metric[] = [
  { key: `objectScript${MANY}`, label: `JavaScript's CPU, ${MANY} in flight`, unit: "us" },
  { key: `objectCpu${MANY}`, label: `CPU of all processes, ${MANY} in flight`, unit: "us" },
  { key: "objectScriptbatches", label: "JavaScript's CPU, batches at a time", unit: "us" },
  { key: "objectCpubatches", label: "CPU of all processes, batches at a time", unit: "us" },
];
const COMPARE: Comparison = {
  metric: `ops${MANY}`,
  baseline: OURS,
  label: `${MANY} in flight, of ours`,
  better: "more",
  baselineIsOurs: true,
  ours: ALL_OURS,
};
const CHART = {
  left: "bestOps",
  leftTitle: "ops/s, the fastest of its columns",
  right: ["bestScript", "bestOther"],
  rightTitle: "CPU, µs: JavaScript's process (dark), others (light)",
} as const;
const THREADS: readonly Lanes[] = [1, 2];
const FLIGHTS: readonly Lanes[] = [1, MANY];
const ALL_LANES: readonly Lanes[] = [1, MANY, "batch", "batches"];

interface Site {
  readonly place: Place;
  readonly connectors: Connectors;
}

class Bench {
  readonly #arena: Arena;
  readonly #yardsticks: Yardsticks;
  readonly #context: Context;

  constructor(arena: Arena, yardsticks: Yardsticks, context: Context) {
    this.#arena = arena;
    this.#yardsticks = yardsticks;
    this.#context = context;
  }

  async #rows(
    title: string,
    group: string,
    rounds: number,
    contenders: readonly ReturnType<typeof writer>[],
  ): Promise<Row[]> {
    const { quick, show } = this.#context;
    const step = (text: string) => show(`${title}, ${group}, ${text}`);
    const samples = await interleave(contenders, rounds, step, !quick);
    return contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!, group));
  }

  #ours({ connectors }: Site, names: readonly string[], lanes: readonly Lanes[]): Entry[] {
    return connectors.of(...names).map((mover) => ({ mover, lanes }));
  }

  #programs(...names: readonly string[]): Entry[] {
    return this.#yardsticks.of(...names).map((mover) => ({ mover, lanes: THREADS }));
  }

  async put(site: Site, plans: readonly Plan[]): Promise<Table> {
    const { place } = site;
    const title = `put: smaller objects, ${place.name}`;
    const rows: Row[] = [];
    for (const { label, objectBytes, puts, rounds } of plans) {
      const load: Load = { label, objectBytes, count: puts };
      const entries = [
        ...this.#ours(site, [VERSION_1], FLIGHTS),
        ...this.#ours(site, VERSION_2, ALL_LANES),
        ...writeWays().map((way) => ({ mover: new WayMover(way), lanes: FLIGHTS })),
        ...this.#programs(C_CACHED, C_WORKER_CALLS),
      ];
      const contenders = entries.map((entry) =>
        writer(entry, this.#arena, load, place, place.name === "disk")
      );
      rows.push(...await this.#rows(title, label, rounds, contenders));
    }
    const onDisk = place.name === "disk";
    const how = plans.map(({ label, puts, rounds }) => `${puts} of ${label}, ${rounds} rounds`);
    return {
      title,
      conditions: `${how.join("; ")}. New files each time, nothing is synced before the answer` +
        `${onDisk ? '; "until on disk" includes a syncfs after the last answer' : ""}.`,
      metrics: [...RATES, ...onDisk ? DURABLE : [], ...CPU],
      rows,
      compare: COMPARE,
      chart: CHART,
    };
  }

  async get(site: Site, plans: readonly Plan[], cold: boolean): Promise<Table> {
    const { place, connectors } = site;
    const title = cold
      ? `get: smaller objects, ${place.name}, not in the page cache`
      : `get: smaller objects, ${place.name}`;
    const rows: Row[] = [];
    for (const { label, objectBytes, gets, coldGets, rounds } of plans) {
      const slots = this.#arena.fresh(
        { label, objectBytes, count: cold ? coldGets : gets },
        place,
      );
      this.#arena.fillPool(slots);
      await connectors.maker.put(slots, 1);
      syncFileSystem(place.directory);
      const ways = readWays().filter((way) => !cold || !way.blocks);
      const entries = [
        ...this.#ours(site, [VERSION_1], FLIGHTS),
        ...this.#ours(site, cold ? [OURS, OURS_DIRECT] : [...VERSION_2, OURS_OPENING], ALL_LANES),
        ...ways.map((way) => ({
          mover: new WayMover(way),
          lanes: way.blocks ? [1] : FLIGHTS,
        })),
        ...this.#programs(C_CACHED, ...cold ? [C_DIRECT] : [C_WORKER_CALLS]),
      ];
      const contenders = entries.map((entry) => reader(entry, this.#arena, slots, cold));
      rows.push(...await this.#rows(title, label, rounds, contenders));
      emptyFiles(slots, place);
    }
    const conditions = plans.map(({ label, gets, coldGets, rounds }) =>
      `${cold ? coldGets : gets} of ${label}, ${rounds} rounds`
    ).join("; ");
    return {
      title,
      conditions: cold
        ? `${conditions}; the files' pages are thrown out of the page cache before each ` +
          "measurement, directory and attributes stay."
        : `${conditions}; all in the page cache.`,
      metrics: [...RATES, ...CPU],
      rows,
      compare: COMPARE,
      chart: CHART,
    };
  }
}

function rowsOf(table: Table, group: string): Row[] {
  return table.rows.filter((row) => row.group === group);
}

function getAims(table: Table): Aim[] {
  const rows = rowsOf(table, "4 KiB");
  const ours = best(rows, [OURS], OUR_COLUMNS);
  return [
    ...ratioAim(
      "get 4 KiB, in the page cache, pipelined or batched: of C with two threads",
      ours,
      best(rows, [C_CACHED], ["ops2"]),
      "more",
      0.7,
    ),
    ...ratioAim(
      "get 4 KiB, in the page cache, pipelined or batched: of C with two threads and the worker's " +
        "system calls",
      ours,
      best(rows, [C_WORKER_CALLS], ["ops2"]),
      "more",
      0.7,
    ),
    ...ratioAim(
      "get 4 KiB, in the page cache, pipelined or batched: of version 1, one at a time",
      ours,
      best(rows, [VERSION_1], ["ops1"]),
      "more",
      3,
    ),
  ];
}

function putAims(table: Table, place: Place): Aim[] {
  const rows = rowsOf(table, "4 KiB");
  return ratioAim(
    `put 4 KiB, ${place.name}, pipelined or batched: of C with the worker's system calls`,
    best(rows, [OURS], OUR_COLUMNS),
    best(rows, [C_WORKER_CALLS], ["ops1", "ops2"]),
    "more",
    0.8,
  );
}

async function run(context: Context): Promise<Section> {
  const { quick, directory } = context;
  const plans = quick ? [PLANS[0]!, PLANS[2]!].map(quicker) : PLANS;
  const poolBytes = Math.max(
    ...plans.map(({ objectBytes, puts, gets }) => objectBytes * Math.max(puts, gets)),
  );
  await using arena = await Arena.open(poolBytes, directory, true);
  const yardsticks = new Yardsticks(arena.segment);
  const bench = new Bench(arena, yardsticks, context);
  const notes = [...yardsticks.notes];
  const tables: Table[] = [];
  const aims: Aim[] = [];
  for (const place of arena.places) {
    await using connectors = await Connectors.open(arena.segment, place.directory, ALL_OURS);
    for (const note of connectors.notes) if (!notes.includes(note)) notes.push(note);
    const site = { place, connectors };
    const put = await bench.put(site, plans);
    const get = await bench.get(site, plans, false);
    tables.push(put, get);
    aims.push(...putAims(put, place));
    if (place.name !== "disk") continue;
    aims.unshift(...getAims(get));
    tables.push(await bench.get(site, plans, true));
  }
  return {
    title: "Smaller objects",
    intro: `Objects of 4 KiB to 1 MiB. "${MANY} in flight": so many callers, each of which waits ` +
      `for its answer; "batches": batchedPut() and batchedGet(), one after the other or several at ` +
      "a time. The C program has threads instead.",
    tables,
    aims,
    notes,
  };
}

export const smallBenchmark: Benchmark = {
  name: "small",
  summary: "put and get of 4 KiB, 64 KiB and 1 MiB: disk, tmpfs, batches",
  run,
};
