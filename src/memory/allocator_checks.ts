// SPDX-License-Identifier: Apache-2.0
//
// What allocators check of their arguments, and the errors that several of them throw.

import { ShmError } from "../errors.ts";
import { checkInteger, describe } from "../arguments.ts";
import type { AllocatorStats } from "./memory_allocator.ts";
import { MemoryObj } from "./memory_obj.ts";
import { locate, type Located, type ShmRange, ShmSegment } from "./segment.ts";
import type { TensorLayout } from "./tensor_layout.ts";

const DEFAULT_ALIGN_BYTES = 4096;

/** ENOSPC with the numbers of `stats`, and what could be done. */
export function noSpace(layout: TensorLayout, count: number, stats: AllocatorStats): ShmError {
  const { totalBytes, usedBytes, freeBytes, largestFreeBytes } = stats;
  const requestedBytes = layout.byteLength * count;
  const objects = count === 1 ? "The object is" : `The ${count} objects are`;
  const hint = requestedBytes > totalBytes
    ? `${objects} larger than the pool: make the pool larger, or the chunks smaller`
    : requestedBytes <= freeBytes
    ? "The free memory is in pieces: release or evict objects"
    : "Release or evict objects, or make the pool larger";
  const what = count === 1 ? `${layout} needs` : `${count} times ${layout} need`;
  return new ShmError(
    `${what} ${requestedBytes} bytes; of ${totalBytes}, ${freeBytes} are free and ` +
      `${largestFreeBytes} of them in one piece`,
    {
      code: "ENOSPC",
      operation: "allocate",
      hint,
      details: { requestedBytes, count, totalBytes, usedBytes, freeBytes, largestFreeBytes },
    },
  );
}

/** Throws a TypeError unless `obj` is a memory object. */
export function checkMemoryObj(obj: unknown): asserts obj is MemoryObj {
  if (!(obj instanceof MemoryObj)) {
    throw new TypeError(`expected a MemoryObj, got ${describe(obj)}`);
  }
}

/** @throws {ShmError} EINVAL unless `obj` was made by one of the allocators. */
export function checkOwner(obj: MemoryObj, ...allocators: readonly unknown[]): void {
  if (allocators.includes(obj.allocator)) return;
  throw new ShmError(`${obj} was made by another allocator`, {
    code: "EINVAL",
    operation: "free memory object",
    hint: "Call refCountDown() on the object itself: it knows where it belongs",
  });
}

/** Frees different memory objects that the allocators made: all of them, or none and throws why not. */
export function freeBatch(objs: readonly MemoryObj[], ...allocators: readonly unknown[]): void {
  if (!Array.isArray(objs)) {
    throw new TypeError(`expected an array of MemoryObj, got ${describe(objs)}`);
  }
  objs.forEach(checkMemoryObj);
  if (new Set(objs).size !== objs.length) {
    throw new ShmError("the same object is in the list twice", {
      code: "EINVAL",
      operation: "free memory objects",
      hint: "List each object once",
    });
  }
  for (const obj of objs) {
    checkOwner(obj, ...allocators);
    obj.checkFreeable("free memory objects");
  }
  for (const obj of objs) obj.refCountDown();
}

/** `value` if it is a boolean, `fallback` if it is undefined. */
export function checkFlag(name: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== "boolean") {
    throw new TypeError(`${name} must be true or false, got ${describe(value)}`);
  }
  return value;
}

/**
 * `value` if it is a possible alignment in bytes, the default if it is undefined.
 * @param name of the option, as the caller spells it.
 */
export function checkAlign(name: string, value: unknown): number {
  const align = checkInteger(name, value ?? DEFAULT_ALIGN_BYTES, 8, 2 ** 30);
  if ((align & (align - 1)) !== 0) {
    throw new RangeError(`${name} must be a power of two, got ${align}`);
  }
  return align;
}

/** The memory that an allocator is given, checked. */
export function rangeOf(range: unknown): Located {
  const whole = range instanceof ShmSegment;
  const given = whole ? range.range() : (range ?? {}) as ShmRange;
  if (!(given.segment instanceof ShmSegment) || typeof given.hold !== "function") {
    throw new TypeError(`an allocator needs a ShmSegment or a ShmRange, got ${describe(range)}`);
  }
  return locate(given);
}
