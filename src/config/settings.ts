// SPDX-License-Identifier: Apache-2.0
//
// Every setting: its key in LMCache's spelling, what it accepts, its default. LMCache's own keys
// keep its meaning and its default; ours are below extra_config and begin with "lmshm.".
// docs/configuration.md is the same table for people; a test compares the two.

import {
  boolean,
  choice,
  durability,
  fileMode,
  gigabytes,
  gpuToNumaMapping,
  group,
  integer,
  type Kind,
  name,
  names,
  type NumaPlacement,
  numaPlacement,
  path,
  powerOfTwo,
  seconds,
  segmentName,
  url,
  workerAddress,
} from "./kinds.ts";

import { MAX_TIMER_MS } from "../wait.ts";

export type { NumaPlacement };

/** The eviction policies, as cache_policy names them. */
export const CACHE_POLICY_NAMES = ["LRU", "LFU", "FIFO", "MRU", "S3FIFO"] as const;

/** What a program configures. Sizes in bytes, times in milliseconds. */
export interface LmshmConfig {
  /** Tokens of a full chunk. */
  readonly chunkSizeTokens: number;
  /** Keep objects in the pool after use (the hot tier). False: the pool is only for transfers. */
  readonly hotTier: boolean;
  /** Size of the pool. 0: there is none, and nothing can be made of this configuration. */
  readonly poolSizeBytes: number;
  /** What decides which object is evicted. */
  readonly cachePolicy: "LRU" | "LFU" | "FIFO" | "MRU" | "S3FIFO";
  /** How long a call that has to wait, for memory or for the store, waits at most. */
  readonly blockingTimeoutMs: number;
  /**
   * As configured; an engine of a file or a variable with the layout that LMCache has there. The parts of "shmfile://" are storageDir, shmName, workerBinary and workerAddress;
   * others are what connect() takes, and may hold a password, which is hidden where the configuration is
   * printed or written as JSON.
   */
  readonly remoteUrl: string | null;
  /** The directory of the store; null: there is none, only the pool. */
  readonly storageDir: string | null;
  /** The pool's segment, "/name"; null: the pool is private memory. */
  readonly shmName: string | null;
  /** The worker to start; null: the one that comes with this package. */
  readonly workerBinary: string | null;
  /** A running worker to connect to; null: one is started. */
  readonly workerAddress: string | null;
  /** Every object of the pool begins at a multiple of this. */
  readonly alignBytes: number;
  /** How the pool is page-locked. */
  readonly pin: "auto" | "require" | "none";
  /** A GPU runtime library to use instead of the search. */
  readonly gpuLibrary: string | null;
  /** The device that pins, from 0; null: LMSHM_GPU_DEVICE, else 0. */
  readonly gpuDevice: number | null;
  /** Pages of the pool. */
  readonly pages: "default" | "transparent" | "2M" | "1G";
  /** Where the pool's pages come from; null: the kernel decides. */
  readonly numa: NumaPlacement | null;
  /** 0: chosen from the CPUs. */
  readonly populateThreads: number;
  /** When the segment's name is taken. */
  readonly ifExists: "reclaim" | "fail" | "replace";
  /** Overwrite memory with zeros when it is freed. */
  readonly zeroOnFree: boolean;
  /** Remember where each object was allocated, for leak reports. */
  readonly trackAllocations: boolean;
  /** Disk that the storage directory may use; null: no limit. */
  readonly maxBytes: number | null;
  /** Whether a put returns when the store has the object, or when it is queued for the store. */
  readonly writeMode: "through" | "behind";
  /** The most that is queued with writeMode "behind"; more waits. */
  readonly maxQueuedBytes: number;
  /**
   * What is on stable storage before an object is published: nothing, its data, or its directory's
   * entry as well. "none": as the worker was started.
   */
  readonly durability: "none" | "data" | "full";
  /** Past the page cache, or through it. "auto": as the worker was started. */
  readonly ioMode: "auto" | "direct" | "cached";
  /** The worker stores a checksum with each object, and verifies it when the object is read. */
  readonly checksum: boolean;
  /** Holds the secret of a worker that is connected to over TCP. */
  readonly secretFile: string | null;
  /** Each file begins with LMCache's header: the way of its fs:// connector. */
  readonly saveChunkMeta: boolean;
  /** Each file's length is made a multiple of it. */
  readonly padBytes: number;
  /** Of the files that a worker makes that is started here; null: 0o600. */
  readonly fileMode: number | null;
  /** Their group, by name or number; null: as the system chooses. */
  readonly fileGroup: string | null;
  /** What an engine in remoteUrl is logged in to with. */
  readonly storeSecretFile: string | null;
}

/** What files and variables say beyond that; resolve.ts makes LmshmConfig of it. */
export interface RawSettings extends Omit<LmshmConfig, "pages" | "saveChunkMeta"> {
  readonly pages: LmshmConfig["pages"] | null;
  readonly shmfsShmName: string | null;
  readonly useHugePages: boolean;
  readonly numaMode: "auto" | "manual" | null;
  readonly gpuToNumaMapping: Readonly<Record<string, number>> | null;
  readonly ownRemoteUrl: string | null;
  readonly remoteSerde: string;
  readonly remoteStoragePlugins: readonly string[];
  readonly useLayerwise: boolean;
  readonly saveChunkMeta: boolean | null;
  readonly foreignKeys: readonly string[];
}

