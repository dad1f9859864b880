// SPDX-License-Identifier: Apache-2.0
//
// The keys that a command is about: those that it was given, and those of the store that match.

import type { ShmFileConnector } from "../../mod.ts";
import { inLanes } from "../lanes.ts";
import { type KeyPattern, keyPattern } from "./pattern.ts";

export interface Found {
  readonly key: string;
  /** False: it was named, and nobody has looked yet. */
  readonly listed: boolean;
}

/** What operands say: keys and patterns. */
export function patternsOf(operands: readonly string[], literal: boolean): KeyPattern[] {
  return operands.map((text) => keyPattern(text, literal));
}

/**
 * Keys that match any of the patterns: those that are named, and those of the store that match.
 * @param onNothing is told of a pattern that nothing matches
 */
export async function* keysOf(
  connector: ShmFileConnector,
  patterns: readonly KeyPattern[],
  signal: AbortSignal,
  onNothing: (pattern: KeyPattern) => void,
): AsyncGenerator<Found, void, undefined> {
  /** Of those that are named: which were given already. */
  const given = new Set<string>();
  const named = new Set(patterns.map(({ key }) => key));
  for (const [index, pattern] of patterns.entries()) {
    if (pattern.key !== null) {
      if (given.has(pattern.key)) continue;
      given.add(pattern.key);
      yield { key: pattern.key, listed: false };
      continue;
    }
    let any = false;
    for await (const key of connector.list({ prefix: pattern.prefix, signal })) {
      if (!pattern.matches(key)) continue;
      any = true;
      // What an earlier operand gave is not given again.
      if (patterns.slice(0, index).some((earlier) => earlier.matches(key))) continue;
      if (named.has(key)) given.add(key);
      yield { key, listed: true };
    }
    if (!any) onNothing(pattern);
  }
}

/** Listed keys, so many together; each that was named for itself. */
export async function* batchesOf(
  found: AsyncIterable<Found>,
  size: number,
): AsyncGenerator<Found[], void, undefined> {
  let batch: Found[] = [];
  for await (const one of found) {
    if (!one.listed) {
      yield [one];
      continue;
    }
    batch.push(one);
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

/** Pages of what a generator gives, each worked on by several lanes, in order. */
export async function* pagesOf<T, R>(
  items: AsyncIterable<T>,
  size: number,
  lanes: number,
  work: (item: T) => Promise<R>,
): AsyncGenerator<R[], void, undefined> {
  let page: T[] = [];
  const flush = async () => {
    const done = new Array<R>(page.length);
    await inLanes(page, lanes, async (item, index) => {
      done[index] = await work(item);
    });
    page = [];
    return done;
  };
  for await (const item of items) {
    page.push(item);
    if (page.length >= size) yield await flush();
  }
  if (page.length > 0) yield await flush();
}
