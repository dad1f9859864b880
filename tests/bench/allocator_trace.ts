// SPDX-License-Identifier: Apache-2.0
//
// Loads for allocators, each the same for every contender: a pool that holds a steady number of
// objects, and caches that are always full and evict to make room. Seeded, so that rounds repeat.

import type { Book } from "./free_space_contenders.ts";

/** Numbers from 0 to 1 (mulberry32). */
export function randomSource(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), 1 | state);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What a cache that is always full came to. */
export interface CacheOutcome {
  /** Share of the pool that was in use, on average, once it was full. */
  readonly inUse: number;
  /** Share of the free memory that was not in its largest range, on average. */
  readonly fragmentation: number;
  readonly nanosecondsPerObject: number;
  readonly worstMicroseconds: number;
}

/** Watches a book while a cache fills it. */
class CacheWatch {
  readonly #poolSize: number;
  #samples = 0;
  #inUse = 0;
  #fragmentation = 0;
  #spentMs = 0;
  #worstMs = 0;
  #objects = 0;

  constructor(poolSize: number) {
    this.#poolSize = poolSize;
  }

  /** Time of making one object, with all evictions that it took. */
  spent(milliseconds: number): void {
    this.#objects++;
    this.#spentMs += milliseconds;
    if (milliseconds > this.#worstMs) this.#worstMs = milliseconds;
  }

  sample(book: Book<unknown>): void {
    this.#samples++;
    this.#inUse += 1 - book.freeSize / this.#poolSize;
    if (book.freeSize > 0) this.#fragmentation += 1 - book.largestFree / book.freeSize;
  }

  outcome(): CacheOutcome {
    return {
      inUse: this.#inUse / this.#samples,
      fragmentation: this.#fragmentation / this.#samples,
      nanosecondsPerObject: this.#spentMs * 1e6 / this.#objects,
      worstMicroseconds: this.#worstMs * 1e3,
    };
  }
}

interface Model {
  /** Bytes that one token takes in all layers. */
  readonly tokenBytes: number;
  readonly chunkTokens: number;
}

/** Chunks of several models, as one gateway serves them. */
const MODELS: readonly Model[] = [
  { tokenBytes: 131_072, chunkTokens: 256 }, // 32 layers of 2 x 1024, bfloat16
  { tokenBytes: 40_960, chunkTokens: 256 }, // 80 layers of 2 x 1024, an eighth of them
  { tokenBytes: 70_272, chunkTokens: 256 }, // 61 layers of a latent vector of 576
  { tokenBytes: 4_096, chunkTokens: 256 }, // one layer at a time
  { tokenBytes: 12_288, chunkTokens: 512 },
];
const UNIT_BYTES = 4096;

/**
 * A day: models come into and go out of use, three chunks in ten are partial, half of the time an
 * older chunk is used again, the more recent the likelier, and the least recently used goes first.
 */
export function dayOfCache<Handle>(
  book: Book<Handle>,
  poolSize: number,
  seed: number,
  objects: number,
): CacheOutcome {
  const random = randomSource(seed);
  const watch = new CacheWatch(poolSize);
  const cached = new Map<number, Handle>();
  let isFull = false;
  for (let made = 0; made < objects; made++) {
    const { tokenBytes, chunkTokens } = modelAt(made / objects, random);
    const tokens = random() < 0.7 ? chunkTokens : 1 + Math.floor(random() * chunkTokens);
    const size = Math.ceil(tokenBytes * tokens / UNIT_BYTES);
    if (random() < 0.5) useAgain(cached, made - 1 - Math.floor(cached.size * random() ** 3));
    const started = performance.now();
    let handle: Handle | null;
    while ((handle = book.allocate(size)) === null) {
      isFull = true;
      const [oldest, victim] = cached.entries().next().value!;
      cached.delete(oldest);
      book.free(victim);
    }
    if (isFull) watch.spent(performance.now() - started);
    cached.set(made, handle);
    if (isFull && made % 16 === 0) watch.sample(book);
  }
  return watch.outcome();
}

function modelAt(timeOfDay: number, random: () => number): Model {
  const weights = MODELS.map((_, i) =>
    1 + 8 * Math.max(0, Math.cos((timeOfDay * 2 + i / MODELS.length) * 2 * Math.PI))
  );
  let point = random() * weights.reduce((sum, weight) => sum + weight, 0);
  const index = weights.findIndex((weight) => (point -= weight) <= 0);
  return MODELS[Math.max(0, index)]!;
}

function useAgain<Handle>(cached: Map<number, Handle>, key: number): void {
  const handle = cached.get(key);
  if (handle === undefined) return;
  cached.delete(key);
  cached.set(key, handle);
}

/** A full cache of objects of `sizes` units, of which a random one goes whenever one does not fit. */
export function steadyCache<Handle>(
  book: Book<Handle>,
  poolSize: number,
  sizes: readonly number[],
  seed: number,
  objects: number,
): CacheOutcome {
  const random = randomSource(seed);
  const watch = new CacheWatch(poolSize);
  const cached: Handle[] = [];
  let sinceFull = 0;
  for (let made = 0; sinceFull < objects; made++) {
    const size = sizes[Math.floor(random() * sizes.length)]!;
    const started = performance.now();
    let handle: Handle | null;
    while ((handle = book.allocate(size)) === null) {
      sinceFull = Math.max(1, sinceFull);
      const index = Math.floor(random() * cached.length);
      const victim = cached[index]!;
      const last = cached.pop()!;
      if (index < cached.length) cached[index] = last;
      book.free(victim);
    }
    if (sinceFull > 0) {
      sinceFull++;
      watch.spent(performance.now() - started);
      if (made % 64 === 0) watch.sample(book);
    }
    cached.push(handle);
  }
  return watch.outcome();
}
