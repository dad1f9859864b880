// SPDX-License-Identifier: Apache-2.0
//
// A worker as something one can rely on: requests queue here, go out within limits, and survive
// the loss of a worker. Not files and keys (storage/), not lines and bytes (connection.ts).
//
// What happens when a worker is lost: requests that were not sent wait for the next one. Reads and
// writes that were sent are sent once more, because whole objects are read and written and doing it
// twice is doing it once; but only when the lost worker provably is gone, since it may write into
// the same memory. Everything else fails with the reason. A new worker is started when somebody
// needs one, within limits.

import type { ShmError } from "../errors.ts";
import { SlotSet } from "../slot_set.ts";
import { Call, type CallRequest } from "./call.ts";
import { Connection } from "./connection.ts";
import { Fifo } from "./fifo.ts";
import { type Handshake, shakeHands, type WorkerFacts } from "./handshake.ts";
import { closedError, Keeper } from "./keeper.ts";
import { BYTES_PER_MS, type WorkerLimits } from "./limits.ts";
import type { PendingOwner } from "./pending.ts";
import { encodePing, encodeRead, encodeWrite, type OkReply, type Reply } from "./protocol.ts";
import type { OpenTransport } from "./transport.ts";

export type { WorkerLimits };

export interface WorkerClientOptions {
  readonly open: OpenTransport;
  readonly handshake: Handshake;
  readonly limits: WorkerLimits;
  /** Called whenever a worker that worked is lost. */
  readonly onLost?: ((error: ShmError) => void) | undefined;
}

export interface TransferOptions {
  /** Rejects the call with the signal's reason; the memory stays held until the worker is done. */
  readonly signal?: AbortSignal | undefined;
  /** Rejects the call with ETIMEDOUT, likewise; default: the worker's own limits alone. */
  readonly timeoutMs?: number | undefined;
}

/** Bytes between a file and memory of the attached segment. */
export interface Transfer extends TransferOptions {
  readonly path: string;
  /** Address in this process. */
  readonly address: bigint;
  readonly byteLength: number;
  /** Called once, when the worker can no longer touch the memory. */
  readonly release: () => void;
}

export class WorkerClient implements AsyncDisposable {
  readonly #options: WorkerClientOptions;
  readonly #keeper: Keeper<Connection>;
  readonly #queue = new Fifo<Call>();
  readonly #outstanding = new SlotSet<Call>();
  readonly #owner: PendingOwner;
  #facts: WorkerFacts = { extended: false };
  #accepting = true;
  #closing: Promise<void> | null = null;

