// SPDX-License-Identifier: Apache-2.0
//
// Evidence that an object's bytes go between file and segment and nowhere else: the system calls of
// JavaScript's process and of the worker while objects are moved, by strace. Counted are all bytes
// that JavaScript's process moves by any call, those on the worker's control channel, and those that
// the worker moves between files and memory, apart by whether that memory is the segment's mapping.

import process from "node:process";
import type { Benchmark, Context } from "../support/benchmark.ts";
import {
  type Aim,
  type Metric,
  type Row,
  rowOf,
  type Sample,
  type Section,
} from "../support/results.ts";
import { mappingsOf, type SystemCall, traced, traceObstacle } from "../support/system_calls.ts";
import { mustEqual } from "../support/data.ts";
import { Arena, checkFiles, type Load, makeCold, type Slot } from "./arena.ts";
import { syncFileSystem } from "../support/page_cache.ts";
import { Connectors, OURS_CACHED, OURS_DIRECT, VERSION_1 } from "./contenders.ts";
import type { ConnectorMover } from "./movers.ts";

const LOAD: Load = { label: "33.5 MB", objectBytes: 33_554_432, count: 4 };
/** Of an object of 33.5 MB: requests, answers, wake-ups. */
const LIMIT_BYTES = 1024;
/** In pipe mode. */
const CONTROL = [0n, 1n];

const METRICS: readonly Metric[] = [
  { key: "script", label: "JavaScript's process, all calls", unit: "bytes" },
  { key: "control", label: "the worker's stdin and stdout", unit: "bytes" },
  { key: "direct", label: "worker, between file and segment", unit: "bytes" },
  { key: "elsewhere", label: "worker, all else", unit: "bytes" },
  { key: "calls", label: "pread and pwrite", unit: "calls" },
];

function sumOf(calls: readonly SystemCall[]): number {
  return calls.reduce((sum, { result }) => sum + result, 0);
}

function isInside({ name, args, result }: SystemCall, mappings: ReturnType<typeof mappingsOf>) {
  if (name !== "pread64" && name !== "pwrite64") return false;
  const from = args[1] ?? 0n;
  return mappings.some(([start, end]) => from >= start && from + BigInt(result) <= end);
}

/** Bytes and calls for each object. */
function countCalls(
  script: readonly SystemCall[],
  worker: readonly SystemCall[],
  mappings: ReturnType<typeof mappingsOf>,
  objects: number,
): Sample {
  const control = worker.filter(({ args }) => CONTROL.includes(args[0] ?? -1n));
  const direct = worker.filter((call) => isInside(call, mappings));
  const elsewhere = worker.filter((call) => !control.includes(call) && !direct.includes(call));
  return {
    script: sumOf(script) / objects,
    control: sumOf(control) / objects,
    direct: sumOf(direct) / objects,
    elsewhere: sumOf(elsewhere) / objects,
    calls: direct.length / objects,
  };
}

async function rowsOf(mover: ConnectorMover, arena: Arena, notes: string[]): Promise<Row[]> {
  const pid = mover.connector.workerPid!;
  const mappings = mappingsOf(pid, arena.segment.name!);
  const slots: Slot[] = arena.fresh(LOAD, arena.disk);
  const count = async (work: () => Promise<unknown>) => {
    // This process last: it starts strace for the other one.
    const [worker, script] = await traced([pid, process.pid], async () => void await work());
    if (worker!.some(({ name }) => name === "io_uring_enter")) {
      notes.push(`${mover.name} uses io_uring, whose transfers strace does not see.`);
    }
    return countCalls(script!, worker!, mappings, LOAD.count);
  };
  arena.fillPool(slots);
  const put = await count(() => mover.put(slots, 1));
  checkFiles(mover.name, slots);
  syncFileSystem(arena.disk.directory);
  arena.clearPool(slots);
  if (mover.name === OURS_DIRECT) makeCold(slots);
  const got: Uint8Array[] = [];
  const get = await count(() => mover.get(slots, 1, got));
  for (const { index, wanted } of slots) mustEqual(mover.name, got[index]!, wanted);
  return [rowOf(`${mover.name}: put`, "", [put]), rowOf(`${mover.name}: get`, "", [get])];
}

/** The worst of all rows counts. */
function aimsOf(rows: readonly Row[]): Aim[] {
  const aim = (what: string, key: string): Aim => ({
    what: `${what}, for an object of 33.5 MB`,
    better: "less",
    limit: LIMIT_BYTES,
    unit: "bytes",
    samples: rows.flatMap(({ samples }) => samples[key]!),
    judge: "worst",
    basis: "all rows",
  });
  return [
    aim("bytes moved by JavaScript's process", "script"),
    aim("bytes on the control channel", "control"),
    aim("bytes moved by the worker, but not between file and segment", "elsewhere"),
  ];
}

async function run({ directory, show }: Context): Promise<Section> {
  const section = {
    title: "No copy",
    intro:
      "The system calls of both processes while objects are moved one after the other, seen by " +
      "strace. A pread or pwrite whose buffer is inside the segment's mapping moves bytes between " +
      "the file and the shared memory itself. Repeat it with `npm run bench -- --only no-copy`; " +
      'what CPU the bytes cost is in "JavaScript under full load".',
  };
  const obstacle = traceObstacle();
  if (obstacle !== null) {
    return { ...section, tables: [], aims: [], notes: [`Left out: ${obstacle}.`] };
  }
  await using arena = await Arena.open(LOAD.objectBytes * LOAD.count, directory, false);
  const wanted = [VERSION_1, OURS_CACHED, OURS_DIRECT];
  await using connectors = await Connectors.open(arena.segment, arena.disk.directory, wanted);
  const notes = [...connectors.notes];
  const rows: Row[] = [];
  try {
    for (const mover of connectors.of(...wanted)) {
      show(`no copy, ${mover.name}`);
      rows.push(...await rowsOf(mover, arena, notes));
    }
  } catch (error) {
    const { message } = error as Error;
    if (!message.startsWith("strace")) throw error;
    return { ...section, tables: [], aims: [], notes: [...notes, `Left out: ${message}`] };
  }
  const table = {
    title: "Bytes moved for an object of 33.5 MB",
    conditions: `${LOAD.count} objects, one after the other; 33,554,432 bytes each.`,
    metrics: METRICS,
    rows,
    compare: null,
    chart: null,
  };
  return { ...section, tables: [table], aims: aimsOf(rows), notes };
}

export const noCopyBenchmark: Benchmark = {
  name: "no-copy",
  summary: "which bytes cross which system calls, by strace",
  run,
};
