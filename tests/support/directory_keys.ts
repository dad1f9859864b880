// SPDX-License-Identifier: Apache-2.0
//
// The keys of programs that share a directory, by number. Every third is one that is stored under a
// hash, with the key in a file beside it.

/** Numbers below it are everybody's. */
export const SHARED_KEYS = 24;
/** Callers at a time of each user. */
export const LANES = 4;
/** Of each lane of each user, from SHARED_KEYS on. */
export const OWN_KEYS = 6;
const STABLE_KEYS = 6;

export function keyNameOf(key: number): string {
  const name = `${key < SHARED_KEYS ? "shared" : "own"}/model@1@0@${key}@half`;
  return key % 3 === 0 ? name.padEnd(key % 2 === 0 ? 280 : 400, "y") : name;
}

/** Keys that are put once, before anything else, and never touched. */
export function stableKeys(): string[] {
  return Array.from(
    { length: STABLE_KEYS },
    (_, number) => number % 2 === 0 ? `stable/${number}` : `stable/${number}`.padEnd(300, "z"),
  );
}
