// SPDX-License-Identifier: Apache-2.0
//
// Segments without liblmshm: the C library's shm_open, mmap and friends, called one by one. Same
// ownership rules as lmshm.h (sticky bit, flock held by owner), same errors. What it cannot do it
// refuses by name: pinning for a GPU and NUMA policies. There is no second thread here, so the
// asynchronous form works in slices between which the event loop runs, and is slower.

import { readFileSync, statfsSync } from "node:fs";
import process from "node:process";
import { onExit } from "../at_exit.ts";
import { errnoName, ShmError } from "../errors.ts";
import { throwIfRefused } from "../permission.ts";
import type {
  NameState,
  NativeSegment,
  OpenHooks,
  OpenRequest,
  PinnedBy,
  SegmentBackend,
  SegmentFacts,
} from "./backend.ts";
import { ffi } from "./ffi.ts";
import { cString } from "./lmshm.ts";
import { openHint, SHM_DIRECTORY as DIRECTORY } from "./shm_directory.ts";
import { type Functions, LIBC_SYMBOLS, SHM_SYMBOLS } from "./symbols.ts";
import { ownUser } from "./users.ts";

type Libc = Functions<typeof LIBC_SYMBOLS> & Functions<typeof SHM_SYMBOLS>;

const O_RDWR = 0o2;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_CLOEXEC = 0o2000000;
const O_PATH = 0o10000000;
/** Differs between machines. */
const O_NOFOLLOW = process.arch === "arm64" ? 0o100000 : 0o400000;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
const PROT_READ = 1;
const PROT_READ_WRITE = 1 | 2;
const MAP_SHARED = 0x01;
const MAP_FIXED = 0x10;
const MAP_PRIVATE_ANONYMOUS = 0x02 | 0x20 | 0x4000; // and NORESERVE
const MAP_KEEP = MAP_PRIVATE_ANONYMOUS | MAP_FIXED;
const MAP_POPULATE = 0x8000;
const MADV_HUGEPAGE = 14;
const MADV_POPULATE_WRITE = 23;
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
const MFD_HUGE_SHIFT = 26;
const F_ADD_SEALS = 1033;
const SEALS = 1 | 2 | 4; // SEAL, SHRINK, GROW
const PUNCH_HOLE = 1 | 2; // KEEP_SIZE, PUNCH_HOLE
const MODE = 0o600;
const STICKY = 0o1000;
const MARK = MODE | STICKY;
const EEXIST = 17;
const ENOMEM = 12;
const ENOSPC = 28;
const ENOENT = 2;
const EINTR = 4;
const ENOSYS = 38;
const ECANCELED = 125;
const PAGE_BYTES = 4096;
/** About 5 ms of work, so that the event loop's longest gap stays short. */
const SLICE_BYTES = 8 * 2 ** 20;
/** Locking pages that are there already is quicker. */
const LOCK_SLICE_BYTES = 64 * 2 ** 20;
/** Of a window, what is mapped before it is touched; as in segment.c. */
const WINDOW_AT_ONCE_BYTES = 64 * 2 ** 20;
const ATTEMPTS = 16;
/** How often a lock is tried; each pause is twice the one before, 64 ms in all. */
const LOCK_TRIES = 8;
const LOCK_PAUSE_MS = 0.5;
const BOOT_ID = "/proc/sys/kernel/random/boot_id";
const AT_DEV = 0;
const AT_INO = 8;
const AT_SIZE = 48;
const STAT_BYTES = 144;
/** fstat's number, and where the kernel's struct stat has what differs between machines. */
const FSTAT: Readonly<Record<string, { number: bigint; mode: number; uid: number }>> = {
  x64: { number: 5n, mode: 24, uid: 28 },
  arm64: { number: 80n, mode: 16, uid: 24 },
};

interface Identity {
  readonly dev: bigint;
  readonly ino: bigint;
}

interface FileStat {
  readonly id: Identity;
  readonly mode: number;
  readonly uid: number;
  readonly size: number;
}

