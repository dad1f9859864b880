// SPDX-License-Identifier: Apache-2.0
//
// The server's log of stores and evictions, as it grows. The log is bounded: who comes late, is slow,
// or asks a server that was restarted, is told that something is missing.

import { checkCallOptions, describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";
import { checkSignal } from "../wait.ts";
import type { EventBatch, EventRecord, LmcacheRpc } from "./rpc.ts";

/** What events() takes. */
export interface KvEventOptions {
  /** Goes on behind the event that had it. Default: from the oldest that the server has. */
  cursor?: string | undefined;
  /** Ends the reading with the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** A chunk came into the server's memory. */
export interface KvStoredEvent {
  /** What happened. */
  readonly kind: "stored";
  /** For events({ cursor }). */
  readonly cursor: string;
  /** LMCache's hash of the chunk and all before it, in hexadecimal digits. One. */
  readonly hashes: readonly string[];
  /** That of the chunk before; null for the first of a prompt. */
  readonly parent: string | null;
  /** Of the chunk. */
  readonly tokens: readonly number[];
}

/** Chunks were evicted from the server's memory. */
export interface KvRemovedEvent {
  /** What happened. */
  readonly kind: "removed";
  /** For events({ cursor }). */
  readonly cursor: string;
  /** Of each chunk, as a "stored" event had it. */
  readonly hashes: readonly string[];
}

/** Events are missing before the next one: whoever keeps a list of the chunks begins a new one. */
export interface KvLostEvent {
  /** What happened. */
  readonly kind: "lost";
  /** For events({ cursor }). */
  readonly cursor: string;
}

/** What events() gives. */
export type KvEvent = KvStoredEvent | KvRemovedEvent | KvLostEvent;

const OPERATION = "read events of LMCache";
/** The server ends a subscription of which it heard nothing for --worker-reap-timeout-seconds, 120. */
const PING_MS = 20_000;

interface Position {
  /** Undefined: any. */
  readonly incarnation: bigint | undefined;
  readonly at: bigint;
}

/** Before the calls: checked at once. */
export interface CheckedEvents {
  readonly position: Position;
  readonly signal: AbortSignal | undefined;
}

/** @throws {TypeError | RangeError} */
export function checkEventOptions(options: KvEventOptions): CheckedEvents {
  checkCallOptions("events", options, ["cursor", "signal"]);
  checkSignal(options.signal);
  const { cursor, signal } = options;
  if (cursor === undefined) return { position: { incarnation: undefined, at: 0n }, signal };
  const parts = typeof cursor === "string" ? /^(\d{1,19}):(\d{1,19})$/.exec(cursor) : null;
  if (parts === null) {
    throw new RangeError(`cursor must be that of an event, got ${describe(cursor)}`);
  }
  return { position: { incarnation: BigInt(parts[1]!), at: BigInt(parts[2]!) }, signal };
}

const hex = (bytes: Uint8Array) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"))
    .join("");

function eventOf(record: EventRecord, incarnation: bigint): KvEvent | null {
  const cursor = `${incarnation}:${record.position}`;
  const hashes = record.hashes.map(hex);
  if (record.kind === "removed") return { kind: "removed", cursor, hashes };
  if (record.kind !== "stored") return null;
  const parent = record.parent === null ? null : hex(record.parent);
  return { kind: "stored", cursor, hashes, parent, tokens: record.tokens };
}

function checkEnabled(batch: EventBatch): void {
  if (batch.enabled) return;
  throw new ShmError("the server keeps no log of events", {
    code: "ENOTSUP",
    operation: OPERATION,
    hint: "Start it with --kv-event-log-size 100000, and without --disable-observability",
  });
}

/** A subscription that is one by itself: the server has one for each instance. */
export interface EventSource {
  readonly rpc: LmcacheRpc;
  readonly instance: bigint;
  readonly model: string;
  readonly timeoutMs: number;
  /** Aborted when the client is closed. */
  readonly closed: AbortSignal;
}

/** Ends when the signal is aborted, with its reason, or when the server does not answer any more. */
export async function* readEvents(
  source: EventSource,
  { position, signal }: CheckedEvents,
): AsyncGenerator<KvEvent, never, void> {
  const { rpc, instance, model, timeoutMs, closed } = source;
  const gone = new AbortController();
  const ending = AbortSignal.any([gone.signal, closed, ...(signal === undefined ? [] : [signal])]);
  const pinger = setInterval(() => {
    rpc.ping(instance, { timeoutMs, signal: ending }).catch((error) => gone.abort(error));
  }, PING_MS);
  try {
    await rpc.connect({ timeoutMs, signal: ending });
    let { incarnation, at } = position;
    for (;;) {
      let restarted = false;
      for await (const batch of rpc.subscribe(instance, model, at, ending)) {
        checkEnabled(batch);
        restarted = incarnation !== undefined && incarnation !== batch.incarnation;
        incarnation = batch.incarnation;
        if (restarted) break;
        // Where a lost event leads to is behind what is lost, and before what comes with it.
        const first = batch.records[0]?.position ?? batch.next + 1n;
        if (batch.lost) {
          yield { kind: "lost", cursor: `${incarnation}:${first > 0n ? first - 1n : 0n}` };
        }
        for (const record of batch.records) {
          const event = eventOf(record, incarnation);
          if (event !== null) yield event;
        }
        at = batch.next;
      }
      ending.throwIfAborted();
      if (!restarted) {
        throw new ShmError("the server has ended the events", {
          code: "ECONNRESET",
          operation: OPERATION,
          hint: "Read on with the cursor of the last event",
        });
      }
      // The cursor is one of a server that is gone, and the new one has a log of its own.
      at = 0n;
      yield { kind: "lost", cursor: `${incarnation}:0` };
    }
  } finally {
    clearInterval(pinger);
    gone.abort();
  }
}
