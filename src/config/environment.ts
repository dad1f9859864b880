// SPDX-License-Identifier: Apache-2.0
//
// Environment variables as LMCache has them, LMCACHE_ and the key in upper case, as entries.
// LMCACHE_EXTRA_CONFIG is a JSON object; LMCACHE_CONFIG_FILE names a file and is not read here.

import type { Entry } from "./entries.ts";
import { FOREIGN_KEYS, FOREIGN_PREFIX, FOREIGN_VARIABLES } from "./lmcache_keys.ts";
import { nearest } from "../nearest.ts";
import { configError, notAMapping } from "./problems.ts";
import { SETTING_NAMES, SETTINGS } from "./settings.ts";

/** Variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>;

const PREFIX = "LMCACHE_";
export const FILE_VARIABLE = "LMCACHE_CONFIG_FILE";
const EXTRA_VARIABLE = "LMCACHE_EXTRA_CONFIG";

/** "environment variable LMCACHE_CHUNK_SIZE" for "chunk_size". */
function placeOfVariable(key: string): string {
  return `environment variable ${PREFIX}${key.toUpperCase()}`;
}

/** @throws {ShmError} ECONFIG when LMCACHE_EXTRA_CONFIG is no JSON object. */
export function readEnvironment(environment: Environment): Entry[] {
  const entries: Entry[] = [];
  for (const [variable, text] of Object.entries(environment)) {
    if (!variable.startsWith(PREFIX) || text === undefined) continue;
    if (variable === FILE_VARIABLE || FOREIGN_VARIABLES.has(variable)) continue;
    if (variable === EXTRA_VARIABLE) {
      entries.push(...readExtra(text));
      continue;
    }
    const key = variable.slice(PREFIX.length).toLowerCase();
    if (!belongsHere(key)) continue;
    entries.push({ section: "top", key, value: unquoted(text), place: placeOfVariable(key) });
  }
  return entries;
}

/** True when the environment has an extra_config of its own, which then is the only one. */
export function hasExtra(environment: Environment): boolean {
  return (environment[EXTRA_VARIABLE] ?? "") !== "";
}

/** Whether a variable is a key, or nearly one; programs around LMCache have variables of their own. */
function belongsHere(key: string): boolean {
  if (FOREIGN_KEYS.has(key) || key.startsWith(FOREIGN_PREFIX)) return true;
  const keys = SETTING_NAMES.map((name) => SETTINGS[name])
    .filter(({ section }) => section === "top").map((setting) => setting.key);
  return nearest(key, [...keys, "extra_config"]) !== null;
}

function readExtra(text: string): Entry[] {
  if (text === "") return [];
  const place = placeOfVariable("extra_config");
  let extra: unknown;
  try {
    extra = JSON.parse(unquoted(text));
  } catch (cause) {
    // The text is not shown: it may hold secrets of other parts.
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `extra_config must be a JSON object such as {"shm_name": "/kv"}, and is not ` +
      `JSON: ${reason.split("\n")[0]!.slice(0, 80)}`;
    throw configError(`${place}: ${message}`, [{ key: "extra_config", place, message }], cause);
  }
  if (extra === null) return [];
  if (typeof extra !== "object" || Array.isArray(extra)) throw notAMapping(place, extra);
  return Object.entries(extra).map(([key, value]) => ({
    section: "extra_config",
    key,
    value,
    place: `${place}, key ${key}`,
  }));
}

/** LMCache takes one pair of quotes away, which shells and unit files often leave. */
function unquoted(text: string): string {
  const trimmed = text.trim();
  const quote = trimmed[0];
  const quoted = trimmed.length >= 2 && trimmed.endsWith(quote!) &&
    (quote === '"' || quote === "'");
  return quoted ? trimmed.slice(1, -1) : trimmed;
}
