// SPDX-License-Identifier: Apache-2.0
//
// What a subcommand is, and how its options are read.

import { parseArgs, type ParseArgsConfig } from "node:util";

export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  readonly help: string;
  /** @returns the exit status. */
  run(args: string[]): Promise<number>;
}

/** The command line is wrong: exit status 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

type OptionTypes = NonNullable<ParseArgsConfig["options"]>;

/** node:util's parseArgs, strict, with its complaints as UsageError. */
export function parseOptions<T extends OptionTypes>(
  command: string,
  args: string[],
  options: T,
  allowPositionals = false,
) {
  try {
    return parseArgs({ args, options, strict: true, allowPositionals });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new UsageError(`${text.split(". To specify")[0]}; see lmshm ${command} --help`);
  }
}

/** An option that must be an integer in [min, max]. */
export function integerOption(name: string, text: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new UsageError(`--${name} takes an integer from ${min} to ${max}, got "${text}"`);
  }
  return value;
}
