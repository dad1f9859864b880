// SPDX-License-Identifier: Apache-2.0
//
// Which store LMCache's own words describe, beside ours: remote_storage_plugins, which is how it names
// stores since 0.5, and what its connectors read below extra_config. Pure.
//
//     remote_storage_plugins: ["fs"]                     below extra_config:
//                                                        remote_storage_plugin.fs.base_path: /dir
//     remote_storage_plugins: ["kv"]                     remote_storage_plugin.kv.class_name: ShmFile...
//                                                        shmfs.storage_dir: /dir
//     remote_storage_plugins: ["redis"]                  remote_storage_plugin.redis.redis_url: redis://...

import type { Entry } from "./entries.ts";

/** What ShmFileConnector of LMCache uses when nothing says more. */
export const DEFAULT_SHMFS_DIR = "/tmp/lmcache_shmfs";

const PREFIX = "remote_storage_plugin.";
const FS_BASE_PATH = "fs_base_path";
/** Of LMCache's connector, when nothing names another. */
const DEFAULT_REDIS = "redis://localhost:6379";

/** What is said below extra_config to LMCache's stores. */
export class StoreKeys {
  readonly #entries = new Map<string, Entry>();
  readonly #heeded = new Set<string>();

  /** Of entries by ascending precedence. */
  add(entry: Entry): void {
    const { section, key, value } = entry;
    if (section !== "extra_config" || value === null || value === undefined) return;
    this.#entries.set(key, entry);
  }

  /** Undefined: nothing. */
  get(key: string): unknown {
    this.#heeded.add(key);
    return this.#entries.get(key)?.value;
  }

  /** Whether somebody asked for it. */
  isHeeded({ section, key }: Entry): boolean {
    return section === "extra_config" && this.#heeded.has(key);
  }

  /** The store that a plug-in of that name is; null: none of ours. */
  storeOf(plugin: string): PluginStore | null {
    const [type] = plugin.split(".");
    if (type === "fs") {
      const directory = this.get(`${PREFIX}${plugin}.base_path`) ?? this.get(FS_BASE_PATH);
      return typeof directory === "string" ? { scheme: "fs", directory } : null;
    }
    if (type === "redis") {
      // Whatever the instance is called, LMCache asks for this one.
      const url = this.get(`${PREFIX}redis.redis_url`) ?? this.get("redis_url") ?? DEFAULT_REDIS;
      return typeof url === "string" ? { scheme: "store", directory: null, url } : null;
    }
    const name = this.get(`${PREFIX}${plugin}.class_name`);
    return typeof name === "string" && name.startsWith("ShmFile")
      ? { scheme: "external", directory: null }
      : null;
  }
}

/** As RemoteUrl has them. */
export interface PluginStore {
  readonly scheme: "fs" | "external" | "store";
  readonly directory: string | null;
  /** Of an engine, as LMCache spells it. */
  readonly url?: string;
}
