// SPDX-License-Identifier: Apache-2.0
//
// Which store LMCache's own words describe, beside ours: remote_url of its two connectors that keep
// one file for each key (external://...ShmFileConnector, fs://), and remote_storage_plugins, which is
// how it names stores since 0.5. Pure.
//
//     remote_storage_plugins: ["fs"]                     below extra_config:
//                                                        remote_storage_plugin.fs.base_path: /dir
//     remote_storage_plugins: ["kv"]                     remote_storage_plugin.kv.class_name: ShmFile...
//                                                        shmfs.storage_dir: /dir

import type { Entry } from "./entries.ts";

/** What ShmFileConnector of LMCache uses when nothing says more. */
export const DEFAULT_SHMFS_DIR = "/tmp/lmcache_shmfs";

const PREFIX = "remote_storage_plugin.";
const FS_BASE_PATH = "fs_base_path";

/** What is said below extra_config to one of the stores. */
export class PluginKeys {
  readonly #entries = new Map<string, Entry>();

  /** Of entries by ascending precedence. */
  add(entry: Entry): void {
    const { section, key, value } = entry;
    if (section !== "extra_config" || value === null || value === undefined) return;
    if (key.startsWith(PREFIX) || key === FS_BASE_PATH) this.#entries.set(key, entry);
  }

  /** The store that a plug-in of that name is; null: none of ours. */
  storeOf(plugin: string): PluginStore | null {
    if (plugin.split(".")[0] === "fs") {
      const entry = this.#entries.get(`${PREFIX}${plugin}.base_path`) ??
        this.#entries.get(FS_BASE_PATH);
      return typeof entry?.value === "string" ? { scheme: "fs", directory: entry.value } : null;
    }
    const name = this.#entries.get(`${PREFIX}${plugin}.class_name`)?.value;
    return typeof name === "string" && name.startsWith("ShmFile")
      ? { scheme: "external", directory: null }
      : null;
  }
}

/** As RemoteUrl has them. */
export interface PluginStore {
  readonly scheme: "fs" | "external";
  readonly directory: string | null;
}
