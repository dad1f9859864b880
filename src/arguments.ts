// SPDX-License-Identifier: Apache-2.0
//
// Checks of what callers pass in. Neither runtime's FFI validates anything: a negative offset, a
// fraction or NaN would reach C as some other number. So every public function checks here first.

import { checkKnown } from "./nearest.ts";

/** `value` as it is, if it is a safe integer in [min, max]. */
export function checkInteger(
  name: string,
  value: unknown,
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
): number {
  if (typeof value !== "number") {
    throw new TypeError(`${name} must be a number, got ${describe(value)}`);
  }
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw new RangeError(`${name} must be an integer from ${min} to ${max}, got ${value}`);
  }
  return value;
}

/**
 * The size of a segment or pool in bytes: 1 or more. JavaScript shifts 32-bit numbers, so that
 * `1 << 31` is negative and `1 << 32` is 1: the first is refused, the second cannot be told from a
 * segment of one byte.
 */
export function checkSize(sizeBytes: unknown): number {
  const isShifted = typeof sizeBytes === "number" && Number.isInteger(sizeBytes) &&
    sizeBytes <= 0 && sizeBytes >= -(2 ** 31);
  if (!isShifted) return checkInteger("sizeBytes", sizeBytes, 1);
  throw new RangeError(
    `sizeBytes must be an integer from 1 to ${Number.MAX_SAFE_INTEGER}, got ${sizeBytes}; ` +
      "a shift overflows at 2 GiB: write 2 ** 31, not 1 << 31",
  );
}

/** Throws unless [offset, offset + byteLength) lies within [0, sizeBytes). */
export function checkRange(offset: number, byteLength: number, sizeBytes: number): void {
  checkInteger("offset", offset, 0, sizeBytes);
  checkInteger("byteLength", byteLength, 0);
  if (byteLength > sizeBytes - offset) {
    throw new RangeError(
      `offset ${offset} + byteLength ${byteLength} is beyond the segment's ${sizeBytes} bytes`,
    );
  }
}

/** `value` if it is one of `choices`, `fallback` if it is undefined. */
export function checkChoice<T extends string>(
  name: string,
  value: unknown,
  choices: readonly T[],
  fallback: T,
): T {
  if (value === undefined) return fallback;
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  const list = choices.map((choice) => `"${choice}"`).join(", ");
  throw new TypeError(`${name} must be one of ${list}, got ${describe(value)}`);
}

/** Throws a TypeError that names the first property of `options` that is not in `known`. */
export function checkKnownOptions(
  what: string,
  options: unknown,
  known: readonly string[],
): asserts options is Record<string, unknown> {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`${what} takes an options object, got ${describe(options)}`);
  }
  checkKnown(what, "option", Object.keys(options), known);
}

/** checkKnownOptions() for calls that come often: it costs nothing when nothing is given. */
export function checkCallOptions(what: string, options: object, known: readonly string[]): void {
  for (const name in options) {
    if (!known.includes(name)) checkKnown(what, "option", [name], known);
  }
}

const MAX_NAME_BYTES = 254;

/**
 * The name of a segment without its leading slash. A name is one path component of 1 to 254 bytes
 * of UTF-8, with or without one leading slash, and neither "." nor "..".
 */
export function checkSegmentName(name: unknown): string {
  if (typeof name !== "string") {
    throw new TypeError(`name must be a string, got ${describe(name)}`);
  }
  const bare = name.startsWith("/") ? name.slice(1) : name;
  const bytes = new TextEncoder().encode(bare).length;
  const fault = bare === ""
    ? "is empty"
    : bare === "." || bare === ".."
    ? "is a directory's"
    : bare.includes("/")
    ? "has more than one path component"
    : bare.includes("\0")
    ? "contains a NUL"
    : bytes > MAX_NAME_BYTES
    ? `has ${bytes} bytes, more than ${MAX_NAME_BYTES}`
    : "";
  if (fault) throw new RangeError(`segment name ${JSON.stringify(name)} ${fault}`);
  return bare;
}

/** A short rendering of any value for an error message. */
export function describe(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "string") return JSON.stringify(value.slice(0, 80));
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "object") return `an object (${value.constructor?.name ?? "no class"})`;
  if (typeof value === "symbol" || typeof value === "function") return `a ${typeof value}`;
  return String(value);
}
