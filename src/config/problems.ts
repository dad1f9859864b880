// SPDX-License-Identifier: Apache-2.0
//
// What is wrong with a configuration, gathered: somebody who fixes a file wants all of it at once.

import { ShmError } from "../errors.ts";

/** One thing that is wrong with a configuration. */
export interface ConfigProblem {
  /** As it is written, e.g. "chunk_sise". */
  readonly key: string;
  /** Absent where the value is not to blame. */
  readonly value?: unknown;
  /** "lmcache.yaml:3", "environment variable LMCACHE_CHUNK_SIZE", "code". */
  readonly place: string;
  /** A sentence without its full stop, e.g. "chunk_sise is no key; did you mean chunk_size?". */
  readonly message: string;
  /** The valid key that was probably meant. */
  readonly nearest?: string;
}

export class Problems {
  readonly #found: ConfigProblem[] = [];

  add(problem: ConfigProblem): void {
    this.#found.push(problem);
  }

  /** @throws {ShmError} ECONFIG with all problems, if there are any. */
  throwIfAny(): void {
    const found = this.#found;
    if (found.length === 0) return;
    const lines = found.map(({ place, message }) => `${place}: ${message}`);
    const what = lines.length === 1
      ? lines[0]!
      : `${lines.length} problems:\n  ${lines.join("\n  ")}`;
    throw configError(what, found);
  }
}

export function configError(
  what: string,
  problems: readonly ConfigProblem[],
  cause?: unknown,
): ShmError {
  return new ShmError(what, {
    code: "ECONFIG",
    operation: "read configuration",
    details: { problems },
    ...(cause === undefined ? {} : { cause }),
  });
}

/** An extra_config that is no mapping. */
export function notAMapping(place: string, value: unknown): ShmError {
  const message = `extra_config is ${show(value)}; accepted is a mapping of keys to values`;
  return configError(`${place}: ${message}`, [{ key: "extra_config", value, place, message }]);
}

/** A value as a message shows it: short, and on one line. */
export function show(value: unknown): string {
  if (typeof value === "bigint") return `${value}`;
  if (typeof value === "number" || value === undefined) return String(value);
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch {
    // It refers to itself, or holds what JSON has not.
  }
  text ??= String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
