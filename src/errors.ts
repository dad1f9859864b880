// SPDX-License-Identifier: Apache-2.0
//
// The one error class of the library. Wrong types throw TypeError and wrong ranges RangeError,
// both before any native call; everything that the system, the worker or the storage refuses is a
// ShmError with a stable `code`.

/** Facts about a failure: sizes in bytes, names, paths, process ids. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

export interface ShmErrorOptions {
  /** Stable and upper case: an errno name ("ENOSPC") or one of the library's own ("EWORKER"). */
  code: string;
  /** What was being done, e.g. "create segment". */
  operation: string;
  /** The kernel's number, positive, when the failure came from a system call. */
  errno?: number | undefined;
  /** What to do about it, in one sentence. */
  hint?: string | undefined;
  details?: ErrorDetails | undefined;
  cause?: unknown;
}

/**
 * A failure of the system, the worker or the storage. `message` reads as a sentence and ends with
 * the hint; `code`, `errno`, `operation`, `hint` and `details` are for programs.
 */
export class ShmError extends Error {
  override readonly name = "ShmError";
  readonly code: string;
  readonly operation: string;
  readonly errno: number | undefined;
  readonly hint: string | undefined;
  readonly details: ErrorDetails;

  constructor(what: string, options: ShmErrorOptions) {
    const { code, operation, errno, hint, details = {}, cause } = options;
    const text = `${operation}: ${what} (${code})`;
    super(hint ? `${text}. ${hint}` : text, cause === undefined ? undefined : { cause });
    this.code = code;
    this.operation = operation;
    this.errno = errno;
    this.hint = hint;
    this.details = details;
  }
}

/** Linux errno numbers that this library's own calls return (asm-generic: x86-64 and arm64). */
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  2: "ENOENT",
  4: "EINTR",
  5: "EIO",
  9: "EBADF",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  14: "EFAULT",
  16: "EBUSY",
  17: "EEXIST",
  19: "ENODEV",
  20: "ENOTDIR",
  21: "EISDIR",
  22: "EINVAL",
  23: "ENFILE",
  24: "EMFILE",
  25: "ENOTTY",
  27: "EFBIG",
  28: "ENOSPC",
  30: "EROFS",
  32: "EPIPE",
  34: "ERANGE",
  36: "ENAMETOOLONG",
  38: "ENOSYS",
  40: "ELOOP",
  61: "ENODATA",
  75: "EOVERFLOW",
  95: "ENOTSUP",
  104: "ECONNRESET",
  110: "ETIMEDOUT",
  111: "ECONNREFUSED",
  116: "ESTALE",
  122: "EDQUOT",
  125: "ECANCELED",
};

/** "ENOSPC" for 28, "ERRNO_<n>" for a number that has no entry. `errno` is positive. */
export function errnoName(errno: number): string {
  return ERRNO_NAMES[errno] ?? `ERRNO_${errno}`;
}
