// SPDX-License-Identifier: Apache-2.0
//
// LMCache itself, for the tests of this folder, which `npm run test:lmcache` runs: a virtual
// environment that has it, and its server as a process. Elsewhere they are skipped.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type LmcacheServer, TOKENS_A_CHUNK } from "../support/lmcache_suite.ts";
import { sleep, TempDir } from "../support/worker.ts";

/** Where LMCache 0.5.6 is installed. */
const VENV = process.env.LMSHM_LMCACHE_VENV;
/** Where another version is unpacked, for PYTHONPATH. */
export const NEWER = process.env.LMSHM_LMCACHE_NEWER;

/** For test(): why there is nothing to test with, or false. */
export const skip: string | false = VENV === undefined
  ? "LMSHM_LMCACHE_VENV names no environment with LMCache; npm run test:lmcache makes one"
  : false;

/** The interpreter that has LMCache. */
export const PYTHON: string = join(VENV ?? "/nowhere", "bin", "python");

/** Nobody is told that a test was run. */
const QUIET = { LMCACHE_TRACK_USAGE: "false", DO_NOT_TRACK: "1", LMCACHE_DISABLE_BANNER: "1" };

/** Loading torch takes that long on a busy machine. */
export const PYTHON_MS = 240_000;

/**
 * What a script of this folder says, given `input`, in JSON both.
 * @param options environment, and words before the command.
 */
export function askLmcache(
  script: string,
  args: readonly string[],
  input: unknown = null,
  { env = {}, prefix = [] }: { env?: Record<string, string>; prefix?: readonly string[] } = {},
): Promise<unknown> {
  const [command, ...words] = [
    ...[...prefix, PYTHON, fileURLToPath(new URL(script, import.meta.url)), ...args],
  ];
  return new Promise((resolve, reject) => {
    const child = execFile(command!, words, {
      encoding: "utf8",
      timeout: PYTHON_MS,
      maxBuffer: 1 << 26,
      env: { ...process.env, ...QUIET, PYTHONDONTWRITEBYTECODE: "1", ...env },
    }, (error, stdout, stderr) => {
      if (error === null) resolve(JSON.parse(stdout));
      else reject(new Error(`${script} ${args.join(" ")}: ${stderr.slice(-3000)}`));
    });
    child.stdin!.end(JSON.stringify(input));
  });
}

/** How a server is started. */
export interface RealSettings {
  readonly readTtlSeconds?: number;
  readonly writeTtlSeconds?: number;
  readonly logSize?: number;
  readonly withoutPool?: boolean;
  readonly lmcacheDriven?: boolean;
  readonly transport?: "grpc" | "zmq";
  readonly poolGigabytes?: number;
  /** Of --l2-adapter. */
  readonly adapter?: object;
  /** Before what the environment has: another version. */
  readonly pythonPath?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** Below the range that the kernel takes ports from: LMCache needs seconds until it listens there. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 11_000 + Math.floor(Math.random() * 9_000);
    const server = createServer().listen(port, "127.0.0.1");
    try {
      await once(server, "listening");
    } catch {
      continue; // Somebody is there.
    }
    server.close();
    await once(server, "close");
    return port;
  }
}

let started = 0;

/** `lmcache server`, on loopback. */
export class RealLmcache implements LmcacheServer {
  readonly poolName: string = `lmshm_${process.pid}_${++started}`;
  readonly #settings: RealSettings;
  readonly #port: number;
  readonly #httpPort: number;
  readonly #dir = new TempDir();
  #child: ChildProcess | null = null;

  private constructor(settings: RealSettings, port: number, httpPort: number) {
    this.#settings = settings;
    this.#port = port;
    this.#httpPort = httpPort;
  }

  static async start(settings: RealSettings = {}): Promise<RealLmcache> {
    const server = new RealLmcache(settings, await freePort(), await freePort());
    await server.restart();
    return server;
  }

  get address(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** What it has written. */
  get log(): string {
    return readFileSync(this.#dir.file("log"), "utf8");
  }

  async restart(): Promise<void> {
    await this.kill();
    const { pythonPath, env = {} } = this.#settings;
    const log = openSync(this.#dir.file("log"), "a");
    const child = spawn(PYTHON, [
      ...["-m", "lmcache.v1.multiprocess.http_server", ...this.#arguments()],
    ], {
      stdio: ["ignore", log, log],
      env: {
        ...process.env,
        ...QUIET,
        ...(pythonPath === undefined ? {} : { PYTHONPATH: pythonPath }),
        ...env,
      },
    });
    closeSync(log);
    this.#child = child;
    const end = performance.now() + 90_000;
    while (!await this.#answers()) {
      assert.equal(child.exitCode, null, `LMCache has ended:\n${this.log.slice(-4000)}`);
      assert.ok(performance.now() < end, `LMCache does not answer:\n${this.log.slice(-4000)}`);
      await sleep(100);
    }
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  /** Evicts what is not locked; all of it with `force`. */
  async clear(force = false): Promise<void> {
    await this.#http("POST", "/cache/clear", { tier: "l1", force });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      // By itself, so that it takes its pool away.
      const ended = once(child, "exit");
      child.kill("SIGTERM");
      await Promise.race([ended, sleep(20_000)]);
    }
    await this.kill();
    this.#dir[Symbol.dispose]();
  }

  #arguments(): string[] {
    const { readTtlSeconds, writeTtlSeconds, logSize, withoutPool, lmcacheDriven, adapter } =
      this.#settings;
    const { transport = "grpc", poolGigabytes = 0.05 } = this.#settings;
    const given = (option: string, value: unknown) =>
      value === undefined ? [] : [option, String(value)];
    return [
      ...["--transport", transport, "--host", "127.0.0.1", "--port", String(this.#port)],
      ...["--http-host", "127.0.0.1", "--http-port", String(this.#httpPort)],
      ...["--supported-transfer-mode", lmcacheDriven ? "lmcache_driven" : "engine_driven"],
      ...["--chunk-size", String(TOKENS_A_CHUNK), "--eviction-policy", "LRU"],
      ...["--l1-size-gb", String(poolGigabytes), "--no-l1-use-lazy"],
      ...given("--shm-name", withoutPool ? undefined : this.poolName),
      ...given("--l1-read-ttl-seconds", readTtlSeconds),
      ...given("--l1-write-ttl-seconds", writeTtlSeconds),
      ...given("--kv-event-log-size", logSize ?? 0),
      ...given("--l2-adapter", adapter && JSON.stringify(adapter)),
    ];
  }

  async #answers(): Promise<boolean> {
    try {
      await this.#http("GET", "/healthcheck");
      return true;
    } catch {
      return false;
    }
  }

  async #http(method: string, path: string, body?: object): Promise<void> {
    const response = await fetch(`http://127.0.0.1:${this.#httpPort}${path}`, {
      method,
      signal: AbortSignal.timeout(20_000),
      ...(body === undefined
        ? {}
        : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
    });
    const text = await response.text();
    if (method === "POST") assert.equal(response.status, 200, text);
  }
}
