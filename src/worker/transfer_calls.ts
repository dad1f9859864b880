// SPDX-License-Identifier: Apache-2.0
//
// PUT and GET: what moves bytes between the segment and an object.

import type { ShmError } from "../errors.ts";
import { parseNumber, parseStored, type StoredObject } from "./answers_v2.ts";
import { ObjectCall, type ObjectCallOptions, shownKey } from "./object_call.ts";
import type { PendingOwner } from "./pending.ts";
import type { ErrorReply } from "./protocol.ts";
import type { RequestWords } from "./protocol_v2.ts";
import { replyError } from "./reply_error.ts";

/** What PUT and GET have in common. */
abstract class TransferCall<T extends StoredObject | null> extends ObjectCall<T> {
  readonly key: string;

  constructor(
    owner: PendingOwner,
    key: string,
    words: string,
    byteLength: number,
    alone: boolean,
    options: ObjectCallOptions,
  ) {
    super(owner, words, byteLength, alone, options);
    this.key = key;
  }

  override get what(): string {
    return `${this.verb.toLowerCase()} ${shownKey(this.key)}`;
  }
}

export class PutCall extends TransferCall<StoredObject> {
  override readonly tail: string;

  constructor(
    owner: PendingOwner,
    key: string,
    text: RequestWords,
    byteLength: number,
    alone: boolean,
    options: ObjectCallOptions,
  ) {
    super(owner, key, text.words, byteLength, alone, options);
    this.tail = text.tail;
  }

  override get verb(): string {
    return "PUT";
  }

  override accept(text: string): string | null {
    const stored = parseStored(text);
    if (stored === null) return "that says nothing of an object";
    if (stored.byteLength !== this.bytes) return `${this.bytes} bytes were to be stored`;
    this.answer(stored);
    return null;
  }
}

export class GetCall extends TransferCall<StoredObject | null> {
  override get verb(): string {
    return "GET";
  }

  override accept(text: string): string | null {
    const stored = parseStored(text);
    if (stored === null) return "that says nothing of an object";
    if (stored.byteLength > this.bytes) return `at most ${this.bytes} bytes were asked for`;
    this.answer(stored);
    return null;
  }

  override reject(reply: ErrorReply): void {
    if (reply.code === "ENOENT") this.answer(null);
    else super.reject(reply);
  }

  protected override errorOf(reply: ErrorReply): ShmError {
    if (reply.code !== "EMSGSIZE") return super.errorOf(reply);
    const objectBytes = parseNumber(/^[0-9]*/.exec(reply.message)![0]);
    const details = { objectBytes: objectBytes ?? undefined, spaceBytes: this.bytes };
    const hint = "The object is longer than the range that it is to be loaded into";
    return replyError(reply, this.what, details, hint);
  }
}
