// SPDX-License-Identifier: Apache-2.0
//
// Chunks to read. The server keeps them where they are while it has a lock of this client's, and
// forgets a lock after a time (--l1-read-ttl-seconds). So the lock is renewed while the lease lasts;
// when that fails for too long, or the server says that a chunk is gone, the lease is lost: its views
// end, and release() says so, because what was read last may have been another chunk.

import { ShmError } from "../errors.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import type { Borrowed, KvChunk } from "./borrowed.ts";

/** What a lease asks of its server. */
export interface LeaseHome {
  /** How long a lock lasts that is not renewed. */
  readonly leaseMs: number;
  /** False: a chunk is gone. Rejects when the server does not answer. */
  renew(): Promise<boolean>;
  /** Gives the locks back, as well as it can. */
  giveBack(): Promise<void>;
}

/** A lock is renewed so many times before it would end. */
const RENEWALS = 4;

/** @param lockedAtMs by performance.now(), before the server was asked for the locks */
export let makeLease: (borrowed: Borrowed, home: LeaseHome, lockedAtMs: number) => KvLease;

/** Chunks of the server's pool, to read until release(). Made by LmcacheClient.retrieve(). */
export class KvLease implements Disposable, AsyncDisposable {
  readonly #borrowed: Borrowed;
  readonly #home: LeaseHome;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #lost: string | null = null;
  #released: Promise<void> | undefined;

  static {
    makeLease = (...args) => new KvLease(INTERNAL, ...args);
  }

  /** Made by LmcacheClient. @internal */
  private constructor(
    token: typeof INTERNAL,
    borrowed: Borrowed,
    home: LeaseHome,
    lockedAtMs: number,
  ) {
    checkInternal(token, "a KvLease is made by LmcacheClient.retrieve()");
    this.#borrowed = borrowed;
    this.#home = home;
    this.#lockedAt(lockedAtMs);
  }

  /** From the start of the prompt, without gaps; at least one. */
  get chunks(): readonly KvChunk[] {
    return this.#borrowed.chunks;
  }

  /** True until it is released, or lost. */
  get valid(): boolean {
    this.#look();
    return this.#borrowed.over === null;
  }

  /**
   * Revokes the views, and gives the chunks back to the server. Idempotent.
   * @throws {ShmError} EBUSY while I/O is in flight, and nothing has happened then; ESTALE when the
   *   lease was lost before: what was read may be something else. A server that is gone is no error.
   */
  release(): Promise<void> {
    if (this.#released === undefined) {
      try {
        this.#end();
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.#released!;
  }

  /** release() that does not wait for the server. */
  [Symbol.dispose](): void {
    if (this.#released !== undefined) return;
    this.#end();
    this.#released!.catch(() => {}); // What a caller must know is thrown below.
    this.#throwIfLost();
  }

  /** release(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }

  #end(): void {
    this.#look();
    const { holds } = this.#borrowed;
    if (holds.length > 0 && this.#lost === null) {
      throw new ShmError(`chunks have operations in flight: ${holds.slice(0, 3).join(", ")}`, {
        code: "EBUSY",
        operation: "release to LMCache",
        hint: "Wait for them first",
        details: { reasons: holds },
      });
    }
    clearTimeout(this.#timer);
    this.#borrowed.end("it was released");
    this.#released = this.#home.giveBack().then(() => this.#throwIfLost());
  }

  #throwIfLost(): void {
    if (this.#lost === null) return;
    throw new ShmError(`the lease was lost: ${this.#lost}`, {
      code: "ESTALE",
      operation: "release to LMCache",
      hint: "What was read last may be another chunk's: retrieve again",
    });
  }

  #lose(why: string): void {
    this.#lost ??= why;
    clearTimeout(this.#timer);
    this.#borrowed.end(why);
  }

  /** Has it end now when it should have; notices when it did. */
  #look(): void {
    if (this.#released !== undefined) return;
    const late = performance.now() >= this.#borrowed.endsAtMs;
    if (this.#borrowed.over !== null || late) {
      this.#lose(this.#borrowed.over ?? `it could not be renewed for ${this.#home.leaseMs} ms`);
    }
  }

  #lockedAt(timeMs: number): void {
    this.#borrowed.endsAtMs = timeMs + this.#home.leaseMs;
    this.#renewSoon();
  }

  #renewSoon(): void {
    const left = this.#borrowed.endsAtMs - performance.now();
    const wait = Math.max(1, Math.min(this.#home.leaseMs / RENEWALS, left));
    this.#timer = setTimeout(() => void this.#renew(), wait);
    this.#timer.unref?.();
  }

  async #renew(): Promise<void> {
    this.#look();
    if (this.#borrowed.over !== null) return;
    const asked = performance.now();
    let kept: boolean | undefined;
    try {
      kept = await this.#home.renew();
    } catch {
      // The server may answer next time; until then the old lock counts.
    }
    if (this.#borrowed.over !== null) return;
    if (kept === false) return this.#lose("the server has a chunk of it no more");
    if (kept === true) return this.#lockedAt(asked);
    this.#look();
    if (this.#borrowed.over === null) this.#renewSoon();
  }
}
