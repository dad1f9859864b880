// SPDX-License-Identifier: Apache-2.0
//
// The hot tier: what a hit costs, what room for a new object costs when the pool is full, and that
// objects in use do not make either dearer.

import { TensorMemoryAllocator } from "../../src/memory/tensor_allocator.ts";
import { type TensorMemoryObj } from "../../src/memory/memory_obj.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { TensorLayout } from "../../src/memory/tensor_layout.ts";
import { CACHE_POLICIES, type CachePolicyName } from "../../src/cache/cache_policy.ts";
import { LocalCpuBackend } from "../../src/cache/local_cpu_backend.ts";
import { randomNumbers } from "../support/traces.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import { type Aim, type Metric, rowOf, type Section, type Table } from "./support/results.ts";
import { quantile } from "./support/statistics.ts";

const PAGE_BYTES = 4096;
const OBJECTS = 16_384;
const LAYOUT = TensorLayout.of(PAGE_BYTES);
const HIT_LIMIT_US = 5;

function keyOf(number: number): string {
  return `meta-llama/Llama-3.1-8B-Instruct@1@0@${number.toString(16).padStart(16, "0")}@bfloat16`;
}

/** Full of objects 0 to OBJECTS - 1. */
class Tier implements AsyncDisposable {
  readonly backend: LocalCpuBackend;
  readonly #segment: ShmSegment;

  constructor(policy: CachePolicyName) {
    this.#segment = ShmSegment.createSync({ sizeBytes: OBJECTS * PAGE_BYTES, pin: "none" });
    const allocator = new TensorMemoryAllocator(this.#segment);
    this.backend = new LocalCpuBackend({ allocator, cachePolicy: policy });
    for (let i = 0; i < OBJECTS; i++) this.add(keyOf(i));
  }

  add(key: string): void {
    const obj = this.backend.tryAllocate(LAYOUT);
    if (obj === null) throw new Error("the tier makes no room");
    this.backend.put(key, obj);
    obj.refCountDown();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend.close();
    await this.#segment.free();
  }
}

/** Nanoseconds of each call, of as many as take about `batchMs`; `call` gets a running number. */
function timeCalls(batchMs: number, call: (index: number) => void): number {
  let calls = 0;
  const started = performance.now();
  let milliseconds = 0;
  while (milliseconds < batchMs) {
    for (let i = 0; i < 256; i++) call(calls++);
    milliseconds = performance.now() - started;
  }
  return milliseconds * 1e6 / calls;
}

const CALLS: readonly Metric[] = [{ key: "call", label: "a call", unit: "ns" }];
const ROOM: readonly Metric[] = [
  { key: "call", label: "an object", unit: "us" },
  { key: "worst", label: "99.9th percentile", unit: "us" },
];

/** What programs do with what is there. */
function lookUps(tier: Tier, batchMs: number): Contender[] {
  const { backend } = tier;
  const random = randomNumbers(1);
  const keys = Array.from({ length: 65_536 }, () => keyOf(Math.floor(random() * OBJECTS)));
  const plain = new Map(Array.from({ length: OBJECTS }, (_, i) => [keyOf(i), i]));
  const keyAt = (index: number) => keys[index & 65_535]!;
  const runs = Array.from({ length: 512 }, (_, run) => keys.slice(run * 64, run * 64 + 64));
  const timed = (name: string, note: string, call: (index: number) => void, each = 1) => ({
    name,
    note,
    sample: () => Promise.resolve({ call: timeCalls(batchMs, call) / each }),
  });
  let found = 0;
  return [
    timed("Map.get()", "for comparison", (index) => found += plain.get(keyAt(index))!),
    timed("exists()", "", (index) => found += backend.exists(keyAt(index)) ? 1 : 0),
    timed("get(), a miss", "", () => found += backend.get("missing") === null ? 1 : 0),
    timed(
      "get() and refCountDown(), a hit",
      "",
      (index) => backend.get(keyAt(index))!.refCountDown(),
    ),
    timed("pin() and unpin()", "", (index) => {
      backend.pin(keyAt(index));
      backend.unpin(keyAt(index));
    }),
    timed("batchedContains() of 64 keys, each", "", (index) => {
      found += backend.batchedContains(runs[index & 511]!);
    }, 64),
    timed("batchedGet() of 64 keys and refCountDown(), each", "", (index) => {
      for (const obj of backend.batchedGet(runs[index & 511]!)) obj!.refCountDown();
    }, 64),
  ];
}

/** Puts new objects into a full tier of which the share `inUse` is referenced. */
function room(policy: CachePolicyName, inUse: number, objects: number): Contender {
  let round = 0;
  return {
    name: policy,
    note: inUse === 0 ? "" : `${inUse * 100} % of the objects are referenced`,
    async sample() {
      await using tier = new Tier(policy);
      const random = randomNumbers(++round);
      const held: TensorMemoryObj[] = [];
      for (let i = 0; i < OBJECTS; i++) {
        if (random() < inUse) held.push(tier.backend.get(keyOf(i))!);
      }
      const keys = Array.from({ length: objects }, (_, i) => keyOf(OBJECTS + i));
      const each = new Float64Array(objects);
      const started = performance.now();
      for (let i = 0; i < objects; i++) {
        const began = performance.now();
        tier.add(keys[i]!);
        each[i] = performance.now() - began;
      }
      const milliseconds = performance.now() - started;
      tier.backend.memcheck();
      for (const obj of held) obj.refCountDown();
      return { call: milliseconds * 1e3 / objects, worst: quantile([...each], 0.999) * 1e3 };
    },
  };
}

async function lookUpTable({ quick, show }: Context): Promise<Table> {
  const rounds = quick ? 3 : 9;
  await using tier = new Tier("LRU");
  const contenders = lookUps(tier, quick ? 5 : 30);
  const title = "Looking up";
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  tier.backend.memcheck();
  return {
    title,
    conditions: `${rounds} rounds; ${OBJECTS.toLocaleString("en-US")} objects under keys of ` +
      `${keyOf(0).length} characters, least recently used, random keys.`,
    metrics: CALLS,
    rows: contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!)),
    compare: null,
    chart: null,
  };
}

