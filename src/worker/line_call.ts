// SPDX-License-Identifier: Apache-2.0
//
// One line of version 1, and its reply: see pending.ts for who waits for what.

import { Pending, type PendingOptions, type PendingOwner } from "./pending.ts";
import type { OkReply, Reply } from "./reply.ts";

interface LineRequest extends PendingOptions {
  /** For messages: "READ /dir/x.data". Never a secret. */
  readonly what: string;
  /** The encoded line. */
  readonly line: string;
  /** Bytes that the worker moves. */
  readonly bytes: number;
  /** How long the worker may take, in milliseconds. */
  readonly limitMs: number;
  /** Whether it may be sent again after the worker has provably gone. */
  readonly retriable: boolean;
  /** Why an `OK` cannot be the answer to this request; null when it can. */
  readonly check?: (reply: OkReply) => string | null;
}

export class LineCall extends Pending<Reply> {
  readonly request: LineRequest;

  /** @param owner is told of its end; null: nobody need be. */
  constructor(request: LineRequest, owner: PendingOwner | null = null) {
    super(owner, request);
    this.request = request;
    // The caller awaits it; a call that nobody awaits any more must not be an unhandled rejection.
    this.promise.catch(() => {});
  }

  override get what(): string {
    return this.request.what;
  }

  override get retriable(): boolean {
    return this.request.retriable;
  }
}
