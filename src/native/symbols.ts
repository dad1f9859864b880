// SPDX-License-Identifier: Apache-2.0
//
// The one table of what is called through FFI: every C function with its declaration beside it, in
// types that both runtimes share. The test native_symbols_test.ts holds the first table against
// lmshm.h and against the exports of the built library.
//
// Addresses and handles travel as bigint ("usize", "isize"), so that one table serves both
// runtimes and no address is ever rounded. Failures are negative errno values in-band.

/**
 * - `usize`  an unsigned 64-bit integer or an address; pass a bigint
 * - `isize`  a signed 64-bit result: a handle, an address, or -errno; arrives as a bigint
 * - `i32`    an int; a number
 * - `u32`    an unsigned int; a number
 * - `bytes`  the address of a Uint8Array that stays alive during the call, or null
 */
export type CType = "usize" | "isize" | "i32" | "u32" | "bytes" | "void";

interface CFunction {
  /** The declaration in C, without the semicolon. */
  readonly c: string;
  readonly args: readonly CType[];
  readonly result: CType;
  /** It blocks: Deno calls it on a thread of its own, for a promise. Bun cannot: never call it there. */
  readonly blocks?: true;
}

export type SymbolTable = Readonly<Record<string, CFunction>>;

type ArgOf<T extends CType> = T extends "usize" | "isize" ? bigint
  : T extends "bytes" ? Uint8Array | null
  : number;
type ResultOf<T extends CType> = T extends "usize" | "isize" ? bigint
  : T extends "void" ? undefined
  : number;

type ArgsOf<A extends readonly CType[]> = { -readonly [I in keyof A]: ArgOf<A[I]> };

/** The callable form of a table. */
export type Functions<T extends SymbolTable> = {
  readonly [K in keyof T]: (
    ...args: ArgsOf<T[K]["args"]>
  ) => T[K] extends { blocks: true } ? Promise<ResultOf<T[K]["result"]>> : ResultOf<T[K]["result"]>;
};

