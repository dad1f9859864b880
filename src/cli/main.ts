#!/usr/bin/env bun
// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command: picks the subcommand, prints its failures, sets the exit status. A subcommand is
// loaded when it is asked for, and the library with it.
//
// Exit status: 0 done, 1 something failed, 2 the command line is wrong, 130 interrupted.

import process from "node:process";
import { version } from "../version.ts";
import { type Command, UsageError } from "./command.ts";
import { complain, print, printed } from "./terminal.ts";

interface Entry {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  load(): Promise<Command>;
}

const COMMANDS: readonly Entry[] = [
  {
    name: "verify",
    summary: "send data through memory, worker and files and back, and compare every byte",
    load: async () => (await import("./verify.ts")).verify,
  },
  {
    name: "check",
    summary: "make what a configuration describes, and try out every operation",
    load: async () => (await import("./check.ts")).check,
  },
  {
    name: "gpu",
    summary: "show the GPUs, pin a segment for one, and measure copies",
    load: async () => (await import("./gpu.ts")).gpu,
  },
];

function help(): string {
  const width = Math.max(...COMMANDS.map(({ name }) => name.length));
  return [
    "Usage: lmshm COMMAND [OPTION]...",
    "",
    "Pinned shared memory for Bun and Deno, and a worker that moves it to storage and back.",
    "",
    "Commands:",
    ...COMMANDS.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`),
    "",
    "lmshm COMMAND --help tells the options of a command; lmshm --version the version.",
  ].join("\n");
}

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    print(help());
    return name === undefined ? 2 : 0;
  }
  if (name === "--version" || name === "-V") {
    print(`lmshm ${version}`);
    return 0;
  }
  const entry = COMMANDS.find((one) => one.name === name);
  if (!entry) {
    throw new UsageError(`there is no command "${name}"; see lmshm --help`);
  }
  const command = await entry.load();
  if (rest.includes("--help") || rest.includes("-h")) {
    print(command.help);
    return 0;
  }
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
