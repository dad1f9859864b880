// SPDX-License-Identifier: Apache-2.0
//
// What a connection needs of the way to a worker: bytes out, bytes in, and to know when the worker
// can no longer touch the shared memory. Not the protocol: nothing here knows what a line is.
//
// Losing a connection and being safe are two things. A worker may be in the middle of a read into
// the memory when the connection is given up, so the memory must stay allocated until `gone`:
//
// - A child process is gone when it has exited. There is no doubt left then.
// - The worker at the other end of a socket is gone, as far as this connection is concerned, when
//   *it* has closed the connection: a worker that died has no thread left in a system call when
//   the kernel closes its sockets, and a worker that lives closes a connection only after the last
//   request on it has ended. (lmshm-worker and LMCache's worker both do.) So a socket is given up
//   by closing our sending half alone, and listening until the other half closes. A worker that
//   never closes keeps the memory allocated: that is the safe side.

import type { ShmError } from "../errors.ts";

export interface TransportHandlers {
  /** Bytes from the worker, in order. Valid during the call only. */
  data(chunk: Uint8Array): void;
  /** After write() returned false: there is room again. */
  drain(): void;
  /**
   * Once: no more data will come, and the worker no longer touches memory on behalf of this
   * connection. `error` says why it ended.
   */
  gone(error: ShmError): void;
}

export interface Transport {
  /** "worker process 4711 (/path/lmshm-worker)" or "worker at unix:/run/x.sock". */
  readonly peer: string;
  /** Of a child process, once it runs; else null. */
  readonly pid: number | null;
  /** Resolves when requests may be sent; rejects with a ShmError when it cannot come to that. */
  readonly ready: Promise<void>;
  /** Queues bytes. False: hold back until drain(). Ignored after the end. */
  write(text: string): boolean;
  /** Gives up a worker that may be using memory; gone() follows when it provably does no more. */
  abandon(): void;
  /** Gives up at once a worker that holds no memory. gone() follows. */
  destroy(): void;
  /**
   * The orderly end, after QUIT was answered: waits for the worker to go by itself, then asks it
   * to, then makes it, each within `graceMs`. Resolves when it has gone, or when nothing helped.
   */
  close(graceMs: number): Promise<void>;
}

export type OpenTransport = (handlers: TransportHandlers) => Transport;
