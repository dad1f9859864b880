// SPDX-License-Identifier: Apache-2.0
//
// Chunks of 33.5 MB, LMCache's usual size: put until the answer and until the bytes are on the disk,
// get from the page cache and from the disk. This project in each of its modes, against the best
// that system calls, fio and the runtime reach, on the same pool, files and disk.

import { best, numberAim, ratioAim } from "../support/aims.ts";
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
import { Arena, type Load } from "./arena.ts";
import {
  C_CACHED,
  C_DIRECT,
  Connectors,
  FIO,
  OURS,
  OURS_CACHED,
  OURS_DIRECT,
  OURS_DIRECT_UNCHECKED,
  OURS_UNCHECKED,
  VERSION_1,
  Yardsticks,
} from "./contenders.ts";
import { WayMover } from "./movers.ts";
import { type Entry, reader, writer } from "./sampling.ts";
import { readWays, writeWays } from "./ways.ts";

/** 2 x 32 layers x 256 tokens x 1024 values of bfloat16. */
const CHUNK_BYTES = 2 * 32 * 256 * 1024 * 2;
/** More of a file than this in the page cache, and a read is not cold. */
const COLD_SHARE = 0.01;
/** What a user gets who asks for nothing else than a mode. */
const CHECKED = [OURS, OURS_CACHED, OURS_DIRECT];
const UNCHECKED = [OURS_UNCHECKED, OURS_DIRECT_UNCHECKED];
const ALL_OURS = [VERSION_1, ...CHECKED, ...UNCHECKED];
const RUNTIME_PUTS = writeWays().map(({ name }) => name);
/** Into memory of their own: what a program without a pool would do. */
const NEW_BUFFER = readWays().filter(({ note }) => note === "into a new buffer").map(({ name }) =>
  name
);
const OWN_PUT = RUNTIME_PUTS.at(-1)!;

const RATES: readonly Metric[] = [1, 2, 4].map((lanes) => ({
  key: `rate${lanes}`,
  label: `${lanes} in flight`,
  unit: "MB/s",
}));
const DURABLE: readonly Metric[] = [1, 4].map((lanes) => ({
  key: `durable${lanes}`,
  label: `${lanes} in flight, until on disk`,
  unit: "MB/s",
}));
const CPU: readonly Metric[] = [
  { key: "script4", label: "CPU of JavaScript's process, 4 in flight", unit: "s/GB" },
  { key: "cpu4", label: "CPU of all processes, 4 in flight", unit: "s/GB" },
];
const CHART = {
  left: "rate4",
  right: ["script4", "other4"],
  rightTitle: "CPU, s/GB: JavaScript's process (dark), others (light)",
} as const;
const COMPARE: Comparison = {
  metric: "rate4",
  baseline: OURS,
  label: "4 in flight, of ours",
  better: "more",
  baselineIsOurs: true,
  ours: ALL_OURS,
};
const LANES = [1, 4] as const;
const THREADS = [1, 2, 4] as const;

function rates(prefix = "rate"): string[] {
  return THREADS.map((lanes) => `${prefix}${lanes}`);
}

function chunks(quick: boolean): Load {
  return { label: "33.5 MB", objectBytes: CHUNK_BYTES, count: quick ? 4 : 8 };
}

class Bench {
  readonly #arena: Arena;
  readonly #connectors: Connectors;
  readonly #yardsticks: Yardsticks;
  readonly #context: Context;
  readonly #load: Load;

  constructor(arena: Arena, connectors: Connectors, yardsticks: Yardsticks, context: Context) {
    this.#arena = arena;
    this.#connectors = connectors;
    this.#yardsticks = yardsticks;
    this.#context = context;
    this.#load = chunks(context.quick);
  }

