// SPDX-License-Identifier: Apache-2.0
//
// A tiered store over a connector in memory, for tests: a pool of some pages, chunks of one page,
// and the check that nobody has lost a reference at the end.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { TensorMemoryObj } from "../../src/memory/memory_obj.ts";
import { ShmSegment } from "../../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../../src/memory/tensor_allocator.ts";
import { LocalCpuBackend } from "../../src/cache/local_cpu_backend.ts";
import { TieredStore, type TieredStoreOptions } from "../../src/cache/tiered_store.ts";
import { withoutLeaks } from "./leaks.ts";
import { MemoryConnector } from "./memory_connector.ts";

export const PAGE = 4096;
/** 8 tokens of 512 bytes: one page. */
export const CHUNK = { shape: [2, 1, 8, 128], dtype: "bfloat16", format: "KV_2LTD" } as const;

export interface Scene {
  readonly store: TieredStore;
  readonly hot: LocalCpuBackend;
  readonly cold: MemoryConnector;
  readonly pool: TensorMemoryAllocator;
}

type Options = Omit<Partial<TieredStoreOptions>, "cold"> & {
  pages?: number;
  hotTier?: boolean;
  /** Default: a new one. */
  cold?: MemoryConnector;
};

/** A test over a pool of some pages; at its end nobody but the hot tier may hold an object. */
export function tiered(
  name: string,
  body: (scene: Scene) => Promise<void>,
  options: Options = {},
): void {
  const { pages = 8, hotTier = true, cold = new MemoryConnector(), ...others } = options;
  test(`tiered store: ${name}`, { timeout: 60_000 }, () =>
    withoutLeaks(async () => {
      using segment = ShmSegment.createSync({ sizeBytes: pages * PAGE, pin: "none" });
      const pool = new TensorMemoryAllocator(segment);
      await using hot = new LocalCpuBackend({ allocator: pool, hotTier, blockingTimeoutMs: 200 });
      const store = new TieredStore({ hot, cold, ...others });
      await body({ store, hot, cold, pool });
      await store.close().catch(() => {});
      hot.memcheck();
      hot.clear();
      assert.equal(pool.stats.liveObjects, 0, "references that were left behind");
    }));
}

export function newChunk({ hot }: Scene, fill: number): TensorMemoryObj {
  const obj = hot.tryAllocate(CHUNK)!;
  obj.bytes.fill(fill);
  return obj;
}

/** Puts a new chunk and releases it. */
export async function put(
  scene: Scene,
  key: string,
  fill: number,
  writeMode?: "through" | "behind",
) {
  using obj = newChunk(scene, fill);
  await scene.store.put(key, obj, { writeMode });
}

export function inStore(cold: MemoryConnector, key: string, fill: number, byteLength = PAGE): void {
  cold.objects.set(key, new Uint8Array(byteLength).fill(fill));
}

export function isFilled(obj: TensorMemoryObj | null, fill: number): boolean {
  return obj !== null && obj.bytes.every((byte) => byte === fill);
}

/** A gate that calls of the connector wait at. */
export function gate(): { readonly wait: () => Promise<void>; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { wait: () => promise, open: resolve };
}