async function roomTable({ quick, show }: Context): Promise<Table> {
  const rounds = quick ? 2 : 5;
  const objects = quick ? 8_192 : 65_536;
  const contenders = CACHE_POLICIES.flatMap((policy) => [
    room(policy, 0, objects),
    room(policy, 0.5, objects),
  ]);
  const title = "Making room for a new object in a full pool";
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  return {
    title,
    conditions:
      `${rounds} rounds of ${objects.toLocaleString("en-US")} objects of 4 KiB: allocate, ` +
      "which evicts one, put and release.",
    metrics: ROOM,
    rows: contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!)),
    compare: null,
    chart: null,
  };
}

/** A hit is to be a matter of microseconds. */
function hitAim({ rows }: Table): Aim {
  const samples = rows.find(({ contender }) => contender.startsWith("get() and"))!.samples["call"]!;
  return {
    what: "a hit of the hot tier",
    better: "less",
    limit: HIT_LIMIT_US,
    unit: "us",
    samples: samples.map((nanoseconds) => nanoseconds / 1e3),
    judge: "median",
    basis: "",
  };
}

async function run(context: Context): Promise<Section> {
  const found = await lookUpTable(context);
  return {
    title: "The hot tier",
    intro: "What it costs to find an object in the pool, and to make room for one.",
    tables: [found, await roomTable(context)],
    aims: [hitAim(found)],
    notes: [],
  };
}

export const hotTierBenchmark: Benchmark = {
  name: "hot-tier",
  summary: "hits of the hot tier, and evictions with and without objects in use",
  run,
};
