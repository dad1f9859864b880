// SPDX-License-Identifier: Apache-2.0
//
// Objects as LMCache stores them: which there are (recorded in tests/golden, or told by LMCache itself),
// and stores of ours with them. The bytes of one follow from its seed, as in
// tests/lmcache/lmcache_files.py.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import type { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import type { Key } from "../../src/keys/key.ts";
import type { DTypeName } from "../../src/memory/dtype.ts";
import type { MemoryFormat } from "../../src/memory/memory_format.ts";
import { TensorMemoryAllocator } from "../../src/memory/tensor_allocator.ts";

/** Rows of tests/golden/lmcache_NAME.tsv; the last line of its head names the columns. */
export function goldenRows(name: string): Record<string, string>[] {
  const text = readFileSync(new URL(`../golden/lmcache_${name}.tsv`, import.meta.url), "utf8");
  const lines = text.split("\n").filter((line) => line !== "");
  const columns = lines[1]!.slice(2).split("\t");
  return lines.slice(2).map((line) => {
    const cells = line.split("\t");
    assert.equal(cells.length, columns.length, line);
    return Object.fromEntries(columns.map((column, at) => [column, cells[at]!]));
  });
}

export interface StoredItem {
  readonly seed: number;
  readonly key: string;
  readonly file: string;
  readonly bytes: number;
  readonly shape: string;
  readonly dtype: string;
  readonly format: string;
}

export function payload(seed: number, bytes: number): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => (7 * i + 13 * seed) & 0xff);
}

/** The layout of an object: of one tensor, or of several with "+" between them. */
export function layoutOf({ shape, dtype, format }: StoredItem) {
  const shapes = shape.split("+").map((one) => one.split(",").map(Number));
  const dtypes = dtype.split("+") as DTypeName[];
  return {
    shape: shapes.length === 1 ? shapes[0]! : shapes,
    dtype: dtypes.length === 1 ? dtypes[0]! : dtypes,
    format: format as MemoryFormat,
  };
}

/** Puts all of them, each as a tensor of its layout. */
export async function putAll(
  store: ShmFileConnector,
  items: readonly StoredItem[],
  keyOf: (item: StoredItem, index: number) => Key = ({ key }) => key,
): Promise<void> {
  const pool = new TensorMemoryAllocator(store.segment);
  for (const [index, item] of items.entries()) {
    const obj = pool.allocate(layoutOf(item))!;
    obj.bytes.set(payload(item.seed, item.bytes));
    await store.put(keyOf(item, index), obj);
    obj.refCountDown();
  }
}

/** Gets all of them, and returns what is wrong. */
export async function getAll(
  store: ShmFileConnector,
  items: readonly StoredItem[],
  options: { shapes: boolean; keyOf?: (item: StoredItem, index: number) => Key },
): Promise<string[]> {
  const { shapes, keyOf = ({ key }: StoredItem) => key } = options;
  const wrong: string[] = [];
  const { segment } = store;
  for (const [index, item] of items.entries()) {
    const { seed, key, bytes, shape, dtype, format } = item;
    segment.bytes(0, bytes).fill(0xee);
    const found = await store.load(keyOf(item, index), segment.range(0, bytes));
    if (found === null) wrong.push(`${key}: not found`);
    else if (found.range.byteLength !== bytes) {
      wrong.push(`${key}: ${found.range.byteLength} bytes`);
    } else if (Buffer.compare(segment.bytes(0, bytes), payload(seed, bytes)) !== 0) {
      wrong.push(`${key}: other bytes`);
    } else if (shapes) {
      const said = JSON.stringify(found.metadata);
      if (said !== JSON.stringify({ dtype, format, shape })) wrong.push(`${key}: ${said}`);
    }
  }
  return wrong;
}
