// SPDX-License-Identifier: Apache-2.0
//
// The KV cache of a request, from the pages of a GPU into chunks of the pool, from there into a
// directory, and all the way back into other pages. Without a GPU it says so, and does the same with
// chunks that the program fills itself.
//
//   bun examples/gpu_chunks.ts [DIRECTORY]
//   deno run -A examples/gpu_chunks.ts [DIRECTORY]

import console from "node:console";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import {
  CacheEngineKey,
  MixedMemoryAllocator,
  ShmFileConnector,
  type TensorMemoryObj,
} from "lmshm";
import { GpuDevice, gpuStatus, PagedKvCache } from "lmshm/gpu";

// A small model: 8 layers, 16 tokens a page, 4 KiB a token in keys and in values.
const LAYERS = 8;
const PAGE_TOKENS = 16;
const HIDDEN = 2048; // bfloat16
const PAGES = 64;
const CHUNK_TOKENS = 128;
const CHUNKS = 3;

const key = (chunk: number) =>
  new CacheEngineKey({
    model: "example",
    worldSize: 1,
    workerId: 0,
    chunkHash: BigInt(chunk + 1),
    dtype: "bfloat16",
  });

/** The pages of a chunk's tokens: an engine knows; here every third page, from some first one. */
const pagesOf = (chunk: number, first: number) =>
  Array.from({ length: CHUNK_TOKENS / PAGE_TOKENS }, (_, n) => (first + chunk + 3 * n) % PAGES);

function allocate(pool: MixedMemoryAllocator): TensorMemoryObj {
  return pool.allocate({ shape: [2, LAYERS, CHUNK_TOKENS, HIDDEN], dtype: "bfloat16" });
}

async function withGpu(pool: MixedMemoryAllocator, store: ShmFileConnector): Promise<void> {
  using device = GpuDevice.open();
  console.log(
    `GPU ${device.index}: ${device.name}, the pool is pinned by ${pool.segment.pinnedBy}`,
  );
  const layerBytes = 2 * PAGES * PAGE_TOKENS * HIDDEN * 2;
  using memory = device.alloc(LAYERS * layerBytes);
  const cache = new PagedKvCache({
    layers: Array.from(
      { length: LAYERS },
      (_, layer) => memory.range(layer * layerBytes, layerBytes),
    ),
    pageTokens: PAGE_TOKENS,
    tokenBytes: HIDDEN * 2,
  });
  await using stream = device.createStream();
  for (let layer = 0; layer < LAYERS; layer++) {
    stream.fill(memory.range(layer * layerBytes, layerBytes), layer + 1); // what a model computed
  }

  await Promise.all(Array.from({ length: CHUNKS }, async (_, index) => {
    using chunk = allocate(pool);
    const copies = cache.save(stream, pagesOf(index, 0), chunk);
    await stream.synchronize(); // the event loop goes on meanwhile
    await store.put(key(index), chunk);
    console.log(`chunk ${index}: ${chunk.byteLength} bytes saved in ${copies} copies`);
  }));

  stream.fill(memory, 0); // another request has used the pages since
  for (let index = 0; index < CHUNKS; index++) {
    using chunk = allocate(pool);
    if (await store.get(key(index), chunk) === null) throw new Error(`chunk ${index} is gone`);
    cache.load(stream, pagesOf(index, 7), chunk);
    await stream.synchronize();
  }

  // Looked at through the pool, since device memory is not readable here.
  using chunk = allocate(pool);
  cache.save(stream, pagesOf(1, 7), chunk);
  await stream.synchronize();
  const perLayer = chunk.byteLength / 2 / LAYERS;
  const right = chunk.bytes.every((byte, at) => byte === Math.floor(at / perLayer) % LAYERS + 1);
  console.log(right ? "OK: every layer is back in its pages" : "FAILED: the bytes differ");
  if (!right) process.exitCode = 1;
}

async function withoutGpu(pool: MixedMemoryAllocator, store: ShmFileConnector): Promise<void> {
  for (let index = 0; index < CHUNKS; index++) {
    using chunk = allocate(pool);
    chunk.bytes.fill(index + 1);
    await store.put(key(index), chunk);
    chunk.bytes.fill(0);
    if (await store.get(key(index), chunk) === null) throw new Error(`chunk ${index} is gone`);
    if (!chunk.bytes.every((byte) => byte === index + 1)) throw new Error("the bytes differ");
  }
  console.log("OK: the chunks went through the pool and the store, without a GPU");
}

const status = gpuStatus();
const directory = process.argv[2] ?? await mkdtemp(join(tmpdir(), "lmshm-example-"));
const chunkBytes = 2 * LAYERS * CHUNK_TOKENS * HIDDEN * 2;
try {
  await using pool = await MixedMemoryAllocator.create({ sizeBytes: (CHUNKS + 1) * chunkBytes });
  await using store = await ShmFileConnector.open({ segment: pool.segment, storageDir: directory });
  if (status.available) {
    await withGpu(pool, store);
  } else {
    console.log(`no GPU: ${status.reason}`);
    await withoutGpu(pool, store);
  }
} finally {
  if (process.argv[2] === undefined) await rm(directory, { recursive: true, force: true });
}
