// SPDX-License-Identifier: Apache-2.0
//
// How a ShmFileConnector is configured. Checks all of it and names what is wrong; opens nothing.

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { checkChoice, checkInteger, describe } from "../arguments.ts";
import { environmentVariable } from "../permission.ts";
import { parseStoreUrl, withoutSecret } from "../config/store_url.ts";
import { ShmError } from "../errors.ts";
import { type ShmRange, ShmSegment } from "../memory/segment.ts";
import { locateWorker } from "../native/locate.ts";
import { formatWorkerAddress, parseWorkerAddress, type WorkerAddress } from "../worker/address.ts";
import type { WorkerLimits } from "../worker/limits.ts";
import { checkSecret } from "../worker/login.ts";
import type { Durability, IoMode } from "../worker/object_client.ts";
import { MAX_PAD_BYTES } from "../worker/limits.ts";
import { fileError } from "../file_error.ts";
import { checkKnown } from "../nearest.ts";
import { checkTelemetry, type Telemetry } from "../telemetry.ts";
import { isFileMode } from "../config/file_mode.ts";
import { MAX_TIMER_MS, type OpeningLimits } from "../wait.ts";

/** What a ShmFileConnector is made of. */
export interface ShmFileConnectorOptions extends OpeningLimits {
  /** The memory that objects are moved from and to. It must outlive the connector's calls. */
  segment: ShmSegment;
  /**
   * One file for each key is kept here. Made with mode 0700 where it is missing. Of a worker that is
   * started here it is the --root, and relative to the current directory. Of one that runs already
   * it is a directory in its --root, as that worker sees it: relative means below the root; default:
   * the root.
   */
  storageDir?: string | undefined;
  /**
   * In place of storageDir and workerAddress: where the store is, as connect() takes it, such as
   * "redis://host:6379" or "s3://bucket/prefix?endpoint=http://host:9000". An engine's password is
   * taken out of it and handed to the worker in its environment.
   */
  store?: string | undefined;
  /**
   * What an engine is logged in to with, instead of a password in `store` or LMSHM_STORE_SECRET
   * (Redis), AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (S3): a file with mode 0600 that the worker
   * reads (--store-secret-file). Null: no login, whatever these variables say.
   */
  storeSecretFile?: string | null | undefined;
  /**
   * The worker to start; default: lmshm-worker of this package, or LMSHM_WORKER. A relative path, of
   * this option or in workerArgs, means what it means when the connector is opened.
   */
  workerBinary?: string | undefined;
  /** Further arguments for the worker that is started, e.g. ["--log-level", "info"]. */
  workerArgs?: readonly string[] | undefined;
  /** A running worker: "host:port", "[::1]:port", "unix:/path", "/path". Starts none then. */
  workerAddress?: string | undefined;
  /** For a TCP worker; default: secretFile, else the variable LMSHM_SECRET. */
  secret?: string | undefined;
  /** A file that holds the secret, with or without a line feed at its end. */
  secretFile?: string | undefined;
  /**
   * For a worker that is started here: what the objects may take of the disk together; default: no
   * limit. Those that were used longest ago are removed to make room; a put that cannot fit is
   * ENOSPC. A running worker was given its limit when it was started (--max-bytes).
   */
  maxBytes?: number | undefined;
  /**
   * Default: as the worker was started ("auto"). With LMCache's worker, which knows version 1 of the
   * protocol alone, open() throws ENOTSUP if this option or one of the next two asks for more than the
   * default.
   */
  ioMode?: IoMode | undefined;
  /** Default: as the worker was started ("none"). */
  durability?: Durability | undefined;
  /**
   * The worker stores a checksum with each object, and verifies it on get(): what does not match is
   * a miss. Default true, where the worker can.
   */
  checksum?: boolean | undefined;
  /**
   * LMCache's save_chunk_meta: each file begins with the header that LMCache's fs:// connector writes
   * and reads (length, format, dtype and shape). Default false. Files that have one are known by it,
   * and read without it, whatever is said here.
   */
  saveChunkMeta?: boolean | undefined;
  /**
   * Each file's length is made a multiple of it, a power of two up to 1 MiB: LMCache's fs_native with
   * use_odirect wants 4096. Files of others that were filled up so are cut to the length of the range
   * that they are loaded into; one that has neither that length nor the next multiple of it is a miss.
   * Default 1.
   */
  padBytes?: number | undefined;
  /**
   * For a worker that is started here: the mode of the files that it makes, such as 0o644; default
   * 0o600. Whoever may read them may enter the directories that it makes. A running worker was given
   * its own (--file-mode).
   */
  fileMode?: number | undefined;
  /** Likewise: the group of files and directories, by name or number (--group). */
  fileGroup?: string | undefined;
  /**
   * Memory for get() without a range, which returns it, or a part that is disposed of like it; null:
   * none is free. Called with the object's length.
   */
  allocate?: ((byteLength: number) => ShmRange | null) | undefined;
  /** Requests that the worker has not answered; default 64. */
  maxInFlight?: number | undefined;
  /** Bytes that those move; default 256 MiB. A larger object goes alone. */
  maxInFlightBytes?: number | undefined;
  /** Until the worker accepts a connection; default 10 s. */
  connectTimeoutMs?: number | undefined;
  /** Until it answers what moves no data, and until the file system answers; default 30 s. */
  controlTimeoutMs?: number | undefined;
  /** Until it has moved an object, plus one second for each megabyte; default 60 s. */
  ioTimeoutMs?: number | undefined;
  /** Until close() gives up waiting for calls in flight; default 30 s. */
  closeTimeoutMs?: number | undefined;
  /**
   * How often a lost worker is started again within restartWindowMs; default 5. With
   * workerAddress: how many attempts to connect one call makes before it fails with EWORKER. Once the
   * worker is known to be away each call makes one attempt, so that it is used again when it is back.
   * 0: a lost worker stays lost.
   */
  maxRestarts?: number | undefined;
  /** Default 60 s. */
  restartWindowMs?: number | undefined;
  /**
   * Before the second attempt; it doubles each time. Default 200 ms; at most 10 s, and 1 s between
   * attempts to connect, unless it is said to be longer.
   */
  restartPauseMs?: number | undefined;
  /** Each line of the log of a worker that is started here. */
  onLog?: ((line: string) => void) | undefined;
  /** A worker was lost; calls start or find another within the limits. */
  onWorkerLost?: ((error: Error) => void) | undefined;
  /** Spans and counters of all calls, for OpenTelemetry: docs/telemetry.md. Default: none. */
  telemetry?: Telemetry | undefined;
}

