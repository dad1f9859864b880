// SPDX-License-Identifier: Apache-2.0
//
// The runtimes' file system errors as ShmErrors.

import { type ErrorCode, knownCode, ShmError } from "./errors.ts";
import { throwIfRefused } from "./permission.ts";

function errnoOf(error: unknown): { code: ErrorCode; errno: number | undefined } {
  const { code, errno } = (error ?? {}) as { code?: unknown; errno?: unknown };
  return {
    code: knownCode(code) ?? "EIO",
    errno: typeof errno === "number" && errno !== 0 ? Math.abs(errno) : undefined,
  };
}

/** @throws {ShmError} EPERM where Deno refuses access. */
export function fileError(cause: unknown, operation: string, path: string): ShmError {
  throwIfRefused(cause, `access to ${path}`, operation);
  const { code, errno } = errnoOf(cause);
  const message = cause instanceof Error ? cause.message : String(cause);
  return new ShmError(message, {
    code,
    operation,
    ...(errno === undefined ? {} : { errno }),
    details: { path },
    cause,
  });
}

export function isMissing(error: unknown): boolean {
  return errnoOf(error).code === "ENOENT";
}
