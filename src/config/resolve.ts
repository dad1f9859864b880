// SPDX-License-Identifier: Apache-2.0
//
// What entries and code mean together: unknown keys and unacceptable values are found, the parts of
// remote_url are put in their places, contradictions are refused. Pure: reads nothing, prints
// nothing.

import type { Entry } from "./entries.ts";
import {
  FOREIGN_EXTRA_KEYS,
  FOREIGN_EXTRA_PREFIXES,
  FOREIGN_KEYS,
  FOREIGN_PREFIX,
} from "./lmcache_keys.ts";
import { DEFAULT_SHMFS_DIR, StoreKeys } from "./lmcache_store.ts";
import { engineOfLmcache } from "./lmcache_url.ts";
import { nearest } from "../nearest.ts";
import { Problems, show } from "./problems.ts";
import { parseRemoteUrl, type RemoteUrl } from "./remote_url.ts";
import { withoutSecret } from "./store_url.ts";
import {
  FIELD_NAMES,
  findSetting,
  type LmshmConfig,
  type NumaPlacement,
  type RawSettings,
  type Section,
  SETTING_NAMES,
  type SettingName,
  SETTINGS,
  settingTitle,
} from "./settings.ts";

/** A value and how it came to be. Of two sources for one thing, the higher rank wins. */
interface Given {
  readonly value: unknown;
  readonly rank: number;
  readonly place: string;
}

type Values = Map<SettingName, Given>;

interface Resolved {
  readonly config: LmshmConfig;
  readonly notices: readonly string[];
}

/**
 * @param sources entries by ascending precedence.
 * @param overrides fields from code, which win over all; undefined ones are not there.
 * @throws {ShmError} ECONFIG with everything that is wrong.
 */
export function resolve(
  sources: readonly (readonly Entry[])[],
  overrides: Partial<LmshmConfig>,
): Resolved {
  const problems = new Problems();
  const notices: string[] = [];
  const values: Values = new Map();
  const foreign: Entry[] = [];
  const strangers: Entry[] = [];
  const unknown: Entry[] = [];
  const keys = new StoreKeys();
  for (const [rank, entries] of sources.entries()) {
    for (const entry of entries) {
      const name = findSetting(entry.section, entry.key);
      keys.add(entry);
      if (name !== undefined) readEntry(name, entry, rank, values, problems);
      else if (isForeign(entry)) foreign.push(entry);
      else strangers.push(entry);
    }
  }
  const declared = values.get("foreignKeys")?.value as readonly string[] | undefined ?? [];
  for (const entry of strangers) {
    if (declared.some((pattern) => matches(entry.key, pattern))) foreign.push(entry);
    else {
      const problem = misspelling(entry);
      if (problem === null) unknown.push(entry);
      else problems.add(problem);
    }
  }
  readOverrides(overrides, sources.length, values, problems);
  const told: string[] = [];
  const config = combine(values, keys, problems, told);
  problems.throwIfAny();
  // What says how a store of LMCache's is reached has an effect, as is known only now.
  const [passedOver, strange] = [foreign, unknown].map((entries) =>
    entries.filter((entry) => !keys.isHeeded(entry))
  ) as [Entry[], Entry[]];
  if (passedOver.length > 0) notices.push(foreignNotice(passedOver));
  if (strange.length > 0) notices.push(unknownNotice(strange));
  notices.push(...told);
  return { config: discreet(config), notices };
}

/** Who prints a configuration, or writes it as JSON, does not print a password. */
function discreet(config: LmshmConfig): LmshmConfig {
  const { remoteUrl } = config;
  if (remoteUrl === null || withoutSecret(remoteUrl) === remoteUrl) return config;
  const shown = () => ({ ...config, remoteUrl: withoutSecret(remoteUrl) });
  return Object.freeze(Object.defineProperties({ ...config }, {
    toJSON: { value: shown },
    [Symbol.for("nodejs.util.inspect.custom")]: { value: shown },
  }));
}

