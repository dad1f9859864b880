// SPDX-License-Identifier: Apache-2.0
//
// Processes that bench needs beside itself: busy neighbours, and the other end of a bare pipe. On a
// machine that has nothing but this command they can only be this command: it is started again, with
// a role in its environment.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { runtime } from "../../mod.ts";
import { READY, ROLE } from "./helper_role.ts";
import { NotHere } from "./sampler.ts";

const START_MS = 20_000;
/** As long as the request for an object. */
const LINE_BYTES = 80;

/** What starts this command again. */
function ownCommand(): [string, string[]] {
  const script = process.argv[1] ?? "";
  // Inside an executable there is no script.
  if (script === "" || script.startsWith("/$bunfs/")) return [process.execPath, ["bench"]];
  const run = runtime.name === "deno" ? ["run", "--allow-all", "--quiet"] : ["run"];
  return [process.execPath, [...run, script, "bench"]];
}

/** One process, ended by its id whatever happens, also at the end of this one. */
class Helper implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #kill = () => void this.child.kill("SIGKILL");

  private constructor(role: string) {
    const [command, args] = ownCommand();
    this.child = spawn(command, args, {
      env: { ...process.env, [ROLE]: role },
      stdio: ["pipe", "pipe", "ignore"],
    });
    this.child.stdin!.on("error", () => {});
    this.#exited = Promise.race([once(this.child, "exit"), once(this.child, "error")])
      .catch(() => {});
    process.on("exit", this.#kill);
  }

  /** @throws {NotHere} when it does not come up. */
  static async start(role: string, signal: AbortSignal): Promise<Helper> {
    const helper = new Helper(role);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<string>((resolve) => {
      timer = setTimeout(resolve, START_MS, `is not there after ${START_MS / 1000} s`);
      signal.addEventListener("abort", () => resolve("was interrupted"), { once: true });
    });
    const ready = new Promise<null>((resolve) => {
      let said = "";
      helper.child.stdout!.on("data", function heard(this: NodeJS.ReadableStream, data) {
        said += data;
        if (!said.includes(READY)) return;
        this.off("data", heard);
        resolve(null);
      });
    });
    const fault = await Promise.race([ready, late, helper.#exited.then(() => "ended at once")]);
    clearTimeout(timer);
    if (fault === null) return helper;
    await helper[Symbol.asyncDispose]();
    signal.throwIfAborted();
    throw new NotHere(`another process of this command ${fault}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#exited;
    process.off("exit", this.#kill);
  }
}

/** Processes that do nothing but compute. */
export class Neighbours implements AsyncDisposable {
  readonly #helpers: Helper[] = [];

  static async start(count: number, signal: AbortSignal): Promise<Neighbours> {
    const neighbours = new Neighbours();
    const role = `busy ${process.pid}`;
    const started = await Promise.allSettled(
      Array.from({ length: count }, () => Helper.start(role, signal)),
    );
    for (const one of started) if (one.status === "fulfilled") neighbours.#helpers.push(one.value);
    const fault = started.find((one) => one.status === "rejected");
    if (fault === undefined) return neighbours;
    await neighbours[Symbol.asyncDispose]();
    throw fault.reason;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#helpers.map((one) => one[Symbol.asyncDispose]()));
  }
}

/** A line to a process and back, over pipes, with nothing in between. */
export class BarePipe implements AsyncDisposable {
  readonly #helper: Helper;
  readonly #line = `${"x".repeat(LINE_BYTES - 1)}\n`;
  #left = 0;
  #answered: (fault?: Error) => void = () => {};

  private constructor(helper: Helper) {
    this.#helper = helper;
    helper.child.stdout!.on("data", (part: Uint8Array) => {
      this.#left -= part.length;
      if (this.#left <= 0) this.#answered();
    });
    helper.child.on("exit", () => this.#answered(new Error("the other end of the pipe has ended")));
  }

  static async open(signal: AbortSignal): Promise<BarePipe> {
    return new BarePipe(await Helper.start("echo", signal));
  }

  /** One at a time. */
  trip(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#answered = (fault) => fault ? reject(fault) : resolve();
      this.#left = LINE_BYTES;
      this.#helper.child.stdin!.write(this.#line);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#helper[Symbol.asyncDispose]();
  }
}
