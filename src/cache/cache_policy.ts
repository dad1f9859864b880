// SPDX-License-Identifier: Apache-2.0
//
// The eviction policies by name. Which one fits: S3FIFO or LRU where requests repeat; LFU where the
// same few are wanted for ever; MRU where more than fits is gone through in circles; FIFO costs the
// least. tests/bench/policy_bench.ts compares them.

import type { LmshmConfig } from "../config/config.ts";
import type { CacheEntry, CachePolicy } from "./policies/cache_entry.ts";
import { LfuPolicy } from "./policies/lfu.ts";
import { FifoPolicy, LruPolicy, MruPolicy } from "./policies/queue_policies.ts";
import { S3FifoPolicy } from "./policies/s3_fifo.ts";

export { CacheEntry, type CachePolicy } from "./policies/cache_entry.ts";

const POLICIES = {
  LRU: LruPolicy,
  LFU: LfuPolicy,
  FIFO: FifoPolicy,
  MRU: MruPolicy,
  S3FIFO: S3FifoPolicy,
} as const satisfies Record<CachePolicyName, unknown>;

/** The name of an eviction policy. */
export type CachePolicyName = LmshmConfig["cachePolicy"];

export const CACHE_POLICIES: readonly CachePolicyName[] = Object.freeze(
  Object.keys(POLICIES) as CachePolicyName[],
);

/**
 * A policy without entries. The name may differ in case, "-" and "_", as in LMCache's cache_policy.
 * @throws {TypeError} for another name, with those that exist.
 */
export function createCachePolicy<Entry extends CacheEntry>(
  name: CachePolicyName | string,
): CachePolicy<Entry> {
  return new POLICIES[parseCachePolicy(name)]<Entry>();
}

/** The policy's own name for `name`; see createCachePolicy(). */
export function parseCachePolicy(name: unknown): CachePolicyName {
  const form = typeof name === "string" ? name.toUpperCase().replaceAll(/[-_]/g, "") : null;
  const found = CACHE_POLICIES.find((policy) => policy === form);
  if (found !== undefined) return found;
  throw new TypeError(
    `cache policy must be one of ${CACHE_POLICIES.join(", ")}; got ${JSON.stringify(name)}`,
  );
}
