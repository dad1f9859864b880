// SPDX-License-Identifier: Apache-2.0
//
// One line on its way: an id, and the calls that its answer is for.

import { AGAIN, parseRefusal, readRefusal, splitItems } from "./answers.ts";
import type { ObjectCall } from "./object_call.ts";
import type { ErrorReply } from "../reply.ts";
import { requestLine } from "./requests.ts";

/** Nobody waits for it any more. */
const NOT_ASKED_AGAIN: ErrorReply = { ok: false, code: "EOVERFLOW", message: "" };

export class RequestLine {
  readonly id: number;
  /** At least one; several are objects of one verb and priority. */
  readonly calls: readonly ObjectCall[];
  /** That the worker moves for all of them. */
  readonly bytes: number;
  /** By performance.now(). */
  readonly sentAt: number;
  /** How long the worker may take, in milliseconds. */
  readonly limitMs: number;
  /** By performance.now(): when somebody must look at it. */
  dueAt: number;
  /** It was too late: its callers know, and the worker was told to stop. */
  late = false;
  /** CANCEL was sent. */
  cancelled = false;

  constructor(
    id: number,
    calls: readonly ObjectCall[],
    bytes: number,
    sentAt: number,
    limitMs: number,
  ) {
    this.id = id;
    this.calls = calls;
    this.bytes = bytes;
    this.sentAt = sentAt;
    this.limitMs = limitMs;
    this.dueAt = sentAt + limitMs;
  }

  get what(): string {
    const [first, ...others] = this.calls;
    return others.length === 0 ? first!.what : `${first!.what} and ${others.length} others`;
  }

  /** How many objects its answer tells of. */
  get objects(): number {
    return this.calls.length === 1 ? this.calls[0]!.objects : this.calls.length;
  }

  get holdsMemory(): boolean {
    return this.calls.some((call) => !call.freed && call.bytes > 0);
  }

  /** Nobody waits for its answer. */
  get settled(): boolean {
    return this.calls.every((call) => call.settled);
  }

  get text(): string {
    const { calls } = this;
    const first = calls[0]!;
    const said = first.ranked && first.priority !== "normal" ? first.priority : undefined;
    return requestLine(this.id, first.verb, first.words === "" ? [] : calls, said);
  }

  /**
   * Takes its answer.
   * @param again gets calls whose answer this was not: they must be asked alone.
   * @returns why it cannot be the answer, or null.
   */
  take(ok: boolean, text: string, again: (call: ObjectCall) => void): string | null {
    if (!ok) return this.#takeError(text, again);
    const { calls } = this;
    if (calls.length === 1) return calls[0]!.accept(text);
    const items = splitItems(text);
    if (items.length !== calls.length) {
      return `it has ${items.length} items, and ${calls.length} were asked for`;
    }
    for (let index = 0; index < items.length; index++) {
      const fault = takeItem(calls[index]!, items[index]!, again);
      if (fault !== null) return fault;
    }
    return null;
  }

  #takeError(text: string, again: (call: ObjectCall) => void): string | null {
    const reply = parseRefusal(text);
    if (reply === null) return "an error has a name";
    for (const call of this.calls) {
      // Of several objects one is at fault, or all were cancelled because nobody waits any more.
      if (this.calls.length === 1 || call.settled) call.reject(reply);
      else again(call);
    }
    return null;
  }
}

function takeItem(
  call: ObjectCall,
  item: string,
  again: (call: ObjectCall) => void,
): string | null {
  const refusal = readRefusal(item);
  if (refusal === undefined) return call.accept(item);
  if (typeof refusal === "string") return refusal;
  if (refusal !== AGAIN) call.reject(refusal);
  else if (call.settled) call.reject(NOT_ASKED_AGAIN);
  else {
    // It was carried out.
    call.repeat();
    again(call);
  }
  return null;
}