/** A new file with a name, locked. */
interface MadeFile {
  readonly fd: number;
  readonly id: Identity;
  /** What it is called now; null: nothing. */
  name: string | null;
  reclaimed: boolean;
  replaced: boolean;
}

/** One failing call. */
class CallError extends Error {
  readonly call: string;
  readonly errno: number;
  constructor(call: string, errno: number) {
    super(`${call}: ${errnoName(errno)}`);
    this.call = call;
    this.errno = errno;
  }
}

function same(a: Identity, b: Identity): boolean {
  return a.dev === b.dev && a.ino === b.ino;
}

/** The name under which a segment is made that is to replace what has `name`; as in name.c. */
function temporaryName(name: string): string {
  let hash = 14695981039346656037n; // FNV-1a
  for (const byte of new TextEncoder().encode(name)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 1099511628211n);
  }
  return `.lmshm-new-${hash.toString(16).padStart(16, "0")}`;
}

function pause(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}

function hugePageBytes(request: OpenRequest): number {
  return request.pages === "2M" ? 2 ** 21 : request.pages === "1G" ? 2 ** 30 : 0;
}

/** Runs a generator to its end, letting the event loop turn at each yield when asynchronous. */
function drain<T>(work: Generator<number, T>): T {
  let step = work.next();
  while (!step.done) step = work.next();
  return step.value;
}

async function drainAsync<T>(work: Generator<number, T>, onSlice?: (bytes: number) => void) {
  const cancelHook = onExit(() => void work.throw(new CallError("exit", ECANCELED)));
  try {
    let step = work.next();
    while (!step.done) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      try {
        onSlice?.(step.value);
      } catch (error) {
        step = work.throw(error);
        continue;
      }
      step = work.next();
    }
    return step.value;
  } finally {
    cancelHook();
  }
}

class LibcSegment implements NativeSegment {
  readonly facts: SegmentFacts;
  readonly #backend: LibcBackend;
  /** Of the mapping, with an owner's lock; facts.fd may be another. */
  readonly #fd: number;
  /** Null: it was made by others. */
  readonly #made: MadeFile | null;

  constructor(backend: LibcBackend, fd: number, made: MadeFile | null, facts: SegmentFacts) {
    this.#backend = backend;
    this.#fd = fd;
    this.#made = made;
    this.facts = facts;
  }

