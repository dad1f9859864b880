// SPDX-License-Identifier: Apache-2.0
//
// A shared memory segment as JavaScript sees it: created or attached, looked at through zero-copy
// views, and freed so that no stale view can crash the process or show memory that is not its own.
// The allocators build on it; it knows nothing of them, nor of workers and storage.
//
// Why a stale view is harmless: free() first detaches every view that somebody still has, and then
// puts untouched private memory in place of the mapping instead of leaving a hole, because a view may
// have been moved into another ArrayBuffer, or be in use by a runtime's thread at that moment. While
// the segment lives, only the views that allocators give out have that protection; see windows.ts.
//
// Views are referred to weakly: what the program has forgotten is collected, and looked for when there
// are twice as many as there were after the last time. (A FinalizationRegistry would tell, but it
// takes Bun ten times as long.) An ArrayBuffer lives as long as any array over it, so whatever can
// still be reached is found by free(). JavaScript keeps all that a weak reference was made to until the
// event loop turns; so the last views that can be revoked are referred to strongly, and a loop of
// `using` makes no weak reference at all.
//
// Nothing that an address is computed from can be changed from outside: it is in private fields, and
// the rest of the library reads it there, by placeOf() and locate().

import { readdirSync, statSync } from "node:fs";
import { knownCode, ShmError } from "../errors.ts";
import { notAwaited } from "../fence.ts";
import {
  type IfExists,
  type NameState,
  type NativeSegment,
  type OpenHooks,
  type OpenRequest,
  type PageMode,
  type PinMode,
  type PinnedBy,
  type SegmentFacts,
} from "../native/native_segment.ts";
import { ffi } from "../native/ffi.ts";
import { lmshm } from "../native/lmshm.ts";
import { libraryPath } from "../native/locate.ts";
import { ownUser } from "../native/users.ts";
import { NO_DIRECTORY_HINT, SHM_DIRECTORY } from "../native/shm_directory.ts";
import { throwIfRefused } from "../permission.ts";
import { type OpeningLimits, openingSignal } from "../wait.ts";
import { onExit, rememberOpen } from "../at_exit.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import {
  checkChoice,
  checkInteger,
  checkKnownOptions,
  checkRange,
  checkSegmentName,
  checkSize,
  describe,
} from "../arguments.ts";
import { Holds } from "./holds.ts";
import { type OwnerEnd, SegmentWaits, type WaitOptions, type WaitResult } from "./segment_waits.ts";
import { detach, ShmView } from "./view.ts";
import { windows } from "./windows.ts";

export type { IfExists, NameState, PageMode, PinMode, PinnedBy, SegmentFacts };
export type { OwnerEnd, WaitOptions, WaitResult };

/** Any run of bytes of a segment: what connectors move. */
export interface ShmRange {
  /** The segment that they are in. */
  readonly segment: ShmSegment;
  /** Bytes from the start of the segment. */
  readonly offset: number;
  /** How many. */
  readonly byteLength: number;
  /**
   * Marks I/O in flight: until the returned function is called, the memory is not freed. What that
   * function throws becomes a warning, as there is nobody else whom it concerns.
   * @param reason for the error that a premature free gives, e.g. "put model@..."
   */
  hold(reason: string): () => void;
}

/** What addresses are computed from. */
interface SegmentPlace {
  readonly address: bigint;
  readonly sizeBytes: number;
  /** See SegmentFacts. */
  readonly pinPieceBytes: number;
}

/** A range as it was when it was looked at, within its segment. */
export interface Located {
  readonly segment: ShmSegment;
  readonly offset: number;
  readonly byteLength: number;
  /** Of its first byte, in this process. */
  readonly address: bigint;
  readonly place: SegmentPlace;
}

/** Where a segment is, whatever its public properties say. Throws for what is no segment. */
export let placeOf: (segment: ShmSegment) => SegmentPlace;

/**
 * A view for an allocator, which gives the memory to somebody else as soon as the view is revoked:
 * at addresses of its own, as long as there are any; see windows.ts.
 */
