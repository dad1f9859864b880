// SPDX-License-Identifier: Apache-2.0
//
// Waiting for others through a segment: for a word of it to be woken, and for its owner to end. What is
// waited for when the segment is freed ends with it.

import { checkCallOptions, checkInteger, checkRange, describe } from "../arguments.ts";
import { errnoName, ShmError } from "../errors.ts";
import type { NativeSegment, NativeWait } from "../native/native_segment.ts";
import { checkSignal } from "../wait.ts";

/** How long somebody waits. */
export interface WaitOptions {
  /** Ends the waiting with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Milliseconds, from 0; default Infinity. */
  timeoutMs?: number | undefined;
}

/** As `Atomics.wait()` says it: woken (or the word was changed), not what was expected, too late. */
export type WaitResult = "ok" | "not-equal" | "timed-out";

/**
 * How the owner of an attached segment ended:
 * - "released": it gave the segment back, or ended orderly
 * - "died": it ended without, killed for example
 * - "detached": it may live, but this process has freed its own mapping
 * - "timed-out": it lives, as far as this waiting went
 */
export type OwnerEnd = "released" | "died" | "detached" | "timed-out";

/** Bytes of a word. */
const WORD_BYTES = 4;
const MIN_WORD = -(2 ** 31);
const MAX_WORD = 2 ** 32 - 1;
/** All that wait. */
const MAX_COUNT = 2 ** 31 - 1;
const WAIT_OPTIONS = ["signal", "timeoutMs"] as const satisfies readonly (keyof WaitOptions)[];
const OWNER_ENDS: Readonly<Record<number, OwnerEnd>> = { 1: "released", 2: "died" };

function checkWaitOptions(what: string, options: WaitOptions): void {
  checkCallOptions(what, options, WAIT_OPTIONS);
  const { signal, timeoutMs = Infinity } = options;
  if (typeof timeoutMs !== "number") {
    throw new TypeError(`timeoutMs must be a number, got ${describe(timeoutMs)}`);
  }
  if (!(timeoutMs >= 0)) throw new RangeError(`timeoutMs must be 0 or more, got ${timeoutMs}`);
  checkSignal(signal);
}

function checkWord(offset: number, sizeBytes: number): void {
  checkRange(offset, WORD_BYTES, sizeBytes);
  if (offset % WORD_BYTES !== 0) {
    throw new RangeError(`offset must be a multiple of ${WORD_BYTES}, got ${offset}`);
  }
}

export class SegmentWaits {
  readonly #native: NativeSegment;
  readonly #name: string;
  readonly #waiting = new Set<NativeWait>();

  constructor(native: NativeSegment, name: string | null) {
    this.#native = native;
    this.#name = name ?? "anonymous segment";
  }

  async wait(offset: number, expected: number, options: WaitOptions): Promise<WaitResult> {
    checkWord(offset, this.#native.facts.sizeBytes);
    checkInteger("expected", expected, MIN_WORD, MAX_WORD);
    checkWaitOptions("ShmSegment.wait", options);
    const { timeoutMs = Infinity, signal } = options;
    const started = this.#native.wait(offset, expected >>> 0, timeoutMs);
    const result = await this.#end(started, signal);
    if (result === 0) return "ok";
    const code = errnoName(-result);
    if (code === "EAGAIN") return "not-equal";
    if (code === "ETIMEDOUT") return "timed-out";
    throw this.#failure(result, "wait for a word");
  }

  notify(offset: number, count: number): number {
    checkWord(offset, this.#native.facts.sizeBytes);
    if (count !== Infinity) checkInteger("count", count);
    return this.#native.notify(offset, Math.min(count, MAX_COUNT));
  }

  async ownerGone(options: WaitOptions): Promise<OwnerEnd> {
    checkWaitOptions("ShmSegment.ownerGone", options);
    const { timeoutMs = Infinity, signal } = options;
    const result = await this.#end(this.#native.waitForOwner(timeoutMs), signal);
    const end = OWNER_ENDS[result];
    if (end !== undefined) return end;
    const code = errnoName(-result);
    if (code === "ETIMEDOUT") return "timed-out";
    if (code === "ECANCELED") return "detached";
    throw this.#failure(result, "wait for the owner");
  }

  /** Ends all waits, as the segment is about to be freed. */
  cancel(): void {
    for (const wait of this.#waiting) wait.cancel();
  }

  /** The result of a wait. Rejects with the signal's reason where that ended it. */
  async #end(wait: NativeWait, signal: AbortSignal | undefined): Promise<number> {
    const cancel = () => wait.cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    this.#waiting.add(wait);
    const result = await wait.ended;
    this.#waiting.delete(wait);
    signal?.removeEventListener("abort", cancel);
    if (result < 0 && errnoName(-result) === "ECANCELED") signal?.throwIfAborted();
    return result;
  }

  #failure(result: number, operation: string): ShmError {
    const code = errnoName(-result);
    const [what, hint] = code === "ECANCELED"
      ? [`${this.#name} was freed meanwhile`]
      : code === "EBUSY"
      ? ["too many waits at a time", "A thread of the program can have 1,024; let some end first"]
      : code === "ENOMEM" || code === "EAGAIN"
      ? ["no thread to be had", "Raise the limit of processes (ulimit -u, pids.max)"]
      : code === "EMFILE"
      ? ["no descriptor to be had", "Raise the limit of open files (ulimit -n)"]
      : code === "EINVAL"
      ? [`${this.#name} was made here, so this process is its owner`]
      : code === "ENOTSUP"
      ? [
        `${this.#name} was not made by lmshm, and has no owner that the system knows`,
        "Have its owner create it with lmshm",
      ]
      : [this.#name];
    return new ShmError(what!, { code, errno: -result, operation, hint });
  }
}
