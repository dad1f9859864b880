// SPDX-License-Identifier: Apache-2.0
//
// Directories with very many objects: what a limit (--max-bytes) costs in time, memory and pauses,
// and how long a listing of everything takes. Objects are files of one byte, which take a block of
// 4 KiB; who asks is a raw client, so that nothing but the worker is measured.

import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { ShmSegment } from "../../src/memory/segment.ts";
import { RawClient } from "../support/raw_client.ts";
import { RawWorker } from "../support/raw_worker.ts";
import { sleep } from "../support/worker.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { interleave } from "./support/interleave.ts";
import { type Metric, type Row, rowOf, type Sample, type Section } from "./support/results.ts";
import { quantile } from "./support/statistics.ts";

const BLOCK = 4096;
const PATIENCE_MS = 300_000;
const PUTS = 5_000;

function makeObjects(directory: string, count: number): void {
  mkdirSync(directory);
  for (let index = 0; index < count; index++) writeFileSync(join(directory, `k${index}.data`), "x");
}

async function factsOf(client: RawClient): Promise<Map<string, string>> {
  const words = (await client.demand("INFO")).split(" ");
  return new Map(words.map((word) => word.split("=", 2) as [string, string]));
}

/** Pings until `done` says so. @returns how long that took, and the longest answer. */
async function pingUntil(
  worker: RawWorker,
  done: (facts: Map<string, string>) => boolean,
): Promise<{ ms: number; longest: number }> {
  const pinger = await RawClient.connect(worker, "unix");
  const asker = await RawClient.connect(worker, "unix");
  const begun = performance.now();
  let longest = 0;
  let over = false;
  const pings = (async () => {
    while (!over) {
      const at = performance.now();
      await pinger.demand("PING");
      longest = Math.max(longest, performance.now() - at);
      await sleep(1);
    }
  })();
  try {
    while (!done(await factsOf(asker))) {
      if (performance.now() - begun > PATIENCE_MS) throw new Error("it is not done in time");
      await sleep(5);
    }
    return { ms: performance.now() - begun, longest };
  } finally {
    over = true;
    await pings;
    await Promise.all([pinger.close(), asker.close()]);
  }
}

const QUOTA_METRICS: readonly Metric[] = [
  { key: "counted", label: "counted after", unit: "ms" },
  { key: "countPing", label: "longest PING meanwhile", unit: "ms" },
  { key: "bytes", label: "memory an object", unit: "bytes" },
  { key: "shrunk", label: "shrunk to half after", unit: "ms" },
  { key: "shrinkPing", label: "longest PING meanwhile", unit: "ms" },
  { key: "put", label: "put that makes room, median", unit: "us" },
  { key: "put99", label: "p99", unit: "us" },
  { key: "putMost", label: "longest", unit: "ms" },
];

async function quotaSample(directory: string, count: number): Promise<Sample> {
  const root = join(directory, "objects");
  makeObjects(root, count);
  try {
    const start = (blocks: number) =>
      new RawWorker(root, join(directory, "w.sock"), ["--max-bytes", `${blocks * BLOCK}`]);
    let counting;
    let bytes;
    {
      await using worker = start(count * 2);
      await worker.start();
      counting = await pingUntil(worker, (facts) => facts.get("counted") === "1");
      const client = await RawClient.connect(worker, "unix");
      const facts = await factsOf(client);
      if (facts.get("objects") !== `${count}`) throw new Error(`objects=${facts.get("objects")}`);
      bytes = Number(facts.get("index_bytes")) / count;
      await client.close();
    }
    await using worker = start(count / 2);
    await worker.start();
    const shrinking = await pingUntil(
      worker,
      (facts) =>
        facts.get("counted") === "1" && Number(facts.get("used_bytes")) <= count / 2 * BLOCK,
    );
    using segment = await ShmSegment.create({ sizeBytes: 2 ** 20, pin: "none", name: benchName() });
    const client = await RawClient.connect(worker, "unix");
    await client.demand(`ATTACH ${segment.name} ${segment.sizeBytes} -`);
    const times = [];
    for (let index = 0; index < PUTS; index++) {
      const at = performance.now();
      await client.demand(`PUT new${index} 0 ${BLOCK}`);
      times.push((performance.now() - at) * 1e3);
    }
    await client.close();
    return {
      counted: counting.ms,
      countPing: counting.longest,
      bytes,
      shrunk: shrinking.ms,
      shrinkPing: shrinking.longest,
      put: quantile(times, 0.5),
      put99: quantile(times, 0.99),
      putMost: Math.max(...times) / 1e3,
    };
  } finally {
    rmSync(root, { recursive: true });
  }
}

