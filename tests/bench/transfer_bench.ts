// SPDX-License-Identifier: Apache-2.0
//
// Moving chunks between shared memory and files: ShmFileConnector with a worker over pipes, against
// what a TypeScript program would do instead, and against a bare C program (plain_io.c) that shows
// what the machine can do. All work on the same pool and the same files; every byte is compared
// after every sample. Time and CPU count until the answer; nothing is on disk by then (no fsync).

import type { Benchmark, Context } from "./support/benchmark.ts";
import { CProgram } from "./support/c_program.ts";
import { availableMemoryBytes, freeBytes } from "./support/environment.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import {
  type Comparison,
  type Metric,
  type Row,
  rowOf,
  type Section,
  type Table,
} from "./support/results.ts";
import { type Batch, IN_FLIGHT, TransferSession } from "./transfer_session.ts";

/** LMCache's usual chunk: 2 x 32 layers x 256 tokens x 1024 values of bfloat16. */
const CHUNK_BYTES = 2 * 32 * 256 * 1024 * 2;
/** More of a file than this in the page cache, and a read is not cold. */
const COLD_SHARE = 0.01;

interface Plan extends Batch {
  readonly label: string;
  readonly rounds: number;
  readonly coldRounds: number;
}

const CHUNKS: Plan = {
  label: "33.5 MB",
  chunkBytes: CHUNK_BYTES,
  count: 8,
  rounds: 5,
  coldRounds: 3,
};
const SMALL: readonly Plan[] = [
  { label: "4 KiB", chunkBytes: 4096, count: 512, rounds: 5, coldRounds: 0 },
  { label: "64 KiB", chunkBytes: 65_536, count: 256, rounds: 5, coldRounds: 0 },
  { label: "1 MiB", chunkBytes: 2 ** 20, count: 64, rounds: 5, coldRounds: 0 },
];

function quicker(plan: Plan): Plan {
  const { count, coldRounds } = plan;
  return { ...plan, count: count / 2, rounds: 1, coldRounds: Math.min(1, coldRounds) };
}

const RATES: readonly Metric[] = IN_FLIGHT.map((lanes) => ({
  key: `rate${lanes}`,
  label: `${lanes} in flight`,
  unit: "MB/s",
}));
const DURABLE: Metric = { key: "durable4", label: "4 in flight, until on disk", unit: "MB/s" };
const CPU: readonly Metric[] = [
  { key: "script4", label: "CPU of JavaScript's process", unit: "s/GB" },
  { key: "cpu4", label: "CPU of all processes", unit: "s/GB" },
];
const SMALL_METRICS: readonly Metric[] = [
  ...IN_FLIGHT.map((lanes): Metric => ({
    key: `ops${lanes}`,
    label: `${lanes} in flight`,
    unit: "ops/s",
  })),
  { key: "callScript4", label: "CPU of JavaScript's process, a call", unit: "us" },
  { key: "callCpu4", label: "CPU of all processes, a call", unit: "us" },
];
const CHART = {
  left: "rate4",
  right: ["script4", "other4"],
  rightTitle: "CPU, s/GB: JavaScript's process (dark), others (light)",
} as const;

function compareWith(baseline: string): Comparison {
  const label = "4 in flight, of ours";
  return { metric: "ops4", baseline, label, better: "more", baselineIsOurs: true };
}

async function measure(
  contenders: readonly Contender[],
  rounds: number,
  title: string,
  show: Context["show"],
): Promise<Row[]> {
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  return contenders.map(({ name, note }, index) => rowOf(name, note, samples[index]!));
}

function many({ count, label }: Plan): string {
  return `${count} files of ${label} a sample`;
}

