// SPDX-License-Identifier: Apache-2.0
//
// What the gpu layer needs of a GPU's library, whatever its kind: calls on one device at a time, each
// of which makes that device's context current and no other's, and returns the library's own code.
// No policy, no checks of arguments: those are the gpu layer's.

import { ffi } from "./ffi.ts";

/** The CUDA runtime, the CUDA driver alone, or AMD's HIP. */
export type GpuLibraryKind = "cuda" | "cuda-driver" | "hip";

/** 0, or the library's own error. */
export type GpuCode = number;
/** Queries of what has not been reached yet; the same in CUDA and HIP. */
export const GPU_NOT_READY: GpuCode = 600;

/** Which way a copy goes; the numbers are cudaMemcpyKind's and hipMemcpyKind's. */
export const COPY_KIND = { toDevice: 1, toHost: 2, onDevice: 3 } as const;
export type CopyKind = keyof typeof COPY_KIND;

/** What a device is. */
export interface GpuDeviceFacts {
  /** As the library counts, from 0; CUDA_VISIBLE_DEVICES changes it. */
  readonly index: number;
  /** As the library calls it. */
  readonly name: string;
  /** All of its memory. */
  readonly memoryBytes: number;
  /** "0000:01:00.0"; "" when the library does not say. */
  readonly pciBusId: string;
  /** "9.0" for CUDA; "" for HIP. */
  readonly computeCapability: string;
}

/** What memory is to the GPU. */
export type MemoryKind = "pageable" | "pinned" | "device" | "managed";

export interface PointerFacts {
  readonly kind: MemoryKind;
  /** Where it was allocated or registered; null for pageable memory. */
  readonly device: number | null;
}

/** Bytes in rows, for 2D copies. */
export interface Rows {
  readonly to: bigint;
  readonly toPitch: number;
  readonly from: bigint;
  readonly fromPitch: number;
  readonly width: number;
  readonly height: number;
}

/** One side's address, or what else is opaque, with the code in its place when there is none. */
export type Made = { readonly code: GpuCode; readonly handle: bigint };

export interface GpuApi {
  readonly kind: GpuLibraryKind;
  /** As it was opened. */
  readonly library: string;
  /** "13.0" for 13000; "" when the library does not say. */
  readonly driverVersion: string;
  readonly runtimeVersion: string;
  count(): { code: GpuCode; count: number };
  /** Makes no context. */
  facts(device: number): { code: GpuCode; facts: GpuDeviceFacts };
  /** Makes the device's context, or takes a reference to it. Blocks, up to a second. */
  enter(device: number): GpuCode;
  /** Gives the reference back. */
  exit(device: number): GpuCode;
  errorText(code: GpuCode): string;

  memory(device: number): { code: GpuCode; freeBytes: number; totalBytes: number };
  pointer(device: number, address: bigint): { code: GpuCode; facts: PointerFacts };
  alloc(device: number, bytes: number): Made;
  free(device: number, address: bigint): GpuCode;
  hostAlloc(device: number, bytes: number): Made;
  hostFree(device: number, address: bigint): GpuCode;

  copy(
    device: number,
    kind: CopyKind,
    to: bigint,
    from: bigint,
    bytes: number,
    stream: bigint,
  ): GpuCode;
  copyPeer(
    device: number,
    to: bigint,
    toDevice: number,
    from: bigint,
    fromDevice: number,
    bytes: number,
    stream: bigint,
  ): GpuCode;
  copyRows(device: number, kind: CopyKind, rows: Rows, stream: bigint): GpuCode;
  fill(device: number, to: bigint, value: number, bytes: number, stream: bigint): GpuCode;

  streamCreate(device: number): Made;
  streamDestroy(device: number, stream: bigint): GpuCode;
  streamWait(device: number, stream: bigint, event: bigint): GpuCode;
  eventCreate(device: number, timing: boolean): Made;
  eventDestroy(device: number, event: bigint): GpuCode;
  eventRecord(device: number, event: bigint, stream: bigint): GpuCode;
  /** GPU_NOT_READY while it has not been reached. */
  eventQuery(device: number, event: bigint): GpuCode;
  eventElapsed(
    device: number,
    start: bigint,
    end: bigint,
  ): { code: GpuCode; milliseconds: number };
}

/** Memory that C writes one result into. */
export class Out {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;

  constructor(byteLength = 8) {
    this.bytes = new Uint8Array(new ArrayBuffer(byteLength));
    this.#view = new DataView(this.bytes.buffer);
  }

  i32(offset = 0): number {
    return this.#view.getInt32(offset, true);
  }

  f32(): number {
    return this.#view.getFloat32(0, true);
  }

  u64(offset = 0): bigint {
    return this.#view.getBigUint64(offset, true);
  }

  /** A NUL-terminated string of at most `room` bytes. */
  text(room = this.bytes.length): string {
    const field = this.bytes.subarray(0, room);
    const end = field.indexOf(0);
    return new TextDecoder().decode(end < 0 ? field : field.subarray(0, end));
  }
}

const PAGE_BYTES = 4096;
const MAX_TEXT_BYTES = 2 * PAGE_BYTES;

/** The C string at an address, which must be one; read page by page, never beyond its end. */
export function readCString(address: bigint): string {
  if (address === 0n) return "";
  const parts: Uint8Array[] = [];
  for (let at = address; at - address < MAX_TEXT_BYTES;) {
    const room = PAGE_BYTES - Number(at % BigInt(PAGE_BYTES));
    const bytes = new Uint8Array(ffi.arrayBuffer(at, room)).slice();
    const end = bytes.indexOf(0);
    parts.push(end < 0 ? bytes : bytes.subarray(0, end));
    if (end >= 0) break;
    at += BigInt(room);
  }
  return new TextDecoder().decode(new Uint8Array(parts.flatMap((part) => [...part])));
}

/** "12.9" for CUDA's 12090. */
export function cudaVersion(version: number): string {
  return version > 0 ? `${Math.floor(version / 1000)}.${Math.floor(version % 1000 / 10)}` : "";
}
