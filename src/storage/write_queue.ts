// SPDX-License-Identifier: Apache-2.0
//
// Objects that are stored later. The queue holds a reference to each, is bounded by number and
// bytes, and whoever adds to a full one waits. An object that was accepted is stored, replaced by a
// newer one of its key, cancelled by removing its key, or reported as failed; none is forgotten.
//
// It is a queue by key: two writes of one key never overlap, and the last one wins.

import { ShmError } from "../errors.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import { settlesWithin } from "../worker/transport.ts";
import { AllocationQueue } from "./allocation_queue.ts";
import { release } from "./local_cpu_backend.ts";

export interface WriteQueueOptions {
  /** Stores an object; the queue's reference keeps it until then. */
  readonly write: (key: string, obj: TensorMemoryObj) => Promise<void>;
  /** Objects that are queued or being written. */
  readonly maxObjects: number;
  /** Bytes of those; a larger object goes alone. */
  readonly maxBytes: number;
  /** Objects that are being written at a time. */
  readonly concurrency: number;
  /** Called for each object that was not stored. */
  readonly onError: ((error: unknown, key: string) => void) | undefined;
}

interface Entry {
  readonly key: string;
  obj: TensorMemoryObj;
  bytes: number;
  /** Resolves when it is stored, failed or cancelled. */
  readonly done: Promise<void>;
  readonly finish: () => void;
}

interface Failure {
  readonly key: string;
  readonly error: unknown;
}

/** How many failures keep their errors until they are reported; more are only counted. */
const KEPT_FAILURES = 100;

export class WriteQueue {
  readonly #options: WriteQueueOptions;
  /** In order of arrival. */
  readonly #queued = new Map<string, Entry>();
  readonly #writing = new Map<string, Entry>();
  readonly #room = new AllocationQueue<true>();
  #bytes = 0;
  #written = 0;
  #replaced = 0;
  #errors = 0;
  #waits = 0;
  /** Not reported by flush() or close() yet. */
  #failures: Failure[] = [];
  #unreported = 0;

  constructor(options: WriteQueueOptions) {
    this.#options = options;
  }

  /** Objects that are queued or being written. */
  get size(): number {
    return this.#queued.size + this.#writing.size;
  }

  /** Bytes of those. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Calls of add() that wait now. */
  get waiting(): number {
    return this.#room.size;
  }

  get counts(): { written: number; replaced: number; errors: number; waits: number } {
    return {
      written: this.#written,
      replaced: this.#replaced,
      errors: this.#errors,
      waits: this.#waits,
    };
  }

  /** The object that will be under the key; without a reference for the caller. */
  find(key: string): TensorMemoryObj | null {
    return (this.#queued.get(key) ?? this.#writing.get(key))?.obj ?? null;
  }

  /**
   * Resolves when the queue has accepted the object.
   * @throws {ShmError} ETIMEDOUT when there was no room, ECANCELED when it is closed meanwhile; the
   *   signal's reason. It was not accepted then.
   */
  async add(
    key: string,
    obj: TensorMemoryObj,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    signal?.throwIfAborted();
    // While it waits, its caller may have released it.
    obj.refCountUp();
    try {
      if (this.#room.size === 0 && this.#accept(key, obj) !== null) return;
      this.#waits++;
      await this.#room.wait(() => this.#accept(key, obj), {
        timeoutMs,
        signal,
        expired: () => this.#noRoom(key, timeoutMs),
      });
    } finally {
      release(obj);
    }
  }

  /** Forgets the object if it is queued; waits for its end if it is being written. */
  async cancel(key: string): Promise<boolean> {
    const queued = this.#queued.get(key);
    if (queued !== undefined) this.#drop(queued);
    const writing = this.#writing.get(key);
    await writing?.done;
    return queued !== undefined || writing !== undefined;
  }