export let viewForOwner: (segment: ShmSegment, offset: number, byteLength: number) => ShmView;

/** Ends a segment together with the process, whatever is in flight. */
let abandon: (segment: ShmSegment) => void;

/**
 * Reads a range of the caller's, once, and checks it against the real segment.
 * @throws {TypeError} when it is none; {RangeError} when it is not within its segment.
 */
export function locate(range: ShmRange): Located {
  const { segment, offset, byteLength } = range;
  const place = placeOf(segment);
  checkRange(offset, byteLength, place.sizeBytes);
  return { segment, offset, byteLength, address: place.address + BigInt(offset), place };
}

/** How a segment is page-locked. */
export interface PinOptions {
  /** How to page-lock; default "auto": the GPU if there is one, else mlock, else not. */
  pin?: PinMode | undefined;
  /**
   * A GPU runtime library to use instead of the search: a path, or a name that the system finds. So
   * does LMSHM_GPU_LIBRARY.
   */
  gpuLibrary?: string | undefined;
  /**
   * The device that pins, from 0; the others can use the memory as well, but only this one gets a
   * context. Default LMSHM_GPU_DEVICE, else 0.
   */
  gpuDevice?: number | undefined;
}

/** What ShmSegment.create() makes. */
export interface CreateOptions extends PinOptions, OpenOptions {
  /**
   * 1 or more; the mapping is rounded up to whole pages. Write 2 ** 32 and not 1 << 32, which is 1 in
   * JavaScript.
   */
  sizeBytes: number;
  /** One path component; absent or null: anonymous (a memfd that leaves nothing behind). */
  name?: string | null | undefined;
  /**
   * When the name is taken; default "reclaim": replace what a dead owner left, else EEXIST.
   * "replace" takes a stranger's as well, when the new segment is complete: there must be room for
   * both.
   */
  ifExists?: IfExists | undefined;
  /** Default "default". "2M" and "1G" are demands, for anonymous segments. */
  pages?: PageMode | undefined;
  /** Where the pages come from; nodes are 0 to 63. */
  numa?: { policy: "bind" | "interleave"; nodes: readonly number[] } | undefined;
  /** 1 to 64; default: chosen from the CPUs. */
  populateThreads?: number | undefined;
}

/** What ShmSegment.attach() maps. */
export interface AttachOptions extends PinOptions, OpenOptions {
  /** With or without a leading slash. */
  name: string;
  /** How much of it; default all. More than it has is an error. */
  sizeBytes?: number | undefined;
}

/** Of create() and attach(), not of createSync() and attachSync(): those block. */
export interface OpenOptions extends OpeningLimits {
  /** Called every few milliseconds while pages are populated. What it throws ends the opening. */
  onProgress?: ((populatedBytes: number, sizeBytes: number) => void) | undefined;
}

const PIN_MODES = ["auto", "require", "none"] as const;
const PAGE_MODES = ["default", "transparent", "2M", "1G"] as const;
const IF_EXISTS = ["reclaim", "fail", "replace"] as const;
/** The names of OpenOptions. */
export const OPEN_OPTIONS = [
  "signal",
  "timeoutMs",
  "onProgress",
] as const satisfies readonly (keyof OpenOptions)[];
/** The names of CreateOptions. */
export const CREATE_OPTIONS = [
  "sizeBytes",
  "name",
  "ifExists",
  "pin",
  "gpuLibrary",
  "gpuDevice",
  "pages",
  "numa",
  "populateThreads",
  ...OPEN_OPTIONS,
] as const satisfies readonly (keyof CreateOptions)[];
const ATTACH_OPTIONS = [
  "name",
  "sizeBytes",
  "pin",
  "gpuLibrary",
  "gpuDevice",
  ...OPEN_OPTIONS,
] as const satisfies readonly (keyof AttachOptions)[];
const MAX_GPU_DEVICE = 2 ** 31 - 2;

