// SPDX-License-Identifier: Apache-2.0
//
// Arguments of a subcommand, read as its description says.

import { parseArgs, type ParseArgsConfig } from "node:util";
import { nearest } from "../nearest.ts";
import { UsageError } from "./command.ts";
import { type CommandDescription, optionsOf, type ValuesOf } from "./description.ts";

/** The `nearest` of a name that does not exist, as the end of a sentence. */
export function didYouMean(name: string, known: readonly string[], form = (one: string) => one) {
  const guess = nearest(name, known);
  return guess === null ? "" : `; did you mean "${form(guess)}"?`;
}

function checkChoices(
  { options }: CommandDescription,
  values: Readonly<Record<string, unknown>>,
): void {
  for (const { name, choices } of options) {
    const given = values[name];
    if (choices === undefined || given === undefined) continue;
    for (const one of Array.isArray(given) ? given : [given]) {
      if (choices.includes(one)) continue;
      const list = `${choices.slice(0, -1).join(", ")} or ${choices.at(-1)}`;
      throw new UsageError(`--${name} takes ${list}, got "${one}"`);
    }
  }
}

/** @throws {UsageError} naming the argument at fault. */
export function readArguments<const D extends CommandDescription>(
  description: D,
  args: readonly string[],
): { readonly values: ValuesOf<D>; readonly operands: readonly string[] } {
  const options: NonNullable<ParseArgsConfig["options"]> = {};
  for (const { name, short, value, repeat } of optionsOf(description)) {
    options[name] = {
      type: value === undefined ? "boolean" : "string",
      ...(short === undefined ? {} : { short }),
      ...(repeat === undefined ? {} : { multiple: true }),
      ...(value === undefined ? { default: false } : {}),
    };
  }
  const see = `see lmshm ${description.name} --help`;
  let parsed;
  try {
    parsed = parseArgs({ args: [...args], options, strict: true, allowPositionals: true });
  } catch (error) {
    const text = (error instanceof Error ? error.message : String(error)).split(". To specify")[0]!;
    const unknown = /^Unknown option '(-[^' ]*)/.exec(text)?.[1];
    if (unknown === undefined) throw new UsageError(`${text}; ${see}`);
    const meant = didYouMean(
      unknown.replace(/^-+/, ""),
      Object.keys(options),
      (name) => `--${name}`,
    );
    throw new UsageError(`${description.name} has no option ${unknown}${meant || `; ${see}`}`);
  }
  if (description.operands === undefined && parsed.positionals.length > 0) {
    throw new UsageError(
      `${description.name} takes no argument "${parsed.positionals[0]}"; ${see}`,
    );
  }
  checkChoices(description, parsed.values);
  return { values: parsed.values as ValuesOf<D>, operands: parsed.positionals };
}
