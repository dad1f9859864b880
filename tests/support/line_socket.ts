// SPDX-License-Identifier: Apache-2.0
//
// A socket of lines, without any idea of a protocol: what arrives goes line by line to whoever
// listens, what is sent may end anywhere.

import { connect, type Socket } from "node:net";
import { parseWorkerAddress } from "../../src/worker/address.ts";
import type { Ask } from "./dialect.ts";

/** A wait that no honest worker makes anybody wait. */
export const PATIENCE_MS = 60_000;

export class LineSocket {
  readonly socket: Socket;
  /** Gets each line, without its line feed; until then lines are answers to ask(). */
  onLine: ((line: string) => void) | null = null;
  /** Resolves when the stream has ended, however. */
  readonly closed: Promise<void>;
  /** The worker has ended its side in order: none of our requests uses the memory any more. */
  ended = false;
  isClosed = false;
  readonly #asking: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  #rest = "";

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (chunk) => this.#arrived(String(chunk)));
    socket.on("end", () => {
      this.ended = true;
      socket.end();
    });
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => {
      socket.on("close", () => {
        this.isClosed = true;
        for (const { reject } of this.#asking.splice(0)) reject(new Error("the connection ended"));
        resolve();
      });
    });
  }

  /** @param address as a worker prints it behind LISTENING. */
  static connect(address: string): Promise<LineSocket> {
    const to = parseWorkerAddress(address);
    const socket = to.kind === "unix"
      ? connect({ path: to.path, allowHalfOpen: true })
      : connect({ host: to.host, port: to.port, allowHalfOpen: true });
    return new Promise((resolve, reject) => {
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new LineSocket(socket));
      });
    });
  }

  #arrived(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      if (this.onLine !== null) this.onLine(line);
      else this.#asking.shift()?.resolve(line);
    }
  }

  send(text: string): void {
    if (this.socket.writable) this.socket.write(text);
  }

  /** One line and its answer, while nobody else listens. */
  readonly ask: Ask = (line) => {
    if (this.isClosed) return Promise.reject(new Error("the connection ended"));
    const answer = new Promise<string>((resolve, reject) => this.#asking.push({ resolve, reject }));
    this.send(`${line}\n`);
    return answer;
  };

  /** No more is sent; what was is answered. */
  finish(): void {
    this.socket.end();
  }

  /** At once, whatever is in flight. */
  destroy(): void {
    this.socket.destroy();
  }
}
