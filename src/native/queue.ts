// SPDX-License-Identifier: Apache-2.0
//
// Waits of this thread's event loop, by liblmshm's queue (see lmshm.h): each gives one event, and is
// then a promise that resolves. What tells the event loop that there are events is the runtime's
// (ffi.ts). As long as somebody waits, the program is kept alive.

import { onExit } from "../at_exit.ts";
import { errnoName, ShmError } from "../errors.ts";
import { ffi, type QueueListener } from "./ffi.ts";
import type { NativeWait } from "./native_segment.ts";
import type { Functions, LMSHM_SYMBOLS } from "./symbols.ts";

type Library = Functions<typeof LMSHM_SYMBOLS>;

/** Byte offsets in struct lmshm_event. */
export const EVENT_LAYOUT = { id: 0, result: 8, reserved: 12 } as const;
export const EVENT_BYTES = 16;
const EVENTS_AT_ONCE = 64;
/** LMSHM_QUEUE_OF_THREAD: a Worker that is terminated runs nothing any more. */
const QUEUE_OF_THREAD = 1;
const MAX_TIMEOUT_MS = 2 ** 32;

/** Starts a wait in a queue: 0, or -errno and there will be no event. */
type Start = (queue: bigint, timeoutMs: bigint, id: bigint) => number;

export class WaitQueue {
  readonly #lib: Library;
  readonly #queue: bigint;
  readonly #listener: QueueListener;
  readonly #waiting = new Map<bigint, (result: number) => void>();
  readonly #events = new Uint8Array(new ArrayBuffer(EVENTS_AT_ONCE * EVENT_BYTES));
  #lastId = 0n;
  #closed = false;

  /** @throws {ShmError} when the system gives no memory or descriptor for it. */
  constructor(lib: Library) {
    const queue = lib.lmshm_queue_open(QUEUE_OF_THREAD);
    if (queue < 0n) {
      const errno = Number(-queue);
      throw new ShmError("no queue", { code: errnoName(errno), errno, operation: "wait" });
    }
    this.#lib = lib;
    this.#queue = queue;
    try {
      this.#listener = ffi.listen(
        {
          fd: () => lib.lmshm_queue_fd(queue),
          ready: (timeoutMs) => lib.lmshm_queue_ready(queue, timeoutMs),
        },
        () => this.#reap(),
      );
    } catch (error) {
      lib.lmshm_queue_close(queue);
      throw error;
    }
    onExit(() => {
      this.#closed = true;
      lib.lmshm_queue_close(queue);
    });
  }

  /** @param timeoutMs at least 0; Infinity for ever. */
  wait(timeoutMs: number, start: Start): NativeWait {
    const id = ++this.#lastId;
    const timeout = BigInt(Math.ceil(Math.min(timeoutMs, MAX_TIMEOUT_MS)));
    const refused = this.#closed ? 0 : start(this.#queue, timeout, id);
    if (refused !== 0) return { ended: Promise.resolve(refused), cancel: () => {} };
    const ended = new Promise<number>((resolve) => this.#waiting.set(id, resolve));
    if (this.#waiting.size === 1 && !this.#closed) this.#listener.start();
    return {
      ended,
      cancel: () => {
        if (!this.#closed) this.#lib.lmshm_queue_cancel(this.#queue, id);
      },
    };
  }

  #reap(): void {
    const view = new DataView(this.#events.buffer);
    for (;;) {
      const count = this.#closed
        ? 0
        : this.#lib.lmshm_queue_reap(this.#queue, this.#events, EVENTS_AT_ONCE);
      for (let at = 0; at < count * EVENT_BYTES; at += EVENT_BYTES) {
        const id = view.getBigUint64(at + EVENT_LAYOUT.id, true);
        this.#waiting.get(id)?.(view.getInt32(at + EVENT_LAYOUT.result, true));
        this.#waiting.delete(id);
      }
      if (count < EVENTS_AT_ONCE) break;
    }
    if (this.#waiting.size === 0) this.#listener.stop();
  }
}