function readEntry(
  name: SettingName,
  entry: Entry,
  rank: number,
  values: Values,
  problems: Problems,
): void {
  const { section, key, value, place } = entry;
  if (value === null || value === undefined) return;
  const { kind } = SETTINGS[name];
  const read = kind.read(value);
  if (read !== undefined) {
    values.set(name, { value: read, rank, place });
    return;
  }
  const title = settingTitle(section, key);
  const message = `${title} is ${show(value)}; accepted is ${kind.accepts}`;
  problems.add({ key, value, place, message });
}

function readOverrides(
  overrides: Partial<LmshmConfig>,
  rank: number,
  values: Values,
  problems: Problems,
): void {
  const place = "code";
  for (const [key, value] of Object.entries(overrides)) {
    if (value === undefined) continue;
    const name = FIELD_NAMES.find((field) => field === key);
    if (name === undefined) {
      const meant = nearest(key, FIELD_NAMES) ?? fieldOfKey(key);
      problems.add({ key, value, place, ...explain(`${key} is no field`, meant) });
      continue;
    }
    const { kind, fallback } = SETTINGS[name];
    if (value === null && fallback === null && name !== "pages") {
      values.set(name, { value, rank, place });
      continue;
    }
    const checked = kind.check(value);
    if (checked === undefined) {
      const message = `${key} is ${show(value)}; accepted is ${kind.acceptsInCode}`;
      problems.add({ key, value, place, message });
    } else values.set(name, { value: checked, rank, place });
  }
}

/** For those who write a key of the file where a field is expected. */
function fieldOfKey(key: string): string | null {
  const meant = nearest(key, FIELD_NAMES.map((field) => SETTINGS[field].key));
  return FIELD_NAMES.find((field) => SETTINGS[field].key === meant) ?? null;
}

function isForeign({ section, key }: Entry): boolean {
  if (section === "top") return FOREIGN_KEYS.has(key) || key.startsWith(FOREIGN_PREFIX);
  return FOREIGN_EXTRA_KEYS.has(key) ||
    FOREIGN_EXTRA_PREFIXES.some((prefix) => key.startsWith(prefix));
}

/** `pattern` is a key, or the beginning of keys and "*". */
function matches(key: string, pattern: string): boolean {
  return pattern.endsWith("*") ? key.startsWith(pattern.slice(0, -1)) : key === pattern;
}

function explain(message: string, meant: string | null) {
  if (meant === null) return { message };
  return { message: `${message}; did you mean ${meant}?`, nearest: meant };
}

function keysOf(wanted: Section): string[] {
  return SETTING_NAMES.map((name) => SETTINGS[name]).filter((s) => s.section === wanted)
    .map((setting) => setting.key);
}

/** Keys of ours and of the connector that this library stands for: no other program has such. */
const OWN_PREFIXES = ["lmshm.", "shmfs."];

/**
 * What is wrong with a key that is none, if it was meant to be one of those that have an effect here:
 * the default would be used in silence. Null: it is nothing of ours, and LMCache passes over it.
 */
function misspelling({ section, key, value, place }: Entry) {
  const message = `${settingTitle(section, key)} is no key`;
  const other: Section = section === "top" ? "extra_config" : "top";
  if (keysOf(other).includes(key)) {
    const where = section === "top" ? "it belongs below extra_config" : "it belongs at the top";
    return { key, value, place, message: `${message}; ${where}`, nearest: key };
  }
  const meant = nearest(key, knownKeys(section));
  const own = meant !== null && [...keysOf(section), "extra_config"].includes(meant);
  if (own) return { key, value, place, ...explain(message, meant) };
  if (!OWN_PREFIXES.some((prefix) => key.startsWith(prefix))) return null;
  const help = "docs/configuration.md has those that there are";
  return { key, value, place, message: `${message}; ${help}` };
}