  closeSync(keepRange: boolean): void {
    drain(this.#release(keepRange));
  }

  async close(keepRange: boolean): Promise<void> {
    await drainAsync(this.#release(keepRange));
  }

  reserveWindow(at: bigint, bytes: number): bigint | null {
    const { libc } = this.#backend;
    const flags = at === 0n ? MAP_PRIVATE_ANONYMOUS : MAP_KEEP;
    const access = this.#backend.strict ? PROT_READ : PROT_READ_WRITE;
    const reserved = libc.mmap(at, BigInt(bytes), access, flags, -1, 0n);
    if (reserved !== -1n) return reserved;
    // A fault is better than to go on seeing the memory.
    if (at !== 0n) libc.munmap(at, BigInt(bytes));
    return null;
  }

  mapWindow(offset: number, bytes: number, at: bigint): boolean {
    const flags = MAP_SHARED | MAP_FIXED | (bytes <= WINDOW_AT_ONCE_BYTES ? MAP_POPULATE : 0);
    const mapped = this.#backend.libc.mmap(
      at,
      BigInt(bytes),
      PROT_READ_WRITE,
      flags,
      this.#fd,
      BigInt(offset),
    );
    return mapped !== -1n;
  }

  /** Every step runs whatever fails before it; the first failure is thrown at the end. */
  *#release(keepRange: boolean): Generator<number, void> {
    const { address, mappedBytes, fd } = this.facts;
    const libc = this.#backend.libc;
    let failure: unknown;
    const attempt = (step: () => void) => {
      try {
        step();
      } catch (error) {
        failure ??= error;
      }
    };
    if (this.#made !== null) attempt(() => this.#backend.unlinkMade(this.#made!));
    // The last unmapping of gigabytes frees them in one go, for a second; in slices the loop runs.
    if (this.#made !== null) {
      for (let at = 0; at < mappedBytes; at += SLICE_BYTES) {
        const slice = Math.min(SLICE_BYTES, mappedBytes - at);
        libc.fallocate(this.#fd, PUNCH_HOLE, BigInt(at), BigInt(slice));
        yield at + slice;
      }
    }
    attempt(() => {
      if (!keepRange) {
        this.#backend.call("munmap", libc.munmap(address, BigInt(mappedBytes)));
        return;
      }
      const kept = libc.mmap(address, BigInt(mappedBytes), PROT_READ_WRITE, MAP_KEEP, -1, 0n);
      // Without it the segment stays mapped: memory is kept, but nothing can fault.
      if (kept < 0n) throw new CallError("mmap", this.#backend.errno());
    });
    libc.flock(this.#fd, LOCK_UN);
    libc.close(this.#fd);
    if (fd !== null && fd !== this.#fd) libc.close(fd);
    if (failure instanceof CallError) {
      throw new ShmError(`${failure.call} failed`, {
        code: errnoName(failure.errno),
        errno: failure.errno,
        operation: "free segment",
      });
    }
    if (failure !== undefined) throw failure;
  }
}

class LibcBackend implements SegmentBackend {
  readonly kind = "libc";
  readonly path: string;
  readonly reason: string;
  readonly libc: Libc;
  /** The system counts memory that could be written to, touched or not. */
  readonly strict = countsReserved();

  constructor(path: string, reason: string, libc: Libc) {
    this.path = path;
    this.reason = reason;
    this.libc = libc;
  }

  /** Must be read right after the failing call. */
  errno(): number {
    return new DataView(ffi.arrayBuffer(this.libc.__errno_location(), 4)).getInt32(0, true);
  }

  /** The result of a call that answers -1 on failure. */
  call(name: string, result: number): number {
    if (result < 0) throw new CallError(name, this.errno());
    return result;
  }

  openSync(request: OpenRequest): NativeSegment {
    return this.#translate(request, () => drain(this.#open(request)));
  }

  async open(request: OpenRequest, { signal, onProgress }: OpenHooks): Promise<NativeSegment> {
    signal?.throwIfAborted();
    try {
      return await drainAsync(this.#open(request), (bytes) => {
        signal?.throwIfAborted();
        onProgress?.(bytes, request.sizeBytes);
      });
    } catch (error) {
      return this.#translate(request, () => {
        throw error;
      });
    }
  }

  nameState(name: string): NameState {
    const found = this.#statName(name);
    if (!found) return "free";
    if (found.uid !== ownUser()) {
      throw new ShmError(`segment /${name} belongs to user ${found.uid}`, {
        code: "EACCES",
        errno: 13,
        operation: "look up segment",
      });
    }
    if ((found.mode & STICKY) === 0) return "foreign";
    const fd = this.libc.shm_open(cString(name), O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return "free";
    const dead = this.libc.flock(fd, LOCK_EX | LOCK_NB) === 0;
    this.libc.close(fd);
    return dead ? "dead" : "live";
  }

  nameIdentity(name: string): string | null {
    const found = this.#statName(name);
    return found === null ? null : this.#identity(found.id);
  }

  reclaim(name: string): boolean {
    return this.#take(name, false, () => this.#unlink(name)) === "dead";
  }

  #unlink(name: string): void {
    this.call("shm_unlink", this.libc.shm_unlink(cString(name)));
  }

  /** Gives back a name, if it still is this file's. */
  unlinkMade({ name, id }: MadeFile): void {
    const now = name === null ? null : this.#statName(name);
    if (now && same(now.id, id)) this.#unlink(name!);
  }

  fstat(fd: number): FileStat {
    const machine = FSTAT[process.arch];
    if (!machine) throw new CallError("fstat", ENOSYS);
    const bytes = new Uint8Array(new ArrayBuffer(STAT_BYTES));
    if (this.libc.syscall(machine.number, BigInt(fd), bytes) < 0n) {
      throw new CallError("fstat", this.errno());
    }
    const view = new DataView(bytes.buffer);
    return {
      id: { dev: view.getBigUint64(AT_DEV, true), ino: view.getBigUint64(AT_INO, true) },
      mode: view.getUint32(machine.mode, true),
      uid: view.getUint32(machine.uid, true),
      size: Number(view.getBigInt64(AT_SIZE, true)),
    };
  }

  /** Not by the runtime: Deno looks below /dev and /proc with all permissions only. */
  stat(path: string): FileStat | null {
    const fd = this.libc.open(cString(path), O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
      const errno = this.errno();
      if (errno === ENOENT) return null;
      throw new ShmError(`${path} cannot be looked at`, {
        code: errnoName(errno),
        errno,
        operation: "look up segment",
      });
    }
    try {
      return this.fstat(fd);
    } finally {
      this.libc.close(fd);
    }
  }

  #statName(name: string): FileStat | null {
    return this.stat(`${DIRECTORY}/${name}`);
  }

  #bootId(): string {
    const fd = this.libc.open(cString(BOOT_ID), O_CLOEXEC);
    if (fd < 0) return "-";
    const bytes = new Uint8Array(new ArrayBuffer(64));
    const length = Number(this.libc.read(fd, bytes, BigInt(bytes.length)));
    this.libc.close(fd);
    const text = new TextDecoder().decode(bytes.subarray(0, Math.max(0, length)));
    const digits = text.replace(/[-\n]/g, "");
    return digits.length === 32 ? digits : "-";
  }

  #identity({ dev, ino }: Identity): string {
    return `${this.#bootId()}:${dev}:${ino}`;
  }

