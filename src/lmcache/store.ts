// SPDX-License-Identifier: Apache-2.0
//
// Chunks to write. The server reserves room for those that it has not; they are filled in place, and
// nobody sees them until they are committed. The protocol has no way to give a reservation back: one
// that is given up stays the server's until --l1-write-ttl-seconds are over, and nobody else can store
// the same chunk meanwhile. So the client keeps it, and its next store of the same chunks fills it.

import { ShmError } from "../errors.ts";
import { within } from "../wait.ts";
import type { Borrowed, KvChunk } from "./borrowed.ts";
import type { Pool } from "./pool.ts";
import type { ChunkKey } from "./rpc.ts";
import type { Slot } from "./slots.ts";

const OPERATION = "store in LMCache";

/** Room for chunks. */
export interface Reservation {
  /** As the server was asked. */
  readonly key: ChunkKey;
  readonly slots: readonly Slot[];
  readonly pool: Pool;
  /** By performance.now(): not filled after that. */
  readonly endsAtMs: number;
  readonly chunkTokens: number;
  /** Of which connection's server. */
  readonly connection: number;
}

/** Writes a chunk, all of it. */
export type FillChunk = (chunk: KvChunk) => void | Promise<void>;

/** What bounds a fill, and what comes of one that fails. */
interface Ending {
  readonly borrowed: Borrowed;
  readonly signal: AbortSignal | undefined;
  readonly endsAtMs: number;
  /** Called after a failure, when nobody can write to the chunks any more. */
  readonly giveUp: () => void;
}

/**
 * Has all chunks filled, and takes them back. After that nobody writes to them any more.
 * @throws what the first fill() that fails throws; the signal's reason; {ShmError} ETIMEDOUT: the
 *   reservation is about to end; EBUSY: a fill ended with something in flight. They are given up then,
 *   as soon as the other fills have ended.
 */
export async function fillAll(fill: FillChunk, ending: Ending): Promise<void> {
  const { borrowed, signal, endsAtMs, giveUp } = ending;
  // An async function each, so that one that throws keeps no other from being begun.
  const fills = borrowed.chunks.map(async (chunk) => await fill(chunk));
  const ended = Promise.allSettled(fills).then(() => quiet(borrowed));
  try {
    const limitMs = Math.max(1, endsAtMs - performance.now());
    await within(Promise.all(fills), { limitMs, signal, expired: late });
    if (borrowed.over !== null) throw late();
    if (borrowed.holds.length > 0) throw inFlight(borrowed.holds);
  } catch (error) {
    // A fill that never ends must not write when the memory is another chunk's.
    const left = { limitMs: Math.max(0, endsAtMs - performance.now()), expired: late };
    void within(ended, left).catch(() => {}).then(() => {
      borrowed.end("the store was given up");
      giveUp();
    });
    // A fill that looked at its chunk too late says that it was taken back.
    throw performance.now() >= endsAtMs && isFreed(error) ? late() : error;
  }
  borrowed.end("it was stored");
}

const LOOK_MS = 20;

/** When nothing is held any more. */
async function quiet(borrowed: Borrowed): Promise<void> {
  while (borrowed.holds.length > 0) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
}

function isFreed(error: unknown): boolean {
  return error instanceof ShmError && error.code === "EFREED";
}

function late(): ShmError {
  return new ShmError("the chunks were not filled before their reservation ends", {
    code: "ETIMEDOUT",
    operation: OPERATION,
    hint: "Raise storeMs, and the server's --l1-write-ttl-seconds to twice that",
  });
}

function inFlight(reasons: readonly string[]): ShmError {
  return new ShmError(`fill() ended with operations in flight: ${reasons.slice(0, 3).join(", ")}`, {
    code: "EBUSY",
    operation: OPERATION,
    hint: "Await them in fill()",
    details: { reasons },
  });
}
