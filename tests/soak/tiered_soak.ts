// SPDX-License-Identifier: Apache-2.0
//
// A long day of a cache in a few minutes: random allocations, puts, gets and frees over a tiered
// store whose pool is ten times smaller than its data, and whose directory has a quota. Throughout,
// the books of the pool must add up, every byte that is got must be the one that was put, and
// neither memory nor descriptors of this process and its worker may grow.
//
// tests/tiered_soak_test.ts runs a short one. A long one, by hand:
//
//     bun run tests/soak/tiered_soak.ts --operations 1000000
//     deno run -A tests/soak/tiered_soak.ts --operations 1000000
//     bun run tests/soak/tiered_soak.ts --minutes 10
//
// With --minutes it is run again and again, with another seed each time.

import console from "node:console";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { ShmError } from "../../src/errors.ts";
import type { TensorMemoryObj } from "../../src/memory/memory_obj.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../../src/memory/tensor_allocator.ts";
import { TensorLayout } from "../../src/memory/tensor_layout.ts";
import { LocalCpuBackend } from "../../src/cache/local_cpu_backend.ts";
import { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import { TieredStore } from "../../src/cache/tiered_store.ts";
import { liveHeapBytes } from "../support/gc.ts";

/** Small files that the worker may keep open: fewer than there are. */
const KEPT_OPEN = 256;

export interface SoakOptions {
  /** Allocations, puts, gets and frees together. */
  readonly operations: number;
  /** Bytes of the pool; the data has ten times as many. */
  readonly poolBytes: number;
  /** Callers at a time. */
  readonly lanes: number;
  readonly seed: number;
  /** Below it the directory of the store is made, and removed. */
  readonly directory: string;
  readonly onSample?: ((sample: SoakSample) => void) | undefined;
}

/** How things stand after so many operations. */
export interface SoakSample {
  readonly operations: number;
  readonly seconds: number;
  /** Of this process; the pool is in it, and what the garbage collector has not given back. */
  readonly rssBytes: number;
  /** After a full collection. */
  readonly heapBytes: number;
  readonly descriptors: number;
  readonly workerRssBytes: number;
  readonly workerDescriptors: number;
  /** What the objects really take of the disk. */
  readonly diskBytes: number;
}

export interface SoakReport {
  readonly samples: readonly SoakSample[];
  readonly allocations: number;
  readonly frees: number;
  readonly puts: number;
  readonly gets: number;
  readonly hits: number;
  /** Puts that the quota had no room for at that moment: other writes took it. */
  readonly refusedPuts: number;
  readonly memchecks: number;
  readonly maxBytes: number;
  /** Objects that were evicted from the directory. */
  readonly evictions: number;
  readonly stats: TieredStore["stats"];
}

const SAMPLES = 20;
/** 1 to 8 tokens of 2 KiB each: 2 KiB to 16 KiB. */
const FULL = TensorLayout.of({ shape: [2, 1, 8, 512], dtype: "bfloat16", format: "KV_2LTD" });
/** Words of a chunk that are looked at, beside the first and the last, which say whose they are. */
const LOOKS = 4;

/** Marsaglia's xorshift: the same run for the same seed. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }

  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state % limit;
  }

  /** Small numbers more often than large ones: a few chunks are hot. */
  skewed(limit: number): number {
    const share = this.below(1 << 20) / (1 << 20);
    return Math.floor(share * share * share * limit);
  }
}

/** Tokens of the chunk of that number: the same whenever it is put. */
function tokensOf(id: number): number {
  return 1 + (Math.imul(id, 2_654_435_761) >>> 24) % 8;
}

function fill(obj: TensorMemoryObj, id: number): void {
  const words = new Uint32Array(obj.bytes.buffer, obj.bytes.byteOffset, obj.byteLength / 4);
  words.fill(Math.imul(id, 0x9e37_79b9) >>> 0);
  words[0] = id;
  words[words.length - 1] = ~id >>> 0;
}

/** What is wrong with the bytes; null when they are those of fill(). Looks at a sample of them. */
function faultOf(obj: TensorMemoryObj, id: number, random: Random): string | null {
  const words = new Uint32Array(obj.bytes.buffer, obj.bytes.byteOffset, obj.byteLength / 4);
  if (words[0] !== id) return `begins with ${words[0]}`;
  if (words[words.length - 1] !== ~id >>> 0) return `ends with ${words[words.length - 1]}`;
  const pattern = Math.imul(id, 0x9e37_79b9) >>> 0;
  for (let look = 0; look < LOOKS; look++) {
    const at = 1 + random.below(words.length - 2);
    if (words[at] !== pattern) return `has ${words[at]} at word ${at}`;
  }
  return obj.numTokens === tokensOf(id) ? null : `has ${obj.numTokens} tokens`;
}