  /** A descriptor of the file without the lock of `fd`; null where that cannot be had. */
  #shared(fd: number): number | null {
    const shared = this.libc.open(cString(`/proc/self/fd/${fd}`), O_RDWR | O_CLOEXEC);
    return shared < 0 ? null : shared;
  }

  /** flock() that waits for those who only look, or are about to unlink. */
  #lock(fd: number): boolean {
    for (let tries = 0, ms = LOCK_PAUSE_MS; tries < LOCK_TRIES; tries++, ms *= 2) {
      if (tries > 0) pause(ms);
      if (this.libc.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
    }
    return false;
  }

  /**
   * Does `then` with what has the name, while that is locked, if its owner is dead, or if it is a
   * stranger's and `foreignToo`. Null: it is neither, and nothing was done.
   */
  #take(
    name: string,
    foreignToo: boolean,
    then: (foreign: boolean) => void,
  ): "dead" | "foreign" | null {
    const fd = this.libc.shm_open(cString(name), O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return null;
    try {
      const opened = this.fstat(fd);
      if (opened.uid !== ownUser()) return null;
      const foreign = (opened.mode & STICKY) === 0;
      if (foreign && !foreignToo) return null;
      if (this.libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) return null;
      const now = this.#statName(name);
      if (!now || !same(now.id, opened.id)) return null;
      then(foreign);
      return foreign ? "foreign" : "dead";
    } finally {
      this.libc.close(fd);
    }
  }

  #translate<T>(request: OpenRequest, work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      const what = request.name === null ? "anonymous segment" : `segment /${request.name}`;
      const noSpace = error.errno === ENOSPC;
      const free = freeBytes();
      const owner = request.name === null ? undefined : this.#statName(request.name)?.uid;
      throw new ShmError(
        noSpace
          ? `${what}: ${request.sizeBytes} bytes requested, ${free} bytes free`
          : `${what}: ${error.call} failed`,
        {
          code: errnoName(error.errno),
          errno: error.errno,
          operation: `${request.kind === "attach" ? "attach" : "create"} segment`,
          hint: openHint(errnoName(error.errno), request, {
            isShmMissing: this.stat(DIRECTORY) === null,
            isOthers: owner !== undefined && owner !== ownUser(),
          }),
          details: {
            name: request.name,
            requestedBytes: request.sizeBytes,
            ...(noSpace ? { availableBytes: free } : {}),
            call: error.call,
          },
        },
      );
    }
  }

  #refuse(what: string): never {
    throw new ShmError(`${what} needs liblmshm, and this process runs without it`, {
      code: "ENOTSUP",
      operation: "open segment",
      hint: `liblmshm was not loaded because: ${this.reason}`,
    });
  }

  *#open(request: OpenRequest): Generator<number, NativeSegment> {
    if (request.pin === "require") this.#refuse('pin: "require"');
    if (request.numa) this.#refuse("a NUMA policy");
    if (request.kind === "attach") return yield* this.#attach(request);
    const hugeBytes = hugePageBytes(request);
    if (hugeBytes && request.kind !== "anonymous") throw new CallError("memfd_create", 22);
    const size = hugeBytes ? roundUp(request.sizeBytes, hugeBytes) : request.sizeBytes;
    if (request.kind === "create" && size > freeBytes()) throw new CallError("fallocate", ENOSPC);
    if (!hugeBytes && size > availableMemoryBytes()) throw new CallError("fallocate", ENOMEM);
    const made = request.kind === "anonymous" ? this.#memfd(hugeBytes) : this.#create(request);
    const mapped = roundUp(size, hugeBytes || PAGE_BYTES);
    let address = -1n;
    const { fd } = made;
    try {
      this.#retry("ftruncate", () => this.libc.ftruncate(fd, BigInt(size)));
      if (request.kind === "anonymous") this.call("fcntl", this.libc.fcntl(fd, F_ADD_SEALS, SEALS));
      const populate = function* (this: LibcBackend): Generator<number> {
        for (let at = 0; at < size; at += SLICE_BYTES) {
          const slice = Math.min(SLICE_BYTES, size - at);
          const errno = this.libc.posix_fallocate(fd, BigInt(at), BigInt(slice));
          if (errno === EINTR) at -= SLICE_BYTES;
          else if (errno !== 0) throw new CallError("posix_fallocate", errno);
          else yield at + slice;
        }
      };
      yield* populate.call(this);
      address = this.#map(fd, mapped);
      if (request.pages === "transparent") {
        this.libc.madvise(address, BigInt(mapped), MADV_HUGEPAGE);
      }
      for (let at = 0; at < mapped; at += SLICE_BYTES) {
        const slice = Math.min(SLICE_BYTES, mapped - at);
        // Kernels before 5.14 do not know it; the pages exist already, so nothing is lost.
        this.libc.madvise(address + BigInt(at), BigInt(slice), MADV_POPULATE_WRITE);
        yield Math.min(at + slice, size);
      }
      const pinnedBy = yield* this.#pin(request, address, mapped);
      if (request.kind === "create") this.#publish(made, request.name!);
      const facts = this.#facts(request, {
        address,
        sizeBytes: size,
        mappedBytes: mapped,
        pageBytes: hugeBytes || PAGE_BYTES,
        hugeBytes: hugeBytes ? mapped : 0,
        pinnedBy,
        owner: request.kind === "create",
        reclaimed: made.reclaimed,
        replaced: made.replaced,
        fd: request.kind === "anonymous" ? fd : this.#shared(fd),
        identity: this.#identity(made.id),
      });
      return new LibcSegment(this, fd, made, facts);
    } catch (error) {
      try {
        this.unlinkMade(made);
      } catch {
        // What failed first is told. The name is a dead owner's from now on.
      }
      if (address > 0n) this.libc.munmap(address, BigInt(mapped));
      this.libc.close(fd);
      throw error;
    }
  }

  *#attach(request: OpenRequest): Generator<number, NativeSegment> {
    const fd = request.name === null
      ? this.call("fcntl", this.libc.fcntl(request.fd!, 1030, /* F_DUPFD_CLOEXEC */ 3))
      : this.call("shm_open", this.libc.shm_open(cString(request.name), O_RDWR | O_CLOEXEC, 0));
    try {
      const found = this.fstat(fd);
      if (found.uid !== ownUser()) throw new CallError("shm_open", 13);
      const size = request.sizeBytes || found.size;
      if (size === 0 || size > found.size) {
        throw new ShmError(
          `the segment has ${found.size} bytes, ${request.sizeBytes} were asked for`,
          {
            code: "ERANGE",
            errno: 34,
            operation: "attach segment",
            details: { name: request.name, requestedBytes: size, sizeBytes: found.size },
          },
        );
      }
      const mapped = roundUp(size, PAGE_BYTES);
      const address = this.#map(fd, mapped);
      const facts = this.#facts(request, {
        address,
        sizeBytes: size,
        mappedBytes: mapped,
        pageBytes: PAGE_BYTES,
        hugeBytes: 0,
        pinnedBy: yield* this.#pin(request, address, mapped),
        owner: false,
        reclaimed: false,
        replaced: false,
        fd,
        identity: this.#identity(found.id),
      });
      return new LibcSegment(this, fd, null, facts);
    } catch (error) {
      this.libc.close(fd);
      throw error;
    }
  }

  #facts(
    request: OpenRequest,
    facts: Omit<
      SegmentFacts,
      "gpuDevices" | "gpuError" | "gpuLibrary" | "pinPieceBytes" | "populateThreads" | "message"
    >,
  ): SegmentFacts {
    const pinning = request.pin === "auto" && facts.pinnedBy !== "none"
      ? "without liblmshm no GPU is asked"
      : request.pin === "auto"
      ? "without liblmshm no GPU is asked, and mlock is not allowed (ulimit -l)"
      : "";
    const pages = request.pages === "transparent"
      ? "without liblmshm it is not known whether huge pages came"
      : "";
    const message = [pinning, pages].filter((words) => words !== "").join("; ");
    const noGpu = { gpuDevices: 0, gpuError: 0, gpuLibrary: "", pinPieceBytes: 0 };
    return Object.freeze({ ...facts, ...noGpu, populateThreads: 1, message });
  }

  *#pin(request: OpenRequest, address: bigint, mapped: number): Generator<number, PinnedBy> {
    if (request.pin === "none") return "none";
    for (let at = 0; at < mapped; at += LOCK_SLICE_BYTES) {
      const slice = Math.min(LOCK_SLICE_BYTES, mapped - at);
      if (this.libc.mlock(address + BigInt(at), BigInt(slice)) !== 0) {
        this.libc.munlock(address, BigInt(mapped));
        return "none";
      }
      yield request.sizeBytes;
    }
    return "mlock";
  }

  #map(fd: number, bytes: number): bigint {
    const address = this.libc.mmap(0n, BigInt(bytes), PROT_READ_WRITE, MAP_SHARED, fd, 0n);
    if (address === -1n) throw new CallError("mmap", this.errno());
    return address;
  }

  #retry(name: string, call: () => number): void {
    for (;;) {
      if (call() === 0) return;
      const errno = this.errno();
      if (errno !== EINTR) throw new CallError(name, errno);
    }
  }

  #memfd(hugeBytes: number): MadeFile {
    const huge = hugeBytes ? MFD_HUGETLB | (Math.log2(hugeBytes) << MFD_HUGE_SHIFT) : 0;
    const flags = (MFD_CLOEXEC | MFD_ALLOW_SEALING | huge) >>> 0;
    const fd = this.call("memfd_create", this.libc.memfd_create(cString("lmshm"), flags));
    return { fd, id: this.fstat(fd).id, name: null, reclaimed: false, replaced: false };
  }

  /** A stranger's name is taken later, by #publish(): until then the file has one of its own. */
  #create(request: OpenRequest): MadeFile {
    let name = request.name!;
    let reclaimed = false;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const made = this.#createFile(name);
      if (made === "lost") continue;
      if (made !== "taken") return Object.assign(made, { reclaimed });
      if (request.ifExists === "fail") throw new CallError("shm_open", EEXIST);
      const mayReplace = request.ifExists === "replace" && name === request.name;
      const taken = this.#take(name, mayReplace, (foreign) => foreign || this.#unlink(name));
      if (taken === "foreign") {
        name = temporaryName(name);
      } else if (taken === "dead") {
        reclaimed ||= name === request.name;
      } else if (this.#statName(name)) {
        // Somebody alive, or a stranger, has it.
        throw new CallError("shm_open", EEXIST);
      }
    }
    throw new CallError("shm_open", EEXIST);
  }

  /** "lost": while it was not locked it was taken for a dead owner's. */
  #createFile(name: string): MadeFile | "taken" | "lost" {
    const fd = this.libc.shm_open(cString(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, MARK);
    if (fd < 0) {
      const errno = this.errno();
      if (errno === EEXIST) return "taken";
      throw new CallError("shm_open", errno);
    }
    try {
      const { id } = this.fstat(fd);
      const made = { fd, id, name, reclaimed: false, replaced: false };
      const locked = this.#lock(fd);
      const now = this.#statName(name);
      if (!locked || !now || !same(now.id, id)) {
        this.libc.close(fd);
        return "lost";
      }
      // Whatever the umask took.
      if (this.libc.fchmod(fd, MARK) === 0) return made;
      const errno = this.errno();
      this.unlinkMade(made);
      throw new CallError("fchmod", errno);
    } catch (error) {
      this.libc.close(fd);
      throw error;
    }
  }

  /** Gives a complete segment the name that it should have. */
  #publish(made: MadeFile, name: string): void {
    if (made.name === name) return;
    const from = cString(`${DIRECTORY}/${made.name}`);
    const to = cString(`${DIRECTORY}/${name}`);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const taken = this.#take(name, true, () => this.call("rename", this.libc.rename(from, to)));
      if (taken === null) {
        if (this.#statName(name)) break;
        // Gone by itself; link() takes the name from nobody.
        if (this.libc.link(from, to) !== 0) {
          const errno = this.errno();
          if (errno === EEXIST) continue;
          throw new CallError("link", errno);
        }
        this.unlinkMade(made);
      }
      made.name = name;
      made.reclaimed ||= taken === "dead";
      made.replaced = taken === "foreign";
      return;
    }
    throw new CallError("rename", EEXIST);
  }
}

