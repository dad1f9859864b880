// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command as a person uses it: in a shell, with pipes and redirections, and at a terminal of
// any width.

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
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
    // It is one, whatever this process has: at a dumb one, top prints lines for programs.
    { TERM: "xterm" },
  );
  // What begins again at the top of the screen is no part of the line before.
  const stdout = ended.stdout.replaceAll("\x1b[H", "\n");
  // deno-lint-ignore no-control-regex
  return { ...ended, stdout: stdout.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]/g, "") };
}

/** A command at a terminal, with somebody before it who types and changes its size. */
export class TerminalSession implements AsyncDisposable {
  /** All that the terminal was sent, control sequences included. */
  shown = "";
  /** The exit status, when it has ended. */
  readonly status: Promise<number | null>;
  readonly #child: ChildProcess;

  constructor(command: readonly string[], columns: number, rows: number) {
    const inside = `tty; stty cols ${columns} rows ${rows}; exec ${command.map(quoted).join(" ")}`;
    // script runs it by $SHELL, which stays in between unless it is told not to.
    this.#child = spawn("script", ["-qec", `exec bash -c ${quoted(inside)}`, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, TERM: "xterm" },
    });
    this.#child.stdout!.setEncoding("utf8").on("data", (text) => this.shown += text);
    this.status = new Promise((resolve, reject) => {
      this.#child.on("error", reject);
      this.#child.on("close", (code) => resolve(code));
    });
  }

  /** Waits until the terminal was sent something, after what it was sent before `from`. */
  async shows(what: RegExp, from = 0): Promise<void> {
    const end = performance.now() + 60_000;
    while (!what.test(this.shown.slice(from))) {
      if (performance.now() > end) assert.fail(`${what} is not in ${this.shown.slice(-4000)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  resize(columns: number, rows: number): void {
    const [tty] = /\/dev\/pts\/\d+/.exec(this.shown)!;
    const size = ["cols", `${columns}`, "rows", `${rows}`];
    assert.equal(spawnSync("stty", ["-F", tty, ...size], { stdio: "inherit" }).status, 0);
  }

  /** The process id of the command, which runs below script(1). */
  pid(): number {
    const { pid } = this.#child;
    return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 10_000);
    this.#child.stdin!.end();
    this.#child.kill("SIGTERM");
    await this.status;
    clearTimeout(timer);
  }
}
