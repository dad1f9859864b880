// SPDX-License-Identifier: Apache-2.0
//
// bun tests/bench/s3_contenders.ts PORT [ROUNDS]: the worker's S3 engine beside curl and Bun's own S3
// client, on a server of this machine with a bucket "kv-test" and the credentials of
// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Contenders take turns; one connection each, and four
// at the end. Prints medians over the rounds: MB/s, CPU seconds a GB of the client, and the ratio to
// the best of the others.
//
// The engine is s3_engine (build/dev/out/), checksums included; curl is the command, which reads and
// writes files in memory, since it can do no more with a segment; Bun's client writes from and copies
// into the memory that a program has.

import { spawnSync } from "node:child_process";
import console from "node:console";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const [port = "", rounds = "5"] = process.argv.slice(2);
const user = `${process.env["AWS_ACCESS_KEY_ID"]}:${process.env["AWS_SECRET_ACCESS_KEY"]}`;
const engine = join(dirname(fileURLToPath(import.meta.url)), "../../build/dev/out/s3_engine");
const folder = mkdtempSync("/dev/shm/lmshm-bench-");

interface Sample {
  seconds: number;
  cpu: number;
}
interface Job {
  put: boolean;
  bytes: number;
  count: number;
  at_once: number;
}

function runEngine(job: Job): Sample {
  const words = [port, job.put ? "put" : "get", `${job.bytes}`, `${job.count}`, `${job.at_once}`];
  const run = spawnSync(engine, words, { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`s3_engine: ${run.stderr}`);
  const [seconds = 0, cpu = 0] = run.stdout.split(" ").map(Number);
  return { seconds, cpu };
}

function runCurl(job: Job): Sample {
  const words = ["-sSf", "--aws-sigv4", "aws:amz:us-east-1:s3", "-u", user];
  if (job.at_once > 1) words.push("-Z", "--parallel-max", `${job.at_once}`);
  for (let i = 0; i < job.count; i++) {
    words.push(...(job.put ? ["-T", join(folder, "file")] : ["-o", join(folder, `got${i % 8}`)]));
    words.push(`http://127.0.0.1:${port}/kv-test/bench/o${i % 8}`);
  }
  const format = "%e %U %S";
  const run = spawnSync("/bin/bash", [
    "-c",
    'TIMEFORMAT="%R %U %S"; time curl "$@"',
    format,
    ...words,
  ], {
    encoding: "utf8",
    stdio: ["ignore", "ignore", "pipe"],
  });
  if (run.status !== 0) throw new Error(`curl: ${run.stderr}`);
  const [seconds = 0, own = 0, system = 0] = run.stderr.trim().split(/\s+/).slice(-3).map(Number);
  return { seconds, cpu: own + system };
}

const bunClient = `
const [port, put, bytes, count, atOnce] = process.argv.slice(1).map(Number);
const client = new Bun.S3Client({ bucket: "kv-test", endpoint: "http://127.0.0.1:" + port, region: "us-east-1" });
const pool = new Uint8Array(bytes * atOnce);
let next = 0;
const cpu = process.cpuUsage(), begin = performance.now();
await Promise.all(Array.from({ length: atOnce }, async (_, t) => {
  const own = pool.subarray(t * bytes, (t + 1) * bytes);
  for (let i = next++; i < count; i = next++) {
    const file = client.file("bench/o" + i % 8);
    if (put) await file.write(own, { partSize: 64 * 2 ** 20 });
    else own.set(new Uint8Array(await file.arrayBuffer()));
  }
}));
const used = process.cpuUsage(cpu);
console.log((performance.now() - begin) / 1e3, (used.user + used.system) / 1e6);
process.exit(0);`;

function runBun(job: Job): Sample {
  const words = [port, job.put ? "1" : "0", `${job.bytes}`, `${job.count}`, `${job.at_once}`];
  const run = spawnSync(process.execPath, ["-e", bunClient, ...words], { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`bun: ${run.stderr}`);
  const [seconds = 0, cpu = 0] = run.stdout.trim().split(" ").map(Number);
  return { seconds, cpu };
}

const CONTENDERS = { engine: runEngine, curl: runCurl, bun: runBun };
type Name = keyof typeof CONTENDERS;
const names = Object.keys(CONTENDERS) as Name[];

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? 0;
}

try {
  for (
    const [bytes, count, at_once] of [[65536, 200, 1], [2 ** 20, 40, 1], [33_500_000, 6, 1], [
      33_500_000,
      12,
      4,
    ]] as const
  ) {
    writeFileSync(join(folder, "file"), new Uint8Array(bytes));
    for (const put of [true, false]) {
      const job: Job = { put, bytes, count, at_once };
      // What is got must be what the engine has put, because it looks.
      if (!put) runEngine({ ...job, put: true, count: 8 });
      const samples = Object.fromEntries(names.map((name) => [name, [] as Sample[]])) as Record<
        Name,
        Sample[]
      >;
      for (let round = 0; round < Number(rounds); round++) {
        const order = round % 2 === 0 ? names : names.toReversed();
        for (const name of order) samples[name].push(CONTENDERS[name](job));
      }
      const gb = bytes * count / 1e9;
      const speed = (name: Name) =>
        median(samples[name].map((sample) => gb * 1e3 / sample.seconds));
      const others = Math.max(speed("curl"), speed("bun"));
      const line = names.map((name) =>
        `${name} ${speed(name).toFixed(0)} MB/s ${
          median(samples[name].map((s) => s.cpu / gb)).toFixed(2)
        } s/GB`
      );
      console.log(
        `${put ? "put" : "get"} ${bytes} x${at_once}: ${line.join(", ")}; ratio ${
          (speed("engine") / others).toFixed(2)
        }`,
      );
    }
  }
} finally {
  rmSync(folder, { recursive: true });
}
