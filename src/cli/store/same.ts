// SPDX-License-Identifier: Apache-2.0
//
// Whether a copy is there already, by what two stores tell of an object without reading it: always its
// length; its checksum and its metadata where both keep them; and where one keeps no checksum, that the
// copy is not older, where both tell times. Pure.

import { isDeepStrictEqual } from "node:util";
import type { Metadata, ObjectStat } from "../../mod.ts";

export type Compared = "length" | "checksum" | "metadata" | "time";

/** What is said once where a copy is taken for one without a checksum. */
export const NO_CHECKSUM =
  "one of both keeps no checksums: what TO has with the same length, and no " +
  "older where both keep times, is taken for a copy; --force copies it again";

/** A layout of a memory object, which some stores keep that keep nothing else. */
const LAYOUT = ["shape", "dtype", "format"] as const;

/** @returns what was compared and is equal; null: something is not. */
export function sameness(
  one: ObjectStat,
  copy: ObjectStat,
  keepsMetadata: boolean,
): Compared[] | null {
  if (one.byteLength !== copy.byteLength) return null;
  const compared: Compared[] = ["length"];
  if (one.crc32c !== null && copy.crc32c !== null) {
    if (one.crc32c !== copy.crc32c) return null;
    compared.push("checksum");
  } else if (one.mtimeMs > 0 && copy.mtimeMs > 0) {
    if (copy.mtimeMs < one.mtimeMs) return null;
    compared.push("time");
  }
  if (!keepsMetadata) return compared;
  if (!isDeepStrictEqual({ ...one.metadata }, { ...copy.metadata })) return null;
  compared.push("metadata");
  return compared;
}

/** Of an object's metadata the names that its copy has not. */
export function lostNames(
  { metadata }: { readonly metadata: Metadata },
  copy: ObjectStat | null,
  keepsMetadata: boolean,
): string[] {
  if (keepsMetadata) return [];
  return Object.keys(metadata).filter((name) => copy?.metadata[name] !== metadata[name]);
}

/** What may be put where there is no place for metadata. */
export function layoutOf(metadata: Metadata): Metadata {
  return Object.fromEntries(
    LAYOUT.flatMap((name) => metadata[name] === undefined ? [] : [[name, metadata[name]]]),
  );
}
