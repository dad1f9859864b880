// SPDX-License-Identifier: Apache-2.0
//
// Segments through liblmshm: packs lmshm_options, unpacks lmshm_info, and turns -errno into
// ShmError. The layout constants mirror csrc/include/lmshm.h, which native_symbols_test.ts checks.

import { errnoName, ShmError } from "../errors.ts";
import { onExit, waitAtExit } from "../at_exit.ts";
import type {
  NameState,
  NativeSegment,
  OpenHooks,
  OpenRequest,
  PinnedBy,
  SegmentFacts,
} from "./native_segment.ts";
import { cString } from "./c_library.ts";
import { ffi } from "./ffi.ts";
import { throwIfRefused } from "../permission.ts";
import { locateLibrary } from "./locate.ts";
import { openHint } from "./shm_directory.ts";
import { type Functions, LMSHM_SYMBOLS } from "./symbols.ts";

type Library = Functions<typeof LMSHM_SYMBOLS>;

/** Byte offsets in struct lmshm_options. */
export const OPTIONS_LAYOUT = {
  struct_size: 0,
  kind: 4,
  if_exists: 8,
  pin: 12,
  pages: 16,
  numa: 20,
  numa_nodes: 24,
  size: 32,
  populate_threads: 40,
  fd: 44,
  name: 48,
  gpu_library: 56,
  gpu_device: 64,
  flags: 68,
} as const;
export const OPTIONS_BYTES = 72;

/** Byte offsets in struct lmshm_info. */
export const INFO_LAYOUT = {
  struct_size: 0,
  error: 4,
  step: 8,
  pinned_by: 12,
  address: 16,
  size: 24,
  mapped_size: 32,
  page_size: 40,
  huge_bytes: 48,
  populated: 56,
  available: 64,
  flags: 72,
  fd: 76,
  gpu_error: 80,
  gpu_devices: 84,
  populate_threads: 88,
  pin_piece_mib: 92,
  gpu_library: 96,
  message: 304,
  identity: 560,
} as const;
export const INFO_BYTES = 640;

const KINDS = { create: 0, attach: 1, anonymous: 2 } as const;
const IF_EXISTS = { reclaim: 0, fail: 1, replace: 2 } as const;
const PINS = { auto: 0, require: 1, none: 2 } as const;
const PAGES = { default: 0, transparent: 1, "2M": 2, "1G": 3 } as const;
const NUMA = { bind: 1, interleave: 2 } as const;
const PINNED_BY: readonly PinnedBy[] = ["none", "cuda", "cuda-driver", "hip", "mlock"];
const STEPS = [
  "check arguments",
  "open",
  "reserve pages",
  "map",
  "place pages",
  "populate",
  "pin",
  "ready",
  "release",
] as const;
const NAME_STATES: readonly NameState[] = ["free", "live", "dead", "foreign"];
const FLAG_OWNER = 1;
const FLAG_RECLAIMED = 2;
const FLAG_REPLACED = 4;
const CLOSE_KEEP_RANGE = 1;
const UNLINK_AT_EXIT = 1;

const decoder = new TextDecoder();

/** The options struct and the strings that it points to, in one block. */
function packOptions(request: OpenRequest): Uint8Array<ArrayBuffer> {
  const strings = [request.name, request.gpuLibrary].map((text) =>
    text === null ? null : cString(text)
  );
  const length = strings.reduce((sum, text) => sum + (text?.length ?? 0), OPTIONS_BYTES);
  const block = new Uint8Array(new ArrayBuffer(length));
  const view = new DataView(block.buffer);
  const at = OPTIONS_LAYOUT;
  view.setUint32(at.struct_size, OPTIONS_BYTES, true);
  view.setUint32(at.kind, KINDS[request.kind], true);
  view.setUint32(at.if_exists, IF_EXISTS[request.ifExists], true);
  view.setUint32(at.pin, PINS[request.pin], true);
  view.setUint32(at.pages, PAGES[request.pages], true);
  if (request.numa) {
    view.setUint32(at.numa, NUMA[request.numa.policy], true);
    const nodes = request.numa.nodes.reduce((mask, node) => mask | (1n << BigInt(node)), 0n);
    view.setBigUint64(at.numa_nodes, nodes, true);
  }
  view.setBigUint64(at.size, BigInt(request.sizeBytes), true);
  view.setUint32(at.populate_threads, request.populateThreads, true);
  view.setInt32(at.fd, request.fd ?? -1, true);
  view.setUint32(at.gpu_device, request.gpuDevice === null ? 0 : request.gpuDevice + 1, true);
  view.setUint32(at.flags, request.kind === "create" ? UNLINK_AT_EXIT : 0, true);
  const base = ffi.addressOf(block);
  let end = OPTIONS_BYTES;
  for (const [index, field] of [at.name, at.gpu_library].entries()) {
    const text = strings[index];
    if (!text) continue;
    block.set(text, end);
    view.setBigUint64(field, base + BigInt(end), true);
    end += text.length;
  }
  return block;
}

/** An lmshm_info that C fills. */
class Info {
  readonly bytes = new Uint8Array(new ArrayBuffer(INFO_BYTES));
  readonly #view = new DataView(this.bytes.buffer);

