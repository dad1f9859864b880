// SPDX-License-Identifier: Apache-2.0
//
// The few C library functions that measuring needs and the runtimes do not offer: the CPU clock of
// another process, control of the page cache, and on which CPU a process runs. Called through the project's own FFI boundary,
// outside of what is timed.

import { ffi } from "../../../src/native/ffi.ts";
import type { Functions, SymbolTable } from "../../../src/native/symbols.ts";

const SYMBOLS = {
  clock_gettime: {
    c: "int clock_gettime(clockid_t clock, struct timespec *result)",
    args: ["i32", "bytes"],
    result: "i32",
  },
  open: {
    c: "int open(const char *path, int flags)",
    args: ["bytes", "i32"],
    result: "i32",
  },
  close: { c: "int close(int fd)", args: ["i32"], result: "i32" },
  syncfs: { c: "int syncfs(int fd)", args: ["i32"], result: "i32" },
  posix_fadvise: {
    c: "int posix_fadvise(int fd, off_t offset, off_t length, int advice)",
    args: ["i32", "usize", "usize", "i32"],
    result: "i32",
  },
  mmap: {
    c: "void *mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)",
    args: ["usize", "usize", "i32", "i32", "i32", "usize"],
    result: "isize",
  },
  munmap: { c: "int munmap(void *addr, size_t length)", args: ["usize", "usize"], result: "i32" },
  mincore: {
    c: "int mincore(void *addr, size_t length, unsigned char *vec)",
    args: ["usize", "usize", "bytes"],
    result: "i32",
  },
  sched_setaffinity: {
    c: "int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *mask)",
    args: ["i32", "usize", "bytes"],
    result: "i32",
  },
  sched_getaffinity: {
    c: "int sched_getaffinity(pid_t thread, size_t size, cpu_set_t *mask)",
    args: ["i32", "usize", "bytes"],
    result: "i32",
  },
} as const satisfies SymbolTable;

export type Libc = Functions<typeof SYMBOLS>;

let opened: Libc | undefined;

/** The C library of this process: glibc's name, then musl's. */
export function libc(): Libc {
  if (opened) return opened;
  let failure: unknown;
  for (const path of ["libc.so.6", "libc.so"]) {
    try {
      opened = ffi.open(path, SYMBOLS);
      return opened;
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}
