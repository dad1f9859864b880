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

/** Of each what it gives, or why it failed; once all have ended. Never rejects. */
export async function outcomesOf<T>(work: readonly Promise<T>[]): Promise<Outcome<T>[]> {
  return (await Promise.allSettled(work)).map((one) =>
    one.status === "fulfilled" ? one.value : new Failed(one.reason)
  );
}