function knownKeys(section: Section): string[] {
  return section === "top"
    ? [...keysOf("top"), "extra_config", ...FOREIGN_KEYS]
    : [...keysOf("extra_config"), ...FOREIGN_EXTRA_KEYS];
}

function unknownNotice(unknown: readonly Entry[]): string {
  const list = unknown.map(({ section, key, place }) => {
    const meant = nearest(key, knownKeys(section));
    return `${key} (${place}${meant === null ? "" : `; did you mean ${meant}?`})`;
  });
  return `unknown, and passed over as LMCache does: ${list.join(", ")}`;
}

function foreignNotice(foreign: readonly Entry[]): string {
  const list = foreign.map(({ key, place }) => `${key} (${place})`).join(", ");
  return `accepted, and without effect here, since other parts of LMCache read them: ${list}`;
}

/** Puts defaults, derived values and checks across settings together. */
function combine(
  values: Values,
  keys: StoreKeys,
  problems: Problems,
  notices: string[],
): LmshmConfig {
  const get = <Name extends SettingName>(name: Name): RawSettings[Name] => {
    const given = values.get(name);
    return (given === undefined ? SETTINGS[name].fallback : given.value) as RawSettings[Name];
  };
  checkOneName(values, problems);
  const source = useOwnUrl(values, notices);
  translateUrl(source, values, keys, problems, notices);
  const scheme = spreadUrl(source, values, problems, notices) ??
    spreadPlugin(values, keys, problems, notices);
  checkSerde(values, scheme, problems, notices);
  const shmName = get("shmName");
  const fields: Record<string, unknown> = {};
  for (const name of FIELD_NAMES) fields[name] = get(name);
  fields["saveChunkMeta"] = savesChunkMeta(values, scheme, notices);
  fields["pages"] = pagesOf(values, shmName, problems, notices);
  fields["numa"] = get("numa") ?? numaOf(values, problems, notices);
  return Object.freeze(fields) as unknown as LmshmConfig;
}

/** LMCache has two keys for the segment's name: one for the allocator, one for the connector. */
function checkOneName(values: Values, problems: Problems): void {
  const allocator = values.get("shmName");
  const connector = values.get("shmfsShmName");
  if (connector === undefined) return;
  if (allocator === undefined) {
    values.set("shmName", connector);
  } else if (allocator.rank === connector.rank && allocator.value !== connector.value) {
    problems.add({
      key: "shmfs.shm_name",
      value: connector.value,
      place: connector.place,
      message: `extra_config's shmfs.shm_name is ${show(connector.value)} and shm_name is ` +
        `${show(allocator.value)}; they name one segment, so leave one of them out`,
    });
  } else if (connector.rank > allocator.rank) {
    values.set("shmName", connector);
  }
}

/**
 * What this library alone is told.
 * @returns the key that says where the store is.
 */
function useOwnUrl(values: Values, notices: string[]): string {
  const own = values.get("ownRemoteUrl");
  const remote = values.get("remoteUrl");
  if (own === undefined || remote?.place === "code") return SETTINGS.remoteUrl.key;
  const { key } = SETTINGS.ownRemoteUrl;
  if (remote !== undefined) notices.push(`${key} (${own.place}) is used in place of remote_url`);
  values.set("remoteUrl", own);
  return key;
}

/** An engine that a file or a variable names is LMCache's, and objects lie there as LMCache has them. */
function translateUrl(
  source: string,
  values: Values,
  keys: StoreKeys,
  problems: Problems,
  notices: string[],
): void {
  const given = values.get("remoteUrl");
  if (given === undefined || typeof given.value !== "string" || given.place === "code") return;
  const withLogin = (values.get("storeSecretFile")?.value ?? null) === null;
  const engine = engineOfLmcache(given.value, (key) => keys.get(key), withLogin);
  if (engine === null) return;
  if (typeof engine === "string") {
    const shown = withoutSecret(given.value);
    const message = `${source} ${show(shown)} ${engine}`;
    problems.add({ key: source, value: shown, place: given.place, message });
    values.delete("remoteUrl");
    return;
  }
  values.set("remoteUrl", { ...given, value: engine.url });
  notices.push(
    `${source} (${given.place}): objects lie there as LMCache's connector has them ` +
      `(layout=${engine.layout}); with layout=lmshm in the URL they are for this library alone`,
  );
}

