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

import { ShmError } from "../errors.ts";
import { Call, type CallRequest } from "./call.ts";
import { Connection } from "./connection.ts";
import { Fifo } from "./fifo.ts";
import { type Handshake, shakeHands, type WorkerFacts } from "./handshake.ts";
import { encodePing, encodeRead, encodeWrite, type OkReply, type Reply } from "./protocol.ts";
import { RestartLimiter, type RestartLimits } from "./restart_limiter.ts";
import { type OpenTransport, settlesWithin } from "./transport.ts";

export interface WorkerClientOptions {
  readonly open: OpenTransport;
  readonly handshake: Handshake;
  readonly limits: WorkerLimits;
  /** Called whenever a worker that worked is lost. */
  readonly onLost?: ((error: ShmError) => void) | undefined;
}

export interface WorkerLimits {
  /** Requests sent and not answered. */
  readonly maxInFlight: number;
  /** Bytes that those move together; a larger request goes alone. */
  readonly maxInFlightBytes: number;
  /** For PING and the handshake. */
  readonly controlTimeoutMs: number;
  /** For a transfer, and on top of it one millisecond for each 1,000 bytes. */
  readonly ioTimeoutMs: number;
  /** For what was begun before close(). */
  readonly closeTimeoutMs: number;
  readonly restarts: RestartLimits;
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

/** How long each step of ending a worker may take. */
const GRACE_MS = 2_000;
const BYTES_PER_MS = 1_000;
/** Losses after which trying again makes sense; others will be the same next time. */
const TRANSIENT = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE", "EWORKER"]);

export class WorkerClient implements AsyncDisposable {
  readonly #options: WorkerClientOptions;
  readonly #limiter: RestartLimiter;
  readonly #queue = new Fifo<Call>();
  readonly #live = new Set<Connection>();
  #connection: Connection | null = null;
  #facts: WorkerFacts = { extended: false };
  #connecting = false;
  #outstanding = new Set<Call>();
  #waiters = new Set<() => void>();
  #restarts = 0;
  #lastLoss: ShmError | null = null;
  #accepting = true;
  #ended = false;
  #closing: Promise<void> | null = null;

  private constructor(options: WorkerClientOptions) {
    this.#options = options;
    this.#limiter = new RestartLimiter(options.limits.restarts);
  }

  /**
   * Starts or connects to a worker and attaches the segment.
   * @throws {ShmError} the reason why not; nothing is left behind then.
   */
  static async open(options: WorkerClientOptions): Promise<WorkerClient> {
    const client = new WorkerClient(options);
    client.#connection = await client.#connect();
    return client;
  }

  /** What is known of the worker. */
  get facts(): WorkerFacts {
    return this.#facts;
  }

  /** Process id of the worker that was started here; null for others and while there is none. */
  get pid(): number | null {
    return this.#connection?.pid ?? null;
  }

  /** Workers that replaced a lost one. */
  get restarts(): number {
    return this.#restarts;
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
    const call: Call = new Call(request, () => this.#onCallChange(call));
    this.#outstanding.add(call);
    this.#queue.push(call);
    this.#pump();
    return call.reply;
  }

  #onCallChange(call: Call): void {
    // A caller who gives up before the request was sent takes the memory back at once.
    if (call.settled && !call.freed && call.attempts === 0) {
      call.free();
      return;
    }
    if (!call.settled || !call.freed) return;
    this.#outstanding.delete(call);
    if (this.#outstanding.size === 0) this.#changed();
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
      if (this.#connection === null) {
        void this.#reconnect();
        return;
      }
      if (!this.#fits(this.#connection, call)) return;
      this.#queue.shift();
      this.#connection.send(call);
    }
  }

  #fits(connection: Connection, call: Call): boolean {
    const { maxInFlight, maxInFlightBytes } = this.#options.limits;
    if (connection.requestsInFlight === 0) return true;
    return connection.requestsInFlight < maxInFlight &&
      connection.bytesInFlight + call.request.bytes <= maxInFlightBytes;
  }

  // --- connections

