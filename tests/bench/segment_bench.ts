// SPDX-License-Identifier: Apache-2.0
//
// Allocating and freeing segments: ShmSegment.create() and free(), which do not block, against the
// common way (common_way.c), which does. While ours works, a timer of 1 ms watches the event loop.

import { statSync } from "node:fs";
import process from "node:process";
import { type CreateOptions, ShmSegment } from "../../src/mod.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { ratioSamples } from "./support/compare.ts";
import { CProgram } from "./support/c_program.ts";
import { minorFaults } from "./support/cpu_clock.ts";
import { availableMemoryBytes, freeBytes } from "./support/environment.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import { watched } from "./support/loop_gap.ts";
import {
  type Aim,
  type Row,
  rowOf,
  type Sample,
  type Section,
  type Table,
} from "./support/results.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const PAGE_BYTES = 4096;
/** Touched after each allocation, to see that the pages are really there. */
const TOUCHED_BYTES = 64 * MIB;
const IDLE_MS = 500;
/** Each may get memory that the one before did not. */
const WARM_PASSES = 2;
/** From this size on, a round that is not counted costs more than it is worth. */
const DEAR_BYTES = 2 * GIB;
const COMMON = "common way, C";
const OURS = "ShmSegment.create";
const RATIO_AIM = 0.5;
const GAP_AIM_MS = 15;
const IDLE = "nothing to do";

interface Size {
  readonly label: string;
  readonly bytes: number;
  readonly rounds: number;
}

const SIZES: readonly Size[] = [
  { label: "256 MiB", bytes: 256 * MIB, rounds: 7 },
  { label: "1 GiB", bytes: GIB, rounds: 5 },
  { label: "4 GiB", bytes: 4 * GIB, rounds: 3 },
];
const QUICK_SIZES: readonly Size[] = [{ label: "256 MiB", bytes: 256 * MIB, rounds: 3 }];

const GAPS = [
  { key: "allocateP50", label: "allocating p50", unit: "ms" },
  { key: "allocateP99", label: "p99", unit: "ms" },
  { key: "allocateMax", label: "longest", unit: "ms" },
  { key: "freeP50", label: "freeing p50", unit: "ms" },
  { key: "freeP99", label: "p99", unit: "ms" },
  { key: "freeMax", label: "longest", unit: "ms" },
] as const;

let serial = 0;

function uniqueName(): string {
  return `lmshm-bench-${process.pid}-${serial++}`;
}

/** The common way. It blocks whoever calls it, so its whole time would be the loop's gap. */
function commonWay(program: CProgram, bytes: number): Contender {
  return {
    name: COMMON,
    note: "shm_open, ftruncate, mmap, one write a page in one thread; blocks",
    async sample() {
      const got = await program.run([`/${uniqueName()}`, String(bytes)]);
      if (got.presentBytes! < bytes) throw new Error(`${COMMON}: only ${got.presentBytes} bytes`);
      return { allocate: got.allocateNs! / 1e6, free: got.freeNs! / 1e6 };
    },
  };
}

/** Writes to each page of the first part, and sees that none of them had to be made for it. */
function mustBePopulated(segment: ShmSegment): void {
  const bytes = segment.bytes(0, Math.min(segment.sizeBytes, TOUCHED_BYTES));
  const before = minorFaults();
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) bytes[at] = 1;
  const faults = minorFaults() - before;
  const pages = bytes.length / PAGE_BYTES;
  if (faults > pages / 100) {
    throw new Error(`${faults} of ${pages} pages were missing although create() populates them`);
  }
}

function mustBePresent(segment: ShmSegment): void {
  const present = statSync(`/dev/shm${segment.name}`).blocks * 512;
  if (present < segment.sizeBytes) {
    throw new Error(`${segment.name} has ${present} bytes instead of ${segment.sizeBytes}`);
  }
}

/** What the system made of the wishes, for the last sample of each contender. */
type Facts = Map<string, string>;

function ours(
  name: string,
  options: Pick<CreateOptions, "pin" | "pages">,
  anonymous: boolean,
  bytes: number,
  facts: Facts,
): Contender {
  return {
    name,
    note: "",
    async sample() {
      const named = anonymous ? null : uniqueName();
      const created = await watched(() =>
        ShmSegment.create({ sizeBytes: bytes, name: named, ...options })
      );
      const segment = created.value;
      let freed;
      try {
        if (!anonymous) mustBePresent(segment);
        mustBePopulated(segment);
        const { pinnedBy, populateThreads, hugeBytes } = segment.facts;
        const huge = Math.round((hugeBytes / segment.sizeBytes) * 100);
        facts.set(
          name,
          `pinned by ${pinnedBy}, ${populateThreads} threads, ${huge}% huge pages`,
        );
      } finally {
        freed = await watched(() => segment.free());
      }
      return {
        allocate: created.milliseconds,
        free: freed.milliseconds,
        allocateP50: created.gaps.p50,
        allocateP99: created.gaps.p99,
        allocateMax: created.gaps.max,
        freeP50: freed.gaps.p50,
        freeP99: freed.gaps.p99,
        freeMax: freed.gaps.max,
      };
    },
  };
}

async function idleRow(rounds: number): Promise<Row> {
  const samples: Sample[] = [];
  for (let round = 0; round < rounds; round++) {
    const { gaps } = await watched(() => new Promise((resolve) => setTimeout(resolve, IDLE_MS)));
    samples.push({ allocateP50: gaps.p50, allocateP99: gaps.p99, allocateMax: gaps.max });
  }
  return rowOf(IDLE, "what the timer shows on an idle loop", samples);
}

