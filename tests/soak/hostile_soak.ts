// SPDX-License-Identifier: Apache-2.0
//
// Honest clients beside hostile ones, on one worker: whatever the others do, each honest request
// succeeds, its bytes are right, and newcomers get in. How long it takes is measured, alone and
// beside each kind of mistreatment (fixtures/hostile_client.ts says which there are), and beside all
// of them at once.
//
// Times are printed, not asserted: how fast a machine is, and what else it does, is nobody's fault.
// tests/hostile_soak_test.ts runs a short one. A long one, by hand; its table is for people, its last
// line for programs:
//
//     bun run tests/soak/hostile_soak.ts --minutes 5 --seed 1

import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { fixtureCommand } from "../support/process.ts";
import { RawClient } from "../support/raw_client.ts";
import { RawWorker, type Way } from "../support/raw_worker.ts";
import { ShadowedSegment } from "../support/shadowed_segment.ts";
import { Dice, makeValue, versionOf } from "../support/versioned_values.ts";

const MIB = 2 ** 20;
export const HOSTILE_KINDS = [
  ...["lines", "strangers", "deaf", "huge", "slow", "churn", "cancels", "window"],
] as const;
/** Of huge objects, so many of them may be moved at one time. */
const HUGE_PARTS = 4;
/**
 * All come over one Unix socket as one user, who may have three quarters of these: the hostile ones
 * together hold 42, and some more that are closing.
 */
const MAX_CLIENTS = 128;
/** Over TCP a newcomer may have to give way to others that have not authenticated either. */
const TCP_ATTEMPTS = 50;

/** What honest clients do. */
const REQUESTS = ["put 4 KiB", "get 4 KiB", "put 1 MiB", "get 1 MiB", "login"] as const;
type Request = typeof REQUESTS[number];

export interface HostileSoakOptions {
  readonly seed: number;
  /** Which kinds, and which together. */
  readonly phases: readonly (readonly string[])[];
  /** A phase lasts so long, and until each honest client has had so many turns. */
  readonly phaseMs: number;
  readonly turns: number;
  /** An object of a hostile client. */
  readonly hugeMib: number;
  readonly directory: string;
  readonly onPhase?: ((phase: HostilePhase) => void) | undefined;
}

