// SPDX-License-Identifier: Apache-2.0
//
// One connection to a worker, speaking version 1: requests go out pipelined, replies come in their
// order. Not the policy: what to send when, and what to do after a loss, is client.ts.
//
// A reply is matched to a request by its place in the order alone, so anything that casts doubt on
// the order ends the connection: a line that is no reply, a reply that nobody asked for, a number
// of bytes that cannot be. A worker that answers too late only ends up abandoned: its replies still
// are in order, and are used to let go of memory.

import { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import { errnoNumber } from "./errno_text.ts";
import { Fifo } from "./fifo.ts";
import { LineSplitter } from "./line_splitter.ts";
import { encodeQuit, MAX_LINE_BYTES, parseReply, printable, type Reply } from "./protocol.ts";
import { type OpenTransport, settlesWithin, type Transport } from "./transport.ts";

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

/** How long callers wait for a worker that was given up to be gone, until they are told so. */
const PATIENCE_MS = 5_000;
/** After the limit: time for a reply that arrived while the event loop was busy. */
const SECOND_LOOK_MS = 100;
/** A longer timer rings at once; an alarm that is too early is looked at again. */
const MAX_TIMER_MS = 0x7fff_ffff;

type State =
  | "open"
  /** Given up, but what it answers is still believed. */
  | "draining"
  /** Given up, and not believed. */
  | "distrusted"
  /** Ending by our own wish. */
  | "closing"
  | "gone";

export class Connection {
  readonly #owner: ConnectionOwner;
  readonly #transport: Transport;
  readonly #splitter = new LineSplitter(MAX_LINE_BYTES);
  readonly #inFlight = new Fifo<Call>();
  #bytesInFlight = 0;
  #outbox: string[] = [];
  #flushPlanned = false;
  #blocked = false;
  #state: State = "open";
  #error: ShmError | null = null;
  #headSince = 0;
  #watchdog: ReturnType<typeof setTimeout> | undefined;
  #watchdogAt = Infinity;
  #suspect = false;
  #patience: ReturnType<typeof setTimeout> | undefined;

  constructor(open: OpenTransport, owner: ConnectionOwner) {
    this.#owner = owner;
    this.#transport = open({
      data: (chunk) => this.#onData(chunk),
      drain: () => this.#onDrain(),
      gone: (error) => this.#onGone(error),
    });
  }

  /** Resolves when requests can be sent; rejects with a ShmError. */
  get ready(): Promise<void> {
    return this.#transport.ready;
  }

  get peer(): string {
    return this.#transport.peer;
  }

  get pid(): number | null {
    return this.#transport.pid;
  }

  get requestsInFlight(): number {
    return this.#inFlight.size;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  get open(): boolean {
    return this.#state === "open";
  }

  /** Sends a request. Its end comes through the call itself, or through gone(). */
  send(call: Call): void {
    call.attempts++;
    this.#inFlight.push(call);
    this.#bytesInFlight += call.request.bytes;
    if (this.#inFlight.size === 1) this.#newHead();
    this.#outbox.push(call.request.line);
    this.#planFlush();
  }

  /** Ends a connection that moves no data, such as one whose handshake failed. */
  discard(error: ShmError): void {
    this.#giveUp(error, "distrusted");
  }

  /**
   * QUIT, and a bounded wait for the worker's end: at most four times `graceMs`. With requests in
   * flight the worker is given up instead, and they go the way of a loss.
   */
  async close(graceMs: number, error: ShmError): Promise<void> {
    if (this.#inFlight.size > 0) {
      this.#giveUp(error, "draining");
      return;
    }
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#error = error;
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
    await settlesWithin(quit.reply, graceMs);
    await this.#transport.close(graceMs);
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
    if (this.#blocked || this.#outbox.length === 0 || this.#state === "gone") return;
    const text = this.#outbox.join("");
    this.#outbox = [];
    this.#blocked = !this.#transport.write(text);
  }

  #onDrain(): void {
    this.#blocked = false;
    this.#flush();
  }

  // --- in

  #onData(chunk: Uint8Array): void {
    if (this.#state === "distrusted" || this.#state === "gone") return;
    let lines: string[];
    try {
      lines = this.#splitter.push(chunk);
    } catch (cause) {
      this.#violation(`it sent ${(cause as RangeError).message}`);
      return;
    }
    for (const line of lines) {
      if (!this.#onLine(line)) return;
    }
    if (lines.length > 0) this.#onAnswered();
  }

  /** False when the connection has ended with it. */
  #onLine(line: string): boolean {
    const reply = parseReply(line);
    const call = this.#inFlight.peek();
    const fault = reply === null
      ? `it sent ${printable(line)}, which is neither OK nor ERROR`
      : call === undefined
      ? `it sent ${printable(line)}, which nobody asked for`
      : this.#mismatch(call, reply);
    if (fault !== null) {
      this.#violation(fault);
      return false;
    }
    this.#inFlight.shift();
    this.#bytesInFlight -= call!.request.bytes;
    call!.answer(reply!);
    return true;
  }

  #onAnswered(): void {
    if (this.#state === "draining") {
      if (this.#inFlight.size === 0) this.#transport.destroy();
      return;
    }
    if (this.#inFlight.size > 0) this.#newHead();
    else this.#noHead();
    if (this.#state === "open") this.#owner.progress(this);
  }

  #mismatch(call: Call, reply: Reply): string | null {
    if (!reply.ok) return null;
    const fault = call.request.check?.(reply) ?? null;
    return fault === null
      ? null
      : `it answered ${call.request.what} with OK ${reply.text}: ${fault}`;
  }

  #violation(fault: string): void {
    const error = new ShmError(`the ${this.peer} does not keep to the protocol: ${fault}`, {
      code: "EPROTO",
      operation: "talk to worker",
      errno: errnoNumber("EPROTO")!,
      hint: "Check that the program or the address really is a worker",
    });
    // The reply at fault was for the first in line; the others may get theirs elsewhere.
    this.#inFlight.peek()?.fail(error);
    this.#giveUp(error, "distrusted");
  }

  // --- watching

  #newHead(): void {
    this.#headSince = performance.now();
    this.#suspect = false;
    const limitMs = this.#inFlight.peek()!.request.limitMs;
    // A later alarm than needed is harmless: it is looked at again when it rings.
    if (this.#headSince + limitMs < this.#watchdogAt) this.#arm(limitMs);
  }

  #noHead(): void {
    clearTimeout(this.#watchdog);
    this.#watchdogAt = Infinity;
  }

  /** The timer also keeps the program alive while requests are in flight. */
  #arm(ms: number): void {
    clearTimeout(this.#watchdog);
    this.#watchdogAt = performance.now() + ms;
    this.#watchdog = setTimeout(() => this.#onWatchdog(), Math.min(ms, MAX_TIMER_MS));
  }

  #onWatchdog(): void {
    this.#watchdogAt = Infinity;
    const head = this.#inFlight.peek();
    if (head === undefined || (this.#state !== "open" && this.#state !== "closing")) return;
    const leftMs = this.#headSince + head.request.limitMs - performance.now();
    if (leftMs > 0) {
      this.#arm(leftMs);
    } else if (!this.#suspect) {
      this.#suspect = true;
      this.#arm(SECOND_LOOK_MS);
    } else {
      this.#timedOut(head);
    }
  }

  #timedOut(head: Call): void {
    const { what, limitMs } = head.request;
    const error = new ShmError(`the ${this.peer} has not answered ${what} within ${limitMs} ms`, {
      code: "ETIMEDOUT",
      operation: "talk to worker",
      errno: errnoNumber("ETIMEDOUT")!,
      hint: "Check the storage below it; ioTimeoutMs and controlTimeoutMs set the limits",
      details: { limitMs, pid: this.pid },
    });
    head.fail(error);
    this.#giveUp(
      new ShmError(`the ${this.peer} was given up: no answer to ${what} within ${limitMs} ms`, {
        code: "ECONNRESET",
        operation: "talk to worker",
        errno: errnoNumber("ECONNRESET")!,
        details: { limitMs, pid: this.pid },
        cause: error,
      }),
      "draining",
    );
  }

  // --- the end

  #giveUp(error: ShmError, state: "draining" | "distrusted"): void {
    if (this.#state !== "open" && this.#state !== "closing") return;
    const wasOpen = this.#state === "open";
    this.#state = state;
    this.#error = error;
    this.#noHead();
    this.#outbox = [];
    if (this.#inFlight.size > 0) {
      this.#patience = setTimeout(() => {
        for (const call of this.#inFlight) call.fail(error);
      }, PATIENCE_MS);
    }
    const holdsMemory = [...this.#inFlight].some((call) => !call.freed && call.request.bytes > 0);
    if (wasOpen) this.#owner.down(this, error);
    if (holdsMemory) this.#transport.abandon();
    else this.#transport.destroy();
  }

  #onGone(error: ShmError): void {
    if (this.#state === "gone") return;
    const wasOpen = this.#state === "open";
    this.#state = "gone";
    this.#error ??= error;
    this.#noHead();
    clearTimeout(this.#patience);
    this.#outbox = [];
    const calls = this.#inFlight.takeAll();
    this.#bytesInFlight = 0;
    if (wasOpen) this.#owner.down(this, this.#error);
    this.#owner.gone(this, calls, this.#error);
  }
}
