// SPDX-License-Identifier: Apache-2.0
//
// publishPool(): shows the map of a pool to `lmshm dashboard` of the same user. A timer draws it, so that
// allocating and freeing pay nothing; drawing a pool with a great many blocks takes longer, and is then
// done less often. It lies in a segment of its own (pool_board.ts), which goes when the publishing ends,
// and is a dead segment like any other when the program is killed.

import { randomBytes } from "node:crypto";
import process from "node:process";
import { checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import { BufferAllocator } from "./buffer_allocator.ts";
import type { MemoryAllocator } from "./memory_allocator.ts";
import { MixedMemoryAllocator } from "./mixed_allocator.ts";
import { PagedTensorMemoryAllocator } from "./paged_allocator.ts";
import {
  BOARD_BYTES,
  BOARD_PREFIX,
  BOARD_RANGES,
  encodeBoard,
  type PoolBoard,
} from "./pool_board.ts";
import { ShmSegment } from "./segment.ts";

/** How a pool is shown. */
export interface PublishPoolOptions {
  /** What it is called there: 1 to 80 characters. Default: the name of its segment, else "pool". */
  name?: string | undefined;
  /** Milliseconds between two drawings, 100 to 3,600,000; default 1000. */
  intervalMs?: number | undefined;
}

const MAX_NAME = 80;
/** Drawing takes at most so much of the program's time: one part in a hundred. */
const REST = 99;

/** A pool that is published, until close(), until the pool is closed, or until the program ends. */
export class PublishedPool implements Disposable {
  readonly #allocator: MemoryAllocator;
  readonly #name: string;
  readonly #intervalMs: number;
  readonly #board: ShmSegment;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  /** For publishPool(). @internal */
  constructor(
    token: typeof INTERNAL,
    allocator: MemoryAllocator,
    name: string,
    intervalMs: number,
  ) {
    checkInternal(token, "a PublishedPool is made by publishPool()");
    this.#allocator = allocator;
    this.#name = name;
    this.#intervalMs = intervalMs;
    this.#board = ShmSegment.createSync({
      name: `${BOARD_PREFIX}${process.pid}-${randomBytes(4).toString("hex")}`,
      sizeBytes: BOARD_BYTES,
      pin: "none",
      populateThreads: 1,
    });
    this.#draw();
  }

  /** The segment that the map is in, with its leading slash. */
  get segmentName(): string {
    return this.#board.name!;
  }

  /** True from close() on, and once the pool was found closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Draws the map now, and not only at the next time. Does nothing once it is closed. */
  update(): void {
    if (!this.#closed) this.#draw();
  }

  /** Ends it: nobody sees the pool any more. Idempotent. The pool stays as it is. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#board.freeSync();
  }

  /** close(). */
  [Symbol.dispose](): void {
    this.close();
  }

  #draw(): void {
    clearTimeout(this.#timer);
    // disposeAll() frees the board together with everything else.
    if (this.#board.closed || segmentOf(this.#allocator)?.closed === true) return this.close();
    const started = performance.now();
    const bytes = encodeBoard(this.#content());
    if (bytes.length <= BOARD_BYTES) this.#board.bytes(0, BOARD_BYTES).set(bytes);
    const delayMs = Math.max(this.#intervalMs, REST * (performance.now() - started));
    this.#timer = setTimeout(
      () => callFenced("drawing the map of a pool", () => this.#draw()),
      delayMs,
    );
    this.#timer.unref();
  }

  #content(): PoolBoard {
    const allocator = this.#allocator;
    const buffers = allocator instanceof MixedMemoryAllocator
      ? allocator.bufferAllocator.stats
      : null;
    return {
      name: this.#name,
      pid: process.pid,
      kind: kindOf(allocator),
      segment: segmentOf(allocator)?.name ?? null,
      updatedMs: Date.now(),
      everyMs: this.#intervalMs,
      stats: allocator.stats,
      buffers: buffers && { objects: buffers.liveObjects, bytes: buffers.usedBytes },
      map: allocator.map({ maxRanges: BOARD_RANGES }),
    };
  }
}

function kindOf(allocator: MemoryAllocator): PoolBoard["kind"] {
  const pool = allocator instanceof MixedMemoryAllocator ? allocator.pinAllocator : allocator;
  if (pool instanceof BufferAllocator) return "buffers";
  return pool instanceof PagedTensorMemoryAllocator ? "pages" : "blocks";
}

function segmentOf(allocator: MemoryAllocator): ShmSegment | undefined {
  const { segment } = allocator as { readonly segment?: unknown };
  return segment instanceof ShmSegment ? segment : undefined;
}

/**
 * Shows the map of a pool in `lmshm dashboard`: which parts are used, pinned, in flight and free. Who may
 * look is this user. It is drawn at once, and again by a timer that does not keep the program alive.
 * @param allocator any of this library; of a MixedMemoryAllocator the pool is drawn, and its buffers
 *   are counted.
 * @throws {ShmError} ENOSPC and others as ShmSegment.create(): 192 KiB of /dev/shm are taken.
 * @throws {TypeError} and {RangeError} for arguments.
 */
export function publishPool(
  allocator: MemoryAllocator,
  options: PublishPoolOptions = {},
): PublishedPool {
  if (typeof allocator?.map !== "function") {
    throw new TypeError(`allocator must be a memory allocator, got ${describe(allocator)}`);
  }
  // checkKnownOptions() narrows the type of what it is given, hence the second variable.
  const given = options;
  checkKnownOptions("publishPool", given, ["name", "intervalMs"]);
  const segment = segmentOf(allocator);
  if (segment?.closed === true) {
    throw new ShmError("the pool is closed", { code: "EBADF", operation: "publish pool" });
  }
  const { name = segment?.name ?? "pool", intervalMs = 1000 } = options;
  if (typeof name !== "string") throw new TypeError(`name must be a string, got ${describe(name)}`);
  if (name === "" || name.length > MAX_NAME) {
    throw new RangeError(`name must have 1 to ${MAX_NAME} characters, got ${name.length}`);
  }
  checkInteger("intervalMs", intervalMs, 100, 3_600_000);
  return new PublishedPool(INTERNAL, allocator, name, intervalMs);
}