  constructor() {
    this.#view.setUint32(INFO_LAYOUT.struct_size, INFO_BYTES, true);
  }

  #u32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  #u64(offset: number): number {
    return Number(this.#view.getBigUint64(offset, true));
  }

  #text(offset: number, capacity: number): string {
    const field = this.bytes.subarray(offset, offset + capacity);
    const end = field.indexOf(0);
    return decoder.decode(end < 0 ? field : field.subarray(0, end));
  }

  get populatedBytes(): number {
    return this.#u64(INFO_LAYOUT.populated);
  }

  get step(): string {
    return STEPS[this.#u32(INFO_LAYOUT.step)] ?? "unknown step";
  }

  get message(): string {
    return this.#text(INFO_LAYOUT.message, INFO_LAYOUT.identity - INFO_LAYOUT.message);
  }

  get availableBytes(): number {
    return this.#u64(INFO_LAYOUT.available);
  }

  get gpuError(): number {
    return this.#view.getInt32(INFO_LAYOUT.gpu_error, true);
  }

  facts(): SegmentFacts {
    const flags = this.#u32(INFO_LAYOUT.flags);
    const fd = this.#view.getInt32(INFO_LAYOUT.fd, true);
    return Object.freeze({
      address: this.#view.getBigUint64(INFO_LAYOUT.address, true),
      sizeBytes: this.#u64(INFO_LAYOUT.size),
      mappedBytes: this.#u64(INFO_LAYOUT.mapped_size),
      pageBytes: this.#u64(INFO_LAYOUT.page_size),
      hugeBytes: this.#u64(INFO_LAYOUT.huge_bytes),
      pinnedBy: PINNED_BY[this.#u32(INFO_LAYOUT.pinned_by)] ?? "none",
      owner: (flags & FLAG_OWNER) !== 0,
      reclaimed: (flags & FLAG_RECLAIMED) !== 0,
      replaced: (flags & FLAG_REPLACED) !== 0,
      fd: fd < 0 ? null : fd,
      identity: this.#text(INFO_LAYOUT.identity, INFO_BYTES - INFO_LAYOUT.identity),
      gpuDevices: this.#u32(INFO_LAYOUT.gpu_devices),
      gpuError: this.gpuError,
      gpuLibrary: this.#text(
        INFO_LAYOUT.gpu_library,
        INFO_LAYOUT.message - INFO_LAYOUT.gpu_library,
      ),
      pinPieceBytes: this.#u32(INFO_LAYOUT.pin_piece_mib) * 2 ** 20,
      populateThreads: this.#u32(INFO_LAYOUT.populate_threads),
      message: this.message,
    });
  }
}

function openError(request: OpenRequest, errno: number, info: Info): ShmError {
  const code = errnoName(errno);
  const available = info.availableBytes;
  const what = request.name === null ? "anonymous segment" : `segment /${request.name}`;
  const needs = code === "ENOSPC"
    ? `: ${request.sizeBytes} bytes requested, ${available} bytes free`
    : "";
  const words = info.message ? `: ${info.message}` : "";
  return new ShmError(`${what}, while in step "${info.step}"${needs || words}`, {
    code,
    errno,
    operation: `${request.kind === "attach" ? "attach" : "create"} segment`,
    hint: openHint(code, request, {
      isShmMissing: info.message === "/dev/shm does not exist",
      isOthers: info.message.endsWith("belongs to another user"),
    }),
    details: {
      name: request.name,
      requestedBytes: request.sizeBytes,
      ...(code === "ENOSPC" ? { availableBytes: available } : {}),
      step: info.step,
      gpuError: info.gpuError,
      reason: info.message,
    },
  });
}

function closeError(errno: number, reason: string): ShmError {
  return new ShmError(reason || "the memory was released, but one step of it failed", {
    code: errnoName(errno),
    errno,
    operation: "free segment",
  });
}

