// SPDX-License-Identifier: Apache-2.0
//
// A program is killed while it creates a segment, opens a connector, puts, gets, closes or frees
// (fixtures/owner_life.ts), sometimes with its worker just before. After each kill its name can be
// had again, nothing of it is left in /dev/shm, the directory has whole objects and lists nothing
// else, and the next program gets on at once.
// tests/killed_owner_soak_test.ts runs a short one. A long one, by hand:
//
//     bun run tests/soak/killed_owner_soak.ts --minutes 5 --seed 1

import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ShmSegment } from "../../src/memory/segment.ts";
import { keyFile } from "../../src/keys/key_file.ts";
import { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import { keyNameOf } from "../support/directory_keys.ts";
import { uniqueName } from "../support/leaks.ts";
import { fixtureCommand } from "../support/process.ts";
import { RawWorker } from "../support/raw_worker.ts";
import { Dice, makeValue, versionOf } from "../support/versioned_values.ts";

const MIB = 1 << 20;
const KEYS = 8;
/** What the kernel may take to end a process with all its memory. */
const PATIENCE_MS = 30_000;
/** What the program does when it is killed. */
export const STEPS = ["create", "open", "put", "get", "close", "free"] as const;
type Step = typeof STEPS[number];

export interface KilledOwnerOptions {
  readonly seed: number;
  /** Ends after so many kills, or minutes. */
  readonly kills?: number | undefined;
  readonly minutes?: number | undefined;
  readonly directory: string;
  readonly onKill?: ((report: KilledOwnerReport) => void) | undefined;
}

export interface KilledOwnerReport {
  readonly seed: number;
  readonly kills: Readonly<Record<Step, number>>;
  /** Of these, so often the worker first. */
  readonly workersKilled: number;
  /** What the name was after the kill. */
  readonly states: Readonly<Record<string, number>>;
  /** From the end of the program until the next one had its name, at most. */
  readonly longestMs: number;
}

/** Starts the program, and kills it in that step. Resolves when it has gone. */
async function killIn(
  step: Step,
  dice: Dice,
  args: readonly string[],
): Promise<{ pid: number; workerKilled: boolean }> {
  const [command, line] = fixtureCommand("owner_life.ts", ...args);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  const closed = once(child, "close");
  const life = dice.below(2);
  const killsWorker = dice.chance(0.3);
  let seen = 0;
  let worker = 0;
  let workerKilled = false;
  const lines = createInterface({ input: child.stdout! });
  lines.on("line", (said) => {
    if (said.startsWith("worker ")) worker = Number(said.slice("worker ".length));
    if (said !== step || seen++ !== life) return;
    setTimeout(() => {
      if (killsWorker && worker !== 0 && step !== "create" && step !== "open") {
        try {
          process.kill(worker, "SIGKILL");
          workerKilled = true;
        } catch {
          // It has been ended.
        }
      }
      child.kill("SIGKILL");
    }, dice.chance(0.3) ? 0 : dice.between(0, 12));
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  const [status, signal] = await exited;
  clearTimeout(timer);
  await closed;
  if (signal !== "SIGKILL") throw new Error(`the program ended by itself: ${signal ?? status}`);
  if (seen <= life) throw new Error(`the program did not come to ${step} within ${PATIENCE_MS} ms`);
  return { pid: child.pid!, workerKilled };
}

/** Every object is a whole value of its key; what is being written has another name. */
function checkFiles(directory: string): void {
  const numbers = new Map<string, number>();
  for (let key = 0; key < KEYS; key++) numbers.set(keyFile(keyNameOf(key)).fileName, key);
  for (const name of readdirSync(directory)) {
    if (!name.endsWith(".data")) continue;
    const key = numbers.get(name);
    if (key === undefined) throw new Error(`a file ${name}`);
    let bytes: Buffer;
    try {
      bytes = readFileSync(join(directory, name));
    } catch {
      continue; // the worker has not read the end of its input yet
    }
    const whose = versionOf(key, bytes);
    if (typeof whose === "string") throw new Error(`${name}: ${whose}`);
  }
}

/** What the next program does: it takes the name, lists, gets all, and puts. */
async function nextProgram(
  name: string,
  storageDir: string,
  workerAddress: string | undefined,
): Promise<void> {
  await using segment = await ShmSegment.create({ name, sizeBytes: 2 * MIB, pin: "none" });
  await using connector = await ShmFileConnector.open({ segment, storageDir, workerAddress });
  const known = new Map(Array.from({ length: KEYS }, (_, key) => [keyNameOf(key), key]));
  for (const text of await connector.listAll()) {
    const key = known.get(text);
    if (key === undefined) throw new Error(`a listing has ${text}`);
    const found = await connector.get(text, segment.range(0, MIB));
    if (found === null) continue; // removed by what the dead program had begun
    const whose = versionOf(key, Buffer.from(segment.bytes(0, found.byteLength)));
    if (typeof whose === "string") throw new Error(`${text}: ${whose}`);
  }
  const value = makeValue(1, 1, 3000);
  segment.bytes(MIB, value.length).set(value);
  await connector.put(keyNameOf(1), segment.range(MIB, value.length));
}

/** A run. Throws at the first thing that is not as it must be. */
export async function killedOwnerSoak(options: KilledOwnerOptions): Promise<KilledOwnerReport> {
  const { seed } = options;
  const directory = mkdtempSync(join(options.directory, "lmshm-soak-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const storageDir = join(directory, "store");
  mkdirSync(storageDir, { mode: 0o700 });
  const worker = stack.use(
    new RawWorker(storageDir, join(directory, "w"), ["--log-level", "error"]),
  );
  await worker.start();
  const dice = new Dice(seed);
  const kills = Object.fromEntries(STEPS.map((step) => [step, 0])) as Record<Step, number>;
  const states: Record<string, number> = {};
  let workersKilled = 0;
  let longestMs = 0;
  const report = () => ({ seed, kills, workersKilled, states, longestMs });
  const began = performance.now();
  const isOver = (many: number) =>
    options.kills !== undefined
      ? many >= options.kills
      : performance.now() - began >= options.minutes! * 60_000;

  for (let many = 0; !isOver(many); many++) {
    const step = STEPS[many % STEPS.length]!;
    const name = uniqueName("owner");
    const workerAddress = dice.chance(0.5) ? worker.address("unix") : undefined;
    const where = `seed ${seed}, kill ${many} in ${step}`;
    try {
      const args = [name, storageDir, workerAddress ?? "", String(many + 1)];
      const killed = await killIn(step, dice, args);
      if (killed.workerKilled) workersKilled++;
      kills[step]++;
      const diedAt = performance.now();
      // A worker of its own ends a moment later.
      let state = ShmSegment.nameState(name);
      while (state === "live" && performance.now() < diedAt + PATIENCE_MS) {
        await sleep(1);
        state = ShmSegment.nameState(name);
      }
      if (state !== "free" && state !== "dead") throw new Error(`the name is ${state}`);
      states[state] = (states[state] ?? 0) + 1;
      longestMs = Math.max(longestMs, performance.now() - diedAt);
      checkFiles(storageDir);
      await nextProgram(name, storageDir, workerAddress);
      checkShm(name, killed.pid);
    } catch (error) {
      throw new Error(`${where}: ${error}`, { cause: error });
    }
    options.onKill?.(report());
  }
  if (worker.fault !== null) throw new Error(worker.fault);
  checkFiles(storageDir);
  return report();
}

/** Nothing is left of the dead program, nor of the next one. */
function checkShm(name: string, pid: number): void {
  ShmSegment.reclaimDead();
  const left = readdirSync("/dev/shm").filter((one) =>
    one.includes(name) || (one.includes("lmshm") && one.split(/[^0-9]+/).includes(String(pid)))
  );
  if (left.length > 0) throw new Error(`left in /dev/shm: ${left}`);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "2" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      directory: { type: "string", default: tmpdir() },
    },
  });
  console.log(`seed ${values.seed}`);
  let shown = performance.now();
  const report = await killedOwnerSoak({
    seed: Number(values.seed),
    minutes: Number(values.minutes),
    directory: values.directory,
    onKill: (report) => {
      if (performance.now() < shown + 10_000) return;
      shown = performance.now();
      console.log(JSON.stringify(report));
    },
  });
  console.log(JSON.stringify(report));
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
