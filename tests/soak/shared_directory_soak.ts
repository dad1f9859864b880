// SPDX-License-Identifier: Apache-2.0
//
// Programs that share a directory and nothing else: Bun and Deno, each with a worker of its own or
// with one that runs, with and without a limit on the directory. Workers are killed all the time, and the programs themselves. Each program looks at all that it
// gets (fixtures/directory_user.ts); when they have gone, the files are looked at here.
// tests/shared_directory_soak_test.ts runs a short one. A long one, by hand:
//
//     bun run tests/soak/shared_directory_soak.ts --minutes 5 --seed 1

import { spawn } from "node:child_process";
import console from "node:console";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { ShmSegment } from "../../src/memory/segment.ts";
import { keyFile } from "../../src/keys/key_file.ts";
import { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import type { DirectoryUserOptions } from "../fixtures/directory_user.ts";
import { commandIn, type Runtime, RUNTIMES } from "../support/both_runtimes.ts";
import { keyNameOf, LANES, OWN_KEYS, SHARED_KEYS, stableKeys } from "../support/directory_keys.ts";
import { RawWorker } from "../support/raw_worker.ts";
import { Dice, makeValue, versionOf } from "../support/versioned_values.ts";

/**
 * Each life of a program is another user: what the worker of a dead one had in hand may end late. After
 * so many lives it has ended, and the first number is used again.
 */
const MOST_USERS = 64;
/** Programs at a time: one in Bun, one in Deno. */
const PROGRAMS = [0, 1];
const MOST_KEYS = SHARED_KEYS + MOST_USERS * LANES * OWN_KEYS;

export interface Sharing {
  readonly name: string;
  /**
   * Whether one worker listens that the odd users go to; the others start their own. Where there is a
   * limit, all go to it.
   */
  readonly listens: boolean;
  readonly maxBytes: number | null;
  /** Whether the programs are killed, too. */
  readonly kills: boolean;
}

export const SHARINGS: readonly Sharing[] = [
  { name: "two workers", listens: false, maxBytes: null, kills: false },
  { name: "one listens", listens: true, maxBytes: null, kills: false },
  { name: "a limit", listens: false, maxBytes: 2 << 20, kills: false },
  { name: "a limit, one listens", listens: true, maxBytes: 2 << 20, kills: false },
  { name: "programs killed", listens: false, maxBytes: null, kills: true },
];

export interface SharedDirectoryOptions {
  readonly seed: number;
  readonly sharing: Sharing;
  readonly milliseconds: number;
  readonly directory: string;
}

export type SharedDirectoryReport = Readonly<Record<string, number>>;

interface Ended {
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs one program to its end, or until `killAfterMs`. */
function run(
  runtime: Runtime,
  options: DirectoryUserOptions,
  killAfterMs: number | null,
): Promise<Ended> {
  const [command, line] = commandIn(runtime, "directory_user.ts", JSON.stringify(options));
  const child = spawn(command, line, {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: options.milliseconds + 120_000,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data) => {
    stdout += data;
    if (killAfterMs !== null && stdout.startsWith("ready")) {
      setTimeout(() => child.kill("SIGKILL"), killAfterMs);
      killAfterMs = null;
    }
  });
  child.stderr.on("data", (data) => stderr += data);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status, signal) => resolve({ status, signal, stdout, stderr }));
  });
}

