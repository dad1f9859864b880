// SPDX-License-Identifier: Apache-2.0
//
// How much a test does that could go on for ever: random operations, soaks, storms. Every day a short
// form, which finds what is broken; in CI, or with LMSHM_LONG_TESTS=true, the long one, which finds
// what seldom happens.

import process from "node:process";

export const LONG: boolean = process.env["LMSHM_LONG_TESTS"] === "true";

/** How many, by the form. */
export function effort(short: number, long: number): number {
  return LONG ? long : short;
}
