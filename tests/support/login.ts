// SPDX-License-Identifier: Apache-2.0
//
// Who answers a client that wants to log in: a worker that knows the secret, and some that do not.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { loginProof } from "../../src/worker/login.ts";
import type { Peer, Script } from "./worker.ts";

/** A script whose clients must prove that they know `secret` before `inner` hears them. */
export function provingWorker(secret: string, inner: Script): Script {
  const challenges = new Map<Peer, [client: string, worker: string]>();
  const proven = new Set<Peer>();
  return (line, peer) => {
    const [word, text = ""] = line.split(" ");
    if (proven.has(peer)) return inner(line, peer);
    if (word === "CHALLENGE") {
      const nonce = randomBytes(32).toString("hex");
      challenges.set(peer, [text, nonce]);
      return `OK ${nonce}`;
    }
    const nonces = challenges.get(peer);
    if (word !== "PROVE" || nonces === undefined) return "ERROR EACCES not authenticated";
    if (text !== loginProof("client", secret, ...nonces)) return "ERROR EACCES wrong proof";
    proven.add(peer);
    return `OK ${loginProof("worker", secret, ...nonces)}`;
  };
}

const NONCE = "0123456789abcdef".repeat(4);

/** Programs that do not know the secret and answer as if they did, by what they do. */
export const IMPOSTORS: Readonly<Record<string, () => Script>> = {
  "says OK to everything": () => () => "OK",
  "says OK with numbers": () => (line) => `OK ${line.split(" ").at(-1)}`,
  "proves something else": () => () => `OK ${randomBytes(32).toString("hex")}`,
  "repeats what the client said": () => (line) => `OK ${line.split(" ")[1]}`,
  "proves with another secret": () => {
    let client = "";
    return (line) => {
      const [word, text = ""] = line.split(" ");
      if (word !== "CHALLENGE") return `OK ${loginProof("worker", "x".repeat(16), client, NONCE)}`;
      client = text;
      return `OK ${NONCE}`;
    };
  },
  "answers before it is asked": () => (line) =>
    line.startsWith("CHALLENGE") ? `OK ${NONCE}\nOK ${NONCE}\nOK\nOK` : "OK",
};

/**
 * A port behind which somebody else may sit each time. (A real worker's port could not be taken at
 * once: the system keeps it for a minute.)
 */
export class Port implements AsyncDisposable {
  /** Who answers from now on: a program of this kind, or the worker at this port. */
  behind: Script | number = 0;
  /** All that programs were told, of late. */
  lines: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  private constructor() {
    this.#server = createServer((socket) => this.#serve(socket));
  }

  static async open(): Promise<Port> {
    const port = new Port();
    port.#server.listen(0, "127.0.0.1");
    await once(port.#server, "listening");
    return port;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as { port: number }).port}`;
  }

  #serve(socket: Socket): void {
    this.#keep(socket);
    const { behind } = this;
    if (typeof behind === "number") {
      const worker = connect(behind, "127.0.0.1");
      this.#keep(worker);
      worker.pipe(socket).pipe(worker);
      for (const [one, other] of [[worker, socket], [socket, worker]] as const) {
        one.on("close", () => other.destroy());
      }
      return;
    }
    const peer: Peer = { socket, index: 0, send: (text) => void socket.write(text) };
    let rest = "";
    socket.setEncoding("utf8");
    socket.on("data", (chunk) => {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop()!;
      for (const line of parts) {
        this.lines.push(line);
        const answer = behind(line, peer);
        if (answer && socket.writable) socket.write(`${answer}\n`);
      }
    });
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}