export interface Latency {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface HostilePhase {
  /** "alone", or the kinds. */
  readonly name: string;
  readonly seconds: number;
  readonly latencies: Readonly<Record<Request, Latency>>;
  /** What the hostile program did. */
  readonly hostile: Readonly<Record<string, number>>;
  /** The most, and when the hostile ones had gone. */
  readonly workerPeakBytes: number;
  readonly workerAfterBytes: number;
}

function latencyOf(samples: number[]): Latency {
  const sorted = samples.toSorted((one, other) => one - other);
  const at = (part: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  return {
    count: sorted.length,
    p50Ms: at(0.5) ?? 0,
    p99Ms: at(0.99) ?? 0,
    maxMs: sorted.at(-1) ?? 0,
  };
}

/** The program that does the harm. */
class Hostile {
  readonly #child;
  readonly #lines;
  readonly #exited: Promise<unknown>;

  constructor(worker: RawWorker, hugeMib: number) {
    const [command, line] = fixtureCommand(
      "hostile_client.ts",
      worker.address("unix"),
      worker.address("tcp"),
      String(hugeMib),
    );
    this.#child = spawn(command, line, { stdio: ["pipe", "pipe", "inherit"] });
    this.#exited = once(this.#child, "exit");
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  async #say(text: string, expected: string): Promise<string> {
    this.#child.stdin!.write(`${text}\n`);
    const { value, done } = await this.#lines.next();
    if (done || !value.startsWith(expected)) throw new Error(`the hostile program said ${value}`);
    return value.slice(expected.length);
  }

  async begin(kinds: readonly string[]): Promise<void> {
    await this.#say(`begin ${kinds.join(" ")}`, "began");
  }

  async end(): Promise<Record<string, number>> {
    return JSON.parse(await this.#say("end", "ended "));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    await this.#exited;
    clearTimeout(timer);
  }
}

/** The honest ones of a phase, and how long they wait. */
class Honest {
  readonly samples: Record<Request, number[]>;
  #stop = false;
  readonly #worker: RawWorker;
  readonly #dice: Dice;
  #version = 0;

  constructor(worker: RawWorker, seed: number) {
    this.#worker = worker;
    this.#dice = new Dice(seed);
    this.samples = Object.fromEntries(REQUESTS.map((one) => [one, []])) as unknown as Record<
      Request,
      number[]
    >;
  }

  async #timed<T>(request: Request, action: () => Promise<T>): Promise<T> {
    const began = performance.now();
    const result = await action();
    this.samples[request].push(performance.now() - began);
    return result;
  }

  /** Puts and gets of one size, one after the other; every byte is looked at. */
  async #transfers(number: number, way: Way, byteLength: number, turns: number): Promise<void> {
    using segment = new ShadowedSegment(4 * MIB);
    const client = await RawClient.connect(this.#worker, way);
    await client.attach(segment);
    const size = byteLength === MIB ? "1 MiB" : "4 KiB";
    for (let turn = 0; turn < turns || !this.#stop; turn++) {
      const key = this.#dice.below(4);
      const version = ++this.#version;
      segment.write(0, makeValue(key, version, byteLength));
      const name = `honest/${number}-${key}`;
      await this.#timed(`put ${size}`, () => client.demand(`PUT ${name} 0 ${byteLength}`));
      segment.write(2 * MIB, Buffer.alloc(byteLength));
      const answer = await this.#timed(
        `get ${size}`,
        () => client.demand(`GET ${name} ${2 * MIB} ${byteLength}`),
      );
      const found = versionOf(key, segment.read(2 * MIB, byteLength));
      if (!answer.startsWith(`${byteLength} `) || found !== version) {
        throw new Error(`${name}: ${answer}: ${found} instead of version ${version}`);
      }
      segment.accept(2 * MIB, byteLength);
      const fault = segment.fault();
      if (fault !== null) throw new Error(fault);
    }
    await client.close();
  }

  /** Comes, loads something, and goes. */
  async #newcomers(turns: number): Promise<void> {
    using segment = new ShadowedSegment(MIB);
    for (let turn = 0; turn < turns || !this.#stop; turn++) {
      const way = turn % 2 === 0 ? "unix" : "tcp";
      await this.#timed("login", async () => {
        for (let attempt = 1;; attempt++) {
          try {
            const client = await RawClient.connect(this.#worker, way);
            await client.attach(segment);
            await client.demand("GET honest 0 4096");
            await client.close();
            return;
          } catch (error) {
            if (way === "unix" || attempt === TCP_ATTEMPTS) {
              throw new Error(`a newcomer over ${way}, attempt ${attempt}: ${error}`);
            }
            await sleep(20);
          }
        }
      });
      await sleep(2);
    }
  }

  /** Resolves when all have had their turns and stop() was called. */
  async run(turns: number): Promise<void> {
    await Promise.all([
      this.#transfers(0, "unix", 4096, turns),
      this.#transfers(1, "tcp", 4096, turns),
      this.#transfers(2, "unix", MIB, turns),
      this.#newcomers(turns),
    ]);
  }

  stop(): void {
    this.#stop = true;
  }
}

