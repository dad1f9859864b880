// SPDX-License-Identifier: Apache-2.0
//
// Configuration from a file in LMCache's spelling, from environment variables, and from code. This is
// the only module that reads YAML.
//
// Precedence, highest first: fields from code; environment variables; the file; defaults. As in
// LMCache, LMCACHE_EXTRA_CONFIG replaces the file's extra_config as a whole. Of one source, what
// remote_url says wins over the keys that say the same.

import process from "node:process";
import { throwIfRefused } from "../permission.ts";
import { checkFields, type LmshmConfig } from "./config.ts";
import type { Entry } from "./entries.ts";
import { type Environment, FILE_VARIABLE, hasExtra, readEnvironment } from "./environment.ts";
import { show } from "./problems.ts";
import { resolve } from "./resolve.ts";
import { parseYaml, readYamlFile } from "./yaml_file.ts";

/** @throws {ShmError} EPERM: Deno does not allow looking at it. */
function wholeEnvironment(): Environment {
  try {
    return { ...process.env };
  } catch (error) {
    throwIfRefused(error, "reading the environment", "load configuration");
    throw error;
  }
}

/** Where a configuration comes from. */
export interface ConfigSources {
  /** A YAML or JSON file; default: the one that LMCACHE_CONFIG_FILE names. Null: none. */
  file?: string | null | undefined;
  /** Text instead of a file, e.g. from a secret store. Excludes `file`. */
  text?: string | undefined;
  /** Default process.env. Null: none. */
  environment?: Environment | null | undefined;
  /** Fields that win over everything else. */
  overrides?: Partial<LmshmConfig> | undefined;
}

/** A configuration, and what there is to say about it. */
export interface LoadedConfig {
  /** What is configured. */
  readonly config: LmshmConfig;
  /** What a person should know: keys without effect, what won over what. Empty mostly. */
  readonly notices: readonly string[];
  /** The file that was read; null when there was none. */
  readonly file: string | null;
}

const SOURCE_NAMES = ["file", "text", "environment", "overrides"];

/**
 * Reads the file once, synchronously.
 * @throws {ShmError} ECONFIG, whose message and `details.problems` name every key at fault, its
 *   value and place, and what would be accepted; ENOENT and the like when the file cannot be read.
 */
export function loadConfig(sources: ConfigSources = {}): LoadedConfig {
  if (typeof sources !== "object" || sources === null) {
    throw new TypeError(`loadConfig takes an options object, got ${show(sources)}`);
  }
  for (const name of Object.keys(sources)) {
    if (SOURCE_NAMES.includes(name)) continue;
    throw new TypeError(`loadConfig has no option "${name}"; it has ${SOURCE_NAMES.join(", ")}`);
  }
  const { text, overrides = {} } = sources;
  const environment = sources.environment === undefined
    ? wholeEnvironment()
    : sources.environment ?? {};
  if (text !== undefined && sources.file !== undefined && sources.file !== null) {
    throw new TypeError("loadConfig takes file or text, not both");
  }
  const { file, because } = text !== undefined
    ? { file: null, because: "" }
    : fileOf(sources.file, environment);
  const fromFile = text !== undefined
    ? parseYaml(text, "configuration text")
    : file === null
    ? []
    : readYamlFile(file, because);
  const { entries, notices } = withoutReplaced(fromFile, environment);
  const resolved = resolve([entries, readEnvironment(environment)], checkFields(overrides));
  return { ...resolved, notices: [...notices, ...resolved.notices], file };
}

function fileOf(
  file: string | null | undefined,
  environment: Environment,
): { file: string | null; because: string } {
  if (file === null) return { file, because: "" };
  if (file !== undefined) {
    if (typeof file === "string" && file !== "") return { file, because: "the caller" };
    throw new TypeError(`file must be a path, got ${show(file)}`);
  }
  return { file: environment[FILE_VARIABLE] || null, because: FILE_VARIABLE };
}

function withoutReplaced(entries: Entry[], environment: Environment): {
  entries: Entry[];
  notices: string[];
} {
  const replaced = hasExtra(environment)
    ? entries.filter(({ section }) => section === "extra_config")
    : [];
  if (replaced.length === 0) return { entries, notices: [] };
  const keys = replaced.map(({ key, place }) => `${key} (${place})`).join(", ");
  return {
    entries: entries.filter(({ section }) => section !== "extra_config"),
    notices: [
      `LMCACHE_EXTRA_CONFIG replaces the file's extra_config as a whole; not used: ${keys}`,
    ],
  };
}
