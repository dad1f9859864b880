// SPDX-License-Identifier: Apache-2.0
//
// Redis or Valkey to measure with: in memory alone, without a password; a server, or several masters
// of a cluster.

import { setTimeout as pause } from "node:timers/promises";
import { RedisServer } from "../../support/redis_server.ts";

const SLOTS = 16_384;
const FORM_MS = 20_000;
const STEP_MS = 20;
const ATTEMPTS = 5;

async function startNode(inCluster: boolean): Promise<RedisServer> {
  if (!inCluster) return await RedisServer.start("", ["--appendonly", "no"]);
  for (let attempt = 1;; attempt++) {
    // Below the range that the kernel takes ports from.
    const bus = 19_000 + Math.floor(Math.random() * 13_000);
    try {
      return await RedisServer.start("", [
        ...["--appendonly", "no", "--cluster-enabled", "yes", "--cluster-port", `${bus}`],
      ]);
    } catch (error) {
      if (attempt === ATTEMPTS) throw error;
    }
  }
}

export class RedisNodes implements AsyncDisposable {
  readonly #nodes: readonly RedisServer[];

  private constructor(nodes: readonly RedisServer[]) {
    this.#nodes = nodes;
  }

  /**
   * @param masters 1: a server; more: a cluster of so many masters
   * @throws {Error} where there is no program, or they do not come together.
   */
  static async start(masters = 1): Promise<RedisNodes> {
    const started: RedisServer[] = [];
    const nodes = new RedisNodes(started);
    try {
      for (let i = 0; i < masters; i++) started.push(await startNode(masters > 1));
      if (masters > 1) await nodes.#form();
      return nodes;
    } catch (error) {
      await nodes[Symbol.asyncDispose]();
      throw error;
    }
  }

  get ports(): readonly number[] {
    return this.#nodes.map(({ port }) => port);
  }

  /** The URL of a store in it, with keys of its own. */
  url(prefix: string): string {
    const hosts = this.ports.map((port) => `127.0.0.1:${port}`).join(",");
    const scheme = this.#nodes.length === 1 ? "redis" : "redis+cluster";
    return `${scheme}://${hosts}?prefix=${prefix}`;
  }

  /** What runs: "Valkey 9.1.2". */
  async version(): Promise<string> {
    const text = await this.#nodes[0]!.ask("INFO", "server");
    const [, valkey] = /^valkey_version:(\S+)/m.exec(text) ?? [];
    const [, redis = ""] = /^redis_version:(\S+)/m.exec(text) ?? [];
    return valkey === undefined ? `Redis ${redis}` : `Valkey ${valkey}`;
  }

  async #form(): Promise<void> {
    const { length } = this.#nodes;
    const [first] = this.ports;
    for (const [i, node] of this.#nodes.entries()) {
      const bound = (at: number) => Math.floor(at * SLOTS / length);
      // A range's end belongs to it.
      await node.ask("CLUSTER", "ADDSLOTSRANGE", `${bound(i)}`, `${bound(i + 1) - 1}`);
      // A port of the bus that is not the usual one has to be said.
      const bus = await this.#nodes[0]!.ask("CONFIG", "GET", "cluster-port");
      const [, busPort = ""] = /(\d+)\r\n$/.exec(bus) ?? [];
      if (i > 0) await node.ask("CLUSTER", "MEET", "127.0.0.1", `${first}`, busPort);
    }
    const end = performance.now() + FORM_MS;
    for (const node of this.#nodes) {
      for (;;) {
        const text = await node.ask("CLUSTER", "INFO");
        if (text.includes("cluster_state:ok") && text.includes(`cluster_size:${length}`)) break;
        if (performance.now() > end) throw new Error(`the cluster is not whole: ${text}`);
        await pause(STEP_MS);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.#nodes) await node[Symbol.asyncDispose]();
  }
}
