// SPDX-License-Identifier: Apache-2.0
//
// Takes samples of something and of its limits in turns: each round takes one of each and begins with
// another one, so that a slow moment and the order of things hit all alike. A first round warms up; it
// also tells how long a round takes, and so how much a sample may move: a slow disk gets smaller samples
// and no more time.

import { setTimeout as pause } from "node:timers/promises";
import type { Sampled, Unit } from "./result.ts";

/** Why something cannot be measured here. */
export class NotHere extends Error {}

export interface Contender {
  readonly name: string;
  /**
   * Prepares, measures, checks and cleans up.
   * @param count how many objects; at most Plan.most
   * @returns in the plan's unit
   */
  sample(count: number): Promise<number>;
}

export interface Plan {
  readonly name: string;
  readonly unit: Unit;
  /** Seconds, of the whole. */
  readonly budget: number;
  /** Objects of a sample: as many as there are, or fewer on what is slow. */
  readonly most: number;
  readonly least: number;
  readonly ours: Contender;
  readonly limits: readonly Contender[];
}

export interface SamplerOptions {
  /** Of the budgets. */
  readonly scale: number;
  readonly beside: number;
  readonly signal: AbortSignal;
  /** What is going on, for a line of progress. */
  readonly show: (text: string) => void;
}

const LEAST_ROUNDS = 3;
const MOST_ROUNDS = 25;
/** Rounds that the budget should be enough for. */
const WANTED_ROUNDS = 6;

export async function sampled(plan: Plan, options: SamplerOptions): Promise<Sampled> {
  const { name, unit, ours, limits } = plan;
  const contenders = [ours, ...limits];
  const taken = contenders.map((): number[] => []);
  const facts = { name, unit, beside: options.beside };
  const budgetMs = plan.budget * 1000 * options.scale;
  let count = plan.most;
  let started = performance.now();
  const round = async (number: number) => {
    for (let turn = 0; turn < contenders.length; turn++) {
      const index = (number + turn) % contenders.length;
      const contender = contenders[index]!;
      options.signal.throwIfAborted();
      options.show(name);
      // Lets Ctrl-C be heard: what plain calls do blocks.
      await pause(1);
      const value = await contender.sample(count);
      if (number > 0) taken[index]!.push(value);
    }
  };
  try {
    await round(0);
    const roundMs = performance.now() - started;
    const affordable = Math.floor(count * budgetMs / WANTED_ROUNDS / roundMs);
    count = Math.max(plan.least, Math.min(count, affordable));
    started = performance.now();
    for (let number = 1; number <= MOST_ROUNDS; number++) {
      if (number > LEAST_ROUNDS && performance.now() - started > budgetMs) break;
      await round(number);
    }
  } catch (error) {
    if (!(error instanceof NotHere)) throw error;
    return { ...facts, samples: [], limits: [], skipped: error.message };
  }
  return {
    ...facts,
    samples: taken[0]!,
    limits: limits.map((limit, index) => ({ name: limit.name, samples: taken[index + 1]! })),
    skipped: null,
  };
}
