// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command as a person uses it: in a shell, with pipes and redirections, and at a terminal of
// any width.

import { spawn, spawnSync } from "node:child_process";
import process from "node:process";
import { type Ended, fixtureCommand, runFixture } from "./process.ts";

const MAIN = "../../src/cli/main.ts";

/** Runs the command with arguments. */
export function lmshm(...args: string[]): Promise<Ended> {
  return runFixture(MAIN, args, { timeoutMs: 120_000 });
}

/** Command line of the command, to be spawned. */
export function lmshmCommand(...args: string[]): [string, string[]] {
  return fixtureCommand(MAIN, ...args);
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Runs a script of bash in which `lmshm` is the command. */
export function inShell(
  script: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  const [command, line] = lmshmCommand();
  const prelude = `lmshm() { ${[command, ...line].map(quoted).join(" ")} "$@"; }\n`;
  const child = spawn("bash", ["-c", prelude + script], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 120_000,
    killSignal: "SIGKILL",
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data) => stdout += data);
  child.stderr.on("data", (data) => stderr += data);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

/** Whether a program can be run here. */
export function hasProgram(name: string): boolean {
  return spawnSync("bash", ["-c", `command -v ${name}`], { stdio: "ignore" }).status === 0;
}

/**
 * Runs a script of bash at a terminal of so many columns (script(1) of util-linux makes it). stdout
 * has all that the terminal shows.
 */
export async function atTerminal(columns: number, script: string): Promise<Ended> {
  const [command, line] = lmshmCommand();
  const prelude = `lmshm() { ${[command, ...line].map(quoted).join(" ")} "$@"; }; `;
  const inside = `stty cols ${columns} rows 50; ${prelude}${script}`;
  const ended = await inShell(
    `script -qec ${quoted(`bash -c ${quoted(inside)}`)} /dev/null </dev/null`,
  );
  // deno-lint-ignore no-control-regex
  return { ...ended, stdout: ended.stdout.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, "") };
}
