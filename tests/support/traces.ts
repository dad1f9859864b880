// SPDX-License-Identifier: Apache-2.0
//
// Sequences of requests for caches, the same for the same seed, and what a policy makes of them.

import { CacheEntry, type CachePolicy } from "../../src/cache/cache_policy.ts";

/** Numbers from [0, 1), from a seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface ZipfOptions {
  /** Different keys: 0 to keys - 1, 0 the most wanted. */
  keys: number;
  /** Requests. */
  length: number;
  /** The k-th key is wanted 1 / k^exponent as often as the first. */
  exponent: number;
  seed: number;
}

/** Requests for keys of which few are wanted much and most are wanted rarely. */
export function zipfTrace({ keys, length, exponent, seed }: ZipfOptions): number[] {
  const random = randomNumbers(seed);
  const cumulative = new Float64Array(keys);
  let sum = 0;
  for (let key = 0; key < keys; key++) cumulative[key] = sum += 1 / (key + 1) ** exponent;
  return Array.from({ length }, () => {
    const wanted = random() * sum;
    let low = 0;
    let high = keys - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cumulative[middle]! > wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  });
}

/** A zipfTrace() into which runs of keys that never come again are mixed: `scanPart` of it. */
export function mixedTrace(options: ZipfOptions & { scanPart: number }): number[] {
  const { keys, length, scanPart, seed } = options;
  const skewed = zipfTrace(options);
  const random = randomNumbers(seed + 1);
  const runLength = 100;
  const trace: number[] = [];
  let next = 0;
  let fresh = keys;
  while (trace.length < length) {
    const scans = random() < scanPart;
    for (let i = 0; i < runLength; i++) trace.push(scans ? fresh++ : skewed[next++ % length]!);
  }
  return trace.slice(0, length);
}

export interface ConversationOptions {
  /** Going on at the same time; one that ends is replaced by a new one. */
  conversations: number;
  /** Chunks that all conversations with one system prompt begin with. */
  promptChunks: number;
  prompts: number;
  /** Chunks at which a conversation ends, on average. */
  meanChunks: number;
  /** Requests for chunks; the last turn may go beyond it. */
  length: number;
  seed: number;
}

/**
 * Chunks that a serving engine looks up: each turn of a conversation asks for everything that was
 * said before, the shared prompt first, and adds a chunk or two. Some conversations are livelier.
 */
export function conversationTrace(options: ConversationOptions): number[] {
  const { conversations, promptChunks, prompts, meanChunks, length, seed } = options;
  const random = randomNumbers(seed);
  let fresh = prompts * promptChunks;
  const begin = () => {
    const prompt = Math.floor(prompts * random() ** 2);
    return Array.from({ length: promptChunks }, (_, i) => prompt * promptChunks + i);
  };
  const live = Array.from({ length: conversations }, begin);
  const trace: number[] = [];
  while (trace.length < length) {
    const index = Math.floor(conversations * random() ** 3);
    const chunks = live[index]!;
    const added = random() < 0.3 ? 2 : 1;
    for (let i = 0; i < added; i++) chunks.push(fresh++);
    trace.push(...chunks);
    if (random() < added / meanChunks) live[index] = begin();
  }
  return trace;
}

/** The part of a trace's requests that a cache of `capacity` entries of one size answers. */
export function hitRatio(policy: CachePolicy, trace: readonly number[], capacity: number): number {
  const entries = new Map<string, CacheEntry>();
  let hits = 0;
  for (const number of trace) {
    const key = `chunk ${number}`;
    const entry = entries.get(key);
    if (entry !== undefined) {
      hits++;
      policy.onHit(entry);
      continue;
    }
    if (entries.size === capacity) entries.delete(policy.evict(() => true)!.key);
    const added = new CacheEntry(key, 1);
    entries.set(key, added);
    policy.onPut(added);
  }
  return hits / trace.length;
}
