// SPDX-License-Identifier: Apache-2.0
//
// What single calls cost: C functions through FFI, zero-copy views (made, fetched again, revoked),
// ranges; and, beside the views, the copy that a program without them would make.

import process from "node:process";
import { ShmSegment, type ShmView } from "../../src/mod.ts";
import { lmshm } from "../../src/native/lmshm.ts";
import { ffi } from "../../src/native/ffi.ts";
import { cString } from "../../src/native/c_library.ts";
import { LMSHM_SYMBOLS } from "../../src/native/symbols.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import { rowOf, type Section, type Table } from "./support/results.ts";

const MIB = 2 ** 20;
const POOL_BYTES = 64 * MIB;
const VIEWS = 64;
const SIZES = [
  { label: "4 KiB", bytes: 4096 },
  { label: "1 MiB", bytes: MIB },
  { label: "32 MiB", bytes: 32 * MIB },
];

/** Results go here, so that no call can be optimised away. */
let sink = 0;

/** Nanoseconds a call: as many calls as take about `batchMs`. */
function timeCalls(call: () => number, batchMs: number): number {
  let calls = 64;
  for (;;) {
    const started = performance.now();
    for (let index = 0; index < calls; index++) sink += call();
    const milliseconds = performance.now() - started;
    if (milliseconds >= batchMs) return milliseconds * 1e6 / calls;
    calls *= milliseconds < batchMs / 8 ? 8 : 2;
  }
}

function callContender(name: string, note: string, batchMs: number, call: () => number): Contender {
  return { name, note, sample: () => Promise.resolve({ call: timeCalls(call, batchMs) }) };
}

async function table(
  title: string,
  conditions: string,
  metrics: Table["metrics"],
  contenders: readonly Contender[],
  rounds: number,
  show: (text: string) => void,
): Promise<Table> {
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  const rows = contenders.map(({ name, note }, index) => rowOf(name, note, samples[index]!));
  return { title, conditions, metrics, rows, compare: null, chart: null };
}

/** The C functions themselves. Needs liblmshm. */
function ffiContenders(path: string, batchMs: number): Contender[] {
  const lib = ffi.open(path, LMSHM_SYMBOLS);
  const unused = cString(`lmshm-bench-unused-${process.pid}`);
  const noInfo = new Uint8Array(new ArrayBuffer(8));
  return [
    callContender("a JavaScript function", "what the loop itself costs", batchMs, () => 1),
    callContender(
      "lmshm_version()",
      "no argument, 64-bit result",
      batchMs,
      () => Number(lib.lmshm_version() & 1n),
    ),
    callContender(
      "lmshm_segment_info(NULL, bytes)",
      "an address and a buffer, refused at once",
      batchMs,
      () => lib.lmshm_segment_info(0n, noInfo),
    ),
    callContender(
      "lmshm_name_state(name)",
      "a string; the system calls that look for the name are included",
      batchMs,
      () => lib.lmshm_name_state(unused),
    ),
  ];
}

/** Makes 64 views, then takes them back; both timed apart. */
function viewContender(segment: ShmSegment, label: string, bytes: number): Contender {
  const step = Math.floor((segment.sizeBytes - bytes) / VIEWS / 4096) * 4096;
  return {
    name: `view of ${label}`,
    note: "",
    sample() {
      const views: ShmView[] = [];
      const started = performance.now();
      for (let index = 0; index < VIEWS; index++) views.push(segment.view(index * step, bytes));
      const made = performance.now();
      for (const view of views) if (!view.revoke()) throw new Error("a view could not be revoked");
      const revoked = performance.now();
      if (views.some((view) => view.bytes.length !== 0)) throw new Error("a view is still there");
      return Promise.resolve({
        make: (made - started) * 1e3 / VIEWS,
        revoke: (revoked - made) * 1e3 / VIEWS,
      });
    },
  };
}

function copyContender(segment: ShmSegment, label: string, bytes: number): Contender {
  const source = segment.bytes(0, bytes);
  const copies = Math.max(1, Math.min(VIEWS, Math.floor(64 * MIB / bytes)));
  return {
    name: `copy of ${label}`,
    note: "Uint8Array.slice()",
    sample() {
      const started = performance.now();
      for (let index = 0; index < copies; index++) sink += source.slice().length;
      return Promise.resolve({ make: (performance.now() - started) * 1e3 / copies });
    },
  };
}

async function run({ quick, show }: Context): Promise<Section> {
  const notes: string[] = [];
  const tables: Table[] = [];
  const rounds = quick ? 5 : 9;
  const batchMs = quick ? 5 : 20;
  const calls = [{ key: "call", label: "a call", unit: "ns" }] as const;
  const conditions = `${rounds} rounds of as many calls as take ${batchMs} ms`;
  const contenders = ffiContenders(lmshm().path, batchMs);
  tables.push(await table("C functions", conditions, calls, contenders, rounds, show));

  const segment = await ShmSegment.create({ sizeBytes: POOL_BYTES, pin: "none" });
  try {
    const cheap = [
      callContender("bytes(), same range again", "", batchMs, () => segment.bytes(0, 4096).length),
      callContender("range()", "", batchMs, () => segment.range(4096, 4096).byteLength),
      callContender("hold() and release", "", batchMs, () => {
        segment.hold("benchmark")();
        return 1;
      }),
    ];
    tables.push(await table("Methods of a segment", conditions, calls, cheap, rounds, show));
    const views = SIZES.flatMap(({ label, bytes }) => [
      viewContender(segment, label, bytes),
      copyContender(segment, label, bytes),
    ]);
    const metrics = [
      { key: "make", label: "make", unit: "us" },
      { key: "revoke", label: "revoke", unit: "us" },
    ] as const;
    const viewRounds = quick ? 10 : 15;
    const how =
      `${viewRounds} rounds of ${VIEWS} views that live together; copies as many, or 64 MiB`;
    tables.push(await table("Views", how, metrics, views, viewRounds, show));
  } finally {
    await segment.free();
  }
  if (sink === -1) notes.push("never");
  return {
    title: "Calls and views",
    intro: "What it costs to call C and to look at shared memory without copying it.",
    tables,
    aims: [],
    notes,
  };
}

export const callsBenchmark: Benchmark = {
  name: "calls",
  summary: "calls through FFI, zero-copy views against copies",
  run,
};
