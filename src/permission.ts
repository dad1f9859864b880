// SPDX-License-Identifier: Apache-2.0
//
// Deno's permissions. Its refusal to look at a file is not the file's absence, and what a user can do
// about it is to give the flag that it names.

import process from "node:process";
import { ShmError } from "./errors.ts";

/** The flag that Deno wants, such as "--allow-env", if `error` is its refusal; else null. */
export function refusedFlag(error: unknown): string | null {
  if (!(error instanceof Error) || error.name !== "NotCapable") return null;
  return /--allow-[a-z-]+/.exec(error.message)?.[0] ?? "--allow-all";
}

/**
 * Throws what a user can act on, if `error` is Deno's refusal of a permission; else returns.
 * @param doing what was to be done, as "looking at /path"
 * @param hint what else would help than the flag
 * @throws {ShmError} EPERM
 */
export function throwIfRefused(
  error: unknown,
  doing: string,
  operation: string,
  hint?: string,
): void {
  const flag = refusedFlag(error);
  if (flag === null) return;
  throw new ShmError(`Deno does not allow ${doing}: ${(error as Error).message}`, {
    code: "EPERM",
    operation,
    hint: hint ?? `Run it with ${flag}; docs/deno.md lists all that are needed`,
    details: { flag },
    cause: error,
  });
}

/**
 * A variable of the environment.
 * @throws {ShmError} EPERM: Deno does not allow looking at it
 */
export function environmentVariable(name: string): string | undefined {
  try {
    return process.env[name];
  } catch (error) {
    throwIfRefused(error, `reading the environment's ${name}`, "read environment");
    throw error;
  }
}
