// SPDX-License-Identifier: Apache-2.0
//
// The server's pool as this process has it mapped. A server that is restarted makes a new segment of
// the same name; chunks that somebody still has are in the old one, which stays mapped for them.

import { ShmError } from "../errors.ts";
import { ShmSegment } from "../memory/segment.ts";
import type { CallLimit, PoolFacts } from "./rpc.ts";

const OPERATION = "attach LMCache's pool";
/** The names that LMCache gives its pools: no other segment of this user's is touched. */
const POOL_NAME = /^\/?(lmcache_l1_pool_[^/\0]+)$/;

/** A pool that is mapped. */
export interface Pool {
  readonly segment: ShmSegment;
  /** What chunks may lie in. */
  readonly sizeBytes: number;
}

function nameOf(facts: PoolFacts): string {
  const name = POOL_NAME.exec(facts.name)?.[1];
  if (name !== undefined && Number.isSafeInteger(facts.sizeBytes) && facts.sizeBytes > 0) {
    return `/${name}`;
  }
  if (facts.name === "") {
    throw new ShmError("the server has no pool that another process can map", {
      code: "ENOTSUP",
      operation: OPERATION,
      hint: "Start it with --shm-name NAME --no-l1-use-lazy, and one --l1-size-gb",
    });
  }
  throw new ShmError(
    `the server says that its pool is ${
      JSON.stringify(facts.name)
    } of ${facts.sizeBytes} bytes, and ` +
      "LMCache's are /lmcache_l1_pool_NAME",
    { code: "EPROTO", operation: OPERATION, details: { ...facts } },
  );
}

function hintFor(code: string): string | undefined {
  if (code === "ENOENT") {
    return "The server must run on this machine, and in containers share this /dev/shm";
  }
  if (code === "EACCES") return "The pool is its owner's alone: run as the user of the server";
  return undefined;
}

/** The pool of one server, again and again. */
export class PoolKeeper {
  readonly #given: ShmSegment | null;
  #current: Pool | null = null;
  /** Those of servers that are gone, until nobody has a chunk in them. */
  readonly #old = new Set<ShmSegment>();

  /** @param given by the user, who frees it; null: attached here, and freed. */
  constructor(given: ShmSegment | null) {
    this.#given = given;
  }

  /** Null before ensure(). */
  get current(): Pool | null {
    return this.#current;
  }

  /**
   * Has the pool mapped that the server has now.
   * @throws {ShmError} ENOTSUP, ENOENT, EACCES, ESTALE: what the user gave is not it; EPROTO
   */
  async ensure(facts: PoolFacts, limit: CallLimit): Promise<void> {
    const name = nameOf(facts);
    if (this.#given !== null) {
      this.#current = this.#checkGiven(this.#given, name, facts.sizeBytes);
      return;
    }
    const segment = this.#current?.segment;
    if (segment?.name === name && segment.lookUpName() === segment.identity) {
      this.#current = this.#checked(segment, facts.sizeBytes);
      return;
    }
    const attached = await this.#attach(name, limit);
    try {
      this.#current = this.#checked(attached, facts.sizeBytes);
    } catch (error) {
      await attached.free();
      throw error;
    }
    if (segment !== undefined) this.#old.add(segment);
    this.sweep();
  }

  /** Unmaps what nobody has chunks in any more. */
  sweep(): void {
    for (const segment of this.#old) {
      // It stays while a chunk of it is held: EBUSY.
      segment.free().then(() => this.#old.delete(segment), () => {});
    }
  }

  /** @throws {ShmError} EBUSY: somebody has a chunk. */
  async close(): Promise<void> {
    const mine = this.#given === null && this.#current !== null ? [this.#current.segment] : [];
    this.#current = null;
    await Promise.all([...mine, ...this.#old].map((segment) => segment.free()));
  }

  async #attach(name: string, limit: CallLimit): Promise<ShmSegment> {
    try {
      return await ShmSegment.attach({ name, pin: "none", ...limit });
    } catch (error) {
      const hint = error instanceof ShmError ? hintFor(error.code) : undefined;
      if (!(error instanceof ShmError) || hint === undefined) throw error;
      throw new ShmError(`${name} cannot be attached: ${error.message}`, {
        code: error.code,
        operation: OPERATION,
        hint,
        cause: error,
      });
    }
  }

  #checked(segment: ShmSegment, sizeBytes: number): Pool {
    if (segment.sizeBytes >= sizeBytes) return { segment, sizeBytes };
    throw new ShmError(
      `${segment.name} has ${segment.sizeBytes} bytes, and the server says ${sizeBytes}`,
      {
        code: "ESTALE",
        operation: OPERATION,
        hint: "Another server of the same --shm-name?",
        details: { name: segment.name, sizeBytes: segment.sizeBytes, serverSays: sizeBytes },
      },
    );
  }

  #checkGiven(segment: ShmSegment, name: string, sizeBytes: number): Pool {
    const same = segment.name === name && !segment.closed &&
      segment.lookUpName() === segment.identity;
    if (same) return this.#checked(segment, sizeBytes);
    throw new ShmError(
      `the segment ${segment.name ?? "without a name"} is not the server's pool ${name}` +
        (segment.name === name ? " any more" : ""),
      {
        code: "ESTALE",
        operation: OPERATION,
        hint: segment.name === name
          ? "The server was restarted: attach its new pool, and connect again"
          : `Attach ${name}, or leave segment out`,
      },
    );
  }
}
