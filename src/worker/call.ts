// SPDX-License-Identifier: Apache-2.0
//
// One request and the two people who wait for its end: the caller, who wants an answer and may lose
// patience, and the owner of the memory, who must wait until the worker cannot touch it any more.
// They are told separately: fail() answers the caller, free() lets go of the memory.

import { ShmError } from "../errors.ts";
import type { OkReply, Reply } from "./protocol.ts";

export interface CallRequest {
  /** For messages: "READ /dir/x.data". Never a secret. */
  readonly what: string;
  /** The encoded line. */
  readonly line: string;
  /** Bytes that the worker moves; counts against the limit of bytes in flight. */
  readonly bytes: number;
  /** How long the worker may take once it is this request's turn, in milliseconds. */
  readonly limitMs: number;
  /** Whether it may be sent again after the worker has provably gone. */
  readonly retriable: boolean;
  /** Why an `OK` cannot be the answer to this request; null when it can. */
  readonly check?: (reply: OkReply) => string | null;
  /** Called once, when the worker can no longer touch the memory. */
  readonly release?: (() => void) | undefined;
  /** Not yet aborted. Rejects the caller with its reason; the memory stays held. */
  readonly signal?: AbortSignal | undefined;
  /** Rejects the caller with ETIMEDOUT after so many milliseconds; the memory stays held. */
  readonly timeoutMs?: number | undefined;
}

export class Call {
  readonly request: CallRequest;
  /** The worker's answer, OK or ERROR; rejects when there will be none. */
  readonly reply: Promise<Reply>;
  /** How often it has been sent. */
  attempts = 0;
  #resolve: (reply: Reply) => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #onChange: (() => void) | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #settled = false;
  #freed = false;

  /** @param onChange called when the caller has been answered, and when the memory is free. */
  constructor(request: CallRequest, onChange?: () => void) {
    this.request = request;
    this.#onChange = onChange;
    this.reply = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // The caller awaits it; a call that nobody awaits any more must not be an unhandled rejection.
    this.reply.catch(() => {});
    this.#listen();
  }

  /** The caller has its answer. */
  get settled(): boolean {
    return this.#settled;
  }

  /** The worker can no longer touch the memory. */
  get freed(): boolean {
    return this.#freed;
  }

  answer(reply: Reply): void {
    this.free();
    if (this.#settle()) this.#resolve(reply);
  }

  fail(error: unknown): void {
    if (this.#settle()) this.#reject(error);
  }

  free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.request.release?.();
    this.#onChange?.();
  }

  #settle(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    clearTimeout(this.#timer);
    this.request.signal?.removeEventListener("abort", this.#onAbort);
    this.#onChange?.();
    return true;
  }

  readonly #onAbort = (): void => this.fail(this.request.signal?.reason);

  #listen(): void {
    const { signal, timeoutMs, what } = this.request;
    signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (timeoutMs === undefined) return;
    this.#timer = setTimeout(() => {
      this.fail(
        new ShmError(`${what} was not done within ${timeoutMs} ms`, {
          code: "ETIMEDOUT",
          operation: "talk to worker",
          hint: "Its memory stays held until the worker has finished with it",
          details: { timeoutMs },
        }),
      );
    }, timeoutMs);
  }
}
