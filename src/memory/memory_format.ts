// SPDX-License-Identifier: Apache-2.0
//
// How the numbers of a chunk are laid out: LMCache's MemoryFormat. A format says how many
// dimensions a tensor has, which of them are fixed, and which one counts tokens; everything else of
// a shape is the model's.

import { describe } from "../arguments.ts";

/**
 * How the numbers of a chunk are laid out:
 * - UNDEFINED: Any shape; nothing is known of it.
 * - KV_2LTD: [2, num_layers, num_tokens, hidden_dim]: keys, then values, of all layers.
 * - KV_T2D: [num_tokens, 2, hidden_dim]: one layer, token by token.
 * - KV_2TD: [2, num_tokens, hidden_dim]: one layer, keys, then values.
 * - BINARY: [num_bytes] in the pool: compressed or otherwise opaque.
 * - BINARY_BUFFER: [num_bytes] in ordinary memory of the process.
 * - KV_MLA_FMT: [1, num_layers, num_tokens, aligned_head_size]: the joint vector of latent attention.
 * - EC_TD: [num_tokens, hidden_dim]: encoder cache.
 * - HS_TD: [num_tokens, hidden_dim]: hidden states.
 */
export type MemoryFormat =
  | "UNDEFINED"
  | "KV_2LTD"
  | "KV_T2D"
  | "KV_2TD"
  | "BINARY"
  | "BINARY_BUFFER"
  | "KV_MLA_FMT"
  | "EC_TD"
  | "HS_TD";

/** The formats by name; their values are their names, which is what metadata on disk carries. */
export const MemoryFormat: { readonly [Name in MemoryFormat]: Name } = Object.freeze({
  UNDEFINED: "UNDEFINED",
  KV_2LTD: "KV_2LTD",
  KV_T2D: "KV_T2D",
  KV_2TD: "KV_2TD",
  BINARY: "BINARY",
  BINARY_BUFFER: "BINARY_BUFFER",
  KV_MLA_FMT: "KV_MLA_FMT",
  EC_TD: "EC_TD",
  HS_TD: "HS_TD",
});

interface FormatFacts {
  /** LMCache's number for it, as in its remote metadata. */
  readonly number: number;
  /** A number is a dimension that always has that size. Null: any shape. */
  readonly dimensions: readonly (string | number)[] | null;
  readonly tokenDimension: number | null;
}

const TOKENS = "num_tokens";

function facts(number: number, dimensions: readonly (string | number)[] | null): FormatFacts {
  const token = dimensions?.indexOf(TOKENS) ?? -1;
  return { number, dimensions, tokenDimension: token < 0 ? null : token };
}

const TABLE: Readonly<Record<MemoryFormat, FormatFacts>> = {
  UNDEFINED: facts(0, null),
  KV_2LTD: facts(1, [2, "num_layers", TOKENS, "hidden_dim"]),
  KV_T2D: facts(2, [TOKENS, 2, "hidden_dim"]),
  KV_2TD: facts(3, [2, TOKENS, "hidden_dim"]),
  BINARY: facts(4, ["num_bytes"]),
  BINARY_BUFFER: facts(5, ["num_bytes"]),
  KV_MLA_FMT: facts(6, [1, "num_layers", TOKENS, "aligned_head_size"]),
  EC_TD: facts(7, [TOKENS, "hidden_dim"]),
  HS_TD: facts(8, [TOKENS, "hidden_dim"]),
};

/** All formats, in the order of LMCache's numbers. */
export const MEMORY_FORMATS: readonly MemoryFormat[] = Object.freeze(
  Object.keys(TABLE) as MemoryFormat[],
);

/**
 * The format that `value` names, or that has LMCache's number `value`.
 * @throws {TypeError} for anything else, naming what is accepted.
 */
export function parseMemoryFormat(value: unknown): MemoryFormat {
  if (typeof value === "string" && Object.hasOwn(TABLE, value)) return value as MemoryFormat;
  if (typeof value === "number") {
    const named = MEMORY_FORMATS.find((format) => TABLE[format].number === value);
    if (named) return named;
  }
  throw new TypeError(
    `memory format must be one of ${MEMORY_FORMATS.join(", ")} or its number; ` +
      `got ${describe(value)}`,
  );
}

/**
 * Which dimension of a shape counts tokens; null for the formats that have none.
 *
 * LMCache's token_dim() says 1 for KV_T2D and 0 for KV_2TD, the reverse of the shapes that it
 * documents and uses, and 0 where there are no tokens; this function follows the shapes.
 */
export function tokenDimension(format: MemoryFormat): number | null {
  return TABLE[format].tokenDimension;
}

/** True for the formats whose objects are plain bytes. */
export function isBinary(format: MemoryFormat): boolean {
  return format === MemoryFormat.BINARY || format === MemoryFormat.BINARY_BUFFER;
}

/** "[2, num_layers, num_tokens, hidden_dim]"; "any shape" for UNDEFINED. */
export function describeShapeOf(format: MemoryFormat): string {
  const { dimensions } = TABLE[format];
  return dimensions === null ? "any shape" : `[${dimensions.join(", ")}]`;
}

/** True when a tensor of `format` can have `shape`. */
export function shapeFits(format: MemoryFormat, shape: readonly number[]): boolean {
  const { dimensions } = TABLE[format];
  if (dimensions === null) return true;
  return dimensions.length === shape.length &&
    dimensions.every((d, i) => typeof d === "string" || d === shape[i]);
}
