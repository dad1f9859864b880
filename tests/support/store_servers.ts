// SPDX-License-Identifier: Apache-2.0
//
// Redis, Valkey and S3 servers for tests: scripts/common/store_servers.mjs, with types, and what only
// tests ask of them.

import { connect } from "node:net";

export type EngineKind = "redis" | "s3";

/** See scripts/common/store_servers.mjs. */
export interface StoreServer extends AsyncDisposable {
  readonly url: string;
  readonly urlWithPassword: string;
  readonly secrets: Record<string, string>;
  /** What is listened on; the first is the one of `url`. */
  readonly ports: readonly number[];
  /** Of Redis. */
  readonly socketPath: string;
  start(): Promise<void>;
  kill(): Promise<void>;
  signal(name: "SIGSTOP" | "SIGCONT"): Promise<void>;
}

const module: {
  startServer(kind: EngineKind, password?: string): Promise<StoreServer | null>;
  serverProgram(kind: EngineKind): string | null;
  INSTALL: Record<EngineKind, string>;
} = await import(new URL("../../scripts/common/store_servers.mjs", import.meta.url).href);

/** For `skip` of a test that needs such a server: false, or what to do. */
export function withoutServer(kind: EngineKind): string | false {
  return module.serverProgram(kind) === null && module.INSTALL[kind];
}

/** Starts a server that wants a password; "": Redis without one. */
export async function startServer(kind: EngineKind, password?: string): Promise<StoreServer> {
  const server = await module.startServer(kind, password);
  if (server === null) throw new Error(module.INSTALL[kind]);
  return server;
}

function command(words: readonly string[]): string {
  const coded = words.map((word) => `$${new TextEncoder().encode(word).length}\r\n${word}\r\n`);
  return `*${words.length}\r\n${coded.join("")}`;
}

/** The bytes that Redis answers one command with. */
export async function askRedis(server: StoreServer, ...words: string[]): Promise<string> {
  const socket = connect(server.socketPath);
  try {
    const password = server.secrets["LMSHM_STORE_SECRET"] ?? "";
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
