// SPDX-License-Identifier: Apache-2.0
//
// How long a wait for a device takes at most.

import { ShmError } from "../errors.ts";
import { checkInteger, checkKnownOptions } from "../arguments.ts";
import { within } from "../wait.ts";

/** How long a wait for a device takes at most. */
export interface WaitOptions {
  /** 1 ms to 24 hours; default 60,000. */
  timeoutMs?: number | undefined;
  /** Ends the waiting, not the work. */
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT_MS = 60_000;
const LONGEST_MS = 24 * 3600_000;

/** A wait, checked. */
export interface Wait {
  readonly timeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

/** The options of a wait, checked. */
export function waitOptions(what: string, options: WaitOptions): Wait {
  const given = options;
  checkKnownOptions(what, given, ["timeoutMs", "signal"]);
  const { timeoutMs = DEFAULT_TIMEOUT_MS, signal } = options;
  return { timeoutMs: checkInteger("timeoutMs", timeoutMs, 1, LONGEST_MS), signal };
}

/**
 * Waits for a promise no longer than the options say.
 * @throws {ShmError} ETIMEDOUT; the signal's reason when it aborts.
 */
export async function bounded(
  work: Promise<void>,
  operation: string,
  { timeoutMs, signal }: Wait,
): Promise<void> {
  const expired = () =>
    new ShmError(`the device was not done after ${timeoutMs} ms`, {
      code: "ETIMEDOUT",
      operation,
      hint: "What is in flight goes on, and keeps its memory; wait longer, or look at the device " +
        "with its own tools",
      details: { timeoutMs },
    });
  await within(work, { limitMs: timeoutMs, signal, expired });
}