const OPTION_NAMES = [
  "segment",
  "storageDir",
  "store",
  "storeSecretFile",
  "workerBinary",
  "workerArgs",
  "workerAddress",
  "secret",
  "secretFile",
  "maxBytes",
  "ioMode",
  "durability",
  "checksum",
  "saveChunkMeta",
  "padBytes",
  "fileMode",
  "fileGroup",
  "allocate",
  "maxInFlight",
  "maxInFlightBytes",
  "connectTimeoutMs",
  "controlTimeoutMs",
  "ioTimeoutMs",
  "closeTimeoutMs",
  "maxRestarts",
  "restartWindowMs",
  "restartPauseMs",
  "onLog",
  "onWorkerLost",
  "telemetry",
  "signal",
  "timeoutMs",
] as const satisfies readonly (keyof ShmFileConnectorOptions)[];

/** What the options mean. */
export interface ShmFileSettings {
  readonly segment: ShmSegment;
  /** Absolute, or below the root of the worker at `address`; "": that root, or there is none. */
  readonly storageDir: string;
  /** Null: the store is a directory, or a running worker's. */
  readonly engine: EngineSettings | null;
  /** Absolute; null: none is started. */
  readonly workerBinary: string | null;
  readonly workerArgs: readonly string[];
  /** What relative paths in workerArgs mean; undefined: there are none, or it cannot be told. */
  readonly workerCwd: string | undefined;
  /** Null: a worker is started. */
  readonly address: WorkerAddress | null;
  readonly secret: string | null;
  readonly maxBytes: number | undefined;
  /** Undefined, like the next two: it was not said. */
  readonly ioMode: IoMode | undefined;
  readonly durability: Durability | undefined;
  readonly checksum: boolean | undefined;
  readonly saveChunkMeta: boolean;
  readonly padBytes: number | undefined;
  readonly fileMode: number | undefined;
  readonly fileGroup: string | undefined;
  readonly allocate: ((byteLength: number) => ShmRange | null) | undefined;
  readonly connectTimeoutMs: number;
  readonly limits: WorkerLimits;
  readonly onLog: ((line: string) => void) | undefined;
  readonly onWorkerLost: ((error: Error) => void) | undefined;
  readonly telemetry: Telemetry | undefined;
}

