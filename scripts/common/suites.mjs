// SPDX-License-Identifier: Apache-2.0
//
// The four test suites, each run by its own runner and counted from that runner's report: native
// (ctest), bun and deno (the same TypeScript files), interop (Python's unittest). A suite that
// ends badly without naming a failed test, or that runs no test at all, counts as one failure.
// Native tests run several at a time; of the others the suites run at the same time, where each can
// have a /dev/shm of its own.

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { installZig, pinnedTool } from "./dependencies.mjs";
import { canHaveOwnShm, OwnShm } from "./own_shm.mjs";
import { buildPreset, zigEnvironment } from "./native.mjs";
import { readJunit, unittestCounts, zero } from "./results.mjs";
import { Failure, findFiles, root, run, say, tail, which } from "./system.mjs";
import { hostPlatform, TARGETS } from "./targets.mjs";
import { findCMake, INSTALL_HINT, systemCompiler } from "./toolchain.mjs";

/** @typedef {import("./results.mjs").Counts} Counts */
/** @typedef {import("./recap.mjs").Failed} Failed */

/**
 * @typedef {object} Selection which tests to run; everything when both are absent
 * @property {string[]} files parts of file names
 * @property {string} [name] part of, or expression for, a test's name
 * @property {string} [folder] instead of tests/, without tests/lmcache/
 */

/**
 * @typedef {Counts & { suite: string, note: string, failures: Failed[] }} SuiteResult
 */

/**
 * @typedef {object} Place where a suite runs
 * @property {OwnShm} [shm] instead of the machine's
 * @property {string} [label] of its lines, when others write at the same time
 */

const MINUTES = 60_000;
const logs = join(root, "build", "logs");

/** @param {Selection} selection */
function selective({ files, name }) {
  return files.length > 0 || name !== undefined;
}

/**
 * Turns what a runner reported, and how it ended, into a result.
 * @param {string} suite
 * @param {number} status of the runner
 * @param {Counts & { failures?: Failed[] }} counts
 * @param {Selection} selection
 * @returns {SuiteResult}
 */
function conclude(suite, status, counts, selection) {
  const result = { suite, note: "", failures: /** @type {Failed[]} */ ([]), ...counts };
  const ran = result.passed + result.failed + result.skipped;
  const failure = (/** @type {string} */ why) => {
    result.failed++;
    const log = join(logs, `${suite}.log`);
    result.failures.push({ name: why, text: existsSync(log) ? tail(log, 20) : "" });
  };
  if (status === 124) failure("the suite ran out of time and was killed; see build/logs");
  else if (status !== 0 && result.failed === 0) {
    failure(`the runner ended with status ${status}; see build/logs`);
  } else if (ran === 0 && !selective(selection)) failure("no test was found");
  return result;
}

/** What needs LMCache itself; see test_lmcache.mjs. */
const LMCACHE_TESTS = "tests/lmcache/";

/**
 * Test files of a selection.
 * @param {string} folder unless the selection has one
 * @param {RegExp} pattern of their names
 * @param {Selection} selection
 */
function testFiles(folder, pattern, { files, folder: chosen }) {
  return findFiles([chosen ?? folder], pattern).filter((path) =>
    (chosen !== undefined || !path.startsWith(LMCACHE_TESTS)) &&
    (files.length === 0 || files.some((part) => path.includes(part)))
  );
}

/** @param {string} suite @param {string} note @returns {SuiteResult} */
function skippedSuite(suite, note) {
  return { ...zero(), skipped: 1, suite, note, failures: [] };
}

/**
 * Builds a preset with its tests and runs them.
 * @param {import("./toolchain.mjs").CMake} tools
 * @param {string} suite names the result and the logs
 * @param {string} preset
 * @param {Selection} selection
 * @param {Parameters<typeof buildPreset>[2]} [options]
 * @returns {Promise<SuiteResult>}
 */
export async function runCtest(tools, suite, preset, selection, options = {}) {
  const folder = await buildPreset(tools, preset, options);
  const junit = join(logs, `${suite}.xml`);
  rmSync(junit, { force: true });
  mkdirSync(logs, { recursive: true });
  const args = ["--test-dir", folder, "--output-on-failure", "--output-junit", junit];
  // Many of them wait most of their time.
  args.push("-j", String(Math.min(2 * availableParallelism(), 8)), "--no-tests=error");
  const patterns = [...selection.files, ...(selection.name ? [selection.name] : [])];
  if (patterns.length > 0) args.push("-R", patterns.join("|"), "--no-tests=ignore");
  const log = join(logs, `${suite}.log`);
  const status = await run(tools.ctest, args, { log, timeoutMs: 20 * MINUTES });
  return conclude(suite, status, readJunit(junit), selection);
}

