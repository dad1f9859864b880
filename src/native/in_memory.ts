// SPDX-License-Identifier: Apache-2.0
//
// A part that cannot be used where it lies: what an executable carries in itself is no file for the
// kernel, and what has no execute permission does not start. It is copied into memory (a memfd),
// which lives as long as the process, and is used from there. Nothing is written to disk.
//
// A thread (Worker) cannot hand its copy to another one, nor close it when it ends. So a copy is
// sealed when it is complete, and named after its contents: threads find it among the descriptors.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import process from "node:process";
import { knownCode, ShmError } from "../errors.ts";
import { throwIfRefused } from "../permission.ts";
import { cString, memoryFileCalls } from "./c_library.ts";
import type { Part } from "./locate.ts";

const SYS_MEMFD_CREATE: Readonly<Record<string, bigint>> = { x64: 319n, arm64: 279n };
const MFD_CLOEXEC = 1n;
const MFD_ALLOW_SEALING = 2n;
const MFD_EXEC = 16n;
const F_DUPFD_CLOEXEC = 1030;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
/** F_SEAL_SEAL, _SHRINK, _GROW and _WRITE: its bytes are what they are. */
const SEALED = 1 | 2 | 4 | 8;
/** A child's descriptors below are its own. */
const LEAST_FD = 10;
/** Those above are not looked at: some milliseconds are enough. */
const MOST_FD = 4096;
const NAME_BYTES = 256;
const F_OK = 0;
const X_OK = 1;

const copies = new Map<string, string>();

/**
 * The path of a copy of the part in memory; the same for the same file. It leads there from this
 * process, and from a child of it when that is started.
 * @throws {ShmError} EACCES when this system lets no program run from memory, ENOMEM when there is
 *   none
 */
export function inMemory(part: Part, file: string): string {
  let path = copies.get(file);
  if (path === undefined) copies.set(file, path = copy(part, file));
  return path;
}

function copy(part: Part, file: string): string {
  const bytes = read(part, file);
  const name = `lmshm-${part}-${createHash("sha256").update(bytes).digest("hex").slice(0, 32)}`;
  const fd = find(name) ?? make(part, name, bytes);
  // Not by the number of the process: a process with file capabilities lets no other one in, and a
  // child that is about to become the worker has the descriptor itself.
  const path = `/proc/self/fd/${fd}`;
  const { access } = memoryFileCalls();
  if (access(cString(path), F_OK) !== 0) {
    throw refusal(part, "/proc is not mounted, and what is in memory is reached through it", {
      hint: "Mount it (mount -t proc proc /proc)",
    });
  }
  if (part === "worker" && access(cString(path), X_OK) !== 0) {
    throw refusal(part, "this system lets no program run from memory (vm.memfd_noexec is 2)", {
      hint: "Put the worker beside the program as a file, and name it in LMSHM_WORKER or " +
        "workerBinary; or have the system's owner set vm.memfd_noexec to 1",
    });
  }
  return path;
}

function read(part: Part, file: string): Uint8Array<ArrayBuffer> {
  try {
    return readFileSync(file);
  } catch (error) {
    throwIfRefused(error, `reading ${file}`, `locate ${part}`);
    const { code, message } = error as NodeJS.ErrnoException;
    throw new ShmError(`the ${part} cannot be read: ${message}`, {
      code: knownCode(code) ?? "EIO",
      operation: `locate ${part}`,
      hint: code === "EACCES" ? `Give it its permissions (chmod 755 ${file})` : undefined,
      cause: error,
    });
  }
}

/** The copy that another thread of this process has made, also one that has ended. */
function find(name: string): number | null {
  const { fcntl, readlink } = memoryFileCalls();
  const wanted = `/memfd:${name} (deleted)`;
  const target = new Uint8Array(new ArrayBuffer(NAME_BYTES));
  for (let fd = LEAST_FD; fd < MOST_FD; fd++) {
    const seals = fcntl(fd, F_GET_SEALS, 0);
    if (seals < 0 || (seals & SEALED) !== SEALED) continue;
    const length = Number(readlink(cString(`/proc/self/fd/${fd}`), target, BigInt(NAME_BYTES)));
    if (new TextDecoder().decode(target.subarray(0, Math.max(0, length))) === wanted) return fd;
  }
  return null;
}

function make(part: Part, name: string, bytes: Uint8Array<ArrayBuffer>): number {
  const fd = create(part, name);
  fill(part, fd, bytes);
  memoryFileCalls().fcntl(fd, F_ADD_SEALS, SEALED);
  return fd;
}

/** An empty file in memory, with a number that no child uses for something else. */
function create(part: Part, name: string): number {
  const { syscall, fcntl, close } = memoryFileCalls();
  const number = SYS_MEMFD_CREATE[process.arch];
  if (number === undefined) throw refusal(part, `${process.arch} is not known here`);
  // A library need not be executable to be loaded. Before Linux 6.3 there is no MFD_EXEC.
  const tries = part === "worker" ? [MFD_EXEC, 0n] : [0n];
  for (const more of tries) {
    const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | more;
    const fd = Number(syscall(number, cString(name), flags));
    if (fd < 0) continue;
    if (fd >= LEAST_FD) return fd;
    const high = fcntl(fd, F_DUPFD_CLOEXEC, LEAST_FD);
    close(fd);
    if (high >= 0) return high;
  }
  throw refusal(part, "the system makes no file in memory (memfd_create)", {
    code: "ENOMEM",
    hint: "There may be too many open files (ulimit -n), or a filter of system calls refuses it; " +
      "LMSHM_LIBRARY and LMSHM_WORKER name files on disk instead",
  });
}

function fill(part: Part, fd: number, bytes: Uint8Array<ArrayBuffer>): void {
  const { write, close } = memoryFileCalls();
  for (let done = 0; done < bytes.length;) {
    const rest = bytes.subarray(done);
    const written = Number(write(fd, rest, BigInt(rest.length)));
    if (written <= 0) {
      close(fd);
      throw refusal(part, `there is no room for its ${bytes.length} bytes`, {
        code: "ENOMEM",
        hint: "Raise the memory limit of this process or its container",
      });
    }
    done += written;
  }
}

function refusal(
  part: Part,
  why: string,
  { code = "EACCES", hint }: { code?: "EACCES" | "ENOMEM"; hint?: string } = {},
): ShmError {
  return new ShmError(`the ${part} cannot be used from memory: ${why}`, {
    code,
    operation: `locate ${part}`,
    hint,
  });
}
