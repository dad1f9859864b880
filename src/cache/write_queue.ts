// SPDX-License-Identifier: Apache-2.0
//
// The order in which a store is changed. Changes of one key go one after the other, in the order in
// which they came; those of different keys do not wait for each other. There are two kinds:
//
// - Objects that are stored later (add()). The queue holds a reference to each, is bounded by number
//   and bytes, and whoever adds to a full one waits, and keeps its place before later changes of the
//   key. An object that was accepted is stored, made needless by a later change of its key, or
//   reported as failed; none is forgotten. From then on it is what the key has: find().
// - What its caller waits for (enter()): storing an object at once, and removing one. It changes
//   what the key has when it is done, not before. A queued object that it makes needless is held
//   back meanwhile, and stored after all if the change fails.
//
// A change is over when nothing of it can reach the store any more, which may be later than its
// failure: a write that was given up may still be going on.

import { callFenced } from "../fence.ts";
import { ShmError } from "../errors.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import { AllocationQueue } from "./allocation_queue.ts";
import { type Patience, settlesWithin, within } from "../wait.ts";
import { release } from "./local_cpu_backend.ts";

/** An object on its way to the store. */
interface Writing {
  /** Resolves when it is stored; rejects with the reason why not. */
  readonly stored: Promise<unknown>;
  /** Resolves when nobody uses its memory any more. Never rejects. */
  quiet(): Promise<void>;
}

interface WriteQueueOptions {
  /** Stores an object; the queue's reference keeps it until that is over. */
  readonly write: (key: string, obj: TensorMemoryObj) => Writing;
  /** The object is what its key has, from now on. Must not throw. */
  readonly accepted: (key: string, obj: TensorMemoryObj) => void;
  /**
   * An accepted object could not be stored: sees to it that the store has no older one under its
   * key. Resolves to true if it has none. Never rejects.
   */
  readonly invalidate: (key: string) => Promise<boolean>;
  /** Only the store knows what the key has now: drops what else is known. Must not throw. */
  readonly unknown: (key: string) => void;
  /** Objects that are queued, being written, or cleared up after a failure. */
  readonly maxObjects: number;
  /** Bytes of those; a larger object goes alone. */
  readonly maxBytes: number;
  /** Objects that are being written at a time. */
  readonly concurrency: number;
  /** Called for each object that was not stored. */
  readonly onError: ((error: unknown, key: string) => void) | undefined;
}

/** A change that goes on now, because nothing else changes its key. */
export interface Turn {
  /**
   * It is over.
   * @param done whether it was carried out: then what was queued before it is needless.
   * @returns whether there was such an object.
   */
  end(done: boolean): boolean;
}

/** An object that is stored later. */
interface QueuedWrite {
  readonly key: string;
  obj: TensorMemoryObj;
  bytes: number;
  /** Resolves when it is stored, failed or needless. */
  readonly done: Promise<void>;
  readonly finish: () => void;
  /** Its failure was told. */
  reported: boolean;
}

/** Somebody who waits for a turn. */
interface Waiter {
  readonly start: () => void;
}

/** Where an object goes that waits for room. What comes after it waits, too. */
interface Place {
  readonly kept: true;
}

type Change = QueuedWrite | Waiter;

/** The changes of one key. */
interface Lane {
  readonly key: string;
  running: Change | null;
  /** Held back: needless if `running` is done. */
  covered: QueuedWrite | null;
  /** In the order of the calls. */
  waiting: (Change | Place)[];
  /** Those who wait for the end of `running`. */
  ended: PromiseWithResolvers<void> | null;
}

interface Failure {
  readonly key: string;
  readonly error: unknown;
}

/** How many failures keep their errors until they are reported; more are only counted. */
const KEPT_FAILURES = 100;

export class WriteQueue {
  readonly #options: WriteQueueOptions;
  readonly #lanes = new Map<string, Lane>();
  /** In order of arrival. */
  readonly #queued = new Set<QueuedWrite>();
  readonly #writing = new Set<QueuedWrite>();
  /** What follows after failures, and its end. */
  readonly #clearing = new Map<QueuedWrite, Promise<void>>();
  readonly #room = new AllocationQueue<true>();
  #bytes = 0;
  #written = 0;
  #replaced = 0;
  #errors = 0;
  #waits = 0;
  /** Not reported by flush() or close() yet. */
  #failures: Failure[] = [];
  #unreported = 0;
  /** close() has timed out: nothing more is told of any key. */
  #ended = false;

