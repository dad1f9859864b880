// SPDX-License-Identifier: Apache-2.0
//
// Functions of the user that have no call of the user to fail: listeners, callbacks, the end of a
// hold. What they throw, and what a promise that they give rejects with, must neither interrupt the
// work that goes on around them, nor keep others from being called, nor end the program. It becomes
// a warning: once, on stderr, and for process.on("warning").

import process from "node:process";

/** Calls a function of the user; `what` names it in the warning. */
export function callFenced<A extends unknown[]>(
  what: string,
  call: (...args: A) => unknown,
  ...args: A
): void {
  let result: unknown;
  try {
    result = call(...args);
  } catch (error) {
    warnOf(what, error);
    return;
  }
  notAwaited(what, result);
}

/** An async function is a callback, too: what it gives is awaited by nobody. */
export function notAwaited(what: string, result: unknown): void {
  if (result instanceof Promise) result.catch((error) => warnOf(what, error));
}

/** A failure that nobody else can be told of. */
export function warnOf(what: string, error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  const warning = new Error(`${what} failed: ${text}`, { cause: error });
  warning.name = "LmshmWarning";
  if (error instanceof Error && error.stack !== undefined) warning.stack = error.stack;
  process.emitWarning(warning);
}