/** A failure of onProgress() ends the opening; that of a promise comes too late for that. */
function hooksOf({ signal, onProgress }: OpenOptions): OpenHooks {
  return {
    signal,
    onProgress: onProgress &&
      ((populatedBytes, sizeBytes) =>
        notAwaited("onProgress", onProgress(populatedBytes, sizeBytes))),
  };
}

function pinRequest(options: PinOptions): Pick<OpenRequest, "pin" | "gpuLibrary" | "gpuDevice"> {
  const { gpuLibrary, gpuDevice } = options;
  if (gpuLibrary !== undefined && (typeof gpuLibrary !== "string" || gpuLibrary.includes("\0"))) {
    throw new TypeError(`gpuLibrary must be a path, got ${describe(gpuLibrary)}`);
  }
  return {
    pin: checkChoice("pin", options.pin, PIN_MODES, "auto"),
    gpuLibrary: gpuLibrary === undefined ? null : libraryPath(gpuLibrary),
    gpuDevice: gpuDevice === undefined
      ? null
      : checkInteger("gpuDevice", gpuDevice, 0, MAX_GPU_DEVICE),
  };
}

function numaRequest(numa: CreateOptions["numa"]): OpenRequest["numa"] {
  if (numa === undefined) return null;
  checkKnownOptions("numa", numa, ["policy", "nodes"]);
  if (!Array.isArray(numa.nodes) || numa.nodes.length === 0) {
    throw new TypeError(`numa.nodes must list at least one node, got ${describe(numa.nodes)}`);
  }
  const nodes = numa.nodes.map((node: unknown) => checkInteger("numa node", node, 0, 63));
  return { policy: checkChoice("numa.policy", numa.policy, ["bind", "interleave"], "bind"), nodes };
}

function createRequest(options: CreateOptions): OpenRequest {
  checkKnownOptions("ShmSegment.create", options, CREATE_OPTIONS);
  const named = options.name !== undefined && options.name !== null;
  const pages = checkChoice("pages", options.pages, PAGE_MODES, "default");
  if (named && (pages === "2M" || pages === "1G")) {
    throw new TypeError(
      `pages: "${pages}" needs an anonymous segment (no name): POSIX shared memory has no huge pages ` +
        `of its own; "transparent" works with a name`,
    );
  }
  return {
    kind: named ? "create" : "anonymous",
    name: named ? checkSegmentName(options.name) : null,
    sizeBytes: checkSize(options.sizeBytes),
    ifExists: checkChoice("ifExists", options.ifExists, IF_EXISTS, "reclaim"),
    ...pinRequest(options),
    pages,
    numa: numaRequest(options.numa),
    populateThreads: checkInteger("populateThreads", options.populateThreads ?? 0, 0, 64),
    fd: null,
  };
}

function attachRequest(options: AttachOptions): OpenRequest {
  checkKnownOptions("ShmSegment.attach", options, ATTACH_OPTIONS);
  return {
    kind: "attach",
    name: checkSegmentName(options.name),
    sizeBytes: options.sizeBytes === undefined
      ? 0
      : checkInteger("sizeBytes", options.sizeBytes, 1),
    ifExists: "reclaim",
    ...pinRequest(options),
    pages: "default",
    numa: null,
    populateThreads: 0,
    fd: null,
  };
}

/** Names of the regular files in /dev/shm. */
function shmFiles(): string[] {
  const operation = "reclaim segments";
  try {
    return readdirSync(SHM_DIRECTORY, { withFileTypes: true })
      .filter((entry) => entry.isFile()).map((entry) => entry.name);
  } catch (cause) {
    throwIfRefused(
      cause,
      `looking at ${SHM_DIRECTORY}`,
      operation,
      "Deno reads below /dev with -A only",
    );
    const { code = "EIO", message } = cause as { code?: string; message: string };
    throw new ShmError(`${SHM_DIRECTORY} cannot be listed: ${message}`, {
      code: knownCode(code) ?? "EIO",
      operation,
      ...(code === "ENOENT" ? { hint: NO_DIRECTORY_HINT } : {}),
      cause,
    });
  }
}

