// SPDX-License-Identifier: Apache-2.0
//
// Keeps a client supplied with a connection: makes the first, replaces a lost one when somebody
// needs it, within limits, and ends them all. It knows nothing of requests; what becomes of those
// that were in flight is the client's decision.

import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import { GRACE_MS } from "./limits.ts";
import type { Pending } from "./pending.ts";
import { RestartLimiter, type RestartLimits } from "./restart_limiter.ts";
import { settlesWithin } from "../wait.ts";

export interface KeptConnection {
  readonly open: boolean;
  readonly pid: number | null;
  readonly ready: Promise<void>;
  /** Ends it; it moves no data. */
  discard(error: ShmError): void;
  /** The orderly end. Never rejects. */
  close(graceMs: number, error: ShmError): Promise<void>;
}

interface KeeperOwner<C extends KeptConnection> {
  /** A connection whose down() and gone() come to the keeper. */
  make(): C;
  /**
   * What is said first.
   * @returns which worker it is; null when there is no telling it from the one before.
   */
  greet(connection: C): Promise<string | null>;
  /** Whether somebody waits for a connection. */
  needed(): boolean;
  /** Requests may be sent, or have to be given up. */
  pump(): void;
  /** There will be no connection for those who wait: they get the reason. */
  refuse(error: unknown): void;
}

/** Losses after which trying again makes sense; others will be the same next time. */
const TRANSIENT = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE", "EWORKER"]);

export class Keeper<C extends KeptConnection> {
  readonly #owner: KeeperOwner<C>;
  readonly #limiter: RestartLimiter;
  readonly #limits: RestartLimits;
  readonly #onLost: ((error: ShmError) => void) | undefined;
  readonly #live = new Set<C>();
  #connection: C | null = null;
  #worker: string | null = null;
  #connecting = false;
  #waiters = new Set<() => void>();
  #restarts = 0;
  /** Somebody else's worker was not found, however often it was tried. */
  #away = false;
  #lastLoss: ShmError | null = null;
  #ended = false;

  constructor(
    owner: KeeperOwner<C>,
    limits: RestartLimits,
    onLost: ((error: ShmError) => void) | undefined,
  ) {
    this.#owner = owner;
    this.#limits = limits;
    this.#limiter = new RestartLimiter(limits);
    this.#onLost = onLost;
  }

  /** To send on; null while there is none. */
  get connection(): C | null {
    return this.#connection;
  }

  /** Workers that replaced a lost one. */
  get restarts(): number {
    return this.#restarts;
  }

  /** No connection will come any more. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Makes the first connection, or takes the one that there is.
   * @throws {ShmError} the reason why not; nothing is left then.
   */
  async start(first?: C): Promise<void> {
    const [connection, worker] = await this.#connect(first);
    // One that was lost since is replaced when somebody needs it, as a later one would be.
    if (connection.open) this.#connection = connection;
    this.#worker = worker;
  }

