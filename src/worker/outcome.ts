// SPDX-License-Identifier: Apache-2.0
//
// What became of one of many things that were asked for together: a value, whatever it is, because
// one that failed does not stop the others.

/** Why it was not done: what asking for it alone would have thrown. */
export class Failed {
  readonly error: unknown;

  constructor(error: unknown) {
    this.error = error;
  }
}

/** What asking for it alone would have given. */
export type Outcome<T> = T | Failed;

/**
 * What `work` gives for 0, 1, ... up to `count`, or why it failed, once all have ended. Begun in that
 * order, at most `atOnce` at a time. Never rejects.
 */
export async function outcomesOf<T>(
  count: number,
  atOnce: number,
  work: (index: number) => Promise<T>,
): Promise<Outcome<T>[]> {
  const outcomes = new Array<Outcome<T>>(count);
  let next = 0;
  const some = async () => {
    while (next < count) {
      const index = next++;
      try {
        outcomes[index] = await work(index);
      } catch (error) {
        outcomes[index] = new Failed(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, some));
  return outcomes;
}

/** The values. @throws the first of the errors. */
export function valuesOf<T>(outcomes: readonly Outcome<T>[]): T[] {
  return outcomes.map((outcome) => {
    if (outcome instanceof Failed) throw outcome.error;
    return outcome;
  });
}