/** Everything that liblmshm.so exports (csrc/lmshm.map). */
export const LMSHM_SYMBOLS = {
  alloc_shm_pinned_ptr: {
    c: "intptr_t alloc_shm_pinned_ptr(size_t size, const char *shm_name)",
    args: ["usize", "bytes"],
    result: "isize",
  },
  free_shm_pinned_ptr: {
    c: "int free_shm_pinned_ptr(void *ptr, size_t size, const char *shm_name)",
    args: ["usize", "usize", "bytes"],
    result: "i32",
  },
  lmshm_version: {
    c: "const char *lmshm_version(void)",
    args: [],
    result: "usize",
  },
  lmshm_open: {
    c: "intptr_t lmshm_open(const lmshm_options *options, lmshm_info *info)",
    args: ["bytes", "bytes"],
    result: "isize",
  },
  lmshm_segment_info: {
    c: "int lmshm_segment_info(const lmshm_segment *segment, lmshm_info *info)",
    args: ["usize", "bytes"],
    result: "i32",
  },
  lmshm_close: {
    c: "int lmshm_close(lmshm_segment *segment, uint32_t flags)",
    args: ["usize", "u32"],
    result: "i32",
  },
  lmshm_open_start: {
    c: "intptr_t lmshm_open_start(const lmshm_options *options)",
    args: ["bytes"],
    result: "isize",
  },
  lmshm_close_start: {
    c: "intptr_t lmshm_close_start(lmshm_segment *segment, uint32_t flags)",
    args: ["usize", "u32"],
    result: "isize",
  },
  lmshm_job_poll: {
    c: "int lmshm_job_poll(lmshm_job *job, lmshm_info *info)",
    args: ["usize", "bytes"],
    result: "i32",
  },
  lmshm_job_cancel: {
    c: "void lmshm_job_cancel(lmshm_job *job)",
    args: ["usize"],
    result: "void",
  },
  lmshm_job_finish: {
    c: "intptr_t lmshm_job_finish(lmshm_job *job, lmshm_info *info)",
    args: ["usize", "bytes"],
    result: "isize",
  },
  lmshm_queue_open: {
    c: "intptr_t lmshm_queue_open(uint32_t flags)",
    args: ["u32"],
    result: "isize",
  },
  lmshm_queue_fd: {
    c: "int lmshm_queue_fd(lmshm_queue *queue)",
    args: ["usize"],
    result: "i32",
  },
  lmshm_queue_wait: {
    c: "int lmshm_queue_wait(lmshm_queue *queue, const lmshm_segment *segment, uint64_t offset, " +
      "uint32_t expected, uint64_t timeout_ms, uint64_t id)",
    args: ["usize", "usize", "usize", "u32", "usize", "usize"],
    result: "i32",
  },
  lmshm_queue_owner: {
    c: "int lmshm_queue_owner(lmshm_queue *queue, const lmshm_segment *segment, " +
      "uint64_t timeout_ms, uint64_t id)",
    args: ["usize", "usize", "usize", "usize"],
    result: "i32",
  },
  lmshm_queue_cancel: {
    c: "int lmshm_queue_cancel(lmshm_queue *queue, uint64_t id)",
    args: ["usize", "usize"],
    result: "i32",
  },
  lmshm_queue_reap: {
    c: "int lmshm_queue_reap(lmshm_queue *queue, lmshm_event *events, uint32_t count)",
    args: ["usize", "bytes", "u32"],
    result: "i32",
  },
  lmshm_queue_ready: {
    c: "int lmshm_queue_ready(lmshm_queue *queue, uint32_t timeout_ms)",
    args: ["usize", "u32"],
    result: "i32",
    blocks: true,
  },
  lmshm_queue_close: {
    c: "int lmshm_queue_close(lmshm_queue *queue)",
    args: ["usize"],
    result: "i32",
  },
  lmshm_notify: {
    c: "int lmshm_notify(const lmshm_segment *segment, uint64_t offset, uint32_t count)",
    args: ["usize", "usize", "u32"],
    result: "i32",
  },
  lmshm_window_reserve: {
    c: "intptr_t lmshm_window_reserve(const lmshm_segment *segment, void *at, size_t size)",
    args: ["usize", "usize", "usize"],
    result: "isize",
  },
  lmshm_window_map: {
    c: "int lmshm_window_map(const lmshm_segment *segment, uint64_t offset, size_t size, void *at)",
    args: ["usize", "usize", "usize", "usize"],
    result: "i32",
  },
  lmshm_window_unmap: {
    c: "int lmshm_window_unmap(const lmshm_segment *segment, void *at, size_t size)",
    args: ["usize", "usize", "usize"],
    result: "i32",
  },
  lmshm_name_state: {
    c: "int lmshm_name_state(const char *name)",
    args: ["bytes"],
    result: "i32",
  },
  lmshm_name_identity: {
    c: "int lmshm_name_identity(const char *name, char *identity, size_t size)",
    args: ["bytes", "bytes", "usize"],
    result: "i32",
  },
  lmshm_reclaim: {
    c: "int lmshm_reclaim(const char *name)",
    args: ["bytes"],
    result: "i32",
  },
} as const satisfies SymbolTable;

/** Of the C library; see c_library.ts. */
export const LIBC_SYMBOLS = {
  geteuid: { c: "uid_t geteuid(void)", args: [], result: "u32" },
  getsockopt: {
    c: "int getsockopt(int fd, int level, int name, void *value, socklen_t *length)",
    args: ["i32", "i32", "i32", "bytes", "bytes"],
    result: "i32",
  },
} as const satisfies SymbolTable;

/** Of the C library: what copies a file into memory; see in_memory.ts. */
export const MEMORY_FILE_SYMBOLS = {
  // memfd_create(), which the C library has under this name since glibc 2.27 only.
  syscall: {
    c: "long syscall(long number, const char *name, unsigned int flags)",
    args: ["usize", "bytes", "usize"],
    result: "isize",
  },
  fcntl: {
    c: "int fcntl(int fd, int command, int value)",
    args: ["i32", "i32", "i32"],
    result: "i32",
  },
  write: {
    c: "ssize_t write(int fd, const void *bytes, size_t count)",
    args: ["i32", "bytes", "usize"],
    result: "isize",
  },
  close: { c: "int close(int fd)", args: ["i32"], result: "i32" },
  access: { c: "int access(const char *path, int mode)", args: ["bytes", "i32"], result: "i32" },
  readlink: {
    c: "ssize_t readlink(const char *path, char *target, size_t size)",
    args: ["bytes", "bytes", "usize"],
    result: "isize",
  },
} as const satisfies SymbolTable;

