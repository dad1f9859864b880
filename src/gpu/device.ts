// SPDX-License-Identifier: Apache-2.0
//
// GPUs: which there are, and one of them opened. Only an opened device gets a context; looking at
// the others makes none.

import { checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { environmentVariable } from "../permission.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import { ShmError } from "../errors.ts";
import type {
  GpuApi,
  GpuDeviceFacts,
  GpuLibraryKind,
  MemoryKind,
  PointerFacts,
} from "../native/gpu_api.ts";
import { findGpu } from "../native/gpu_search.ts";
import { GpuContext, gpuError } from "./context.ts";
import { GpuEvent } from "./event.ts";
import {
  DeviceBuffer,
  type DeviceMemory,
  DeviceRange,
  deviceSide,
  HostBuffer,
  type HostMemory,
  hostSide,
} from "./memory.ts";
import { GpuStream } from "./stream.ts";

export type { GpuDeviceFacts, GpuLibraryKind, MemoryKind };

/** Which GPU library is used. */
export interface GpuLibraryOptions {
  /** Path of a GPU library to use instead of the search; so does LMSHM_GPU_LIBRARY. */
  gpuLibrary?: string | undefined;
}

/** Whether there is a GPU, and if not, why. */
export type GpuStatus =
  | {
    readonly available: true;
    readonly reason: "";
    readonly kind: GpuLibraryKind;
    /** The library that counted them. */
    readonly gpuLibrary: string;
    /** "13.0"; "" when the library does not say. */
    readonly driverVersion: string;
    /** "" for the driver itself. */
    readonly runtimeVersion: string;
    readonly devices: readonly GpuDeviceFacts[];
  }
  | {
    readonly available: false;
    /** In words, why there is none. */
    readonly reason: string;
    /** The library that was found nonetheless, or "". */
    readonly gpuLibrary: string;
    /** The library's own error, 0 when it had none. */
    readonly gpuError: number;
    readonly devices: readonly [];
  };

/** Which device is opened. */
export interface GpuOpenOptions extends GpuLibraryOptions {
  /** From 0; default LMSHM_GPU_DEVICE, else 0. */
  device?: number | undefined;
}

function libraryOption({ gpuLibrary }: GpuLibraryOptions): string | undefined {
  const given: unknown = gpuLibrary;
  if (given === undefined) return undefined;
  if (typeof given === "string" && given !== "" && !given.includes("\0")) return given;
  throw new TypeError(`gpuLibrary must be a path, got ${describe(given)}`);
}

/**
 * What GPUs there are. Never throws for want of one, and makes no context. Loads the GPU library,
 * which takes some ms, or some 100 with a driver.
 */
export function gpuStatus(options: GpuLibraryOptions = {}): GpuStatus {
  const given = options;
  checkKnownOptions("gpuStatus", given, ["gpuLibrary"]);
  const found = findGpu(libraryOption(options));
  if (found.api === null) {
    const { reason, library, code } = found;
    return { available: false, reason, gpuLibrary: library, gpuError: code, devices: [] };
  }
  const { api } = found;
  const devices = Array.from({ length: found.devices }, (_, index) => factsOf(api, index));
  const { kind, library: gpuLibrary, driverVersion, runtimeVersion } = api;
  return { available: true, reason: "", kind, gpuLibrary, driverVersion, runtimeVersion, devices };
}

function factsOf(api: GpuApi, index: number): GpuDeviceFacts {
  const { code, facts } = api.facts(index);
  if (code !== 0) throw gpuError(api, code, "look at GPU", { device: index });
  return facts;
}

function environmentDevice(): number {
  const text = environmentVariable("LMSHM_GPU_DEVICE");
  if (!text) return 0;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new ShmError(`LMSHM_GPU_DEVICE is ${JSON.stringify(text)}`, {
    code: "EINVAL",
    operation: "open GPU",
    hint: "Set it to the number of a device, from 0, or unset it",
  });
}

/** A GPU in use. Everything made of it belongs to the thread that opened it. */
export class GpuDevice implements Disposable {
  /** What it is. */
  readonly facts: GpuDeviceFacts;
  readonly #context: GpuContext;
  #closed = false;
  #left = false;

  private constructor(token: typeof INTERNAL, context: GpuContext, facts: GpuDeviceFacts) {
    checkInternal(token, "a GpuDevice is made by GpuDevice.open()");
    this.#context = context;
    this.facts = facts;
  }

  /**
   * Opens a device. Its context is made now unless the process has it already, as pinning a segment
   * leaves it behind; that takes tenths of a second, in which the event loop stands still.
   * @throws {ShmError} ENODEV without a GPU, or without that one, with the reason in words.
   */
  static open(options: GpuOpenOptions = {}): GpuDevice {
    const given = options;
    checkKnownOptions("GpuDevice.open", given, ["device", "gpuLibrary"]);
    const { device } = options;
    if (device !== undefined) checkInteger("device", device, 0, 2 ** 31 - 2);
    const found = findGpu(libraryOption(options));
    if (found.api === null) {
      throw new ShmError(found.reason, {
        code: "ENODEV",
        operation: "open GPU",
        hint: "gpuStatus() tells without throwing; LMSHM_GPU_LIBRARY names a library elsewhere",
        details: { gpuLibrary: found.library, gpuError: found.code },
      });
    }
    const index = device ?? environmentDevice();
    if (index >= found.devices) {
      throw new ShmError(
        `there is no GPU ${index}: ${found.api.library} counts ${found.devices}, from 0`,
        {
          code: "ENODEV",
          operation: "open GPU",
          hint: "CUDA_VISIBLE_DEVICES hides and renumbers devices",
          details: { device: index, devices: found.devices },
        },
      );
    }
    const facts = factsOf(found.api, index);
    const context = new GpuContext(found.api, index);
    context.check(found.api.enter(index), "open GPU");
    return new GpuDevice(INTERNAL, context, facts);
  }

  /** Its number. */
  get index(): number {
    return this.#context.device;
  }

  /** As the library calls it. */
  get name(): string {
    return this.facts.name;
  }

  /** What kind of library serves it. */
  get kind(): GpuLibraryKind {
    return this.#context.api.kind;
  }

  /** Its path. */
  get gpuLibrary(): string {
    return this.#context.api.library;
  }

  /** True from the moment close() begins. */
  get closed(): boolean {
    return this.#closed;
  }

  /** What is free on it now, and what it has. */
  memory(): { freeBytes: number; totalBytes: number } {
    const { api, device } = this.#open("ask for GPU memory");
    const { code, freeBytes, totalBytes } = api.memory(device);
    this.#context.check(code, "ask for GPU memory");
    return { freeBytes, totalBytes };
  }

  /**
   * Allocates on the device; the bytes are undefined. Blocks for some 100 us.
   * @throws {ShmError} ENOMEM.
   */
  alloc(sizeBytes: number): DeviceBuffer {
    const context = this.#open("allocate GPU memory");
    checkInteger("sizeBytes", sizeBytes, 1);
    const made = context.api.alloc(context.device, sizeBytes);
    const address = context.made(made, "allocate GPU memory", { sizeBytes });
    return new DeviceBuffer(INTERNAL, context, address, sizeBytes, true);
  }

  /**
   * Device memory that somebody else in this process allocated, by its address; it is never freed
   * here, and must outlive what is made of it.
   * @throws {ShmError} EFAULT when the device's library does not know its first and last byte as
   *   memory of this device.
   */
  borrow(address: bigint, sizeBytes: number): DeviceBuffer {
    const context = this.#open("borrow GPU memory");
    if (typeof address !== "bigint" || address <= 0n || address >= 2n ** 63n) {
      throw new TypeError(`address must be a positive bigint, got ${describe(address)}`);
    }
    checkInteger("sizeBytes", sizeBytes, 1);
    for (const at of [address, address + BigInt(sizeBytes - 1)]) {
      const { kind, device } = this.#pointer(at);
      if (kind === "device" && device === this.index) continue;
      const what = kind === "device" ? `memory of GPU ${device}` : `${kind} host memory`;
      throw new ShmError(`0x${at.toString(16)} is ${what}, not memory of GPU ${this.index}`, {
        code: "EFAULT",
        operation: "borrow GPU memory",
        hint: "Host memory is passed as a range of its segment; see GpuStream.upload()",
        details: { address, sizeBytes, kind, device },
      });
    }
    return new DeviceBuffer(INTERNAL, context, address, sizeBytes, false);
  }

  /**
   * Host memory that the library page-locks itself, private to this process. Blocks for about as
   * long as touching its pages takes.
   */
  hostAlloc(sizeBytes: number): HostBuffer {
    const context = this.#open("allocate pinned host memory");
    checkInteger("sizeBytes", sizeBytes, 1);
    const made = context.api.hostAlloc(context.device, sizeBytes);
    const address = context.made(made, "allocate pinned host memory", { sizeBytes });
    return new HostBuffer(INTERNAL, context, address, sizeBytes);
  }

  /**
   * What the library says of memory, by its first and last byte: "pinned" is what copies run at full
   * speed from and to, whoever registered it in this process.
   */
  memoryKind(memory: DeviceMemory | HostMemory): MemoryKind {
    this.#open("look at memory");
    const operation = "look at memory";
    const side = memory instanceof DeviceBuffer || memory instanceof DeviceRange
      ? deviceSide("memory", memory, operation)
      : hostSide("memory", memory, operation);
    const first = this.#pointer(side.address).kind;
    const last = this.#pointer(side.address + BigInt(Math.max(0, side.byteLength - 1))).kind;
    return first === last ? first : "pageable";
  }

  /** A new queue of copies, independent of all others. */
  createStream(): GpuStream {
    return new GpuStream(INTERNAL, this.#open("create GPU stream"));
  }

  /** A new event. With timing, elapsed times can be had, and recording costs more. */
  createEvent(options: { timing?: boolean | undefined } = {}): GpuEvent {
    const given = options;
    checkKnownOptions("GpuDevice.createEvent", given, ["timing"]);
    return new GpuEvent(INTERNAL, this.#open("create GPU event"), options.timing === true);
  }

  /**
   * Gives the device up; its context stays while others in the process use it. Idempotent.
   * @throws {ShmError} EBUSY while buffers, streams or events of it are open.
   */
  close(): void {
    if (this.#closed) return;
    const { users } = this.#context;
    if (users.count > 0) {
      throw new ShmError(`GPU ${this.index} is in use by ${users.count}: ${users.reasons}`, {
        code: "EBUSY",
        operation: "close GPU",
        hint: "Free its buffers and events, and close its streams, before",
      });
    }
    this.#closed = true;
    this.#leave();
  }

  /** close(), or as soon as the last buffer, stream and event of it is freed. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#context.users.whenIdle(() => this.#leave());
  }

  #leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#context.checkAtEnd(this.#context.api.exit(this.index), "close GPU");
  }

  #pointer(address: bigint): PointerFacts {
    const { code, facts } = this.#context.api.pointer(this.index, address);
    this.#context.check(code, "look at memory");
    return facts;
  }

  #open(operation: string): GpuContext {
    if (!this.#closed) return this.#context;
    throw new ShmError(`GPU ${this.index} was closed`, { code: "EBADF", operation });
  }
}