/** An engine, for which a worker is started. */
export interface EngineSettings {
  /** Without a password. */
  readonly url: string;
  /** For the worker's environment. */
  readonly secrets: Readonly<Record<string, string>>;
  /** Absolute; null: none is given. */
  readonly secretFile: string | null;
}

/** What this process has in its environment is not the worker's then. */
const NO_LOGIN = {
  secrets: {
    LMSHM_STORE_SECRET: "",
    AWS_ACCESS_KEY_ID: "",
    AWS_SECRET_ACCESS_KEY: "",
    AWS_SESSION_TOKEN: "",
  },
  secretFile: null,
} as const;

/** The smallest object takes as much of the disk. */
const MIN_QUOTA_BYTES = 4096;

function checkType<T>(name: string, value: T, type: "string" | "boolean" | "function"): T {
  if (value === undefined || typeof value === type) return value;
  throw new TypeError(`${name} must be a ${type}, got ${describe(value)}`);
}

function checkPath(name: string, value: unknown): string {
  if (typeof value !== "string") {
    throw new TypeError(`${name} must be a path, got ${describe(value)}`);
  }
  const fault = value === ""
    ? "is empty"
    : /\p{Cc}/u.test(value)
    ? "contains a control character"
    : !value.isWellFormed()
    ? "contains half of a surrogate pair"
    : "";
  if (fault) throw new RangeError(`${name} ${JSON.stringify(value)} ${fault}`);
  return value;
}

function timeout(name: string, value: number | undefined, fallback: number): number {
  return value === undefined ? fallback : checkInteger(name, value, 1, MAX_TIMER_MS);
}

/** @throws {ShmError} EBADF if the segment was freed. */
export function mustBeOpen(segment: ShmSegment, operation: string): void {
  if (!segment.closed) return;
  throw new ShmError(`segment ${segment.name ?? "(anonymous)"} was freed`, {
    code: "EBADF",
    operation,
    hint: "Open the connector before the segment is freed, and close it first",
    details: { segment: segment.name },
  });
}

/** @throws {TypeError | RangeError | ShmError} naming the option, its value and what is accepted. */
export function checkOptions(options: ShmFileConnectorOptions): ShmFileSettings {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`ShmFileConnector takes an options object, got ${describe(options)}`);
  }
  checkKnown("ShmFileConnector", "option", Object.keys(options), OPTION_NAMES);
  const { segment, workerArgs = [] } = options;
  if (!(segment instanceof ShmSegment)) {
    throw new TypeError(`segment must be a ShmSegment, got ${describe(segment)}`);
  }
  mustBeOpen(segment, "open connector");
  if (!Array.isArray(workerArgs) || workerArgs.some((arg) => typeof arg !== "string")) {
    throw new TypeError(`workerArgs must be an array of strings, got ${describe(workerArgs)}`);
  }
  checkType("checksum", options.checksum, "boolean");
  checkType("saveChunkMeta", options.saveChunkMeta, "boolean");
  for (const name of ["allocate", "onLog", "onWorkerLost"] as const) {
    checkType(name, options[name], "function");
  }
  checkTelemetry(options.telemetry);
  const place = placeOf(options);
  const { workerAddress, engine } = place;
  const address = workerAddress === undefined ? null : parseWorkerAddress(workerAddress);
  if (engine !== null) checkForEngine(options, engine.url);
  if (address !== null) {
    for (const name of ["workerBinary", "workerArgs", "onLog"] as const) {
      if (options[name] === undefined) continue;
      throw new TypeError(
        `${name} is for a worker that is started here, and workerAddress is given`,
      );
    }
    if (segment.name === null) {
      throw new TypeError(
        "an anonymous segment can be attached only by a worker that is started here, and " +
          `workerAddress is ${JSON.stringify(workerAddress)}; create the segment with a name`,
      );
    }
  }
  return {
    segment,
    storageDir: engine === null ? checkDirectory(place.storageDir, address) : "",
    engine,
    workerArgs,
    workerCwd: workerArgs.length === 0 ? undefined : currentDirectory(),
    address,
    secret: findSecret(options, address),
    maxBytes: checkMaxBytes(options.maxBytes, address),
    ioMode: choiceOf("ioMode", options.ioMode, ["auto", "direct", "cached"]),
    durability: choiceOf("durability", options.durability, ["none", "data", "full"]),
    checksum: options.checksum,
    saveChunkMeta: options.saveChunkMeta ?? false,
    padBytes: checkPad(options.padBytes),
    ...checkAccess(options, address),
    allocate: options.allocate,
    connectTimeoutMs: timeout("connectTimeoutMs", options.connectTimeoutMs, 10_000),
    limits: checkLimits(options, address !== null),
    onLog: options.onLog,
    onWorkerLost: options.onWorkerLost,
    telemetry: options.telemetry,
    // Last: what is wrong with the other options is told even where no worker is built.
    workerBinary: address === null ? findWorker(options.workerBinary) : null,
  };
}

