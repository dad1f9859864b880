// SPDX-License-Identifier: Apache-2.0
//
// What one thread of a plain program can do with memory, files and a pipe: the limits that lmshm bench
// compares with. Each is a loop of a few system calls, called from here by FFI, which adds some 30 ns a
// call. All of it blocks, and none of it is used by the library.

import process from "node:process";
import { ShmError } from "../errors.ts";
import { cString, plainCalls } from "./c_library.ts";

const O_RDONLY = 0;
const O_WRONLY = 1;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
const O_CLOEXEC = 0o2000000;
const O_DIRECT = process.arch === "arm64" ? 0o200000 : 0o40000;
const O_NONBLOCK = 0o4000;
const F_GETFL = 3;
const F_SETFL = 4;
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_ANONYMOUS = 0x20;
const MAP_POPULATE = 0x8000;
const POSIX_FADV_DONTNEED = 4;
const PAGE_BYTES = 4096;

function failed(what: string, hint: string): ShmError {
  return new ShmError(`${what} failed`, { code: "EIO", operation: "measure a limit", hint });
}

/** Shared memory of the kernel without a name, all pages there: one mmap(MAP_POPULATE). */
export class PlainMemory implements Disposable {
  readonly address: bigint;
  readonly byteLength: number;
  #mapped = true;

  /** Blocks until it is populated. @throws {ShmError} EIO: there is not so much memory. */
  constructor(byteLength: number) {
    const flags = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE;
    this.byteLength = byteLength;
    this.address = plainCalls().mmap(
      ...[0n, BigInt(byteLength), PROT_READ | PROT_WRITE, flags, -1, 0n] as const,
    );
    if (this.address <= 0n) throw failed(`mmap of ${byteLength} bytes`, "Is there so much memory?");
  }

  [Symbol.dispose](): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    plainCalls().munmap(this.address, BigInt(this.byteLength));
  }
}

/** memcpy(3) of the C library. */
export function copyMemory(to: bigint, from: bigint, byteLength: number): void {
  plainCalls().memcpy(to, from, BigInt(byteLength));
}

function withFile<T>(path: Uint8Array, flags: number, use: (fd: number) => T): T {
  const { open, close } = plainCalls();
  const fd = open(path, flags | O_CLOEXEC, 0o600);
  if (fd < 0) {
    throw failed(`opening ${shown(path)}`, "Is it still there, and may it be written to?");
  }
  try {
    return use(fd);
  } finally {
    close(fd);
  }
}

function shown(path: Uint8Array): string {
  return new TextDecoder().decode(path.subarray(0, -1));
}

/** A file's name as C reads it, made once: not a part of what is measured. */
export function plainPath(path: string): Uint8Array {
  return cString(path);
}

/** open, pwrite, close: a new file with the bytes at `address`. `direct`: past the page cache. */
export function plainWrite(
  path: Uint8Array,
  address: bigint,
  byteLength: number,
  direct = false,
): void {
  withFile(path, O_WRONLY | O_CREAT | O_EXCL | (direct ? O_DIRECT : 0), (fd) => {
    for (let done = 0; done < byteLength;) {
      const at = BigInt(done);
      const written = plainCalls().pwrite(fd, address + at, BigInt(byteLength - done), at);
      if (written <= 0n) throw failed(`writing ${shown(path)}`, "Is the disk full?");
      done += Number(written);
    }
  });
}

/** open, pread, close: all of a file into the memory at `address`. */
export function plainRead(
  path: Uint8Array,
  address: bigint,
  byteLength: number,
  direct = false,
): void {
  withFile(path, O_RDONLY | (direct ? O_DIRECT : 0), (fd) => {
    for (let done = 0; done < byteLength;) {
      const at = BigInt(done);
      const got = plainCalls().pread(fd, address + at, BigInt(byteLength - done), at);
      if (got <= 0n) throw failed(`reading ${shown(path)}`, "Did the file become shorter?");
      done += Number(got);
    }
  });
}

/** Waits until the file's bytes are on the disk. */
export function settle(path: Uint8Array): void {
  withFile(path, O_RDONLY, (fd) => {
    if (plainCalls().fdatasync(fd) !== 0) {
      throw failed(`syncing ${shown(path)}`, "Is the disk full?");
    }
  });
}

/**
 * Throws the file's pages out of the page cache; they must have been settled.
 * @returns the share of them that is in it all the same, 0 to 1: file systems in memory have no other
 * place.
 */
export function dropFromCache(path: Uint8Array, byteLength: number): number {
  const { posix_fadvise, mmap, munmap, mincore } = plainCalls();
  return withFile(path, O_RDONLY, (fd) => {
    posix_fadvise(fd, 0n, 0n, POSIX_FADV_DONTNEED);
    const size = BigInt(byteLength);
    const address = mmap(0n, size, PROT_READ, MAP_SHARED, fd, 0n);
    if (address <= 0n) return 0;
    const pages = new Uint8Array(new ArrayBuffer(Math.ceil(byteLength / PAGE_BYTES)));
    const told = mincore(address, size, pages) === 0;
    munmap(address, size);
    return told ? pages.reduce((sum, page) => sum + (page & 1), 0) / pages.length : 0;
  });
}

/** Whether the process that started this one is still its parent. */
export function parentIs(pid: number): boolean {
  return plainCalls().getppid() === pid;
}

/** Answers whatever comes on stdin by the same on stdout, until stdin ends. */
export function echoUntilTheEnd(): void {
  const { read, write, fcntl } = plainCalls();
  for (const fd of [0, 1]) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) & ~O_NONBLOCK);
  using memory = new PlainMemory(PAGE_BYTES);
  for (;;) {
    const got = read(0, memory.address, BigInt(PAGE_BYTES));
    if (got <= 0n) return;
    if (write(1, memory.address, got) !== got) return;
  }
}
