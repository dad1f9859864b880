// SPDX-License-Identifier: Apache-2.0
//
// What callers of the client say, checked before anything is sent.

import { checkCallOptions, checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { type DType, type DTypeName, dtypeSizeBytes, parseDType } from "../memory/dtype.ts";
import type { ShmSegment } from "../memory/segment.ts";
import { placeOf } from "../memory/segment.ts";
import { checkSignal, MAX_TIMER_MS } from "../wait.ts";

/** What one worker's part of a chunk looks like: what the engine that shares the server has. */
export interface KvShape {
  /** Layers of the model, of one worker. */
  layers: number;
  /** Numbers a token, layer and plane: KV heads of one worker times the size of a head. */
  hiddenSize: number;
  /** As lmshm, torch or NumPy writes it. */
  dtype: DTypeName;
  /** One plane instead of keys and values: multi-head latent attention. Default false. */
  mla?: boolean | undefined;
  /** Tokens a block of the engine; default 16. The server keeps it for others. */
  blockTokens?: number | undefined;
}

/** What every call of a client takes. */
export interface LmcacheCallOptions {
  /** Rejects the call with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Rejects the call with ETIMEDOUT after so many milliseconds; default the client's. */
  timeoutMs?: number | undefined;
  /** LMCache's `cache_salt`: chunks with another salt are other chunks. Default the client's. */
  salt?: string | undefined;
}

/** What retrieve() and store() take. */
export interface LmcacheTransferOptions extends LmcacheCallOptions {
  /** Whose part of the chunks, from 0 to worldSize - 1; default 0. */
  worker?: number | undefined;
}

/** What LmcacheClient.connect() takes. */
export interface LmcacheOptions extends LmcacheCallOptions {
  /** "host:port" of `lmcache server --transport grpc`, with or without "grpc://". */
  address: string;
  /** As the engine calls it. */
  model: string;
  /** Workers among which each chunk is divided: the tensor parallel size. Default 1. */
  worldSize?: number | undefined;
  /** Without it the client looks up and reads events only. */
  kvShape?: KvShape | undefined;
  /**
   * The server's pool, attached already, e.g. pinned by a GPU. It stays the caller's. Default: the
   * client attaches it, unpinned.
   */
  segment?: ShmSegment | undefined;
  /**
   * How long the server keeps a lock that is not renewed, less a margin: views end then at the latest
   * when the server cannot be reached. Default 240,000, for LMCache's `--l1-read-ttl-seconds 300`.
   */
  leaseMs?: number | undefined;
  /**
   * How long a store may take from its reservation to its end. Default 300,000, half of LMCache's
   * `--l1-write-ttl-seconds 600`.
   */
  storeMs?: number | undefined;
}

/** KvShape, checked. */
export interface CheckedShape {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly dtype: DType;
  readonly torchDtype: string;
  readonly mla: boolean;
  readonly blockTokens: number;
}

/** LmcacheOptions, checked. */
export interface CheckedOptions {
  readonly authority: string;
  readonly model: string;
  readonly worldSize: number;
  readonly kvShape: CheckedShape | null;
  readonly segment: ShmSegment | null;
  readonly leaseMs: number;
  readonly storeMs: number;
  readonly timeoutMs: number;
  readonly salt: string;
}

/** A call's options, checked, with the client's in place of what is absent. */
export interface CheckedCall {
  readonly signal: AbortSignal | undefined;
  readonly timeoutMs: number;
  readonly salt: string;
  readonly worker: number;
}

/** All the names of Options, or it does not compile. */
const namesOf = <Options>(names: Record<keyof Options, 0>): readonly string[] => Object.keys(names);

const CALL = { signal: 0, timeoutMs: 0, salt: 0 } as const;
export const CALL_OPTIONS = namesOf<LmcacheCallOptions>(CALL);
export const TRANSFER_OPTIONS = namesOf<LmcacheTransferOptions>({ ...CALL, worker: 0 });
const CONNECT_OPTIONS = namesOf<LmcacheOptions>({
  ...CALL,
  address: 0,
  model: 0,
  worldSize: 0,
  kvShape: 0,
  segment: 0,
  leaseMs: 0,
  storeMs: 0,
});
const SHAPE_OPTIONS = namesOf<KvShape>({
  layers: 0,
  hiddenSize: 0,
  dtype: 0,
  mla: 0,
  blockTokens: 0,
});

const DEFAULT_TIMEOUT_MS = 10_000;
const MAX_WORKERS = 4096;
const MAX_SALT_LENGTH = 128;

/** How torch spells a dtype that LMCache's keys spell otherwise. */
const TORCH: Partial<Record<DType, string>> = {
  half: "float16",
  float: "float32",
  double: "float64",
  fp8: "uint8",
  fp8_e4m3: "float8_e4m3fn",
  fp8_e5m2: "float8_e5m2",
};

function checkAddress(address: unknown): string {
  if (typeof address !== "string") {
    throw new TypeError(`address must be a string, got ${describe(address)}`);
  }
  const bare = address.replace(/^(?:grpc|http):\/\//, "");
  const parts = /^(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]\s/?#@]+):([0-9]{1,5})$/.exec(bare);
  const port = Number(parts?.[1]);
  if (parts === null || port < 1 || port > 65_535) {
    throw new RangeError(
      `address ${JSON.stringify(address)} cannot be understood; it is "host:port" or "[::1]:port"`,
    );
  }
  return bare;
}

function checkText(name: string, text: unknown): string {
  if (typeof text !== "string") {
    throw new TypeError(`${name} must be a string, got ${describe(text)}`);
  }
  if (!text.isWellFormed() || text.includes("\0")) {
    throw new RangeError(`${name} ${JSON.stringify(text)} is no text that can be sent`);
  }
  return text;
}

function checkSalt(salt: unknown): string {
  const text = checkText("salt", salt);
  // Code points, as Python counts.
  if ([...text].length > MAX_SALT_LENGTH || /[@/\\]/.test(text)) {
    throw new RangeError(
      `salt ${describe(text)} must have at most ${MAX_SALT_LENGTH} characters, none of @ / \\`,
    );
  }
  return text;
}

function checkShape(shape: KvShape): CheckedShape {
  checkKnownOptions("kvShape", shape, SHAPE_OPTIONS);
  if (shape.mla !== undefined && typeof shape.mla !== "boolean") {
    throw new TypeError(`kvShape.mla must be true or false, got ${describe(shape.mla)}`);
  }
  const dtype = parseDType(shape.dtype);
  // LMCache knows more kinds of a float of 8 bits than there are names here.
  const spelled = String(shape.dtype).replace(/^torch\./, "");
  return {
    layers: checkInteger("kvShape.layers", shape.layers, 1, 2 ** 16),
    hiddenSize: checkInteger("kvShape.hiddenSize", shape.hiddenSize, 1, 2 ** 24),
    dtype,
    torchDtype: spelled.startsWith("float8_") ? spelled : TORCH[dtype] ?? dtype,
    mla: shape.mla ?? false,
    blockTokens: checkInteger("kvShape.blockTokens", shape.blockTokens ?? 16, 1, 2 ** 20),
  };
}

/** @throws {TypeError | RangeError} naming the option, or the signal's reason. */
export function checkOptions(options: LmcacheOptions): CheckedOptions {
  checkKnownOptions("LmcacheClient.connect", options, CONNECT_OPTIONS);
  checkSignal(options.signal);
  const model = checkText("model", options.model);
  if (model === "" || model.includes("@")) {
    throw new RangeError(`model ${JSON.stringify(model)} must have a name without "@"`);
  }
  const ms = (name: "leaseMs" | "storeMs" | "timeoutMs", fallback: number) =>
    checkInteger(name, options[name] ?? fallback, 1, MAX_TIMER_MS);
  if (options.segment !== undefined) placeOf(options.segment);
  if (options.segment !== undefined && options.kvShape === undefined) {
    throw new TypeError("segment is of use with kvShape only: without, nothing is read or written");
  }
  return {
    authority: checkAddress(options.address),
    model,
    worldSize: checkInteger("worldSize", options.worldSize ?? 1, 1, MAX_WORKERS),
    kvShape: options.kvShape === undefined ? null : checkShape(options.kvShape),
    segment: options.segment ?? null,
    leaseMs: ms("leaseMs", 240_000),
    storeMs: ms("storeMs", 300_000),
    timeoutMs: ms("timeoutMs", DEFAULT_TIMEOUT_MS),
    salt: checkSalt(options.salt ?? ""),
  };
}

/** @throws {TypeError | RangeError} naming the option, or the signal's reason. */
export function checkCall(
  what: string,
  options: LmcacheTransferOptions,
  known: readonly string[],
  client: CheckedOptions,
): CheckedCall {
  checkCallOptions(what, options, known);
  checkSignal(options.signal);
  const { timeoutMs = client.timeoutMs, salt, worker = 0 } = options;
  return {
    signal: options.signal,
    timeoutMs: checkInteger("timeoutMs", timeoutMs, 1, MAX_TIMER_MS),
    salt: salt === undefined ? client.salt : checkSalt(salt),
    worker: checkInteger("worker", worker, 0, client.worldSize - 1),
  };
}

/** What tokens may be given as. */
export type Tokens = readonly number[] | Uint32Array | Int32Array;

const MAX_TOKEN = 2 ** 32 - 1;

/** A copy that nobody else changes. @throws {TypeError | RangeError} */
export function checkTokens(tokens: Tokens): number[] {
  if (!Array.isArray(tokens) && !(tokens instanceof Uint32Array || tokens instanceof Int32Array)) {
    throw new TypeError(`tokens must be an array of token ids, got ${describe(tokens)}`);
  }
  const copy = Array.from(tokens as readonly number[]);
  copy.forEach((token, at) => {
    if (!Number.isInteger(token) || token < 0 || token > MAX_TOKEN) {
      throw new RangeError(`token ${at} must be an integer from 0 to ${MAX_TOKEN}, got ${token}`);
    }
  });
  return copy;
}

/** What a worker's part of a chunk is. */
export interface ChunkLayout {
  readonly shape: readonly number[];
  readonly byteLength: number;
}

/** Of chunks of so many tokens. */
export function chunkLayout(shape: CheckedShape, chunkTokens: number): ChunkLayout {
  const dims = [shape.layers, chunkTokens, shape.hiddenSize];
  if (!shape.mla) dims.unshift(2);
  const elements = dims.reduce((product, size) => product * size);
  return { shape: Object.freeze(dims), byteLength: elements * dtypeSizeBytes(shape.dtype) };
}