  constructor(options: WriteQueueOptions) {
    this.#options = options;
  }

  /** Objects that are queued, being written, or cleared up after a failure. */
  get size(): number {
    return this.#queued.size + this.#writing.size + this.#clearing.size;
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

  /**
   * The object that the key has, and the store not yet; without a reference for the caller. Null:
   * the store's object is the current one, unless a change is under way (busy()).
   */
  find(key: string): TensorMemoryObj | null {
    const lane = this.#lanes.get(key);
    if (lane === undefined) return null;
    const { running, covered, waiting } = lane;
    const write = waiting.findLast(isWrite) ??
      (running !== null && isWrite(running) ? running : covered);
    return write?.obj ?? null;
  }

  /** Resolves when the change of the key that goes on now is over; null: none does. */
  busy(key: string): Promise<void> | null {
    const lane = this.#lanes.get(key);
    if (lane === undefined || lane.running === null) return null;
    lane.ended ??= Promise.withResolvers<void>();
    return lane.ended.promise;
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
    const lane = this.#laneOf(key);
    const place: Place = { kept: true };
    lane.waiting.push(place);
    try {
      if (this.#room.size === 0 && this.#accept(lane, place, obj) !== null) return;
      this.#waits++;
      await this.#room.wait(() => this.#accept(lane, place, obj), {
        limitMs: timeoutMs,
        signal,
        expired: () => this.#noRoom(key, timeoutMs),
      });
    } catch (error) {
      lane.waiting = lane.waiting.filter((other) => other !== place);
      this.#advance(lane);
      this.#pump();
      throw error;
    } finally {
      release(obj);
    }
  }

