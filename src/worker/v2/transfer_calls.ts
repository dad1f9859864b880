// SPDX-License-Identifier: Apache-2.0
//
// PUT and GET: what moves bytes between the segment and objects. One object a call, which the queue
// puts into lines with others; or a lot of small ones as a call, which is a line as it is, and costs
// a fraction for each of them (transfer_batch.ts).

import type { ShmError } from "../../errors.ts";
import type { PutBatch, PutTransfer, StoredObject } from "../object_client.ts";
import { parseNumber, parseStored } from "./answers.ts";
import { isMiss, ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import type { PendingOwner } from "../pending.ts";
import type { ErrorReply } from "../reply.ts";
import type { RequestWords } from "./requests.ts";
import { replyError } from "../reply_error.ts";

/** One of the two verbs: what its answers mean. */
export interface TransferVerb<T extends StoredObject | null> {
  readonly verb: "PUT" | "GET";
  /** What the answer says of an object for which so many bytes were given; or why it cannot be. */
  accept(text: string, byteLength: number): StoredObject | string;
  /** What an ERROR means to the caller: a value, or what to throw. */
  reject(reply: ErrorReply, key: string, byteLength: number): T | ShmError;
}

const NO_OBJECT = "that says nothing of an object";

const PUT: TransferVerb<StoredObject> = {
  verb: "PUT",
  accept(text, byteLength) {
    const stored = parseStored(text);
    if (stored === null) return NO_OBJECT;
    return stored.byteLength === byteLength ? stored : `${byteLength} bytes were to be stored`;
  },
  reject: (reply, key) => replyError(reply, `put ${shownKey(key)}`),
};

/** A put that gives null where there was an object. */
const PUT_IF_ABSENT: TransferVerb<StoredObject | null> = {
  verb: "PUT",
  accept: (text, byteLength) => PUT.accept(text, byteLength),
  reject: (reply, key, byteLength) =>
    reply.code === "EEXIST" ? null : PUT.reject(reply, key, byteLength),
};

/** PUT, or what it is with ifAbsent. */
export function putVerb({ ifAbsent }: PutTransfer | PutBatch): TransferVerb<StoredObject | null> {
  return ifAbsent ? PUT_IF_ABSENT : PUT;
}

export const GET: TransferVerb<StoredObject | null> = {
  verb: "GET",
  accept(text, byteLength) {
    const stored = parseStored(text);
    if (stored === null) return NO_OBJECT;
    return stored.byteLength <= byteLength ? stored : `at most ${byteLength} bytes were asked for`;
  },
  reject(reply, key, byteLength) {
    if (isMiss(reply)) return null;
    const what = `get ${shownKey(key)}`;
    if (reply.code !== "EMSGSIZE") return replyError(reply, what);
    const objectBytes = parseNumber(/^[0-9]*/.exec(reply.message)![0]);
    const details = { objectBytes: objectBytes ?? undefined, spaceBytes: byteLength };
    const hint = "The object is longer than the range that it is to be loaded into";
    return replyError(reply, what, details, hint);
  },
};

/** One object as it is asked for. */
export interface TransferPart extends RequestWords {
  readonly key: string;
  readonly byteLength: number;
}

/** One object. */
export class TransferCall<T extends StoredObject | null> extends ObjectCall<T> {
  override tail: string;
  readonly #verb: TransferVerb<T>;
  readonly #key: string;

  constructor(
    owner: PendingOwner,
    verb: TransferVerb<T>,
    part: TransferPart,
    alone: boolean,
    options: ObjectCallOptions,
  ) {
    super(owner, part.words, part.byteLength, alone, options);
    this.tail = part.tail;
    this.#verb = verb;
    this.#key = part.key;
  }

  override get verb(): string {
    return this.#verb.verb;
  }

  override get what(): string {
    return `${this.verb.toLowerCase()} ${shownKey(this.#key)}`;
  }

  override accept(text: string): string | null {
    const stored = this.#verb.accept(text, this.bytes);
    if (typeof stored === "string") return stored;
    this.answer(stored as T);
    return null;
  }

  override reject(reply: ErrorReply): void {
    const outcome = this.#verb.reject(reply, this.#key, this.bytes);
    if (outcome instanceof Error) this.refuse(outcome);
    else this.answer(outcome);
  }
}