type Scheme = RemoteUrl["scheme"] | null;

/** The parts of remote_url stand for the settings of the same meaning. */
function spreadUrl(
  source: string,
  values: Values,
  problems: Problems,
  notices: string[],
): Scheme {
  const given = values.get("remoteUrl");
  if (given === undefined || given.value === null) return null;
  const { value, rank, place } = given;
  const url = parseRemoteUrl(value as string);
  if (typeof url === "string") {
    const shown = withoutSecret(value as string);
    const message = `${source} ${show(shown)} ${url}`;
    problems.add({ key: source, value: shown, place, message });
    return null;
  }
  const directory = values.get("storageDir");
  const elsewhere = url.scheme === "store" && url.storageDir === null;
  if (elsewhere && directory !== undefined && directory.value !== null) {
    // One of the two is the store.
    const { key } = SETTINGS.storageDir;
    if (directory.rank > rank) {
      values.delete("remoteUrl");
      notices.push(`${key} (${directory.place}) wins over ${source}`);
    } else {
      values.delete("storageDir");
      notices.push(`${source} wins over ${key} = ${show(directory.value)} (${directory.place})`);
    }
  }
  for (const name of ["storageDir", "workerAddress", "shmName", "workerBinary"] as const) {
    spreadPart(name, url, rank, values, notices, source);
  }
  if (url.scheme === "external") defaultDirectory(values, rank, notices);
  return url.scheme;
}

/** A store among LMCache's plug-ins that is one of ours, where nothing else names one. */
function spreadPlugin(
  values: Values,
  keys: StoreKeys,
  problems: Problems,
  notices: string[],
): Scheme {
  const given = values.get("remoteStoragePlugins");
  const names = given?.value as readonly string[] | undefined ?? [];
  if (given === undefined || names.length === 0) return null;
  const { rank, place } = given;
  const stores = names.map((plugin) => ({ plugin, store: keys.storeOf(plugin) }));
  const ours = stores.filter(({ store }) => store !== null);
  const others = stores.filter(({ store }) => store === null).map(({ plugin }) => plugin);
  if (others.length > 0) {
    notices.push(`remote_storage_plugins (${place}): nothing here stands for ${others.join(", ")}`);
  }
  if (ours.length === 0 || (values.get("storageDir")?.rank ?? -1) > rank) return null;
  const { scheme, directory, url: engine } = ours[0]!.store!;
  if (ours.length > 1 || directory?.includes(",")) {
    problems.add({
      key: "remote_storage_plugins",
      value: names,
      place,
      message:
        `remote_storage_plugins is ${show(names)}, which is more than one place; a store here ` +
        "has one",
    });
    return null;
  }
  if (engine !== undefined) {
    values.set("remoteUrl", { value: engine, rank, place });
    const source = "remote_storage_plugins";
    translateUrl(source, values, keys, problems, notices);
    return spreadUrl(source, values, problems, notices);
  }
  const url = {
    scheme,
    storageDir: directory,
    workerAddress: null,
    shmName: null,
    workerBinary: null,
  };
  spreadPart("storageDir", url, rank, values, notices, "remote_storage_plugins");
  if (scheme === "external") defaultDirectory(values, rank, notices);
  return scheme;
}

/** LMCache's connector has a directory if none is named, and a store of one file is to be the same. */
function defaultDirectory(values: Values, rank: number, notices: string[]): void {
  if (values.has("storageDir")) return;
  values.set("storageDir", { value: DEFAULT_SHMFS_DIR, rank, place: "LMCache's default" });
  notices.push(
    `no shmfs.storage_dir: objects are kept in ${DEFAULT_SHMFS_DIR}, LMCache's default for its ` +
      "ShmFileConnector",
  );
}