  /** Somebody needs a connection, and there is none: pump() or refuse() follow. */
  need(): void {
    if (!this.#connecting) void this.#reconnect();
  }

  /** A connection takes no more requests. */
  down(connection: C, error: ShmError): void {
    if (this.#connection !== connection) return;
    this.#connection = null;
    this.#lastLoss = error;
    const onLost = this.#onLost;
    // Later, when the clean-up that goes on here is done.
    if (onLost) queueMicrotask(() => callFenced("onWorkerLost", onLost, error));
    this.#owner.pump();
  }

  /**
   * A worker touches no memory on behalf of a connection any more, and will not answer `calls`.
   * @returns those of them that are to be asked once more; the others have got `error`.
   */
  gone<P extends Pending<unknown>>(connection: C, calls: readonly P[], error: ShmError): P[] {
    this.#live.delete(connection);
    this.changed();
    return calls.filter((call) => {
      if (!call.settled && call.retriable && call.attempts < 2 && !this.#ended) {
        call.giveBack(true);
        return true;
      }
      call.refuse(error);
      return false;
    });
  }

  /** Something that until() may wait for has come. */
  changed(): void {
    for (const waiter of this.#waiters) waiter();
  }

  /** Resolves when `test` holds, at the latest after `ms`. */
  async until(test: () => boolean, ms: number): Promise<void> {
    if (test()) return;
    let waiter: () => void = () => {};
    const reached = new Promise<void>((resolve) => {
      waiter = () => test() && resolve();
      this.#waiters.add(waiter);
    });
    await settlesWithin(reached, ms);
    this.#waiters.delete(waiter);
  }

  /**
   * Waits until `idle` holds, for at most `timeoutMs`, then ends all connections; what is left of
   * `outstanding` fails.
   * @param idle nothing is outstanding, nor will be.
   */
  async end(
    outstanding: Iterable<Pending<unknown>>,
    idle: () => boolean,
    timeoutMs: number,
  ): Promise<void> {
    await this.until(idle, Math.max(0, timeoutMs));
    this.#ended = true;
    const error = closedError("finish the request");
    this.#owner.refuse(error);
    const connection = this.#connection;
    this.#connection = null;
    for (const other of this.#live) {
      if (other !== connection) other.discard(error);
    }
    await connection?.close(GRACE_MS, error);
    for (const call of outstanding) call.fail(error);
    // The end of a worker that was given up frees the memory. At a socket it may take longer than
    // this; the memory stays held until then.
    await this.until(() => idle() && this.#live.size === 0, GRACE_MS);
  }

  async #connect(connection: C = this.#owner.make()): Promise<[C, string | null]> {
    this.#live.add(connection);
    try {
      await connection.ready;
      return [connection, await this.#owner.greet(connection)];
    } catch (error) {
      connection.discard(error as ShmError);
      await this.until(() => !this.#live.has(connection), GRACE_MS);
      throw error;
    }
  }

  async #reconnect(): Promise<void> {
    this.#connecting = true;
    const { reconnects = false, max } = this.#limits;
    // Who calls while it is known to be away waits for one attempt, not for all of them.
    const attempts = this.#away ? 1 : max;
    try {
      for (let attempt = 1;; attempt++) {
        const pauseMs = this.#limiter.take();
        if (pauseMs === null) throw this.#limitError();
        if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
        if (this.#ended || !this.#owner.needed()) return;
        try {
          const [connection, worker] = await this.#connect();
          if (this.#ended || !connection.open) {
            connection.discard(closedError("connect"));
            if (this.#ended) return;
            throw lostAtOnce();
          }
          this.#connection = connection;
          this.#away = false;
          if (worker === null || worker !== this.#worker) this.#restarts++;
          this.#worker = worker;
          return;
        } catch (error) {
          if (error instanceof ShmError) this.#lastLoss = error;
          if (!isTransient(error)) throw error;
          if (reconnects && attempt >= attempts) throw this.#awayError(attempt);
        }
      }
    } catch (error) {
      this.#owner.refuse(error);
    } finally {
      this.#connecting = false;
      this.#owner.pump();
    }
  }

  #awayError(attempts: number): ShmError {
    this.#away = true;
    const last = this.#lastLoss;
    return new ShmError(
      `the worker was lost and not found again in ${attempts} ` +
        `${attempts === 1 ? "attempt" : "attempts"}; last: ${last?.message}`,
      {
        code: "EWORKER",
        operation: "connect to worker",
        hint: "Start it again; the next call tries to connect to it",
        details: { attempts },
        cause: last,
      },
    );
  }

  #limitError(): ShmError {
    const { max, windowMs } = this.#limits;
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
}

function isTransient(error: unknown): boolean {
  if (!(error instanceof ShmError)) return false;
  // A Unix socket that is not there yet: the worker is about to be started again.
  return TRANSIENT.has(error.code) ||
    (error.code === "ENOENT" && error.operation === "connect to worker");
}

function lostAtOnce(): ShmError {
  return new ShmError("the worker closed the connection as soon as it was made", {
    code: "ECONNRESET",
    operation: "connect to worker",
    hint: "Look at the worker's log",
  });
}

/** Of a client that was closed. */
export function closedError(what: string): ShmError {
  return new ShmError(`the connector is closed: cannot ${what}`, {
    code: "EBADF",
    operation: "talk to worker",
    hint: "Open a new one",
  });
}
