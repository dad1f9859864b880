// SPDX-License-Identifier: Apache-2.0
//
// A worker that listens, and client programs of the same runtime that use it (client_program.ts).
// Both end with this process.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import process from "node:process";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type ListeningWorker, startWorker } from "../../support/worker.ts";
import type { ClientAnswer, ClientWork } from "./client_program.ts";

const PROGRAM = fileURLToPath(new URL("client_program.ts", import.meta.url));
/** Beyond the time that it is asked to work for. */
const ANSWER_LIMIT_MS = 60_000;

/** A process of this runtime that runs a TypeScript file with all permissions. */
function runtimeArgs(): string[] {
  return "Deno" in globalThis ? ["run", "-A"] : ["run"];
}

class Client {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  readonly #exited: Promise<unknown>;

  constructor(address: string, root: string) {
    this.#child = spawn(process.execPath, [...runtimeArgs(), PROGRAM, address, root], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#exited = once(this.#child, "exit");
    this.#reader = createInterface({ input: this.#child.stdout! });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid!;
  }

  async line(limitMs: number): Promise<string> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      const fail = () => reject(new Error(`a client said nothing for ${limitMs} ms`));
      timer = setTimeout(fail, limitMs);
    });
    try {
      const { value, done } = await Promise.race([this.#lines.next(), late]);
      if (done) throw new Error("a client ended before its time; its stderr says why");
      return value;
    } finally {
      clearTimeout(timer);
    }
  }

  async work(what: ClientWork, milliseconds: number): Promise<ClientAnswer> {
    this.#child.stdin!.write(`${what} ${milliseconds}\n`);
    return JSON.parse(await this.line(milliseconds + ANSWER_LIMIT_MS)) as ClientAnswer;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  async close(): Promise<void> {
    this.#child.stdin!.end();
    const timer = setTimeout(() => this.kill(), 10_000);
    await this.#exited;
    clearTimeout(timer);
    this.#reader.close();
  }
}

/** A worker and its clients. */
export class Clients implements AsyncDisposable {
  readonly #worker: ListeningWorker;
  readonly #clients: readonly Client[];
  /** Clients see the end of their stdin, and give their segments back themselves. */
  readonly #killWorker = () => void this.#worker.child.kill("SIGKILL");

  private constructor(worker: ListeningWorker, clients: readonly Client[]) {
    this.#worker = worker;
    this.#clients = clients;
    // Before the files go that they write to.
    process.prependListener("exit", this.#killWorker);
  }

  /** Starts them, and waits until each has stored what it will get. */
  static async start(count: number, root: string): Promise<Clients> {
    const worker = await startWorker(`unix:${join(root, "..", "bench.sock")}`, root);
    const clients = Array.from({ length: count }, () => new Client(worker.address, root));
    const all = new Clients(worker, clients);
    try {
      for (const client of clients) await client.line(ANSWER_LIMIT_MS);
      return all;
    } catch (error) {
      await all[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Process ids of the worker and of the first `count` clients. */
  pids(count: number): number[] {
    return [this.#worker.child.pid!, ...this.#clients.slice(0, count).map(({ pid }) => pid)];
  }

  /** The first `count` clients do the same at the same time. */
  work(count: number, what: ClientWork, milliseconds: number): Promise<ClientAnswer[]> {
    return Promise.all(
      this.#clients.slice(0, count).map((client) => client.work(what, milliseconds)),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off("exit", this.#killWorker);
    await Promise.all(this.#clients.map((client) => client.close()));
    await this.#worker[Symbol.asyncDispose]();
  }
}