/** Of the C library: becoming another program; see exec.ts. */
export const EXEC_SYMBOLS = {
  fcntl: {
    c: "int fcntl(int fd, int command, int value)",
    args: ["i32", "i32", "i32"],
    result: "i32",
  },
  execv: {
    c: "int execv(const char *path, char *const *arguments)",
    args: ["bytes", "bytes"],
    result: "i32",
  },
  signal: {
    c: "void (*signal(int number, void (*handler)(int)))(int)",
    args: ["i32", "usize"],
    result: "isize",
  },
  sigprocmask: {
    c: "int sigprocmask(int how, const sigset_t *set, sigset_t *old)",
    args: ["i32", "bytes", "bytes"],
    result: "i32",
  },
} as const satisfies SymbolTable;

/** Of the C library: what the system can do; see probe.ts. */
export const PROBE_SYMBOLS = {
  open: {
    c: "int open(const char *path, int flags, mode_t mode)",
    args: ["bytes", "i32", "u32"],
    result: "i32",
  },
  close: { c: "int close(int fd)", args: ["i32"], result: "i32" },
  fsetxattr: {
    c: "int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)",
    args: ["i32", "bytes", "bytes", "usize", "i32"],
    result: "i32",
  },
  getxattr: {
    c: "ssize_t getxattr(const char *path, const char *name, void *value, size_t size)",
    args: ["bytes", "bytes", "bytes", "usize"],
    result: "isize",
  },
  syscall: {
    c: "long syscall(long number, long first, long second, long third)",
    args: ["usize", "usize", "usize", "usize"],
    result: "isize",
  },
} as const satisfies SymbolTable;

/** Of the C library: what a plain program would do, to compare with; see plain_calls.ts. */
export const PLAIN_SYMBOLS = {
  open: {
    c: "int open(const char *path, int flags, mode_t mode)",
    args: ["bytes", "i32", "u32"],
    result: "i32",
  },
  close: { c: "int close(int fd)", args: ["i32"], result: "i32" },
  pread: {
    c: "ssize_t pread(int fd, void *bytes, size_t count, off_t offset)",
    args: ["i32", "usize", "usize", "usize"],
    result: "isize",
  },
  pwrite: {
    c: "ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)",
    args: ["i32", "usize", "usize", "usize"],
    result: "isize",
  },
  read: {
    c: "ssize_t read(int fd, void *bytes, size_t count)",
    args: ["i32", "usize", "usize"],
    result: "isize",
  },
  write: {
    c: "ssize_t write(int fd, const void *bytes, size_t count)",
    args: ["i32", "usize", "usize"],
    result: "isize",
  },
  fdatasync: { c: "int fdatasync(int fd)", args: ["i32"], result: "i32" },
  posix_fadvise: {
    c: "int posix_fadvise(int fd, off_t offset, off_t length, int advice)",
    args: ["i32", "usize", "usize", "i32"],
    result: "i32",
  },
  fcntl: {
    c: "int fcntl(int fd, int command, int value)",
    args: ["i32", "i32", "i32"],
    result: "i32",
  },
  mmap: {
    c: "void *mmap(void *address, size_t length, int access, int flags, int fd, off_t offset)",
    args: ["usize", "usize", "i32", "i32", "i32", "usize"],
    result: "isize",
  },
  munmap: {
    c: "int munmap(void *address, size_t length)",
    args: ["usize", "usize"],
    result: "i32",
  },
  mincore: {
    c: "int mincore(void *address, size_t length, unsigned char *pages)",
    args: ["usize", "usize", "bytes"],
    result: "i32",
  },
  memcpy: {
    c: "void *memcpy(void *to, const void *from, size_t count)",
    args: ["usize", "usize", "usize"],
    result: "isize",
  },
  getppid: { c: "pid_t getppid(void)", args: [], result: "i32" },
} as const satisfies SymbolTable;

/** What glibc has and musl has not; see bun.ts. */
export const GLIBC_SYMBOLS = {
  gnu_get_libc_version: { c: "const char *gnu_get_libc_version(void)", args: [], result: "usize" },
} as const satisfies SymbolTable;
