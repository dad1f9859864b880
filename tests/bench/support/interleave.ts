// SPDX-License-Identifier: Apache-2.0
//
// Takes samples of several contenders in turns: each round takes one of each, and each round begins
// with another one, so that a slow moment of the machine and the order of things hit all alike. A
// first round warms up and is not counted.

import type { Sample } from "./results.ts";

export interface Contender {
  readonly name: string;
  readonly note: string;
  /** Prepares, measures, verifies and cleans up one sample. */
  sample(): Promise<Sample>;
}

/**
 * @param rounds how many samples of each are kept
 * @param onStep called before each sample, for the progress line
 * @param warmUp false: what is to be warm is so already, and each sample is dear
 * @returns the samples of each contender, in the order of the contenders
 */
export async function interleave(
  contenders: readonly Contender[],
  rounds: number,
  onStep: (text: string) => void,
  warmUp = true,
): Promise<Sample[][]> {
  const kept: Sample[][] = contenders.map(() => []);
  for (let round = warmUp ? 0 : 1; round <= rounds; round++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const index = (round + turn) % contenders.length;
      const { name, sample } = contenders[index]!;
      onStep(`${round === 0 ? "warm-up" : `round ${round} of ${rounds}`}: ${name}`);
      const taken = await sample();
      if (round > 0) kept[index]!.push(taken);
    }
  }
  return kept;
}