/** One way of sharing. Throws at the first thing that is not as it must be. */
export async function sharedDirectorySoak(
  { seed, sharing, milliseconds, directory }: SharedDirectoryOptions,
): Promise<SharedDirectoryReport> {
  const path = mkdtempSync(join(directory, "lmshm-soak-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(path, { recursive: true, force: true }));
  const storageDir = join(path, "store");
  mkdirSync(storageDir, { mode: 0o700 });
  await putStable(storageDir);
  let worker: RawWorker | null = null;
  if (sharing.listens) {
    const limit = sharing.maxBytes === null ? [] : ["--max-bytes", String(sharing.maxBytes)];
    const args = ["--log-level", "error", ...limit];
    worker = stack.use(new RawWorker(storageDir, join(path, "w"), args));
    await worker.start();
  }
  const dice = new Dice(seed);
  const counts: Record<string, number> = {};
  let most = 0;
  const watch = setInterval(() => most = Math.max(most, diskBytesOf(storageDir)), 50);
  const end = performance.now() + milliseconds;

  const user = async (number: number): Promise<void> => {
    const runtime = RUNTIMES[number % RUNTIMES.length]!;
    for (let turn = 0; turn === 0 || (sharing.kills && performance.now() < end); turn++) {
      const ended = await run(runtime, {
        user: (number + turn * PROGRAMS.length) % MOST_USERS,
        seed: seed + turn * 1000,
        storageDir,
        workerAddress: worker !== null && (number % 2 === 1 || sharing.maxBytes !== null)
          ? worker.address("unix")
          : null,
        maxBytes: sharing.maxBytes,
        milliseconds,
        killsWorker: true,
      }, sharing.kills ? dice.between(0, 400) : null);
      const { status, signal, stdout, stderr } = ended;
      if (sharing.kills && signal === "SIGKILL") {
        counts["programs killed"] = (counts["programs killed"] ?? 0) + 1;
        continue;
      }
      if (status !== 0) {
        throw new Error(
          `seed ${seed}, ${sharing.name}, user ${number} in ${runtime}: ${
            signal ?? status
          }\n${stdout}\n${stderr}`,
        );
      }
      const did = JSON.parse(stdout.trim().split("\n").at(-1)!) as Record<string, number>;
      for (const [what, many] of Object.entries(did)) counts[what] = (counts[what] ?? 0) + many;
    }
  };
  // All have ended when the directory goes, also when one of them fails.
  const ended = await Promise.allSettled(PROGRAMS.map(user));
  clearInterval(watch);
  for (const one of ended) if (one.status === "rejected") throw one.reason;
  if (worker !== null && worker.fault !== null) throw new Error(worker.fault);
  await sleep(50);
  checkFiles(storageDir, sharing);
  if (sharing.maxBytes !== null && most > 2 * sharing.maxBytes) {
    throw new Error(`${most} bytes in a directory of ${sharing.maxBytes}`);
  }
  await checkAtRest(storageDir, sharing);
  return { ...counts, "most bytes": most };
}

async function putStable(storageDir: string): Promise<void> {
  await using segment = await ShmSegment.create({ sizeBytes: 1 << 16, pin: "none" });
  await using connector = await ShmFileConnector.open({ segment, storageDir });
  for (const key of stableKeys()) await connector.put(key, segment.range(0, 100));
}

/** Objects alone: what is being written is there too, for a moment. */
function diskBytesOf(directory: string): number {
  let blocks = 0;
  for (const name of readdirSync(directory)) {
    if (!name.endsWith(".data")) continue;
    blocks += statSync(join(directory, name), { throwIfNoEntry: false })?.blocks ?? 0;
  }
  return blocks * 512;
}

/** Every object is a whole value of its key. */
function checkFiles(directory: string, sharing: Sharing): void {
  const numbers = new Map<string, number>();
  for (let key = 0; key < MOST_KEYS; key++) numbers.set(keyFile(keyNameOf(key)).fileName, key);
  const stable = new Set(stableKeys().map((key) => keyFile(key).fileName));
  for (const name of readdirSync(directory)) {
    if (!name.endsWith(".data") || stable.has(name)) continue;
    const key = numbers.get(name);
    if (key === undefined) throw new Error(`${sharing.name}: a file ${name}`);
    const whose = versionOf(key, readFileSync(join(directory, name)));
    if (typeof whose === "string") throw new Error(`${sharing.name}: ${name}: ${whose}`);
    const { sidecarName, key: text } = keyFile(keyNameOf(key));
    if (sidecarName === null) continue;
    const sidecar = join(directory, sidecarName);
    if (!existsSync(sidecar) || readFileSync(sidecar, "utf8") !== text) {
      throw new Error(`${sharing.name}: ${name} without its key`);
    }
  }
}

/** A program that comes later lists what is there, and can use it. */
async function checkAtRest(storageDir: string, sharing: Sharing): Promise<void> {
  await using segment = await ShmSegment.create({ sizeBytes: 2 << 20, pin: "none" });
  await using connector = await ShmFileConnector.open({ segment, storageDir });
  const listed = (await connector.listAll()).toSorted();
  const files = readdirSync(storageDir).filter((name) => name.endsWith(".data"));
  if (listed.length !== files.length) {
    throw new Error(`${sharing.name}: ${listed.length} keys are listed, of ${files.length} files`);
  }
  for (const key of listed) {
    if (await connector.get(key, segment.range(0, 1 << 20)) === null) {
      throw new Error(`${sharing.name}: ${key.slice(0, 40)} is listed and a miss`);
    }
  }
  const value = makeValue(0, 1, 1000);
  segment.bytes(0, 1000).set(value);
  await connector.put(keyNameOf(0), segment.range(0, 1000));
  await connector.get(keyNameOf(0), segment.range(4096, 1000));
  if (!value.equals(segment.bytes(4096, 1000))) throw new Error("what was put is not got");
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "2" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      directory: { type: "string", default: tmpdir() },
    },
  });
  const seed = Number(values.seed);
  console.log(`seed ${seed}, ${RUNTIMES.join(" and ")}`);
  const milliseconds = Number(values.minutes) * 60_000 / SHARINGS.length;
  const reports: Record<string, SharedDirectoryReport> = {};
  for (const sharing of SHARINGS) {
    const report = await sharedDirectorySoak({
      seed,
      sharing,
      milliseconds,
      directory: values.directory,
    });
    reports[sharing.name] = report;
    console.log(`${sharing.name.padEnd(20)} ${JSON.stringify(report)}`);
  }
  console.log(JSON.stringify({ seed, reports }));
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
