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
  Out,
  type PointerFacts,
  readCString,
  type Rows,
} from "./gpu_api.ts";
import { CAPABILITY_MAJOR, CAPABILITY_MINOR, DeviceApi, NAME_BYTES } from "./gpu_device_api.ts";
import { CUDA_DRIVER_SYMBOLS } from "./gpu_symbols.ts";
import { ffi } from "./ffi.ts";
import type { Functions } from "./symbols.ts";

type Driver = Functions<typeof CUDA_DRIVER_SYMBOLS>;

const INVALID_VALUE = 1;
const INVALID_CONTEXT = 201;
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

class DriverApi extends DeviceApi implements GpuApi {
  readonly kind = "cuda-driver";
  readonly library: string;
  readonly driverVersion: string;
  readonly runtimeVersion = "";
  readonly #f: Driver;
  /** What cuInit said. */
  readonly #initialised: GpuCode;
  readonly #contexts = new Map<number, Context>();
  readonly #popped = new Out();

  constructor(library: string, driver: Driver) {
    super({
      malloc: driver.cuMemAlloc_v2,
      free: driver.cuMemFree_v2,
      hostAlloc: driver.cuMemHostAlloc,
      hostFree: driver.cuMemFreeHost,
      memInfo: driver.cuMemGetInfo_v2,
      memset: driver.cuMemsetD8Async,
      streamCreate: driver.cuStreamCreate,
      streamDestroy: driver.cuStreamDestroy_v2,
      streamWait: driver.cuStreamWaitEvent,
      eventCreate: driver.cuEventCreate,
      eventDestroy: driver.cuEventDestroy_v2,
      eventRecord: driver.cuEventRecord,
      eventQuery: driver.cuEventQuery,
      eventElapsed: driver.cuEventElapsedTime,
    });
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

  pointer(device: number, address: bigint) {
    const type = new Out();
    const ordinal = new Out();
    const code = this.on(
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

  copy(device: number, kind: CopyKind, to: bigint, from: bigint, bytes: number, stream: bigint) {
    const f = this.#f;
    const call = kind === "toDevice"
      ? f.cuMemcpyHtoDAsync_v2
      : kind === "toHost"
      ? f.cuMemcpyDtoHAsync_v2
      : f.cuMemcpyDtoDAsync_v2;
    return this.on(device, () => call(to, from, BigInt(bytes), stream));
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
    return this.on(
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
    return this.on(device, () => this.#f.cuMemcpy2DAsync_v2(block, stream));
  }

  protected override on(device: number, call: () => number): GpuCode {
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
}

/** Opens libcuda and initialises it. Throws the runtime's error when it is none. */
export function openCudaDriver(path: string): GpuApi {
  return new DriverApi(path, ffi.open(path, CUDA_DRIVER_SYMBOLS));
}
