// SPDX-License-Identifier: Apache-2.0
//
// A worker that is already running, reached over TCP or a Unix socket. transport.ts explains when
// such a worker is gone. The socket does not keep an idle program alive.

import { connect, type Socket } from "node:net";
import { knownCode, ShmError } from "../errors.ts";
import { refusedFlag, throwIfRefused } from "../permission.ts";
import { formatWorkerAddress, type WorkerAddress } from "./address.ts";
import { errnoNumber } from "./errno_text.ts";
import { strangerOn, type Users } from "./stranger.ts";
import { settlesWithin } from "../wait.ts";
import type { Transport, TransportHandlers } from "./transport.ts";

interface SocketOptions {
  readonly address: WorkerAddress;
  /** Milliseconds until an attempt to connect is given up. */
  readonly connectTimeoutMs: number;
  /** Asks whether a Unix socket's worker is of this process's user; absent: it is not asked. */
  readonly users?: Users | undefined;
}

const CONNECT_HINTS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "Start lmshm-worker --listen with this address; LMCache's worker serves one " +
    "client and then exits",
  ENOENT: "Start lmshm-worker --listen with this path, or mount its directory here",
  EACCES: "The socket belongs to another user: run both as one user",
  ENOTFOUND: "Check the host name in the worker's address",
  ETIMEDOUT: "Check that the worker runs and that the address is right",
};

export class SocketTransport implements Transport {
  readonly pid = null;
  readonly peer: string;
  readonly ready: Promise<void>;
  readonly #options: SocketOptions;
  readonly #handlers: TransportHandlers;
  readonly #socket: Socket;
  readonly #closed: Promise<void>;
  #setClosed: () => void = () => {};
  #connected = false;
  #gone = false;
  #lastError: Error | null = null;

  constructor(options: SocketOptions, handlers: TransportHandlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.peer = `worker at ${formatWorkerAddress(options.address)}`;
    this.#closed = new Promise((resolve) => this.#setClosed = resolve);
    const { address } = options;
    try {
      this.#socket = connect(
        address.kind === "unix"
          ? { path: address.path, allowHalfOpen: true }
          : { host: address.host, port: address.port, allowHalfOpen: true },
      );
    } catch (error) {
      throwIfRefused(error, `connecting to the ${this.peer}`, "connect to worker");
      throw error;
    }
    this.ready = this.#start();
    this.ready.catch(() => {});
  }

  write(text: string): boolean {
    if (!this.#socket.writable) return true;
    return this.#socket.write(text);
  }

  abandon(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
    this.#finish();
  }

  async close(graceMs: number): Promise<void> {
    this.#socket.end();
    if (await settlesWithin(this.#closed, graceMs)) return;
    this.destroy();
  }

  #start(): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const { connectTimeoutMs } = this.#options;
      const timer = setTimeout(() => {
        this.#lastError = Object.assign(new Error(`no answer within ${connectTimeoutMs} ms`), {
          code: "ETIMEDOUT",
        });
        socket.destroy();
        this.#finish();
      }, connectTimeoutMs);
      this.#closed.then(() => {
        clearTimeout(timer);
        if (!this.#connected) reject(this.#cannotConnect());
      });
      socket.on("connect", () => {
        clearTimeout(timer);
        this.#lastError = this.#stranger();
        if (this.#lastError !== null) {
          socket.destroy();
          this.#finish();
          return;
        }
        this.#connected = true;
        if (this.#options.address.kind === "tcp") socket.setNoDelay(true);
        // While requests are in flight the connection's timer keeps the program alive.
        socket.unref();
        resolve();
      });
      socket.on("data", (chunk: Uint8Array) => this.#handlers.data(chunk));
      socket.on("drain", () => this.#handlers.drain());
      socket.on("error", (error: Error) => this.#lastError = error);
      // The worker's half has ended: nothing more will come, and it has finished with the memory.
      socket.on("end", () => {
        socket.destroy();
        this.#finish();
      });
      socket.on("close", () => this.#finish());
    });
  }

  /** Why whoever listens is not to be spoken to; null: it may be. */
  #stranger(): Error | null {
    const { address, users } = this.#options;
    if (address.kind !== "unix" || users === undefined) return null;
    try {
      return strangerOn(address.path, this.#socket, users);
    } catch (error) {
      return error as Error;
    }
  }

  #finish(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#setClosed();
    this.#handlers.gone(this.#connected ? this.#lostError() : this.#cannotConnect());
  }

  #cannotConnect(): ShmError {
    const cause = this.#lastError;
    const given = (cause as { code?: unknown } | null)?.code;
    const flag = refusedFlag(cause);
    const code = flag !== null ? "EPERM" : knownCode(given) ?? "ECONNREFUSED";
    const errno = errnoNumber(code);
    const hint = flag === null ? CONNECT_HINTS[code] : `Deno refuses it: run it with ${flag}`;
    return new ShmError(`no connection to the ${this.peer}: ${cause?.message ?? "closed"}`, {
      code,
      operation: "connect to worker",
      ...(errno === undefined ? {} : { errno }),
      ...(hint === undefined ? {} : { hint }),
      details: { address: formatWorkerAddress(this.#options.address) },
      cause,
    });
  }

  #lostError(): ShmError {
    const cause = this.#lastError;
    const why = cause ? `: ${cause.message}` : "";
    return new ShmError(`the ${this.peer} closed the connection${why}`, {
      code: "ECONNRESET",
      operation: "talk to worker",
      errno: errnoNumber("ECONNRESET")!,
      hint: "See the worker's own log for the reason",
      details: { address: formatWorkerAddress(this.#options.address) },
      ...(cause ? { cause } : {}),
    });
  }
}
