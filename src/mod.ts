// SPDX-License-Identifier: Apache-2.0
//
// The public names of lmshm, and nothing else.

export { version } from "./version.ts";
export { type ErrorDetails, ShmError } from "./errors.ts";
export {
  type AttachOptions,
  type CreateOptions,
  type IfExists,
  type NameState,
  type OpenHooks,
  type PageMode,
  type PinMode,
  type PinnedBy,
  type ShmRange,
  ShmSegment,
} from "./memory/segment.ts";
export { ShmView } from "./memory/view.ts";
export {
  CacheEngineKey,
  type CacheEngineKeyFields,
  type Key,
  type KeyDtype,
  LayerCacheEngineKey,
  parseCacheKey,
} from "./storage/key.ts";
export { fileNameToKey, keyToFileName } from "./storage/key_file.ts";
export type {
  CallOptions,
  ConnectorStats,
  ListOptions,
  RemoteConnector,
} from "./storage/remote_connector.ts";
export { type OtherOptions, ShmFileConnector } from "./storage/shm_file_connector.ts";
export type { ShmFileConnectorOptions } from "./storage/shm_file_options.ts";
