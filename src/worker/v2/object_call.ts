// SPDX-License-Identifier: Apache-2.0
//
// A request of version 2: what is written, what an answer to it can be, and what that means to the
// caller. One class for each kind, in transfer_calls.ts, transfer_batch.ts and query_calls.ts. When
// they are sent, and what becomes of them when the worker is lost, is client.ts.

import type { Priority } from "../object_client.ts";
import { Pending, type PendingOptions, type PendingOwner } from "../pending.ts";
import type { ErrorReply } from "../reply.ts";
import { type RequestWords, withoutCondition } from "./requests.ts";
import { replyError } from "../reply_error.ts";
import type { RequestLine } from "./request_line.ts";

export interface ObjectCallOptions extends PendingOptions {
  readonly priority?: Priority | undefined;
}

/** The part of a key that a message shows. */
export function shownKey(key: string): string {
  return key.length > 120 ? `${key.slice(0, 120)}...` : key;
}

/** Whether a refusal says that there is no such object: a directory or a link of its name is none. */
export function isMiss({ code }: ErrorReply): boolean {
  return code === "ENOENT" || code === "EISDIR" || code === "ELOOP";
}

export abstract class ObjectCall<T = unknown> extends Pending<T> implements RequestWords {
  abstract readonly verb: string;
  words: string;
  tail: string = "";
  readonly priority: Priority;
  /** Bytes that the worker moves. */
  readonly bytes: number;
  /** Not to be put into one line with others. */
  alone: boolean;
  /** The line that it was sent with last. */
  line: RequestLine | null = null;

  constructor(
    owner: PendingOwner | null,
    words: string,
    bytes: number,
    alone: boolean,
    options: ObjectCallOptions,
  ) {
    super(owner, options);
    this.words = words;
    this.bytes = bytes;
    this.alone = alone;
    this.priority = options.priority ?? "normal";
  }

  override get retriable(): boolean {
    return true;
  }

  /** How many objects its answer tells of, and so how much work that is. */
  get objects(): number {
    return 1;
  }

  /** Whether `prio` may be said. */
  get ranked(): boolean {
    return true;
  }

  /** Answered at once by a worker that lives, however much it has to do. */
  get immediate(): boolean {
    return false;
  }

  /** It may have been carried out, and is sent again: its condition would find what it has left. */
  repeat(): void {
    this.words = withoutCondition(this.words);
    this.tail = withoutCondition(this.tail);
  }

  /** Takes what follows "OK "; returns why it cannot be the answer, or null. */
  abstract accept(text: string): string | null;

  /** Takes an ERROR. */
  reject(reply: ErrorReply): void {
    this.refuse(replyError(reply, this.what));
  }
}