  /** Resolves when what was accepted until now is over. Never rejects. */
  async settled(): Promise<void> {
    await Promise.all([...this.#queued.values(), ...this.#writing.values()].map((e) => e.done));
  }

  /**
   * Throws what has failed since it was called last, as one error.
   * @throws {ShmError} with the first failure's code, and as its cause; details.keys are the keys.
   */
  throwFailures(operation: string): void {
    const failures = this.#failures;
    const count = this.#unreported;
    this.#failures = [];
    this.#unreported = 0;
    if (count === 0) return;
    const { key, error } = failures[0]!;
    const text = error instanceof Error ? error.message : String(error);
    throw new ShmError(
      `${count} ${count === 1 ? "object was" : "objects were"} not stored; the first is ` +
        `${key.slice(0, 120)}: ${text}`,
      {
        code: error instanceof ShmError ? error.code : "EIO",
        operation,
        hint: "Put them again when the cause is repaired",
        details: { count, keys: failures.map((failure) => failure.key) },
        cause: error,
      },
    );
  }

  /**
   * Turns away who waits, and ends what is accepted: within `timeoutMs`, else it counts as failed.
   * What is being written then keeps its memory until that is over. Nothing may be added any more.
   */
  async close(timeoutMs: number): Promise<void> {
    this.#room.rejectAll(
      new ShmError("the store was closed before there was room", {
        code: "ECANCELED",
        operation: "queue object",
      }),
    );
    if (await settlesWithin(this.settled(), timeoutMs)) return;
    for (const entry of [...this.#queued.values()]) {
      this.#drop(entry);
      this.#failed(entry.key, this.#late(timeoutMs));
    }
    for (const entry of this.#writing.values()) this.#failed(entry.key, this.#late(timeoutMs));
  }

  #accept(key: string, obj: TensorMemoryObj): true | null {
    const bytes = obj.physicalSizeBytes;
    const { maxObjects, maxBytes } = this.#options;
    const fits = this.size < maxObjects && (this.#bytes === 0 || this.#bytes + bytes <= maxBytes);
    if (!fits) return null;
    obj.refCountUp();
    this.#bytes += bytes;
    const queued = this.#queued.get(key);
    if (queued === undefined) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#queued.set(key, { key, obj, bytes, done: promise, finish: resolve });
    } else {
      const older = queued.obj;
      this.#bytes -= queued.bytes;
      queued.obj = obj;
      queued.bytes = bytes;
      this.#replaced++;
      release(older);
    }
    this.#pump();
    return true;
  }

  #pump(): void {
    for (const entry of this.#queued.values()) {
      if (this.#writing.size >= this.#options.concurrency) return;
      if (this.#writing.has(entry.key)) continue;
      this.#queued.delete(entry.key);
      this.#writing.set(entry.key, entry);
      void this.#write(entry);
    }
  }

  async #write(entry: Entry): Promise<void> {
    const { key, obj } = entry;
    let failure: { error: unknown } | null = null;
    try {
      await this.#options.write(key, obj);
      this.#written++;
    } catch (error) {
      failure = { error };
    }
    this.#writing.delete(key);
    this.#bytes -= entry.bytes;
    try {
      release(obj);
    } catch (error) {
      failure ??= { error };
    }
    if (failure !== null) this.#failed(key, failure.error);
    entry.finish();
    this.#room.wake();
    this.#pump();
  }

  #drop(entry: Entry): void {
    this.#queued.delete(entry.key);
    this.#bytes -= entry.bytes;
    release(entry.obj);
    entry.finish();
    this.#room.wake();
  }

  #failed(key: string, error: unknown): void {
    this.#errors++;
    this.#unreported++;
    if (this.#failures.length < KEPT_FAILURES) this.#failures.push({ key, error });
    const { onError } = this.#options;
    // Later, so that what it throws does not interrupt the work here.
    if (onError) queueMicrotask(() => onError(error, key));
  }

  #noRoom(key: string, timeoutMs: number): ShmError {
    const { maxObjects, maxBytes } = this.#options;
    return new ShmError(
      `the write queue was full for ${timeoutMs} ms: ${this.size} objects of ${maxObjects}, ` +
        `${this.#bytes} bytes of ${maxBytes}`,
      {
        code: "ETIMEDOUT",
        operation: `put ${key.slice(0, 120)}`,
        hint: "The store is slower than its writers; raise the limits, or put fewer objects",
        details: { objects: this.size, maxObjects, bytes: this.#bytes, maxBytes, timeoutMs },
      },
    );
  }

  #late(timeoutMs: number): ShmError {
    return new ShmError(`the object was not stored within ${timeoutMs} ms of closing`, {
      code: "ETIMEDOUT",
      operation: "close",
      hint: "Raise closeTimeoutMs, or call flush() before",
      details: { timeoutMs },
    });
  }
}
