// SPDX-License-Identifier: Apache-2.0
//
// The same script in Bun and in Deno, whichever runs the test: two programs that have nothing in
// common but what they share on purpose.

import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";

export type Runtime = "bun" | "deno";

const OWN: Runtime = "Deno" in globalThis ? "deno" : "bun";
const ARGUMENTS = { bun: ["run"], deno: ["run", "-A", "--no-check"] } as const;
const FILES = { bun: "bun/bin/bun.exe", deno: ".bin/deno" } as const;

/** This runtime, and the other where this repository has it. */
export const RUNTIMES: readonly Runtime[] = (["bun", "deno"] as const).filter((runtime) =>
  runtime === OWN || existsSync(pathOf(runtime))
);

function pathOf(runtime: Runtime): string {
  if (runtime === OWN) return process.execPath;
  return fileURLToPath(new URL(`../../node_modules/${FILES[runtime]}`, import.meta.url));
}

/** Command line that runs `script`, a path relative to tests/fixtures/. */
export function commandIn(runtime: Runtime, script: string, ...args: string[]): [string, string[]] {
  const path = fileURLToPath(new URL(`../fixtures/${script}`, import.meta.url));
  return [pathOf(runtime), [...ARGUMENTS[runtime], path, ...args]];
}