function countsReserved(): boolean {
  try {
    return readFileSync("/proc/sys/vm/overcommit_memory", "latin1").startsWith("2");
  } catch {
    return false;
  }
}

/** Free bytes of /dev/shm; without such a file system nothing can be said, and nothing is refused. */
function freeBytes(): number {
  try {
    const { bavail, bsize } = statfsSync(DIRECTORY);
    return Number(bavail) * Number(bsize);
  } catch {
    return Number.MAX_SAFE_INTEGER;
  }
}

/**
 * Memory that the kernel could still give, swap included. Beyond it stands the OOM killer, which
 * does not answer with an error.
 */
function availableMemoryBytes(): number {
  try {
    const info = readFileSync("/proc/meminfo", "latin1");
    const kib = (field: string) =>
      Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(info)?.[1] ?? 0);
    return (kib("MemAvailable") + kib("SwapFree")) * 1024 || Number.MAX_SAFE_INTEGER;
  } catch {
    return Number.MAX_SAFE_INTEGER;
  }
}

/** @throws {ShmError} ELIBBAD where the C library cannot be reached either; EPERM: Deno refuses it. */
export function openLibc(reason: string): SegmentBackend {
  const failures: string[] = [];
  for (const path of ["libc.so.6", "libc.so"]) {
    try {
      const base = ffi.open(path, LIBC_SYMBOLS);
      const shm = openShm(path);
      return new LibcBackend(path, reason, { ...base, ...shm });
    } catch (error) {
      throwIfRefused(error, `loading ${path}`, "load library");
      failures.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new ShmError(`neither liblmshm nor the C library can be used: ${failures.join("; ")}`, {
    code: "ELIBBAD",
    operation: "load library",
    hint: `liblmshm was not loaded because: ${reason}`,
  });
}

function openShm(path: string): Functions<typeof SHM_SYMBOLS> {
  try {
    return ffi.open(path, SHM_SYMBOLS);
  } catch {
    return ffi.open("librt.so.1", SHM_SYMBOLS);
  }
}