/** What is stored compressed cannot be read here; without a store it does not matter. */
function checkSerde(values: Values, scheme: Scheme, problems: Problems, notices: string[]): void {
  const given = values.get("remoteSerde");
  if (given === undefined || given.value === "naive") return;
  const { value, place } = given;
  // LMCache's shared-memory connector moves tensors as they are, but what it is given has been
  // through the serializer.
  if (scheme === null && !values.has("storageDir")) {
    notices.push(`remote_serde ${show(value)} (${place}) is without effect: there is no store`);
    return;
  }
  problems.add({
    key: "remote_serde",
    value,
    place,
    message:
      `remote_serde is ${show(value)}; accepted with a store is naive: objects are stored as ` +
      "they are",
  });
}

/** As LMCache has it, for its fs connector. */
function savesChunkMeta(values: Values, scheme: Scheme, notices: string[]): boolean {
  const given = values.get("saveChunkMeta");
  if (given?.place === "code") return given.value === true;
  if (scheme === "fs") {
    return given?.value !== false || values.get("useLayerwise")?.value === true;
  }
  if (given?.value === true && values.has("storageDir")) {
    notices.push(
      `save_chunk_meta (${given.place}) is for fs://: LMCache's shared-memory connector stores the ` +
        "bytes alone, and so does this one",
    );
  }
  return false;
}

function spreadPart(
  name: keyof RemoteUrl & SettingName,
  url: RemoteUrl,
  rank: number,
  values: Values,
  notices: string[],
  source = "remote_url",
): void {
  const part = url[name];
  if (part === null) return;
  const own = values.get(name);
  if (own !== undefined && own.rank > rank) return;
  if (own !== undefined && own.value !== part) {
    const { section, key } = SETTINGS[name];
    notices.push(
      `${source} says ${show(part)}, which wins over ${settingTitle(section, key)} = ` +
        `${show(own.value)} (${own.place})`,
    );
  }
  values.set(name, { value: part, rank, place: source });
}

function pagesOf(
  values: Values,
  shmName: string | null,
  problems: Problems,
  notices: string[],
): LmshmConfig["pages"] {
  const given = values.get("pages");
  if (given !== undefined) {
    const pages = given.value as LmshmConfig["pages"];
    if (shmName !== null && (pages === "2M" || pages === "1G")) {
      const place = given.place;
      const message = `lmshm.pages is "${pages}", which needs memory without a name, and ` +
        `shm_name is ${show(shmName)}; accepted with a name are default and transparent`;
      problems.add({ key: "lmshm.pages", value: pages, place, message });
    }
    return pages;
  }
  if (values.get("useHugePages")?.value !== true) return "default";
  if (shmName === null) return "2M";
  notices.push(
    "local_cpu_use_hugepages: named shared memory has no huge pages of its own, so transparent " +
      "ones are asked for",
  );
  return "transparent";
}

function numaOf(values: Values, problems: Problems, notices: string[]): NumaPlacement | null {
  const mode = values.get("numaMode");
  const mapping = values.get("gpuToNumaMapping");
  if (mode?.value === "manual") {
    if (mapping !== undefined) {
      const nodes = new Set(Object.values(mapping.value as Record<string, number>));
      return Object.freeze({
        policy: "bind",
        nodes: Object.freeze([...nodes].sort((a, b) => a - b)),
      });
    }
    problems.add({
      key: "numa_mode",
      value: "manual",
      place: mode.place,
      message: "numa_mode is manual, and extra_config has no gpu_to_numa_mapping; add it, or " +
        "place the pool with lmshm.numa",
    });
  } else if (mode?.value === "auto") {
    notices.push(
      "numa_mode auto: the pool is placed by the kernel, since no GPU is this program's own; " +
        'lmshm.numa places it, e.g. "bind:0"',
    );
  }
  return null;
}