/**
 * Touches more memory than any sample will take: what a virtual machine touches for the first time
 * is several times slower. Huge pages come from other parts of it than small ones.
 * @returns whether it did
 */
async function warmMemory(program: CProgram | null, largest: Size): Promise<boolean> {
  if (program === null || await obstacle(largest) !== null) return false;
  const sizeBytes = largest.bytes * 1.25;
  for (let pass = 0; pass < WARM_PASSES; pass++) {
    const huge = await ShmSegment.create({ sizeBytes, pages: "transparent" });
    await huge.free();
    await program.run([`/${uniqueName()}`, String(sizeBytes)]);
  }
  return true;
}

/** Why this size cannot be measured here, or null. */
async function obstacle(size: Size): Promise<string | null> {
  const needed = size.bytes * 1.25;
  const shm = await freeBytes("/dev/shm");
  const memory = availableMemoryBytes();
  if (Math.min(shm, memory) >= needed) return null;
  const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
  return `${size.label} left out: ${gib(shm)} free in /dev/shm, ${gib(memory)} memory available`;
}

async function measure(
  size: Size,
  program: CProgram | null,
  warmed: boolean,
  { show }: Context,
): Promise<{ time: Table; gaps: Table }> {
  const facts: Facts = new Map();
  const { bytes, rounds } = size;
  const contenders = [
    ours(OURS, {}, false, bytes, facts),
    ours("... pin: none", { pin: "none" }, false, bytes, facts),
    ours("... anonymous, pages: transparent", { pages: "transparent" }, true, bytes, facts),
  ];
  if (program) contenders.unshift(commonWay(program, bytes));
  const step = (text: string) => show(`segment of ${size.label}, ${text}`);
  const warmUp = !warmed || bytes < DEAR_BYTES;
  const samples = await interleave(contenders, rounds, step, warmUp);
  const rows = contenders.map(({ name, note }, index) =>
    rowOf(name, facts.get(name) ?? note, samples[index]!)
  );
  const idle = await idleRow(rounds);
  const watchedRows = rows.filter(({ contender }) => facts.has(contender));
  return {
    time: {
      title: `Allocating and freeing ${size.label}`,
      conditions: `${rounds} rounds${warmUp ? "" : ", none before them to warm up"}${
        warmed ? "; more memory than any sample takes was touched before" : ""
      }. Every page is present and mapped afterwards, which is checked.`,
      metrics: [
        { key: "allocate", label: "allocate", unit: "ms" },
        { key: "free", label: "free", unit: "ms" },
      ],
      rows,
      compare: program && {
        metric: "allocate",
        baseline: COMMON,
        label: "allocating, of the common way",
        better: "less",
        baselineIsOurs: false,
      },
      chart: { left: "allocate", right: ["free"], rightTitle: "free, ms" },
    },
    gaps: {
      title: `Gaps of the event loop, ${size.label}`,
      conditions: "A timer of 1 ms, in the same samples as above; of each sample its median, its " +
        "99th percentile and its longest gap.",
      metrics: GAPS,
      rows: [idle, ...watchedRows.map((row) => ({ ...row, note: "" }))],
      compare: null,
      chart: null,
    },
  };
}

/** Of the row "ShmSegment.create": the defaults. */
function aimsOf({ label }: Size, time: Table, gaps: Table): Aim[] {
  const row = (table: Table) => table.rows.find(({ contender }) => contender === OURS)!;
  const all = (key: string) => row(gaps).samples[key]!;
  const ratio = ratioSamples(time, row(time));
  const less = { better: "less", basis: "" } as const;
  const gap = { ...less, limit: GAP_AIM_MS, unit: "ms", judge: "worst" } as const;
  return [
    ...(ratio === null ? [] : [{
      ...less,
      what: `allocating ${label}, of the common way's time`,
      limit: RATIO_AIM,
      unit: "" as const,
      samples: ratio,
      judge: "median" as const,
    }]),
    { what: `longest gap while allocating ${label}`, ...gap, samples: all("allocateMax") },
    { what: `longest gap while freeing ${label}`, ...gap, samples: all("freeMax") },
  ];
}

async function run(context: Context): Promise<Section> {
  const notes: string[] = [];
  const tables: Table[] = [];
  const aims: Aim[] = [];
  let program: CProgram | null = null;
  try {
    program = CProgram.build("common_way");
  } catch (error) {
    notes.push((error as Error).message);
  }
  const sizes = context.quick ? QUICK_SIZES : SIZES;
  context.show("warming the memory up");
  const warmed = await warmMemory(program, sizes.at(-1)!);
  for (const size of sizes) {
    const reason = await obstacle(size);
    if (reason !== null) {
      notes.push(reason);
      continue;
    }
    const { time, gaps } = await measure(size, program, warmed, context);
    tables.push(time, gaps);
    aims.push(...aimsOf(size, time, gaps));
  }
  return {
    title: "Segments",
    intro:
      "Time to allocate shared memory with all of its pages, and to give it back; and how long " +
      "the event loop stood still meanwhile. The common way blocks its caller for all of its time.",
    tables,
    aims,
    notes,
  };
}

export const segmentBenchmark: Benchmark = {
  name: "segment",
  summary: "allocate and free segments, against the common way; gaps of the event loop",
  run,
};
