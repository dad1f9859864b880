// SPDX-License-Identifier: Apache-2.0
//
// Where a server says that chunks are in its pool. Nothing of it is believed: a wrong server must not
// have this process read or write beside the pool, or the same bytes as two chunks.

import { ShmError } from "../errors.ts";
import type { ChunkLayout } from "./options.ts";

/** A chunk's place in the pool. */
export interface Slot {
  /** Which chunk of those that were asked for, from 0. */
  readonly index: number;
  readonly offset: number;
}

/** What a slot must be like. */
export interface Expected {
  readonly layout: ChunkLayout;
  /** As torch calls it. */
  readonly dtype: string;
  readonly poolBytes: number;
  /** How many were asked for. */
  readonly chunks: number;
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields | null {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? value as Fields
    : null;
}

const asText = (value: unknown) =>
  JSON.stringify(value, (_, one) => typeof one === "bigint" ? Number(one) : one)?.slice(0, 200);

/** Throws what is wrong with a slot. */
function checkSlot(operation: string, value: unknown, index: number, expected: Expected): Slot {
  const { layout, dtype, poolBytes } = expected;
  const fail = (fault: string, code: "EPROTO" | "EINVAL", hint?: string): never => {
    throw new ShmError(`LMCache says of chunk ${index} ${asText(value)}, ${fault}`, {
      code,
      operation,
      hint,
      details: { chunk: index, slot: value, poolBytes },
    });
  };
  const slot = fieldsOf(value);
  if (slot === null) return fail("which is no slot", "EPROTO");
  const { offset, length, shape } = slot;
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length)) {
    return fail("whose place is no place", "EPROTO");
  }
  const [at, bytes] = [offset as number, length as number];
  if (at < 0 || bytes < 0 || bytes > poolBytes - at) {
    return fail(`which is not within the pool of ${poolBytes} bytes`, "EPROTO");
  }
  const sameShape = Array.isArray(shape) && shape.length === layout.shape.length &&
    layout.shape.every((size, dimension) => shape[dimension] === size);
  if (!sameShape || slot.dtype !== dtype) {
    return fail(
      `and kvShape says [${layout.shape}] of ${dtype}`,
      "EINVAL",
      "The chunks of this model were stored by an engine with another shape: kvShape must be its",
    );
  }
  if (bytes !== layout.byteLength) {
    return fail(`which is not the length of its shape, ${layout.byteLength}`, "EPROTO");
  }
  return { index, offset: at };
}

function checkApart(operation: string, slots: readonly Slot[], byteLength: number): void {
  const sorted = slots.toSorted((a, b) => a.offset - b.offset);
  for (let at = 1; at < sorted.length; at++) {
    const [one, next] = [sorted[at - 1]!, sorted[at]!];
    if (next.offset - one.offset >= byteLength) continue;
    throw new ShmError(
      `LMCache says that chunks ${one.index} and ${next.index} are at ${one.offset} and ` +
        `${next.offset}, and each has ${byteLength} bytes`,
      { code: "EPROTO", operation },
    );
  }
}

/** The indices of the chunks to store, strictly ascending. */
function indicesOf(operation: string, value: unknown, slots: number, chunks: number): number[] {
  const fine = Array.isArray(value) && value.length === slots &&
    value.every((index, at) =>
      Number.isSafeInteger(index) && index < chunks && index > (at === 0 ? -1 : value[at - 1])
    );
  if (fine) return value;
  throw new ShmError(
    `LMCache says that ${slots} slots are for chunks ${asText(value)} of ${chunks}`,
    { code: "EPROTO", operation },
  );
}

/**
 * The slots of an answer: of all chunks that were asked for, or, with `chunk_indices`, of some.
 * @param context decoded, of any type
 * @throws {ShmError} EPROTO: no server of LMCache says that; EINVAL: kvShape is not the engine's
 */
export function readSlots(
  operation: string,
  context: unknown,
  which: "all" | "some",
  expected: Expected,
): Slot[] {
  const fields = fieldsOf(context);
  const list = fields?.slots;
  if (fields === null || !Array.isArray(list)) {
    throw new ShmError(`LMCache sent no slots, but ${asText(context)}`, {
      code: "EPROTO",
      operation,
      hint: "It serves chunks in the pool only when it was started with --shm-name and " +
        "--no-l1-use-lazy",
    });
  }
  if (which === "all" && list.length !== expected.chunks) {
    throw new ShmError(`LMCache sent ${list.length} slots for ${expected.chunks} chunks`, {
      code: "EPROTO",
      operation,
    });
  }
  const indices = which === "all"
    ? list.keys().toArray()
    : indicesOf(operation, fields.chunk_indices, list.length, expected.chunks);
  const slots = list.map((slot, at) => checkSlot(operation, slot, indices[at]!, expected));
  checkApart(operation, slots, expected.layout.byteLength);
  return slots;
}