  private constructor(options: WorkerClientOptions) {
    this.#options = options;
    this.#owner = {
      // A caller who gives up before the request was sent takes the memory back at once.
      abandoned: (call) => call.sent || call.free(),
      finished: (call) => this.#onFinished(call as Call),
    };
    this.#keeper = new Keeper<Connection>(
      {
        make: () => this.#makeConnection(),
        greet: (connection) => this.#greet(connection),
        needed: () => [...this.#queue].some((call) => !call.settled),
        pump: () => this.#pump(),
        refuse: (error) => this.#failQueue(error),
      },
      options.limits.restarts,
      options.onLost,
    );
  }

  /**
   * Starts or connects to a worker and attaches the segment.
   * @throws {ShmError} the reason why not; nothing is left behind then.
   */
  static async open(options: WorkerClientOptions): Promise<WorkerClient> {
    const client = new WorkerClient(options);
    await client.#keeper.start();
    return client;
  }

  /** What is known of the worker. */
  get facts(): WorkerFacts {
    return this.#facts;
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get pid(): number | null {
    return this.#keeper.connection?.pid ?? null;
  }

  /** Workers that replaced a lost one. */
  get restarts(): number {
    return this.#keeper.restarts;
  }

  /** Requests whose caller waits, or whose memory is held. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  /**
   * Writes memory into the file `path`.
   * @throws {ShmError} EPROTO, ETIMEDOUT, ECONNRESET, EWORKER when the worker is lost; EBADF after
   *   close(). The worker's refusal is a reply, not an exception.
   */
  write(transfer: Transfer): Promise<Reply> {
    return this.#transfer(
      "WRITE",
      encodeWrite,
      transfer,
      (reply) =>
        reply.count === transfer.byteLength
          ? null
          : `${transfer.byteLength} bytes were to be written`,
    );
  }

  /** Reads the file `path` into memory, at most `byteLength` bytes of it. Errors as write(). */
  read(transfer: Transfer): Promise<Reply> {
    return this.#transfer(
      "READ",
      encodeRead,
      transfer,
      (reply) =>
        reply.count !== null && reply.count <= transfer.byteLength
          ? null
          : `at most ${transfer.byteLength} bytes were asked for`,
    );
  }

  /**
   * Proves that the worker answers; a worker that does not know PING proves it by saying so.
   * @returns milliseconds until the answer.
   */
  async ping(options: TransferOptions = {}): Promise<number> {
    const start = performance.now();
    await this.#submit({
      what: "PING",
      line: encodePing(),
      bytes: 0,
      limitMs: this.#options.limits.controlTimeoutMs,
      retriable: true,
      ...options,
    });
    return performance.now() - start;
  }

  /**
   * Finishes what was begun, within `timeoutMs`, and ends the worker: QUIT, then SIGTERM, then
   * SIGKILL. Never rejects. Idempotent.
   */
  close(timeoutMs: number = this.#options.limits.closeTimeoutMs): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // --- requests

  #transfer(
    command: string,
    encode: (request: { path: string; address: bigint; byteLength: bigint }) => string,
    transfer: Transfer,
    check: (reply: OkReply) => string | null,
  ): Promise<Reply> {
    const { path, address, byteLength, release, signal, timeoutMs } = transfer;
    let line: string;
    try {
      line = encode({ path, address, byteLength: BigInt(byteLength) });
    } catch (error) {
      release();
      return Promise.reject(error);
    }
    return this.#submit({
      what: `${command} ${path}`,
      line,
      bytes: byteLength,
      limitMs: this.#options.limits.ioTimeoutMs + Math.ceil(byteLength / BYTES_PER_MS),
      retriable: true,
      check,
      release,
      signal,
      timeoutMs,
    });
  }

  #submit(request: CallRequest): Promise<Reply> {
    if (!this.#accepting) {
      request.release?.();
      return Promise.reject(closedError(request.what));
    }
    if (request.signal?.aborted) {
      request.release?.();
      return Promise.reject(request.signal.reason);
    }
    const call = new Call(request, this.#owner);
    this.#outstanding.add(call);
    this.#queue.push(call);
    this.#pump();
    return call.promise;
  }

  #onFinished(call: Call): void {
    this.#outstanding.delete(call);
    if (this.#outstanding.size === 0) this.#keeper.changed();
  }

  #pump(): void {
    for (;;) {
      const call = this.#queue.peek();
      if (call === undefined) return;
      if (call.settled) {
        this.#queue.shift();
        call.free();
        continue;
      }
      const { connection } = this.#keeper;
      if (connection === null) {
        this.#keeper.need();
        return;
      }
      if (!this.#fits(connection, call)) return;
      this.#queue.shift();
      connection.send(call);
    }
  }

  #fits(connection: Connection, call: Call): boolean {
    const { maxInFlight, maxInFlightBytes } = this.#options.limits;
    if (connection.requestsInFlight === 0) return true;
    return connection.requestsInFlight < maxInFlight &&
      connection.bytesInFlight + call.request.bytes <= maxInFlightBytes;
  }

  #failQueue(error: unknown): void {
    for (const call of this.#queue.takeAll()) call.refuse(error);
  }

  // --- connections

  #makeConnection(): Connection {
    return new Connection(this.#options.open, {
      progress: () => this.#pump(),
      down: (connection, error) => this.#keeper.down(connection, error),
      gone: (connection, calls, error) => this.#onGone(connection, calls, error),
    });
  }

  async #greet(connection: Connection): Promise<null> {
    this.#facts = await shakeHands(connection, this.#options.handshake);
    return null;
  }

  #onGone(connection: Connection, calls: readonly Call[], error: ShmError): void {
    const again = this.#keeper.gone(connection, calls, error);
    if (again.length === 0) return;
    this.#queue.prepend(again);
    this.#pump();
  }

  // --- the end

  async #close(timeoutMs: number): Promise<void> {
    this.#accepting = false;
    await this.#keeper.end(this.#outstanding, () => this.outstanding === 0, timeoutMs);
  }
}