/** At the top of the file, or below its extra_config. */
export type Section = "top" | "extra_config";

interface Setting<T> {
  readonly section: Section;
  readonly key: string;
  readonly kind: Kind<NonNullable<T>>;
  readonly fallback: T;
}

function top<T, Fallback>(key: string, kind: Kind<T>, fallback: Fallback) {
  return { section: "top", key, kind, fallback } as const;
}

function extra<T, Fallback>(key: string, kind: Kind<T>, fallback: Fallback) {
  return { section: "extra_config", key, kind, fallback } as const;
}

const GIB = 1024 ** 3;
const MIN_POOL_BYTES = 4096;
/** The smallest object takes as much of the disk. */
const MIN_QUOTA_BYTES = 4096;

export const SETTINGS: { readonly [Name in keyof RawSettings]: Setting<RawSettings[Name]> } = {
  chunkSizeTokens: top("chunk_size", integer(1, 1 << 20, "tokens"), 256),
  hotTier: top("local_cpu", boolean, true),
  poolSizeBytes: top("max_local_cpu_size", gigabytes(MIN_POOL_BYTES, true), 5 * GIB),
  useHugePages: top("local_cpu_use_hugepages", boolean, false),
  cachePolicy: top("cache_policy", choice(...CACHE_POLICY_NAMES), "LRU"),
  blockingTimeoutMs: top("blocking_timeout_secs", seconds(1, MAX_TIMER_MS), 10_000),
  numaMode: top("numa_mode", choice("auto", "manual"), null),
  remoteUrl: top("remote_url", url, null),
  remoteStoragePlugins: top("remote_storage_plugins", names, []),
  remoteSerde: top("remote_serde", name, "naive"),
  useLayerwise: top("use_layerwise", boolean, false),
  shmName: extra("shm_name", segmentName, null),
  shmfsShmName: extra("shmfs.shm_name", segmentName, null),
  storageDir: extra("shmfs.storage_dir", path, null),
  workerBinary: extra("shmfs.worker_binary", path, null),
  workerAddress: extra("shmfs.worker_addr", workerAddress, null),
  saveChunkMeta: extra("save_chunk_meta", boolean, null),
  alignBytes: extra("local_cpu.pinned_align_bytes", powerOfTwo(8, 2 ** 30), 4096),
  gpuToNumaMapping: extra("gpu_to_numa_mapping", gpuToNumaMapping, null),
  pin: extra("lmshm.pin", choice("auto", "require", "none"), "auto"),
  gpuLibrary: extra("lmshm.gpu_library", path, null),
  gpuDevice: extra("lmshm.gpu_device", integer(0, 2 ** 31 - 2), null),
  pages: extra("lmshm.pages", choice("default", "transparent", "2M", "1G"), null),
  numa: extra("lmshm.numa", numaPlacement, null),
  populateThreads: extra("lmshm.populate_threads", integer(0, 64), 0),
  ifExists: extra("lmshm.if_exists", choice("reclaim", "fail", "replace"), "reclaim"),
  zeroOnFree: extra("lmshm.zero_on_free", boolean, false),
  trackAllocations: extra("lmshm.track_allocations", boolean, false),
  maxBytes: extra("lmshm.max_storage_size", gigabytes(MIN_QUOTA_BYTES), null),
  writeMode: extra("lmshm.write_mode", choice("through", "behind"), "behind"),
  maxQueuedBytes: extra("lmshm.write_queue_size", gigabytes(1), GIB / 4),
  durability: extra("lmshm.fsync", durability, "none"),
  ioMode: extra("lmshm.io_mode", choice("auto", "direct", "cached"), "auto"),
  checksum: extra("lmshm.checksum", boolean, true),
  secretFile: extra("lmshm.worker_secret_file", path, null),
  padBytes: extra("lmshm.pad_bytes", powerOfTwo(1, 2 ** 20), 1),
  fileMode: extra("lmshm.file_mode", fileMode, null),
  fileGroup: extra("lmshm.file_group", group, null),
  storeSecretFile: extra("lmshm.store_secret_file", path, null),
  ownRemoteUrl: extra("lmshm.remote_url", url, null),
  foreignKeys: extra("lmshm.foreign_keys", names, []),
};

export type SettingName = keyof RawSettings;

/** The names in the order of the table. */
export const SETTING_NAMES = Object.keys(SETTINGS) as readonly SettingName[];

/** The settings that are fields of LmshmConfig. */
export const FIELD_NAMES: readonly (keyof LmshmConfig)[] = SETTING_NAMES.filter(
  (name): name is keyof LmshmConfig =>
    ![
      "shmfsShmName",
      "useHugePages",
      "numaMode",
      "gpuToNumaMapping",
      "ownRemoteUrl",
      "remoteSerde",
      "remoteStoragePlugins",
      "useLayerwise",
      "foreignKeys",
    ].includes(name),
);

/** The setting with that key, or undefined. */
export function findSetting(section: Section, key: string): SettingName | undefined {
  return SETTING_NAMES.find((name) =>
    SETTINGS[name].section === section && SETTINGS[name].key === key
  );
}

/** "chunk_size", "extra_config's shm_name". */
export function settingTitle(section: Section, key: string): string {
  return section === "top" ? key : `extra_config's ${key}`;
}
