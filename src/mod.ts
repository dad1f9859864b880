// SPDX-License-Identifier: Apache-2.0
//
// The public names of lmshm, and nothing else: segments, memory, cache, connector, errors. "lmshm/gpu"
// has those of a GPU, "lmshm/config" those of configuration files; "lmshm/embed" has none, and puts the
// built parts into an executable.

export { version } from "./version.ts";
export { ERROR_CODES, type ErrorCode, type ErrorDetails, ShmError } from "./errors.ts";
export {
  type AttachOptions,
  type CreateOptions,
  type IfExists,
  type NameState,
  type OpenOptions,
  type OwnerEnd,
  type PageMode,
  type PinMode,
  type PinnedBy,
  type PinOptions,
  type SegmentFacts,
  type ShmRange,
  ShmSegment,
  type WaitOptions,
  type WaitResult,
} from "./memory/segment.ts";
export { ShmView } from "./memory/view.ts";
export { type DType, type DTypeArrays, type DTypeName } from "./memory/dtype.ts";
export { bfloat16ToFloat32, float32ToBfloat16 } from "./memory/bfloat16.ts";
export { MemoryFormat } from "./memory/memory_format.ts";
export {
  type DTypeArgument,
  type LayoutArgument,
  type LayoutFields,
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
export { streamOf, type StreamOptions } from "./memory/stream_of.ts";
export type {
  AllocatorStats,
  LeakedObject,
  LeakReport,
  MemoryAllocator,
} from "./memory/memory_allocator.ts";
export type { AllocatorOptions } from "./memory/pool_allocator.ts";
export { TensorMemoryAllocator } from "./memory/tensor_allocator.ts";
export {
  type PagedAllocatorOptions,
  PagedTensorMemoryAllocator,
} from "./memory/paged_allocator.ts";
export { BufferAllocator } from "./memory/buffer_allocator.ts";
export {
  type BufferLayout,
  type MixedAllocatorOptions,
  type MixedCreateOptions,
  MixedMemoryAllocator,
  type PoolLayout,
} from "./memory/mixed_allocator.ts";
export type { PoolMap, PoolMapOptions, PoolRange, PoolRangeState } from "./memory/pool_map.ts";
export { PublishedPool, publishPool, type PublishPoolOptions } from "./memory/publish_pool.ts";
export { runtime } from "./native/ffi.ts";
export {
  CacheEngineKey,
  type CacheEngineKeyFields,
  type Key,
  type KeyDtype,
  LayerCacheEngineKey,
  parseCacheKey,
} from "./keys/key.ts";
export { ObjectKey, type ObjectKeyFields } from "./keys/object_key.ts";
export { fileNameToKey, keyToFileName } from "./keys/key_file.ts";
export { type Metadata } from "./connector/chunk_metadata.ts";
export type {
  BatchedPutOptions,
  CallOptions,
  ConnectorStats,
  ListOptions,
  LoadedObject,
  ObjectStat,
  Priority,
  PutOptions,
  RemoteConnector,
} from "./connector/remote_connector.ts";
export type {
  Telemetry,
  TelemetryAttributes,
  TelemetryCounter,
  TelemetryHistogram,
  TelemetryMeter,
  TelemetryMetricOptions,
  TelemetrySpan,
  TelemetrySpanContext,
  TelemetrySpanOptions,
  TelemetryTracer,
} from "./telemetry.ts";
export { connect, type ConnectOptions } from "./connector/connect.ts";
export { type OtherOptions, ShmFileConnector } from "./connector/shm_file_connector.ts";
export type { ShmFileConnectorOptions } from "./connector/shm_file_options.ts";
export type { ConnectorSource } from "./connector/shm_file_sources.ts";
export type { Durability, IoMode } from "./worker/object_client.ts";
export type { DirectoryUse, LatencyBucket, VerbInfo, WorkerInfo } from "./worker/worker_info.ts";
export {
  type AllocateOptions,
  type CachePolicyName,
  type EvictListener,
  LocalCpuBackend,
  type LocalCpuBackendCreateOptions,
  type LocalCpuBackendOptions,
  type LocalCpuBackendStats,
  type RefusalReason,
  type TryAllocateOptions,
} from "./cache/local_cpu_backend.ts";
export {
  type TieredPutOptions,
  TieredStore,
  type TieredStoreCreateOptions,
  type TieredStoreOptions,
  type TieredStoreStats,
  type WriteMode,
} from "./cache/tiered_store.ts";
export type { OpeningLimits } from "./wait.ts";
export { disposeAll } from "./at_exit.ts";