/**
 * Of the system's compiler: for users its warnings are no errors. CI builds once, for both steps.
 * @param {boolean} [strict]
 */
export function devBuild(strict = false) {
  const ci = process.env.CI === "true";
  return {
    folder: strict && !ci ? "warnings" : "dev",
    defines: { LMSHM_WERROR: strict || ci ? "ON" : "OFF" },
  };
}

/** @param {Selection} selection @returns {Promise<SuiteResult>} */
async function runNative(selection) {
  const tools = await findCMake();
  if (!tools) {
    return skippedSuite(
      "native",
      `cmake is missing, and with it the native tests\n${INSTALL_HINT}`,
    );
  }
  const system = systemCompiler();
  if (system) {
    const env = { CC: system.cc, CXX: system.cxx };
    return await runCtest(tools, "native", "dev", selection, { ...devBuild(), env });
  }
  return await runCtest(tools, "native", "dev", selection, {
    folder: "dev-zig",
    defines: {
      CMAKE_TOOLCHAIN_FILE: join(root, "cmake", "zig.cmake"),
      LMSHM_ZIG: await installZig(),
      // The tests call more of the C library than what ships does: not the oldest version.
      LMSHM_TARGET: TARGETS[hostPlatform()].library.replace(/\.[\d.]+$/, ""),
    },
    env: zigEnvironment(),
  });
}

/**
 * Runs a command in its place.
 * @param {Place} place
 * @param {string} command
 * @param {string[]} args
 * @param {NonNullable<Parameters<typeof run>[2]>} options
 */
function runIn({ shm, label }, command, args, options) {
  const [program, line] = shm?.command(command, args) ?? [command, args];
  return run(program, line, { ...options, label });
}

/**
 * @param {"bun" | "deno"} suite
 * @param {Selection} selection
 * @param {Place} place
 * @returns {Promise<SuiteResult>}
 */
async function runTypeScript(suite, selection, place) {
  const { name } = selection;
  const chosen = testFiles("tests", /_test\.ts$/, selection);
  if (chosen.length === 0) return conclude(suite, 0, zero(), selection);
  const junit = join(logs, `${suite}.xml`);
  rmSync(junit, { force: true });
  mkdirSync(logs, { recursive: true });
  const paths = chosen.map((path) => `./${path}`);
  const args = suite === "bun"
    ? [
      ...["test", "--timeout", "120000", "--reporter=junit", `--reporter-outfile=${junit}`],
      ...(name ? ["-t", name] : []),
      ...paths,
    ]
    : [
      // Types are the business of `npm run check -- types`.
      ...["test", "-A", "--no-check", `--junit-path=${junit}`],
      ...(name ? ["--filter", name] : []),
      ...paths,
    ];
  // Both find the runtimes of this repository first, when a test starts one.
  const path = `${join(root, "node_modules", ".bin")}:${process.env.PATH ?? ""}`;
  const status = await runIn(place, pinnedTool(suite), args, {
    env: { PATH: path, NO_COLOR: "1" },
    log: join(logs, `${suite}.log`),
    timeoutMs: 30 * MINUTES,
  });
  const counts = readJunit(junit);
  // Bun ends with status 1 when no test's name matches.
  const none = counts.passed + counts.failed === 0 && name !== undefined;
  return conclude(suite, none ? 0 : status, counts, selection);
}

/** @param {Selection} selection @param {Place} place @returns {Promise<SuiteResult>} */
async function runInterop(selection, place) {
  const venv = selection.folder === undefined ? undefined : process.env.LMSHM_LMCACHE_VENV;
  const python = venv === undefined ? which("python3") : join(venv, "bin", "python");
  if (!python) return skippedSuite("interop", "python3 is missing, and with it the interop tests");
  const { name } = selection;
  const chosen = testFiles("tests/interop", /^test_.*\.py$|_test\.py$/, selection);
  if (chosen.length === 0) {
    // There may be none of LMCache.
    const none = selection.folder === undefined ? selection : { ...selection, name: "" };
    return conclude("interop", 0, zero(), none);
  }
  const log = join(logs, "interop.log");
  const modules = chosen.map((path) => path.slice(dirname(path).length + 1, -".py".length));
  const args = ["-m", "unittest", "-v", ...(name ? ["-k", name] : []), ...modules];
  const status = await runIn(place, python, args, {
    cwd: join(root, dirname(chosen[0])),
    env: { PYTHONDONTWRITEBYTECODE: "1" },
    log,
    timeoutMs: 15 * MINUTES,
  });
  const counts = unittestCounts(readFileSync(log, "utf8"));
  // Python ends with status 5 when no test's name matches.
  return conclude("interop", status === 5 ? 0 : status, counts, selection);
}