/** Alone, then beside each of the phases. Throws at the first thing that is not as it must be. */
export async function hostileSoak(options: HostileSoakOptions): Promise<HostilePhase[]> {
  const directory = mkdtempSync(join(options.directory, "lmshm-soak-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const root = join(directory, "root");
  mkdirSync(root, { mode: 0o700 });
  const bound = String(options.hugeMib * MIB / HUGE_PARTS);
  const worker = stack.use(
    new RawWorker(root, join(directory, "w"), [
      ...["--max-bytes-in-flight", bound, "--max-clients", `${MAX_CLIENTS}`],
      ...["--log-level", "error"],
    ]),
  );
  await worker.start();
  const hostile = stack.use(new Hostile(worker, options.hugeMib));
  {
    using segment = new ShadowedSegment(MIB);
    const client = await RawClient.connect(worker, "unix");
    await client.attach(segment);
    await client.demand("PUT honest 0 4096");
    await client.close();
  }
  const phases: HostilePhase[] = [];
  for (const kinds of [[], ...options.phases]) {
    const phase = await onePhase(worker, hostile, kinds, options);
    phases.push(phase);
    options.onPhase?.(phase);
  }
  return phases;
}

async function onePhase(
  worker: RawWorker,
  hostile: Hostile,
  kinds: readonly string[],
  { phaseMs, turns, seed }: HostileSoakOptions,
): Promise<HostilePhase> {
  const name = kinds.join("+") || "alone";
  const honest = new Honest(worker, seed);
  const began = performance.now();
  let workerPeakBytes = 0;
  const watch = () => {
    if (!worker.down) workerPeakBytes = Math.max(workerPeakBytes, worker.usage().ownBytes);
  };
  const watching = setInterval(watch, 20);
  const timer = setTimeout(() => honest.stop(), phaseMs);
  let deeds: Record<string, number>;
  try {
    await hostile.begin(kinds);
    await honest.run(turns);
    deeds = await hostile.end();
  } catch (error) {
    throw new Error(`beside ${name}: ${error}`, { cause: error });
  } finally {
    clearInterval(watching);
    clearTimeout(timer);
  }
  watch();
  if (worker.fault !== null) throw new Error(`beside ${name}: ${worker.fault}`);
  const seconds = (performance.now() - began) / 1000;
  await leaving(worker);
  const latencies = Object.fromEntries(
    REQUESTS.map((request) => [request, latencyOf(honest.samples[request])]),
  ) as Record<Request, Latency>;
  const workerAfterBytes = worker.usage().ownBytes;
  return { name, seconds, latencies, hostile: deeds, workerPeakBytes, workerAfterBytes };
}

/** Until the worker has nobody left but who asks. */
async function leaving(worker: RawWorker): Promise<void> {
  const end = performance.now() + 60_000;
  for (;;) {
    try {
      const client = await RawClient.connect(worker, "unix");
      const info = await client.demand("INFO");
      await client.close();
      if (/ queued=0 /.test(info) && / running=0 /.test(info) && /clients=1( |$)/.test(info)) {
        return;
      }
      if (performance.now() > end) throw new Error(`clients remain: ${info}`);
    } catch (error) {
      if (performance.now() > end) throw error;
    }
    await sleep(10);
  }
}

/** Rows for people. */
function phaseRow({ name, latencies, workerPeakBytes, workerAfterBytes }: HostilePhase) {
  const cells = REQUESTS.map((request) => {
    const { p50Ms, p99Ms, maxMs } = latencies[request];
    return `${p50Ms.toFixed(1)} / ${p99Ms.toFixed(1)} / ${maxMs.toFixed(0)}`.padStart(20);
  });
  const mib = (bytes: number) => (bytes / MIB).toFixed(0);
  const memory = `${mib(workerPeakBytes)} / ${mib(workerAfterBytes)}`.padStart(12);
  return `${(name.includes("+") ? "all of them" : name).padEnd(12)} ${cells.join(" ")} ${memory}`;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "2" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      "huge-mib": { type: "string", default: "1024" },
      only: { type: "string" },
      directory: { type: "string", default: tmpdir() },
    },
  });
  console.log(
    `seed ${values.seed}; milliseconds: median / 99 % / most; the worker's MiB: most / after`,
  );
  const heads = [...REQUESTS.map((one) => one.padStart(20)), "worker".padStart(12)];
  console.log(["beside".padEnd(12), ...heads].join(" "));
  const kinds = values.only?.split(",") ?? HOSTILE_KINDS;
  const phases = [...kinds.map((kind) => [kind]), ...(kinds.length > 1 ? [kinds] : [])];
  const all = await hostileSoak({
    seed: Number(values.seed),
    phases,
    phaseMs: Number(values.minutes) * 60_000 / (phases.length + 1),
    turns: 20,
    hugeMib: Number(values["huge-mib"]),
    directory: values.directory,
    onPhase: (phase) => console.log(phaseRow(phase)),
  });
  console.log(JSON.stringify({ seed: Number(values.seed), phases: all }));
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
