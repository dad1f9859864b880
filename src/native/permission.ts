// SPDX-License-Identifier: Apache-2.0
//
// Deno's permissions. Its refusal to look at a file is not the file's absence.

import { ShmError } from "../errors.ts";

/**
 * Throws what a user can act on, if `error` is Deno's refusal of a permission; else returns.
 * @param path what was to be looked at
 * @throws {ShmError} EPERM
 */
export function throwIfRefused(
  error: unknown,
  path: string,
  operation: string,
  hint: string,
): void {
  const { name, message } = error as Error;
  if (name !== "NotCapable") return;
  throw new ShmError(`Deno does not allow looking at ${path}: ${message}`, {
    code: "EPERM",
    operation,
    hint,
    details: { path },
    cause: error,
  });
}
