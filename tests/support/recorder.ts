// SPDX-License-Identifier: Apache-2.0
//
// A proxy in front of a server of an engine: it records what the server is sent, and breaks connections.

import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

export class Recorder implements AsyncDisposable {
  sent = "";
  readonly #target: number;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer((client) => {
      const server = connect({ host: "127.0.0.1", port: this.#target });
      for (const [one, other] of [[client, server], [server, client]] as const) {
        this.#sockets.add(one);
        one.on("error", () => other.destroy());
        one.on("close", () => {
          this.#sockets.delete(one);
          other.destroy();
        });
      }
      client.on("data", (data) => {
        this.sent += data.toString("latin1");
        server.write(data);
      });
      server.pipe(client);
    });
  }

  static async before(port: number): Promise<Recorder> {
    const recorder = new Recorder(port);
    recorder.#server.listen(0, "127.0.0.1");
    await once(recorder.#server, "listening");
    return recorder;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Breaks all connections. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.drop();
    this.#server.close();
    await once(this.#server, "close");
  }
}
