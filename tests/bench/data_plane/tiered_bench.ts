// SPDX-License-Identifier: Apache-2.0
//
// The tiered store: what a get costs that finds its object in the pool, and one that has to load it;
// with a pool that holds all objects and one that holds a quarter of them; and how fast objects are
// taken in when they are written behind. The store's files are in the page cache: disks are measured
// elsewhere.

import { TensorMemoryAllocator } from "../../../src/memory/tensor_allocator.ts";
import type { TensorMemoryObj } from "../../../src/memory/memory_obj.ts";
import { TensorLayout } from "../../../src/memory/tensor_layout.ts";
import { LocalCpuBackend } from "../../../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../../../src/cache/tiered_store.ts";
import { ShmSegment } from "../../../src/mod.ts";
import { zipfTrace } from "../../support/traces.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { fillRandom, mustEqual } from "../support/data.ts";
import { type Contender, interleave } from "../support/interleave.ts";
import { syncFileSystem } from "../support/page_cache.ts";
import { type Metric, rowOf, type Sample, type Section, type Table } from "../support/results.ts";
import { quantile } from "../support/statistics.ts";
import { Connectors, OURS } from "./contenders.ts";

const MIB = 2 ** 20;
/** Exponent of the skewed trace. */
const SKEW = 0.9;

interface Plan {
  readonly label: string;
  readonly objectBytes: number;
  readonly objects: number;
}

const PLANS: readonly Plan[] = [
  { label: "1 MiB", objectBytes: MIB, objects: 128 },
  { label: "33.5 MB", objectBytes: 33_554_432, objects: 8 },
];
const SHARES = [{ share: 1, name: "pool for all" }, { share: 0.25, name: "pool for a quarter" }];

/** A pool for some of the objects, and a store with all of them behind it. */
class Tiers implements AsyncDisposable {
  readonly store: TieredStore;
  readonly #stack: AsyncDisposableStack;
  readonly #plan: Plan;
  readonly #layout: TensorLayout;
  readonly #wanted: Uint8Array;

  private constructor(
    plan: Plan,
    store: TieredStore,
    stack: AsyncDisposableStack,
    wanted: Uint8Array,
  ) {
    this.#plan = plan;
    this.#layout = TensorLayout.of(plan.objectBytes);
    this.store = store;
    this.#stack = stack;
    this.#wanted = wanted;
  }

