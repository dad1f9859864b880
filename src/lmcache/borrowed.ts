// SPDX-License-Identifier: Apache-2.0
//
// Chunks of the server's pool that are this client's for a while: to read, as long as the server keeps
// them locked, or to fill, as long as they are reserved. When the time is over every view of them is
// revoked, because the server gives the memory to other chunks then.

import { ShmError } from "../errors.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import { Holds } from "../memory/holds.ts";
import { type ShmRange, type ShmSegment, viewForOwner } from "../memory/segment.ts";
import type { DType } from "../memory/dtype.ts";
import type { ShmView } from "../memory/view.ts";
import type { Slot } from "./slots.ts";

/** What chunks look like. */
export interface ChunkFacts {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly byteLength: number;
  /** Of one chunk. */
  readonly tokens: number;
}

let makeChunk: (borrowed: Borrowed, slot: Slot, facts: ChunkFacts) => KvChunk;

/**
 * A chunk in the server's pool. It is a range of the client's segment: a connector of lmshm stores it
 * from where it is, or loads it there.
 */
export class KvChunk implements ShmRange {
  /** Which chunk of the prompt, from 0. */
  readonly index: number;
  /** The server's pool. */
  readonly segment: ShmSegment;
  /** Bytes from the start of the pool. */
  readonly offset: number;
  /** Of the shape. */
  readonly byteLength: number;
  /** [2, layers, tokens, hidden size], or [layers, tokens, hidden size] where there is one plane. */
  readonly shape: readonly number[];
  /** Of the numbers. */
  readonly dtype: DType;
  /** The first token of the prompt that it is of. */
  readonly firstToken: number;
  readonly #borrowed: Borrowed;
  #view: ShmView | null = null;

  static {
    makeChunk = (...args) => new KvChunk(INTERNAL, ...args);
  }

  /** Made by LmcacheClient. @internal */
  private constructor(
    token: typeof INTERNAL,
    borrowed: Borrowed,
    slot: Slot,
    facts: ChunkFacts,
  ) {
    checkInternal(token, "a KvChunk is made by LmcacheClient");
    this.#borrowed = borrowed;
    this.index = slot.index;
    this.segment = borrowed.segment;
    this.offset = slot.offset;
    this.byteLength = facts.byteLength;
    this.shape = facts.shape;
    this.dtype = facts.dtype;
    this.firstToken = slot.index * facts.tokens;
    Object.freeze(this);
  }

  /**
   * The memory itself, not a copy; the same array each time. Empty when the chunk is this client's no
   * more.
   * @throws {ShmError} EFREED after that.
   */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.#borrowed.check("look at a chunk");
    if (this.#view === null) {
      this.#view = viewForOwner(this.segment, this.offset, this.byteLength);
      this.#borrowed.add(this.#view);
    }
    return this.#view.bytes;
  }

  /**
   * Marks I/O in flight: until the returned function is called, the chunk is not given back.
   * @throws {ShmError} EFREED when it was.
   */
  hold(reason: string): () => void {
    this.#borrowed.check("hold a chunk");
    return this.#borrowed.hold(reason);
  }
}

/** Chunks with one end. */
export class Borrowed {
  readonly segment: ShmSegment;
  readonly chunks: readonly KvChunk[];
  readonly #views: ShmView[] = [];
  readonly #holds = new Holds();
  readonly #stay: () => void;
  readonly #ended: () => void;
  #endsAtMs = Infinity;
  #over: string | null = null;

  /** @param ended called once, at the end */
  constructor(
    segment: ShmSegment,
    slots: readonly Slot[],
    facts: ChunkFacts,
    ended: () => void,
  ) {
    this.segment = segment;
    this.#ended = ended;
    this.#stay = segment.hold("chunks of LMCache");
    this.chunks = Object.freeze(slots.map((slot) => makeChunk(this, slot, facts)));
  }

  /** Why it has ended; null while it goes on. */
  get over(): string | null {
    return this.#over;
  }

  /** What keeps it from ending. */
  get holds(): readonly string[] {
    return this.#holds.reasons;
  }

  /** By performance.now(): then it ends, also when a busy event loop lets no timer ring. */
  set endsAtMs(time: number) {
    this.#endsAtMs = time;
  }

  get endsAtMs(): number {
    return this.#endsAtMs;
  }

  /** @throws {ShmError} EFREED when it has ended. */
  check(operation: string): void {
    if (this.#over === null && performance.now() >= this.#endsAtMs) this.end("its time is over");
    if (this.#over === null) return;
    throw new ShmError(`it was given back: ${this.#over}`, { code: "EFREED", operation });
  }

  add(view: ShmView): void {
    this.#views.push(view);
  }

  /** Keeps the mapping, too, whatever becomes of the rest. */
  hold(reason: string): () => void {
    const release = this.#holds.add(reason);
    const stay = this.segment.hold(reason);
    return () => {
      if (release()) stay();
    };
  }

  /** Revokes all views. Idempotent. Whether something is held is the caller's question. */
  end(why: string): void {
    if (this.#over !== null) return;
    this.#over = why;
    for (const view of this.#views) view.revoke();
    this.#stay();
    this.#ended();
  }
}