  async #rows(
    title: string,
    rounds: number,
    entries: readonly Entry[],
    contender: (entry: Entry) => ReturnType<typeof writer>,
  ): Promise<Row[]> {
    const contenders = entries.map(contender);
    const { quick, show } = this.#context;
    const step = (text: string) => show(`${title}, ${text}`);
    const samples = await interleave(contenders, rounds, step, !quick);
    return contenders.map(({ name, note }, index) => rowOf(name, note, samples[index]!));
  }

  #entries(lanes: Entry["lanes"], names: readonly string[]): Entry[] {
    return [...this.#connectors.of(...names), ...this.#yardsticks.of(...names)].map((mover) => ({
      mover,
      lanes,
    }));
  }

  get #conditions(): string {
    const { count, label } = this.#load;
    return `${count} objects of ${label} a sample`;
  }

  async put(): Promise<Table> {
    const rounds = this.#context.quick ? 1 : 4;
    const place = this.#arena.disk;
    const entries = [
      ...this.#entries(LANES, ALL_OURS),
      ...writeWays().map((way) => ({ mover: new WayMover(way), lanes: LANES })),
      ...this.#entries(THREADS, [C_CACHED, C_DIRECT]),
      ...this.#entries([4], FIO),
    ];
    return {
      title: "put: 33.5 MB",
      conditions: `${rounds} rounds, ${this.#conditions}, new files, no fsync; "until on disk" ` +
        "includes a syncfs after the last answer.",
      metrics: [...RATES, ...DURABLE, ...CPU],
      rows: await this.#rows(
        "put 33.5 MB",
        rounds,
        entries,
        (entry) => writer(entry, this.#arena, this.#load, place, true),
      ),
      compare: COMPARE,
      chart: CHART,
    };
  }

  /** Both tables read the same files. */
  async get(notes: string[]): Promise<[Table, Table]> {
    const { quick } = this.#context;
    const arena = this.#arena;
    const slots = arena.fresh(this.#load, arena.disk);
    arena.fillPool(slots);
    await this.#connectors.maker.put(slots, 1);
    syncFileSystem(arena.disk.directory);
    const ways = (lanes: Entry["lanes"]) =>
      readWays().map((way) => ({ mover: new WayMover(way), lanes: way.blocks ? [1] : lanes }));
    const cachedRounds = quick ? 1 : 6;
    const cached: Table = {
      title: "get: 33.5 MB, in the page cache",
      conditions: `${cachedRounds} rounds, ${this.#conditions}.`,
      metrics: [...RATES, ...CPU],
      rows: await this.#rows(
        "get 33.5 MB",
        cachedRounds,
        [
          ...this.#entries(LANES, [VERSION_1, OURS, OURS_CACHED, OURS_UNCHECKED]),
          ...ways(LANES),
          ...this.#entries(THREADS, [C_CACHED]),
        ],
        (entry) => reader(entry, arena, slots, false),
      ),
      compare: COMPARE,
      chart: CHART,
    };
    const coldRounds = quick ? 1 : 3;
    const cold: Table = {
      title: "get: 33.5 MB, not in the page cache",
      conditions:
        `${coldRounds} rounds, ${this.#conditions}, thrown out of the page cache before ` +
        "each measurement, which is checked; what the hypervisor or the disk keeps stays.",
      metrics: [...RATES, ...CPU],
      rows: await this.#rows(
        "cold get 33.5 MB",
        coldRounds,
        [
          ...this.#entries(LANES, ALL_OURS),
          ...ways([4]),
          ...this.#entries(THREADS, [C_CACHED, C_DIRECT]),
          ...this.#entries([4], FIO),
        ],
        (entry) => reader(entry, arena, slots, true),
      ),
      compare: COMPARE,
      chart: CHART,
    };
    const warm = cold.rows.filter(({ samples }) =>
      THREADS.some((lanes) => samples[`resident${lanes}`]?.some((share) => share > COLD_SHARE))
    );
    if (warm.length > 0) {
      const names = warm.map(({ contender }) => contender).join(", ");
      notes.push(`Cold reads were not wholly cold, the kernel kept pages: ${names}.`);
    }
    return [cached, cold];
  }
}

