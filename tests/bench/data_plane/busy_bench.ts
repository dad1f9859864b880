// SPDX-License-Identifier: Apache-2.0
//
// A machine on which something else computes: how much is moved beside two busy processes, and how
// long the event loop stands still, by how nice the worker's I/O threads are. The same without
// neighbours, for comparison. The neighbours are started before a sample and ended after it.

import { type ChildProcess, spawn } from "node:child_process";
import process from "node:process";
import { ShmFileConnector } from "../../../src/mod.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { interleave } from "../support/interleave.ts";
import { watched } from "../support/loop_gap.ts";
import { type Metric, type Row, rowOf, type Sample, type Section } from "../support/results.ts";
import { Arena, type Load, type Slot } from "./arena.ts";

const CHUNKS: Load = { label: "33.5 MB", objectBytes: 33_554_432, count: 8 };
const NEIGHBOURS = 2;
const DEFAULT = "the worker's default";
const WORKERS: readonly { readonly name: string; readonly args: readonly string[] }[] = [
  { name: DEFAULT, args: [] },
  { name: "--nice 0", args: ["--nice", "0"] },
  { name: "--nice 10", args: ["--nice", "10"] },
];

const METRICS: readonly Metric[] = [
  { key: "rate", label: "moved", unit: "MB/s" },
  { key: "p50", label: "gap p50", unit: "ms" },
  { key: "p99", label: "p99", unit: "ms" },
  { key: "longest", label: "longest", unit: "ms" },
];

/** Processes that do nothing but compute. */
class Neighbours implements Disposable {
  readonly #processes: ChildProcess[];

  constructor(count: number) {
    this.#processes = Array.from(
      { length: count },
      () => spawn("sh", ["-c", "while :; do :; done"], { stdio: "ignore" }),
    );
    process.on("exit", this.#end);
  }

  readonly #end = () => {
    for (const one of this.#processes) one.kill("SIGKILL");
  };

  [Symbol.dispose](): void {
    process.off("exit", this.#end);
    this.#end();
  }
}

type Call = (connector: ShmFileConnector, slot: Slot) => Promise<unknown>;

const CALLS: Readonly<Record<"put" | "get", Call>> = {
  put: (connector, { key, range }) => connector.put(key, range),
  get: async (connector, { key, range }) => {
    if (await connector.get(key, range) === null) throw new Error(`${key} is missing`);
  },
};

interface Work {
  readonly call: Call;
  readonly lanes: number;
  readonly neighbours: number;
}

async function sampleOf(
  connector: ShmFileConnector,
  slots: readonly Slot[],
  { call, lanes, neighbours }: Work,
  milliseconds: number,
): Promise<Sample> {
  using _ = new Neighbours(neighbours);
  let calls = 0;
  const end = performance.now() + milliseconds;
  const lane = async (first: number) => {
    // Each has slots of its own: no object is got while it is put.
    for (let i = first; performance.now() < end; i = (i + lanes) % slots.length) {
      await call(connector, slots[i]!);
      calls++;
    }
  };
  const { milliseconds: wallMs, gaps } = await watched(() =>
    Promise.all(Array.from({ length: lanes }, (_, i) => lane(i)))
  );
  const bytes = calls * slots[0]!.range.byteLength;
  return { rate: bytes / 1e3 / wallMs, p50: gaps.p50, p99: gaps.p99, longest: gaps.max };
}

async function run({ quick, directory, show }: Context): Promise<Section> {
  const rounds = quick ? 1 : 7;
  const milliseconds = quick ? 200 : 400;
  const poolBytes = CHUNKS.objectBytes * CHUNKS.count;
  await using arena = await Arena.open(poolBytes, directory, false);
  await using stack = new AsyncDisposableStack();
  const storageDir = arena.disk.directory;
  const opened: { name: string; connector: ShmFileConnector; slots: Slot[] }[] = [];
  for (const { name, args } of WORKERS) {
    const { segment } = arena;
    const connector = await ShmFileConnector.open({ segment, storageDir, workerArgs: args });
    stack.defer(() => connector.close());
    const slots = arena.fresh(CHUNKS, arena.disk);
    arena.fillPool(slots);
    for (const { key, range } of slots) await connector.put(key, range);
    opened.push({ name, connector, slots });
  }
  const rows: Row[] = [];
  for (const neighbours of [NEIGHBOURS, 0]) {
    for (const operation of ["put", "get"] as const) {
      for (const lanes of [1, 4]) {
        const work = { call: CALLS[operation], lanes, neighbours };
        const group = `${operation}, ${lanes} in flight, ` +
          (neighbours > 0 ? `beside ${neighbours} busy processes` : "alone");
        const contenders = opened.map(({ name, connector, slots }) => ({
          name,
          note: "",
          sample: () => sampleOf(connector, slots, work, milliseconds),
        }));
        const samples = await interleave(contenders, rounds, (text) => show(`${group}, ${text}`));
        contenders.forEach(({ name }, i) => rows.push(rowOf(name, "", samples[i]!, group)));
      }
    }
  }
  return {
    title: "Beside busy neighbours",
    intro: "What is left of the throughput where something else computes, and what niceness " +
      "would change: it gives way to everybody, not only to the program that the worker is for.",
    tables: [{
      title: "33.5 MB beside busy processes",
      conditions: `${rounds} rounds of ${milliseconds} ms, the same objects over and over: gets ` +
        "from the page cache, puts replace. A gap is the time between two rings of a timer of 1 ms.",
      metrics: METRICS,
      rows,
      compare: {
        metric: "rate",
        baseline: "--nice 0",
        label: "of --nice 0",
        better: "more",
        baselineIsOurs: true,
        ours: WORKERS.map(({ name }) => name),
      },
      chart: null,
    }],
    aims: [],
    notes: [],
  };
}

export const busyBenchmark: Benchmark = {
  name: "busy",
  summary: "Throughput and event-loop gaps beside busy processes",
  run,
};
