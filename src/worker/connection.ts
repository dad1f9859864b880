// SPDX-License-Identifier: Apache-2.0
//
// One connection to a worker, as every connection begins: in version 1, one line at a time, and its
// reply is the next line that comes. A connection of version 2 (v2/connection.ts) is one of these
// that goes on with lines that have ids. Not the policy: what to send when, and what to do after a
// loss, is the business of the client that owns it.
//
// A worker that answers what cannot be is not believed any more, and the connection ends. One that
// answers too late is given up; what it still answers is used to let go of memory.

import type { ShmError } from "../errors.ts";
import type { AnswerLimits } from "./limits.ts";
import { LineCall } from "./line_call.ts";
import { Link } from "./link.ts";
import { logIn } from "./login.ts";
import type { Pending } from "./pending.ts";
import { parseReply, printable, type Reply } from "./reply.ts";
import { settlesWithin } from "../wait.ts";
import type { OpenTransport } from "./transport.ts";
import { SECOND_LOOK_MS, Watchdog } from "./watchdog.ts";

export interface ConnectionOwner {
  /** Requests were answered, or there is room again: others may be sent. */
  progress(): void;
  /** Once, unless close() was called: it takes no more requests. Calls in flight are not lost yet. */
  down(error: ShmError): void;
  /**
   * Once: the worker does not touch memory on behalf of `calls`, oldest first, any more, and will
   * not answer them. Nothing has been done with them; some callers may have gone.
   */
  gone(calls: readonly Pending<unknown>[], error: ShmError): void;
}

/** Of a connection that no client has taken yet. */
const NOBODY: ConnectionOwner = {
  progress() {},
  down() {},
  gone(calls, error) {
    for (const call of calls) call.refuse(error);
  },
};

/** Whether what was due at `dueAt` (performance.now()) is late for good; called for all that is. */
export type IsLate = (dueAt: number) => boolean;

