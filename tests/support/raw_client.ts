// SPDX-License-Identifier: Apache-2.0
//
// A raw client of version 2 that does one thing after the other, over a socket of its own.

import { attachWords, authenticate } from "./dialect.ts";
import { LineSocket } from "./line_socket.ts";
import type { Way } from "./raw_worker.ts";
import type { ShadowedSegment } from "./shadowed_segment.ts";

/** Where a worker is, and what it wants to hear. */
export interface Door {
  readonly secret: string;
  address(way: Way): string;
}

export class RawClient {
  readonly socket: LineSocket;
  /** What the worker said to HELLO. */
  readonly hello: string;
  #id = 0;

  private constructor(socket: LineSocket, hello: string) {
    this.socket = socket;
    this.hello = hello;
  }

  /** Connected, authenticated, and in version 2. @throws {Error} with what the worker answered. */
  static async connect(door: Door, way: Way): Promise<RawClient> {
    const socket = await LineSocket.connect(door.address(way));
    try {
      if (way === "tcp") await authenticate(socket.ask, door.secret);
      const hello = await socket.ask("HELLO 2");
      if (!hello.startsWith("OK 2 boot=")) throw new Error(`HELLO 2: ${hello}`);
      return new RawClient(socket, hello);
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  /** What is answered to a request, without its id. */
  async ask(text: string): Promise<string> {
    const id = `${++this.#id}`;
    const answer = await this.socket.ask(`${id} ${text}`);
    if (!answer.startsWith(`${id} `)) throw new Error(`${id} ${text}: ${answer}`);
    return answer.slice(id.length + 1);
  }

  /** As ask(), and anything but OK is an error. Resolves to what follows it. */
  async demand(text: string): Promise<string> {
    const answer = await this.ask(text);
    if (answer !== "OK" && !answer.startsWith("OK ")) throw new Error(`${text}: ${answer}`);
    return answer.slice(3);
  }

  async attach({ name, sizeBytes, fd }: ShadowedSegment): Promise<void> {
    await this.demand(attachWords(name, sizeBytes, fd));
  }

  /** In order. */
  async close(): Promise<void> {
    this.socket.finish();
    await this.socket.closed;
  }
}
