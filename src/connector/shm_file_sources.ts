// SPDX-License-Identifier: Apache-2.0
//
// Where a connector's options come from if not from code: a configuration, LMCache's extra_config,
// a URL. What those mean is decided in config/; here it is only put into the options' words.

import { describe } from "../arguments.ts";
import { configFromExtra, type LmshmConfig } from "../config/config.ts";
import { parseRemoteUrl } from "../config/remote_url.ts";
import { isStoreUrl } from "../config/store_url.ts";
import type { ShmSegment } from "../memory/segment.ts";
import type { ShmFileConnectorOptions } from "./shm_file_options.ts";

/** What a source says. */
interface NamedOptions {
  readonly options: Omit<ShmFileConnectorOptions, "segment">;
  /** The segment's name, "/kv"; null where none is named. */
  readonly shmName: string | null;
}

/**
 * "none" and "auto" are what every worker does unless it was started otherwise. They are left out, so
 * that a worker of version 1 is accepted; and so is a checksum that is wished for.
 * @throws {TypeError} without a storage directory.
 */
export function optionsFromConfig(config: LmshmConfig): NamedOptions {
  const { storageDir, shmName, workerBinary, workerAddress, secretFile } = config;
  const { maxBytes, durability, ioMode, checksum, remoteUrl, storeSecretFile } = config;
  const { saveChunkMeta, padBytes, fileMode, fileGroup } = config;
  const ofFiles = {
    saveChunkMeta: saveChunkMeta || undefined,
    padBytes: padBytes === 1 ? undefined : padBytes,
    fileMode: fileMode ?? undefined,
    fileGroup: fileGroup ?? undefined,
  };
  if (storageDir === null && remoteUrl !== null && isStoreUrl(remoteUrl)) {
    return {
      options: {
        store: remoteUrl,
        storeSecretFile: storeSecretFile ?? undefined,
        workerBinary: /^(?:tcp|unix):/i.test(remoteUrl) ? undefined : workerBinary ?? undefined,
        secretFile: /^tcp:/i.test(remoteUrl) ? secretFile ?? undefined : undefined,
        maxBytes: maxBytes ?? undefined,
        durability: durability === "none" ? undefined : durability,
        ioMode: ioMode === "auto" ? undefined : ioMode,
        checksum: checksum === false ? false : undefined,
        // Of no engine: it says so.
        ...ofFiles,
      },
      shmName,
    };
  }
  if (storageDir === null) {
    throw new TypeError(
      "the configuration has no shmfs.storage_dir; set it, or remote_url, to the directory that " +
        "keeps the objects",
    );
  }
  return {
    options: {
      storageDir,
      // As in LMCache, an address wins over a program to start.
      workerAddress: workerAddress ?? undefined,
      workerBinary: workerAddress === null ? workerBinary ?? undefined : undefined,
      secretFile: secretFile ?? undefined,
      maxBytes: maxBytes ?? undefined,
      durability: durability === "none" ? undefined : durability,
      ioMode: ioMode === "auto" ? undefined : ioMode,
      checksum: checksum === false ? false : undefined,
      ...ofFiles,
    },
    shmName,
  };
}

/**
 * What opens a connector if not options: a configuration such as loadConfig() gives, LMCache's
 * extra_config (shmfs.storage_dir, shmfs.worker_addr and so on), or a URL: one that connect() takes,
 * `shmfile://[host:port]/dir?shm_name=/kv[&worker_bin=/path][&worker_addr=unix:/path]`, or
 * `fs://host:port/dir` for a directory of LMCache's fs connector with its headers.
 */
export type ConnectorSource = LmshmConfig | Readonly<Record<string, unknown>> | string;

/** @throws as the function for what it is. */
export function optionsFrom(source: ConnectorSource): NamedOptions {
  if (typeof source === "string") return optionsFromUrl(source);
  if (typeof source !== "object" || source === null) {
    throw new TypeError(`fromConfig() takes a configuration or a URL, got ${describe(source)}`);
  }
  // Names of extra_config have a dot in them.
  return "storageDir" in source
    ? optionsFromConfig(source as LmshmConfig)
    : optionsFromExtra(source);
}

/**
 * The same of LMCache's extra_config alone.
 * @throws {ShmError} ECONFIG for keys and values, as loadConfig().
 */
export function optionsFromExtra(extra: Readonly<Record<string, unknown>>): NamedOptions {
  return optionsFromConfig(configFromExtra(extra));
}

/**
 * The same of a URL.
 * @throws {RangeError} saying what is wrong with it.
 */
export function optionsFromUrl(text: string): NamedOptions {
  if (isStoreUrl(text)) return { options: { store: text }, shmName: null };
  const parts = parseRemoteUrl(text);
  if (typeof parts === "string") {
    throw new RangeError(`connector URL ${JSON.stringify(text.slice(0, 200))} ${parts}`);
  }
  const { scheme, storageDir, workerAddress, workerBinary, shmName } = parts;
  if (storageDir === null) {
    throw new RangeError(
      `connector URL ${
        JSON.stringify(text.slice(0, 200))
      } names no directory: extra_config does, so ` +
        "pass a configuration that has both",
    );
  }
  return {
    options: {
      storageDir: storageDir ?? undefined,
      workerAddress: workerAddress ?? undefined,
      workerBinary: workerAddress === null ? workerBinary ?? undefined : undefined,
      saveChunkMeta: scheme === "fs" || undefined,
    },
    shmName,
  };
}

/** Throws unless `shmName`, where it is configured, is the segment's name. */
export function checkShmName(shmName: string | null, segment: ShmSegment): void {
  if (shmName === null || segment.name === shmName) return;
  throw new RangeError(
    `shm_name is ${JSON.stringify(shmName)}, but the segment is ` +
      (segment.name === null ? "anonymous" : JSON.stringify(segment.name)),
  );
}