function rssOf(pid: number | "self"): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

function descriptorsOf(pid: number | "self"): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}

/** Temporaries are left out: one may be counted again by the name that it is given meanwhile. */
function diskBytesOf(directory: string): number {
  let blocks = 0;
  for (const name of readdirSync(directory)) {
    if (!name.endsWith(".data")) continue;
    blocks += statSync(join(directory, name), { throwIfNoEntry: false })?.blocks ?? 0;
  }
  return blocks * 512;
}

/** One run. Throws at the first thing that is not as it must be. */
export async function soak(options: SoakOptions): Promise<SoakReport> {
  const { operations, poolBytes, lanes, seed } = options;
  const directory = mkdtempSync(join(options.directory, "lmshm-soak-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const segment = stack.use(await ShmSegment.create({ sizeBytes: poolBytes, pin: "none" }));
  const hot = stack.use(
    new LocalCpuBackend({
      allocator: new TensorMemoryAllocator(segment),
      cachePolicy: "S3FIFO",
      blockingTimeoutMs: 60_000,
    }),
  );
  const averageBytes = FULL.byteLength * 9 / 16;
  const chunks = Math.floor(10 * poolBytes / averageBytes);
  // A good part of the data, so that the quota works all the time.
  const maxBytes = 6 * poolBytes;
  const cold = stack.use(
    await ShmFileConnector.open({
      segment,
      storageDir: directory,
      maxBytes,
      workerArgs: ["--keep-open", String(KEPT_OPEN)],
    }),
  );
  const store = stack.use(
    new TieredStore({ hot, cold, maxQueuedBytes: Math.floor(poolBytes / 4) }),
  );
  const counts = { allocations: 0, frees: 0, puts: 0, gets: 0, hits: 0, refusedPuts: 0 };
  const samples: SoakSample[] = [];
  const started = performance.now();
  let done = 0;
  let memchecks = 0;
  let nextSample = 0;
  const failures: unknown[] = [];

  const observe = async () => {
    hot.memcheck();
    memchecks++;
    if (done < nextSample) return;
    nextSample += operations / SAMPLES;
    const heapBytes = await liveHeapBytes();
    const pid = cold.workerPid;
    const sample: SoakSample = {
      operations: done,
      seconds: (performance.now() - started) / 1000,
      rssBytes: rssOf("self"),
      heapBytes,
      descriptors: descriptorsOf("self"),
      workerRssBytes: pid === null ? 0 : rssOf(pid),
      workerDescriptors: pid === null ? 0 : descriptorsOf(pid),
      diskBytes: diskBytesOf(directory),
    };
    samples.push(sample);
    options.onSample?.(sample);
  };

  const putOne = async (id: number, random: Random) => {
    using obj = await hot.allocate(FULL.withTokens(tokensOf(id)));
    counts.allocations++;
    fill(obj, id);
    const writeMode = random.below(4) === 0 ? "through" : "behind";
    try {
      await store.put(`soak/model@1@0@${id.toString(16)}@bfloat16`, obj, { writeMode });
      counts.puts++;
    } catch (error) {
      if (!(error instanceof ShmError && error.code === "ENOSPC")) throw error;
      counts.refusedPuts++;
    }
    counts.frees++;
    done += 3;
  };
  const getOne = async (id: number, random: Random) => {
    const key = `soak/model@1@0@${id.toString(16)}@bfloat16`;
    using obj = await store.get(key, FULL);
    counts.gets++;
    done++;
    if (obj === null) return;
    counts.hits++;
    const fault = faultOf(obj, id, random);
    if (fault !== null) throw new Error(`chunk ${id} ${fault}`);
    counts.frees++;
    done++;
  };
  const lane = async (number: number) => {
    const random = new Random(seed * 7919 + number);
    for (let turn = 0; done < operations && failures.length === 0; turn++) {
      try {
        const id = random.skewed(chunks);
        if (random.below(5) < 2) await putOne(id, random);
        else await getOne(id, random);
        if (number === 0 && turn % 16 === 0) await observe();
      } catch (error) {
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)));
  if (failures.length > 0) throw failures[0];
  // What was queued and found no room is told here.
  await store.flush().catch((error) => {
    if (!(error instanceof ShmError && error.code === "ENOSPC")) throw error;
    counts.refusedPuts += error.details["count"] as number;
  });
  nextSample = 0;
  await observe();
  const { stats } = store;
  const { evictions = 0 } = await cold.info();
  const report = {
    ...{ ...counts, samples, memchecks, stats },
    ...{ maxBytes, evictions },
  };
  checkBooks(report, poolBytes);
  hot.clear();
  const left = hot.stats.allocator.liveObjects;
  if (left !== 0) throw new Error(`${left} objects were never released`);
  return report;
}

/** What must hold at the end, whatever happened. Times are nobody's business here. */
function checkBooks(report: SoakReport, poolBytes: number): void {
  const { samples, stats, maxBytes } = report;
  const expect = (holds: boolean, what: string) => {
    if (!holds) throw new Error(what);
  };
  expect(stats.mismatches === 0, `${stats.mismatches} mismatches`);
  expect(stats.cold.mismatches === 0, `${stats.cold.mismatches} damaged objects`);
  expect(stats.hot.lost === 0, `${stats.hot.lost} objects were freed under the pool`);
  expect(stats.queuedObjects === 0 && stats.loading === 0, "something is still going on");
  for (const { operations, diskBytes } of samples) {
    expect(diskBytes <= maxBytes, `${diskBytes} of ${maxBytes} after ${operations}`);
  }
  // The first quarter fills caches, compiles code, and lets the heap find its size; later the
  // requests that are in flight decide how much there is at a moment, but not how little there can
  // be. Of what the process has got from the system a collector returns little, so that is coarser.
  const quarter = Math.floor(samples.length / 4);
  const settled = samples.slice(quarter, 2 * quarter + 1);
  const late = samples.slice(3 * quarter);
  const grew = (what: string, of: (sample: SoakSample) => number, slackBytes: number) => {
    const before = Math.max(...settled.map(of));
    const after = Math.min(...late.map(of));
    expect(
      after <= before + slackBytes,
      `${what} grew from ${before} to ${after} bytes; the pool has ${poolBytes}`,
    );
  };
  grew("the heap", (sample) => sample.heapBytes, 4 * 2 ** 20);
  grew("memory", (sample) => sample.rssBytes, 96 * 2 ** 20);
  grew("the worker's memory", (sample) => sample.workerRssBytes, 8 * 2 ** 20);
  // File system calls of the moment have some.
  const most = (some: readonly SoakSample[]) => Math.max(...some.map((one) => one.descriptors));
  expect(
    most(late) <= most(settled) + 16,
    `descriptors grew from ${most(settled)} to ${most(late)}`,
  );
  const workers = Math.max(...samples.map((sample) => sample.workerDescriptors));
  expect(workers <= KEPT_OPEN + 128, `the worker had ${workers} descriptors`);
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1).padStart(7);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      operations: { type: "string" },
      minutes: { type: "string" },
      "pool-mib": { type: "string", default: "8" },
      lanes: { type: "string", default: "16" },
      seed: { type: "string", default: "1" },
      directory: { type: "string", default: tmpdir() },
    },
  });
  const { minutes } = values;
  const end = performance.now() + Number(minutes ?? 0) * 60_000;
  for (let turn = 0; turn === 0 || performance.now() < end; turn++) {
    console.log("operations  seconds      RSS     heap  fds  worker RSS  fds     disk  (MiB)");
    await round({
      operations: Number(values.operations ?? (minutes === undefined ? 1_000_000 : 200_000)),
      poolBytes: Number(values["pool-mib"]) * 2 ** 20,
      lanes: Number(values.lanes),
      seed: Number(values.seed) + turn,
      directory: values.directory,
    });
  }
}

async function round(options: SoakOptions): Promise<void> {
  const report = await soak({
    ...options,
    onSample: (sample) =>
      console.log(
        [
          String(sample.operations).padStart(10),
          sample.seconds.toFixed(1).padStart(8),
          mib(sample.rssBytes),
          mib(sample.heapBytes),
          String(sample.descriptors).padStart(4),
          mib(sample.workerRssBytes).padStart(11),
          String(sample.workerDescriptors).padStart(4),
          mib(sample.diskBytes),
        ].join(" "),
      ),
  });
  const { samples: _, stats, ...counts } = report;
  console.log(JSON.stringify({ ...counts, stats }, null, 1));
  console.log("OK: the books add up, every chunk was whole, nothing grew");
}

/** What went wrong first, then what that made go wrong at the end. */
function unfolded(error: unknown): unknown[] {
  return error instanceof SuppressedError
    ? [...unfolded(error.suppressed), ...unfolded(error.error)]
    : [error];
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    for (const one of unfolded(error)) console.error(one);
    process.exitCode = 1;
  }
}
