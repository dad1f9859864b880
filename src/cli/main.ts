#!/usr/bin/env bun
// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command: finds the subcommand, loads it, prints its failures, sets the exit status.
//
// Exit status: 0 done, 1 something failed, 2 the command line is wrong, 130 interrupted.

import process from "node:process";
import { version } from "../version.ts";
import { didYouMean } from "./arguments.ts";
import { INTERRUPTED, UsageError } from "./command.ts";
import { DESCRIPTIONS, GROUPS, LOADERS } from "./commands.ts";
import { commandHelp, overviewHelp } from "./help.ts";
import { complain, keysWereRead, print, printed, terminalColumns } from "./terminal.ts";

const ABOUT =
  "Pinned shared memory for Bun and Deno, and a worker that moves it to storage and back.";

function isHelp(word: string | undefined): boolean {
  return word === "--help" || word === "-h";
}

/** Help of all commands, or of those that begin with a word. */
function overview(first?: string): string {
  const commands = DESCRIPTIONS.filter(({ name }) => name.startsWith(`${first} `));
  const groups = first === undefined ? GROUPS : [{ heading: "Commands", commands }];
  const usage = `Usage: lmshm ${first === undefined ? "" : `${first} `}COMMAND [OPTION]...`;
  return overviewHelp(groups, ABOUT, usage, terminalColumns() ?? 80);
}

/** Of one word, or of two. */
function find(words: readonly string[]) {
  const [first, second] = words;
  const whole = DESCRIPTIONS.find(({ name }) => name === first || name === `${first} ${second}`);
  return whole && { description: whole, rest: words.slice(whole.name.split(" ").length) };
}

function unknown(words: readonly string[]): UsageError {
  const [first = "", second] = words;
  const names = DESCRIPTIONS.map(({ name }) => name);
  const begins = names.filter((name) => name.startsWith(`${first} `));
  if (begins.length > 0) {
    const seconds = begins.map((name) => name.slice(first.length + 1));
    const meant = didYouMean(second ?? "", seconds, (one) => `${first} ${one}`);
    return new UsageError(
      `there is no command "${first} ${second}"${meant || `; see lmshm ${first} --help`}`,
    );
  }
  const firsts = [...new Set(names.map((name) => name.split(" ")[0]!)), "help"];
  return new UsageError(
    `there is no command "${first}"${didYouMean(first, firsts) || "; see lmshm --help"}`,
  );
}

async function main(args: readonly string[]): Promise<number> {
  const [name] = args;
  if (name === undefined || isHelp(name) || (name === "help" && args.length === 1)) {
    print(overview());
    return name === undefined ? 2 : 0;
  }
  if (name === "--version" || name === "-V") {
    print(`lmshm ${version}`);
    return 0;
  }
  const words = name === "help" ? [...args.slice(1), "--help"] : args;
  const found = find(words);
  if (found === undefined) {
    const [first, second] = words;
    const begins = DESCRIPTIONS.some((one) => one.name.startsWith(`${first} `));
    if (!begins || (second !== undefined && !isHelp(second))) throw unknown(words);
    print(overview(first));
    return isHelp(second) ? 0 : 2;
  }
  const { description, rest } = found;
  if (rest.slice(0, (rest.indexOf("--") + 1 || rest.length + 1) - 1).some(isHelp)) {
    print(commandHelp(description, terminalColumns() ?? 80));
    return 0;
  }
  const command = await LOADERS[description.name]!();
  return await command.run(rest);
}

// A terminal that goes away must not keep a command from cleaning up.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const text = error instanceof Error ? error.message : String(error);
  complain(`lmshm: ${text}`);
  if (process.env.LMSHM_DEBUG && error instanceof Error) complain(`${error.stack}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

// Whoever closed the pipe has read enough. Any other failure has lost output.
const unwritten = await printed();
if (unwritten && (unwritten as NodeJS.ErrnoException).code !== "EPIPE") {
  complain(`lmshm: standard output cannot be written: ${unwritten.message}`);
  process.exitCode ||= 1;
}

// Deno waits for a read of stdin that was begun, and nothing takes it back.
if (process.exitCode === INTERRUPTED || keysWereRead()) process.exit();
