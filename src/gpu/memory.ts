// SPDX-License-Identifier: Apache-2.0
//
// Memory that copies go to and come from, each kind with a type of its own: what is on a device
// (DeviceBuffer, DeviceRange) and what is the host's (any range of a segment, HostBuffer). Classes
// with private fields are not interchangeable, so a host address cannot be passed as a device's.

import { checkRange, describe } from "../arguments.ts";
import { ShmError } from "../errors.ts";
import { checkInternal, finalize, INTERNAL } from "../internal.ts";
import { takeHold } from "../memory/hold_all.ts";
import { locate, type ShmRange, ShmSegment } from "../memory/segment.ts";
import { ShmView } from "../memory/view.ts";
import { ffi } from "../native/ffi.ts";
import { type GpuContext, InUse } from "./context.ts";

/** Where a range of a buffer is, checked anew: whatever public properties say. */
let placeOf: (
  range: { buffer: Allocation; offset: number; byteLength: number },
) => { address: bigint; byteLength: number; device: number };

/**
 * What DeviceBuffer and HostBuffer share: an address, a size, and who uses it.
 * @internal
 */
abstract class Allocation implements Disposable {
  readonly #address: bigint;
  readonly #sizeBytes: number;
  readonly #context: GpuContext;
  readonly #inUse = new InUse();
  readonly #letGo: () => void;
  #closed = false;
  #freed = false;

