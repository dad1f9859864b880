// SPDX-License-Identifier: Apache-2.0
//
// bun tests/bench/redis_contenders.ts PORT [ROUNDS]: objects of a pool to a Redis or Valkey server on
// loopback and back into the pool, by this library, by Bun's own client, and by ioredis where
// LMSHM_BENCH_IOREDIS names its package folder. Ours go in batches and one by one up to 256 KiB, and one
// by one above. They take turns in one run; what was read is compared.
// Prints for each the median rate, the median of the ratio to ours in the same round with its spread,
// and CPU seconds a GB of this process (JavaScript's) and of the worker.

import { RedisClient } from "bun";
import { Buffer } from "node:buffer";
import console from "node:console";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { connect, ShmSegment } from "../../src/mod.ts";

const [port, roundsText = "7"] = process.argv.slice(2);
const rounds = Number(roundsText);
const sizes = [64 * 1024, 2 ** 20, 33_554_432];
const GB = 1e9;
const TICKS = 100;

interface Contender {
  readonly name: string;
  put(keys: readonly string[]): Promise<void>;
  get(keys: readonly string[]): Promise<void>;
  /** Of a process beside this one, in seconds. */
  otherCpu(): number;
}

interface Sample {
  readonly seconds: number;
  readonly own: number;
  readonly other: number;
}

function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
}

/** So many at a time. */
async function each(count: number, depth: number, work: (at: number) => Promise<void>) {
  let next = 0;
  await Promise.all(Array.from({ length: depth }, async () => {
    while (next < count) await work(next++);
  }));
}

async function measured(contender: Contender, work: () => Promise<void>): Promise<Sample> {
  const [cpu, other, begin] = [process.cpuUsage(), contender.otherCpu(), performance.now()];
  await work();
  const seconds = (performance.now() - begin) / 1e3;
  const { user, system } = process.cpuUsage(cpu);
  return { seconds, own: (user + system) / 1e6, other: contender.otherCpu() - other };
}

const median = (numbers: number[]) => numbers.sort((a, b) => a - b)[numbers.length >> 1]!;

for (const size of sizes) {
  const count = Math.max(4, Math.min(1024, Math.floor(268e6 / size)));
  const depth = size > 2 ** 20 ? 4 : 16;
  await using segment = await ShmSegment.create({ sizeBytes: 2 * count * size });
  const bytes = segment.bytes(0, 2 * count * size);
  for (let at = 0; at < count * size; at += 4096) bytes[at] = (at * 31) >> 12;
  const source = (at: number) => bytes.subarray(at * size, (at + 1) * size);
  const target = (at: number) => bytes.subarray((count + at) * size, (count + at + 1) * size);
  const ranges = (from: number) => (at: number) => segment.range((from + at) * size, size);
  const [from, into] = [ranges(0), ranges(count)];

  await using store = await connect(`redis://127.0.0.1:${port}?prefix=ours:`, { segment });
  const pid = Number(
    readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, "utf8").trim().split(" ").at(
      -1,
    ),
  );
  const small = size <= 2 ** 18;
  const inBatches: Contender = {
    name: "lmshm, in batches",
    async put(keys) {
      await store.batchedPut([...keys], keys.map((_, at) => from(at)));
    },
    async get(keys) {
      const found = await store.batchedGet([...keys], keys.map((_, at) => into(at)));
      if (found.includes(null)) throw new Error("a miss");
    },
    otherCpu: () => cpuOf(pid),
  };
  const oneByOne: Contender = {
    name: "lmshm, one by one",
    put: (keys) => each(count, depth, (at) => store.put(keys[at]!, from(at))),
    get: (keys) =>
      each(count, depth, async (at) => {
        if (await store.get(keys[at]!, into(at)) === null) throw new Error("a miss");
      }),
    otherCpu: () => cpuOf(pid),
  };
  const client = new RedisClient(`redis://127.0.0.1:${port}`);
  await client.connect();
  const bun: Contender = {
    name: "Bun",
    put: (keys) => each(count, depth, async (at) => void await client.set(keys[at]!, source(at))),
    get: (keys) =>
      each(count, depth, async (at) => target(at).set((await client.getBuffer(keys[at]!))!)),
    otherCpu: () => 0,
  };
  const ours = small ? [inBatches, oneByOne] : [oneByOne];
  const contenders = [...ours, bun];
  const folder = process.env.LMSHM_BENCH_IOREDIS;
  let close = () => {};
  if (folder !== undefined) {
    const { default: Redis } = await import(join(folder, "built", "index.js"));
    const redis = new Redis({ port: Number(port), host: "127.0.0.1" });
    close = () => redis.disconnect();
    contenders.push({
      name: "ioredis",
      put: (keys) =>
        each(
          count,
          depth,
          (at) => redis.set(keys[at], Buffer.from(source(at).buffer, source(at).byteOffset, size)),
        ),
      get: (keys) =>
        each(count, depth, async (at) => target(at).set(await redis.getBuffer(keys[at]))),
      otherCpu: () => 0,
    });
  }

  const samples = new Map<string, Sample[]>();
  for (let round = 0; round <= rounds; round++) {
    const turn = contenders.map((_, at) => contenders[(at + round) % contenders.length]!);
    for (const contender of turn) {
      const keys = Array.from({ length: count }, (_, at) => `${contender.name}-${size}-${at}`);
      for (const what of ["put", "get"] as const) {
        if (what === "get") bytes.fill(0, count * size);
        const sample = await measured(contender, () => contender[what](keys));
        if (round > 0) {
          const name = `${what} ${contender.name}`;
          samples.set(name, [...samples.get(name) ?? [], sample]);
        }
      }
      for (let at = 0; at < count; at++) {
        if (Buffer.compare(source(at), target(at)) !== 0) {
          throw new Error(`${contender.name}: wrong bytes`);
        }
      }
    }
  }
  const gigabytes = count * size / GB;
  for (const what of ["put", "get"] as const) {
    const own = samples.get(`${what} ${ours[0]!.name}`)!;
    for (const { name } of contenders) {
      const mine = samples.get(`${what} ${name}`)!;
      const ratios = mine.map(({ seconds }, at) => seconds / own[at]!.seconds);
      const row = [
        `${(size / 1e6).toFixed(2)} MB`.padStart(9),
        what,
        name.padEnd(17),
        `${(gigabytes / median(mine.map(({ seconds }) => seconds))).toFixed(2)} GB/s`,
        `${ours[0]!.name} is ${median([...ratios]).toFixed(2)} times (${
          Math.min(...ratios).toFixed(2)
        }-${Math.max(...ratios).toFixed(2)})`,
        `CPU s/GB: JavaScript ${median(mine.map(({ own }) => own / gigabytes)).toFixed(3)}`,
        `worker ${median(mine.map(({ other }) => other / gigabytes)).toFixed(3)}`,
      ];
      console.log(row.join("  "));
    }
  }
  client.close();
  close();
}
