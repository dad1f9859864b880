// SPDX-License-Identifier: Apache-2.0
//
// Allocators: what an allocation and a free cost with many objects alive, and how much of a pool
// that is always full can be used. FreeSpace, which the library has, against a plain list with first
// fit, and against the designs that were weighed; and the allocators on top, with their objects.
// Pools here are books only: there is no memory behind them.

import { FreeSpace } from "../../src/memory/free_space.ts";
import type { MemoryObj } from "../../src/memory/memory_obj.ts";
import { PagedTensorMemoryAllocator } from "../../src/memory/paged_allocator.ts";
import { TensorLayout } from "../../src/memory/tensor_layout.ts";
import { TensorMemoryAllocator } from "../../src/memory/tensor_allocator.ts";
import { type CacheOutcome, dayOfCache, randomSource, steadyCache } from "./allocator_trace.ts";
import { BestFitTree, BinnedLists, type Book, FirstFitList } from "./free_space_contenders.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import { type Metric, rowOf, type Sample, type Section, type Table } from "./support/results.ts";
import { quantile } from "./support/statistics.ts";
import { fakeSegment } from "../support/fake_segment.ts";

const LIST = "first-fit list";
const OURS = "FreeSpace";
const UNIT_BYTES = 4096;
/** Units of the objects in the tables of single operations: small ones are more frequent. */
const LARGEST_UNITS = 512;

interface BookMaker {
  readonly name: string;
  readonly note: string;
  make(size: number): Book<unknown>;
}

const BOOKS: readonly BookMaker[] = [
  { name: LIST, note: "ranges in order of offset", make: (size) => new FirstFitList(size) },
  { name: "best fit, one tree", note: "", make: (size) => new BestFitTree(size) },
  {
    name: "bins of lists (TLSF)",
    note: "looks at 16 ranges of its own bin first",
    make: (size) => new BinnedLists(size),
  },
  { name: OURS, note: "best fit: bins of trees", make: (size) => new FreeSpace(size) },
];

const OTHER_BOOKS = BOOKS.map(({ name }) => name).filter((name) => name !== OURS);

/** Frees one of `live` objects, and allocates another in its place. */
interface Load {
  replace(): void;
  /** Throws when something was lost on the way. */
  verify(): void;
}

type LoadMaker = (live: number, random: () => number) => Load;

function sizeOf(random: () => number): number {
  return 1 + Math.floor(random() ** 2 * LARGEST_UNITS);
}

/** Units of a pool that is four fifths full of `live` objects: a third of the largest on average. */
function poolSizeFor(live: number): number {
  return Math.ceil(live * LARGEST_UNITS / 3 / 0.8);
}

/** A load of `live` objects; where one does not fit, its place stays empty until the next turn. */
function loadOf<Handle>(
  live: number,
  random: () => number,
  allocate: () => Handle | null,
  free: (handle: Handle) => void,
  verify: (left: readonly Handle[]) => void,
): Load {
  const handles = Array.from({ length: live }, allocate);
  return {
    replace() {
      const index = Math.floor(random() * live);
      const old = handles[index]!;
      if (old !== null) free(old);
      handles[index] = allocate();
    },
    verify() {
      const left = handles.filter((handle) => handle !== null);
      if (left.length < live * 0.8) throw new Error(`only ${left.length} of ${live} objects fit`);
      verify(left);
    },
  };
}

function bookLoad(make: BookMaker["make"]): LoadMaker {
  return (live, random) => {
    const size = poolSizeFor(live);
    const book = make(size);
    const allocate = () => book.allocate(sizeOf(random));
    return loadOf(live, random, allocate, (handle) => book.free(handle), (left) => {
      for (const handle of left) book.free(handle);
      if (book.freeSize !== size || book.largestFree !== size) throw new Error("not merged");
    });
  };
}

interface ObjectPool {
  tryAllocate(layout: TensorLayout): MemoryObj | null;
  memcheck(): { liveObjects: number };
}

function objectLoad(
  makePool: (live: number) => ObjectPool,
  layouts: readonly TensorLayout[],
): LoadMaker {
  return (live, random) => {
    const pool = makePool(live);
    const allocate = () => pool.tryAllocate(layouts[Math.floor(random() ** 2 * layouts.length)]!);
    return loadOf(live, random, allocate, (obj) => obj.refCountDown(), (left) => {
      if (pool.memcheck().liveObjects !== left.length) throw new Error("objects were lost");
      for (const obj of left) obj.refCountDown();
    });
  };
}

const LAYOUTS = Array.from(
  { length: LARGEST_UNITS },
  (_, i) => TensorLayout.of((i + 1) * UNIT_BYTES),
);
const PAGE = LAYOUTS.slice(-1);

const LOADS: readonly { name: string; note: string; make: LoadMaker }[] = [
  ...BOOKS.map(({ name, note, make }) => ({ name, note, make: bookLoad(make) })),
  {
    name: "TensorMemoryAllocator",
    note: "FreeSpace and memory objects",
    make: objectLoad(
      (live) => new TensorMemoryAllocator(fakeSegment(poolSizeFor(live) * UNIT_BYTES)),
      LAYOUTS,
    ),
  },
  {
    name: "... detectLeaks: false",
    note: "",
    make: objectLoad(
      (live) =>
        new TensorMemoryAllocator(fakeSegment(poolSizeFor(live) * UNIT_BYTES), {
          detectLeaks: false,
        }),
      LAYOUTS,
    ),
  },
  {
    name: "PagedTensorMemoryAllocator",
    note: "pages and memory objects",
    make: objectLoad(
      (live) =>
        new PagedTensorMemoryAllocator(fakeSegment(live * LARGEST_UNITS * UNIT_BYTES), {
          page: PAGE[0]!,
        }),
      PAGE,
    ),
  },
];

