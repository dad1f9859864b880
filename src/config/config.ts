// SPDX-License-Identifier: Apache-2.0
//
// Configuration from code, and from what LMCache calls extra_config. load.ts reads files.

import type { Entry } from "./entries.ts";
import { configError, show } from "./problems.ts";
import { resolve } from "./resolve.ts";
import type { LmshmConfig } from "./settings.ts";

export { CACHE_POLICY_NAMES } from "./settings.ts";
export type { LmshmConfig };

/**
 * A configuration from code alone: defaults for every field that is not given.
 * @throws {ShmError} ECONFIG as loadConfig().
 */
export function createConfig(fields: Partial<LmshmConfig> = {}): LmshmConfig {
  return resolve([], checkFields(fields)).config;
}

/**
 * What LMCache's extra_config alone describes, as an object that is there already.
 * @throws {ShmError} ECONFIG as loadConfig().
 */
export function configFromExtra(extra: Readonly<Record<string, unknown>>): LmshmConfig {
  if (typeof extra !== "object" || extra === null || Array.isArray(extra)) {
    throw configError(`extra_config is ${show(extra)}; accepted is an object`, []);
  }
  const entries = Object.entries(extra).map(([key, value]): Entry => (
    { section: "extra_config", key, value, place: "extra_config" }
  ));
  return resolve([entries], {}).config;
}

/** @throws {ShmError} ECONFIG unless it is an object. */
export function checkFields(fields: unknown): Partial<LmshmConfig> {
  if (typeof fields === "object" && fields !== null && !Array.isArray(fields)) return fields;
  throw configError(`code: the fields are ${show(fields)}; accepted is an object`, []);
}