  static {
    placeOf = (range) => {
      const { buffer, offset, byteLength } = range;
      checkRange(offset, byteLength, buffer.#sizeBytes);
      return {
        address: buffer.#address + BigInt(offset),
        byteLength,
        device: buffer.#context.device,
      };
    };
  }

  constructor(
    token: typeof INTERNAL,
    context: GpuContext,
    address: bigint,
    sizeBytes: number,
    what: string,
  ) {
    checkInternal(token, `a ${what} is made by GpuDevice`);
    this.#context = context;
    this.#address = address;
    this.#sizeBytes = sizeBytes;
    this.#letGo = context.users.add(what);
  }

  get address(): bigint {
    return this.#address;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The number of the device that it was allocated on, or for. */
  get device(): number {
    return this.#context.device;
  }

  /** True from the moment that it is freed or disposed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Marks a copy in flight: freeing waits for, or refuses because of it. */
  hold(reason: string): () => void {
    this.mustBeOpen(reason);
    return this.#inUse.add(reason);
  }

  /**
   * Gives the memory back, at once. Idempotent. The library waits for everything that the device is
   * doing, so the event loop may stand still meanwhile.
   * @throws {ShmError} EBUSY with copies in flight, and then nothing has happened: wait for them
   *   with GpuStream.synchronize().
   */
  free(): void {
    if (this.#freed) return;
    if (this.#inUse.count > 0) {
      throw new ShmError(`${this} has copies in flight: ${this.#inUse.reasons}`, {
        code: "EBUSY",
        operation: "free GPU memory",
        hint: "Wait for them with synchronize() of their stream",
        details: { inFlight: this.#inUse.count },
      });
    }
    this.#context.check(this.#release(), "free GPU memory", { address: this.#address });
  }

  /** free(), or with copies in flight as soon as the last of them is through. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#inUse.whenIdle(() => {
      if (!this.#freed) this.#context.checkAtEnd(this.#release(), "free GPU memory");
    });
  }

  /** @internal */
  mustBeOpen(operation: string): void {
    if (!this.#closed) return;
    throw new ShmError(`${this} was freed`, { code: "EBADF", operation });
  }

  #release(): number {
    this.#closed = true;
    this.#freed = true;
    const { device, api } = this.#context;
    const code = this.release(api, device, this.#address);
    this.#letGo();
    return code;
  }

  /** Gives it back to the library. */
  protected abstract release(api: GpuContext["api"], device: number, address: bigint): number;
}

/** Memory on a device: GpuDevice.alloc() or GpuDevice.borrow() make it. Free it with `using`. */
export class DeviceBuffer extends Allocation {
  readonly #owned: boolean;

  /** @internal */
  constructor(
    token: typeof INTERNAL,
    context: GpuContext,
    address: bigint,
    sizeBytes: number,
    owned: boolean,
  ) {
    super(token, context, address, sizeBytes, "device buffer");
    this.#owned = owned;
  }

  /** Bytes [offset, offset + byteLength) of it; the rest of it by default. */
  range(offset = 0, byteLength: number = this.sizeBytes - offset): DeviceRange {
    return new DeviceRange(this, offset, byteLength);
  }

  /** For messages. */
  override toString(): string {
    return `device buffer of ${this.sizeBytes} bytes on GPU ${this.device}`;
  }

  /** @internal */
  protected override release(api: GpuContext["api"], device: number, address: bigint): number {
    return this.#owned ? api.free(device, address) : 0;
  }
}

/** A run of bytes on a device. */
export class DeviceRange {
  /** The buffer that it is a part of. */
  readonly buffer: DeviceBuffer;
  /** Bytes from the start of the buffer. */
  readonly offset: number;
  /** How many bytes. */
  readonly byteLength: number;
  /** Keeps other objects with these fields from passing as one. */
  readonly #device: number;

  /** DeviceBuffer.range() makes it. @throws {RangeError} when it is not within the buffer. */
  constructor(buffer: DeviceBuffer, offset: number, byteLength: number) {
    if (!(buffer instanceof DeviceBuffer)) {
      throw new TypeError(`a device range is of a DeviceBuffer, got ${describe(buffer)}`);
    }
    checkRange(offset, byteLength, buffer.sizeBytes);
    this.buffer = buffer;
    this.offset = offset;
    this.byteLength = byteLength;
    this.#device = buffer.device;
    finalize(this, "buffer", "offset", "byteLength");
  }

  /** The device's number. */
  get device(): number {
    return this.#device;
  }
}

/**
 * Host memory that the GPU's library allocated and page-locked itself: private to this process, for
 * comparison and for staging. GpuDevice.hostAlloc() makes it.
 */
export class HostBuffer extends Allocation {
  readonly #kind = "host";
  #view: ShmView | undefined;

  readonly #size: number;
  readonly #at: bigint;

  /** @internal */
  constructor(token: typeof INTERNAL, context: GpuContext, address: bigint, sizeBytes: number) {
    super(token, context, address, sizeBytes, "host buffer");
    this.#size = sizeBytes;
    this.#at = address;
  }

  /**
   * The memory itself, not a copy; empty once freed. Await what the runtime reads into it, or writes
   * from it, before that: the library may give the addresses to somebody else.
   * @throws {RangeError} when the runtime cannot make a view that large (Bun: 4 GiB).
   */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.mustBeOpen("look at host buffer");
    if (this.#size > ffi.maxViewBytes) {
      throw new RangeError(`one view has at most ${ffi.maxViewBytes} bytes in this runtime`);
    }
    this.#view ??= new ShmView(
      ffi.arrayBuffer(this.#at, this.#size),
      0,
      (detached) => detached,
    );
    return this.#view.bytes;
  }

  /** Bytes [offset, offset + byteLength) of it; the rest of it by default. */
  range(offset = 0, byteLength: number = this.sizeBytes - offset): HostRange {
    return new HostRange(this, offset, byteLength);
  }

  /** For messages. */
  override toString(): string {
    return `${this.#kind} buffer of ${this.sizeBytes} bytes`;
  }

  /** @internal */
  protected override release(api: GpuContext["api"], device: number, address: bigint): number {
    // Who still has the view finds it empty. Memory whose view has escaped stays for good.
    if (this.#view?.revoke() === false) return 0;
    return api.hostFree(device, address);
  }
}

/** A run of bytes of a HostBuffer. */
export class HostRange {
  /** The buffer that it is a part of. */
  readonly buffer: HostBuffer;
  /** Bytes from the start of the buffer. */
  readonly offset: number;
  /** How many bytes. */
  readonly byteLength: number;
  readonly #kind = "host";

  /** HostBuffer.range() makes it. @throws {RangeError} when it is not within the buffer. */
  constructor(buffer: HostBuffer, offset: number, byteLength: number) {
    if (!(buffer instanceof HostBuffer)) {
      throw new TypeError(`a host range is of a HostBuffer, got ${describe(buffer)}`);
    }
    checkRange(offset, byteLength, buffer.sizeBytes);
    this.buffer = buffer;
    this.offset = offset;
    this.byteLength = byteLength;
    finalize(this, "buffer", "offset", "byteLength");
  }

  /** For messages. */
  toString(): string {
    return `${this.#kind} range of ${this.byteLength} bytes at ${this.offset}`;
  }
}

/** What is on a device. */
export type DeviceMemory = DeviceBuffer | DeviceRange;
/** What is the host's: a range of a segment (a memory object is one), or the library's own. */
export type HostMemory = ShmRange | HostBuffer | HostRange;

/** One side of a copy, checked. @internal */
export interface Side {
  readonly address: bigint;
  readonly byteLength: number;
  /** Of the device; null for host memory. */
  readonly device: number | null;
  /** Registered in pieces of so many bytes from `pieceBase`; 0: as one. */
  readonly pieceBytes: number;
  readonly pieceBase: bigint;
  hold(reason: string): () => void;
}

/** @internal */
export function deviceSide(name: string, memory: DeviceMemory, operation: string): Side {
  const range = memory instanceof DeviceBuffer ? memory.range() : memory;
  if (!(range instanceof DeviceRange)) {
    throw new TypeError(`${name} must be memory on a device, got ${describe(memory)}`);
  }
  const { buffer } = range;
  buffer.mustBeOpen(operation);
  return {
    ...placeOf(range),
    pieceBytes: 0,
    pieceBase: 0n,
    hold: (reason) => buffer.hold(reason),
  };
}

/** @internal */
export function hostSide(name: string, memory: HostMemory, operation: string): Side {
  if (memory instanceof HostBuffer || memory instanceof HostRange) {
    const range = memory instanceof HostBuffer ? memory.range() : memory;
    const { buffer } = range;
    buffer.mustBeOpen(operation);
    return {
      ...placeOf(range),
      device: null,
      pieceBytes: 0,
      pieceBase: 0n,
      hold: (reason) => buffer.hold(reason),
    };
  }
  if (!(memory?.segment instanceof ShmSegment) || typeof memory.hold !== "function") {
    throw new TypeError(
      `${name} must be a range of a segment or of a host buffer, got ${describe(memory)}`,
    );
  }
  const { address, byteLength, place } = locate(memory);
  return {
    address,
    byteLength,
    device: null,
    pieceBytes: place.pinPieceBytes,
    pieceBase: place.address,
    hold: (reason) => takeHold(memory, reason),
  };
}