interface Place {
  readonly storageDir: string | undefined;
  readonly workerAddress: string | undefined;
  readonly engine: EngineSettings | null;
}

/** Where the objects are: two options say it, or one URL. */
function placeOf(options: ShmFileConnectorOptions): Place {
  const { storageDir, workerAddress, store, storeSecretFile } = options;
  const refuseSecret = () => {
    if (storeSecretFile === undefined) return;
    throw new TypeError("storeSecretFile is for an engine that is named in store");
  };
  if (store === undefined) {
    refuseSecret();
    return { storageDir, workerAddress, engine: null };
  }
  if (typeof store !== "string") {
    throw new TypeError(`store must be a URL, got ${describe(store)}`);
  }
  for (const name of ["storageDir", "workerAddress"] as const) {
    if (options[name] !== undefined) throw new TypeError(`store and ${name} exclude each other`);
  }
  const parts = parseStoreUrl(store);
  if (typeof parts === "string") {
    throw new RangeError(`the store's URL ${JSON.stringify(withoutSecret(store))} ${parts}`);
  }
  if (parts.kind !== "engine") refuseSecret();
  switch (parts.kind) {
    case "directory":
      return { storageDir: parts.directory, workerAddress: undefined, engine: null };
    case "worker":
      return { storageDir: parts.directory, workerAddress: parts.address, engine: null };
    case "engine": {
      const { url, secrets } = parts;
      if (storeSecretFile !== undefined && Object.keys(secrets).length > 0) {
        throw new TypeError("storeSecretFile and a password in store exclude each other");
      }
      if (storeSecretFile === null) {
        return { storageDir: undefined, workerAddress: undefined, engine: { url, ...NO_LOGIN } };
      }
      const secretFile = storeSecretFile === undefined
        ? null
        : resolve(checkPath("storeSecretFile", storeSecretFile));
      return {
        storageDir: undefined,
        workerAddress: undefined,
        engine: { url, secrets, secretFile },
      };
    }
  }
}

/** What is for directories. */
function checkForEngine(options: ShmFileConnectorOptions, url: string): void {
  const { maxBytes, ioMode, durability } = options;
  const name = maxBytes !== undefined
    ? "maxBytes"
    : ioMode !== undefined && ioMode !== "auto"
    ? "ioMode"
    : durability !== undefined && durability !== "none"
    ? "durability"
    : options.saveChunkMeta
    ? "saveChunkMeta"
    : (["padBytes", "fileMode", "fileGroup"] as const).find((one) => options[one] !== undefined);
  if (name === undefined) return;
  throw new ShmError(`${name} is for directories, and the store is ${url}`, {
    code: "ENOTSUP",
    operation: "open connector",
    hint: `Leave ${name} out: how much an engine keeps, and how safely, is its own setting`,
    details: { [name]: options[name], store: url },
  });
}

/** A worker that runs already may see its directories where this process does not. */
function checkDirectory(storageDir: string | undefined, address: WorkerAddress | null): string {
  if (address !== null && (storageDir === undefined || storageDir === "")) return "";
  const path = checkPath("storageDir", storageDir);
  return address === null || path.startsWith("/") ? resolve(path) : path;
}

function checkMaxBytes(
  maxBytes: number | undefined,
  address: WorkerAddress | null,
): number | undefined {
  if (maxBytes === undefined) return undefined;
  checkInteger("maxBytes", maxBytes, MIN_QUOTA_BYTES);
  if (address === null) return maxBytes;
  throw new ShmError(`maxBytes is ${maxBytes}, and the worker runs already`, {
    code: "ENOTSUP",
    operation: "open connector",
    hint: `Start it with --max-bytes ${maxBytes}, and leave maxBytes out here`,
    details: { maxBytes, workerAddress: formatWorkerAddress(address) },
  });
}