  /**
   * Resolves when all earlier changes of the key are over; later ones wait until turn.end().
   * @throws what `expired` makes, the signal's reason. There is no turn then.
   */
  async enter(key: string, patience: Patience): Promise<Turn> {
    patience.signal?.throwIfAborted();
    const lane = this.#laneOf(key);
    const { promise: started, resolve: start } = Promise.withResolvers<void>();
    const waiter: Waiter = { start };
    lane.waiting.push(waiter);
    this.#advance(lane);
    if (lane.running !== waiter) {
      try {
        await within(started, patience);
      } catch (error) {
        if (lane.running === waiter) this.#end(lane, false);
        else lane.waiting = lane.waiting.filter((other) => other !== waiter);
        throw error;
      }
    }
    return { end: (done) => this.#end(lane, done) };
  }

  /** Resolves when what was accepted until now is over. Never rejects. */
  async settled(): Promise<void> {
    await Promise.all([...this.#queued, ...this.#writing].map((write) => write.done));
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
   * Turns away who waits, and ends what is accepted: within `timeoutMs`, else it counts as failed, and
   * its key has what the store has. What is being written then keeps its memory until that is over;
   * nothing is invalidated any more. Nothing may be added any more.
   */
  async close(timeoutMs: number): Promise<void> {
    this.#room.rejectAll(
      new ShmError("the store was closed before there was room", {
        code: "ECANCELED",
        operation: "queue object",
      }),
    );
    const end = performance.now() + timeoutMs;
    const stored = await settlesWithin(this.settled(), timeoutMs);
    if (stored) await settlesWithin(Promise.all(this.#clearing.values()), end - performance.now());
    this.#ended = true;
    const late = [...this.#queued, ...this.#writing, ...this.#clearing.keys()];
    for (const write of [...this.#queued]) this.#drop(write);
    for (const write of late) {
      this.#failed(write, this.#late(timeoutMs));
      this.#options.unknown(write.key);
    }
  }

  #accept(lane: Lane, place: Place, obj: TensorMemoryObj): true | null {
    const bytes = obj.physicalSizeBytes;
    const { maxObjects, maxBytes } = this.#options;
    const fits = this.size < maxObjects && (this.#bytes === 0 || this.#bytes + bytes <= maxBytes);
    if (!fits) return null;
    obj.refCountUp();
    this.#bytes += bytes;
    const { key, waiting } = lane;
    const index = waiting.indexOf(place);
    const before = waiting[index - 1];
    if (before !== undefined && isWrite(before)) {
      waiting.splice(index, 1);
      const older = before.obj;
      this.#bytes -= before.bytes;
      before.obj = obj;
      before.bytes = bytes;
      this.#replaced++;
      release(older);
    } else {
      const { promise, resolve } = Promise.withResolvers<void>();
      const finish = resolve;
      const write: QueuedWrite = { key, obj, bytes, done: promise, finish, reported: false };
      waiting[index] = write;
      this.#queued.add(write);
    }
    this.#options.accepted(key, obj);
    this.#advance(lane);
    this.#pump();
    return true;
  }

  #laneOf(key: string): Lane {
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      lane = { key, running: null, covered: null, waiting: [], ended: null };
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  /** Begins what a caller waits for, before the queued object that it makes needless. */
  #advance(lane: Lane): void {
    if (lane.running !== null) return;
    const [first, second] = lane.waiting;
    if (first === undefined) {
      this.#lanes.delete(lane.key);
    } else if (isWaiter(first)) {
      lane.waiting.shift();
      lane.running = first;
      first.start();
    } else if (isWrite(first) && second !== undefined && isWaiter(second)) {
      lane.waiting.splice(0, 2);
      lane.covered = first;
      lane.running = second;
      second.start();
    }
  }

  #end(lane: Lane, done: boolean): boolean {
    const { covered, ended } = lane;
    lane.running = lane.covered = lane.ended = null;
    if (covered !== null) {
      const [next] = lane.waiting;
      if (done || (next !== undefined && isWrite(next))) {
        this.#replaced++;
        this.#forget(covered);
      } else {
        lane.waiting.unshift(covered);
      }
    }
    ended?.resolve();
    this.#advance(lane);
    this.#pump();
    return covered !== null;
  }

  #pump(): void {
    for (const write of this.#queued) {
      if (this.#writing.size >= this.#options.concurrency) return;
      const lane = this.#lanes.get(write.key)!;
      if (lane.running !== null || lane.waiting[0] !== write) continue;
      lane.waiting.shift();
      lane.running = write;
      this.#queued.delete(write);
      this.#writing.add(write);
      void this.#write(lane, write);
    }
  }

  async #write(lane: Lane, write: QueuedWrite): Promise<void> {
    const { key, obj } = write;
    const writing = this.#options.write(key, obj);
    let failure: { error: unknown } | null = null;
    try {
      await writing.stored;
      this.#written++;
    } catch (error) {
      failure = { error };
    }
    this.#writing.delete(write);
    if (failure === null) {
      this.#end(lane, true);
      this.#letGo(write);
    } else {
      this.#failed(write, failure.error);
      this.#clearing.set(write, this.#clear(lane, write, writing));
    }
    write.finish();
    this.#pump();
  }

  /**
   * After a failure: an older object must not come back. Until that is sure, the key has this one,
   * which takes its room in the queue.
   */
  async #clear(lane: Lane, write: QueuedWrite, writing: Writing): Promise<void> {
    await writing.quiet();
    const cleared = !this.#ended && await this.#options.invalidate(lane.key);
    this.#clearing.delete(write);
    this.#end(lane, true);
    if (!cleared && !this.#ended && this.find(lane.key) === null) this.#options.unknown(lane.key);
    this.#letGo(write);
  }

  #drop(write: QueuedWrite): void {
    const lane = this.#lanes.get(write.key)!;
    if (lane.covered === write) lane.covered = null;
    else lane.waiting = lane.waiting.filter((other) => other !== write);
    this.#forget(write);
    this.#advance(lane);
  }

  #forget(write: QueuedWrite): void {
    this.#queued.delete(write);
    this.#letGo(write);
    write.finish();
  }

  /** The queue has done with the object: there is room again. */
  #letGo(write: QueuedWrite): void {
    this.#bytes -= write.bytes;
    release(write.obj);
    this.#room.wake();
  }

  #failed(write: QueuedWrite, error: unknown): void {
    if (write.reported) return;
    write.reported = true;
    const { key } = write;
    this.#errors++;
    this.#unreported++;
    if (this.#failures.length < KEPT_FAILURES) this.#failures.push({ key, error });
    const { onError } = this.#options;
    // Later, when the books are right again.
    if (onError) queueMicrotask(() => callFenced("onError", onError, error, key));
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

function isWrite(change: Change | Place): change is QueuedWrite {
  return "obj" in change;
}

function isWaiter(change: Change | Place): change is Waiter {
  return "start" in change;
}
