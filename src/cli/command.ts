// SPDX-License-Identifier: Apache-2.0
//
// What a subcommand is, how numbers in its options are read, and how it is interrupted.

import process from "node:process";
import { parseSize } from "./format.ts";
import { complain, print } from "./terminal.ts";

export interface Command {
  /**
   * @param args what follows the command's name, --help excepted
   * @returns the exit status.
   */
  run(args: readonly string[]): Promise<number>;
}

/** The command line is wrong: exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** An option that must be an integer in [min, max]. */
export function integerOption(name: string, text: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new UsageError(`--${name} takes an integer from ${min} to ${max}, got "${text}"`);
  }
  return value;
}

/** An option that is a number of bytes, such as 33554432, 64MiB or 2GB; undefined: not given. */
export function sizeOption(name: string, text: string | undefined): number | undefined {
  try {
    return text === undefined ? undefined : parseSize(`--${name}`, text);
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/**
 * Tells on stderr of a failure that concerns one thing and does not end the command. What a terminal
 * would obey in a name is escaped.
 */
export function complainAbout(what: string, message: string): void {
  const text = `lmshm: ${what}: ${message}`;
  complain(
    text.replaceAll(/\p{Cc}/gu, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`),
  );
}

/** The exit status of a command that a signal has ended. */
export const INTERRUPTED = 130;

const INTERRUPTIONS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Runs a command that cleans up after itself when its signal aborts, as Ctrl-C, SIGTERM and the end
 * of the terminal make it do.
 * @param json failures are printed on stdout as a JSON object, too.
 * @param work returns whether all is well.
 * @param left what is said of an interruption.
 * @returns the exit status: 0, 1, or 130 when interrupted.
 */
export async function interruptible(
  json: boolean,
  work: (signal: AbortSignal) => Promise<boolean>,
  left = "everything was removed",
): Promise<number> {
  const controller = new AbortController();
  const interrupt = () => controller.abort(new Error(`interrupted; ${left}`));
  for (const name of INTERRUPTIONS) process.once(name, interrupt);
  try {
    return await work(controller.signal) ? 0 : 1;
  } catch (error) {
    const { message } = error as Error;
    if (json) print(JSON.stringify({ ok: false, error: message }));
    if (!controller.signal.aborted) throw error;
    complain(`lmshm: ${(controller.signal.reason as Error).message}`);
    return INTERRUPTED;
  } finally {
    for (const name of INTERRUPTIONS) process.off(name, interrupt);
  }
}
