// SPDX-License-Identifier: Apache-2.0
//
// One connection to a worker, speaking version 1: requests go out pipelined, replies come in their
// order. Not the policy: what to send when, and what to do after a loss, is client.ts.
//
// A reply is matched to a request by its place in the order alone, so anything that casts doubt on
// the order ends the connection: a line that is no reply, a reply that nobody asked for, a number
// of bytes that cannot be. A worker that answers too late only ends up abandoned: its replies still
// are in order, and are used to let go of memory.

import type { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import { Fifo } from "./fifo.ts";
import { Link } from "./link.ts";
import { encodeQuit, parseReply, printable, type Reply } from "./protocol.ts";
import { settlesWithin } from "../wait.ts";
import type { OpenTransport } from "./transport.ts";
import { SECOND_LOOK_MS, Watchdog } from "./watchdog.ts";

export interface ConnectionOwner {
  /** A request was answered: there is room for another. */
  progress(connection: Connection): void;
  /** Once, unless close() was called: it takes no more requests. Calls in flight are not lost yet. */
  down(connection: Connection, error: ShmError): void;
  /**
   * Once: the worker does not touch memory on behalf of `calls`, oldest first, any more, and will
   * not answer them. Nothing has been done with them; some callers may have gone.
   */
  gone(connection: Connection, calls: readonly Call[], error: ShmError): void;
}

export class Connection {
  readonly #owner: ConnectionOwner;
  readonly #link: Link;
  readonly #watchdog = new Watchdog(() => this.#onWatchdog());
  readonly #inFlight = new Fifo<Call>();
  #bytesInFlight = 0;
  #outbox: string[] = [];
  #flushPlanned = false;
  #headSince = 0;
  #suspect = false;

  constructor(open: OpenTransport, owner: ConnectionOwner) {
    this.#owner = owner;
    this.#link = new Link(open, {
      line: (text) => this.#onLine(text),
      sliced: () => this.#onAnswered(),
      drained: () => this.#flush(),
      garbled: (fault) => this.#violation(fault),
      busy: () => this.#inFlight.size > 0,
      holdsMemory: () => [...this.#inFlight].some((call) => !call.freed && call.request.bytes > 0),
      down: (error) => this.#onDown(error),
      impatient: (error) => this.#failAll(error),
      gone: (error) => this.#onGone(error),
    });
  }

  /** Resolves when requests can be sent; rejects with a ShmError. */
  get ready(): Promise<void> {
    return this.#link.ready;
  }

  get peer(): string {
    return this.#link.peer;
  }

  get pid(): number | null {
    return this.#link.pid;
  }

  get requestsInFlight(): number {
    return this.#inFlight.size;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  get open(): boolean {
    return this.#link.open;
  }

  /** Why nothing that is sent now will be answered; null: it may be. */
  get ended(): ShmError | null {
    return this.#link.ended;
  }

  /** Sends a request. Its end comes through the call itself, or through gone(). */
  send(call: Call): void {
    call.attempts++;
    call.sent = true;
    this.#inFlight.push(call);
    this.#bytesInFlight += call.request.bytes;
    if (this.#inFlight.size === 1) this.#newHead();
    this.#outbox.push(call.request.line);
    this.#planFlush();
  }

  /** Ends a connection that moves no data, such as one whose handshake failed. */
  discard(error: ShmError): void {
    this.#link.giveUp(error, "distrusted");
  }

  /**
   * QUIT, and a bounded wait for the worker's end: at most four times `graceMs`. With requests in
   * flight the worker is given up instead, and they go the way of a loss.
   */
  async close(graceMs: number, error: ShmError): Promise<void> {
    if (this.#inFlight.size > 0) {
      this.#link.giveUp(error, "draining");
      return;
    }
    if (!this.#link.beginClose(error)) return;
    const quit = new Call({
      what: "QUIT",
      line: encodeQuit(),
      bytes: 0,
      // Beyond the transport's own steps, which are what ends a worker that does not answer.
      limitMs: 10 * graceMs,
      retriable: false,
    });
    this.send(quit);
    this.#flush();
    await settlesWithin(quit.promise, graceMs);
    await this.#link.finishClose(graceMs);
  }

  // --- out

  #planFlush(): void {
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    const flush = () => {
      this.#flushPlanned = false;
      this.#flush();
    };
    // Alone, a request leaves as soon as the caller lets go; among others it waits for all that
    // this turn of the event loop brings, because one long write is far cheaper than many.
    if (this.#inFlight.size === 1) queueMicrotask(flush);
    else setImmediate(flush);
  }

  #flush(): void {
    if (this.#link.blocked || this.#outbox.length === 0) return;
    const text = this.#outbox.join("");
    this.#outbox = [];
    this.#link.write(text);
  }

  // --- in

  #onLine(line: string): number {
    const reply = parseReply(line);
    const call = this.#inFlight.peek();
    const fault = reply === null
      ? `it sent ${printable(line)}, which is neither OK nor ERROR`
      : call === undefined
      ? `it sent ${printable(line)}, which nobody asked for`
      : this.#mismatch(call, reply);
    if (fault !== null) {
      this.#violation(fault);
      return 1;
    }
    this.#inFlight.shift();
    this.#bytesInFlight -= call!.request.bytes;
    call!.answer(reply!);
    return 1;
  }

  #onAnswered(): void {
    if (this.#inFlight.size > 0) this.#newHead();
    else this.#watchdog.rest();
    if (this.#link.open) this.#owner.progress(this);
  }

  #mismatch(call: Call, reply: Reply): string | null {
    if (!reply.ok) return null;
    const fault = call.request.check?.(reply) ?? null;
    return fault === null
      ? null
      : `it answered ${call.request.what} with OK ${reply.text}: ${fault}`;
  }

  #violation(fault: string): void {
    const error = this.#link.violation(fault);
    // The reply at fault was for the first in line; the others may get theirs elsewhere.
    this.#inFlight.peek()?.fail(error);
    this.#link.giveUp(error, "distrusted");
  }

  // --- watching

  #watched(): boolean {
    return this.#link.state === "open" || this.#link.state === "closing";
  }

  #newHead(): void {
    if (!this.#watched()) return;
    this.#headSince = performance.now();
    this.#suspect = false;
    this.#watchdog.expect(this.#headSince + this.#inFlight.peek()!.request.limitMs);
  }

  #onWatchdog(): void {
    const head = this.#inFlight.peek();
    if (head === undefined || !this.#watched()) return;
    const now = performance.now();
    const dueAt = this.#headSince + head.request.limitMs;
    if (dueAt > now) {
      this.#watchdog.expect(dueAt);
    } else if (!this.#suspect) {
      this.#suspect = true;
      this.#watchdog.expect(now + SECOND_LOOK_MS);
    } else {
      const { what, limitMs } = head.request;
      const error = this.#link.lateness(what, limitMs);
      head.fail(error);
      this.#link.giveUpLate(what, limitMs, error);
    }
  }

  // --- the end

  #failAll(error: ShmError): void {
    for (const call of this.#inFlight) call.fail(error);
  }

  #onDown(error: ShmError): void {
    this.#stop();
    this.#owner.down(this, error);
  }

  #stop(): void {
    this.#watchdog.stop();
    this.#outbox = [];
  }

  #onGone(error: ShmError): void {
    this.#stop();
    const calls = this.#inFlight.takeAll();
    for (const call of calls) call.sent = false;
    this.#bytesInFlight = 0;
    this.#owner.gone(this, calls, error);
  }
}
