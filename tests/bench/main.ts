#!/usr/bin/env bun
// SPDX-License-Identifier: Apache-2.0
//
// The benchmarks: runs those that are asked for in the runtime that it is started in, prints their
// tables, stores the raw samples, and writes the document from what is stored.
//
// Exit status: 0 done, 1 something failed, 2 the command line is wrong, 130 interrupted.

import { spawnSync } from "node:child_process";
import console from "node:console";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { allocatorBenchmark } from "./allocator_bench.ts";
import { callsBenchmark } from "./calls_bench.ts";
import { largeBenchmark } from "./data_plane/large_bench.ts";
import { smallBenchmark } from "./data_plane/small_bench.ts";
import { latencyBenchmark } from "./data_plane/latency_bench.ts";
import { loadBenchmark } from "./data_plane/load_bench.ts";
import { busyBenchmark } from "./data_plane/busy_bench.ts";
import { growthBenchmark } from "./data_plane/growth_bench.ts";
import { tieredBenchmark } from "./data_plane/tiered_bench.ts";
import { noCopyBenchmark } from "./data_plane/no_copy_bench.ts";
import { listBenchmark, quotaBenchmark } from "./directory_bench.ts";
import { redisBenchmark } from "./engines/redis_bench.ts";
import { s3Benchmark } from "./engines/s3_bench.ts";
import { hotTierBenchmark } from "./hot_tier_bench.ts";
import { policyBenchmark } from "./policy_bench.ts";
import { segmentBenchmark } from "./segment_bench.ts";
import type { Benchmark } from "./support/benchmark.ts";
import { type FurtherReading, writeDocument } from "./support/document.ts";
import { describeEnvironment, environment } from "./support/environment.ts";
import { syncFileSystem } from "./support/page_cache.ts";
import { type Progress, terminalProgress } from "./support/progress.ts";
import { fromJson, type RunResult, SCHEMA, type Section, toJson } from "./support/results.ts";
import { cellsOf, toText } from "./support/text_table.ts";

/** All of them, in the order of running. */
const BENCHMARKS: readonly Benchmark[] = [
  segmentBenchmark,
  allocatorBenchmark,
  policyBenchmark,
  hotTierBenchmark,
  callsBenchmark,
  latencyBenchmark,
  loadBenchmark,
  busyBenchmark,
  smallBenchmark,
  noCopyBenchmark,
  largeBenchmark,
  growthBenchmark,
  quotaBenchmark,
  listBenchmark,
  tieredBenchmark,
  redisBenchmark,
  s3Benchmark,
];

/** Documents with measurements of their own; those that are there are named. */
const FURTHER: readonly FurtherReading[] = [
  { file: "speed_limits.md", about: "what limits each aim that was missed, and what was tried" },
  { file: "io_engines.md", about: "threads against io_uring, as engines of the worker" },
  { file: "gpu.md", about: "copies between a GPU and pinned memory" },
];

const USAGE = `Usage: main.ts [OPTION]...

Runs the benchmarks in this runtime. Minutes; keep the machine quiet meanwhile.

  --only NAME,...   only these (--list shows them)
  --quick           smaller sizes and fewer rounds
  --objects N       of quota and list: directories of so many objects
  --dir DIR         where files are written and read (default /var/tmp; choose the disk you mean)
  --json FILE       store the raw samples; a folder gets <runtime>.json
  --write DOC       store the raw samples in the folder bench/ beside DOC, and write DOC and its
                    charts from all results there. With --only: the parts that are run take the
                    place of those that are stored, and say so
  --render          with --write: run nothing, write DOC from what is stored
  --list            names of the benchmarks
`;

/** Several times what the slowest benchmark takes on a busy machine. */
const SECTION_LIMIT_MS = 15 * 60_000;
const REMOVE_ATTEMPTS = 40;
const REMOVE_PAUSE_MS = 50;

class UsageError extends Error {}

interface Settings {
  readonly chosen: readonly Benchmark[];
  readonly quick: boolean;
  readonly objects: number | null;
  readonly dir: string;
  readonly json: string | null;
  readonly write: string | null;
  readonly render: boolean;
}

