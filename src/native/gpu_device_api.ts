// SPDX-License-Identifier: Apache-2.0
//
// The part of gpu_api.ts that is the same for all libraries: calls that concern the device whose
// context is current, with the same arguments under different names. How a device becomes current is
// the library's business.

import { type GpuCode, type Made, Out } from "./gpu_api.ts";

/** Where C writes a result. */
export type Bytes = Uint8Array | null;

/** What concerns the current device, under one name. */
export interface DeviceCalls {
  malloc(address: Bytes, size: bigint): number;
  free(address: bigint): number;
  hostAlloc(address: Bytes, size: bigint, flags: number): number;
  hostFree(address: bigint): number;
  memInfo(free: Bytes, total: Bytes): number;
  memset(to: bigint, value: number, size: bigint, stream: bigint): number;
  streamCreate(stream: Bytes, flags: number): number;
  streamDestroy(stream: bigint): number;
  streamWait(stream: bigint, event: bigint, flags: number): number;
  eventCreate(event: Bytes, flags: number): number;
  eventDestroy(event: bigint): number;
  eventRecord(event: bigint, stream: bigint): number;
  eventQuery(event: bigint): number;
  eventElapsed(milliseconds: Bytes, start: bigint, end: bigint): number;
}

/** Attributes of a device; the same in libcudart and libcuda. */
export const CAPABILITY_MAJOR = 75;
export const CAPABILITY_MINOR = 76;
export const NAME_BYTES = 256;
const NON_BLOCKING = 1;
const DISABLE_TIMING = 2;
/** For every context, and with an address for kernels: as registered memory. */
const PORTABLE_MAPPED = 3;

/** The calls of one library, each on a device. */
export abstract class DeviceApi {
  readonly #calls: DeviceCalls;
  readonly #out = new Out();
  readonly #more = new Out();

  constructor(calls: DeviceCalls) {
    this.#calls = calls;
  }

  /** Makes the call with that device current. */
  protected abstract on(device: number, call: () => number): GpuCode;

  memory(device: number) {
    const code = this.on(device, () => this.#calls.memInfo(this.#out.bytes, this.#more.bytes));
    return {
      code,
      freeBytes: code === 0 ? Number(this.#out.u64()) : 0,
      totalBytes: code === 0 ? Number(this.#more.u64()) : 0,
    };
  }

  alloc(device: number, bytes: number): Made {
    return this.#make(device, () => this.#calls.malloc(this.#out.bytes, BigInt(bytes)));
  }

  free(device: number, address: bigint): GpuCode {
    return this.on(device, () => this.#calls.free(address));
  }

  hostAlloc(device: number, bytes: number): Made {
    const { hostAlloc } = this.#calls;
    return this.#make(device, () => hostAlloc(this.#out.bytes, BigInt(bytes), PORTABLE_MAPPED));
  }

  hostFree(device: number, address: bigint): GpuCode {
    return this.on(device, () => this.#calls.hostFree(address));
  }

  fill(device: number, to: bigint, value: number, bytes: number, stream: bigint): GpuCode {
    return this.on(device, () => this.#calls.memset(to, value, BigInt(bytes), stream));
  }

  streamCreate(device: number): Made {
    return this.#make(device, () => this.#calls.streamCreate(this.#out.bytes, NON_BLOCKING));
  }

  streamDestroy(device: number, stream: bigint): GpuCode {
    return this.on(device, () => this.#calls.streamDestroy(stream));
  }

  streamWait(device: number, stream: bigint, event: bigint): GpuCode {
    return this.on(device, () => this.#calls.streamWait(stream, event, 0));
  }

  eventCreate(device: number, timing: boolean): Made {
    const flags = timing ? 0 : DISABLE_TIMING;
    return this.#make(device, () => this.#calls.eventCreate(this.#out.bytes, flags));
  }

  eventDestroy(device: number, event: bigint): GpuCode {
    return this.on(device, () => this.#calls.eventDestroy(event));
  }

  eventRecord(device: number, event: bigint, stream: bigint): GpuCode {
    return this.on(device, () => this.#calls.eventRecord(event, stream));
  }

  eventQuery(device: number, event: bigint): GpuCode {
    return this.on(device, () => this.#calls.eventQuery(event));
  }

  eventElapsed(device: number, start: bigint, end: bigint) {
    const code = this.on(device, () => this.#calls.eventElapsed(this.#out.bytes, start, end));
    return { code, milliseconds: code === 0 ? this.#out.f32() : 0 };
  }

  #make(device: number, call: () => number): Made {
    const code = this.on(device, call);
    return { code, handle: code === 0 ? this.#out.u64() : 0n };
  }
}
