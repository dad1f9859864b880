// SPDX-License-Identifier: Apache-2.0
//
// What a bundle carries of the built parts: "lmshm/embed" registers them, locate.ts looks for them.

import type { Part } from "./locate.ts";

/** The paths of a platform's parts, as the bundler gives them. */
export type EmbeddedParts = Readonly<Record<Part, string>>;

const embedded = new Map<string, EmbeddedParts>();

/** Makes the parts for a platform known to locate(). Nothing is read before it is needed. */
export function registerEmbedded(platform: string, parts: EmbeddedParts): void {
  embedded.set(platform, parts);
}

/** By platform; empty where the program does not import "lmshm/embed", or is no bundle. */
export function embeddedParts(): ReadonlyMap<string, EmbeddedParts> {
  return embedded;
}
