// SPDX-License-Identifier: Apache-2.0
//
// Redis, Valkey and S3 servers for tests: scripts/common/store_servers.mjs, with types.

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
  startServer(
    kind: EngineKind,
    password?: string,
    args?: readonly string[],
  ): Promise<StoreServer | null>;
  serverProgram(kind: EngineKind): string | null;
  INSTALL: Record<EngineKind, string>;
} = await import(new URL("../../scripts/common/store_servers.mjs", import.meta.url).href);

/** For `skip` of a test that needs such a server: false, or what to do. */
export function withoutServer(kind: EngineKind): string | false {
  return module.serverProgram(kind) === null && module.INSTALL[kind];
}

/** Starts a server that wants a password; "": Redis without one. `args` are more of Redis's options. */
export async function startServer(
  kind: EngineKind,
  password?: string,
  args: readonly string[] = [],
): Promise<StoreServer> {
  const server = await module.startServer(kind, password, args);
  if (server === null) throw new Error(module.INSTALL[kind]);
  return server;
}
