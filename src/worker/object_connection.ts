// SPDX-License-Identifier: Apache-2.0
//
// One connection to a worker, speaking version 2: lines go out with an id, answers come in any order
// and are found by it. Not the policy: what to send when, and what to do after a loss, is
// object_client.ts.
//
// A worker that answers what cannot be is not believed any more, and the connection ends. One that
// answers in time what others asked, and not this, is told to stop with it (CANCEL) before it is
// given up; one that is silent is given up at once.

import type { ShmError } from "../errors.ts";
import { type Answer, parseAnswer, parseHello, type WorkerHello } from "./answers_v2.ts";
import { IdTable } from "./id_table.ts";
import { Link } from "./link.ts";
import { BYTES_PER_MS } from "./limits.ts";
import type { ObjectCall } from "./object_call.ts";
import { parseReply, printable, type Reply } from "./protocol.ts";
import { HELLO_LINE, type Priority } from "./protocol_v2.ts";
import { PlainCall } from "./query_calls.ts";
import { RequestLine } from "./request_line.ts";
import { settlesWithin } from "../wait.ts";
import type { OpenTransport } from "./transport.ts";
import { SECOND_LOOK_MS, Watchdog } from "./watchdog.ts";

export interface ObjectConnectionOwner {
  /** Requests were answered, or there is room again: others may be sent. */
  progress(connection: ObjectConnection): void;
  /** This was not the answer to that call, which must be asked alone. */
  again(call: ObjectCall): void;
  /** Once, unless close() was called: it takes no more requests. Calls in flight are not lost yet. */
  down(connection: ObjectConnection, error: ShmError): void;
  /**
   * Once: the worker does not touch memory on behalf of `calls`, oldest first, any more, and will
   * not answer them. Nothing has been done with them; some callers may have gone.
   */
  gone(connection: ObjectConnection, calls: readonly ObjectCall[], error: ShmError): void;
}

export interface AnswerLimits {
  /** For what a worker answers at once. */
  readonly controlTimeoutMs: number;
  /** For all else, and on top of it the time for the bytes that are in flight. */
  readonly ioTimeoutMs: number;
}

/** Before HELLO was answered. */
const NOTHING_KNOWN: WorkerHello = {
  boot: "",
  worker: "",
  features: new Set(),
  window: null,
};

/** A line of version 1, before HELLO was answered. */
interface Greeting {
  readonly what: string;
  /** By performance.now(). */
  readonly dueAt: number;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: ShmError) => void;
}

export class ObjectConnection {
  readonly #owner: ObjectConnectionOwner;
  readonly #limits: AnswerLimits;
  readonly #link: Link;
  readonly #watchdog = new Watchdog(() => this.#onWatchdog());
  readonly #inFlight = new IdTable<RequestLine>();
  /** CANCEL requests that are not answered. */
  readonly #cancels = new Set<number>();
  #greetings: Greeting[] = [];
  #hello: WorkerHello = NOTHING_KNOWN;
  #nextId = 1;
  #bytesInFlight = 0;
  #highLinesInFlight = 0;
  /** When something was seen to be late, for the second look. */
  #suspectedAt: number | null = null;

