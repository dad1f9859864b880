// SPDX-License-Identifier: Apache-2.0
//
// libcuda, the driver, in the shape of gpu_api.ts: for machines that have no CUDA toolkit. It works
// in the primary context of a device, which libcudart uses too, so that memory registered through
// one of them is known to the other. Each call pushes that context and pops it again.

import {
  type CopyKind,
  cudaVersion,
  type GpuApi,
  type GpuCode,
  type Made,
  Out,
  type PointerFacts,
  readCString,
  type Rows,
} from "./gpu_api.ts";
import { CUDA_DRIVER_SYMBOLS } from "./gpu_symbols.ts";
import { ffi } from "./ffi.ts";
import type { Functions } from "./symbols.ts";

type Driver = Functions<typeof CUDA_DRIVER_SYMBOLS>;

const INVALID_VALUE = 1;
const INVALID_CONTEXT = 201;
const CAPABILITY_MAJOR = 75;
const CAPABILITY_MINOR = 76;
const NON_BLOCKING = 1;
const DISABLE_TIMING = 2;
const PORTABLE_MAPPED = 3;
const NAME_BYTES = 256;
/** CU_POINTER_ATTRIBUTE_ */
const MEMORY_TYPE = 2;
const DEVICE_ORDINAL = 9;
/** CU_MEMORYTYPE_ */
const HOST = 1;
const DEVICE = 2;

/** Byte offsets in CUDA_MEMCPY2D; those that are not set stay 0. */
const COPY_2D = {
  srcMemoryType: 16,
  srcHost: 24,
  srcDevice: 32,
  srcPitch: 48,
  dstMemoryType: 72,
  dstHost: 80,
  dstDevice: 88,
  dstPitch: 104,
  WidthInBytes: 112,
  Height: 120,
} as const;
const COPY_2D_BYTES = 128;

interface Context {
  readonly device: number;
  readonly handle: bigint;
  references: number;
}

class DriverApi implements GpuApi {
  readonly kind = "cuda-driver";
  readonly library: string;
  readonly driverVersion: string;
  readonly runtimeVersion = "";
  readonly #f: Driver;
  /** What cuInit said. */
  readonly #initialised: GpuCode;
  readonly #contexts = new Map<number, Context>();
  readonly #out = new Out();
  readonly #more = new Out();
  readonly #popped = new Out();

  constructor(library: string, driver: Driver) {
    this.library = library;
    this.#f = driver;
    this.#initialised = driver.cuInit(0);
    const version = new Out();
    this.driverVersion = driver.cuDriverGetVersion(version.bytes) === 0
      ? cudaVersion(version.i32())
      : "";
  }

  count() {
    const out = new Out();
    const code = this.#initialised || this.#f.cuDeviceGetCount(out.bytes);
    return { code, count: code === 0 ? out.i32() : 0 };
  }

  facts(index: number) {
    const device = new Out();
    const name = new Out(NAME_BYTES);
    const memory = new Out();
    const major = new Out();
    const minor = new Out();
    const bus = new Out(32);
    const f = this.#f;
    const code = f.cuDeviceGet(device.bytes, index) ||
      f.cuDeviceGetName(name.bytes, NAME_BYTES, device.i32()) ||
      f.cuDeviceTotalMem_v2(memory.bytes, device.i32()) ||
      f.cuDeviceGetAttribute(major.bytes, CAPABILITY_MAJOR, device.i32()) ||
      f.cuDeviceGetAttribute(minor.bytes, CAPABILITY_MINOR, device.i32());
    if (code === 0) f.cuDeviceGetPCIBusId(bus.bytes, 32, device.i32());
    const facts = {
      index,
      name: name.text(),
      memoryBytes: Number(memory.u64()),
      pciBusId: bus.text(),
      computeCapability: `${major.i32()}.${minor.i32()}`,
    };
    return { code, facts };
  }

  enter(device: number): GpuCode {
    const known = this.#contexts.get(device);
    if (known) {
      known.references++;
      return 0;
    }
    const ordinal = new Out();
    const context = new Out();
    const code = this.#f.cuDeviceGet(ordinal.bytes, device) ||
      this.#f.cuDevicePrimaryCtxRetain(context.bytes, ordinal.i32());
    if (code === 0) {
      const made = { device: ordinal.i32(), handle: context.u64(), references: 1 };
      this.#contexts.set(device, made);
    }
    return code;
  }

  exit(device: number): GpuCode {
    const known = this.#contexts.get(device);
    if (!known || --known.references > 0) return 0;
    this.#contexts.delete(device);
    return this.#f.cuDevicePrimaryCtxRelease_v2(known.device);
  }

  errorText(code: GpuCode): string {
    const text = (ask: (code: number, text: Uint8Array) => number) => {
      const out = new Out();
      return ask(code, out.bytes) === 0 ? readCString(out.u64()) : "unknown";
    };
    return `${text(this.#f.cuGetErrorName)}: ${text(this.#f.cuGetErrorString)}`;
  }

