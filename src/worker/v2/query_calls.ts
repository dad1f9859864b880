// SPDX-License-Identifier: Apache-2.0
//
// Requests that move no bytes: about objects, and about the worker. One class, and a function for
// each kind that says what is asked and what the answer means.

import { ShmError } from "../../errors.ts";
import type { ObjectStat } from "../object_client.ts";
import type { PendingOwner } from "../pending.ts";
import type { ErrorReply } from "../reply.ts";
import { replyError } from "../reply_error.ts";
import { type Page, parseFacts, parseFlags, parseNumber, parsePage, parseStat } from "./answers.ts";
import { isMiss, ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import { checkLength, encodeKey, encodeList, encodeListEnd } from "./requests.ts";

/** What is asked, and what the answer means. */
export interface Query<T> {
  readonly verb: string;
  readonly words: string;
  /** For messages. */
  readonly what: string;
  /** What follows "OK "; a Fault is why that cannot be the answer. */
  readonly accept: (text: string) => T | Fault;
  /** What an ERROR means; absent: it is thrown. */
  readonly reject?: (reply: ErrorReply) => T | Error;
  /** How many objects the answer tells of; default 1. */
  readonly objects?: number;
  /** Default true. */
  readonly retriable?: boolean;
  /** Whether `prio` may be said; default false. */
  readonly ranked?: boolean;
  /** Answered at once by a worker that lives; default false. */
  readonly immediate?: boolean;
}

/** Why an answer cannot be one. */
export class Fault {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export class QueryCall<T> extends ObjectCall<T> {
  readonly #query: Query<T>;

  constructor(owner: PendingOwner | null, query: Query<T>, options: ObjectCallOptions = {}) {
    super(owner, query.words, 0, true, options);
    this.#query = query;
    // Nobody may be there to await QUIT.
    if (owner === null) this.promise.catch(() => {});
  }

  override get verb(): string {
    return this.#query.verb;
  }

  override get what(): string {
    return this.#query.what;
  }

  override get objects(): number {
    return this.#query.objects ?? 1;
  }

  override get retriable(): boolean {
    return this.#query.retriable ?? true;
  }

  override get ranked(): boolean {
    return this.#query.ranked ?? false;
  }

  override get immediate(): boolean {
    return this.#query.immediate ?? false;
  }

  override accept(text: string): string | null {
    const answer = this.#query.accept(text);
    if (answer instanceof Fault) return answer.text;
    this.answer(answer);
    return null;
  }

  override reject(reply: ErrorReply): void {
    const outcome = this.#query.reject?.(reply) ?? replyError(reply, this.what);
    if (outcome instanceof Error) this.refuse(outcome);
    else this.answer(outcome);
  }
}

/** Null: there is no such object. */
export function statOf(key: string): Query<{ readonly stat: ObjectStat | null }> {
  const words = encodeKey(key);
  checkLength("stat", words.length);
  const what = `stat ${shownKey(key)}`;
  return {
    verb: "STAT",
    words,
    what,
    ranked: true,
    accept(text) {
      const stat = parseStat(text);
      return stat === null ? new Fault("that says nothing of an object") : { stat };
    },
    reject: (reply) => isMiss(reply) ? { stat: null } : replyError(reply, what),
  };
}

/** @param words `count` keys */
export function flagsOf(
  verb: "EXISTS" | "REMOVE",
  words: string,
  count: number,
): Query<boolean[]> {
  return {
    verb,
    words,
    what: `${verb.toLowerCase()} ${count} keys`,
    objects: count,
    // A second REMOVE would say that there had been nothing to remove.
    retriable: verb === "EXISTS",
    accept: (text) => parseFlags(text, count) ?? new Fault(`${count} keys were asked for`),
  };
}

/** @param words `count` keys */
export function containedOf(words: string, count: number): Query<number> {
  return {
    verb: "CONTAINS",
    words,
    what: `look for ${count} keys`,
    accept(text) {
      const found = parseNumber(text);
      return found === null || found > count ? new Fault(`${count} keys were asked for`) : found;
    },
  };
}

/** @param cursor null: the first page */
export function pageOf(limit: number, cursor: string | null, prefix: string): Query<Page> {
  const words = encodeList(limit, cursor, prefix);
  checkLength("list", words.length);
  return {
    verb: "LIST",
    words,
    what: "list",
    ranked: true,
    // Another connection does not know the cursor.
    retriable: cursor === null,
    accept(text) {
      const page = parsePage(text);
      if (page === null) return new Fault("that is no list of keys");
      return page.keys.length > limit ? new Fault(`at most ${limit} keys were asked for`) : page;
    },
    reject(reply) {
      if (reply.code !== "ESTALE") return replyError(reply, "list");
      return new ShmError(
        "the worker ended the listing before its last page, in favour of others",
        {
          code: "ESTALE",
          operation: "list",
          hint:
            "Begin the listing again. One that is not advanced for a minute ends when others need " +
            "its place: take all keys with listAll() if each needs much time",
          details: { reply: reply.message },
        },
      );
    },
  };
}

/** Ends a listing. A refusal tells that it is not there, which is as good. */
export function endOf(cursor: string): Query<null> {
  return {
    verb: "LIST",
    words: encodeListEnd(cursor),
    what: "end a listing",
    retriable: false,
    accept: (text) => text === "-" ? null : new Fault("a listing was ended"),
    reject: () => null,
  };
}

/** What the worker says: `name=value` words. */
export function factsOf(verb: "PING" | "INFO"): Query<Readonly<Record<string, string>>> {
  return {
    verb,
    words: "",
    what: verb,
    immediate: true,
    accept: (text) => parseFacts(text) ?? new Fault("that is not what it says of itself"),
  };
}

/** For a refusal is an answer as well; null is OK. */
export function plain(
  verb: "ATTACH" | "QUIT",
  words: string,
): Query<{ readonly refusal: ErrorReply | null }> {
  return {
    verb,
    words,
    what: `${verb} ${words}`.trim(),
    retriable: false,
    immediate: true,
    accept: (text) => text === "" ? { refusal: null } : new Fault("nothing was asked"),
    reject: (refusal) => ({ refusal }),
  };
}
