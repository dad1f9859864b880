// SPDX-License-Identifier: Apache-2.0
//
// libcudart and libamdhip64 in the shape of gpu_api.ts. Both work with the current device of the
// calling thread, so every call first makes its device current, which costs some ten nanoseconds
// once that device has a context. It is not set back: setting a device makes a context on it.

import {
  COPY_KIND,
  type CopyKind,
  cudaVersion,
  type GpuApi,
  type GpuCode,
  type GpuDeviceFacts,
  type MemoryKind,
  Out,
  type PointerFacts,
  readCString,
  type Rows,
} from "./gpu_api.ts";
import {
  type Bytes,
  CAPABILITY_MAJOR,
  CAPABILITY_MINOR,
  DeviceApi,
  type DeviceCalls,
  NAME_BYTES,
} from "./gpu_device_api.ts";
import { CUDART_SYMBOLS, HIP_SYMBOLS } from "./gpu_symbols.ts";
import { ffi } from "./ffi.ts";

/** The calls that both libraries have, under one name. */
interface Calls extends DeviceCalls {
  readonly kind: "cuda" | "hip";
  count(count: Bytes): number;
  setDevice(device: number): number;
  facts(device: number): { code: GpuCode; facts: GpuDeviceFacts };
  driverVersion(version: Bytes): number;
  runtimeVersion(version: Bytes): number;
  versionText(version: number): string;
  attributes(attributes: Bytes, address: bigint): number;
  copy(to: bigint, from: bigint, size: bigint, kind: number, stream: bigint): number;
  copyPeer(
    to: bigint,
    toDevice: number,
    from: bigint,
    fromDevice: number,
    size: bigint,
    stream: bigint,
  ): number;
  copy2D(
    to: bigint,
    toPitch: bigint,
    from: bigint,
    fromPitch: bigint,
    width: bigint,
    height: bigint,
    kind: number,
    stream: bigint,
  ): number;
  errorName(code: number): bigint;
  errorText(code: number): bigint;
  lastError(): number;
}

/** More than any version's struct cudaDeviceProp. */
const PROPERTIES_BYTES = 16384;
/** Of totalGlobalMem, since CUDA 10. */
const TOTAL_MEMORY_OFFSET = 288;
/** Since CUDA 11 and HIP 6. */
const MEMORY_KINDS: readonly MemoryKind[] = ["pageable", "pinned", "device", "managed"];

function cudaCalls(path: string): Calls {
  const f = ffi.open(path, CUDART_SYMBOLS);
  return {
    kind: "cuda",
    count: f.cudaGetDeviceCount,
    setDevice: f.cudaSetDevice,
    facts(index) {
      const properties = new Out(PROPERTIES_BYTES);
      const code = f.cudaGetDeviceProperties(properties.bytes, index);
      const major = new Out();
      const minor = new Out();
      const bus = new Out(32);
      const known = f.cudaDeviceGetAttribute(major.bytes, CAPABILITY_MAJOR, index) === 0 &&
        f.cudaDeviceGetAttribute(minor.bytes, CAPABILITY_MINOR, index) === 0;
      f.cudaDeviceGetPCIBusId(bus.bytes, 32, index);
      const facts = {
        index,
        name: properties.text(NAME_BYTES),
        memoryBytes: Number(properties.u64(TOTAL_MEMORY_OFFSET)),
        pciBusId: bus.text(),
        computeCapability: known ? `${major.i32()}.${minor.i32()}` : "",
      };
      return { code, facts };
    },
    driverVersion: f.cudaDriverGetVersion,
    runtimeVersion: f.cudaRuntimeGetVersion,
    versionText: cudaVersion,
    malloc: f.cudaMalloc,
    free: f.cudaFree,
    hostAlloc: f.cudaHostAlloc,
    hostFree: f.cudaFreeHost,
    memInfo: f.cudaMemGetInfo,
    attributes: f.cudaPointerGetAttributes,
    copy: f.cudaMemcpyAsync,
    copyPeer: f.cudaMemcpyPeerAsync,
    copy2D: f.cudaMemcpy2DAsync,
    memset: f.cudaMemsetAsync,
    streamCreate: f.cudaStreamCreateWithFlags,
    streamDestroy: f.cudaStreamDestroy,
    streamWait: f.cudaStreamWaitEvent,
    eventCreate: f.cudaEventCreateWithFlags,
    eventDestroy: f.cudaEventDestroy,
    eventRecord: f.cudaEventRecord,
    eventQuery: f.cudaEventQuery,
    eventElapsed: f.cudaEventElapsedTime,
    errorName: f.cudaGetErrorName,
    errorText: f.cudaGetErrorString,
    lastError: f.cudaGetLastError,
  };
}

/** HIP's own number has the major version in its tens of millions. */
const HIP_MAJOR = 10_000_000;

function hipVersion(version: number): string {
  const minor = Math.floor(version % HIP_MAJOR / 100_000);
  return version > 0 ? `${Math.floor(version / HIP_MAJOR)}.${minor}` : "";
}