let names = 0;
function benchName(): string {
  return `/lmshm-bench-directory-${Date.now()}-${names++}`;
}

async function quotaSection({ quick, objects, directory, show }: Context): Promise<Section> {
  const counts = objects === null ? (quick ? [20_000] : [50_000, 200_000]) : [objects];
  const contenders = counts.map((count) => ({
    name: `${count.toLocaleString("en-US")} objects`,
    note: "",
    sample: async () => await quotaSample(await mkdtemp(join(directory, "quota-")), count),
  }));
  const rounds = quick ? 1 : 2;
  const samples = await interleave(contenders, rounds, (text) => show(`quota, ${text}`), false);
  return {
    title: "A limit for the disk",
    intro: "A worker with `--max-bytes` is started over a directory that holds so many objects: " +
      "first with a limit that it keeps, then with half of what is there. PINGs are asked for " +
      `every millisecond meanwhile. Then ${
        PUTS.toLocaleString("en-US")
      } new objects are put, one ` +
      "after the other, for each of which another must go.",
    tables: [{
      title: "Counting, shrinking, making room",
      conditions: `${rounds} rounds. Objects of one byte in one directory, just written, so that ` +
        "their inodes are in memory; puts of 4 KiB. Memory is that of the account's tables.",
      metrics: QUOTA_METRICS,
      rows: contenders.map(({ name, note }, index) => rowOf(name, note, samples[index]!)),
      compare: null,
      chart: null,
    }],
    aims: [],
    notes: ["`--objects 1000000` takes another number of objects."],
  };
}

export const quotaBenchmark: Benchmark = {
  name: "quota",
  summary: "a limit of the disk over many objects: counting, memory, pauses, puts that make room",
  run: quotaSection,
};

const PAGES = "LIST, pages of 1,000";
const READING = "one reading by this program";

async function listAll(client: RawClient): Promise<number> {
  let keys = 0;
  let cursor = "-";
  do {
    const words = (await client.demand(`LIST 1000 ${cursor}`)).split(" ");
    keys += words.length - 1;
    cursor = words[0]!;
  } while (cursor !== "-");
  return keys;
}

async function listRows(
  directory: string,
  count: number,
  rounds: number,
  show: (text: string) => void,
): Promise<Row[]> {
  const root = join(directory, "objects");
  makeObjects(root, count);
  await using worker = new RawWorker(root, join(directory, "w.sock"));
  await worker.start();
  const client = await RawClient.connect(worker, "unix");
  const timed = async (list: () => number | Promise<number>) => {
    const at = performance.now();
    const found = await list();
    const ms = performance.now() - at;
    if (found !== count) throw new Error(`${found} names instead of ${count}`);
    return { ms, each: ms * 1e3 / count };
  };
  const contenders = [
    { name: READING, note: "readdirSync", sample: () => timed(() => readdirSync(root).length) },
    { name: PAGES, note: "", sample: () => timed(() => listAll(client)) },
  ];
  const step = (text: string) => show(`list, ${count} names, ${text}`);
  const samples = await interleave(contenders, rounds, step);
  const group = `${count.toLocaleString("en-US")} names`;
  await client.close();
  return contenders.map(({ name, note }, i) => rowOf(name, note, samples[i]!, group));
}

async function listSection({ quick, objects, directory, show }: Context): Promise<Section> {
  const counts = objects !== null ? [objects] : quick ? [5_000] : [50_000, 200_000, 400_000];
  const rounds = quick ? 1 : 3;
  const rows: Row[] = [];
  for (const count of counts) {
    const own = await mkdtemp(join(directory, "list-"));
    rows.push(...await listRows(own, count, rounds, show));
    rmSync(own, { recursive: true });
  }
  return {
    title: "Listing",
    intro: "All keys of a directory, page after page, by one client over a Unix socket.",
    tables: [{
      title: "LIST of everything",
      conditions: `${rounds} rounds, the directory in memory.`,
      metrics: [
        { key: "ms", label: "all names", unit: "ms" },
        { key: "each", label: "a name", unit: "us" },
      ],
      rows,
      compare: {
        metric: "ms",
        baseline: READING,
        label: "time, of one reading's",
        better: "less",
        baselineIsOurs: false,
      },
      chart: null,
    }],
    aims: [],
    notes: [],
  };
}

export const listBenchmark: Benchmark = {
  name: "list",
  summary: "listing directories of 50, 200 and 400 thousand objects",
  run: listSection,
};
