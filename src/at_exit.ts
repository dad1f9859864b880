// SPDX-License-Identifier: Apache-2.0
//
// What this thread has open: what must be undone when it ends, and what can be disposed of together.
//
// The list is the global object's, not this module's: a module that is evaluated anew (bun --hot) finds
// what it opened before. Every thread (Worker) has its own, and a thread that is terminated from
// outside runs nothing any more: see disposeAll().

import process from "node:process";

interface OpenList {
  /** Oldest first. */
  readonly things: Set<AsyncDisposable>;
  /** Oldest first. */
  readonly undoing: Set<() => void>;
}

const LIST = Symbol.for("lmshm.open");
/** How long all that is waited for at exit may take together. */
const EXIT_MS = 2_000;

const holder = globalThis as { [LIST]?: OpenList };

function openList(): OpenList {
  if (holder[LIST] !== undefined) return holder[LIST];
  const list: OpenList = { things: new Set(), undoing: new Set() };
  holder[LIST] = list;
  const undo = () => {
    const undoing = [...list.undoing];
    list.undoing.clear();
    for (const one of undoing) {
      try {
        one();
      } catch {
        // The process ends, and the others have their turn.
      }
    }
  };
  process.on("exit", undo);
  // Deno.exit() is no "exit" to node:process.
  globalThis.addEventListener?.("unload", undo);
  return list;
}

/**
 * Has `undo` called when the process, or this thread, ends while its code still runs: at its natural
 * end, by process.exit(), and in Bun by an uncaught exception. Not by a signal.
 * @returns a function that takes `undo` from the list.
 */
export function onExit(undo: () => void): () => void {
  const { undoing } = openList();
  undoing.add(undo);
  return () => void undoing.delete(undo);
}

let exitEnds: number | undefined;

/** For undo functions: blocks until `done` says so. False: not in the time that there is. */
export function waitAtExit(done: () => boolean): boolean {
  exitEnds ??= performance.now() + EXIT_MS;
  const pause = new Int32Array(new SharedArrayBuffer(4));
  while (!done()) {
    if (performance.now() >= exitEnds) return false;
    Atomics.wait(pause, 0, 0, 1);
  }
  return true;
}

/**
 * For disposeAll(): remembers something that was opened. Closing it is idempotent, and a second call
 * waits for the first.
 * @returns forgets it; for when closing it is over.
 */
export function rememberOpen(thing: AsyncDisposable): () => void {
  const { things } = openList();
  things.add(thing);
  return () => void things.delete(thing);
}

/**
 * Closes every store and connector and frees every segment that this thread has open, the last one
 * that was opened first; also those that the program opened before it was loaded anew (bun --hot).
 * Waits for those that are being closed already.
 * To be called at the beginning of a program that is run so, by a Worker before it is terminated, and
 * wherever a program ends by a signal.
 * @throws {AggregateError} of what could not be closed, after all the others were.
 */
export async function disposeAll(): Promise<void> {
  const errors: unknown[] = [];
  for (const thing of [...openList().things].reverse()) {
    try {
      await thing[Symbol.asyncDispose]();
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) {
    const words = errors.map((error) => error instanceof Error ? error.message : String(error));
    throw new AggregateError(errors, `not everything could be closed: ${words.join("; ")}`);
  }
}
