// SPDX-License-Identifier: Apache-2.0
//
// Eviction policies: how many requests of a trace a cache answers with each, and what a request
// costs. Beside them the best that any policy could do, which knows the future, and the cache that a
// program has without a library: a Map that is kept in order of use.

import {
  CACHE_POLICIES,
  CacheEntry,
  type CachePolicyName,
  createCachePolicy,
} from "../../src/cache/cache_policy.ts";
import { conversationTrace, mixedTrace, zipfTrace } from "../support/traces.ts";
import type { Benchmark, Context } from "./support/benchmark.ts";
import { type Contender, interleave } from "./support/interleave.ts";
import { type Metric, rowOf, type Section, type Table } from "./support/results.ts";

interface TraceMaker {
  readonly name: string;
  readonly description: string;
  make(length: number, seed: number): number[];
}

const KEYS = 20_000;

const TRACES: readonly TraceMaker[] = [
  {
    name: "A skewed trace",
    description: "Requests for 20,000 chunks; the k-th is wanted 1/k^0.9 as often as the first.",
    make: (length, seed) => zipfTrace({ keys: KEYS, length, exponent: 0.9, seed }),
  },
  {
    name: "A skewed trace with scans",
    description: "The same, and a third of the requests are runs of 100 that never come again.",
    make: (length, seed) =>
      mixedTrace({ keys: KEYS, length, exponent: 0.9, scanPart: 1 / 3, seed }),
  },
  {
    name: "Conversations",
    description:
      "400 conversations at a time; each turn looks up a shared prompt of 8 chunks and " +
      "all that was said, and adds one chunk or two; 40 chunks are said on average.",
    make: (length, seed) =>
      conversationTrace({
        conversations: 400,
        promptChunks: 8,
        prompts: 50,
        meanChunks: 40,
        length,
        seed,
      }),
  },
];

/** What a cache made of a trace. */
interface Outcome {
  readonly hits: number;
  readonly milliseconds: number;
}

/** A trace, and the keys of its requests, made beforehand. */
interface Requests {
  readonly numbers: readonly number[];
  readonly keys: readonly string[];
}

function withPolicy(name: CachePolicyName, { keys }: Requests, capacity: number): Outcome {
  const policy = createCachePolicy(name);
  const entries = new Map<string, CacheEntry>();
  const canEvict = () => true;
  let hits = 0;
  const started = performance.now();
  for (const key of keys) {
    const entry = entries.get(key);
    if (entry !== undefined) {
      hits++;
      policy.onHit(entry);
      continue;
    }
    if (entries.size === capacity) entries.delete(policy.evict(canEvict)!.key);
    const added = new CacheEntry(key, 1);
    entries.set(key, added);
    policy.onPut(added);
  }
  return { hits, milliseconds: performance.now() - started };
}

/** The common way: deleting and setting again moves a key to the end of a Map. */
function withMap({ keys }: Requests, capacity: number): Outcome {
  const entries = new Map<string, CacheEntry>();
  let hits = 0;
  const started = performance.now();
  for (const key of keys) {
    const entry = entries.get(key);
    if (entry !== undefined) {
      hits++;
      entries.delete(key);
      entries.set(key, entry);
      continue;
    }
    if (entries.size === capacity) entries.delete(entries.keys().next().value!);
    entries.set(key, new CacheEntry(key, 1));
  }
  return { hits, milliseconds: performance.now() - started };
}

/**
 * Evicts what is wanted again last, or does not keep what has just come when that is it (L. Belady,
 * "A study of replacement algorithms for virtual-storage computers", 1966).
 */
function withForesight({ numbers }: Requests, capacity: number): number {
  const nextUse = new Float64Array(numbers.length);
  const last = new Map<number, number>();
  for (let at = numbers.length - 1; at >= 0; at--) {
    nextUse[at] = last.get(numbers[at]!) ?? Infinity;
    last.set(numbers[at]!, at);
  }
  // Latest next use first; entries that are out of date are passed over.
  const heap = new LatestFirst();
  const cached = new Map<number, number>();
  let hits = 0;
  for (const [at, number] of numbers.entries()) {
    if (cached.has(number)) hits++;
    cached.set(number, nextUse[at]!);
    heap.push(nextUse[at]!, number);
    while (cached.size > capacity) {
      const { use, number: farthest } = heap.pop();
      if (cached.get(farthest) === use) cached.delete(farthest);
    }
  }
  return hits;
}