  async #connect(): Promise<Connection> {
    const connection = new Connection(this.#options.open, {
      progress: () => this.#pump(),
      down: (lost, error) => this.#onDown(lost, error),
      gone: (lost, calls, error) => this.#onGone(lost, calls, error),
    });
    this.#live.add(connection);
    try {
      await connection.ready;
      this.#facts = await shakeHands(connection, this.#options.handshake);
    } catch (error) {
      connection.discard(error as ShmError);
      await this.#until(() => !this.#live.has(connection), GRACE_MS);
      throw error;
    }
    return connection;
  }

  async #reconnect(): Promise<void> {
    if (this.#connecting) return;
    this.#connecting = true;
    try {
      for (;;) {
        const pauseMs = this.#limiter.take();
        if (pauseMs === null) throw this.#limitError();
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
        if (this.#ended || ![...this.#queue].some((call) => !call.settled)) return;
        try {
          const connection = await this.#connect();
          if (this.#ended || !connection.open) {
            connection.discard(closedError("connect"));
            continue;
          }
          this.#connection = connection;
          this.#restarts++;
          return;
        } catch (error) {
          if (!isTransient(error)) throw error;
          this.#lastLoss = error as ShmError;
        }
      }
    } catch (error) {
      this.#failQueue(error);
    } finally {
      this.#connecting = false;
      this.#pump();
    }
  }

  #onDown(connection: Connection, error: ShmError): void {
    if (this.#connection !== connection) return;
    this.#connection = null;
    this.#lastLoss = error;
    const { onLost } = this.#options;
    // Later, so that what it throws does not interrupt the clean-up that goes on here.
    if (onLost) queueMicrotask(() => onLost(error));
    this.#pump();
  }

  #onGone(connection: Connection, calls: readonly Call[], error: ShmError): void {
    this.#live.delete(connection);
    this.#changed();
    const again: Call[] = [];
    for (const call of calls) {
      if (!call.settled && call.request.retriable && call.attempts < 2 && !this.#ended) {
        again.push(call);
        continue;
      }
      call.fail(error);
      call.free();
    }
    if (again.length === 0) return;
    this.#queue.prepend(again);
    this.#pump();
  }

  #failQueue(error: unknown): void {
    for (const call of this.#queue.takeAll()) {
      call.fail(error);
      call.free();
    }
  }

  #limitError(): ShmError {
    const { max, windowMs } = this.#options.limits.restarts;
    const waitMs = this.#limiter.availableInMs;
    const last = this.#lastLoss;
    const times = max === 1 ? "once" : `${max} times`;
    return new ShmError(
      max === 0
        ? `the worker was lost and must not be replaced (maxRestarts is 0): ${last?.message}`
        : `the worker was replaced ${times} within ${windowMs} ms and lost again; last: ` +
          `${last?.message ?? "no reason known"}`,
      {
        code: "EWORKER",
        operation: "restart worker",
        hint: Number.isFinite(waitMs)
          ? `Repair its cause; the next attempt is allowed in ${Math.ceil(waitMs)} ms`
          : "Repair its cause and open the connector again",
        details: { max, windowMs, waitMs },
        cause: last,
      },
    );
  }

  // --- the end

  async #close(timeoutMs: number): Promise<void> {
    this.#accepting = false;
    const idle = () => this.#outstanding.size === 0;
    await this.#until(idle, Math.max(0, timeoutMs));
    this.#ended = true;
    const error = closedError("finish the request");
    this.#failQueue(error);
    const connection = this.#connection;
    this.#connection = null;
    for (const other of this.#live) {
      if (other !== connection) other.discard(error);
    }
    await connection?.close(GRACE_MS, error);
    for (const call of this.#outstanding) call.fail(error);
    // The end of a worker that was given up frees the memory. At a socket it may take longer than
    // this; the memory stays held until then.
    await this.#until(() => idle() && this.#live.size === 0, GRACE_MS);
  }

  /** Resolves when `test` holds, at the latest after `ms`. */
  async #until(test: () => boolean, ms: number): Promise<void> {
    if (test()) return;
    let waiter: () => void = () => {};
    const reached = new Promise<void>((resolve) => {
      waiter = () => test() && resolve();
      this.#waiters.add(waiter);
    });
    await settlesWithin(reached, ms);
    this.#waiters.delete(waiter);
  }

  #changed(): void {
    for (const waiter of this.#waiters) waiter();
  }
}

function isTransient(error: unknown): boolean {
  if (!(error instanceof ShmError)) return false;
  // A Unix socket that is not there yet: the worker is about to be started again.
  return TRANSIENT.has(error.code) ||
    (error.code === "ENOENT" && error.operation === "connect to worker");
}

function closedError(what: string): ShmError {
  return new ShmError(`the connector is closed: cannot ${what}`, {
    code: "EBADF",
    operation: "talk to worker",
    hint: "Open a new one",
  });
}
