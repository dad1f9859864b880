// SPDX-License-Identifier: Apache-2.0
//
// JavaScript's process under full load: what it costs to move a gigabyte, and how long its event
// loop stands still meanwhile. As many requests as can be for some seconds, over and over the same
// objects. CPU and gaps are measured apart, because the timer that watches the loop costs CPU, too.
//
// A gap is how much later than asked for a timer of 1 ms rings. How late it is on an idle loop
// depends on the runtime, so an idle loop is measured as well, and its median is taken off.

import process from "node:process";
import { best, numberAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { CProgram } from "../support/c_program.ts";
import { cpuTimeMs } from "../support/cpu_clock.ts";
import { interleave } from "../support/interleave.ts";
import { watched } from "../support/loop_gap.ts";
import { type Metric, rowOf, type Sample, type Section, type Table } from "../support/results.ts";
import { Arena, type Load, type Slot } from "./arena.ts";
import { Connectors, OURS, OURS_DIRECT, VERSION_1 } from "./contenders.ts";
import type { ConnectorMover } from "./movers.ts";
import { PingPong } from "./ping_pong.ts";

const CHUNKS: Load = { label: "33.5 MB", objectBytes: 33_554_432, count: 8 };
const SMALL: Load = { label: "4 KiB", objectBytes: 4096, count: 512 };
const IDLE = "nothing to do";
const BARE = "bare pipe";
/** About as long as the worker takes for 33.5 MB from the page cache. */
const BARE_DELAY_US = 2500;
const GB = 1e9;
const WARM_PASSES = 8;

const METRICS: readonly Metric[] = [
  { key: "rate", label: "moved", unit: "MB/s" },
  { key: "ops", label: "objects", unit: "ops/s" },
  { key: "script", label: "CPU of JavaScript's process", unit: "ms/GB" },
  { key: "objectScript", label: "CPU of JavaScript's process, an object", unit: "us" },
  { key: "cpu", label: "CPU of all processes", unit: "s/GB" },
  { key: "p50", label: "gap p50", unit: "ms" },
  { key: "p99", label: "p99", unit: "ms" },
  { key: "longest", label: "longest", unit: "ms" },
];

/** One kind of work for `lanes` callers. */
interface Work {
  readonly name: string;
  readonly note: string;
  readonly mover: ConnectorMover;
  readonly slots: readonly Slot[];
  readonly lanes: number;
  readonly call: (slot: Slot) => Promise<unknown>;
}

/** Calls until the time is over. @returns how many ended */
async function drive({ slots, lanes, call }: Work, milliseconds: number): Promise<number> {
  const end = performance.now() + milliseconds;
  let calls = 0;
  const lane = async (first: number) => {
    // Each has slots of its own: no object is got while it is put.
    for (let i = first; performance.now() < end; i = (i + lanes) % slots.length) {
      await call(slots[i]!);
      calls++;
    }
  };
  await Promise.all(Array.from({ length: lanes }, (_, i) => lane(i)));
  return calls;
}

async function sampleOf(work: Work, milliseconds: number, idleMs: number): Promise<Sample> {
  const pid = work.mover.connector.workerPid!;
  // Everything is warm, and the garbage of what came before is gone.
  await drive(work, milliseconds / 8);
  const script = cpuTimeMs(process.pid);
  const other = cpuTimeMs(pid);
  const started = performance.now();
  const calls = await drive(work, milliseconds);
  const wallMs = performance.now() - started;
  const scriptMs = cpuTimeMs(process.pid) - script;
  const otherMs = cpuTimeMs(pid) - other;
  const { gaps } = await watched(() => drive(work, milliseconds));
  const bytes = calls * work.slots[0]!.range.byteLength;
  return {
    rate: bytes / 1e3 / wallMs,
    ops: calls * 1e3 / wallMs,
    script: scriptMs / (bytes / GB),
    objectScript: scriptMs * 1e3 / calls,
    cpu: (scriptMs + otherMs) / 1e3 / (bytes / GB),
    ...gapsBeyond(gaps, idleMs),
  };
}

function gapsBeyond(gaps: { p50: number; p99: number; max: number }, idleMs: number) {
  const beyond = (ms: number) => Math.max(0, ms - idleMs);
  return { p50: beyond(gaps.p50), p99: beyond(gaps.p99), longest: beyond(gaps.max) };
}

function works(movers: readonly ConnectorMover[], chunks: Slot[], small: Slot[]): Work[] {
  return movers.flatMap((mover) => {
    const { name, connector } = mover;
    const get = async ({ key, range }: Slot) => {
      if (await connector.get(key, range) === null) throw new Error(`${name}: ${key} is missing`);
    };
    const put = ({ key, range }: Slot) => connector.put(key, range);
    const large = { mover, slots: chunks, lanes: 4, note: "4 in flight" };
    const many = { mover, slots: small, lanes: 64, note: "64 in flight" };
    if (name === OURS_DIRECT) return [{ ...large, name: `${name}: put 33.5 MB`, call: put }];
    return [
      { ...large, name: `${name}: get 33.5 MB`, call: get },
      { ...large, name: `${name}: put 33.5 MB`, call: put },
      { ...many, name: `${name}: get 4 KiB`, call: get },
    ];
  });
}

/** What the runtime itself takes for as many round trips as there would be chunks, and no more. */
async function bareSample(pingPong: PingPong, milliseconds: number): Promise<Sample> {
  const script = cpuTimeMs(process.pid);
  const started = performance.now();
  let trips = 0;
  while (performance.now() - started < milliseconds) {
    await pingPong.trip();
    trips++;
  }
  const wallMs = performance.now() - started;
  const scriptMs = cpuTimeMs(process.pid) - script;
  return {
    ops: trips * 1e3 / wallMs,
    script: scriptMs / (trips * CHUNKS.objectBytes / GB),
    objectScript: scriptMs * 1e3 / trips,
  };
}

/** Thousands of requests, so that the compilers are through with all that a request needs. */
async function warmCode(movers: readonly ConnectorMover[], small: readonly Slot[]): Promise<void> {
  for (const mover of movers) {
    await mover.put(small, 64);
    for (let i = 0; i < WARM_PASSES; i++) await mover.get(small, i % 2 === 0 ? 1 : 64, []);
  }
}

/** CPU of this process while it has nothing to do, milliseconds a second. */
async function idleCpu(milliseconds: number): Promise<number> {
  const before = cpuTimeMs(process.pid);
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  return (cpuTimeMs(process.pid) - before) / milliseconds * 1e3;
}

async function idleGap(milliseconds: number): Promise<{ p50: number; p99: number; max: number }> {
  const { gaps } = await watched(() => new Promise((resolve) => setTimeout(resolve, milliseconds)));
  return gaps;
}

async function measure(
  arena: Arena,
  connectors: Connectors,
  pingPong: PingPong | null,
  context: Context,
): Promise<Table> {
  const { quick, show } = context;
  const rounds = quick ? 1 : 3;
  const milliseconds = quick ? 300 : 700;
  const [chunks, small] = [CHUNKS, SMALL].map((load) => arena.fresh(load, arena.disk)) as [
    Slot[],
    Slot[],
  ];
  arena.fillPool(chunks);
  await connectors.maker.put(chunks, 1);
  const movers = connectors.of(VERSION_1, OURS, OURS_DIRECT);
  await warmCode(movers, small);
  const idleMs = (await idleGap(milliseconds)).p50;
  const idleCpuMs = await idleCpu(milliseconds);
  const contenders = [
    {
      name: IDLE,
      note: `the timer rings every ${idleMs.toFixed(2)} ms, without it the process takes ` +
        `${idleCpuMs.toFixed(1)} ms of CPU a second`,
      sample: async () => gapsBeyond(await idleGap(milliseconds), idleMs) as Sample,
    },
    ...pingPong === null ? [] : [{
      name: BARE,
      note: `a line, answered after ${BARE_DELAY_US / 1e3} ms, counted as 33.5 MB: what the ` +
        "runtime takes by itself",
      sample: () => bareSample(pingPong, milliseconds),
    }],
    ...works(movers, chunks, small).map((work) => ({
      name: work.name,
      note: work.note,
      sample: () => sampleOf(work, milliseconds, idleMs),
    })),
  ];
  const samples = await interleave(contenders, rounds, (text) => show(`load, ${text}`), !quick);
  return {
    title: "Full load",
    conditions: `${rounds} rounds of ${milliseconds} ms for CPU and again for gaps, the same ` +
      `objects over and over: gets from the page cache, puts replace. Gaps are beyond the ` +
      "median of an idle loop.",
    metrics: METRICS,
    rows: contenders.map(({ name, note }, index) => rowOf(name, note, samples[index]!)),
    compare: null,
    chart: null,
  };
}

function startPingPong(notes: string[]): PingPong | null {
  try {
    return new PingPong(CProgram.build("ping_pong"), BARE_DELAY_US);
  } catch (error) {
    notes.push((error as Error).message);
    return null;
  }
}

async function run(context: Context): Promise<Section> {
  const poolBytes = CHUNKS.objectBytes * CHUNKS.count;
  await using arena = await Arena.open(poolBytes, context.directory, false);
  const wanted = [VERSION_1, OURS, OURS_DIRECT];
  await using connectors = await Connectors.open(arena.segment, arena.disk.directory, wanted);
  const notes = [...connectors.notes];
  const pingPong = startPingPong(notes);
  let table: Table;
  try {
    table = await measure(arena, connectors, pingPong, context);
  } finally {
    await pingPong?.[Symbol.asyncDispose]();
  }
  const ours = connectors.maker.name;
  const of = (what: string) => best(table.rows, [`${ours}: ${what}`], ["script"], "less");
  const gap = (what: string) => best(table.rows, [`${ours}: ${what}`], ["p99"], "less");
  return {
    title: "JavaScript under full load",
    intro: "What is left to JavaScript's thread: requests and answers, no payload byte.",
    tables: [table],
    aims: [
      ...numberAim(
        "CPU of JavaScript's process, get 33.5 MB",
        of("get 33.5 MB"),
        "less",
        2,
        "ms/GB",
      ),
      ...numberAim(
        "CPU of JavaScript's process, put 33.5 MB",
        of("put 33.5 MB"),
        "less",
        2,
        "ms/GB",
      ),
      ...["get 33.5 MB", "put 33.5 MB", "get 4 KiB"].flatMap((what) =>
        numberAim(`gap of the event loop under full load, p99, ${what}`, gap(what), "less", 2, "ms")
      ),
    ],
    notes,
  };
}

export const loadBenchmark: Benchmark = {
  name: "load",
  summary: "JavaScript's CPU and event-loop gaps under full load",
  run,
};