const OPERATION_METRICS: readonly Metric[] = [
  { key: "rate", label: "free and allocate", unit: "ops/s" },
  { key: "p999", label: "99.9th percentile", unit: "us" },
  { key: "worst", label: "longest", unit: "us" },
];

/** As many operations as take about `batchMs`; then a fixed number, each timed alone. */
function measureLoad(load: Load, batchMs: number, timed: number): Sample {
  for (let i = 0; i < 1000; i++) load.replace();
  let operations = 0;
  const started = performance.now();
  let milliseconds = 0;
  while (milliseconds < batchMs) {
    for (let i = 0; i < 100; i++) load.replace();
    operations += 100;
    milliseconds = performance.now() - started;
  }
  const each = new Float64Array(timed);
  for (let i = 0; i < timed; i++) {
    const began = performance.now();
    load.replace();
    each[i] = performance.now() - began;
  }
  load.verify();
  const times = [...each];
  return {
    rate: operations / milliseconds * 1e3,
    p999: quantile(times, 0.999) * 1e3,
    worst: quantile(times, 1) * 1e3,
  };
}

async function operations(live: number, { quick, show }: Context): Promise<Table> {
  const rounds = quick ? 1 : 3;
  const [batchMs, timed] = quick ? [30, 5_000] : [150, 30_000];
  const contenders: Contender[] = LOADS.map(({ name, note, make }) => {
    let round = 0;
    return {
      name,
      note,
      sample: () => Promise.resolve(measureLoad(make(live, randomSource(++round)), batchMs, timed)),
    };
  });
  const title = `${live.toLocaleString("en-US")} objects alive`;
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  return {
    title: `Freeing and allocating with ${title}`,
    conditions:
      `${rounds} rounds; objects of 1 to ${LARGEST_UNITS} units of 4 KiB in a pool that ` +
      "is four fifths full. An operation frees a random object and allocates another. The longest " +
      `of ${timed.toLocaleString("en-US")} operations includes pauses of the garbage collector.`,
    metrics: OPERATION_METRICS,
    rows: contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!)),
    compare: {
      metric: "rate",
      baseline: LIST,
      label: `rate, of the ${LIST}'s`,
      better: "more",
      baselineIsOurs: false,
      others: OTHER_BOOKS,
    },
    chart: null,
  };
}

const CACHE_METRICS: readonly Metric[] = [
  { key: "inUse", label: "pool in use", unit: "%" },
  { key: "fragmentation", label: "free, not in the largest range", unit: "%" },
  { key: "object", label: "an object, with evictions", unit: "ns" },
  { key: "worst", label: "longest", unit: "us" },
];

function cacheSample(outcome: CacheOutcome): Sample {
  return {
    inUse: outcome.inUse * 100,
    fragmentation: outcome.fragmentation * 100,
    object: outcome.nanosecondsPerObject,
    worst: outcome.worstMicroseconds,
  };
}

async function cache(
  title: string,
  conditions: string,
  poolSize: number,
  fill: (book: Book<unknown>, seed: number) => CacheOutcome,
  { quick, show }: Context,
): Promise<Table> {
  const rounds = quick ? 1 : 3;
  const contenders: Contender[] = BOOKS.map(({ name, note, make }) => {
    let round = 0;
    return {
      name,
      note,
      sample: () => Promise.resolve(cacheSample(fill(make(poolSize), ++round))),
    };
  });
  const samples = await interleave(contenders, rounds, (text) => show(`${title}, ${text}`));
  return {
    title,
    conditions: `${rounds} rounds. ${conditions}`,
    metrics: CACHE_METRICS,
    rows: contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!)),
    compare: {
      metric: "inUse",
      baseline: LIST,
      label: `in use, of the ${LIST}'s`,
      better: "more",
      baselineIsOurs: false,
      others: OTHER_BOOKS,
    },
    chart: null,
  };
}

async function run(context: Context): Promise<Section> {
  const { quick } = context;
  const tables: Table[] = [];
  for (const live of [100, 10_000, 100_000]) tables.push(await operations(live, context));
  for (const gib of [4, 64]) {
    const poolSize = gib * 2 ** 30 / UNIT_BYTES;
    const objects = quick ? 20_000 : 200_000;
    tables.push(
      await cache(
        `A day of a full cache of ${gib} GiB`,
        "Chunks of five models, 4 KiB to 33.5 MB, that come into and go out of use over the day; " +
          "three in ten are partial; the least recently used is evicted until the next one fits. " +
          `${objects.toLocaleString("en-US")} objects.`,
        poolSize,
        (book, seed) => dayOfCache(book, poolSize, seed, objects),
        context,
      ),
    );
  }
  const similar = [256, 257, 258, 259, 260, 261, 262, 263];
  const live = quick ? 10_000 : 100_000;
  tables.push(
    await cache(
      "A full cache of many objects of nearly one size",
      `${
        live.toLocaleString("en-US")
      } objects of 256 to 263 units; a random one is evicted until ` +
        "the next one fits.",
      live * 260,
      (book, seed) => steadyCache(book, live * 260, similar, seed, live * 2),
      context,
    ),
  );
  return {
    title: "Allocators",
    intro: "What allocating and freeing costs, and how much of a pool can be used when it is " +
      "always full, as a cache's is: memory that is free, but in pieces, is memory for nothing.",
    tables,
    aims: [],
    notes: [],
  };
}

export const allocatorBenchmark: Benchmark = {
  name: "allocator",
  summary: "allocate and free with many objects alive; use of a pool that is always full",
  run,
};
