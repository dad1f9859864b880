// SPDX-License-Identifier: Apache-2.0
//
// Redis or Valkey servers to measure with: on loopback, in memory alone, without a password; one, or
// several masters of a cluster. The program is LMSHM_TEST_VALKEY_SERVER or LMSHM_TEST_REDIS_SERVER,
// or one of the two in PATH.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setTimeout as pause } from "node:timers/promises";

const START_MS = 20_000;
const STEP_MS = 20;
const SLOTS = 16_384;
const ATTEMPTS = 20;
const NONE =
  "Not measured: neither valkey-server nor redis-server is here. Install one, or name it in " +
  "LMSHM_TEST_VALKEY_SERVER.";

function inPath(name: string): string | undefined {
  return (process.env.PATH ?? "").split(":").map((folder) => join(folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** @returns null: there is none here */
function serverProgram(): string | null {
  return process.env.LMSHM_TEST_VALKEY_SERVER || inPath("valkey-server") ||
    process.env.LMSHM_TEST_REDIS_SERVER || inPath("redis-server") || null;
}

export class RedisNodes implements AsyncDisposable {
  readonly ports: readonly number[];
  readonly #children: readonly ChildProcess[];
  readonly #folder: string;

  private constructor(program: string, ports: readonly number[], asCluster: boolean) {
    this.ports = ports;
    this.#folder = mkdtempSync(join(tmpdir(), "lmshm-bench-redis-"));
    this.#children = ports.map((port) =>
      spawn(program, [
        ...["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        ...["--dir", this.#folder, "--daemonize", "no"],
        ...asCluster ? ["--cluster-enabled", "yes", "--cluster-config-file", `${port}.conf`] : [],
      ], { stdio: "ignore" })
    );
    process.on("exit", this.#end);
  }

  /**
   * @param masters 1: a server; more: a cluster of so many masters
   * @throws {Error} where there is no program, or it does not start.
   */
  static async start(masters = 1): Promise<RedisNodes> {
    const program = serverProgram();
    if (program === null) throw new Error(NONE);
    // Below the range that the kernel takes ports from, and so is the cluster's bus (10000 more).
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const first = 19_000 + Math.floor(Math.random() * 3_000);
      const ports = Array.from({ length: masters }, (_, i) => first + i);
      const nodes = new RedisNodes(program, ports, masters > 1);
      if (await nodes.#ready()) return nodes;
      await nodes[Symbol.asyncDispose]();
    }
    throw new Error(`${program} does not start`);
  }

  /** @returns why nothing can be started; null: something can */
  static whyNone(): string | null {
    return serverProgram() === null ? NONE : null;
  }

  /** What runs: "Valkey 9.1.2". */
  static version(): string {
    const { stdout } = spawnSync(serverProgram()!, ["--version"], { encoding: "utf8" });
    const [, name = "server", version = ""] = /^(\w+) server v=(\S+)/.exec(stdout) ?? [];
    return `${name} ${version}`;
  }

  /** The URL of a store in it, with keys of its own. */
  url(prefix: string): string {
    const [first] = this.ports;
    return this.ports.length === 1
      ? `redis://127.0.0.1:${first}?prefix=${prefix}`
      : `redis+cluster://${
        this.ports.map((port) => `127.0.0.1:${port}`).join(",")
      }?prefix=${prefix}`;
  }

  async #ready(): Promise<boolean> {
    const said = await Promise.all(this.ports.map((_, i) => this.#until(i, ["PING"], "+PONG")));
    if (said.includes(false)) return false;
    if (this.ports.length === 1) return true;
    for (const [i, port] of this.ports.entries()) {
      const [from, to] = [i, i + 1].map((at) => Math.floor(at * SLOTS / this.ports.length));
      // A range's end belongs to it.
      await ask(port, ["CLUSTER", "ADDSLOTSRANGE", `${from}`, `${to! - 1}`]);
      if (i > 0) await ask(port, ["CLUSTER", "MEET", "127.0.0.1", `${this.ports[0]}`]);
    }
    const whole = await Promise.all(
      this.ports.map((_, i) => this.#until(i, ["CLUSTER", "INFO"], "cluster_state:ok")),
    );
    return !whole.includes(false);
  }

  async #until(node: number, words: readonly string[], wanted: string): Promise<boolean> {
    const end = performance.now() + START_MS;
    while (performance.now() < end && this.#children[node]!.exitCode === null) {
      if ((await ask(this.ports[node]!, words)).includes(wanted)) return true;
      await pause(STEP_MS);
    }
    return false;
  }

  readonly #end = () => {
    for (const child of this.#children) child.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  };

  async [Symbol.asyncDispose](): Promise<void> {
    process.off("exit", this.#end);
    const ended = this.#children.map((child) =>
      child.exitCode !== null || child.signalCode !== null
        ? Promise.resolve()
        : new Promise((resolve) => child.once("exit", resolve))
    );
    for (const child of this.#children) child.kill("SIGKILL");
    await Promise.all(ended);
    this.#end();
  }
}

/** The beginning of the answer; "" where nobody answers. */
function ask(port: number, words: readonly string[]): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.setTimeout(START_MS, () => socket.destroy());
    socket.on("connect", () => socket.write(`${words.join(" ")}\r\n`));
    socket.on("data", (data) => {
      resolve(String(data));
      socket.destroy();
    });
    socket.on("error", () => resolve(""));
    socket.on("close", () => resolve(""));
  });
}
