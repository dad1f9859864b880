// SPDX-License-Identifier: Apache-2.0
//
// Runs a script of tests/fixtures in the runtime that runs the test, in a process of its own.

import { spawn } from "node:child_process";
import process from "node:process";
import { fileURLToPath } from "node:url";

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
const runArguments = "Deno" in globalThis ? ["run", "-A", "--no-check"] : ["run"];

/** The command lmshm; LMSHM_TEST_COMMAND names an executable to be tested in its place. */
const COMMAND = "../../src/cli/main.ts";

/** Command line that runs `script`, a path relative to tests/fixtures/, with all permissions. */
export function fixtureCommand(script: string, ...args: string[]): [string, string[]] {
  const instead = script === COMMAND ? process.env.LMSHM_TEST_COMMAND : undefined;
  if (instead) return [instead, args];
  const path = fileURLToPath(new URL(`../fixtures/${script}`, import.meta.url));
  return [process.execPath, [...runArguments, path, ...args]];
}

/**
 * Runs a fixture to its end, at most `timeoutMs`, then kills it.
 * @param options.denoPermissions instead of all; nothing to Bun
 * @param options.tree another copy of the repository to run it in
 */
export function runFixture(
  script: string,
  args: string[] = [],
  options: {
    env?: Record<string, string>;
    timeoutMs?: number;
    denoPermissions?: readonly string[];
    tree?: string;
  } = {},
): Promise<Ended> {
  const { env = {}, timeoutMs = 60_000, denoPermissions = ["-A"], tree } = options;
  let [command, line] = fixtureCommand(script, ...args);
  line = line.flatMap((word) => word === "-A" ? denoPermissions : [word]);
  if (tree !== undefined) line = line.map((word) => word.replace(REPOSITORY, tree));
  return runToEnd(command, line, { env, timeoutMs });
}

/** Runs a script anywhere, with the permissions that Deno is given. */
export function runScript(
  path: string,
  options: { env?: Record<string, string>; cwd?: string; denoPermissions?: readonly string[] } = {},
): Promise<Ended> {
  const { denoPermissions = ["-A"], ...rest } = options;
  const line = runArguments.flatMap((word) => word === "-A" ? denoPermissions : [word]);
  return runToEnd(process.execPath, [...line, path], rest);
}

/** Runs a command to its end, at most `timeoutMs`, then kills it. */
export function runToEnd(
  command: string,
  line: readonly string[],
  options: { env?: Record<string, string>; cwd?: string; timeoutMs?: number } = {},
): Promise<Ended> {
  const { env = {}, cwd, timeoutMs = 60_000 } = options;
  const child = spawn(command, [...line], {
    env: { ...process.env, ...env },
    cwd,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: timeoutMs,
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
