// SPDX-License-Identifier: Apache-2.0
//
// `npm run soak`: the long forms of what `npm test` does for seconds, each for its share of the time:
//
// - the native tests that interrupt worker and owner at their system calls, at all of them where the
//   share allows for it, again and again;
// - every program tests/soak/*_soak.ts in both runtimes: it takes --minutes N and --seed N, and ends
//   with status 0, 77 (skipped: what it needs is not here) or another.
//
// The last line is the sum: "N passed, N failed, N skipped". Logs are in build/logs.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { pinnedTool } from "./common/dependencies.mjs";
import { buildPreset } from "./common/native.mjs";
import { countsLine, sum, zero } from "./common/results.mjs";
import { leakResult, segmentNames } from "./common/suites.mjs";
import { Failure, findFiles, root, run, runMain, say } from "./common/system.mjs";
import { findCMake, systemCompiler } from "./common/toolchain.mjs";
import { setUp } from "./setup.mjs";

/** @typedef {import("./common/results.mjs").Counts} Counts */

/**
 * @typedef {Counts & { job: string, runs: number, seconds: number, failures: string[] }} JobResult
 */

const USAGE = `Usage: npm run soak -- [--minutes N] [--seed N] [NAME...]

Runs the long tests; the last line is "N passed, N failed, N skipped". Logs are in build/logs.
  --minutes N  all of them together, about; default 30
  --seed N     of the first run; default by chance
  NAME         only jobs whose name contains NAME, e.g. interrupted, bun, tiered`;

const NATIVE = ["worker_interrupted_test", "segment_interrupted_test"];
/** Less is not enough for an interruption at every call. */
const ALL_MINUTES = 4;
/** Nothing takes that much longer than it was given. */
const GRACE_MS = 20 * 60_000;
const SKIPPED = 77;

/** @param {string} text what the native tests print @returns {Counts & { failures: string[] }} */
function nativeCounts(text) {
  const count = (/** @type {RegExp} */ pattern) => [...text.matchAll(pattern)];
  const failed = count(/^not ok (.*)$/gm);
  return {
    passed: count(/^ok /gm).length,
    failed: failed.length,
    skipped: count(/^skip /gm).length,
    failures: failed.map(([, name]) => `${name}`),
  };
}

/**
 * A native test, once or until the time is over.
 * @param {string} folder of the build
 * @param {string} name
 * @param {number} minutes
 * @param {number} seed
 */
