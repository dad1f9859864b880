// SPDX-License-Identifier: Apache-2.0
//
// A YAML file in LMCache's spelling, as entries with their lines. JSON is YAML, so it is read too.
// The text is read as YAML 1.1, because LMCache's reader does: there, `yes` is true.
//
// The YAML package is loaded when there is text to read: most programs are configured in code.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Node, YAMLMap } from "yaml";
import { errnoName, knownCode, ShmError } from "../errors.ts";
import { throwIfRefused } from "../permission.ts";
import type { Entry } from "./entries.ts";
import { configError, notAMapping } from "./problems.ts";
import type { Section } from "./settings.ts";

type Yaml = typeof import("yaml");

/** Synchronously, as everything here is. */
function loadYaml(): Yaml {
  try {
    // Bun has it in modules, and bundlers follow it.
    return require("yaml");
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw yamlMissing(error);
  }
  try {
    return createRequire(import.meta.url)("yaml");
  } catch (error) {
    throwIfRefused(error, "loading the package yaml", "read configuration");
    throw yamlMissing(error);
  }
}

function yamlMissing(cause: unknown): ShmError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new ShmError(`the package yaml does not load: ${message}`, {
    code: "ENOENT",
    operation: "read configuration",
    hint: "Install it: lmshm depends on it",
    cause,
  });
}

/** Far beyond any configuration; a wrong path should not make the program read a model. */
const MAX_BYTES = 1 << 20;

/**
 * @param because who named the file, for the error, e.g. "LMCACHE_CONFIG_FILE".
 * @throws {ShmError} ENOENT and the like when it cannot be read, ECONFIG when it is not YAML.
 */
export function readYamlFile(file: string, because: string): Entry[] {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    throwIfRefused(cause, `reading ${file}`, "read configuration");
    const { code, errno } = cause as NodeJS.ErrnoException;
    const number = errno === undefined ? undefined : Math.abs(errno);
    throw new ShmError(`cannot read ${file}, which ${because} names`, {
      code: knownCode(code) ?? (number === undefined ? "EIO" : errnoName(number)),
      operation: "read configuration",
      errno: number,
      hint: "Check the path and its permissions",
      details: { file },
      cause,
    });
  }
  if (bytes.length > MAX_BYTES) {
    throw configError(
      `${file} has ${bytes.length} bytes; a configuration has at most ${MAX_BYTES}`,
      [],
    );
  }
  return parseYaml(new TextDecoder().decode(bytes), file);
}

/** @param file for messages only. @throws {ShmError} ECONFIG. */
export function parseYaml(text: string, file: string): Entry[] {
  const { isMap, isScalar, LineCounter, parseDocument } = loadYaml();
  const lines = new LineCounter();
  const document = parseDocument(text, {
    version: "1.1",
    lineCounter: lines,
    prettyErrors: false,
  });
  const placeOf = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return { place: `${file}:${line}`, exact: `${file}:${line}:${col}` };
  };
  const fault = document.errors[0];
  if (fault) throw notYaml(placeOf(fault.pos[0]).exact, fault.message, fault);
  const { contents } = document;
  if (contents === null || (isScalar(contents) && contents.value === null)) return [];
  if (!isMap(contents)) {
    throw notYaml(file, "a configuration is a mapping of keys to values, and this is none");
  }
  let values: Record<string, unknown>;
  try {
    values = document.toJS();
  } catch (cause) {
    // An alias without its anchor, or aliases of aliases beyond all measure.
    throw notYaml(file, cause instanceof Error ? cause.message : String(cause), cause);
  }
  const placeIn = (map: YAMLMap | null, key: string) => {
    const item = map?.items.find((pair) => isScalar(pair.key) && String(pair.key.value) === key);
    const offset = (item?.key as Node | undefined)?.range?.[0];
    return offset === undefined ? file : placeOf(offset).place;
  };
  const entries: Entry[] = [];
  const add = (section: Section, map: YAMLMap | null, keys: Record<string, unknown>) => {
    for (const [key, value] of Object.entries(keys)) {
      entries.push({ section, key, value, place: placeIn(map, key) });
    }
  };
  const { extra_config: extra, ...top } = values;
  add("top", contents, top);
  if (extra !== undefined && extra !== null) {
    const place = placeIn(contents, "extra_config");
    if (typeof extra !== "object" || Array.isArray(extra)) throw notAMapping(place, extra);
    const node = contents.get("extra_config", true);
    add("extra_config", isMap(node) ? node : null, extra as Record<string, unknown>);
  }
  return entries;
}

function notYaml(place: string, message: string, cause?: unknown) {
  const what = `${place}: ${message}`;
  return configError(what, [{ key: "", place, message }], cause);
}