function detachIfAny(buffer: WeakRef<ArrayBuffer>): void {
  const found = buffer.deref();
  if (found !== undefined) detach(found);
}

/** With fewer views it is not worth looking which of them were forgotten. */
const MIN_SWEEP = 1024;
/** Views of view() that are referred to strongly: the last ones. */
const RECENT_VIEWS = 64;

/** An array of bytes(), which gives it again. */
interface Cached {
  readonly buffer: WeakRef<ArrayBuffer>;
  array: WeakRef<Uint8Array<ArrayBuffer>>;
}

/**
 * Memory that several processes map. Owned when created here, borrowed when attached. All methods
 * belong to the thread that made it.
 */
export class ShmSegment implements Disposable, AsyncDisposable {
  /** hold() of all that range() gives. @internal */
  readonly holdRange: (reason: string) => () => void;
  readonly #name: string | null;
  readonly #native: NativeSegment;
  readonly #facts: SegmentFacts;
  readonly #place: SegmentPlace;
  /** By "offset:byteLength". */
  readonly #cached = new Map<string, Cached>();
  /** Buffers of view(): the last ones, and those before. */
  readonly #recent = new Set<ArrayBuffer>();
  readonly #older = new Set<WeakRef<ArrayBuffer>>();
  /** Views at addresses of their own. */
  readonly #windowed = new Set<ShmView>();
  #sweepAt = MIN_SWEEP;
  readonly #holds = new Holds();
  readonly #waits: SegmentWaits;
  /** It is no longer open: for when closing it is over, as disposeAll() waits for that. */
  readonly #notOpen: () => void;
  readonly #notAtExit: () => void;
  #viewsMade = false;
  #closing: Promise<void> | undefined;
  #closed = false;

  static {
    placeOf = (segment) => segment.#place;
    viewForOwner = (segment, offset, byteLength) => segment.#viewForOwner(offset, byteLength);
    abandon = (segment) => segment.#abandon();
    // What others read of a segment is what it has.
    for (const name of ["name", "sizeBytes", "address", "facts", "fd"]) {
      Object.defineProperty(this.prototype, name, { configurable: false });
    }
  }

  /** For create() and attach(). @internal */
  private constructor(
    token: typeof INTERNAL,
    request: OpenRequest,
    native: NativeSegment,
  ) {
    checkInternal(token, "a ShmSegment is made by ShmSegment.create() or attach()");
    const { facts } = native;
    const { address, sizeBytes, pinPieceBytes } = facts;
    this.#name = request.name === null ? null : `/${request.name}`;
    this.#facts = facts;
    this.#place = Object.freeze({ address, sizeBytes, pinPieceBytes });
    this.#native = native;
    this.#waits = new SegmentWaits(native, this.#name);
    this.holdRange = (reason) => this.hold(reason);
    Object.freeze(this);
    this.#notOpen = rememberOpen(this);
    this.#notAtExit = facts.owner ? onExit(() => abandon(this)) : () => {};
  }

  /**
   * Creates, reserves, populates and pins a segment without blocking the event loop. Free it with
   * free() or `await using`.
   * @throws {ShmError} ENOSPC (with requestedBytes and availableBytes), EEXIST, EACCES, ENODEV
   *   (pin "require" without a GPU), or another errno name; TypeError and RangeError for arguments.
   */
  static async create(options: CreateOptions): Promise<ShmSegment> {
    return await ShmSegment.#open(createRequest(options), options);
  }

  /** create() that blocks: about 0.7 s a GiB and thread. */
  static createSync(options: Omit<CreateOptions, keyof OpenOptions>): ShmSegment {
    return ShmSegment.#openSync(createRequest(options), options);
  }