  static async open(plan: Plan, share: number, directory: string, notes: string[]) {
    const { objectBytes, objects } = plan;
    const pieces = Math.max(2, Math.ceil(objects * share));
    const stack = new AsyncDisposableStack();
    try {
      const segment = stack.use(await ShmSegment.create({ sizeBytes: pieces * objectBytes }));
      const connectors = stack.use(await Connectors.open(segment, directory, [OURS]));
      for (const note of connectors.notes) if (!notes.includes(note)) notes.push(note);
      const allocator = new TensorMemoryAllocator(segment);
      const hot = stack.use(new LocalCpuBackend({ allocator }));
      const store = stack.use(new TieredStore({ hot, cold: connectors.maker.connector }));
      const wanted = new Uint8Array(objectBytes);
      fillRandom(wanted, 7);
      const tiers = new Tiers(plan, store, stack, wanted);
      for (let i = 0; i < objects; i++) await tiers.put(i, "through");
      return tiers;
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }

  /** The first bytes tell which object it is. */
  #stamp(index: number): void {
    new DataView(this.#wanted.buffer).setFloat64(0, index);
  }

  /** @returns bytes that were queued or stored */
  async put(index: number, mode: "through" | "behind", prefix = "object"): Promise<void> {
    const obj = await this.store.hot.allocate(this.#layout);
    if (obj === null) throw new Error("the pool makes no room");
    this.#stamp(index);
    obj.bytes.set(this.#wanted);
    await this.store.put(`${prefix}/${index}`, obj, { writeMode: mode });
    obj.refCountDown();
  }

  async get(index: number): Promise<TensorMemoryObj> {
    const obj = await this.store.get(`object/${index}`, this.#layout);
    if (obj === null) throw new Error(`object ${index} is missing`);
    return obj;
  }

  /** Compares, and releases. */
  check(index: number, obj: TensorMemoryObj): void {
    this.#stamp(index);
    mustEqual(`object ${index}`, obj.bytes, this.#wanted);
    obj.refCountDown();
  }

  /** Gets all of the indices, one after the other. @returns microseconds of each */
  async timeGets(indices: readonly number[]): Promise<number[]> {
    const microseconds: number[] = [];
    for (const index of indices) {
      const started = performance.now();
      const obj = await this.get(index);
      microseconds.push((performance.now() - started) * 1e3);
      this.check(index, obj);
    }
    return microseconds;
  }

  /** All objects, or as many of the last as the pool holds. */
  get indices(): number[] {
    return Array.from({ length: this.#plan.objects }, (_, i) => i);
  }
}

const LATENCY: readonly Metric[] = [
  { key: "warm50", label: "in the pool, p50", unit: "us" },
  { key: "warm99", label: "p99", unit: "us" },
  { key: "cold50", label: "loaded, p50", unit: "us" },
  { key: "cold99", label: "p99", unit: "us" },
  { key: "hits", label: "hits of a skewed trace", unit: "%" },
  { key: "ops", label: "gets of a skewed trace", unit: "ops/s" },
];

async function latencySample(tiers: Tiers, traceLength: number): Promise<Sample> {
  const { store, indices } = tiers;
  store.hot.clear();
  const cold = await tiers.timeGets(indices);
  // What was loaded last is in the pool, however small it is; it is asked for several times.
  const newest = indices.slice(-2);
  const warm = await tiers.timeGets(Array.from({ length: 64 }, (_, i) => newest[i % 2]!));
  const keys = indices.length;
  const trace = zipfTrace({ keys, length: traceLength, exponent: SKEW, seed: 3 });
  const before = store.stats;
  const started = performance.now();
  for (const index of trace) (await tiers.get(index)).refCountDown();
  const milliseconds = performance.now() - started;
  const hits = store.stats.hotHits - before.hotHits;
  return {
    warm50: quantile(warm, 0.5),
    warm99: quantile(warm, 0.99),
    cold50: quantile(cold, 0.5),
    cold99: quantile(cold, 0.99),
    hits: hits / trace.length * 100,
    ops: trace.length * 1e3 / milliseconds,
  };
}

const WRITING: readonly Metric[] = [
  { key: "taken", label: "until put() returns", unit: "MB/s" },
  { key: "stored", label: "until all are stored", unit: "MB/s" },
];

let generation = 0;

async function writeSample(
  tiers: Tiers,
  mode: "through" | "behind",
  { objects, objectBytes }: Plan,
  directory: string,
): Promise<Sample> {
  const prefix = `new-${generation++}`;
  const started = performance.now();
  for (let i = 0; i < objects; i++) await tiers.put(i, mode, prefix);
  const taken = performance.now() - started;
  await tiers.store.flush();
  const stored = performance.now() - started;
  for (let i = 0; i < objects; i++) await tiers.store.remove(`${prefix}/${i}`);
  syncFileSystem(directory);
  const rate = (milliseconds: number) => objects * objectBytes / 1e3 / milliseconds;
  return { taken: rate(taken), stored: rate(stored) };
}

async function run(context: Context): Promise<Section> {
  const { quick, directory, show } = context;
  const rounds = quick ? 1 : 4;
  const notes: string[] = [];
  const reading: Table["rows"][number][] = [];
  const writing: Table["rows"][number][] = [];
  for (const plan of PLANS) {
    await using stack = new AsyncDisposableStack();
    const readers: Contender[] = [];
    const writers: Contender[] = [];
    for (const { share, name } of SHARES) {
      const tiers = stack.use(await Tiers.open(plan, share, directory, notes));
      const length = plan.objects * 4;
      readers.push({ name, note: "", sample: () => latencySample(tiers, length) });
      for (const mode of ["through", "behind"] as const) {
        writers.push({
          name: `${mode}, ${name}`,
          note: "",
          sample: () => writeSample(tiers, mode, plan, directory),
        });
      }
    }
    const take = async (contenders: readonly Contender[], what: string) => {
      const step = (text: string) => show(`tiered ${what}, ${plan.label}, ${text}`);
      const samples = await interleave(contenders, rounds, step, !quick);
      return contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!, plan.label));
    };
    reading.push(...await take(readers, "get"));
    writing.push(...await take(writers, "put"));
  }
  const objects = PLANS.map(({ label, objects }) => `${objects} of ${label}`).join(", ");
  const shared = { compare: null, chart: null };
  return {
    title: "The tiered store",
    intro: "A pool in front of files that are in the page cache, one request at a time.",
    tables: [
      {
        ...shared,
        title: "Getting from pool and store",
        conditions:
          `${rounds} rounds; ${objects}. The trace is skewed (exponent ${SKEW}) and four ` +
          "times as long as there are objects; least recently used.",
        metrics: LATENCY,
        rows: reading,
      },
      {
        ...shared,
        title: "Putting through and behind",
        conditions:
          `${rounds} rounds; ${objects}, made in the pool one after the other, which is ` +
          "part of the time. A put behind returns when the object is queued, which waits while " +
          "256 MiB are queued, or the pool is full of objects that are not yet stored.",
        metrics: WRITING,
        rows: writing,
      },
    ],
    aims: [],
    notes,
  };
}

export const tieredBenchmark: Benchmark = {
  name: "tiered",
  summary: "the tiered store: gets from pool and store, puts through and behind",
  run,
};
