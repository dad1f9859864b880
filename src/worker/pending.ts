// SPDX-License-Identifier: Apache-2.0
//
// A request and the two who wait for its end: the caller, who wants an answer and may lose
// patience, and the owner of the memory, who must wait until the worker cannot touch it any more.
// They are told separately: fail() answers the caller, free() lets go of the memory, answer() and
// refuse() do both.

import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import type { Slotted } from "../slot_set.ts";
import { watch } from "../wait.ts";

/** Is told where a request is. Must not throw. */
export interface RequestWatch {
  /** It waits for its turn. */
  waits(): void;
  /** A worker has it. */
  taken(): void;
  /**
   * It waits once more.
   * @param lost because the worker that had it was lost; else because that could not answer for it
   */
  returned(lost: boolean): void;
  /**
   * Its caller has an answer.
   * @param taken a worker has it still, or has just answered
   */
  ended(taken: boolean): void;
}

export interface PendingOptions {
  /** Called once, when the worker can no longer touch the memory. */
  readonly release?: (() => void) | undefined;
  /** Not yet aborted. Rejects the caller with its reason; the memory stays held. */
  readonly signal?: AbortSignal | undefined;
  /** Rejects the caller with ETIMEDOUT after so many milliseconds; the memory stays held. */
  readonly timeoutMs?: number | undefined;
  readonly watch?: RequestWatch | undefined;
}

export interface PendingOwner {
  /** The caller has given up; the memory is still held. */
  abandoned(pending: Pending<unknown>): void;
  /** The caller has an answer and the memory is free. */
  finished(pending: Pending<unknown>): void;
}

interface Settle<T> {
  resolve(value: T): void;
  reject(error: unknown): void;
}

export abstract class Pending<T> implements Slotted {
  /** What the worker answers; rejects when there is no answer. */
  readonly promise: Promise<T>;
  /** How often it has been sent. */
  attempts = 0;
  /** Among those that its owner has to do with. */
  slot = -1;
  /** A worker has it, and may touch its memory. */
  sent = false;
  readonly #owner: PendingOwner | null;
  readonly #release: (() => void) | undefined;
  readonly #watch: RequestWatch | undefined;
  #resolve!: Settle<T>["resolve"];
  #reject!: Settle<T>["reject"];
  #stopWatching: (() => void) | undefined;
  #settled = false;
  #freed = false;
  /** What the watch was told last. */
  #taken = false;

  constructor(owner: PendingOwner | null, options: PendingOptions) {
    const { release, signal, timeoutMs } = options;
    this.#owner = owner;
    this.#release = release;
    this.#watch = options.watch;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    if (signal !== undefined || timeoutMs !== undefined) {
      const expired = () => this.#timedOut(timeoutMs!);
      const patience = { limitMs: timeoutMs, signal, expired };
      this.#stopWatching = watch(patience, (reason) => this.#abort(reason));
    }
    this.#watch?.waits();
  }

  /** For messages: "READ /dir/x.data". Never a secret. */
  abstract get what(): string;

  /** Whether it may be sent again after the worker has provably gone. */
  abstract get retriable(): boolean;

  /** The caller has its answer. */
  get settled(): boolean {
    return this.#settled;
  }

  /** The worker can no longer touch the memory. */
  get freed(): boolean {
    return this.#freed;
  }

  /** It goes to a worker now. */
  take(): void {
    this.attempts++;
    this.sent = true;
    this.#taken = true;
    if (!this.#settled) this.#watch?.taken();
  }

  /** It is not with the worker any more, and will be sent once more. See RequestWatch. */
  giveBack(lost: boolean): void {
    this.sent = false;
    this.#taken = false;
    if (!this.#settled) this.#watch?.returned(lost);
  }

  /** The worker is done with the memory; its caller gets `value`, if it still waits. */
  answer(value: T): void {
    this.#free();
    if (this.#settle()) this.#resolve(value);
    this.#owner?.finished(this);
  }

  /** The same with an error. */
  refuse(error: unknown): void {
    this.#free();
    if (this.#settle()) this.#reject(error);
    this.#owner?.finished(this);
  }

  /** Answers the caller; the memory stays held. */
  fail(error: unknown): void {
    if (!this.#settle()) return;
    this.#reject(error);
    if (this.#freed) this.#owner?.finished(this);
  }

  /** Lets go of the memory; the caller goes on waiting, if it still does. */
  free(): void {
    if (this.#freed) return;
    this.#free();
    if (this.#settled) this.#owner?.finished(this);
  }

  #abort(reason: unknown): void {
    if (this.#settled) return;
    this.fail(reason);
    if (!this.#freed) this.#owner?.abandoned(this);
  }

  #free(): void {
    if (this.#freed) return;
    this.#freed = true;
    // Whoever releases the memory may throw; the caller and others get their answers all the same.
    if (this.#release) callFenced("the end of a hold()", this.#release);
  }

  #settle(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    this.#watch?.ended(this.#taken);
    this.#stopWatching?.();
    return true;
  }

  #timedOut(timeoutMs: number): ShmError {
    return new ShmError(`${this.what} was not done within ${timeoutMs} ms`, {
      code: "ETIMEDOUT",
      operation: "talk to worker",
      hint: "Its memory stays held until the worker has finished with it",
      details: { timeoutMs },
    });
  }
}