function checkPad(padBytes: number | undefined): number | undefined {
  if (padBytes === undefined || padBytes === 1) return undefined;
  checkInteger("padBytes", padBytes, 1, MAX_PAD_BYTES);
  if (Number.isInteger(Math.log2(padBytes))) return padBytes;
  throw new RangeError(`padBytes is ${padBytes}; accepted is a power of two`);
}

/** Who may use the files. A running worker has been told. */
function checkAccess(
  { fileMode, fileGroup }: ShmFileConnectorOptions,
  address: WorkerAddress | null,
): { fileMode: number | undefined; fileGroup: string | undefined } {
  if (fileMode !== undefined) {
    checkInteger("fileMode", fileMode, 0);
    if (!isFileMode(fileMode)) {
      throw new RangeError(
        `fileMode is 0o${fileMode.toString(8)}; accepted is a mode such as 0o640 or 0o644, with ` +
          "which the owner reads and writes, nobody executes, and not everybody writes",
      );
    }
  }
  checkType("fileGroup", fileGroup, "string");
  if (fileGroup !== undefined) checkPath("fileGroup", fileGroup);
  if (address === null) return { fileMode, fileGroup };
  for (
    const [name, value, argument] of [
      ["fileMode", fileMode, `--file-mode ${fileMode?.toString(8).padStart(4, "0")}`],
      ["fileGroup", fileGroup, `--group ${fileGroup}`],
    ] as const
  ) {
    if (value === undefined) continue;
    throw new ShmError(`${name} is given, and the worker runs already`, {
      code: "ENOTSUP",
      operation: "open connector",
      hint: `Start it with ${argument}, and leave ${name} out here`,
      details: { [name]: value, workerAddress: formatWorkerAddress(address) },
    });
  }
  return { fileMode: undefined, fileGroup: undefined };
}

/** Once: a worker that is started again, from wherever, is the same one. */
function findWorker(binary: string | undefined): string {
  return locateWorker(binary === undefined ? undefined : checkPath("workerBinary", binary));
}

function currentDirectory(): string | undefined {
  try {
    return process.cwd();
  } catch {
    // It was removed, or Deno does not tell it.
    return undefined;
  }
}

function choiceOf<T extends string>(
  name: string,
  value: T | undefined,
  choices: readonly T[],
): T | undefined {
  return value === undefined ? undefined : checkChoice(name, value, choices, choices[0]!);
}

function checkLimits(options: ShmFileConnectorOptions, reconnects: boolean): WorkerLimits {
  const { maxInFlight = 64, maxInFlightBytes = 256 * 2 ** 20, maxRestarts = 5 } = options;
  return {
    maxInFlight: checkInteger("maxInFlight", maxInFlight, 1, 65_536),
    maxInFlightBytes: checkInteger("maxInFlightBytes", maxInFlightBytes, 1),
    controlTimeoutMs: timeout("controlTimeoutMs", options.controlTimeoutMs, 30_000),
    ioTimeoutMs: timeout("ioTimeoutMs", options.ioTimeoutMs, 60_000),
    closeTimeoutMs: timeout("closeTimeoutMs", options.closeTimeoutMs, 30_000),
    restarts: {
      max: checkInteger("maxRestarts", maxRestarts, 0, 1_000_000),
      windowMs: timeout("restartWindowMs", options.restartWindowMs, 60_000),
      pauseMs: timeout("restartPauseMs", options.restartPauseMs, 200),
      reconnects,
    },
  };
}

function findSecret(
  options: ShmFileConnectorOptions,
  address: WorkerAddress | null,
): string | null {
  const { secret, secretFile } = options;
  if (address?.kind !== "tcp") {
    if (secret === undefined && secretFile === undefined) return null;
    const given = secret === undefined ? "secretFile" : "secret";
    throw new TypeError(
      `${given} is for a worker at "host:port"; ` +
        (address ? `${formatWorkerAddress(address)} checks the user instead` : "none is given"),
    );
  }
  if (secret !== undefined && secretFile !== undefined) {
    throw new TypeError("secret and secretFile exclude each other");
  }
  const found = secret ?? (secretFile === undefined ? undefined : readSecret(secretFile)) ??
    environmentVariable("LMSHM_SECRET");
  if (found === undefined || found === "") return null;
  if (typeof found !== "string") throw new TypeError("secret must be a string");
  checkSecret(found);
  return found;
}

function readSecret(file: string): string {
  const path = resolve(checkPath("secretFile", file));
  try {
    return readFileSync(path, "utf8").replace(/\r?\n$/, "");
  } catch (cause) {
    throw fileError(cause, "read secretFile", path);
  }
}