function readArguments(args: string[]): Settings | null {
  let values;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        only: { type: "string" },
        quick: { type: "boolean", default: false },
        objects: { type: "string" },
        dir: { type: "string" },
        json: { type: "string" },
        write: { type: "string" },
        render: { type: "boolean", default: false },
        list: { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    }));
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\n\n${USAGE}`);
  }
  if (values.help || values.list) {
    const list = BENCHMARKS.map(({ name, summary }) => `${name.padEnd(10)} ${summary}`).join("\n");
    console.log(values.help ? USAGE : list);
    return null;
  }
  if (values.render && values.write === undefined) {
    throw new UsageError("--render needs --write DOC");
  }
  const dir = values.dir ?? (existsSync("/var/tmp") ? "/var/tmp" : tmpdir());
  if (!existsSync(dir)) throw new UsageError(`--dir ${dir}: there is no such directory`);
  return {
    chosen: values.only === undefined ? BENCHMARKS : choose(values.only.split(",")),
    quick: values.quick,
    objects: values.objects === undefined ? null : readObjects(values.objects),
    dir,
    json: values.json ?? null,
    write: values.write ?? null,
    render: values.render,
  };
}

function readObjects(text: string): number {
  const count = Number(text);
  if (Number.isInteger(count) && count >= 1_000 && count <= 10_000_000) return count;
  throw new UsageError(`--objects ${text}: expected a number from 1000 to 10000000`);
}

function choose(names: readonly string[]): Benchmark[] {
  return names.map((name) => {
    const found = BENCHMARKS.find((benchmark) => benchmark.name === name);
    if (found) return found;
    const known = BENCHMARKS.map((benchmark) => benchmark.name).join(", ");
    throw new UsageError(
      `--only ${JSON.stringify(name)}: there is no such benchmark; take ${known}`,
    );
  });
}

function printSection({ title, tables, notes }: Section): void {
  console.log(`\n${title}`);
  for (const table of tables) {
    console.log(`\n  ${table.title}\n  ${table.conditions}\n`);
    console.log(toText(cellsOf(table)).replace(/^/gm, "    "));
  }
  for (const note of notes) console.log(`\n  note: ${note}`);
}

/** A worker that was interrupted in a write may go on for a moment and add a file meanwhile. */
function removeFolder(path: string): void {
  for (let attempt = 1;; attempt++) {
    try {
      rmSync(path, { recursive: true, force: true });
      return;
    } catch (error) {
      if (attempt === REMOVE_ATTEMPTS) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, REMOVE_PAUSE_MS);
    }
  }
}

/**
 * Asks ext4 to place each folder that is made in here far from the others (chattr +T). Otherwise new
 * files come to where thousands were removed a minute ago, which is slow: see data_plane/arena.ts.
 * Without an effect on other file systems.
 */
function spreadFolders(directory: string): void {
  spawnSync("chattr", ["+T", directory]);
}

/** The section of a benchmark that could not be carried out: a note that says why. */
function failedSection({ name, summary }: Benchmark, error: unknown): Section {
  const why = error instanceof Error ? error.message : String(error);
  console.error(`bench: ${name} FAILED: ${why}`);
  if (process.env.LMSHM_DEBUG && error instanceof Error) console.error(error.stack);
  return { title: name, intro: summary, tables: [], aims: [], notes: [`FAILED: ${why}`] };
}

class TimeoutError extends Error {}

function within<T>(work: Promise<T>, limitMs: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const fail = () => reject(new TimeoutError(`it did not end within ${limitMs / 1000} s`));
    timer = setTimeout(fail, limitMs);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/**
 * One after the other. What one of them fails with does not keep the others from their turn; but
 * after one that hangs nothing can be measured any more.
 * @returns what there is, and how many failed
 */
async function runSections(
  { chosen, quick, objects }: Settings,
  directory: string,
  progress: Progress,
): Promise<{ sections: Record<string, Section>; failed: number }> {
  const sections: Record<string, Section> = {};
  let failed = 0;
  for (const benchmark of chosen) {
    progress.show(benchmark.summary);
    const started = performance.now();
    let hangs = false;
    let section: Section;
    try {
      const running = benchmark.run({ quick, objects, directory, show: progress.show });
      section = await within(running, SECTION_LIMIT_MS);
    } catch (error) {
      progress.clear();
      section = failedSection(benchmark, error);
      hangs = error instanceof TimeoutError;
      failed++;
    }
    progress.clear();
    printSection(section);
    console.log(`\n  ${((performance.now() - started) / 1000).toFixed(1)} s`);
    sections[benchmark.name] = section;
    if (hangs) break;
  }
  return { sections, failed };
}

async function runAll(settings: Settings): Promise<{ result: RunResult; failed: number }> {
  const { quick, dir } = settings;
  const started = performance.now();
  const directory = await mkdtemp(join(dir, "lmshm-bench-"));
  spreadFolders(directory);
  const cleanUp = () => removeFolder(directory);
  // On Ctrl-C the segments go by their own exit hook.
  process.on("exit", cleanUp);
  for (const [signal, number] of [["SIGINT", 2], ["SIGTERM", 15], ["SIGHUP", 1]] as const) {
    process.once(signal, () => process.exit(128 + number));
  }
  const progress = terminalProgress();
  try {
    const found = await environment(directory);
    for (const [name, value] of describeEnvironment(found)) {
      console.log(`${name.padEnd(22)} ${value}`);
    }
    const { sections, failed } = await runSections(settings, directory, progress);
    const seconds = Math.round((performance.now() - started) / 1000);
    return { result: { schema: SCHEMA, environment: found, quick, seconds, sections }, failed };
  } finally {
    progress.clear();
    cleanUp();
    // The next run starts with a disk that has nothing left to do for this one.
    syncFileSystem(dir);
  }
}

/** What is stored of this runtime, with the sections of a run that was only of some. */
function merged(result: RunResult, path: string): RunResult {
  const file = join(path, `${result.environment.runtime}.json`);
  const stored = existsSync(file) ? fromJson(file, readFileSync(file, "utf8")) : null;
  if (stored === null) return result;
  const { date, commit, loadBefore } = result.environment;
  const note = `Measured by itself: ${date}, commit ${commit || "none"}, load before ` +
    loadBefore.toFixed(2);
  const own = Object.entries(result.sections).map(([name, section]) => [
    name,
    { ...section, notes: [...section.notes, note] },
  ]);
  return { ...stored, sections: { ...stored.sections, ...Object.fromEntries(own) } };
}

/** Stores a result and returns where. */
function store(result: RunResult, path: string): string {
  const isFolder = path.endsWith("/") || !/\.json$/.test(path);
  const file = isFolder ? join(path, `${result.environment.runtime}.json`) : path;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, toJson(result));
  return file;
}

function renderDocument(path: string): void {
  const folder = join(dirname(path), "bench");
  const files = existsSync(folder)
    ? readdirSync(folder).filter((name) => name.endsWith(".json")).sort()
    : [];
  if (files.length === 0) {
    throw new Error(`there are no results in ${folder}: run without --render first`);
  }
  const results: RunResult[] = [];
  for (const name of files) {
    const result = fromJson(name, readFileSync(join(folder, name), "utf8"));
    if (result !== null) results.push(result);
    else console.error(`${name} is left out: an older program wrote it; run its runtime again`);
  }
  if (results.length === 0) throw new Error(`no result in ${folder} is of this program's format`);
  const further = FURTHER.filter(({ file }) => existsSync(join(dirname(path), file)));
  const { markdown, charts } = writeDocument(results, relative(dirname(path), folder), further);
  writeFileSync(path, markdown);
  // Pictures of benchmarks that are no more.
  for (const name of readdirSync(folder)) {
    if (name.endsWith(".svg") && !charts.has(name)) rmSync(join(folder, name));
  }
  for (const [name, svg] of charts) writeFileSync(join(folder, name), svg);
  console.log(`\nwrote ${path} from ${files.join(", ")}`);
}

async function main(args: string[]): Promise<number> {
  const settings = readArguments(args);
  if (settings === null) return 0;
  const { json, write, render } = settings;
  let status = 0;
  if (!render) {
    const { result, failed } = await runAll(settings);
    if (failed > 0) status = 1;
    console.log(`\n${result.seconds} s`);
    if (json !== null) console.log(`raw samples in ${store(result, json)}`);
    if (write !== null) {
      const folder = join(dirname(write), "bench", "/");
      const whole = settings.chosen.length === BENCHMARKS.length;
      store(whole ? result : merged(result, folder), folder);
    }
  }
  if (write !== null) renderDocument(write);
  return status;
}

try {
  // What hangs, if anything does, must not keep the process.
  process.exit(await main(process.argv.slice(2)));
} catch (error) {
  const text = error instanceof Error ? error.message : String(error);
  console.error(`bench: ${text}`);
  if (process.env.LMSHM_DEBUG && error instanceof Error) console.error(error.stack);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