export class Connection {
  owner: ConnectionOwner = NOBODY;
  /** Resolves when the worker touches no memory on its behalf any more. */
  readonly ended: Promise<void>;
  protected readonly limits: AnswerLimits;
  protected readonly link: Link;
  protected readonly watchdog: Watchdog = new Watchdog(() => this.#onWatchdog());
  #setEnded: () => void = () => {};
  /** What was said and is not answered. */
  #said: { readonly call: LineCall; readonly dueAt: number } | null = null;
  #loggedIn = false;
  /** When something was seen to be late, for the second look. */
  #suspectedAt: number | null = null;

  constructor(open: OpenTransport, limits: AnswerLimits) {
    this.limits = limits;
    this.ended = new Promise((resolve) => this.#setEnded = resolve);
    this.link = new Link(open, {
      line: (text) => this.#onLine(text),
      sliced: () => this.#onAnswered(),
      drained: () => this.#onAnswered(),
      garbled: (fault) => this.violation(fault),
      busy: () => this.busy,
      holdsMemory: () => this.holdsMemory(),
      down: (error) => {
        this.watchdog.stop();
        this.owner.down(error);
      },
      impatient: (error) => this.failAll(error),
      gone: (error) => this.#onGone(error),
    });
  }

  /** Resolves when requests can be sent; rejects with a ShmError. */
  get ready(): Promise<void> {
    return this.link.ready;
  }

  get peer(): string {
    return this.link.peer;
  }

  get pid(): number | null {
    return this.link.pid;
  }

  get open(): boolean {
    return this.link.open;
  }

  /** Whether something was sent and is not answered. */
  get busy(): boolean {
    return this.#said !== null;
  }

  /** Proves the secret, if there is one, and demands the same of the worker; once. */
  async logIn(secret: string | null): Promise<void> {
    if (secret === null || this.#loggedIn) return;
    await logIn((what, line) => this.say(what, line), secret, this.peer);
    this.#loggedIn = true;
  }

  /** Sends a line that moves no data. @returns the reply. */
  say(what: string, line: string): Promise<Reply> {
    const { controlTimeoutMs: limitMs } = this.limits;
    const call = new LineCall({ what, line, bytes: 0, limitMs, retriable: false });
    this.send(call);
    return call.promise;
  }

  /** Sends a line; nothing else is in flight. Its end comes through the call, or through gone(). */
  send(call: LineCall): void {
    // It may have ended between two answers.
    if (this.link.fault !== null) return call.refuse(this.link.fault);
    call.take();
    const dueAt = performance.now() + call.request.limitMs;
    this.#said = { call, dueAt };
    this.watchdog.expect(dueAt);
    this.link.write(call.request.line);
  }

  /** Ends a connection that moves no data, such as one whose handshake failed. */
  discard(error: ShmError): void {
    this.link.giveUp(error, "distrusted");
  }

  /**
   * QUIT, and a bounded wait for the worker's end: at most four times `graceMs`. With requests in
   * flight the worker is given up instead, and they go the way of a loss.
   */
  async close(graceMs: number, error: ShmError): Promise<void> {
    if (this.busy) {
      this.link.giveUp(error, "draining");
      return;
    }
    if (!this.link.beginClose(error)) return;
    await settlesWithin(this.quit(), graceMs);
    await this.link.finishClose(graceMs);
  }

  /** Resolves when the worker has answered that it ends. */
  protected quit(): Promise<unknown> {
    return this.say("QUIT", "QUIT\n");
  }

  /** Takes a line that answers nothing that was said. @returns how much work that was. */
  protected take(text: string): number {
    this.violation(`it sent ${printable(text)}, which nobody asked for`);
    return 1;
  }

  protected holdsMemory(): boolean {
    const call = this.#said?.call;
    return call !== undefined && !call.freed && call.request.bytes > 0;
  }

  /** What is in flight, oldest first, and forgotten here. */
  protected takeAll(): Pending<unknown>[] {
    const calls = this.#said === null ? [] : [this.#said.call];
    this.#said = null;
    return calls;
  }

  /** Tells the callers of all that is in flight; the memory stays held. */
  protected failAll(error: ShmError): void {
    this.#said?.call.fail(error);
  }

  /** Looks for what is late, and does what is to be done about it. */
  protected findLate(isLate: IsLate): void {
    if (this.#said === null || !isLate(this.#said.dueAt)) return;
    const { call } = this.#said;
    const { what, limitMs } = call.request;
    const error = this.link.lateness(what, limitMs);
    call.fail(error);
    this.link.giveUpLate(what, limitMs, error);
  }

  /** @param calls whose answer it was, and who are told. */
  protected violation(fault: string, calls: readonly Pending<unknown>[] = []): void {
    const error = this.link.violation(fault);
    this.#said?.call.fail(error);
    for (const call of calls) call.fail(error);
    this.link.giveUp(error, "distrusted");
  }

  protected get watched(): boolean {
    return this.link.state === "open" || this.link.state === "closing";
  }

  #onLine(text: string): number {
    const call = this.#said?.call;
    if (call === undefined) return this.take(text);
    const reply = parseReply(text);
    if (reply === null) {
      this.violation(`it sent ${printable(text)}, which is neither OK nor ERROR`);
      return 1;
    }
    const fault = reply.ok ? call.request.check?.(reply) ?? null : null;
    if (fault !== null) {
      this.violation(`it answered ${call.what} with ${printable(text)}: ${fault}`);
      return 1;
    }
    this.#said = null;
    call.answer(reply);
    return 1;
  }

  #onAnswered(): void {
    if (!this.busy) this.watchdog.rest();
    if (this.link.open) this.owner.progress();
  }

  #onWatchdog(): void {
    if (!this.watched) return;
    const now = performance.now();
    let next = Infinity;
    let late = false;
    // Late is what was late on an earlier look already: in between the event loop had time to read.
    this.findLate((dueAt) => {
      if (this.#suspectedAt !== null && dueAt <= this.#suspectedAt) return true;
      if (dueAt <= now) late = true;
      else next = Math.min(next, dueAt);
      return false;
    });
    if (!this.watched) return;
    this.#suspectedAt = late ? now : null;
    if (late) next = now + SECOND_LOOK_MS;
    if (next < Infinity) this.watchdog.expect(next);
  }

  #onGone(error: ShmError): void {
    this.watchdog.stop();
    this.#setEnded();
    const calls = this.takeAll();
    for (const call of calls) call.sent = false;
    this.owner.gone(calls, error);
  }
}
