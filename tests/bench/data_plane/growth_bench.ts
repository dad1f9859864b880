// SPDX-License-Identifier: Apache-2.0
//
// Whether throughput holds: one client of a worker against four at the same time, and directories of
// a thousand objects against a hundred thousand. Clients are processes of their own on one Unix
// socket; the throughput of several is the sum of theirs.

import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { best, ratioAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { cpuTimeMs } from "../support/cpu_clock.ts";
import { type Contender, interleave } from "../support/interleave.ts";
import {
  type Aim,
  type Metric,
  type Row,
  rowOf,
  type Section,
  type Table,
} from "../support/results.ts";
import { Arena, type Load, type Place, type Slot } from "./arena.ts";
import { CLIENT_WORK } from "./client_program.ts";
import { Clients } from "./clients.ts";
import { C_WORKER_CALLS, Connectors, OURS, Yardsticks } from "./contenders.ts";
import { BATCH_OBJECTS, type Mover } from "./movers.ts";
import { reader, writer } from "./sampling.ts";

const CLIENTS = [1, 4] as const;
const LIMIT = 0.9;
const LANES = 64;
const OBJECT_BYTES = 4096;

function clientsName(count: number): string {
  return count === 1 ? "1 client" : `${count} clients`;
}

const CLIENT_METRICS: readonly Metric[] = [
  { key: "ops", label: "all together", unit: "ops/s" },
  { key: "rate", label: "all together", unit: "MB/s" },
  { key: "slowest", label: "the slowest client", unit: "ops/s" },
  { key: "cpu", label: "CPU of clients and worker, an object", unit: "us" },
];

async function clientTable(directory: string, { quick, show }: Context): Promise<Table> {
  const rounds = quick ? 1 : 4;
  const milliseconds = quick ? 150 : 400;
  const root = await mkdtemp(join(directory, "clients-"));
  await using clients = await Clients.start(Math.max(...CLIENTS), root);
  const rows: Row[] = [];
  for (const what of CLIENT_WORK) {
    const contenders: Contender[] = CLIENTS.map((count) => ({
      name: clientsName(count),
      note: "",
      async sample() {
        const pids = clients.pids(count);
        const time = () => pids.reduce((sum, pid) => sum + cpuTimeMs(pid), 0);
        const before = time();
        const answers = await clients.work(count, what, milliseconds);
        const cpuMs = time() - before;
        const sum = (value: (answer: typeof answers[number]) => number) =>
          answers.reduce((total, answer) => total + value(answer), 0);
        return {
          ops: sum(({ objects, wallMs }) => objects * 1e3 / wallMs),
          rate: sum(({ bytes, wallMs }) => bytes / 1e3 / wallMs),
          slowest: Math.min(...answers.map(({ objects, wallMs }) => objects * 1e3 / wallMs)),
          cpu: cpuMs * 1e3 / sum(({ objects }) => objects),
        };
      },
    }));
    const step = (text: string) => show(`clients, ${what}, ${text}`);
    const samples = await interleave(contenders, rounds, step, !quick);
    rows.push(...contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!, what)));
  }
  return {
    title: "Clients of one worker",
    conditions: `${rounds} rounds of ${milliseconds} ms. Each client is a process with a segment ` +
      "of its own and has 64 small or 2 large requests in flight. Gets are from the page cache; " +
      "small puts make new objects, large ones replace.",
    metrics: CLIENT_METRICS,
    rows,
    compare: {
      metric: "ops",
      baseline: clientsName(1),
      label: "throughput, of one client's",
      better: "more",
      baselineIsOurs: false,
      ours: CLIENTS.map(clientsName),
    },
    chart: null,
  };
}

const OBJECT_METRICS: readonly Metric[] = [
  { key: "bestOps", label: "throughput", unit: "ops/s" },
  { key: "bestScript", label: "CPU of JavaScript's process, an object", unit: "us" },
  { key: "bestOther", label: "CPU of the other process, an object", unit: "us" },
];
const BY_C = ", by C";

function objectsName(count: number): string {
  return `${count.toLocaleString("en-US")} objects`;
}

/** A directory with so many objects, each as long as the pool's pieces. */
async function fill(arena: Arena, place: Place, connectors: Connectors, count: number) {
  const load = (count: number): Load => ({ label: "", objectBytes: OBJECT_BYTES, count });
  const pool = Math.floor(arena.segment.sizeBytes / OBJECT_BYTES);
  const lots = [];
  for (let left = count; left > 0; left -= pool) {
    const slots = arena.fresh(load(Math.min(left, pool)), place);
    arena.fillPool(slots);
    await connectors.maker.put(slots, "batch");
    lots.push(slots);
  }
  return lots;
}