function hipCalls(path: string): Calls {
  const f = ffi.open(path, HIP_SYMBOLS);
  return {
    kind: "hip",
    count: f.hipGetDeviceCount,
    setDevice: f.hipSetDevice,
    facts(index) {
      const name = new Out(NAME_BYTES);
      const memory = new Out();
      const bus = new Out(32);
      const code = f.hipDeviceGetName(name.bytes, NAME_BYTES, index) ||
        f.hipDeviceTotalMem(memory.bytes, index);
      f.hipDeviceGetPCIBusId(bus.bytes, 32, index);
      const facts = {
        index,
        name: name.text(),
        memoryBytes: Number(memory.u64()),
        pciBusId: bus.text(),
        computeCapability: "",
      };
      return { code, facts };
    },
    driverVersion: f.hipDriverGetVersion,
    runtimeVersion: f.hipRuntimeGetVersion,
    versionText: hipVersion,
    malloc: f.hipMalloc,
    free: f.hipFree,
    hostAlloc: f.hipHostMalloc,
    hostFree: f.hipHostFree,
    memInfo: f.hipMemGetInfo,
    attributes: f.hipPointerGetAttributes,
    copy: f.hipMemcpyAsync,
    copyPeer: f.hipMemcpyPeerAsync,
    copy2D: f.hipMemcpy2DAsync,
    memset: f.hipMemsetAsync,
    streamCreate: f.hipStreamCreateWithFlags,
    streamDestroy: f.hipStreamDestroy,
    streamWait: f.hipStreamWaitEvent,
    eventCreate: f.hipEventCreateWithFlags,
    eventDestroy: f.hipEventDestroy,
    eventRecord: f.hipEventRecord,
    eventQuery: f.hipEventQuery,
    eventElapsed: f.hipEventElapsedTime,
    errorName: f.hipGetErrorName,
    errorText: f.hipGetErrorString,
    lastError: f.hipGetLastError,
  };
}

class RuntimeApi extends DeviceApi implements GpuApi {
  readonly kind: "cuda" | "hip";
  readonly library: string;
  readonly driverVersion: string;
  readonly runtimeVersion: string;
  readonly #calls: Calls;

  constructor(library: string, calls: Calls) {
    super(calls);
    this.library = library;
    this.kind = calls.kind;
    this.#calls = calls;
    const version = (ask: (version: Bytes) => number) => {
      const out = new Out();
      return ask(out.bytes) === 0 ? calls.versionText(out.i32()) : "";
    };
    this.driverVersion = version(calls.driverVersion);
    this.runtimeVersion = version(calls.runtimeVersion);
  }

  count() {
    const out = new Out();
    const code = this.#clear(this.#calls.count(out.bytes));
    return { code, count: code === 0 ? out.i32() : 0 };
  }

  facts(device: number) {
    const { code, facts } = this.#calls.facts(device);
    return { code: this.#clear(code), facts };
  }

  enter(device: number): GpuCode {
    return this.#clear(this.#calls.setDevice(device));
  }

  exit(): GpuCode {
    return 0; // The context belongs to the process, and other parts of it may use it.
  }

  errorText(code: GpuCode): string {
    return `${readCString(this.#calls.errorName(code))}: ${
      readCString(this.#calls.errorText(code))
    }`;
  }

  pointer(device: number, address: bigint) {
    const out = new Out(64);
    const code = this.on(device, () => this.#calls.attributes(out.bytes, address));
    const kind = MEMORY_KINDS[out.i32()] ?? "pageable";
    const facts: PointerFacts = { kind, device: kind === "pageable" ? null : out.i32(4) };
    return { code, facts };
  }

  copy(device: number, kind: CopyKind, to: bigint, from: bigint, bytes: number, stream: bigint) {
    return this.on(
      device,
      () => this.#calls.copy(to, from, BigInt(bytes), COPY_KIND[kind], stream),
    );
  }

  copyPeer(
    device: number,
    to: bigint,
    toDevice: number,
    from: bigint,
    fromDevice: number,
    bytes: number,
    stream: bigint,
  ): GpuCode {
    const { copyPeer } = this.#calls;
    return this.on(device, () => copyPeer(to, toDevice, from, fromDevice, BigInt(bytes), stream));
  }

  copyRows(device: number, kind: CopyKind, rows: Rows, stream: bigint): GpuCode {
    return this.on(device, () =>
      this.#calls.copy2D(
        rows.to,
        BigInt(rows.toPitch),
        rows.from,
        BigInt(rows.fromPitch),
        BigInt(rows.width),
        BigInt(rows.height),
        COPY_KIND[kind],
        stream,
      ));
  }

  protected override on(device: number, call: () => number): GpuCode {
    return this.#clear(this.#calls.setDevice(device) || call());
  }

  /** Takes back the library's record of its last error, so that nobody else finds ours. */
  #clear(code: GpuCode): GpuCode {
    if (code !== 0) this.#calls.lastError();
    return code;
  }
}

/** Opens libcudart. Throws the runtime's error when it is none. */
export function openCudart(path: string): GpuApi {
  return new RuntimeApi(path, cudaCalls(path));
}

/**
 * Opens libamdhip64. Throws the runtime's error when it is none, and an Error for HIP before 6,
 * which numbers kinds of memory in another way.
 */
export function openHip(path: string): GpuApi {
  const api = new RuntimeApi(path, hipCalls(path));
  if (Number.parseInt(api.runtimeVersion, 10) < 6) {
    throw new Error(`${path} is HIP ${api.runtimeVersion}; copies need HIP 6 or newer`);
  }
  return api;
}
