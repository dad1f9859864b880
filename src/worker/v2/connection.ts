// SPDX-License-Identifier: Apache-2.0
//
// One connection to a worker, speaking version 2: lines go out with an id, answers come in any order
// and are found by it. Not the policy: what to send when, and what to do after a loss, is client.ts.
//
// A worker that answers in time what others asked, and not this, is told to stop with it (CANCEL)
// before it is given up; one that is silent is given up at once.

import type { ShmError } from "../../errors.ts";
import { Connection, type ConnectionOwner, type IsLate } from "../connection.ts";
import { BYTES_PER_MS } from "../limits.ts";
import type { Priority } from "../object_client.ts";
import type { Pending } from "../pending.ts";
import { printable } from "../reply.ts";
import { type Answer, parseAnswer, type WorkerHello } from "./answers.ts";
import { IdTable } from "./id_table.ts";
import type { ObjectCall } from "./object_call.ts";
import { plain, QueryCall } from "./query_calls.ts";
import { RequestLine } from "./request_line.ts";

export interface OwnerV2 extends ConnectionOwner {
  /** This was not the answer to that call, which must be asked alone. */
  again(call: ObjectCall): void;
}

export class ConnectionV2 extends Connection {
  /** What the worker said of itself; null: it has not said HELLO. */
  hello: WorkerHello | null = null;
  readonly #inFlight = new IdTable<RequestLine>();
  /** CANCEL requests that are not answered. */
  readonly #cancels = new Set<number>();
  #nextId = 1;
  #bytesInFlight = 0;
  #highLinesInFlight = 0;

  override get busy(): boolean {
    return this.#inFlight.size > 0 || super.busy;
  }

  /** Hold back requests until progress(). */
  get blocked(): boolean {
    return this.link.blocked;
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
    const { controlTimeoutMs, ioTimeoutMs } = this.limits;
    const baseMs = calls[0]!.immediate ? controlTimeoutMs : ioTimeoutMs;
    // All that is in flight may be before it, whatever the order of the answers.
    const limitMs = baseMs + Math.ceil(this.#bytesInFlight / BYTES_PER_MS);
    const line = new RequestLine(this.#nextId++, calls, bytes, now, limitMs);
    for (const call of calls) {
      call.take();
      call.line = line;
    }
    this.#inFlight.add(line);
    this.watchdog.expect(line.dueAt);
    return line.text;
  }

  /** Lines of encode(). */
  write(text: string): void {
    this.link.write(text);
  }

  /**
   * Tells the worker to stop with a line for whose answer nobody waits; the answer still comes.
   * @returns whether it was told, now or before.
   */
  cancel(line: RequestLine): boolean {
    if (line.cancelled) return true;
    if (!this.link.open || this.#inFlight.get(line.id) !== line) return false;
    // A worker that reads nothing more until this is answered would read it too late.
    if ((this.hello?.window ?? Infinity) < 2) return false;
    line.cancelled = true;
    const id = this.#nextId++;
    this.#cancels.add(id);
    this.link.write(`${id} CANCEL ${line.id}\n`);
    return true;
  }

  /** Sends a request that waits for no turn. */
  ask<T>(call: ObjectCall<T>): Promise<T> {
    if (this.link.fault !== null) return Promise.reject(this.link.fault);
    this.link.write(this.encode([call as ObjectCall], performance.now()));
    return call.promise;
  }

  protected override quit(): Promise<unknown> {
    return this.hello === null ? super.quit() : this.ask(new QueryCall(null, plain("QUIT", "")));
  }

  // --- in

  protected override take(text: string): number {
    const answer = parseAnswer(text);
    if (answer === null) {
      this.violation(`it sent ${printable(text)}, which is no answer`);
      return 1;
    }
    const line = this.#inFlight.get(answer.id);
    if (line === undefined) {
      return this.#cancels.delete(answer.id) ? 1 : super.take(text);
    }
    this.#onAnswer(line, answer, text);
    return line.objects;
  }

  #onAnswer(line: RequestLine, answer: Answer, text: string): void {
    const again = (call: ObjectCall) => (this.owner as OwnerV2).again(call);
    const fault = line.take(answer.ok, answer.text, again);
    if (fault !== null) {
      this.violation(`it answered ${line.what} with ${printable(text)}: ${fault}`, line.calls);
      return;
    }
    this.#inFlight.delete(line.id);
    this.#count(line.calls[0]!.priority, -line.bytes, -1);
  }

  #count(priority: Priority, bytes: number, lines: number): void {
    this.#bytesInFlight += bytes;
    if (priority === "high") this.#highLinesInFlight += lines;
  }

  // --- watching

  protected override findLate(isLate: IsLate): void {
    super.findLate(isLate);
    for (const line of this.#inFlight.values()) {
      if (!this.watched) return;
      if (!isLate(line.dueAt)) continue;
      this.#onLate(line);
      isLate(line.dueAt);
    }
  }

  #onLate(line: RequestLine): void {
    const { what, limitMs } = line;
    const error = this.link.lateness(what, limitMs);
    for (const call of line.calls) call.fail(error);
    if (!line.late && this.link.heardAt > line.sentAt && this.cancel(line)) {
      line.late = true;
      line.dueAt = performance.now() + this.limits.controlTimeoutMs;
      return;
    }
    this.link.giveUpLate(what, limitMs, error);
  }

  // --- the end

  protected override holdsMemory(): boolean {
    return this.#inFlight.values().some((line) => line.holdsMemory) || super.holdsMemory();
  }

  protected override failAll(error: ShmError): void {
    super.failAll(error);
    for (const line of this.#inFlight.values()) {
      for (const call of line.calls) call.fail(error);
    }
  }

  protected override takeAll(): Pending<unknown>[] {
    const calls = super.takeAll();
    for (const line of this.#inFlight.values()) {
      for (const call of line.calls) {
        call.line = null;
        calls.push(call);
      }
    }
    this.#inFlight.clear();
    this.#bytesInFlight = 0;
    this.#highLinesInFlight = 0;
    return calls;
  }
}
