// SPDX-License-Identifier: Apache-2.0
//
// The terminal as a screen that is drawn anew again and again, and keys. Whatever ends the program,
// the terminal is what it was before: by close(), or else when the process exits.

import { writeSync } from "node:fs";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";
import type { ScreenLine } from "./screen.ts";

/** The alternate screen, without a cursor, and the way back. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
const REST_OF_LINE = "\x1b[K";
const REST_OF_SCREEN = "\x1b[J";
const INVERSE = "\x1b[7m";
const PLAIN = "\x1b[0m";

const CTRL_C = "\x03";
const CTRL_Z = "\x1a";
/** A terminal that takes nothing is not waited for. */
const CLOSE_MS = 1_000;

interface LiveOptions {
  /** One key; what a key sends as several characters is not told. */
  readonly onKey: (key: string) => void;
  /** All has to be drawn again: another size, or back from a stop. */
  readonly onRedraw: () => void;
}

export class LiveTerminal implements AsyncDisposable {
  readonly #options: LiveOptions;
  readonly #keys = process.stdin.isTTY;
  #inside = false;
  #writing = false;
  readonly #restore = () => this.#restoreNow();
  readonly #crash = (error: unknown) => {
    // The runtime ends at once then, one of them without the event "exit".
    this.#restoreNow();
    process.off("uncaughtException", this.#crash);
    writeNow(2, `${error instanceof Error ? error.stack : error}\n`);
    process.exit(1);
  };
  readonly #onData = (data: Uint8Array | string) => this.#take(String(data));
  readonly #onContinue = () => this.#enter();
  /** A terminal that is gone sends SIGHUP, which ends the command in order. */
  readonly #onLost = () => {};

  constructor(options: LiveOptions) {
    this.#options = options;
    process.on("exit", this.#restore);
    process.on("uncaughtException", this.#crash);
    process.on("SIGCONT", this.#onContinue);
    process.stdout.on("resize", options.onRedraw);
    if (this.#keys) process.stdin.on("data", this.#onData).on("error", this.#onLost);
    this.#enter();
  }

  get columns(): number {
    return process.stdout.columns || 80;
  }

  get rows(): number {
    return process.stdout.rows || 24;
  }

  /** Left out while the terminal has not taken what was drawn before. */
  draw(lines: readonly ScreenLine[]): void {
    if (!this.#inside || this.#writing) return;
    const text = lines.map(({ text, style }) =>
      (style === "inverse" ? `${INVERSE}${text}${PLAIN}` : text) + REST_OF_LINE
    ).join("\r\n");
    this.#writing = true;
    process.stdout.write(HOME + text + REST_OF_SCREEN, () => this.#writing = false);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.stdout.off("resize", this.#options.onRedraw);
    process.off("SIGCONT", this.#onContinue);
    process.stdin.off("data", this.#onData);
    // What was drawn last must not come after it.
    for (let waited = 0; this.#writing && waited < CLOSE_MS; waited += 10) await pause(10);
    this.#restoreNow();
    process.off("exit", this.#restore);
    process.off("uncaughtException", this.#crash);
    if (this.#keys) process.stdin.pause();
  }

  #enter(): void {
    if (this.#keys) process.stdin.setRawMode(true).resume();
    this.#inside = true;
    this.#writing = false;
    writeNow(1, ENTER);
    this.#options.onRedraw();
  }

  #restoreNow(): void {
    if (!this.#inside) return;
    this.#inside = false;
    writeNow(1, LEAVE);
    try {
      if (this.#keys) process.stdin.setRawMode(false);
    } catch {
      // It is gone.
    }
  }

  #take(data: string): void {
    if (data.startsWith("\x1b")) return;
    for (const key of data) {
      if (key === CTRL_C) process.kill(process.pid, "SIGINT");
      else if (key === CTRL_Z) this.#stop();
      else this.#options.onKey(key);
    }
  }

  /** Until the shell has it continue (SIGCONT). */
  #stop(): void {
    this.#restoreNow();
    process.kill(process.pid, "SIGSTOP");
  }
}

function writeNow(descriptor: 1 | 2, text: string): void {
  try {
    writeSync(descriptor, text);
  } catch {
    // A terminal that is gone needs nothing.
  }
}
