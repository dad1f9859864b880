// SPDX-License-Identifier: Apache-2.0
//
// Large directories: listing the keys of one, and keeping one within a limit. One directory grows
// from step to step; its objects have one byte, and so one block of the disk.

import { writeFileSync } from "node:fs";
import { mkdtemp, opendir } from "node:fs/promises";
import { join } from "node:path";
import { ShmFileConnector, ShmSegment } from "../../../src/mod.ts";
import { best, numberAim } from "../support/aims.ts";
import type { Benchmark, Context } from "../support/benchmark.ts";
import { watched } from "../support/loop_gap.ts";
import {
  type Aim,
  type Metric,
  type Row,
  rowOf,
  type Sample,
  type Section,
  type Table,
} from "../support/results.ts";
import { quantile } from "../support/statistics.ts";

const BLOCK_BYTES = 4096;
const GAP_LIMIT_MS = 15;
const INDEX_LIMIT_BYTES = 100;
/** How much longer a key may take in the largest directory than in the smallest. */
const GROWTH_LIMIT = 1.5;

const LISTING: readonly Metric[] = [
  { key: "all", label: "listAll()", unit: "ms" },
  { key: "key", label: "a key", unit: "us" },
  { key: "first", label: "the first key of list()", unit: "ms" },
  { key: "gap", label: "longest gap of the event loop", unit: "ms" },
  { key: "read", label: "opendir() of the runtime", unit: "ms" },
];

const LIMIT: readonly Metric[] = [
  { key: "open", label: "open()", unit: "ms" },
  { key: "put", label: "puts meanwhile, p50", unit: "ms" },
  { key: "most", label: "longest", unit: "ms" },
  { key: "done", label: "all of it", unit: "ms" },
  { key: "gap", label: "longest gap of the event loop", unit: "ms" },
  { key: "memory", label: "memory of the worker, an object", unit: "bytes" },
];

function objects(count: number): string {
  return `${count.toLocaleString("en-US")} objects`;
}

/** A directory that has objects from 0 up to a number. */
class Directory {
  readonly path: string;
  #count = 0;

  constructor(path: string) {
    this.path = path;
  }

  async grow(count: number): Promise<void> {
    const byte = new Uint8Array(1);
    for (; this.#count < count; this.#count++) {
      writeFileSync(join(this.path, `model@1@0@${this.#count.toString(16)}@half.data`), byte);
      if (this.#count % 1000 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }
}

async function listingSample(storageDir: string, count: number): Promise<Sample> {
  await using segment = await ShmSegment.create({ sizeBytes: BLOCK_BYTES, pin: "none" });
  await using connector = await ShmFileConnector.open({ segment, storageDir });
  const started = performance.now();
  for await (const _ of connector.list()) break;
  const first = performance.now() - started;
  const { value: keys, milliseconds: all, gaps } = await watched(() => connector.listAll());
  if (new Set(keys).size !== count) throw new Error(`${keys.length} keys of ${count}`);
  const before = performance.now();
  let read = 0;
  for await (const _ of await opendir(storageDir, { bufferSize: 1024 })) read++;
  if (read < count) throw new Error(`${read} names of ${count}`);
  const key = all * 1e3 / count;
  return { all, key, first, gap: gaps.max, read: performance.now() - before };
}

/** Opens the directory with a limit, and puts until `isDone`. */
async function limitSample(
  storageDir: string,
  maxBytes: number,
  isDone: (info: Awaited<ReturnType<ShmFileConnector["info"]>>) => boolean,
): Promise<Sample> {
  await using segment = await ShmSegment.create({ sizeBytes: BLOCK_BYTES, pin: "none" });
  const puts: number[] = [];
  const { value, milliseconds: done, gaps } = await watched(async () => {
    const started = performance.now();
    const connector = await ShmFileConnector.open({ segment, storageDir, maxBytes });
    const open = performance.now() - started;
    for (let index = 0;; index++) {
      const before = performance.now();
      await connector.put(`put/${index % 100}`, segment.range(0, 1));
      puts.push(performance.now() - before);
      const info = await connector.info();
      if (isDone(info)) return { connector, open, info };
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  });
  const { connector, open, info } = value;
  await connector.close();
  const memory = (info.indexBytes ?? 0) / Math.max(1, info.objects ?? 1);
  const [put, most] = [quantile(puts, 0.5), Math.max(...puts)];
  return { open, put, most, done, gap: gaps.max, memory };
}

async function run({ quick, directory, show }: Context): Promise<Section> {
  const counts = quick ? [2_000, 10_000] : [50_000, 200_000, 400_000];
  const many = quick ? 20_000 : 1_000_000;
  const rounds = quick ? 1 : 3;
  const place = new Directory(await mkdtemp(join(directory, "many-")));
  const listings: Row[] = [];
  for (const count of counts) {
    show(`${objects(count)}: made`);
    await place.grow(count);
    const samples: Sample[] = [];
    for (let round = 1; round <= rounds; round++) {
      show(`${objects(count)}: listed, round ${round} of ${rounds}`);
      samples.push(await listingSample(place.path, count));
    }
    listings.push(rowOf(objects(count), "", samples));
  }
  show(`${objects(many)}: made`);
  await place.grow(many);
  show(`${objects(many)}: counted`);
  const whole = many * BLOCK_BYTES;
  const counted = await limitSample(place.path, 2 * whole, ({ counted }) => counted === 1);
  show(`${objects(many)}: halved`);
  const half = whole / 2;
  const halved = await limitSample(
    place.path,
    half,
    ({ counted, usedBytes = 0 }) => counted === 1 && usedBytes <= half,
  );
  const limits = [
    rowOf(`${objects(many)}, counted`, "", [counted]),
    rowOf("the same, halved", "", [halved]),
  ];
  const listing: Table = {
    title: "Listing a directory",
    conditions: `${rounds} rounds, names in the kernel's caches.`,
    metrics: LISTING,
    rows: listings,
    compare: null,
    chart: null,
  };
  const limit: Table = {
    title: "A limit for a large directory",
    conditions:
      "Once. Counted: opened with a limit of twice what is there. Halved: opened with a " +
      "limit of half of it. Meanwhile one object after the other is put.",
    metrics: LIMIT,
    rows: limits,
    compare: null,
    chart: null,
  };
  return {
    title: "Large directories",
    intro: "What the number of objects in a directory costs a program that lists them, and one " +
      "whose worker keeps them within a limit.",
    tables: [listing, limit],
    aims: aimsOf(listings, limits),
    notes: [],
  };
}

function aimsOf(listings: readonly Row[], limits: readonly Row[]): Aim[] {
  const [few, lots] = [listings[0]!, listings.at(-1)!].map((row) => row.samples["key"]!);
  const gap = (row: Row) =>
    numberAim(
      `${row.contender}: longest gap of the event loop`,
      best([row], [row.contender], ["gap"]),
      "less",
      GAP_LIMIT_MS,
      "ms",
    );
  return [
    {
      what: `a key of ${listings.at(-1)!.contender}, of one of ${listings[0]!.contender}`,
      better: "less",
      limit: GROWTH_LIMIT,
      unit: "",
      samples: lots!.map((us, round) => us / few![round]!),
      judge: "median",
      basis: "",
    },
    ...[...listings.slice(-1), ...limits].flatMap(gap),
    ...numberAim(
      "the worker's memory for an object",
      best(limits, [limits[0]!.contender], ["memory"]),
      "less",
      INDEX_LIMIT_BYTES,
      "bytes",
    ),
  ];
}

export const directoryBenchmark: Benchmark = {
  name: "directory",
  summary: "listing large directories, and keeping them within a limit",
  run,
};