async function runNative(folder, name, minutes, seed) {
  const result = { ...zero(), runs: 0, failures: /** @type {string[]} */ ([]) };
  const end = performance.now() + minutes * 60_000;
  for (let turn = 0; turn === 0 || performance.now() < end; turn++) {
    const log = join(root, "build", "logs", `soak-${name}.log`);
    const status = await run(join(folder, "out", name), [], {
      cwd: folder,
      env: {
        LMSHM_SEED: `${seed + turn}`,
        ...(minutes >= ALL_MINUTES ? { LMSHM_INTERRUPT: "all" } : {}),
      },
      log,
      quiet: true,
      timeoutMs: minutes * 60_000 + GRACE_MS,
    });
    const text = readFileSync(log, "utf8");
    const { failures, ...counts } = nativeCounts(text);
    if (status !== 0 && status !== SKIPPED && counts.failed === 0) {
      counts.failed++;
      failures.push(`it ended with status ${status}`);
    }
    Object.assign(result, sum([result, counts]));
    result.failures.push(...failures);
    for (const [, runs] of text.matchAll(/^# .*: (\d+) runs$/gm)) result.runs += Number(runs);
    if (counts.failed > 0) {
      console.error(`${text.slice(-4000)}\n${name} failed with LMSHM_SEED=${seed + turn}: ${log}`);
      break;
    }
    if (counts.passed === 0) break; // it cannot be run here
  }
  return result;
}

/**
 * @param {"bun" | "deno"} runtime
 * @param {string} path
 * @param {number} minutes
 * @param {number} seed
 */
async function runProgram(runtime, path, minutes, seed) {
  const name = path.replace(/.*\/|\.ts$/g, "");
  const args = runtime === "bun" ? ["run"] : ["run", "-A", "--no-check"];
  const status = await run(pinnedTool(runtime), [
    ...[...args, path],
    ...["--minutes", minutes.toFixed(2), "--seed", `${seed}`],
  ], {
    env: {
      PATH: `${join(root, "node_modules", ".bin")}:${process.env.PATH ?? ""}`,
      NO_COLOR: "1",
    },
    log: join(root, "build", "logs", `soak-${name}-${runtime}.log`),
    timeoutMs: minutes * 60_000 + GRACE_MS,
  });
  const counts = zero();
  counts[status === 0 ? "passed" : status === SKIPPED ? "skipped" : "failed"]++;
  const failures = counts.failed > 0 ? [`status ${status} with --seed ${seed}`] : [];
  return { ...counts, runs: 1, failures };
}

function options() {
  try {
    const { values, positionals } = parseArgs({
      args: process.argv.slice(2),
      allowPositionals: true,
      options: {
        minutes: { type: "string", default: "30" },
        seed: { type: "string", default: `${Math.trunc(Math.random() * 2 ** 31)}` },
        help: { type: "boolean", short: "h" },
      },
    });
    const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
    if (!(minutes > 0)) throw new Error(`--minutes takes a number, not "${values.minutes}"`);
    if (!Number.isSafeInteger(seed)) throw new Error(`--seed takes a number, not "${values.seed}"`);
    return { minutes, seed, names: positionals, help: values.help };
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

/** @param {JobResult[]} results */
function printTable(results) {
  const width = Math.max(...results.map(({ job }) => job.length));
  console.log(`\n${"job".padEnd(width)}  seconds     runs  passed  failed  skipped`);
  for (const { job, seconds, runs, passed, failed, skipped, failures } of results) {
    const cells = [[seconds.toFixed(0), 7], [runs, 7], [passed, 6], [failed, 6], [skipped, 7]];
    const text = cells.map(([value, size]) => `${value}`.padStart(Number(size))).join("  ");
    console.log(`${job.padEnd(width)}  ${text}`);
    for (const failure of failures) console.log(`  failed: ${failure}`);
  }
}

await runMain(async () => {
  const { minutes, seed, names, help } = options();
  if (help) return console.log(USAGE);
  await setUp();
  const tools = await findCMake();
  const system = systemCompiler();
  if (!tools || !system) throw new Failure("the native tests need cmake and a system compiler");
  const env = { CC: system.cc, CXX: system.cxx };
  const folder = await buildPreset(tools, "dev", { env });

  /** @typedef {(minutes: number) => Promise<Counts & { runs: number, failures: string[] }>} Work */
  const jobs = /** @type {[string, Work][]} */ ([
    ...NATIVE.map((name) => [name, (/** @type {number} */ m) => runNative(folder, name, m, seed)]),
    ...findFiles(["tests/soak"], /_soak\.ts$/).flatMap((path) =>
      /** @type {const} */ (["bun", "deno"]).map((runtime) => [
        `${path.replace(/.*\/|\.ts$/g, "")} ${runtime}`,
        (/** @type {number} */ m) => runProgram(runtime, path, m, seed),
      ])
    ),
  ]).filter(([name]) => names.length === 0 || names.some((part) => name.includes(part)));
  if (jobs.length === 0) throw new Failure(`no job matches ${names.join(" ")}\n\n${USAGE}`);

  const before = segmentNames();
  const results = /** @type {JobResult[]} */ ([]);
  for (const [job, work] of jobs) {
    const share = minutes / jobs.length;
    say(`${job}, ${share.toFixed(1)} min, seed ${seed}`);
    const start = performance.now();
    const result = await work(share);
    results.push({ job, seconds: (performance.now() - start) / 1000, ...result });
  }
  const { suite, note: _, failures, ...leaks } = leakResult(before);
  results.push({
    job: suite,
    seconds: 0,
    runs: 1,
    ...leaks,
    failures: failures.map(({ name }) => name),
  });
  printTable(results);
  const total = sum(results);
  console.log(countsLine(total));
  return total.failed > 0 ? 1 : 0;
});