/** Polls a job until it ends: every millisecond at first, every two later. */
async function jobEnd(lib: Library, job: bigint, info: Info, onPoll?: () => void): Promise<void> {
  const started = performance.now();
  while (lib.lmshm_job_poll(job, info.bytes) === 0) {
    onPoll?.();
    const pauseMs = performance.now() - started < 20 ? 1 : 2;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

class LmshmSegment implements NativeSegment {
  readonly facts: SegmentFacts;
  readonly #lib: Library;
  readonly #handle: bigint;

  constructor(lib: Library, handle: bigint, facts: SegmentFacts) {
    this.#lib = lib;
    this.#handle = handle;
    this.facts = facts;
  }

  closeSync(keepRange: boolean): void {
    const result = this.#lib.lmshm_close(this.#handle, keepRange ? CLOSE_KEEP_RANGE : 0);
    if (result < 0) throw closeError(-result, "");
  }

  async close(keepRange: boolean): Promise<void> {
    const flags = keepRange ? CLOSE_KEEP_RANGE : 0;
    const job = this.#lib.lmshm_close_start(this.#handle, flags);
    // No thread to be had: the segment is untouched, so it is closed here and now.
    if (job < 0n) return this.closeSync(keepRange);
    const info = new Info();
    // Its first step gives back the name.
    const cancelHook = onExit(() =>
      waitAtExit(() => this.#lib.lmshm_job_poll(job, info.bytes) !== 0)
    );
    await jobEnd(this.#lib, job, info);
    cancelHook();
    const result = this.#lib.lmshm_job_finish(job, info.bytes);
    if (result < 0n) throw closeError(Number(-result), info.message);
  }

  reserveWindow(at: bigint, bytes: number): bigint | null {
    const result = this.#lib.lmshm_window_reserve(this.#handle, at, BigInt(bytes));
    return result < 0n ? null : result;
  }

  mapWindow(offset: number, bytes: number, at: bigint): boolean {
    return this.#lib.lmshm_window_map(this.#handle, BigInt(offset), BigInt(bytes), at) === 0;
  }

  unmapWindow(at: bigint, bytes: number): boolean {
    return this.#lib.lmshm_window_unmap(this.#handle, at, BigInt(bytes)) === 0;
  }
}

/** The library, loaded. */
export class Lmshm {
  /** Where it was found. */
  readonly path: string;
  readonly #lib: Library;

  constructor(path: string, lib: Library) {
    this.path = path;
    this.#lib = lib;
  }

  openSync(request: OpenRequest): NativeSegment {
    const info = new Info();
    const options = packOptions(request);
    const result = this.#lib.lmshm_open(options, info.bytes);
    if (result < 0n) throw openError(request, Number(-result), info);
    return new LmshmSegment(this.#lib, result, info.facts());
  }

  async open(request: OpenRequest, { signal, onProgress }: OpenHooks): Promise<NativeSegment> {
    signal?.throwIfAborted();
    const info = new Info();
    const job = this.#lib.lmshm_open_start(packOptions(request));
    if (job < 0n) throw openError(request, Number(-job), info);
    const cancel = () => this.#lib.lmshm_job_cancel(job);
    signal?.addEventListener("abort", cancel, { once: true });
    const cancelHook = onExit(() => {
      cancel();
      if (!waitAtExit(() => this.#lib.lmshm_job_poll(job, info.bytes) !== 0)) return;
      const late = this.#lib.lmshm_job_finish(job, info.bytes);
      if (late > 0n) this.#lib.lmshm_close(late, 0);
    });
    let hookError: unknown;
    await jobEnd(this.#lib, job, info, () => {
      try {
        onProgress?.(info.populatedBytes, request.sizeBytes);
      } catch (error) {
        hookError ??= error;
        cancel();
      }
    });
    cancelHook();
    signal?.removeEventListener("abort", cancel);
    const result = this.#lib.lmshm_job_finish(job, info.bytes);
    if (hookError !== undefined) {
      if (result > 0n) this.#lib.lmshm_close(result, 0);
      throw hookError;
    }
    if (result < 0n) {
      signal?.throwIfAborted();
      throw openError(request, Number(-result), info);
    }
    return new LmshmSegment(this.#lib, result, info.facts());
  }

  nameState(name: string): NameState {
    const state = this.#lib.lmshm_name_state(cString(name));
    const known = NAME_STATES[state];
    if (known !== undefined) return known;
    throw new ShmError(`segment /${name}`, {
      code: errnoName(-state),
      errno: -state,
      operation: "look up segment",
    });
  }

  /** Of what has the name now, as in SegmentFacts; null when nothing has. */
  nameIdentity(name: string): string | null {
    const text = new Uint8Array(new ArrayBuffer(INFO_BYTES - INFO_LAYOUT.identity));
    const result = this.#lib.lmshm_name_identity(cString(name), text, BigInt(text.length));
    if (result === 0) return decoder.decode(text.subarray(0, text.indexOf(0)));
    const code = errnoName(-result);
    if (code === "ENOENT") return null;
    throw new ShmError(`segment /${name}`, { code, errno: -result, operation: "look up segment" });
  }

  /** Unlinks the name of a dead owner. True if it did, false if there was nothing of the kind. */
  reclaim(name: string): boolean {
    return this.#lib.lmshm_reclaim(cString(name)) === 1;
  }
}

let loaded: Lmshm | undefined;

/**
 * The library, which is loaded at the first call: the one that LMSHM_LIBRARY names, or this
 * package's.
 * @throws {ShmError} ENOENT: it is nowhere; ELIBBAD: it is there and does not load; EPERM: Deno does
 *   not allow looking for it.
 */
export function lmshm(): Lmshm {
  loaded ??= load(locateLibrary());
  return loaded;
}

function load(path: string): Lmshm {
  try {
    return new Lmshm(path, ffi.open(path, LMSHM_SYMBOLS));
  } catch (cause) {
    throwIfRefused(cause, `loading ${path}`, "load library");
    throw new ShmError(`${path} does not load: ${cause instanceof Error ? cause.message : cause}`, {
      code: "ELIBBAD",
      operation: "load library",
      hint: "It may be built for another processor or C library, or be older than this package: " +
        'install the package again, or build it with "npm run build" in a clone',
      cause,
    });
  }
}