async function largeTables(
  session: TransferSession,
  plan: Plan,
  show: Context["show"],
  notes: string[],
): Promise<Table[]> {
  const { rounds, coldRounds } = plan;
  const put = {
    title: `put: ${plan.label} chunks to files`,
    conditions:
      `${rounds} rounds, ${many(plan)}, new files, into the page cache, no fsync; "until ` +
      `on disk" includes a syncfs after the last answer.`,
    metrics: [...RATES, DURABLE, ...CPU],
    rows: await measure(session.writers(plan), rounds, `put ${plan.label}`, show),
    compare: compareWith("ShmFileConnector.put"),
    chart: CHART,
  };
  await session.makeFiles(plan);
  const read = {
    metrics: [...RATES, ...CPU],
    compare: compareWith("ShmFileConnector.get"),
    chart: CHART,
  };
  const cached = {
    ...read,
    title: `get: ${plan.label} chunks from files in the page cache`,
    conditions: `${rounds} rounds, ${many(plan)}.`,
    rows: await measure(session.readers(plan, false), rounds, `get ${plan.label}`, show),
  };
  const cold = {
    ...read,
    title: `get: ${plan.label} chunks from files that are not in the page cache`,
    conditions: `${coldRounds} rounds, ${many(plan)}, thrown out of the page cache before each ` +
      "sample, which is checked; what the hypervisor or the disk keeps stays.",
    rows: await measure(session.readers(plan, true), coldRounds, `cold get ${plan.label}`, show),
  };
  const warm = cold.rows.filter(({ samples }) =>
    IN_FLIGHT.some((lanes) => samples[`resident${lanes}`]!.some((share) => share > COLD_SHARE))
  );
  if (warm.length > 0) {
    const names = warm.map(({ contender }) => contender).join(", ");
    notes.push(`Cold reads were not wholly cold, the kernel kept pages: ${names}.`);
  }
  session.removeFiles(plan);
  return [put, cached, cold];
}

async function smallTables(
  session: TransferSession,
  plans: readonly Plan[],
  show: Context["show"],
): Promise<Table[]> {
  const put: Row[] = [];
  const get: Row[] = [];
  for (const plan of plans) {
    const { label, rounds } = plan;
    const grouped = (rows: readonly Row[]) => rows.map((row) => ({ ...row, group: label }));
    put.push(...grouped(await measure(session.writers(plan), rounds, `put ${label}`, show)));
    await session.makeFiles(plan);
    get.push(...grouped(await measure(session.readers(plan, false), rounds, `get ${label}`, show)));
    session.removeFiles(plan);
  }
  const rounds = `${plans[0]!.rounds} rounds, ${plans.map(many).join(", ")}`;
  const shared = { metrics: SMALL_METRICS, chart: null };
  return [
    {
      ...shared,
      title: "put: smaller objects",
      conditions: `${rounds}, new files.`,
      rows: put,
      compare: compareWith("ShmFileConnector.put"),
    },
    {
      ...shared,
      title: "get: smaller objects, files in the page cache",
      conditions: `${rounds}.`,
      rows: get,
      compare: compareWith("ShmFileConnector.get"),
    },
  ];
}

async function run({ quick, directory, show }: Context): Promise<Section> {
  const notes: string[] = [];
  const chunks = quick ? quicker(CHUNKS) : CHUNKS;
  const small = quick ? SMALL.map(quicker) : SMALL;
  const poolBytes = Math.max(...[chunks, ...small].map((plan) => plan.chunkBytes * plan.count));
  const memory = Math.min(availableMemoryBytes(), await freeBytes("/dev/shm"));
  const disk = await freeBytes(directory);
  const [memoryNeeded, diskNeeded] = [4 * poolBytes, 2 * poolBytes];
  if (memory < memoryNeeded || disk < diskNeeded) {
    throw new Error(
      `transfers need ${memoryNeeded} bytes of memory (${memory} available) and ${diskNeeded} of ` +
        `disk (${disk} available): free some, or choose another disk with --dir`,
    );
  }
  let program: CProgram | null = null;
  try {
    program = CProgram.build("plain_io");
  } catch (error) {
    notes.push((error as Error).message);
  }
  const session = await TransferSession.open(poolBytes, program, directory);
  try {
    // Thousands of small requests first, so that all code is warm when the few large ones come.
    const smallerObjects = await smallTables(session, small, show);
    const tables = [...await largeTables(session, chunks, show, notes), ...smallerObjects];
    return {
      title: "Transfers",
      intro: "Chunks between the pool and files, until the answer. Contenders take turns on the " +
        "same memory and the same files, and every byte is compared after each sample.",
      tables,
      aims: [],
      notes,
    };
  } finally {
    await session.close();
  }
}

export const transferBenchmark: Benchmark = {
  name: "transfer",
  summary: "put and get through the worker, against what the runtimes offer",
  run,
};