/** @typedef {(selection: Selection, place: Place) => Promise<SuiteResult>} Runner */

const RUNNERS = {
  native: runNative,
  bun: /** @type {Runner} */ ((...where) => runTypeScript("bun", ...where)),
  deno: /** @type {Runner} */ ((...where) => runTypeScript("deno", ...where)),
  interop: runInterop,
};

/** @typedef {keyof typeof RUNNERS} Suite */

/** In the order of running. */
export const SUITES = /** @type {Suite[]} */ (Object.keys(RUNNERS));

/**
 * Runs suites to their ends, and looks what they left in /dev/shm.
 * @param {readonly Suite[]} suites
 * @param {Selection} selection
 * @returns {Promise<SuiteResult[]>} in the order of SUITES, and that of the look
 */
export async function runSuites(suites, selection) {
  const before = segmentNames();
  const results = [];
  /** @type {string[]} */
  const left = [];
  if (suites.includes("native")) results.push(await runSuite("native", selection));
  const others = SUITES.filter((suite) => suite !== "native" && suites.includes(suite));
  if (others.length > 1 && canHaveOwnShm(others.length)) {
    const width = Math.max(...others.map((suite) => suite.length));
    const run = async (/** @type {Suite} */ suite) => {
      const shm = new OwnShm();
      const result = await runSuite(suite, selection, { shm, label: `${suite.padEnd(width)} | ` });
      left.push(...shm.names());
      return result;
    };
    results.push(...await Promise.all(others.map(run)));
  } else {
    for (const suite of others) results.push(await runSuite(suite, selection));
  }
  return [...results, leakResult(before, left)];
}

/** Those that have tests of LMCache; Python's are run by the Python that has it. */
export const LMCACHE_SUITES = /** @type {Suite[]} */ (["bun", "deno", "interop"]);

/**
 * Runs suites against LMCache itself, one after the other: each starts servers of several hundred MB.
 * @param {readonly Suite[]} suites
 * @param {Selection} selection
 * @returns {Promise<SuiteResult[]>}
 */
export async function runLmcacheSuites(suites, selection) {
  const before = segmentNames();
  const results = [];
  for (const suite of suites) results.push(await runSuite(suite, selection));
  return [
    ...results.filter(({ passed, failed, skipped }) => passed + failed + skipped > 0),
    leakResult(before),
  ];
}

/**
 * Runs a suite to its end; one that cannot even be built has failed, and the others go on.
 * @param {Suite} suite
 * @param {Selection} selection
 * @param {Place} [place]
 * @returns {Promise<SuiteResult>}
 */
async function runSuite(suite, selection, place = {}) {
  console.log(`\n=== ${suite}`);
  const begun = performance.now();
  try {
    const result = await RUNNERS[suite](selection, place);
    const seconds = `${((performance.now() - begun) / 1000).toFixed(0)} s`;
    return { ...result, note: result.note ? `${seconds}, ${result.note}` : seconds };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    console.error(`lmshm: ${error.message}`);
    const [name, ...lines] = error.message.split("\n");
    const failures = [{ name, text: lines.join("\n") }];
    return { ...zero(), failed: 1, suite, note: "", failures };
  }
}

/** The project's names in /dev/shm; those of LMCache's pools that tests made are among them. */
export function segmentNames() {
  const folder = "/dev/shm";
  return existsSync(folder) ? readdirSync(folder).filter(isOurs) : [];
}

/** @param {string} name of a file in /dev/shm */
function isOurs(name) {
  return /^(lmcache_l1_pool_)?lmshm/.test(name);
}

/**
 * Compares /dev/shm with what it held before: a name of the project's that is new is a leak,
 * unless it carries the process id of somebody who is alive and so still using it.
 * @param {string[]} before what segmentNames() gave
 * @param {string[]} [left] in a /dev/shm that is gone
 * @returns {SuiteResult}
 */
export function leakResult(before, left = []) {
  const now = segmentNames().filter((name) => !before.includes(name));
  const leaked = [...now, ...left.filter(isOurs)].filter((name) => {
    const numbers = name.match(/\d+/g) ?? [];
    return !numbers.some((number) => existsSync(`/proc/${number}`));
  });
  for (const name of leaked) say(`left behind: /dev/shm/${name}`);
  return {
    suite: "leaks",
    passed: leaked.length === 0 ? 1 : 0,
    failed: leaked.length === 0 ? 0 : 1,
    skipped: 0,
    note: "",
    failures: leaked.map((name) => ({ name: `left behind in /dev/shm: ${name}`, text: "" })),
  };
}