  memory(device: number) {
    const code = this.#on(
      device,
      () => this.#f.cuMemGetInfo_v2(this.#out.bytes, this.#more.bytes),
    );
    return {
      code,
      freeBytes: code === 0 ? Number(this.#out.u64()) : 0,
      totalBytes: code === 0 ? Number(this.#more.u64()) : 0,
    };
  }

  pointer(device: number, address: bigint) {
    const type = new Out();
    const ordinal = new Out();
    const code = this.#on(
      device,
      () =>
        this.#f.cuPointerGetAttribute(type.bytes, MEMORY_TYPE, address) ||
        this.#f.cuPointerGetAttribute(ordinal.bytes, DEVICE_ORDINAL, address),
    );
    const known = code === 0;
    const facts: PointerFacts = {
      kind: !known ? "pageable" : type.i32() === DEVICE ? "device" : "pinned",
      device: known ? ordinal.i32() : null,
    };
    // An address that the driver does not know is an invalid value to it.
    return { code: code === INVALID_VALUE ? 0 : code, facts };
  }

  alloc(device: number, bytes: number): Made {
    return this.#make(device, () => this.#f.cuMemAlloc_v2(this.#out.bytes, BigInt(bytes)));
  }

  free(device: number, address: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuMemFree_v2(address));
  }

  hostAlloc(device: number, bytes: number): Made {
    const { cuMemHostAlloc } = this.#f;
    return this.#make(
      device,
      () => cuMemHostAlloc(this.#out.bytes, BigInt(bytes), PORTABLE_MAPPED),
    );
  }

  hostFree(device: number, address: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuMemFreeHost(address));
  }

  copy(device: number, kind: CopyKind, to: bigint, from: bigint, bytes: number, stream: bigint) {
    const f = this.#f;
    const call = kind === "toDevice"
      ? f.cuMemcpyHtoDAsync_v2
      : kind === "toHost"
      ? f.cuMemcpyDtoHAsync_v2
      : f.cuMemcpyDtoDAsync_v2;
    return this.#on(device, () => call(to, from, BigInt(bytes), stream));
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
    const target = this.#contexts.get(toDevice);
    const source = this.#contexts.get(fromDevice);
    if (!target || !source) return INVALID_CONTEXT;
    const { cuMemcpyPeerAsync } = this.#f;
    return this.#on(
      device,
      () => cuMemcpyPeerAsync(to, target.handle, from, source.handle, BigInt(bytes), stream),
    );
  }

  copyRows(device: number, kind: CopyKind, rows: Rows, stream: bigint): GpuCode {
    const block = new Uint8Array(new ArrayBuffer(COPY_2D_BYTES));
    const view = new DataView(block.buffer);
    const fromHost = kind === "toDevice";
    const toHost = kind === "toHost";
    view.setUint32(COPY_2D.srcMemoryType, fromHost ? HOST : DEVICE, true);
    view.setBigUint64(fromHost ? COPY_2D.srcHost : COPY_2D.srcDevice, rows.from, true);
    view.setBigUint64(COPY_2D.srcPitch, BigInt(rows.fromPitch), true);
    view.setUint32(COPY_2D.dstMemoryType, toHost ? HOST : DEVICE, true);
    view.setBigUint64(toHost ? COPY_2D.dstHost : COPY_2D.dstDevice, rows.to, true);
    view.setBigUint64(COPY_2D.dstPitch, BigInt(rows.toPitch), true);
    view.setBigUint64(COPY_2D.WidthInBytes, BigInt(rows.width), true);
    view.setBigUint64(COPY_2D.Height, BigInt(rows.height), true);
    return this.#on(device, () => this.#f.cuMemcpy2DAsync_v2(block, stream));
  }

  fill(device: number, to: bigint, value: number, bytes: number, stream: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuMemsetD8Async(to, value, BigInt(bytes), stream));
  }

  streamCreate(device: number): Made {
    return this.#make(device, () => this.#f.cuStreamCreate(this.#out.bytes, NON_BLOCKING));
  }

  streamDestroy(device: number, stream: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuStreamDestroy_v2(stream));
  }

  streamWait(device: number, stream: bigint, event: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuStreamWaitEvent(stream, event, 0));
  }

  eventCreate(device: number, timing: boolean): Made {
    const flags = timing ? 0 : DISABLE_TIMING;
    return this.#make(device, () => this.#f.cuEventCreate(this.#out.bytes, flags));
  }

  eventDestroy(device: number, event: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuEventDestroy_v2(event));
  }

  eventRecord(device: number, event: bigint, stream: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuEventRecord(event, stream));
  }

  eventQuery(device: number, event: bigint): GpuCode {
    return this.#on(device, () => this.#f.cuEventQuery(event));
  }

  eventElapsed(device: number, start: bigint, end: bigint) {
    const code = this.#on(
      device,
      () => this.#f.cuEventElapsedTime(this.#out.bytes, start, end),
    );
    return { code, milliseconds: code === 0 ? this.#out.f32() : 0 };
  }

  #on(device: number, call: () => number): GpuCode {
    const context = this.#contexts.get(device);
    if (!context) return INVALID_CONTEXT;
    const code = this.#f.cuCtxPushCurrent_v2(context.handle);
    if (code !== 0) return code;
    try {
      return call();
    } finally {
      this.#f.cuCtxPopCurrent_v2(this.#popped.bytes);
    }
  }

  #make(device: number, call: () => number): Made {
    const code = this.#on(device, call);
    return { code, handle: code === 0 ? this.#out.u64() : 0n };
  }
}

/** Opens libcuda and initialises it. Throws the runtime's error when it is none. */
export function openCudaDriver(path: string): GpuApi {
  return new DriverApi(path, ffi.open(path, CUDA_DRIVER_SYMBOLS));
}
