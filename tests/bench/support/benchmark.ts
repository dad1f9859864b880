// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark is to the program, and what the program lends it.

import type { Section } from "./results.ts";

export interface Context {
  /** Less of everything: smaller sizes, fewer rounds. */
  readonly quick: boolean;
  /** In a directory, where a benchmark is about that; null: as it likes. */
  readonly objects: number | null;
  /** A new directory for files, removed at the end. */
  readonly directory: string;
  /** What is being measured now, for a person at a terminal. */
  readonly show: (text: string) => void;
}

export interface Benchmark {
  /** For --only. */
  readonly name: string;
  /** One line for --list. */
  readonly summary: string;
  run(context: Context): Promise<Section>;
}
