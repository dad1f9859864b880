// SPDX-License-Identifier: Apache-2.0
//
// The round trip of a tiny request: from JavaScript through a pipe to the worker and back, one at a
// time, against a bare pipe to a program that sends each line back (ping_pong.c). Both are children
// of this process by the same call. Where the scheduler is free, such a round trip shows above all
// where it put both; so it is measured again with everybody on one CPU.

import process from "node:process";
import { best, ratioAim } from "../support/aims.ts";
import { bindToOneCpu } from "../support/affinity.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { CProgram } from "../support/c_program.ts";
import { type Contender, interleave } from "../support/interleave.ts";
import { type Metric, rowOf, type Sample, type Section, type Table } from "../support/results.ts";
import { quantile } from "../support/statistics.ts";
import { Arena } from "./arena.ts";
import { Connectors, OURS, VERSION_1 } from "./contenders.ts";
import type { ConnectorMover } from "./movers.ts";
import { LINE_BYTES, PingPong } from "./ping_pong.ts";

const BARE = "bare pipe";
const WARM_TRIPS = 200;
const LIMIT = 1.3;

const METRICS: readonly Metric[] = [
  { key: "p50", label: "p50", unit: "us" },
  { key: "p99", label: "p99", unit: "us" },
  { key: "longest", label: "longest", unit: "us" },
];

async function measure(trips: number, trip: () => Promise<unknown>): Promise<Sample> {
  for (let i = 0; i < WARM_TRIPS; i++) await trip();
  const microseconds: number[] = [];
  for (let i = 0; i < trips; i++) {
    const started = performance.now();
    await trip();
    microseconds.push((performance.now() - started) * 1e3);
  }
  return {
    p50: quantile(microseconds, 0.5),
    p99: quantile(microseconds, 0.99),
    longest: quantile(microseconds, 1),
  };
}

/** @param tiny a stored object of one byte */
function trips({ name, connector }: ConnectorMover, arena: Arena, tiny: string) {
  const range = arena.segment.range(0, 1);
  const mustFind = (found: unknown) => {
    if (!found) throw new Error(`${name}: ${tiny} is missing`);
  };
  return [
    { name: `${name}: ping()`, note: "", trip: () => connector.ping() },
    {
      name: `${name}: get()`,
      note: "of one byte; opens and reads a file",
      trip: async () => mustFind(await connector.get(tiny, range)),
    },
  ];
}

async function tables(arena: Arena, connectors: Connectors, pingPong: PingPong, context: Context) {
  const { quick, show } = context;
  const rounds = quick ? 3 : 9;
  const count = quick ? 300 : 1500;
  const tiny = "tiny";
  await connectors.maker.connector.put(tiny, arena.segment.range(0, 1));
  const movers = connectors.of(VERSION_1, OURS);
  const ways = [
    { name: BARE, note: `${LINE_BYTES} bytes there and back`, trip: () => pingPong.trip() },
    ...movers.flatMap((mover) => trips(mover, arena, tiny)),
    ...movers.slice(-1).map(({ name, connector }) => ({
      name: `${name}: exists()`,
      note: "",
      trip: () => connector.exists("nothing"),
    })),
  ];
  const pids = [process.pid, pingPong.pid, ...movers.map(({ connector }) => connector.workerPid!)];
  const contenders = (bound: boolean): Contender[] =>
    ways.map(({ name, note, trip }) => ({
      name,
      note,
      async sample() {
        if (!bound) return await measure(count, trip);
        const free = bindToOneCpu(pids);
        try {
          return await measure(count, trip);
        } finally {
          free();
        }
      },
    }));
  const found: Table[] = [];
  for (const bound of [false, true]) {
    const title = bound ? "Round trip, all on one CPU" : "Round trip";
    const contenders_ = contenders(bound);
    const samples = await interleave(
      contenders_,
      rounds,
      (text) => show(`${title}, ${text}`),
      !quick,
    );
    found.push({
      title,
      conditions: `${rounds} rounds of ${
        count.toLocaleString("en-US")
      } round trips, one at a time.`,
      metrics: METRICS,
      rows: contenders_.map(({ name, note }, index) => rowOf(name, note, samples[index]!)),
      compare: {
        metric: "p50",
        baseline: BARE,
        label: `p50, of the ${BARE}'s`,
        better: "less",
        baselineIsOurs: false,
      },
      chart: null,
    });
  }
  return found as [Table, Table];
}

async function run(context: Context): Promise<Section> {
  await using arena = await Arena.open(2 ** 20, context.directory, false);
  await using connectors = await Connectors.open(
    arena.segment,
    arena.disk.directory,
    [VERSION_1, OURS],
  );
  const section = {
    title: "Latency",
    intro: "Round trips of tiny requests, one at a time, until JavaScript has the answer.",
  };
  const notes = [...connectors.notes];
  let program: CProgram;
  try {
    program = CProgram.build("ping_pong");
  } catch (error) {
    return { ...section, tables: [], aims: [], notes: [...notes, (error as Error).message] };
  }
  await using pingPong = new PingPong(program);
  const [free, bound] = await tables(arena, connectors, pingPong, context);
  const aim = (what: string, { rows }: Table) =>
    ratioAim(
      what,
      best(rows, [`${connectors.maker.name}: ping()`], ["p50"], "less"),
      best(rows, [BARE], ["p50"], "less"),
      "less",
      LIMIT,
    );
  const aims = [
    ...aim("round trip of a tiny request, p50, of a bare pipe's", free),
    ...aim("round trip of a tiny request, p50, of a bare pipe's, all on one CPU", bound),
  ];
  return { ...section, tables: [free, bound], aims, notes };
}

export const latencyBenchmark: Benchmark = {
  name: "latency",
  summary: "round trip of a tiny request, against a bare pipe",
  run,
};