  constructor(open: OpenTransport, limits: AnswerLimits, owner: ObjectConnectionOwner) {
    this.#owner = owner;
    this.#limits = limits;
    this.#link = new Link(open, {
      line: (text) => this.#onLine(text),
      sliced: () => this.#onAnswered(),
      drained: () => this.#onAnswered(),
      garbled: (fault) => this.#violation(fault, null),
      busy: () => this.#inFlight.size > 0 || this.#greetings.length > 0,
      holdsMemory: () => this.#holdsMemory(),
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

  get open(): boolean {
    return this.#link.open;
  }

  /** Hold back requests until progress(). */
  get blocked(): boolean {
    return this.#link.blocked;
  }

  /** What the worker said of itself. */
  get hello(): WorkerHello {
    return this.#hello;
  }

  get linesInFlight(): number {
    return this.#inFlight.size;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  /** Of high priority alone. */
  get highLinesInFlight(): number {
    return this.#highLinesInFlight;
  }

  /**
   * The line of a request, or of several objects, which counts as sent: the caller writes it. Its
   * end comes through the calls themselves, or through gone().
   */
  encode(calls: readonly ObjectCall[], now: number): string {
    let bytes = 0;
    for (const call of calls) bytes += call.bytes;
    this.#count(calls[0]!.priority, bytes, 1);
    const { controlTimeoutMs, ioTimeoutMs } = this.#limits;
    const baseMs = calls[0]!.immediate ? controlTimeoutMs : ioTimeoutMs;
    // All that is in flight may be before it, whatever the order of the answers.
    const limitMs = baseMs + Math.ceil(this.#bytesInFlight / BYTES_PER_MS);
    const line = new RequestLine(this.#nextId++, calls, bytes, now, limitMs);
    for (const call of calls) {
      call.attempts++;
      call.sent = true;
      call.line = line;
    }
    this.#inFlight.add(line);
    this.#watchdog.expect(line.dueAt);
    return line.text(this.#hello.features.has("batch"));
  }

  /** Lines of encode(). */
  write(text: string): void {
    this.#link.write(text);
  }

  /**
   * Tells the worker to stop with a line for whose answer nobody waits; the answer still comes.
   * @returns whether it was told, now or before.
   */
  cancel(line: RequestLine): boolean {
    if (line.cancelled) return true;
    if (!this.#link.open || this.#inFlight.get(line.id) !== line) return false;
    // A worker that reads nothing more until this is answered would read it too late.
    if (!this.#hello.features.has("cancel") || (this.#hello.window ?? Infinity) < 2) return false;
    line.cancelled = true;
    const id = this.#nextId++;
    this.#cancels.add(id);
    this.#link.write(`${id} CANCEL ${line.id}\n`);
    return true;
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
    const quit = new PlainCall("QUIT", "");
    this.#link.write(this.encode([quit], performance.now()));
    await settlesWithin(quit.promise, graceMs);
    await this.#link.finishClose(graceMs);
  }

  // --- the beginning

  /** Says a line before HELLO. @returns the answer to it. */
  say(what: string, line: string): Promise<Reply> {
    // It may have ended between two answers.
    if (this.#link.ended !== null) return Promise.reject(this.#link.ended);
    const reply = this.#greeting(what);
    this.#link.write(line);
    return reply;
  }

  /** Says HELLO. @returns the answer to it; `hello` has what it means. */
  greet(): Promise<Reply> {
    return this.say("HELLO", HELLO_LINE);
  }

  /** Sends a request that waits for no turn. */
  ask<T>(call: ObjectCall<T>): Promise<T> {
    if (this.#link.ended !== null) return Promise.reject(this.#link.ended);
    this.#link.write(this.encode([call as ObjectCall], performance.now()));
    return call.promise;
  }

  #greeting(what: string): Promise<Reply> {
    const dueAt = performance.now() + this.#limits.controlTimeoutMs;
    const reply = new Promise<Reply>((resolve, reject) => {
      this.#greetings.push({ what, dueAt, resolve, reject });
    });
    reply.catch(() => {});
    this.#watchdog.expect(dueAt);
    return reply;
  }

  // --- in

  #onLine(text: string): number {
    const greeting = this.#greetings.shift();
    if (greeting !== undefined) {
      this.#onGreeting(greeting, text);
      return 1;
    }
    const answer = parseAnswer(text);
    if (answer === null) {
      this.#violation(`it sent ${printable(text)}, which is no answer`, null);
      return 1;
    }
    const line = this.#inFlight.get(answer.id);
    if (line === undefined) {
      if (this.#cancels.delete(answer.id)) return 1;
      this.#violation(`it sent ${printable(text)}, which nobody asked for`, null);
      return 1;
    }
    this.#onAnswer(line, answer, text);
    return line.objects;
  }

  #onGreeting(greeting: Greeting, text: string): void {
    const reply = parseReply(text);
    if (reply === null) {
      this.#greetings.unshift(greeting);
      this.#violation(`it sent ${printable(text)}, which is neither OK nor ERROR`, null);
      return;
    }
    if (greeting.what === "HELLO" && reply.ok) {
      this.#hello = parseHello(reply.text) ?? this.#hello;
    }
    greeting.resolve(reply);
  }

  #onAnswer(line: RequestLine, answer: Answer, text: string): void {
    const fault = line.take(answer.ok, answer.text, (call) => this.#owner.again(call));
    if (fault !== null) {
      this.#violation(`it answered ${line.what} with ${printable(text)}: ${fault}`, line);
      return;
    }
    this.#inFlight.delete(line.id);
    this.#count(line.calls[0]!.priority, -line.bytes, -1);
  }

  #onAnswered(): void {
    if (this.#inFlight.size === 0 && this.#greetings.length === 0) this.#watchdog.rest();
    if (this.#link.open) this.#owner.progress(this);
  }

  #count(priority: Priority, bytes: number, lines: number): void {
    this.#bytesInFlight += bytes;
    if (priority === "high") this.#highLinesInFlight += lines;
  }

  /** @param line whose answer it was; null: nobody's, so that nobody is to blame. */
  #violation(fault: string, line: RequestLine | null): void {
    const error = this.#link.violation(fault);
    this.#greetings.shift()?.reject(error);
    for (const call of line?.calls ?? []) call.fail(error);
    this.#link.giveUp(error, "distrusted");
  }

  // --- watching

  #onWatchdog(): void {
    if (!this.#watched()) return;
    const now = performance.now();
    let next = Infinity;
    let late = false;
    // Late is what was late on an earlier look already: in between the event loop had time to read.
    const isLate = (dueAt: number): boolean => {
      if (this.#suspectedAt !== null && dueAt <= this.#suspectedAt) return true;
      if (dueAt <= now) late = true;
      else next = Math.min(next, dueAt);
      return false;
    };
    const greeting = this.#greetings[0];
    if (greeting !== undefined && isLate(greeting.dueAt)) this.#onLateGreeting(greeting);
    for (const line of this.#inFlight.values()) {
      if (!isLate(line.dueAt)) continue;
      this.#onLate(line, now);
      if (!this.#watched()) return;
      next = Math.min(next, line.dueAt);
    }
    this.#suspectedAt = late ? now : null;
    if (late) next = now + SECOND_LOOK_MS;
    if (next < Infinity) this.#watchdog.expect(next);
  }

  #watched(): boolean {
    return this.#link.state === "open" || this.#link.state === "closing";
  }

  #onLateGreeting(greeting: Greeting): void {
    const { what } = greeting;
    const { controlTimeoutMs } = this.#limits;
    const error = this.#link.lateness(what, controlTimeoutMs);
    greeting.reject(error);
    this.#link.giveUpLate(what, controlTimeoutMs, error);
  }

  #onLate(line: RequestLine, now: number): void {
    const { what, limitMs } = line;
    const error = this.#link.lateness(what, limitMs);
    for (const call of line.calls) call.fail(error);
    if (!line.late && this.#link.heardAt > line.sentAt && this.cancel(line)) {
      line.late = true;
      line.dueAt = now + this.#limits.controlTimeoutMs;
      return;
    }
    this.#link.giveUpLate(what, limitMs, error);
  }

  // --- the end

  #holdsMemory(): boolean {
    for (const line of this.#inFlight.values()) if (line.holdsMemory) return true;
    return false;
  }

  #failAll(error: ShmError): void {
    for (const greeting of this.#greetings.splice(0)) greeting.reject(error);
    for (const line of this.#inFlight.values()) {
      for (const call of line.calls) call.fail(error);
    }
  }

  #onDown(error: ShmError): void {
    this.#watchdog.stop();
    this.#owner.down(this, error);
  }

  #onGone(error: ShmError): void {
    this.#watchdog.stop();
    for (const greeting of this.#greetings.splice(0)) greeting.reject(error);
    const calls: ObjectCall[] = [];
    for (const line of this.#inFlight.values()) {
      for (const call of line.calls) {
        call.sent = false;
        call.line = null;
        calls.push(call);
      }
    }
    this.#inFlight.clear();
    this.#bytesInFlight = 0;
    this.#highLinesInFlight = 0;
    this.#owner.gone(this, calls, error);
  }
}