class LatestFirst {
  readonly #items: { use: number; number: number }[] = [];

  push(use: number, number: number): void {
    const items = this.#items;
    let at = items.length;
    items.push({ use, number });
    while (at > 0 && items[(at - 1) >> 1]!.use < use) {
      items[at] = items[(at - 1) >> 1]!;
      at = (at - 1) >> 1;
    }
    items[at] = { use, number };
  }

  pop(): { use: number; number: number } {
    const items = this.#items;
    const top = items[0]!;
    const moved = items.pop()!;
    if (items.length === 0) return top;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= items.length) break;
      if (below + 1 < items.length && items[below + 1]!.use > items[below]!.use) below++;
      if (items[below]!.use <= moved.use) break;
      items[at] = items[below]!;
      at = below;
    }
    items[at] = moved;
    return top;
  }
}

const METRICS: readonly Metric[] = [
  { key: "hits", label: "hits", unit: "%" },
  { key: "rate", label: "requests", unit: "ops/s" },
];

function contenders(requests: (round: number) => Requests, capacity: number): Contender[] {
  const named = (name: string, note: string, run: (requests: Requests) => Outcome): Contender => {
    // The first round warms up; each contender counts its own, so that all get the same traces.
    let round = 0;
    return {
      name,
      note,
      sample() {
        const own = requests(round++);
        const { hits, milliseconds } = run(own);
        return Promise.resolve({
          hits: hits / own.keys.length * 100,
          rate: own.keys.length / milliseconds * 1e3,
        });
      },
    };
  };
  let round = 0;
  return [
    ...CACHE_POLICIES.map((name) => named(name, "", (own) => withPolicy(name, own, capacity))),
    named("a Map", "least recently used, by delete and set", (own) => withMap(own, capacity)),
    {
      name: "knows the future",
      note: "what no policy can exceed",
      sample() {
        const own = requests(round++);
        return Promise.resolve({ hits: withForesight(own, capacity) / own.keys.length * 100 });
      },
    },
  ];
}

async function tableOf(trace: TraceMaker, part: number, context: Context): Promise<Table> {
  const { quick, show } = context;
  const rounds = quick ? 2 : 3;
  const length = quick ? 100_000 : 500_000;
  const made = new Map<number, Requests>();
  const requests = (round: number): Requests => {
    const known = made.get(round);
    if (known !== undefined) return known;
    const numbers = trace.make(length, round + 1);
    // As long as a real key; one text for each chunk, as a program would have it.
    const texts = new Map<number, string>();
    const keys = numbers.map((number) => {
      const text = texts.get(number) ??
        `meta-llama/Llama-3.1-8B-Instruct@1@0@${number.toString(16).padStart(16, "0")}@bfloat16`;
      texts.set(number, text);
      return text;
    });
    const result = { numbers, keys };
    made.clear();
    made.set(round, result);
    return result;
  };
  const capacity = Math.round(part * new Set(requests(0).numbers).size);
  const all = contenders(requests, capacity);
  const title = `${trace.name}, ${part * 100} % of its chunks fit`;
  const samples = await interleave(all, rounds, (text) => show(`${title}, ${text}`));
  return {
    title,
    conditions: `${rounds} rounds of ${length.toLocaleString("en-US")} requests, each of another ` +
      `trace; ${capacity.toLocaleString("en-US")} chunks of one size fit. ${trace.description} ` +
      "A request is a look-up, and for a miss an eviction and an insertion.",
    metrics: METRICS,
    rows: all.map(({ name, note }, index) => rowOf(name, note, samples[index]!)),
    compare: null,
    chart: null,
  };
}

async function run(context: Context): Promise<Section> {
  const tables: Table[] = [];
  for (const trace of TRACES) {
    for (const part of [0.02, 0.1]) tables.push(await tableOf(trace, part, context));
  }
  return {
    title: "Eviction policies",
    intro: "Which share of the requests a cache answers, and how many requests a second that are.",
    tables,
    aims: [],
    notes: [],
  };
}

export const policyBenchmark: Benchmark = {
  name: "policy",
  summary: "hit ratios and cost of the eviction policies on skewed traces and conversations",
  run,
};
