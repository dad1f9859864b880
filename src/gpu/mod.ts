// SPDX-License-Identifier: Apache-2.0
//
// The public names of "lmshm/gpu": devices, streams and copies between a GPU and the segment.

export {
  GpuDevice,
  type GpuDeviceFacts,
  type GpuLibraryKind,
  type GpuLibraryOptions,
  type GpuOpenOptions,
  type GpuStatus,
  gpuStatus,
  type MemoryKind,
} from "./device.ts";
export { GpuEvent } from "./event.ts";
export {
  DeviceBuffer,
  type DeviceMemory,
  DeviceRange,
  HostBuffer,
  type HostMemory,
  HostRange,
} from "./memory.ts";
export { type KvMoveOptions, type KvOrder, PagedKvCache, type PagedKvOptions } from "./paged_kv.ts";
export { type Extent, GpuStream, type Rows } from "./stream.ts";
export type { WaitOptions } from "./wait.ts";
