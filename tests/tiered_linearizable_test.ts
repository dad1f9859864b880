// SPDX-License-Identifier: Apache-2.0
//
// TieredStore: whatever several callers put, get, remove and load ahead at the same time, over a
// store whose calls are late, come out of order and fail, each sees values that one order of all
// operations explains. Objects are replaced all the time.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ShmError } from "../src/errors.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { CACHE_POLICIES } from "../src/cache/cache_policy.ts";
import { layoutMetadata } from "../src/connector/chunk_metadata.ts";
import type { Key } from "../src/keys/key.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import type { CallOptions, LoadedObject, PutOptions } from "../src/connector/remote_connector.ts";
import { type TieredPutOptions, TieredStore } from "../src/cache/tiered_store.ts";
import { effort } from "./support/effort.ts";
import { withoutLeaks } from "./support/leaks.ts";
import { describeHistory, isLinearizable, type Operation } from "./support/linearizable.ts";
import { MemoryConnector } from "./support/memory_connector.ts";
import { CHUNK, isFilled, PAGE } from "./support/tiered_scene.ts";
import { randomNumbers } from "./support/traces.ts";

const KEYS = ["a", "b"];
const HALF = { ...CHUNK, dtype: "half" } as const;

/** What an object looks like follows from its value, so that a get of the other layout is a miss. */
function layoutOf(value: number): typeof CHUNK | typeof HALF {
  return value % 4 === 3 ? HALF : CHUNK;
}

type Step =
  | { do: "put"; key: number; mode: "through" | "behind"; abort: boolean }
  | { do: "put if absent"; key: number; abort: boolean }
  | { do: "put twice"; key: number; mode: "through" | "behind" }
  | { do: "get"; key: number; half: boolean; keep: boolean }
  | { do: "get all" }
  | { do: "exists"; key: number }
  | { do: "remove"; key: number }
  | { do: "prefetch" }
  | { do: "flush" }
  | { do: "evict" };

const key = fc.nat(KEYS.length - 1);
const mode = fc.constantFrom("through" as const, "behind" as const);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("put" as const), key, mode, abort: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant("put if absent" as const), key, abort: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("put twice" as const), key, mode }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("get" as const),
      key,
      half: fc.boolean(),
      keep: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("get all" as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("exists" as const), key }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("remove" as const), key }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("prefetch" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("flush" as const) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("evict" as const) }) },
);

const program = fc.record({
  seed: fc.nat(0xffff_ffff),
  failing: fc.boolean(),
  policy: fc.constantFrom(...CACHE_POLICIES),
  hotTier: fc.constantFrom(true, true, true, false),
  writeConcurrency: fc.integer({ min: 1, max: 3 }),
  maxQueuedObjects: fc.integer({ min: 1, max: 4 }),
  lanes: fc.array(fc.array(step, { maxLength: 12, size: "max" }), { minLength: 1, maxLength: 4 }),
});
type Program = typeof program extends fc.Arbitrary<infer T> ? T : never;

function broken(what: string): ShmError {
  return new ShmError("broken", { code: "EIO", operation: what });
}

/** Its calls take any time, and some fail: before they have done anything, or afterwards. */
class UnrulyConnector extends MemoryConnector {
  failing = false;
  /** Called for a write behind that fails, and with what is under its key after it was cleared. */
  onLost: (key: string, value: number) => void = () => {};
  onNotCleared: (key: string, value: number | null) => void = () => {};
  readonly #pause: () => Promise<void>;
  readonly #chance: (oneIn: number) => boolean;
  readonly late = new Set<Promise<unknown>>();

  constructor(pause: () => Promise<void>, chance: (oneIn: number) => boolean) {
    super();
    this.#pause = pause;
    this.#chance = chance;
  }

