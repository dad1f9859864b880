// SPDX-License-Identifier: Apache-2.0
//
// lmshm verify: sends real data the whole way (memory, worker, files, and back) and compares every
// byte. The same run proves a container-to-host set-up: give it the worker's address.
//
// Data larger than the pool goes in rounds. Each step's time is the sum over the rounds.

import { mkdir, mkdtemp, readdir, rm, rmdir, stat, unlink } from "node:fs/promises";
import { freemem, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { runtime, ShmFileConnector, ShmSegment, version } from "../../mod.ts";
import { fileChunks, generatedChunks } from "./chunk_source.ts";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, interruptible, sizeOption, UsageError } from "../command.ts";
import { VERIFY } from "../descriptions/verify.ts";
import { TEMPORARY } from "../doctor/facts.ts";
import { formatBytes, formatPinning, formatRate, formatTime } from "../format.ts";
import { freeDiskBytes, missingOf, mustFitDisk, mustFitMemory } from "./room.ts";
import { checkAddress, parseStore } from "../store/address.ts";
import { type SecretFile, secretFileOf } from "../store/login.ts";
import { printFitted } from "../prose.ts";
import { complain, print, progress, tableRow } from "../terminal.ts";
import { ALIGN_BYTES, rounds, type Step, Verification } from "./verification.ts";

/** LMCache's usual chunk: 2 x 32 layers x 256 tokens x 1024 values of bfloat16. */
const CHUNK_BYTES = 2 * 32 * 256 * 1024 * 2;
const TOTAL_BYTES = 2 * 2 ** 30;
const POOL_BYTES = 2 * 2 ** 30;
/** Through an engine, whose memory or disk is not ours to look at. */
const ENGINE_BYTES = 2 ** 28;
const WIDTHS = [34, 9, 9, 13];

interface Settings {
  input: string[];
  totalBytes: number;
  chunkBytes: number;
  storageDir: string | undefined;
  store: string | undefined;
  storeSecretFile: SecretFile;
  workerAddress: string | undefined;
  workerBinary: string | undefined;
  secretFile: string | undefined;
  shmName: string | undefined;
  poolBytes: number;
  pin: "auto" | "require" | "none";
  inFlight: number;
  json: boolean;
  /** The sizes were the user's, so they are not made smaller. */
  sizesGiven: boolean;
}

interface Report {
  ok: boolean;
  chunks: number;
  bytes: number;
  mismatches: string[];
  steps: Step[];
  notes: string[];
  [fact: string]: unknown;
}

function settings(args: readonly string[]): Settings {
  const { values } = readArguments(VERIFY, args);
  const size = (name: "size" | "chunk-size" | "pool-size", fallback: number) =>
    sizeOption(name, values[name]) ?? fallback;
  if (values["worker-address"] !== undefined) checkAddress(values["worker-address"]);
  if (values["worker-address"] && values["worker-binary"]) {
    throw new UsageError(
      "--worker-address connects to a worker and --worker-binary starts one: choose",
    );
  }
  const { store } = values;
  if (store !== undefined) {
    for (const name of ["storage-dir", "worker-address"] as const) {
      if (values[name] !== undefined) {
        throw new UsageError(`--store and --${name} exclude each other`);
      }
    }
    if (parseStore(store, "--store").url === undefined) {
      throw new UsageError(`--store ${store} is a directory: give it to --storage-dir`);
    }
  }
  if (values.input && values.size) {
    throw new UsageError("--size is for generated data; with --input the files decide");
  }
  return {
    input: values.input ?? [],
    totalBytes: size("size", store === undefined ? TOTAL_BYTES : ENGINE_BYTES),
    chunkBytes: size("chunk-size", CHUNK_BYTES),
    storageDir: values["storage-dir"],
    store,
    storeSecretFile: secretFileOf(values["store-secret-file"]),
    workerAddress: values["worker-address"],
    workerBinary: values["worker-binary"],
    secretFile: values["secret-file"],
    shmName: values["shm-name"],
    poolBytes: size("pool-size", POOL_BYTES),
    pin: (values.pin ?? "auto") as Settings["pin"],
    inFlight: integerOption("in-flight", values["in-flight"] ?? "4", 1, 64),
    json: values.json,
    sizesGiven: values.size !== undefined || values["pool-size"] !== undefined,
  };
}

