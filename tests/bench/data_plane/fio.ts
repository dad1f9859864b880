// SPDX-License-Identifier: Apache-2.0
//
// fio as a contender: the same number of files, of the same size, in the same directory. It writes
// bytes of its own and reads into memory of its own, so what it moves is not compared. One job for
// each object under way; each job has its share of the files.

import { spawn, spawnSync } from "node:child_process";
import type { Slot } from "./arena.ts";
import type { Cost, Lanes, Mover } from "./movers.ts";

const RUN_LIMIT_MS = 120_000;
const BLOCK_BYTES = 2 ** 20;
/** Requests of one job that are under way, past the page cache. */
const DIRECT_DEPTH = 4;

interface Direction {
  readonly io_bytes: number;
  /** Milliseconds of the job that took longest. */
  readonly runtime: number;
}

interface Job {
  readonly error: number;
  readonly usr_cpu: number;
  readonly sys_cpu: number;
  readonly job_runtime: number;
  readonly read: Direction;
  readonly write: Direction;
}

/** What `fio --version` prints, or null where there is none. */
export function fioVersion(): string | null {
  const { status, stdout } = spawnSync("fio", ["--version"], { encoding: "utf8" });
  return status === 0 ? stdout.trim() : null;
}

export class FioMover implements Mover {
  readonly ours = false;
  readonly verifiable = false;
  /** Its exit takes longer than its work, and the kernel would write meanwhile. */
  readonly putsOnDisk = true;
  readonly name: string;
  readonly note: string;
  readonly #direct: boolean;

  /** @param version as fioVersion() tells it */
  constructor(version: string, direct: boolean) {
    this.#direct = direct;
    this.name = direct ? "fio, direct" : "fio, cached";
    this.note = direct
      ? `${version}, libaio, ${DIRECT_DEPTH} blocks of 1 MiB under way a job; space reserved before the clock`
      : `${version}, blocks of 1 MiB; space reserved before the clock`;
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return this.#run("write", slots, lanes);
  }

  get(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return this.#run("read", slots, lanes);
  }

  async #run(direction: "read" | "write", slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    const jobs = Math.min(Number(lanes), slots.length);
    const [{ directory, range }] = slots as [Slot];
    const share = Math.ceil(slots.length / jobs);
    const args = [
      "--output-format=json",
      "--thread",
      `--directory=${directory}`,
      `--rw=${direction}`,
      `--bs=${BLOCK_BYTES}`,
      `--direct=${this.#direct ? 1 : 0}`,
      this.#direct ? "--ioengine=libaio" : "--ioengine=psync",
      `--iodepth=${this.#direct ? DIRECT_DEPTH : 1}`,
      "--file_service_type=sequential",
      // What is in the page cache is decided by the benchmark.
      "--invalidate=0",
      "--overwrite=0",
      "--end_fsync=1",
    ];
    for (let job = 0; job < jobs; job++) {
      const files = slots.slice(job * share, (job + 1) * share);
      if (files.length === 0) break;
      args.push(
        `--name=job${job}`,
        // A colon separates names for fio.
        `--filename=${files.map(({ fileName }) => fileName.replaceAll(":", "\\:")).join(":")}`,
        `--size=${files.length * range.byteLength}`,
      );
    }
    return costOf(direction, await runFio(args), slots.length * range.byteLength);
  }
}

function costOf(direction: "read" | "write", jobs: readonly Job[], bytes: number): Cost {
  const moved = jobs.reduce((sum, job) => sum + job[direction].io_bytes, 0);
  if (moved !== bytes || jobs.some(({ error }) => error !== 0)) {
    throw new Error(`fio moved ${moved} of ${bytes} bytes`);
  }
  const cpu = jobs.map((job) => (job.usr_cpu + job.sys_cpu) / 100 * job.job_runtime);
  return {
    wallMs: Math.max(...jobs.map((job) => job[direction].runtime)),
    scriptMs: null,
    otherMs: cpu.reduce((sum, ms) => sum + ms, 0),
  };
}

function runFio(args: readonly string[]): Promise<Job[]> {
  return new Promise((resolve, reject) => {
    const child = spawn("fio", [...args], { stdio: ["ignore", "pipe", "pipe"] });
    const limit = setTimeout(() => child.kill("SIGKILL"), RUN_LIMIT_MS);
    let out = "";
    let complaint = "";
    child.stdout!.on("data", (part: Uint8Array) => out += new TextDecoder().decode(part));
    child.stderr!.on("data", (part: Uint8Array) => complaint += new TextDecoder().decode(part));
    child.on("error", (error) => {
      clearTimeout(limit);
      reject(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(limit);
      // Notes may stand before the JSON.
      const at = out.indexOf("{");
      if (code === 0 && at >= 0) resolve((JSON.parse(out.slice(at)) as { jobs: Job[] }).jobs);
      else reject(new Error(`fio: ${signal ?? code}: ${complaint}${out}`.slice(0, 2000)));
    });
  });
}
