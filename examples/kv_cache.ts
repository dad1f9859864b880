// SPDX-License-Identifier: Apache-2.0
//
// A KV cache of two tiers, with a limit for each, and what it counts: a pool for 8 chunks in front of
// a directory for 16 or so, and a model that asks for prefixes of 40 chunks.
//
//   bun examples/kv_cache.ts [DIRECTORY]
//   deno run -A examples/kv_cache.ts [DIRECTORY]

import console from "node:console";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { CacheEngineKey, type ShmFileConnector, TieredStore } from "lmshm";

// [keys and values, layers, tokens, hidden]: 4 MiB. LMCache's usual chunk has 32 MiB.
const CHUNK = { shape: [2, 4, 256, 1024], dtype: "bfloat16" } as const;
const CHUNK_BYTES = 2 * 4 * 256 * 1024 * 2;

const keyOf = (chunk: number) =>
  new CacheEngineKey({
    model: "example",
    worldSize: 1,
    workerId: 0,
    chunkHash: BigInt(chunk + 1),
    dtype: "bfloat16",
  });

const mebibytes = (bytes = 0) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

/** The chunk from one of the tiers, else computed and stored. */
async function chunkOf(store: TieredStore, index: number): Promise<"cached" | "computed"> {
  using found = await store.get(keyOf(index), CHUNK);
  if (found !== null) {
    if (found.tensor(0, "bfloat16")[0] !== index) throw new Error(`chunk ${index} is wrong`);
    return "cached";
  }
  using obj = await store.allocate(CHUNK);
  obj.tensor(0, "bfloat16").fill(index); // what a model computes
  await store.put(keyOf(index), obj);
  return "computed";
}

const directory = process.argv[2] ?? await mkdtemp(join(tmpdir(), "lmshm-example-"));
try {
  await using store = await TieredStore.create({
    hot: { sizeBytes: 8 * CHUNK_BYTES, cachePolicy: "LRU" },
    cold: { storageDir: directory, maxBytes: 18 * CHUNK_BYTES }, // room is made from 97.5 % on
    writeMode: "behind",
    maxQueuedBytes: 4 * CHUNK_BYTES, // what waits to be written cannot be evicted
  });

  // Every request begins with the same 4 chunks, such as a system prompt, and goes on with its own.
  let computed = 0;
  for (let request = 0; request < 12; request++) {
    const own = [0, 1, 2].map((n) => 4 + request * 3 + n);
    for (const index of [0, 1, 2, 3, ...own]) {
      if (await chunkOf(store, index) === "computed") computed++;
    }
  }
  await store.flush();

  const { hotHits, coldHits, misses, hot } = store.stats;
  console.log(`84 chunks asked for, ${computed} computed`);
  console.log(`pool: ${hotHits} hits, ${hot.evictions} evicted, ${hot.objects} in it`);
  console.log(`directory: ${coldHits} hits, ${misses} misses`);
  const info = await (store.cold as ShmFileConnector).info();
  console.log(
    `${info.objects} objects, ${mebibytes(info.usedBytes)} of ${mebibytes(info.maxBytes)}, ` +
      `${info.evictions} evicted`,
  );
  const { usedBytes = Infinity, maxBytes = 0 } = info;
  const isRight = usedBytes <= maxBytes && hot.bytes <= 8 * CHUNK_BYTES;
  console.log(isRight ? "OK: both tiers kept to their limits" : "FAILED");
  if (!isRight) process.exitCode = 1;
} finally {
  if (process.argv[2] === undefined) await rm(directory, { recursive: true, force: true });
}
