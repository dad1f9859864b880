// SPDX-License-Identifier: Apache-2.0
//
// lmshm-worker on a Unix socket and on TCP, for raw clients: started, killed and started again on
// one directory. That it ends in any other way is a fault, and is kept for whoever asks.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import process from "node:process";
import { locateWorker } from "../../src/native/locate.ts";

export type Way = "unix" | "tcp";

export class RawWorker implements AsyncDisposable {
  readonly secret = "a-secret-of-the-tests-0123456789";
  readonly root: string;
  /** How often it was started. */
  generation = 0;
  /** True from before a kill until the next one listens. */
  down = true;
  /** That it ended by itself, and how. */
  fault: string | null = null;
  readonly #socketPath: string;
  readonly #args: readonly string[];
  #addresses: Record<Way, string> = { unix: "", tcp: "" };
  #child: ChildProcess | null = null;
  #exited: Promise<unknown> = Promise.resolve();

  /** @param socketPath of its Unix socket, outside `root`. */
  constructor(root: string, socketPath: string, args: readonly string[] = []) {
    this.root = root;
    this.#socketPath = socketPath;
    this.#args = args;
  }

  get pid(): number {
    return this.#child!.pid!;
  }

  address(way: Way): string {
    return this.#addresses[way];
  }

  async start(): Promise<void> {
    const listen = ["--listen", `unix:${this.#socketPath}`, "--listen", "127.0.0.1:0"];
    const child = spawn(locateWorker(), [...listen, "--root", this.root, ...this.#args], {
      stdio: ["ignore", "pipe", "inherit"],
      env: { ...process.env, LMSHM_SECRET: this.secret },
    });
    this.#child = child;
    this.#exited = once(child, "exit").then(([status, signal]) => {
      if (!this.down) this.fault = `the worker ended by itself: ${signal ?? `status ${status}`}`;
      this.down = true;
    });
    let said = "";
    const addresses = await new Promise<string[]>((resolve, reject) => {
      child.stdout!.on("data", (chunk) => {
        said += chunk;
        const lines = [...said.matchAll(/^LISTENING (.*)\n/gm)].map((match) => match[1]!);
        if (lines.length === 2) resolve(lines);
      });
      child.on("error", reject);
      void this.#exited.then(() => reject(new Error(`the worker did not start: ${said}`)));
    });
    this.#addresses = {
      unix: addresses.find((one) => one.startsWith("unix:"))!,
      tcp: addresses.find((one) => !one.startsWith("unix:"))!,
    };
    this.generation++;
    this.down = false;
  }

  /** SIGKILL, and the end of it. */
  async kill(): Promise<void> {
    this.down = true;
    this.#child!.kill("SIGKILL");
    await this.#exited;
  }

  /** What it has from the system: memory of its own (segments are its clients'), descriptors. */
  usage(): { ownBytes: number; descriptors: number } {
    const status = readFileSync(`/proc/${this.pid}/status`, "utf8");
    return {
      ownBytes: Number(/^RssAnon:\s+(\d+)/m.exec(status)![1]) * 1024,
      descriptors: readdirSync(`/proc/${this.pid}/fd`).length,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child === null || this.#child.exitCode !== null) return;
    this.down = true;
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child!.kill("SIGKILL"), 10_000);
    await this.#exited;
    clearTimeout(timer);
  }
}
