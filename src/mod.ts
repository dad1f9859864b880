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
export { type DType, type DTypeName, DTYPES, dtypeSizeBytes, parseDType } from "./memory/dtype.ts";
export { bfloat16ToFloat32, float32ToBfloat16 } from "./memory/bfloat16.ts";
export {
  MEMORY_FORMATS,
  MemoryFormat,
  memoryFormatNumber,
  parseMemoryFormat,
  tokenDimension,
} from "./memory/memory_format.ts";
export {
  type DTypeArgument,
  type Shape,
  type ShapeArgument,
  TensorLayout,
} from "./memory/tensor_layout.ts";
export {
  BytesBufferMemoryObj,
  MemoryObj,
  type MemoryObjMetadata,
  TensorMemoryObj,
} from "./memory/memory_obj.ts";
export type {
  AllocatorStats,
  LeakedObject,
  LeakReport,
  MemoryAllocator,
} from "./memory/memory_allocator.ts";
export type { PoolOptions } from "./memory/pool_allocator.ts";
export { TensorMemoryAllocator } from "./memory/tensor_allocator.ts";
export { type PagedOptions, PagedTensorMemoryAllocator } from "./memory/paged_allocator.ts";
export { BufferAllocator } from "./memory/buffer_allocator.ts";
export {
  MixedMemoryAllocator,
  type MixedOptions,
  type MixedPoolOptions,
} from "./memory/mixed_allocator.ts";
export { runtime } from "./native/ffi.ts";
export {
  CacheEngineKey,
  type CacheEngineKeyFields,
  type Key,
  type KeyDtype,
  LayerCacheEngineKey,
  parseCacheKey,
} from "./keys/key.ts";
export { fileNameToKey, keyToFileName } from "./keys/key_file.ts";
export {
  checkChunk,
  type ChunkCheck,
  layoutMetadata,
  type Metadata,
} from "./connector/chunk_metadata.ts";
export type {
  CallOptions,
  ConnectorStats,
  ListOptions,
  LoadedObject,
  ObjectStat,
  Priority,
  RemoteConnector,
  StoreOptions,
} from "./connector/remote_connector.ts";
export { type OtherOptions, ShmFileConnector } from "./connector/shm_file_connector.ts";
export type { ProtocolChoice, ShmFileConnectorOptions } from "./connector/shm_file_options.ts";
export type { ConnectorSource, StoreSettings } from "./connector/shm_file_sources.ts";
export type { Durability, IoMode } from "./worker/object_client.ts";
export type { LatencyBucket, VerbInfo, WorkerInfo } from "./worker/v2/info.ts";
export {
  type AllocateAsyncOptions,
  type AllocateOptions,
  type EvictListener,
  type HotTierSettings,
  LocalCpuBackend,
  type LocalCpuBackendOptions,
  type LocalCpuBackendStats,
  type RefusalReason,
} from "./cache/local_cpu_backend.ts";
export {
  type ChunkLayout,
  type PutOptions,
  type TieredSettings,
  TieredStore,
  type TieredStoreOptions,
  type TieredStoreStats,
  type WriteMode,
} from "./cache/tiered_store.ts";
export {
  type ConfigProblem,
  type ConfigSources,
  createConfig,
  type LmshmConfig,
  loadConfig,
  type LoadedConfig,
} from "./config/config.ts";
export {
  GpuDevice,
  type GpuDeviceFacts,
  type GpuLibraryKind,
  type GpuLibraryOptions,
  type GpuOpenOptions,
  type GpuStatus,
  gpuStatus,
  type MemoryKind,
} from "./gpu/device.ts";
export { GpuEvent } from "./gpu/event.ts";
export {
  DeviceBuffer,
  type DeviceMemory,
  DeviceRange,
  HostBuffer,
  type HostMemory,
  HostRange,
} from "./gpu/memory.ts";
export {
  type KvMoveOptions,
  type KvOrder,
  PagedKvCache,
  type PagedKvOptions,
} from "./gpu/paged_kv.ts";
export { type Extent, GpuStream, type Rows } from "./gpu/stream.ts";
export type { WaitOptions } from "./gpu/wait.ts";
export { disposeAll } from "./at_exit.ts";
