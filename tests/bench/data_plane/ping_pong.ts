// SPDX-License-Identifier: Apache-2.0
//
// A line to a child of this process and back, over pipes, with nothing in between: what a round trip
// costs in this runtime before anybody has done any work (ping_pong.c).

import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { CProgram } from "../support/c_program.ts";

/** As long as the request for an object. */
export const LINE_BYTES = 80;

/** A child that answers every line by the same line. Ended by `await using`. */
export class PingPong implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #line = `${"x".repeat(LINE_BYTES - 1)}\n`;
  #left = 0;
  #answered: () => void = () => {};

  /** @param delayUs how much later it answers */
  constructor(program: CProgram, delayUs = 0) {
    this.#child = program.start([String(delayUs)]);
    this.#exited = once(this.#child, "exit");
    this.#child.stdout!.on("data", (part: Uint8Array) => {
      this.#left -= part.length;
      if (this.#left === 0) this.#answered();
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** One at a time. */
  trip(): Promise<void> {
    return new Promise((resolve) => {
      this.#answered = resolve;
      this.#left = LINE_BYTES;
      this.#child.stdin!.write(this.#line);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end();
    await this.#exited;
  }
}
