// SPDX-License-Identifier: Apache-2.0
//
// Eviction policies: each against a naive model that sorts and searches arrays, under random
// sequences of events with entries in use; that entries in use cost no repeated searches; and what
// each policy is for.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  CACHE_POLICIES,
  CacheEntry,
  type CachePolicy,
  type CachePolicyName,
  createCachePolicy,
  parseCachePolicy,
} from "../src/cache/cache_policy.ts";
import { CACHE_POLICY_NAMES } from "../src/config/config.ts";
import { hitRatio, mixedTrace, zipfTrace } from "./support/traces.ts";

/** An entry as the models see it. */
interface ModelEntry {
  readonly key: string;
  readonly sizeBytes: number;
  rank: number;
  uses: number;
  /** Refused, and not readmitted since. */
  aside: boolean;
}

interface Model {
  put(key: string, sizeBytes: number): void;
  hit(key: string): void;
  remove(key: string): void;
  replace(key: string, sizeBytes: number): void;
  evict(canEvict: (key: string) => boolean): string | null;
  readmit(key: string): void;
}

/** Looks at all entries for each eviction. */
class SortingModel implements Model {
  #entries: ModelEntry[] = [];
  #lastRank = 0;
  readonly #renewOnHit: boolean;
  readonly #order: (a: ModelEntry, b: ModelEntry) => number;

  constructor(renewOnHit: boolean, order: (a: ModelEntry, b: ModelEntry) => number) {
    this.#renewOnHit = renewOnHit;
    this.#order = order;
  }

  put(key: string, sizeBytes: number): void {
    this.#entries.push({ key, sizeBytes, rank: ++this.#lastRank, uses: 1, aside: false });
  }

  hit(key: string): void {
    const entry = this.#entries.find((candidate) => candidate.key === key)!;
    entry.uses++;
    if (this.#renewOnHit) entry.rank = ++this.#lastRank;
  }

  remove(key: string): void {
    this.#entries = this.#entries.filter((entry) => entry.key !== key);
  }

  replace(key: string, sizeBytes: number): void {
    const { uses } = this.#entries.find((candidate) => candidate.key === key)!;
    this.remove(key);
    const rank = ++this.#lastRank;
    this.#entries.push({ key, sizeBytes, rank, uses: uses + 1, aside: false });
  }

  evict(canEvict: (key: string) => boolean): string | null {
    const entry = this.#entries.filter(({ key }) => canEvict(key)).sort(this.#order)[0];
    if (entry === undefined) return null;
    this.remove(entry.key);
    return entry.key;
  }

  readmit(): void {}
}

/** The paper's two queues and its list of ghosts as arrays, oldest first. */
class S3FifoModel implements Model {
  #small: ModelEntry[] = [];
  #main: ModelEntry[] = [];
  #ghosts: string[] = [];

