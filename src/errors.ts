// SPDX-License-Identifier: Apache-2.0
//
// The one error class of the library. Wrong types throw TypeError and wrong ranges RangeError,
// both before any native call; everything that the system, the worker or the storage refuses is a
// ShmError with a stable `code`.

/**
 * The errno names that can come, with Linux's numbers (asm-generic: x86-64 and arm64). Every other
 * number of the kernel becomes EIO, and is kept in `errno`.
 * @internal
 */
const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENAMETOOLONG: 36,
  ENOSYS: 38,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EBADMSG: 74,
  EOVERFLOW: 75,
  ELIBBAD: 80,
  EMSGSIZE: 90,
  EPROTONOSUPPORT: 93,
  ENOTSUP: 95,
  ENETUNREACH: 101,
  ECONNRESET: 104,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

/** Those that no kernel has. @internal */
const OWN = ["ECONFIG", "ECORRUPT", "EFREED", "EMOVED", "ENOTFOUND", "EWORKER"] as const;

/** What kind of failure a ShmError is: an errno name ("ENOSPC") or one of the library's own. */
export type ErrorCode = keyof typeof ERRNO | (typeof OWN)[number];

/** All codes, in alphabetical order. */
export const ERROR_CODES: readonly ErrorCode[] = Object.freeze(
  [...Object.keys(ERRNO) as (keyof typeof ERRNO)[], ...OWN].sort(),
);

/** Facts about a failure: sizes in bytes, names, paths, process ids. */
export type ErrorDetails = Readonly<Record<string, unknown>>;

/** What a ShmError says beside the words. */
export interface ShmErrorOptions {
  code: ErrorCode;
  /** What was being done, e.g. "create segment". */
  operation: string;
  /** The kernel's number, positive, when the failure came from a system call. */
  errno?: number | undefined;
  /** What to do about it, in one sentence. */
  hint?: string | undefined;
  /** Facts for programs. */
  details?: ErrorDetails | undefined;
  /** The error that this one is about. */
  cause?: unknown;
}

/**
 * A failure of the system, the worker or the storage. `message` reads as a sentence and ends with
 * the hint; `code`, `errno`, `operation`, `hint` and `details` are for programs.
 */
export class ShmError extends Error {
  /** Always "ShmError". */
  override readonly name = "ShmError";
  /** What kind of failure it is; docs/errors.md has the table of all of them. */
  readonly code: ErrorCode;
  /** What was being done. */
  readonly operation: string;
  /** The kernel's number, positive; undefined where no system call failed. */
  readonly errno: number | undefined;
  /** What to do about it. */
  readonly hint: string | undefined;
  /** Facts for programs; empty mostly. */
  readonly details: ErrorDetails;

  /** A failure. @param what failed, in words. */
  constructor(what: string, options: ShmErrorOptions) {
    const { code, operation, errno, hint, details = {}, cause } = options;
    const unforeseen = code === "EIO" && errno !== undefined && errno !== ERRNO.EIO;
    const text = `${operation}: ${what} (${code}${unforeseen ? `, errno ${errno}` : ""})`;
    super(hint ? `${text}. ${hint}` : text, cause === undefined ? undefined : { cause });
    this.code = code;
    this.operation = operation;
    this.errno = errno;
    this.hint = hint;
    this.details = details;
  }
}

const KNOWN: ReadonlySet<unknown> = new Set(ERROR_CODES);
const BY_NUMBER: ReadonlyMap<number, ErrorCode> = new Map(
  Object.entries(ERRNO).map(([name, errno]) => [errno, name as ErrorCode]),
);

/** `code` if it is one of ours; undefined for what a runtime or a worker says beyond that. */
export function knownCode(code: unknown): ErrorCode | undefined {
  return KNOWN.has(code) ? code as ErrorCode : undefined;
}

/** "ENOSPC" for 28, "EIO" for a number that has no entry. `errno` is positive. */
export function errnoName(errno: number): ErrorCode {
  return BY_NUMBER.get(errno) ?? "EIO";
}
