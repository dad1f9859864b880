// SPDX-License-Identifier: Apache-2.0
//
// What a bundle carries of the built parts: "lmshm/embed" registers them, locate.ts looks for them.

import type { Part } from "./locate.ts";

/**
 * True in what `bun build --compile` makes. Where a module lies does not say it: in one of bytecode
 * each is said to lie where it did when it was built.
 */
export const isExecutable: boolean = (globalThis as {
  readonly Bun?: { readonly isStandaloneExecutable?: boolean };
}).Bun?.isStandaloneExecutable === true;

/** The paths of a platform's parts, as the bundler gives them. */
export type EmbeddedParts = Readonly<Record<Part, string>>;

const embedded = new Map<string, EmbeddedParts>();
let expected = false;

/** Says that this is a bundle that wants to carry parts, whether it has any or not. */
export function expectEmbedded(): void {
  expected = true;
}

/** Whether the program is bundled and imports "lmshm/embed". */
export function expectsEmbedded(): boolean {
  return expected;
}

/** Makes the parts for a platform known to locate(). Nothing is read before it is needed. */
export function registerEmbedded(platform: string, parts: EmbeddedParts): void {
  embedded.set(platform, parts);
}

/** By platform. */
export function embeddedParts(): ReadonlyMap<string, EmbeddedParts> {
  return embedded;
}
