// SPDX-License-Identifier: Apache-2.0
//
// Workers for tests: the real one listening on a socket, and stand-ins that misbehave as told. And
// the check that none of them, nor a socket, is left behind.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { locateWorker } from "../../src/native/locate.ts";
import { childProcesses, withoutLeaks } from "./leaks.ts";

/** A directory of its own that is removed with all in it. */
export class TempDir implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), "lmshm-test-"));

  file(name: string): string {
    return join(this.path, name);
  }

  /** A program that /bin/sh runs. */
  script(name: string, text: string): string {
    const path = this.file(name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `test` holds; fails with `what` after `limitMs`. */
export async function eventually(
  what: string,
  test: () => boolean,
  limitMs = 40_000,
): Promise<void> {
  const end = performance.now() + limitMs;
  while (!test()) {
    if (performance.now() > end) assert.fail(`${what}, not within ${limitMs} ms`);
    await sleep(5);
  }
}

export function processExists(pid: number): boolean {
  try {
    // A zombie is no process any more: what is left of it waits to be read by its parent.
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function descriptorCount(): number {
  return readdirSync("/proc/self/fd").length;
}

/**
 * withoutLeaks(), and neither children nor descriptors more than before. Runtimes close some of
 * theirs a little later, and open a few of their own once.
 */
export async function withoutWorkers(body: () => Promise<void>): Promise<void> {
  const children = childProcesses().filter(processExists);
  const descriptors = descriptorCount();
  await withoutLeaks(body);
  await eventually(
    "all children have gone",
    () => childProcesses().filter(processExists).every((pid) => children.includes(pid)),
  );
  await eventually("descriptors are closed", () => descriptorCount() <= descriptors + 3);
}

export interface ListeningWorker extends AsyncDisposable {
  readonly address: string;
  readonly child: ChildProcess;
}

/** lmshm-worker --listen, ready. Ended by `await using`. */
export async function startWorker(
  listen: string,
  root: string | null,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<ListeningWorker> {
  const place = root === null ? [] : ["--root", root];
  const child = spawn(locateWorker(), ["--listen", listen, ...place, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  const exited = once(child, "exit");
  let said = "";
  const address = await new Promise<string>((resolve, reject) => {
    child.stdout!.on("data", (chunk) => {
      said += chunk;
      const line = /^LISTENING (.*)\n/m.exec(said);
      if (line) resolve(line[1]!);
    });
    child.on("error", reject);
    void exited.then(([code]) => reject(new Error(`the worker exited with status ${code}`)));
  });
  return {
    address,
    child,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** One client of a stand-in. */
export interface Peer {
  readonly socket: Socket;
  /** 0 for the first connection, and so on. */
  readonly index: number;
  send(text: string): void;
}

/** What a stand-in does with a line. Undefined: answers as a willing worker would. */
export type Script = (line: string, peer: Peer) => string | void | undefined;

/** The usual answer: every transfer moves all its bytes. */
export function willing(line: string): string {
  const words = line.split(" ");
  switch (words[0]) {
    case "READ":
    case "WRITE":
      return `OK ${words.at(-1)}`;
    case "PING":
      return `ERROR unknown command: ${words[0]}`;
    default:
      return "OK";
  }
}

/** A worker on a Unix socket whose answers are scripted; moves no data. */
export class ScriptedWorker implements AsyncDisposable {
  readonly path: string;
  /** All lines of all clients. */
  readonly lines: string[] = [];
  /** How many pieces they came in. */
  pieces = 0;
  connections = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #stubborn: boolean;

  private constructor(path: string, script: Script, stubborn: boolean) {
    this.path = path;
    this.#stubborn = stubborn;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#serve(socket, script));
  }

  /**
   * @param script gets each line; what it returns is sent, with a line feed; "" is nothing; and
   *   undefined is the usual answer.
   * @param options.stubborn do not close a connection when the client does: a worker that hangs.
   */
  static async listen(
    dir: TempDir,
    script: Script,
    options: { stubborn?: boolean } = {},
  ): Promise<ScriptedWorker> {
    const worker = new ScriptedWorker(dir.file("worker.sock"), script, options.stubborn ?? false);
    worker.#server.listen(worker.path);
    await once(worker.#server, "listening");
    return worker;
  }

  #serve(socket: Socket, script: Script): void {
    this.#sockets.add(socket);
    const peer: Peer = {
      socket,
      index: this.connections++,
      send: (text) => void socket.write(text),
    };
    let rest = "";
    socket.setEncoding("utf8");
    socket.on("error", () => {});
    socket.on("end", () => this.#stubborn || socket.end());
    socket.on("close", () => this.#sockets.delete(socket));
    socket.on("data", (chunk) => {
      this.pieces++;
      rest += chunk;
      const lines = rest.split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        this.lines.push(line);
        const answer = script(line, peer) ?? willing(line);
        if (answer !== "" && socket.writable) socket.write(`${answer}\n`);
        if (line === "QUIT") socket.end();
      }
    });
  }

  /** Connections that are not closed. */
  get open(): number {
    return this.#sockets.size;
  }

  /** To every client. */
  sendAll(text: string): void {
    for (const socket of this.#sockets) socket.write(text);
  }

  /** Closes every connection, from this side. */
  dropClients(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dropClients();
    this.#server.close();
    await once(this.#server, "close");
  }
}