/** What a worker that was killed has left in a directory of our own. */
async function removeTemporaries(directory: string): Promise<void> {
  const names = await readdir(directory).catch(() => []);
  for (const name of names.filter((one) => TEMPORARY.test(one))) {
    await unlink(join(directory, name)).catch(() => {});
  }
}

/** A directory to write to, and what must be removed of it afterwards. */
async function storageDirectory(given: string | undefined, made: (() => Promise<void>)[]) {
  if (given !== undefined) {
    const found = await stat(given).catch(() => null);
    if (found?.isDirectory() === false) {
      throw new UsageError(`--storage-dir ${given} is no directory; name one, or one to be made`);
    }
    const missing = await missingOf(given);
    // What somebody else has put into one of them meanwhile stays, and so do those above it.
    made.push(async () => {
      if (missing.length > 0) await removeTemporaries(given);
      for (const path of missing) await rmdir(path).catch(() => {});
    });
    await mkdir(given, { recursive: true, mode: 0o700 }).catch((error: Error) => {
      throw new Error(`--storage-dir ${given} cannot be made: ${error.message}`);
    });
    return given;
  }
  const base = await stat("/var/tmp").then(() => "/var/tmp", () => tmpdir());
  const directory = await mkdtemp(join(base, "lmshm-verify-"));
  made.push(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Makes the default sizes fit the machine; what the user asked for stays. */
async function fit(given: Settings, directory: string | null, notes: string[]): Promise<Settings> {
  if (given.sizesGiven || given.input.length > 0) return given;
  const shm = await freeDiskBytes("/dev/shm").catch(() => Infinity);
  const memory = Math.min(shm, freemem()) / 2;
  const disk = directory === null ? Infinity : await freeDiskBytes(directory) / 2;
  const most = Math.floor(Math.min(memory, disk) / given.chunkBytes) * given.chunkBytes;
  const totalBytes = Math.max(given.chunkBytes, Math.min(given.totalBytes, most));
  if (totalBytes < given.totalBytes) {
    notes.push(
      `${formatBytes(totalBytes)} instead of ${formatBytes(given.totalBytes)}: half of the free ` +
        `memory is ${formatBytes(memory)}` +
        (directory === null ? "" : `, half of the free disk ${formatBytes(disk)}`),
    );
  }
  return { ...given, totalBytes, poolBytes: Math.min(given.poolBytes, totalBytes) };
}

/** "redis, redis-7.0.15": what keeps the objects. */
async function engineOf(connector: ShmFileConnector): Promise<string> {
  const { engine, server } = await connector.info();
  return [engine, server].filter((fact) => fact !== undefined).join(", ");
}

function stepRow({ name, bytes, milliseconds }: Step): string {
  const size = bytes ? formatBytes(bytes) : "";
  return tableRow([name, size, formatTime(milliseconds), formatRate(bytes, milliseconds)], WIDTHS);
}

async function verifyWith(given: Settings, signal: AbortSignal): Promise<Report> {
  const say = (line: string) => given.json || printFitted(line);
  const notes: string[] = [];
  const cleanup: (() => Promise<void>)[] = [];
  const report: Report = { ok: false, chunks: 0, bytes: 0, mismatches: [], steps: [], notes };
  try {
    const directory = given.store === undefined
      ? await storageDirectory(given.storageDir, cleanup)
      : null;
    const { totalBytes, chunkBytes, ...wanted } = await fit(given, directory, notes);
    const chunks = wanted.input.length > 0
      ? await fileChunks(wanted.input, chunkBytes)
      : generatedChunks(totalBytes, chunkBytes);
    const bytes = chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
    const alignedChunk = Math.ceil(chunkBytes / ALIGN_BYTES) * ALIGN_BYTES;
    const sizeBytes = Math.max(
      alignedChunk,
      Math.min(wanted.poolBytes, chunks.length * alignedChunk),
    );
    if (directory !== null) await mustFitDisk(bytes, directory);
    mustFitMemory(sizeBytes);
    const runs = /^(?:tcp|unix):/i.test(wanted.store ?? "") || wanted.workerAddress !== undefined;
    const name = wanted.shmName ?? (runs ? `lmshm-verify-${process.pid}` : null);

    const started = performance.now();
    const allocating = progress(sizeBytes);
    const segment = await ShmSegment.create({
      sizeBytes,
      name,
      pin: wanted.pin,
      signal,
      onProgress: (populatedBytes) => allocating.update("allocate", populatedBytes),
    }).finally(() => allocating.end());
    const allocateMs = performance.now() - started;
    cleanup.unshift(() => segment.free());

    const connector = await ShmFileConnector.open({
      segment,
      ...(directory === null
        ? { store: wanted.store, storeSecretFile: wanted.storeSecretFile }
        : { storageDir: directory, workerAddress: wanted.workerAddress }),
      workerBinary: wanted.workerBinary,
      secretFile: wanted.secretFile,
    });
    cleanup.unshift(() => connector.close());

    const { facts } = segment;
    say(`lmshm ${version} on ${runtime.name} ${runtime.version}`);
    const where = segment.name ?? "anonymous";
    say(`segment  ${where}, ${formatBytes(sizeBytes)}, ${formatPinning(facts.pinnedBy)}`);
    if (facts.message) notes.push(facts.message);
    say(`worker   ${wanted.workerAddress ?? "started, over pipes"}`);
    say(`storage  ${directory ?? `${wanted.store} (${await engineOf(connector)})`}`);
    say(
      `data     ${chunks.length} chunks, ${formatBytes(bytes)}, ${
        wanted.input.length > 0
          ? `from ${wanted.input.length} files`
          : "generated bfloat16 KV chunks"
      }`,
    );
    for (const note of notes) say(`note     ${note}`);
    say("");
    say(tableRow(["step", "size", "time", "rate"], WIDTHS));
    const allocate: Step = {
      name: "allocate and pin the segment",
      milliseconds: allocateMs,
      bytes: sizeBytes,
    };
    const inRounds = rounds(chunks, sizeBytes);
    // A worker that runs already may have its directories elsewhere.
    const checksFiles = connector.transport === "pipe";
    const bar = progress(bytes * (checksFiles ? 6 : 5));
    const show = (step: Step) => {
      bar.end();
      say(stepRow(step));
    };
    const verification = new Verification({
      segment,
      connector,
      storageDir: checksFiles ? directory : null,
      inFlight: wanted.inFlight,
      signal,
      onBytes: (step, doneBytes) => bar.update(step.split(/[: ]/)[0]!, doneBytes),
      onStep: (step) => inRounds.length === 1 && show(step),
    });
    show(allocate);
    try {
      let first = 0;
      for (const round of inRounds) {
        await verification.round(round, first);
        first += round.length;
      }
    } finally {
      bar.end();
      report.steps.push(allocate, ...verification.steps);
      report.mismatches.push(...verification.mismatches);
    }
    if (inRounds.length > 1) verification.steps.forEach(show);
    Object.assign(report, {
      ok: report.mismatches.length === 0,
      chunks: chunks.length,
      bytes,
      version,
      runtime: runtime.name,
      library: segment.libraryPath,
      segment: { name: segment.name, sizeBytes, pinnedBy: facts.pinnedBy, message: facts.message },
      worker: wanted.workerAddress ?? "spawned",
      storageDir: directory,
      store: wanted.store ?? null,
    });
    say("");
    for (const mismatch of report.mismatches) say(`MISMATCH ${mismatch}`);
    say(
      report.ok
        ? `OK: all ${chunks.length} chunks (${formatBytes(bytes)}) came back byte for byte`
        : `FAILED: ${report.mismatches.length} mismatches`,
    );
    return report;
  } finally {
    for (const undo of cleanup) {
      await undo().catch((error: unknown) => complain(`lmshm: cleaning up: ${error}`));
    }
  }
}

export const verify: Command = {
  run(args) {
    const given = settings(args);
    return interruptible(given.json, async (signal) => {
      const report = await verifyWith(given, signal);
      if (given.json) print(JSON.stringify(report));
      return report.ok;
    });
  },
};
