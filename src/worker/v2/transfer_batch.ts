// SPDX-License-Identifier: Apache-2.0
//
// Many objects of one caller, put into lines when they are asked for: each line is one call, with
// one promise and one hold of memory, however many objects it has.

import type { StoredObject } from "../object_client.ts";
import { AGAIN, readRefusal, splitItems } from "./answers.ts";
import { ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import { Failed, type Outcome } from "../outcome.ts";
import type { PendingOwner } from "../pending.ts";
import type { ErrorReply } from "../reply.ts";
import { withoutCondition } from "./requests.ts";
import type { TransferPart, TransferVerb } from "./transfer_calls.ts";

/** Several small objects in a line. */
export class BatchCall<T extends StoredObject | null>
  extends ObjectCall<(Outcome<T> | typeof AGAIN)[]> {
  override tail: string;
  readonly #verb: TransferVerb<T>;
  readonly #parts: TransferPart[];

  /**
   * @param parts at least two, as many as go into a line (lineLot()). One that may have been carried
   *   out loses its condition in there, so that it can be asked for alone.
   */
  constructor(
    owner: PendingOwner,
    verb: TransferVerb<T>,
    parts: TransferPart[],
    options: ObjectCallOptions,
  ) {
    const first = parts[0]!;
    let bytes = first.byteLength;
    let tail = first.tail;
    for (let index = 1; index < parts.length; index++) {
      const part = parts[index]!;
      bytes += part.byteLength;
      tail += ` ; ${part.words}${part.tail}`;
    }
    super(owner, first.words, bytes, true, options);
    this.tail = tail;
    this.#verb = verb;
    this.#parts = parts;
  }

  override get objects(): number {
    return this.#parts.length;
  }

  override get verb(): string {
    return this.#verb.verb;
  }

  override get what(): string {
    const first = shownKey(this.#parts[0]!.key);
    return `${this.verb.toLowerCase()} ${first} and ${this.#parts.length - 1} others`;
  }

  override repeat(): void {
    super.repeat();
    for (let index = 0; index < this.#parts.length; index++) this.#repeatPart(index);
  }

  override accept(text: string): string | null {
    const parts = this.#parts;
    const items = splitItems(text);
    if (items.length !== parts.length) {
      return `it has ${items.length} items, and ${parts.length} were asked for`;
    }
    const outcomes: (Outcome<T> | typeof AGAIN)[] = [];
    for (let index = 0; index < items.length; index++) {
      const outcome = this.#item(items[index]!, parts[index]!);
      if (typeof outcome === "string") return outcome;
      if (outcome === AGAIN) this.#repeatPart(index);
      outcomes.push(outcome);
    }
    this.answer(outcomes);
    return null;
  }

  /** One object is at fault, and the line does not say which. */
  override reject(reply: ErrorReply): void {
    if (this.settled) super.reject(reply);
    else this.answer(this.#parts.map(() => AGAIN));
  }

  #repeatPart(index: number): void {
    const part = this.#parts[index]!;
    this.#parts[index] = { ...part, words: withoutCondition(part.words) };
  }

  #item(item: string, part: TransferPart): Outcome<T> | typeof AGAIN | string {
    const refusal = readRefusal(item);
    if (refusal === undefined) return this.#verb.accept(item, part.byteLength) as T | string;
    if (typeof refusal === "string" || refusal === AGAIN) return refusal;
    const outcome = this.#verb.reject(refusal, part.key, part.byteLength);
    return outcome instanceof Error ? new Failed(outcome) : outcome;
  }
}
