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

const runArguments = "Deno" in globalThis ? ["run", "-A", "--no-check"] : ["run"];

/** Command line that runs `script`, a path relative to tests/fixtures/. */
export function fixtureCommand(script: string, ...args: string[]): [string, string[]] {
  const path = fileURLToPath(new URL(`../fixtures/${script}`, import.meta.url));
  return [process.execPath, [...runArguments, path, ...args]];
}

/** Runs a fixture to its end, at most `timeoutMs`, then kills it. */
export function runFixture(
  script: string,
  args: string[] = [],
  options: { env?: Record<string, string>; timeoutMs?: number } = {},
): Promise<Ended> {
  const { env = {}, timeoutMs = 60_000 } = options;
  const [command, line] = fixtureCommand(script, ...args);
  const child = spawn(command, line, {
    env: { ...process.env, ...env },
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