  override async load(
    key: Key,
    into?: ShmRange,
    options: CallOptions = {},
  ): Promise<LoadedObject | null> {
    const release = into!.hold("load");
    try {
      await this.#pause();
      const found = await super.load(key, into, options);
      await this.#pause();
      if (this.#fails()) throw broken("load");
      return found;
    } finally {
      release();
    }
  }

  override async put(key: Key, range: ShmRange, options: PutOptions = {}): Promise<boolean> {
    const value = range.segment.bytes(range.offset, 1)[0]!;
    const behind = options.priority === "low";
    const release = range.hold("put");
    let held = true;
    try {
      await this.#pause();
      const fails = this.#fails() || options.signal?.aborted === true;
      if (fails && behind) this.onLost(`${key}`, value);
      if (fails && this.#chance(3)) throw broken("put");
      if (fails && this.#chance(2)) {
        // Given up, and carried out later all the same.
        held = false;
        const late = this.#pause().then(() => super.put(key, range, options)).finally(release);
        this.late.add(late);
        throw broken("put");
      }
      const stored = await super.put(key, range, options);
      await this.#pause();
      if (fails) throw broken("put");
      return stored;
    } finally {
      if (held) release();
    }
  }

  override async remove(key: Key, options: CallOptions = {}): Promise<boolean> {
    await this.#pause();
    const fails = this.#fails();
    if (fails && options.priority === "low") {
      this.onNotCleared(`${key}`, this.objects.get(`${key}`)?.[0] ?? null);
    }
    if (fails && (options.priority === "low" || this.#chance(2))) throw broken("remove");
    const removed = await super.remove(key);
    await this.#pause();
    if (fails) throw broken("remove");
    return removed;
  }

  override async exists(key: Key): Promise<boolean> {
    await this.#pause();
    const there = await super.exists(key);
    await this.#pause();
    return there;
  }

  #fails(): boolean {
    return this.failing && this.#chance(4);
  }
}

async function run(program: Program): Promise<void> {
  const { seed, failing, policy, hotTier, writeConcurrency, maxQueuedObjects, lanes } = program;
  const random = randomNumbers(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const pause = async () => {
    for (let hops = below(12); hops > 0; hops--) await Promise.resolve();
    // Some take as long as many others together.
    const turns = below(3) > 0 ? 0 : below(3) > 0 ? 1 : below(12);
    for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  using segment = ShmSegment.createSync({ sizeBytes: 64 * PAGE, pin: "none" });
  const pool = new TensorMemoryAllocator(segment);
  await using hot = new LocalCpuBackend({ allocator: pool, cachePolicy: policy, hotTier });
  const cold = new UnrulyConnector(pause, (oneIn) => below(oneIn) === 0);
  const store = new TieredStore({ hot, cold, writeConcurrency, maxQueuedObjects });

  let clock = 0;
  const histories = new Map(KEYS.map((name) => [name, [] as Operation[]]));
  const note = (name: string, operation: Operation) => histories.get(name)!.push(operation);
  // What was stored before all this.
  let lastValue = KEYS.length;
  for (const [index, name] of KEYS.entries()) {
    cold.objects.set(name, new Uint8Array(PAGE).fill(1 + index));
    cold.metadata.set(name, layoutMetadata(TensorLayout.of(CHUNK)));
  }
  const newChunk = (value: number): TensorMemoryObj => {
    const { shape, dtype, format } = layoutOf(value);
    const obj = hot.tryAllocate({ shape, dtype, format })!;
    obj.bytes.fill(value);
    return obj;
  };
  cold.onLost = (name, value) =>
    note(name, {
      what: `${value} is lost`,
      start: clock++,
      end: Infinity,
      apply: (state) => state === value ? null : undefined,
    });
  cold.onNotCleared = (name, older) => {
    const lost = lastValue;
    note(name, {
      what: `${older} is back`,
      start: clock++,
      end: Infinity,
      // Of a value that was put by then and lost; which one, the operations above know.
      apply: (state) => state === null || state <= lost ? older : undefined,
    });
  };
  /** @param apply what it makes of the state, given what came of it; null: it failed */
  const change = async <T>(
    name: string,
    what: string,
    work: () => Promise<T>,
    apply: (state: number | null, result: T | null) => number | null | undefined,
  ) => {
    const start = clock++;
    const result = await work().catch((error) => {
      if (error instanceof ShmError && error.code === "EIO") return null;
      if (error instanceof Error && error.message === "changed my mind") return null;
      throw error;
    });
    note(name, {
      what: `${what} ${result === null ? "failed" : `= ${result}`}`,
      start,
      end: result === null ? Infinity : clock++,
      apply: (state) => apply(state, result),
    });
  };
  const see = (name: string, half: boolean, start: number, seen: number | null) =>
    note(name, {
      what: `get${half ? " half" : ""} = ${seen}`,
      start,
      end: clock++,
      apply: (state) => {
        const fits = state === null || (layoutOf(state) === HALF) === half;
        return (fits ? state : null) === seen ? state : undefined;
      },
    });
  const valueOf = (obj: TensorMemoryObj | null): number | null => {
    if (obj === null) return null;
    assert.ok(isFilled(obj, obj.bytes[0]!), "bytes of two objects");
    return obj.bytes[0]!;
  };
  const getOne = async (name: string, half: boolean, keep: boolean) => {
    const start = clock++;
    try {
      using obj = await store.get(name, half ? HALF : CHUNK);
      const seen = valueOf(obj);
      see(name, half, start, seen);
      if (!keep) return;
      await pause();
      await pause();
      assert.equal(valueOf(obj), seen, "it changed under its reader");
    } catch (error) {
      if (!(error instanceof ShmError && error.code === "EIO")) throw error;
    }
  };
  const putOne = async (name: string, abort: boolean, options: TieredPutOptions) => {
    const value = ++lastValue;
    using obj = newChunk(value);
    const controller = new AbortController();
    const { signal } = controller;
    if (abort && failing) void pause().then(() => controller.abort(new Error("changed my mind")));
    const { writeMode, ifAbsent = false } = options;
    await change(
      name,
      `put ${writeMode} ${value}${ifAbsent ? " if absent" : ""}`,
      () => store.put(name, obj, { ...options, signal }),
      (state, stored) => {
        if (!ifAbsent) return value;
        if (stored !== null && stored !== (state === null)) return undefined;
        return state ?? value;
      },
    );
  };

  const lane = async (steps: readonly Step[]) => {
    for (const one of steps) {
      await pause();
      const name = "key" in one ? KEYS[one.key]! : "";
      switch (one.do) {
        case "put":
          await putOne(name, one.abort, { writeMode: one.mode });
          break;
        case "put if absent":
          await putOne(name, one.abort, { writeMode: "through", ifAbsent: true });
          break;
        case "put twice": {
          const values = [++lastValue, ++lastValue];
          const objs = values.map(newChunk);
          const start = clock++;
          const ok = await store.batchedPut([name, name], objs, { writeMode: one.mode })
            .then(() => true, () => false);
          for (const obj of objs) obj.refCountDown();
          // The first one may have been seen in between.
          values.forEach((value, i) => {
            const end = ok ? (i === 0 ? clock : clock++) : Infinity;
            note(name, {
              what: `put ${one.mode} ${value} of two${ok ? "" : ", one failed"}`,
              start,
              end,
              apply: (state) => ok && i === 0 && state === values[1] ? state : value,
            });
          });
          break;
        }
        case "get":
          await getOne(name, one.half, one.keep);
          break;
        case "get all": {
          const start = clock++;
          const found = await store.batchedGet(KEYS, CHUNK).catch(() => null);
          if (found === null) break;
          KEYS.forEach((each, i) => see(each, false, start, valueOf(found[i]!)));
          for (const obj of found) obj?.refCountDown();
          break;
        }
        case "exists": {
          const start = clock++;
          const there = await store.exists(name);
          note(name, {
            what: `exists = ${there}`,
            start,
            end: clock++,
            apply: (state) => (state !== null) === there ? state : undefined,
          });
          break;
        }
        case "remove":
          await change(name, "remove", () => store.remove(name), () => null);
          break;
        case "prefetch":
          await store.prefetch(KEYS, CHUNK).catch(() => {});
          break;
        case "flush":
          await store.flush().catch(() => {});
          break;
        case "evict":
          hot.clear();
          break;
      }
      hot.memcheck();
    }
  };
  cold.failing = failing;
  await Promise.all(lanes.map(lane));
  await store.flush().catch(() => {});
  cold.failing = false;
  await Promise.allSettled(cold.late);
  // Twice: from wherever it is, and from the store.
  for (const _ of ["pool", "store"]) {
    for (const name of KEYS) {
      await getOne(name, false, false);
      await getOne(name, true, false);
    }
    hot.clear();
  }
  for (const [index, name] of KEYS.entries()) {
    const history = histories.get(name)!;
    assert.ok(isLinearizable(history, 1 + index), `key ${name}:\n${describeHistory(history)}`);
  }
  await store.close().catch(() => {});
  hot.clear();
  assert.equal(pool.stats.liveObjects, 0, "references that were left behind");
}

test("the search tells possible histories from impossible ones", () => {
  const put = (value: number, start: number, end: number): Operation => ({
    what: `put ${value}`,
    start,
    end,
    apply: () => value,
  });
  const get = (value: number | null, start: number, end: number): Operation => ({
    what: `get ${value}`,
    start,
    end,
    apply: (state) => state === value ? state : undefined,
  });
  assert.ok(isLinearizable([put(1, 0, 3), get(null, 1, 2)], null));
  assert.ok(isLinearizable([put(1, 0, 3), get(1, 1, 2)], null));
  assert.ok(!isLinearizable([put(1, 0, 1), get(null, 2, 3)], null));
  assert.ok(!isLinearizable([put(1, 0, 5), get(1, 1, 2), get(null, 3, 4)], null));
  assert.ok(!isLinearizable([put(1, 0, 1), put(2, 2, 3), get(1, 4, 5)], null));
  assert.ok(isLinearizable([put(1, 0, 3), put(2, 1, 2), get(1, 4, 5)], null));
  assert.ok(isLinearizable([put(1, 0, 1), put(2, 2, Infinity), get(1, 4, 5), get(2, 6, 7)], null));
  assert.ok(!isLinearizable([put(2, 2, Infinity), get(2, 4, 5), get(null, 6, 7)], null));
});

test("tiered store: every get is linearizable, whatever is replaced and fails around it", {
  timeout: 600_000,
}, () =>
  withoutLeaks(async () => {
    await fc.assert(fc.asyncProperty(program, run), {
      numRuns: effort(500, 2000),
      endOnFailure: false,
    });
  }));