  put(key: string, sizeBytes: number): void {
    const known = this.#ghosts.includes(key);
    this.#ghosts = this.#ghosts.filter((ghost) => ghost !== key);
    const entry = { key, sizeBytes, rank: 0, uses: 0, aside: false };
    (known ? this.#main : this.#small).push(entry);
  }

  hit(key: string): void {
    const entry = this.#find(key);
    entry.uses = Math.min(3, entry.uses + 1);
  }

  remove(key: string): void {
    this.#small = this.#small.filter((entry) => entry.key !== key);
    this.#main = this.#main.filter((entry) => entry.key !== key);
  }

  replace(key: string, sizeBytes: number): void {
    const { uses } = this.#find(key);
    const queue = this.#small.some((entry) => entry.key === key) ? "small" : "main";
    this.remove(key);
    const entry = { key, sizeBytes, rank: 0, uses: Math.min(3, uses + 1), aside: false };
    (queue === "small" ? this.#small : this.#main).push(entry);
  }

  evict(canEvict: (key: string) => boolean): string | null {
    for (;;) {
      const bytes = (queue: ModelEntry[]) => queue.reduce((sum, entry) => sum + entry.sizeBytes, 0);
      const small = this.#small.find((entry) => !entry.aside);
      const main = this.#main.find((entry) => !entry.aside);
      const smallFirst = bytes(this.#small) >= 0.1 * (bytes(this.#small) + bytes(this.#main));
      const entry = smallFirst ? small ?? main : main ?? small;
      if (entry === undefined) return null;
      if (entry === small && entry.uses > 1) {
        this.remove(entry.key);
        this.#main.push({ ...entry, uses: 0 });
      } else if (entry === main && entry.uses > 0) {
        this.remove(entry.key);
        this.#main.push({ ...entry, uses: entry.uses - 1 });
      } else if (!canEvict(entry.key)) {
        entry.aside = true;
      } else {
        this.remove(entry.key);
        if (entry === small) {
          this.#ghosts.push(entry.key);
          const limit = Math.ceil(0.9 * (this.#small.length + this.#main.length + 1));
          while (this.#ghosts.length > limit) this.#ghosts.shift();
        }
        return entry.key;
      }
    }
  }

  readmit(key: string): void {
    this.#find(key).aside = false;
  }

  #find(key: string): ModelEntry {
    return [...this.#small, ...this.#main].find((entry) => entry.key === key)!;
  }
}

const MODELS: Record<CachePolicyName, () => Model> = {
  LRU: () => new SortingModel(true, (a, b) => a.rank - b.rank),
  FIFO: () => new SortingModel(false, (a, b) => a.rank - b.rank),
  MRU: () => new SortingModel(true, (a, b) => b.rank - a.rank),
  LFU: () => new SortingModel(true, (a, b) => a.uses - b.uses || a.rank - b.rank),
  S3FIFO: () => new S3FifoModel(),
};

type Event =
  | readonly ["use" | "remove" | "replace" | "occupy" | "release", number]
  | readonly ["evict", number];

/** Few keys, so that keys come back after eviction, and many evictions. */
const events = fc.array(
  fc.oneof(
    { weight: 8, arbitrary: fc.tuple(fc.constant("use" as const), fc.nat(24)) },
    { weight: 4, arbitrary: fc.tuple(fc.constant("evict" as const), fc.nat(2)) },
    { weight: 2, arbitrary: fc.tuple(fc.constant("occupy" as const), fc.nat(24)) },
    { weight: 3, arbitrary: fc.tuple(fc.constant("release" as const), fc.nat(24)) },
    { weight: 1, arbitrary: fc.tuple(fc.constant("remove" as const), fc.nat(24)) },
    { weight: 3, arbitrary: fc.tuple(fc.constant("replace" as const), fc.nat(24)) },
  ),
  { maxLength: 300, size: "max" },
);

/** A policy and its model, side by side. */
class Pair {
  readonly #policy: CachePolicy;
  readonly #model: Model;
  readonly #entries = new Map<string, CacheEntry>();
  readonly #inUse = new Set<string>();

  constructor(name: CachePolicyName) {
    this.#policy = createCachePolicy(name);
    this.#model = MODELS[name]();
  }

  apply([event, number]: Event): void {
    const key = `key ${number}`;
    const entry = this.#entries.get(key);
    if (event === "evict") {
      for (let i = 0; i <= number; i++) this.#evict();
    } else if (event === "use" && entry === undefined) {
      const added = new CacheEntry(key, 1 + number % 7);
      this.#entries.set(key, added);
      this.#policy.onPut(added);
      this.#model.put(key, added.sizeBytes);
    } else if (entry === undefined) {
      return;
    } else if (event === "use") {
      this.#policy.onHit(entry);
      this.#model.hit(key);
    } else if (event === "occupy") {
      this.#inUse.add(key);
    } else if (event === "release") {
      this.#inUse.delete(key);
      this.#policy.readmit(entry);
      this.#model.readmit(key);
    } else if (event === "replace") {
      // Of another size, and not in use, whoever uses the old one.
      const added = new CacheEntry(key, 1 + (number + 3) % 7);
      this.#policy.onReplace(entry, added);
      this.#entries.set(key, added);
      this.#inUse.delete(key);
      this.#model.replace(key, added.sizeBytes);
      assert.equal(entry.home, null);
    } else {
      this.#policy.onRemove(entry);
      this.#model.remove(key);
      this.#forget(key);
    }
    assert.equal(this.#policy.size, this.#entries.size);
  }

  /** Evicts everything that can be, and then the rest. */
  drain(): void {
    while (this.#evict());
    for (const key of [...this.#inUse].sort().reverse()) this.apply(["release", keyNumber(key)]);
    while (this.#evict());
    assert.equal(this.#policy.size, 0);
  }

  #evict(): boolean {
    const entry = this.#policy.evict(({ key }) => !this.#inUse.has(key));
    const expected = this.#model.evict((key) => !this.#inUse.has(key));
    assert.equal(entry?.key ?? null, expected);
    if (entry === null) return false;
    assert.equal(this.#entries.get(entry.key), entry);
    this.#forget(entry.key);
    return true;
  }

  #forget(key: string): void {
    this.#entries.delete(key);
    this.#inUse.delete(key);
  }
}

function keyNumber(key: string): number {
  return Number(key.slice("key ".length));
}

for (const name of CACHE_POLICIES) {
  test(`${name} evicts what a naive model evicts, whatever happens`, { timeout: 120_000 }, () => {
    fc.assert(
      fc.property(events, (sequence) => {
        const pair = new Pair(name);
        for (const event of sequence) pair.apply(event);
        pair.drain();
      }),
      { numRuns: 300 },
    );
  });

  test(`${name} asks about an entry in use once, however much is evicted around it`, () => {
    const policy = createCachePolicy(name);
    const inUse = new Set<CacheEntry>();
    for (let i = 0; i < 1000; i++) {
      const entry = new CacheEntry(`held ${i}`, 1);
      policy.onPut(entry);
      inUse.add(entry);
    }
    let questions = 0;
    const canEvict = (entry: CacheEntry) => {
      questions++;
      return !inUse.has(entry);
    };
    for (let i = 0; i < 1000; i++) {
      policy.onPut(new CacheEntry(`free ${i}`, 1));
      assert.match(policy.evict(canEvict)!.key, /^free/);
    }
    for (let i = 0; i < 1000; i++) assert.equal(policy.evict(canEvict), null);
    assert.ok(questions <= 2000, `${questions} questions`);
    for (const entry of inUse) policy.readmit(entry);
    inUse.clear();
    for (let i = 0; i < 1000; i++) assert.match(policy.evict(canEvict)!.key, /^held/);
    assert.equal(policy.evict(canEvict), null);
    assert.equal(policy.size, 0);
  });

  test(`${name} refuses an entry that it has, and events of one that it has not`, () => {
    const policy = createCachePolicy(name);
    const entry = new CacheEntry("a", 1);
    assert.throws(() => policy.onHit(entry), /"a" is in no policy/);
    assert.throws(() => policy.onRemove(entry), /"a" is in no policy/);
    assert.throws(() => policy.onReplace(entry, new CacheEntry("a", 1)), /"a" is in no policy/);
    policy.onPut(entry);
    assert.throws(() => policy.onPut(entry), /"a" is in a policy already/);
    policy.readmit(entry);
    policy.onRemove(entry);
    assert.equal(policy.size, 0);
    policy.readmit(entry);
    assert.equal(policy.evict(() => true), null);
    policy.onPut(entry);
    assert.equal(policy.evict(() => true), entry);
  });
}

/** Puts a, b, c, uses what `used` says, and evicts all. */
function order(name: CachePolicyName, used: string): string {
  const policy = createCachePolicy(name);
  const entries = new Map([..."abc"].map((key) => [key, new CacheEntry(key, 1)]));
  for (const entry of entries.values()) policy.onPut(entry);
  for (const key of used) policy.onHit(entries.get(key)!);
  return [..."abc"].map(() => policy.evict(() => true)!.key).join("");
}

test("each policy evicts in its own order", () => {
  assert.equal(order("FIFO", "aac"), "abc");
  assert.equal(order("LRU", "aac"), "bac");
  assert.equal(order("MRU", "aac"), "cab");
  assert.equal(order("LFU", "aac"), "bca");
  // a was used twice and goes on into the main queue; c was used once and does not.
  assert.equal(order("S3FIFO", "aac"), "bca");
});

test("an object that replaces another one inherits what its key has earned", () => {
  const replaced = (name: CachePolicyName) => {
    const policy = createCachePolicy(name);
    const [a, b, c] = [..."abc"].map((key) => new CacheEntry(key, 1));
    for (const entry of [a!, b!, c!]) policy.onPut(entry);
    policy.onHit(a!);
    policy.onHit(b!);
    policy.onHit(b!);
    policy.onReplace(a!, new CacheEntry("A", 1));
    return [..."abc"].map(() => policy.evict(() => true)!.key).join("");
  };
  assert.equal(replaced("FIFO"), "bcA");
  assert.equal(replaced("LRU"), "cbA");
  assert.equal(replaced("MRU"), "Abc");
  // Two uses and the put, as b: b had them first.
  assert.equal(replaced("LFU"), "cbA");
  assert.equal(replaced("S3FIFO"), "cbA");
});

test("LRU: an entry that was used while it could not be evicted is as young as its use", () => {
  const policy = createCachePolicy("LRU");
  const [a, b, c] = ["a", "b", "c"].map((key) => new CacheEntry(key, 1)) as [
    CacheEntry,
    CacheEntry,
    CacheEntry,
  ];
  for (const entry of [a, b, c]) policy.onPut(entry);
  assert.equal(policy.evict((entry) => entry === b), b);
  policy.onHit(a);
  policy.onHit(c);
  policy.readmit(a);
  assert.equal(policy.evict(() => true), a);
  assert.equal(policy.evict(() => true), c);
});

test("S3FIFO: a key that comes back soon after its eviction outlives new ones", () => {
  const policy = createCachePolicy("S3FIFO");
  for (let i = 0; i < 10; i++) policy.onPut(new CacheEntry(`old ${i}`, 1));
  assert.equal(policy.evict(() => true)!.key, "old 0");
  policy.onPut(new CacheEntry("old 0", 1));
  for (let i = 0; i < 9; i++) policy.onPut(new CacheEntry(`new ${i}`, 1));
  const evicted = Array.from({ length: 18 }, () => policy.evict(() => true)!.key);
  assert.ok(!evicted.slice(0, 16).includes("old 0"), evicted.join());
});

test("on a skewed trace, LFU, S3FIFO and LRU beat FIFO, and FIFO beats MRU", () => {
  const trace = zipfTrace({ keys: 2000, length: 40_000, exponent: 0.9, seed: 1 });
  const ratio = (name: CachePolicyName) => hitRatio(createCachePolicy(name), trace, 200);
  assert.ok(ratio("LRU") > ratio("FIFO"));
  assert.ok(ratio("S3FIFO") > ratio("LRU"));
  assert.ok(ratio("LFU") > ratio("FIFO"));
  assert.ok(ratio("FIFO") > ratio("MRU"));
});

test("S3FIFO is not flushed by scans, as LRU is", () => {
  const trace = mixedTrace({ keys: 2000, length: 40_000, exponent: 0.9, scanPart: 0.5, seed: 2 });
  const ratio = (name: CachePolicyName) => hitRatio(createCachePolicy(name), trace, 200);
  assert.ok(ratio("S3FIFO") > 1.15 * ratio("LRU"), `${ratio("S3FIFO")} ${ratio("LRU")}`);
});

test("MRU keeps a part of what is gone through in circles, where LRU keeps nothing", () => {
  const trace = Array.from({ length: 20_000 }, (_, i) => i % 250);
  assert.equal(hitRatio(createCachePolicy("LRU"), trace, 200), 0);
  assert.ok(hitRatio(createCachePolicy("MRU"), trace, 200) > 0.7);
});

test("parseCachePolicy() takes the names of the configuration, in any case", () => {
  assert.deepEqual(CACHE_POLICIES, CACHE_POLICY_NAMES);
  assert.equal(parseCachePolicy("lru"), "LRU");
  assert.equal(parseCachePolicy("S3-FIFO"), "S3FIFO");
  assert.equal(parseCachePolicy("s3_fifo"), "S3FIFO");
  assert.throws(
    () => parseCachePolicy("ARC"),
    /cache policy must be one of LRU, LFU, FIFO, MRU, S3FIFO; got "ARC"/,
  );
  assert.throws(() => createCachePolicy(undefined as unknown as string), TypeError);
});
