// SPDX-License-Identifier: Apache-2.0
//
// What is remembered with a chunk in a store, as small named texts: shape, dtype and format. And
// the answer to the question for which it is remembered: is what was found the chunk that was asked
// for? Its length, its checksum and its key are the worker's business.
//
//     shape=2,32,256,1024  dtype=bfloat16  format=KV_2LTD
//
// An object of several tensors has a list in each, with "+" between: shape=2,1,8,64+1,1,8,16
// dtype=half+uint8. Files that others wrote (LMCache, protocol version 1) have none of it; then the
// length alone must do. Pure functions.

import type { DTypeName } from "../memory/dtype.ts";
import { isBinary, type MemoryFormat } from "../memory/memory_format.ts";
import { TensorLayout } from "../memory/tensor_layout.ts";

/** Names (1 to 32 of a-z, 0-9 and "_") and their texts. */
export type Metadata = Readonly<Record<string, string>>;

/** No metadata. */
export const NO_METADATA: Metadata = Object.freeze({});

/** Between the tensors of one object. */
const TENSORS = "+";
const DIMENSIONS = ",";
/**
 * The most that a layout may take of what a file can carry (ext4: about 4,000 bytes, key included).
 * Some hundred tensors; an object of more is stored without.
 */
const MAX_BYTES = 2048;
const INTEGER = /^[1-9][0-9]{0,15}$/;

/** Layouts come again and again, and writing one takes longer than looking it up. */
const written = new WeakMap<TensorLayout, Metadata>();

/** What to remember of an object that looks so; NO_METADATA for one of too many tensors. */
export function layoutMetadata(layout: TensorLayout): Metadata {
  let metadata = written.get(layout);
  if (metadata === undefined) {
    const shape = layout.shapes.map((one) => one.join(DIMENSIONS)).join(TENSORS);
    const dtype = layout.dtypes.join(TENSORS);
    const { format } = layout;
    const fits = shape.length + dtype.length + format.length <= MAX_BYTES;
    metadata = fits ? Object.freeze({ shape, dtype, format }) : NO_METADATA;
    written.set(layout, metadata);
  }
  return metadata;
}

/** Whether there is nothing in it but a layout, or not even that. */
export function isLayout(metadata: Metadata): boolean {
  return Object.keys(metadata).every((name) =>
    name === "shape" || name === "dtype" || name === "format"
  );
}

/**
 * What to store with the bytes of `range`: what the caller says, and the layout if it has one,
 * which wins where they disagree.
 */
export function metadataOf(range: object, given: Metadata = NO_METADATA): Metadata {
  const { layout } = range as { readonly layout?: unknown };
  if (!(layout instanceof TensorLayout)) return given;
  const metadata = layoutMetadata(layout);
  return given === NO_METADATA ? metadata : { ...given, ...metadata };
}

/** A chunk that was found: how it looks, or why it is not what was asked for. */
type ChunkCheck =
  | { readonly layout: TensorLayout; readonly fault: null }
  | { readonly layout: null; readonly fault: string };

/**
 * Whether an object of `byteLength` bytes, stored with `metadata`, is a chunk of the layout
 * `wanted`: the same tensors in the same format, of as many tokens or fewer (bytes, in the binary
 * formats). What the metadata does not say is taken from `wanted` and the length.
 */
export function checkChunk(
  metadata: Metadata,
  byteLength: number,
  wanted: TensorLayout,
): ChunkCheck {
  try {
    return checkStored(metadata, byteLength, wanted);
  } catch (error) {
    // Metadata that no layout could have, or a length that is no whole number of tokens.
    return fault(error instanceof Error ? error.message : String(error));
  }
}

function fault(text: string): ChunkCheck {
  return { layout: null, fault: text };
}

function checkStored(metadata: Metadata, byteLength: number, wanted: TensorLayout): ChunkCheck {
  if (byteLength > wanted.byteLength) {
    return fault(`it has ${byteLength} bytes, and ${wanted} has ${wanted.byteLength}`);
  }
  const { shape, dtype, format = wanted.format } = metadata;
  if (format !== wanted.format) return fault(`its format is ${format}, not ${wanted.format}`);
  const dtypes = dtype?.split(TENSORS) ?? wanted.dtypes;
  if (dtypes.join() !== wanted.dtypes.join()) {
    return fault(`its dtype is ${dtype}, not ${wanted.dtypes.join(TENSORS)}`);
  }
  if (shape === undefined) return { layout: wanted.withByteLength(byteLength), fault: null };
  const layout = sameLayout(wanted, shape) ? wanted : storedLayout(shape, dtypes, format);
  if (layout.byteLength !== byteLength) {
    return fault(`${layout} has ${layout.byteLength} bytes, and the object ${byteLength}`);
  }
  const asked = layout === wanted ? wanted : partOf(wanted, layout);
  return asked.equals(layout)
    ? { layout: asked, fault: null }
    : fault(`it is ${layout}, and ${wanted} was asked for`);
}

/** Most chunks are full, and need no layout of their own. */
function sameLayout(wanted: TensorLayout, shape: string): boolean {
  return layoutMetadata(wanted)["shape"] === shape;
}

/** @throws {TypeError | RangeError} for what is no layout. */
function storedLayout(shape: string, dtypes: readonly string[], format: string): TensorLayout {
  const shapes = shape.split(TENSORS).map((one) =>
    one.split(DIMENSIONS).map((size) => {
      if (INTEGER.test(size)) return Number(size);
      throw new RangeError(`its shape ${JSON.stringify(shape.slice(0, 80))} is no list of sizes`);
    })
  );
  if (shapes.length !== dtypes.length) {
    throw new RangeError(`it has ${shapes.length} tensors, not ${dtypes.length}`);
  }
  return TensorLayout.of({
    shape: shapes,
    dtype: dtypes as readonly DTypeName[],
    format: format as MemoryFormat,
  });
}

/** `wanted` with as many tokens, or bytes, as `stored` has. */
function partOf(wanted: TensorLayout, stored: TensorLayout): TensorLayout {
  if (isBinary(wanted.format)) return wanted.withByteLength(stored.byteLength);
  const tokens = stored.numTokens;
  return tokens === null || wanted.tokenBytes === null ? wanted : wanted.withTokens(tokens);
}
