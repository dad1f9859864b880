// SPDX-License-Identifier: Apache-2.0
//
// Requests that move no bytes: about objects, and about the worker.

import {
  type ObjectStat,
  type Page,
  parseFacts,
  parseFlags,
  parseNumber,
  parsePage,
  parseStat,
} from "./answers.ts";
import { isMiss, ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import type { PendingOwner } from "../pending.ts";
import type { ErrorReply } from "../reply.ts";
import { replyError } from "../reply_error.ts";
import { checkLength } from "./requests.ts";

export class StatCall extends ObjectCall<ObjectStat | null> {
  readonly #key: string;

  constructor(owner: PendingOwner, key: string, words: string, options: ObjectCallOptions) {
    super(owner, words, 0, true, options);
    this.#key = key;
  }

  override get verb(): string {
    return "STAT";
  }

  override get what(): string {
    return `stat ${shownKey(this.#key)}`;
  }

  override accept(text: string): string | null {
    const stat = parseStat(text);
    if (stat === null) return "that says nothing of an object";
    this.answer(stat);
    return null;
  }

  override reject(reply: ErrorReply): void {
    if (isMiss(reply)) this.answer(null);
    else super.reject(reply);
  }
}

/** EXISTS and REMOVE. */
export class FlagsCall extends ObjectCall<boolean[]> {
  readonly #verb: "EXISTS" | "REMOVE";
  readonly #count: number;

  constructor(
    owner: PendingOwner,
    verb: "EXISTS" | "REMOVE",
    words: string,
    count: number,
    options: ObjectCallOptions,
  ) {
    super(owner, words, 0, true, options);
    this.#verb = verb;
    this.#count = count;
  }

  override get objects(): number {
    return this.#count;
  }

  override get verb(): string {
    return this.#verb;
  }

  override get what(): string {
    return `${this.#verb.toLowerCase()} ${this.#count} keys`;
  }

  /** A second REMOVE would say that there had been nothing to remove. */
  override get retriable(): boolean {
    return this.#verb === "EXISTS";
  }

  override get ranked(): boolean {
    return false;
  }

  override accept(text: string): string | null {
    const flags = parseFlags(text, this.#count);
    if (flags === null) return `${this.#count} keys were asked for`;
    this.answer(flags);
    return null;
  }
}

export class ContainsCall extends ObjectCall<number> {
  readonly #count: number;

  constructor(owner: PendingOwner, words: string, count: number, options: ObjectCallOptions) {
    super(owner, words, 0, true, options);
    this.#count = count;
  }

  override get verb(): string {
    return "CONTAINS";
  }

  override get what(): string {
    return `look for ${this.#count} keys`;
  }

  override get ranked(): boolean {
    return false;
  }

  override accept(text: string): string | null {
    const found = parseNumber(text);
    if (found === null || found > this.#count) return `${this.#count} keys were asked for`;
    this.answer(found);
    return null;
  }
}

export class ListCall extends ObjectCall<Page> {
  readonly #limit: number;
  readonly #first: boolean;

  /** @param first page of a listing */
  constructor(
    owner: PendingOwner,
    words: string,
    limit: number,
    first: boolean,
    options: ObjectCallOptions,
  ) {
    checkLength("list", words.length);
    super(owner, words, 0, true, options);
    this.#limit = limit;
    this.#first = first;
  }

  /** Another connection does not know the cursor. */
  override get retriable(): boolean {
    return this.#first;
  }

  override get verb(): string {
    return "LIST";
  }

  override get what(): string {
    return "list";
  }

  override accept(text: string): string | null {
    const page = parsePage(text);
    if (page === null) return "that is no list of keys";
    if (page.keys.length > this.#limit) return `at most ${this.#limit} keys were asked for`;
    this.answer(page);
    return null;
  }

  override reject(reply: ErrorReply): void {
    if (reply.code !== "ESTALE") return super.reject(reply);
    const hint = "Begin the listing again; a worker keeps four listings of a connection";
    this.refuse(replyError(reply, this.what, {}, hint));
  }
}

/** PING and INFO: their answer has `name=value` words. */
export class FactsCall extends ObjectCall<Readonly<Record<string, string>>> {
  readonly #verb: "PING" | "INFO";

  constructor(owner: PendingOwner | null, verb: "PING" | "INFO", options: ObjectCallOptions) {
    super(owner, "", 0, true, { ...options, priority: "high" });
    this.#verb = verb;
  }

  override get verb(): string {
    return this.#verb;
  }

  override get what(): string {
    return this.#verb;
  }

  override get ranked(): boolean {
    return false;
  }

  override get immediate(): boolean {
    return true;
  }

  override accept(text: string): string | null {
    const facts = parseFacts(text);
    if (facts === null) return "that is not what it says of itself";
    this.answer(facts);
    return null;
  }
}

/** ATTACH and QUIT: a refusal is an answer as well, null is OK. */
export class PlainCall extends ObjectCall<null | ErrorReply> {
  readonly #verb: "ATTACH" | "QUIT";

  constructor(verb: "ATTACH" | "QUIT", words: string) {
    super(null, words, 0, true, {});
    this.#verb = verb;
    // Nobody may be there to await it.
    this.promise.catch(() => {});
  }

  override get verb(): string {
    return this.#verb;
  }

  override get what(): string {
    return this.words === "" ? this.#verb : `${this.#verb} ${this.words}`;
  }

  override get retriable(): boolean {
    return false;
  }

  override get ranked(): boolean {
    return false;
  }

  override get immediate(): boolean {
    return true;
  }

  override accept(text: string): string | null {
    if (text !== "") return "nothing was asked";
    this.answer(null);
    return null;
  }

  override reject(reply: ErrorReply): void {
    this.answer(reply);
  }
}
