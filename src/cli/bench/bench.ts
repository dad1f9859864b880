// SPDX-License-Identifier: Apache-2.0
//
// lmshm bench: this machine in a minute. Reading the options, making sure that all fits, running the
// plans one after the other, printing.

import {
  access,
  constants,
  mkdir,
  mkdtemp,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from "node:fs/promises";
import { availableParallelism, cpus, release, tmpdir, totalmem } from "node:os";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { type PinnedBy, runtime, version } from "../../mod.ts";
import { isMistakenUrl, isStoreUrl, withoutSecret } from "../../config/store_url.ts";
import { ShmError } from "../../errors.ts";
import { readArguments } from "../arguments.ts";
import { type Command, interruptible, sizeOption, UsageError } from "../command.ts";
import { BENCH } from "../descriptions/bench.ts";
import { formatBytes, formatPinning } from "../format.ts";
import {
  outputHasFailed,
  print,
  printed,
  statusLine,
  tableRow,
  terminalColumns,
} from "../terminal.ts";
import { availableMemory, freeDiskBytes, missingOf } from "../verify/room.ts";
import { barChart, svgChart, withUnit } from "./chart.ts";
import { printFitted } from "../prose.ts";
import { Neighbours } from "./helper.ts";
import { playRole, ROLE } from "./helper_role.ts";
import { allocationPlan, alonePlans, busyPlans } from "./plans.ts";
import { type Measure, measureOf, percent, summaryOf } from "./result.ts";
import { NotHere, type Plan, sampled, type SamplerOptions } from "./sampler.ts";
import { CHUNKS, Scene, SMALL_BYTES, SMALL_OBJECTS } from "./scene.ts";

const CHUNK_BYTES = 32 * 2 ** 20;
/** More takes more than a minute. */
const MOST_CHUNK_BYTES = 256 * 2 ** 20;
const QUICK = 0.17;
const WIDTHS = [12, 6, 13, 13, 11];
const PLAIN_COLUMNS = 80;
const PAGE = 4096;

interface Settings {
  readonly directory: string | undefined;
  readonly chunkBytes: number;
  readonly quick: boolean;
  readonly svg: string | undefined;
  readonly json: boolean;
}

function settings(args: readonly string[]): Settings {
  const { values, operands: [directory, ...more] } = readArguments(BENCH, args);
  if (more.length > 0) throw new UsageError(`bench takes one DIR, and got "${more[0]}" too`);
  if (directory !== undefined && (isStoreUrl(directory) || isMistakenUrl(directory))) {
    throw new UsageError(
      `bench measures a directory of this machine, and ${withoutSecret(directory)} is none`,
    );
  }
  const chunkBytes = sizeOption("chunk-size", values["chunk-size"]) ?? CHUNK_BYTES;
  // As many small objects go through the same memory.
  const least = SMALL_OBJECTS * SMALL_BYTES / CHUNKS;
  if (chunkBytes % PAGE !== 0 || chunkBytes < least || chunkBytes > MOST_CHUNK_BYTES) {
    throw new UsageError(
      `--chunk-size takes whole pages of ${PAGE} bytes, from ${formatBytes(least)} to ` +
        `${formatBytes(MOST_CHUNK_BYTES)} (such as 4MiB), got "${values["chunk-size"]}"`,
    );
  }
  if (values.svg === "") throw new UsageError("--svg takes a file");
  return { directory, chunkBytes, quick: values.quick, svg: values.svg, json: values.json };
}

/** A new directory in the one that was named, and how to remove all that was made. */
async function place(given: string | undefined, stack: AsyncDisposableStack): Promise<string> {
  const base = given ?? await stat("/var/tmp").then(() => "/var/tmp", () => tmpdir());
  const found = await stat(base).catch(() => null);
  if (found?.isDirectory() === false) throw new UsageError(`${base} is no directory`);
  const missing = await missingOf(base);
  stack.defer(async () => {
    for (const path of missing) await rmdir(path).catch(() => {});
  });
  await mkdir(base, { recursive: true, mode: 0o700 });
  const made = await mkdtemp(join(resolve(base), "lmshm-bench-"));
  stack.defer(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** @throws {ShmError} before anything is made of what does not fit. */
async function mustFit(bytes: number, directory: string): Promise<void> {
  const smaller = "Make the objects smaller: --chunk-size 4MiB";
  const disk = await freeDiskBytes(directory);
  if (bytes > disk) {
    throw new ShmError(
      `the files take ${formatBytes(bytes)}, and ${dirname(directory)} has ${
        formatBytes(disk)
      } free`,
      {
        code: "ENOSPC",
        operation: "bench",
        hint: `${smaller}, or name another directory`,
        details: { bytes, freeBytes: disk, directory: dirname(directory) },
      },
    );
  }
  const memory = availableMemory();
  if (bytes <= memory) return;
  throw new ShmError(
    `the shared memory takes ${formatBytes(bytes)}, and ${formatBytes(memory)} are available`,
    {
      code: "ENOMEM",
      operation: "bench",
      hint: smaller,
      details: { bytes, availableBytes: memory },
    },
  );
}

/** Where a chart is to go is looked at before the minute, not after it. */
async function mustBeWritable(svg: string): Promise<void> {
  const found = await stat(svg).catch(() => null);
  if (found?.isDirectory()) throw new UsageError(`--svg ${svg} is a directory, and takes a file`);
  await access(dirname(resolve(svg)), constants.W_OK).catch((error: Error) => {
    throw new Error(`--svg ${svg} cannot be written: ${error.message}`);
  });
}

/** The last cell stands to the left, and is left out where it does not fit. */
function tableLine(cells: readonly string[], last = ""): string {
  const line = tableRow(cells, WIDTHS);
  const whole = `${line.padEnd(WIDTHS.reduce((sum, width) => sum + width + 2, -2))}  ${last}`;
  return last === "" || whole.length > (terminalColumns() ?? Infinity) ? line : whole;
}

/** Of a measure: a line for each limit. */
function rowsOf(measure: Measure): string[] {
  const { name, unit, skipped } = measure;
  if (skipped !== null) return [tableLine([name, "-"]), `  ${skipped}`];
  return measure.limits.map(({ name: limit, median, share }, index) =>
    tableLine([
      index === 0 ? name : "",
      percent(share.median),
      index === 0 ? withUnit(measure.median!, unit) : "",
      withUnit(median, unit),
      `${Math.round(share.min * 100)} - ${percent(share.max)}`,
    ], limit)
  );
}

interface Report {
  readonly fileSystem: string | null;
  readonly pinnedBy: PinnedBy;
  readonly measures: readonly Measure[];
  readonly notes: readonly string[];
}

/** Runs all plans. @param say prints a line of text */
async function measureAll(
  given: Settings,
  directory: string,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Report> {
  await using stack = new AsyncDisposableStack();
  const started = performance.now();
  const status = statusLine();
  const scale = given.quick ? QUICK : 1;
  const show = (text: string) => {
    const passed = Math.round((performance.now() - started) / 1000);
    status.update(`${passed} of about ${given.quick ? 15 : 60} s: ${text}`);
  };
  stack.defer(() => status.end());
  const options: SamplerOptions = { scale, beside: 0, signal, show };
  const measures: Measure[] = [];
  const notes: string[] = [];
  const run = async (plan: Plan, beside = 0) => {
    const measure = measureOf(await sampled(plan, { ...options, beside }));
    measures.push(measure);
    status.end();
    for (const line of rowsOf(measure)) say(line);
  };
  const wanted = () => given.json || given.svg !== undefined || !outputHasFailed();
  await run(allocationPlan(2 * CHUNKS * given.chunkBytes, signal));
  show("getting ready");
  const scene = stack.use(await Scene.open(directory, given.chunkBytes, signal));
  const { pinnedBy, message } = scene.segment.facts;
  if (message) notes.push(message);
  const info = await scene.info();
  const direct = info.direct !== undefined && info.direct !== "no";
  if (!direct) notes.push(`no I/O past the page cache: ${info.directReason ?? "it is refused"}`);
  for (const plan of alonePlans(scene, direct)) {
    // Whoever has read enough, or cannot be told, wants no more of it.
    await printed();
    if (!wanted()) return { fileSystem: info.fs ?? null, pinnedBy, measures, notes };
    await run(plan);
  }
  const count = availableParallelism();
  show(`${count} busy processes start`);
  try {
    await using _neighbours = await Neighbours.start(count, signal);
    status.end();
    say(`beside ${count} busy ${count === 1 ? "process" : "processes"}:`);
    for (const plan of busyPlans(scene)) await run(plan, count);
  } catch (error) {
    if (!(error instanceof NotHere)) throw error;
    notes.push(`nothing was measured beside busy processes: ${error.message}`);
  }
  return { fileSystem: info.fs ?? null, pinnedBy, measures, notes };
}

/** What is more than five digits of a measurement is noise. */
function rounded(value: number): number {
  return Number.isInteger(value) ? value : Number(value.toPrecision(5));
}

async function benchWith(given: Settings, signal: AbortSignal): Promise<boolean> {
  const say = (line: string) => given.json || printFitted(line);
  const started = performance.now();
  if (given.svg !== undefined) await mustBeWritable(given.svg);
  await using stack = new AsyncDisposableStack();
  const directory = await place(given.directory, stack);
  await mustFit(2 * CHUNKS * given.chunkBytes, directory);
  const machine = {
    cpus: availableParallelism(),
    cpu: cpus()[0]?.model.trim() ?? "",
    kernel: release(),
    memoryBytes: totalmem(),
  };
  const what =
    `${machine.cpus} CPUs (${machine.cpu}), ${formatBytes(machine.memoryBytes)}, Linux ` +
    machine.kernel;
  say(`lmshm ${version} on ${runtime.name} ${runtime.version}, ${what}`);
  say(`in ${directory}, objects of ${formatBytes(given.chunkBytes)}`);
  say("");
  say(tableLine(["", "share", "lmshm", "its limit", "rounds"], "the limit is"));
  const report = await measureAll(given, directory, say, signal);
  const seconds = Math.round((performance.now() - started) / 100) / 10;
  const { measures } = report;
  const title = `lmshm bench: ${what}`;
  if (given.svg !== undefined) {
    const about =
      `${report.fileSystem ?? "files"}, ${formatPinning(report.pinnedBy)}, objects of ` +
      `${formatBytes(given.chunkBytes)}, ${runtime.name} ${runtime.version}, ${
        new Date().toISOString()
      }`;
    await writeFile(`${given.svg}.part`, svgChart(title, about, measures));
    await rename(`${given.svg}.part`, given.svg);
  }
  if (given.json) {
    const facts = { version, runtime, machine, directory, chunkBytes: given.chunkBytes };
    const all = { ok: true, ...facts, quick: given.quick, seconds, ...report };
    print(JSON.stringify(all, (_, value) => typeof value === "number" ? rounded(value) : value));
    return true;
  }
  say("");
  for (const line of barChart(measures, terminalColumns() ?? PLAIN_COLUMNS)) say(line);
  say("");
  for (const line of summaryOf(measures)) say(line);
  for (const note of report.notes) say(`note: ${note}`);
  if (given.svg !== undefined) say(`the chart is in ${given.svg}`);
  return true;
}

export const bench: Command = {
  async run(args) {
    const role = process.env[ROLE];
    if (role !== undefined) return await playRole(role);
    const given = settings(args);
    return await interruptible(given.json, (signal) => benchWith(given, signal));
  },
};
