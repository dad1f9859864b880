// SPDX-License-Identifier: Apache-2.0
//
// A Redis or Valkey server for tests, on loopback, with what it needs in a directory of its own. The
// program is LMSHM_TEST_REDIS_SERVER or LMSHM_TEST_VALKEY_SERVER, or one of the two in PATH.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { sleep, TempDir } from "./worker.ts";

function inPath(name: string): string | undefined {
  const paths = (process.env["PATH"] ?? "").split(":").map((folder) => join(folder, name));
  return paths.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** The program; undefined: there is none here. */
export const redisProgram = process.env["LMSHM_TEST_REDIS_SERVER"] || inPath("redis-server") ||
  process.env["LMSHM_TEST_VALKEY_SERVER"] || inPath("valkey-server");

/** For `skip` of a test that needs one. */
export const withoutRedis = redisProgram === undefined &&
  "neither redis-server nor valkey-server is installed";

export class RedisServer implements AsyncDisposable {
  readonly socketPath: string;
  readonly port: number;
  readonly #password: string;
  readonly #directory: TempDir;
  readonly #child: ChildProcess;

  private constructor(directory: TempDir, port: number, password: string, args: string[]) {
    assert.ok(redisProgram !== undefined);
    this.#directory = directory;
    this.#password = password;
    this.port = port;
    this.socketPath = directory.file("socket");
    this.#child = spawn(redisProgram, [
      ...["--port", `${port}`, "--bind", "127.0.0.1", "--unixsocket", this.socketPath],
      ...["--save", "", "--appendonly", "no", "--dir", directory.path, "--daemonize", "no"],
      ...(password === "" ? [] : ["--requirepass", password]),
      ...args,
    ], { stdio: "ignore" });
  }

  /** With `password` it wants that; `args` are more of its options. */
  static async start(password = "", args: string[] = []): Promise<RedisServer> {
    const directory = new TempDir();
    // Below the range that the kernel takes ports from; where one is taken the server ends.
    for (let attempt = 0; attempt < 20; attempt++) {
      const port = 20_600 + Math.floor(Math.random() * 10_000);
      const server = new RedisServer(directory, port, password, args);
      if (await server.#answers()) return server;
      await server.kill();
    }
    directory[Symbol.dispose]();
    return assert.fail("the server does not start");
  }

  /** The bytes that one command is answered with. */
  async ask(...words: string[]): Promise<string> {
    const socket = connect(this.socketPath);
    try {
      const command = (list: string[]) =>
        `*${list.length}\r\n` +
        list.map((word) => `$${new TextEncoder().encode(word).length}\r\n${word}\r\n`).join("");
      const login = this.#password === "" ? "" : command(["AUTH", this.#password]);
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
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    this.#directory[Symbol.dispose]();
  }

  async #answers(): Promise<boolean> {
    for (let i = 0; i < 1000 && this.#child.exitCode === null; i++) {
      try {
        if ((await this.ask("PING")).startsWith("+PONG")) return true;
      } catch {
        // not yet
      }
      await sleep(20);
    }
    return false;
  }
}
