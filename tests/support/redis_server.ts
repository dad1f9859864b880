// SPDX-License-Identifier: Apache-2.0
//
// A Redis or Valkey server for tests that say something to the server themselves: store_servers.ts
// starts it.

import { connect } from "node:net";
import { startServer, type StoreServer, withoutServer } from "./store_servers.ts";

/** For `skip` of a test that needs one. */
export const withoutRedis = withoutServer("redis");

function command(words: readonly string[]): string {
  const coded = words.map((word) => `$${new TextEncoder().encode(word).length}\r\n${word}\r\n`);
  return `*${words.length}\r\n${coded.join("")}`;
}

export class RedisServer implements AsyncDisposable {
  readonly #server: StoreServer;

  private constructor(server: StoreServer) {
    this.#server = server;
  }

  /** With `password` it wants that; `args` are more of its options. */
  static async start(password = "", args: readonly string[] = []): Promise<RedisServer> {
    return new RedisServer(await startServer("redis", password, args));
  }

  get url(): string {
    return this.#server.url;
  }

  get port(): number {
    return this.#server.ports[0]!;
  }

  get socketPath(): string {
    return this.#server.socketPath;
  }

  get secrets(): Record<string, string> {
    return this.#server.secrets;
  }

  /** The bytes that one command is answered with. */
  async ask(...words: string[]): Promise<string> {
    const socket = connect(this.socketPath);
    try {
      const password = this.secrets["LMSHM_STORE_SECRET"] ?? "";
      const login = password === "" ? "" : command(["AUTH", password]);
      socket.write(login + command(words) + command(["ECHO", "the end"]));
      let text = "";
      for await (const bytes of socket) {
        text += (bytes as Uint8Array).reduce((all, byte) => all + String.fromCharCode(byte), "");
        const end = text.indexOf("$7\r\nthe end\r\n");
        if (end >= 0) return text.slice(login === "" ? 0 : "+OK\r\n".length, end);
      }
      return text;
    } finally {
      socket.destroy();
    }
  }

  async kill(): Promise<void> {
    await this.#server.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}
