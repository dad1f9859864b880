// SPDX-License-Identifier: Apache-2.0
//
// Loads that several callers share: while an object is being loaded, whoever else wants it waits
// for the same load. Each gets a reference of its own, or gives up on its own.
//
// A load that began before its object was replaced or removed may bring the old one: it is overtaken
// then, and who waits for it must look again.

import { ShmError } from "../errors.ts";
import type { TensorMemoryObj } from "../memory/memory_obj.ts";
import type { TensorLayout } from "../memory/tensor_layout.ts";
import { release } from "./local_cpu_backend.ts";
import { watch } from "../wait.ts";
import type { CallOptions, Priority } from "../connector/remote_connector.ts";

/** A load as the one who carries it out sees it. */
export interface Load {
  readonly key: string;
  readonly layout: TensorLayout;
  /** That of the first who wanted it. */
  readonly priority: Priority | undefined;
  /** The object has changed meanwhile: what is loaded is nobody's any more. */
  readonly stale: boolean;
}

/** Instead of an object that may be out of date. */
export const OVERTAKEN: unique symbol = Symbol("overtaken");
export type Loaded = TensorMemoryObj | null | typeof OVERTAKEN;

interface Waiter {
  resolve(loaded: Loaded): void;
  reject(reason: unknown): void;
}

/** A look at what the store has under a key, which loads nothing. */
interface Glance {
  /** The object may have changed meanwhile. */
  readonly overtaken: boolean;
}

interface OwnLoad extends Load {
  stale: boolean;
  readonly waiters: Set<Waiter>;
}

export class SharedLoads {
  readonly #fetch: (load: Load) => Promise<TensorMemoryObj | null>;
  readonly #byKey = new Map<string, OwnLoad>();
  readonly #running = new Set<Promise<void>>();
  readonly #glances = new Map<string, Set<{ overtaken: boolean }>>();
  #started = 0;
  #shared = 0;
  #discarded = 0;

  /** @param fetch gives the object with one reference, or null when there is none. */
  constructor(fetch: (load: Load) => Promise<TensorMemoryObj | null>) {
    this.#fetch = fetch;
  }

  /** Loads that go on now. */
  get running(): number {
    return this.#running.size;
  }

  get started(): number {
    return this.#started;
  }

  /** Calls of get() that waited for the load of another one. */
  get shared(): number {
    return this.#shared;
  }

  /** Calls of discard(). */
  get discarded(): number {
    return this.#discarded;
  }

  /** The layout in which it is being loaded now; null: it is not. */
  layoutOf(key: string): TensorLayout | null {
    return this.#byKey.get(key)?.layout ?? null;
  }

  /**
   * The object with a reference for the caller, null, or OVERTAKEN. A caller who gives up does not
   * end the load.
   * @throws what the load threw; {ShmError} ETIMEDOUT; the signal's reason.
   */
  get(key: string, layout: TensorLayout, options: CallOptions): Promise<Loaded> {
    const { signal, timeoutMs = Infinity } = options;
    if (typeof timeoutMs !== "number" || !(timeoutMs > 0)) {
      return Promise.reject(new RangeError(`timeoutMs must be more than 0, got ${timeoutMs}`));
    }
    if (signal?.aborted) return Promise.reject(signal.reason);
    const present = this.#byKey.get(key);
    if (present) this.#shared++;
    const load = present ?? this.#start(key, layout, options.priority);
    return new Promise((resolve, reject) => {
      const end = () => {
        stop();
        load.waiters.delete(waiter);
      };
      const waiter: Waiter = {
        resolve: (loaded) => {
          end();
          resolve(loaded);
        },
        reject: (reason) => {
          end();
          reject(reason);
        },
      };
      const expired = () => timedOut(key, timeoutMs);
      const stop = watch(
        { limitMs: timeoutMs, signal, expired },
        (reason) => waiter.reject(reason),
      );
      load.waiters.add(waiter);
    });
  }

  /** What is being loaded under that key may not be the object any more. */
  discard(key: string): void {
    this.#discarded++;
    for (const glance of this.#glances.get(key) ?? []) glance.overtaken = true;
    const load = this.#byKey.get(key);
    if (load === undefined) return;
    load.stale = true;
    this.#byKey.delete(key);
    for (const waiter of [...load.waiters]) waiter.resolve(OVERTAKEN);
  }

  /** What `look` gives, and whether discard() was called for the key meanwhile. */
  async glance<T>(key: string, look: () => Promise<T>): Promise<Glance & { readonly seen: T }> {
    const glance = { overtaken: false };
    let others = this.#glances.get(key);
    if (others === undefined) this.#glances.set(key, others = new Set());
    others.add(glance);
    try {
      const seen = await look();
      return { seen, overtaken: glance.overtaken };
    } finally {
      others.delete(glance);
      if (others.size === 0) this.#glances.delete(key);
    }
  }

  /** Resolves when the loads that go on now are over. */
  async settled(): Promise<void> {
    await Promise.all(this.#running);
  }

  #start(key: string, layout: TensorLayout, priority: Priority | undefined): OwnLoad {
    const load: OwnLoad = { key, layout, priority, stale: false, waiters: new Set() };
    this.#byKey.set(key, load);
    this.#started++;
    const running = this.#run(load).finally(() => this.#running.delete(running));
    this.#running.add(running);
    return load;
  }

  async #run(load: OwnLoad): Promise<void> {
    let obj: TensorMemoryObj | null = null;
    let failure: { error: unknown } | null = null;
    try {
      obj = await this.#fetch(load);
    } catch (error) {
      failure = { error };
    }
    if (this.#byKey.get(load.key) === load) this.#byKey.delete(load.key);
    for (const waiter of [...load.waiters]) {
      if (failure !== null) {
        waiter.reject(failure.error);
      } else if (obj === null) {
        waiter.resolve(null);
      } else {
        obj.refCountUp();
        waiter.resolve(obj);
      }
    }
    if (obj !== null) release(obj);
  }
}

function timedOut(key: string, timeoutMs: number): ShmError {
  return new ShmError(`the object was not there within ${timeoutMs} ms`, {
    code: "ETIMEDOUT",
    operation: `get ${key.slice(0, 120)}`,
    hint: "The load goes on; a later call may find the object in the hot tier",
    details: { timeoutMs },
  });
}
