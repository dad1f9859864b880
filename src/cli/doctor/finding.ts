// SPDX-License-Identifier: Apache-2.0
//
// What lmshm doctor finds, one thing at a time.

import { formatBytes } from "../format.ts";

export type Level = "ok" | "note" | "warning" | "error";

export interface Finding {
  /** Stable, for programs. */
  readonly id: string;
  readonly level: Level;
  readonly what: string;
  /** Null, like `fix`, where nothing is to be done. */
  readonly follows: string | null;
  readonly fix: string | null;
}

/** A finding that all is well. */
export function ok(id: string, what: string): Finding {
  return { id, level: "ok", what, follows: null, fix: null };
}

/** A finding of something else. */
export function finding(
  id: string,
  level: Exclude<Level, "ok">,
  what: string,
  follows: string | null = null,
  fix: string | null = null,
): Finding {
  return { id, level, what, follows, fix };
}

/** Bytes, or that there is no limit. */
export function size(bytes: number): string {
  return bytes === Infinity ? "no limit" : formatBytes(bytes);
}