/** Some of the objects, from all over the directory, each in a place of the pool of its own. */
function someOf(lots: readonly Slot[][], wanted: number): Slot[] {
  const all = lots.flat();
  const stride = Math.max(1, Math.floor(all.length / wanted));
  const taken = new Map<number, Slot>();
  for (let i = 0; i < all.length; i += stride) {
    const slot = all[i]!;
    if (!taken.has(slot.index)) taken.set(slot.index, slot);
  }
  return [...taken.values()];
}

async function objectTable(context: Context, notes: string[]): Promise<Table> {
  const { quick, directory, show } = context;
  const counts = quick ? [1_000, 5_000] : [1_000, 10_000, 100_000];
  const rounds = quick ? 1 : 5;
  const puts = 256;
  const gets = 1024;
  await using arena = await Arena.open(OBJECT_BYTES * BATCH_OBJECTS * 8, directory, false);
  await using stack = new AsyncDisposableStack();
  const yardsticks = new Yardsticks(arena.segment);
  notes.push(...yardsticks.notes.filter((note) => !note.includes("fio")));
  const groups = new Map<string, Contender[]>();
  const add = (group: string, contender: Contender) =>
    groups.set(group, [...groups.get(group) ?? [], contender]);
  for (const count of counts) {
    show(`directory of ${count} objects`);
    const place: Place = { name: "disk", directory: await mkdtemp(join(directory, "growth-")) };
    const connectors = stack.use(await Connectors.open(arena.segment, place.directory, [OURS]));
    const slots = someOf(await fill(arena, place, connectors, count), gets);
    const load: Load = { label: "4 KiB", objectBytes: OBJECT_BYTES, count: puts };
    const entries = [
      { mover: connectors.maker as Mover, lanes: [LANES], by: "" },
      ...yardsticks.of(C_WORKER_CALLS).map((mover) => ({ mover, lanes: [2], by: BY_C })),
    ];
    for (const { by, ...entry } of entries) {
      const name = objectsName(count);
      add(`get 4 KiB${by}`, { ...reader(entry, arena, slots, false), name });
      add(`put 4 KiB${by}`, { ...writer(entry, arena, load, place, false), name });
    }
  }
  const rows: Row[] = [];
  for (const [group, contenders] of groups) {
    const step = (text: string) => show(`objects, ${group}, ${text}`);
    const samples = await interleave(contenders, rounds, step);
    rows.push(...contenders.map(({ name }, i) => rowOf(name, "", samples[i]!, group)));
  }
  return {
    title: "Objects in a directory",
    conditions: `${rounds} rounds; gets of objects all over the directory, in the page cache; ` +
      `puts of ${puts} new objects, which stay as empty files. ${LANES} in flight; the C program ` +
      "has two threads and makes the worker's system calls: what grows there, the kernel adds.",
    metrics: OBJECT_METRICS,
    rows,
    compare: {
      metric: "bestOps",
      baseline: objectsName(counts[0]!),
      label: "throughput, of the smallest directory's",
      better: "more",
      baselineIsOurs: false,
      ours: counts.map(objectsName),
    },
    chart: null,
  };
}

/** Throughput of the most, of that of the fewest, in each group. */
function aimsOf(table: Table, key: string): Aim[] {
  const names = [...new Set(table.rows.map(({ contender }) => contender))];
  const groups = [...new Set(table.rows.map(({ group }) => group))].filter((group) =>
    !group.endsWith(BY_C)
  );
  return groups.flatMap((group) => {
    const rows = table.rows.filter((row) => row.group === group);
    const few = best(rows, names.slice(0, 1), [key]);
    const many = best(rows, names.slice(-1), [key]);
    const what = `${group}: throughput with ${names.at(-1)}, of that with ${names[0]}`;
    return ratioAim(what, many, few, "more", LIMIT).map((aim) => ({ ...aim, basis: "" }));
  });
}

async function run(context: Context): Promise<Section> {
  const clients = await clientTable(context.directory, context);
  const notes: string[] = [];
  const objects = await objectTable(context, notes);
  return {
    title: "Growth",
    intro: "More clients, and more objects in a directory.",
    tables: [clients, objects],
    aims: [...aimsOf(clients, "ops"), ...aimsOf(objects, "bestOps")],
    notes,
  };
}

export const growthBenchmark: Benchmark = {
  name: "growth",
  summary: "several clients of one worker; many objects in a directory",
  run,
};