function putAims({ rows }: Table): Aim[] {
  const cpu = ["cpu1", "cpu4"];
  const own = best(rows, [OWN_PUT], cpu, "less");
  const direct = best(rows, [OURS_DIRECT], cpu, "less");
  const unchecked = best(rows, [OURS_DIRECT_UNCHECKED], cpu, "less");
  const cached = best(rows, [OURS_CACHED], rates());
  const bestC = best(rows, [C_CACHED, C_DIRECT], rates());
  const onDisk = best(rows, [C_CACHED, C_DIRECT, ...FIO], rates("durable"));
  const put = "put 33.5 MB";
  const of = "throughput, of the best";
  return [
    ...ratioAim(`${put}, cached, until the answer: ${of} C way's`, cached, bestC, "more", 0.85),
    ...ratioAim(
      `${put}, cached, no checksum, until the answer: ${of} C way's`,
      best(rows, [OURS_UNCHECKED], rates()),
      bestC,
      "more",
      0.85,
    ),
    ...ratioAim(
      `${put}, cached, until the answer: ${of} way of node:fs and runtime`,
      cached,
      best(rows, RUNTIME_PUTS, rates()),
      "more",
      1,
    ),
    ...ratioAim(
      `${put}, until on disk: ${of} of C and fio`,
      best(rows, CHECKED, rates("durable")),
      onDisk,
      "more",
      0.95,
    ),
    ...ratioAim(
      `${put}, no checksum, until on disk: ${of} of C and fio`,
      best(rows, UNCHECKED, rates("durable")),
      onDisk,
      "more",
      0.95,
    ),
    ...numberAim(`${put}, direct: CPU of all processes`, direct, "less", 0.06, "s/GB"),
    ...numberAim(
      `${put}, direct, no checksum: CPU of all processes`,
      unchecked,
      "less",
      0.06,
      "s/GB",
    ),
    ...ratioAim(`${put}, direct: CPU, of ${OWN_PUT}'s`, direct, own, "less", 0.167),
  ];
}

function getAims(cached: Table, cold: Table): Aim[] {
  const ours = best(cached.rows, CHECKED, rates());
  const bestC = best(cached.rows, [C_CACHED], rates());
  const get = "get 33.5 MB";
  return [
    ...ratioAim(
      `${get}, cold: throughput, of the best of C and fio`,
      best(cold.rows, CHECKED, rates()),
      best(cold.rows, [C_CACHED, C_DIRECT, ...FIO], rates()),
      "more",
      0.9,
    ),
    ...ratioAim(
      `${get}, in the page cache: throughput, of the best C way's`,
      ours,
      bestC,
      "more",
      0.9,
    ),
    ...ratioAim(
      `${get}, in the page cache, no checksum: throughput, of the best C way's`,
      best(cached.rows, [OURS_UNCHECKED], rates()),
      bestC,
      "more",
      0.9,
    ),
    ...ratioAim(
      `${get}, in the page cache: throughput, of the best way into a new buffer`,
      ours,
      best(cached.rows, NEW_BUFFER, rates()),
      "more",
      2,
    ),
    ...ratioAim(
      `${get}, in the page cache: CPU of all processes, of the thriftiest way into a new buffer`,
      best(cached.rows, CHECKED, ["cpu1", "cpu4"], "less"),
      best(cached.rows, NEW_BUFFER, ["cpu1", "cpu4"], "less"),
      "less",
      0.5,
    ),
  ];
}

async function run(context: Context): Promise<Section> {
  const { quick, directory } = context;
  const { objectBytes, count } = chunks(quick);
  await using arena = await Arena.open(objectBytes * count, directory, false);
  const yardsticks = new Yardsticks(arena.segment);
  await using connectors = await Connectors.open(arena.segment, arena.disk.directory);
  const notes = [...connectors.notes, ...yardsticks.notes];
  const bench = new Bench(arena, connectors, yardsticks, context);
  const put = await bench.put();
  const [cached, cold] = await bench.get(notes);
  return {
    title: "Chunks of 33.5 MB",
    intro:
      "Between the pool and files on the disk. Every byte is compared after each sample, but " +
      "for fio, which moves bytes of its own. 1, 2 and 4 in flight are as many threads in C.",
    tables: [put, cached, cold],
    aims: [...putAims(put), ...getAims(cached, cold)],
    notes,
  };
}

export const largeBenchmark: Benchmark = {
  name: "large",
  summary: "put and get of 33.5 MB: page cache, disk, CPU",
  run,
};