  /**
   * Maps an existing segment of the same user. Freeing it leaves the segment to its owner.
   * @throws {ShmError} ENOENT, EACCES, ERANGE when it is smaller than `sizeBytes`.
   */
  static async attach(options: AttachOptions): Promise<ShmSegment> {
    return await ShmSegment.#open(attachRequest(options), options);
  }

  /** attach() that blocks. */
  static attachSync(options: Omit<AttachOptions, keyof OpenOptions>): ShmSegment {
    return ShmSegment.#openSync(attachRequest(options), options);
  }

  static async #open(request: OpenRequest, options: OpenOptions): Promise<ShmSegment> {
    const operation = `${request.kind === "attach" ? "attach" : "create"} segment`;
    using limit = openingSignal(operation, options);
    const hooks = hooksOf({ ...options, signal: limit.signal });
    return new ShmSegment(INTERNAL, request, await lmshm().open(request, hooks));
  }

  static #openSync(request: OpenRequest, options: object): ShmSegment {
    for (const name of OPEN_OPTIONS) {
      if ((options as OpenOptions)[name] === undefined) continue;
      throw new TypeError(`${name} is of no use in a call that blocks; await create() or attach()`);
    }
    return new ShmSegment(INTERNAL, request, lmshm().openSync(request));
  }

  /** Who has the name: nobody, a live owner, a dead one, or a stranger that is not lmshm. */
  static nameState(name: string): NameState {
    return lmshm().nameState(checkSegmentName(name));
  }

  /**
   * Unlinks every segment below /dev/shm that this user's dead processes left, unfinished ones
   * included.
   * @returns their names, with leading slashes.
   * @throws {ShmError} ENOENT: there is no /dev/shm; EPERM: Deno looks into it with -A only
   */
  static reclaimDead(): string[] {
    const user = ownUser();
    const taken: string[] = [];
    for (const name of shmFiles()) {
      const found = statSync(`${SHM_DIRECTORY}/${name}`, { throwIfNoEntry: false });
      // The sticky bit marks what lmshm made; see lmshm.h.
      if (!found || found.uid !== user || (found.mode & 0o1000) === 0) continue;
      if (lmshm().reclaim(name)) taken.push(`/${name}`);
    }
    return taken;
  }

  /** With its leading slash; null when anonymous. */
  get name(): string | null {
    return this.#name;
  }

  /** As it was asked for, not rounded up to pages. */
  get sizeBytes(): number {
    return this.#place.sizeBytes;
  }

  /** What the system really did: pages, pinning, NUMA, and why less than was wished. Frozen. */
  get facts(): SegmentFacts {
    return this.#facts;
  }

  /** The liblmshm.so that serves. */
  get libraryPath(): string {
    return lmshm().path;
  }

  /** Address of the first byte in this process. */
  get address(): bigint {
    return this.#place.address;
  }

  /**
   * A descriptor of the segment's file, for a child process to inherit; closed by free(). It has no
   * lock: who inherits it does not keep the name. Null where the system opens a named segment's file
   * once only (no /proc, no descriptor left).
   */
  get fd(): number | null {
    return this.#facts.fd;
  }

  /**
   * Which file this is: "<boot>:<device>:<inode>", of the kernel, the file system and in it. No other
   * has the same while this is mapped, whatever becomes of the name.
   */
  get identity(): string {
    return this.facts.identity;
  }

  /**
   * The identity of what the segment's name leads to now: another one when its owner was replaced,
   * null when the name is gone, or when there is none. @internal
   */
  lookUpName(): string | null {
    return this.name === null ? null : lmshm().nameIdentity(this.name.slice(1));
  }

  /** What page-locks it; "none": nothing does. */
  get pinnedBy(): PinnedBy {
    return this.#facts.pinnedBy;
  }

  /** True from the moment free() begins. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Bytes [offset, offset + byteLength) themselves, not a copy; empty after free(). The same range
   * gives the same array again while somebody keeps it. A runtime limits one array (Bun: 4 GiB);
   * offsets have no such limit.
   */
  bytes(
    offset = 0,
    byteLength: number = this.#place.sizeBytes - offset,
  ): Uint8Array<ArrayBuffer> {
    this.#checkView(offset, byteLength);
    const key = `${offset}:${byteLength}`;
    const known = this.#cached.get(key);
    const buffer = known?.buffer.deref();
    if (known !== undefined && buffer !== undefined && !buffer.detached) {
      let array = known.array.deref();
      if (array === undefined) {
        array = new Uint8Array(buffer);
        known.array = new WeakRef(array);
      }
      return array;
    }
    const array = new Uint8Array(this.#buffer(offset, byteLength));
    this.#sweepIfDue();
    this.#cached.set(key, { buffer: new WeakRef(array.buffer), array: new WeakRef(array) });
    return array;
  }

  /**
   * A view of its own that the caller can revoke alone, with revoke() or `using`; free() revokes it
   * too.
   */
  view(offset: number, byteLength: number): ShmView {
    this.#checkView(offset, byteLength);
    const buffer = this.#buffer(offset, byteLength);
    this.#recent.add(buffer);
    if (this.#recent.size > RECENT_VIEWS) {
      const [oldest] = this.#recent;
      this.#recent.delete(oldest!);
      this.#sweepIfDue();
      this.#older.add(new WeakRef(oldest!));
    }
    return new ShmView(buffer, offset, (detached) => {
      this.#recent.delete(buffer);
      return detached || this.#closed;
    });
  }

  /** A range for connectors; makes no view. */
  range(offset = 0, byteLength: number = this.#place.sizeBytes - offset): ShmRange {
    this.#mustBeOpen("make a range");
    checkRange(offset, byteLength, this.#place.sizeBytes);
    return Object.freeze({ segment: this, offset, byteLength, hold: this.holdRange });
  }

  /** Marks I/O in flight; free() refuses until the returned function was called. */
  hold(reason: string): () => void {
    this.#mustBeOpen("hold segment");
    return this.#holds.add(reason);
  }

  /**
   * Waits until another process, or another part of this one, wakes the 32-bit word at `offset` with
   * notify(), if the word is `expected` now; without blocking the event loop. Like
   * `Atomics.waitAsync()` on the word, and so are the results. Change a word with `Atomics` on
   * `new Int32Array(segment.bytes(offset, 4).buffer)`, then notify(); who waits looks again at the word.
   * Keeps the program alive. Each wait takes a sleeping thread and some 50 KB; there can be 1,024.
   * @param offset a multiple of 4
   * @param expected as a signed or an unsigned number
   * @throws {ShmError} ECANCELED: the segment was freed meanwhile; EBADF: it was freed before; EBUSY,
   *   ENOMEM: too many waits, or no thread to be had. RangeError for what is no word. The signal's
   *   reason.
   */
  async wait(offset: number, expected: number, options: WaitOptions = {}): Promise<WaitResult> {
    this.#mustBeOpen("wait for a word");
    return await this.#waits.wait(offset, expected, options);
  }

  /**
   * Wakes those that wait for the word at `offset`, in this and in other processes: by wait(), or by
   * futex(2) in another language.
   * @param count how many at most; who came first is woken first
   * @returns how many were woken.
   */
  notify(offset: number, count = Infinity): number {
    this.#mustBeOpen("notify");
    return this.#waits.notify(offset, count);
  }

  /**
   * Resolves when the owner of this segment, which attach() mapped, has freed it or is dead. The memory
   * stays as it is until this process frees it too; see docs/memory.md for what it holds then. Resolves
   * to "detached" when this process frees it first. Keeps the program alive.
   * @throws {ShmError} EINVAL: this process made the segment; ENOTSUP: it was not made by lmshm; EBADF:
   *   it was freed. The signal's reason.
   */
  async ownerGone(options: WaitOptions = {}): Promise<OwnerEnd> {
    this.#mustBeOpen("wait for the owner");
    return await this.#waits.ownerGone(options);
  }

  /**
   * Revokes all views, unpins, gives back the name (owner) and unmaps, without blocking the event
   * loop. Idempotent: a second call waits for the first.
   * @throws {ShmError} EBUSY while I/O is in flight; nothing has happened then.
   */
  free(): Promise<void> {
    if (this.#closing) return this.#closing;
    try {
      this.#beginClose();
    } catch (error) {
      return Promise.reject(error);
    }
    this.#closing = this.#native.close(this.#viewsMade).finally(this.#notOpen);
    return this.#closing;
  }

  /** free() that blocks: up to 0.3 s a GiB. While free() goes on, it waits for its end. */
  freeSync(): void {
    if (this.#closing) return this.#native.closeSync(this.#viewsMade);
    this.#beginClose();
    this.#closing = Promise.resolve();
    this.#notOpen();
    this.#native.closeSync(this.#viewsMade);
  }

  /** freeSync(). */
  [Symbol.dispose](): void {
    this.freeSync();
  }

  /** free(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.free();
  }

  #abandon(): void {
    this.#holds.clear();
    try {
      this.freeSync();
    } catch {
      // The process ends: the next owner of the name reclaims what is left.
    }
  }

  #checkView(offset: number, byteLength: number): void {
    this.#mustBeOpen("view segment");
    checkRange(offset, byteLength, this.#place.sizeBytes);
    if (byteLength > ffi.maxViewBytes) {
      throw new RangeError(
        `one view has at most ${ffi.maxViewBytes} bytes in this runtime, got ${byteLength}; ` +
          "take several",
      );
    }
  }

  #buffer(offset: number, byteLength: number): ArrayBuffer {
    if (byteLength === 0) return new ArrayBuffer(0);
    this.#viewsMade = true;
    return ffi.arrayBuffer(this.#place.address + BigInt(offset), byteLength);
  }

  /** Forgets what was collected, or revoked. */
  #sweepIfDue(): void {
    if (this.#cached.size + this.#older.size < this.#sweepAt) return;
    const gone = (buffer: ArrayBuffer | undefined) => buffer === undefined || buffer.detached;
    for (const [key, { buffer }] of this.#cached) {
      if (gone(buffer.deref())) this.#cached.delete(key);
    }
    for (const buffer of this.#older) if (gone(buffer.deref())) this.#older.delete(buffer);
    this.#sweepAt = Math.max(MIN_SWEEP, 2 * (this.#cached.size + this.#older.size));
  }

  #viewForOwner(offset: number, byteLength: number): ShmView {
    this.#checkView(offset, byteLength);
    const window = byteLength === 0 ? null : windows.open(this.#native, offset, byteLength);
    if (window === null) return this.view(offset, byteLength);
    const buffer = ffi.arrayBuffer(window.address, byteLength);
    const view: ShmView = new ShmView(buffer, offset, (detached) => {
      this.#windowed.delete(view);
      return window.close(detached);
    });
    this.#windowed.add(view);
    return view;
  }

  #beginClose(): void {
    if (this.#holds.size > 0) {
      const { reasons } = this.#holds;
      throw new ShmError(
        `${this.#name ?? "anonymous segment"} has ${this.#holds.size} operations in flight: ` +
          reasons.slice(0, 3).join(", "),
        {
          code: "EBUSY",
          operation: "free segment",
          hint: "Wait for them, or close the connector first",
          details: { inFlight: this.#holds.size, reasons },
        },
      );
    }
    this.#closed = true;
    this.#notAtExit();
    this.#waits.cancel();
    for (const view of this.#windowed) view.revoke();
    for (const buffer of this.#recent) detach(buffer);
    for (const { buffer } of this.#cached.values()) detachIfAny(buffer);
    for (const buffer of this.#older) detachIfAny(buffer);
    this.#recent.clear();
    this.#cached.clear();
    this.#older.clear();
  }

  #mustBeOpen(operation: string): void {
    if (!this.#closed) return;
    throw new ShmError(`${this.#name ?? "anonymous segment"} was freed`, {
      code: "EBADF",
      operation,
    });
  }
}
