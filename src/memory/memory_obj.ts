// SPDX-License-Identifier: Apache-2.0
//
// A memory object: a chunk of memory with a shape, and the rules of its life. Who holds a reference
// keeps it; who releases the last one frees it. Freeing revokes its views, so that no array that was
// taken from it shows the chunk's next tenant; every method that needs the memory says EFREED then.
//
// Where the memory comes from and goes to is the allocators' business (ChunkHome). One thread at a
// time: nothing here is shared between threads, and nothing blocks.

import { type ErrorCode, ShmError } from "../errors.ts";
import { checkInteger, describe } from "../arguments.ts";
import { callFenced } from "../fence.ts";
import { type DType, type DTypeArrays, dtypeSizeBytes, dtypeView } from "./dtype.ts";
import { Holds } from "./holds.ts";
import type { MemoryAllocator } from "./memory_allocator.ts";
import type { MemoryFormat } from "./memory_format.ts";
import { placeOf, type ShmRange, type ShmSegment } from "./segment.ts";
import type { Shape, TensorLayout } from "./tensor_layout.ts";
import type { ShmView } from "./view.ts";

/** A snapshot of what an object is. Sizes in bytes. */
export interface MemoryObjMetadata {
  /** Of the first tensor. */
  readonly shape: Shape;
  /** Of the first tensor. */
  readonly dtype: DType;
  /** One for each tensor. */
  readonly shapes: readonly Shape[];
  /** One for each tensor. */
  readonly dtypes: readonly DType[];
  /** How the numbers are laid out. */
  readonly format: MemoryFormat;
  /** Bytes from the start of the segment; 0 for objects outside a segment. */
  readonly address: number;
  /** Bytes that the allocator set aside: the logical size, rounded up. */
  readonly physicalSizeBytes: number;
  /** References that are held. */
  readonly refCount: number;
  /** Pins that are held. */
  readonly pinCount: number;
}

/** What an object and its allocator share. Outlives the object when that is lost without release. */
export class Chunk {
  layout: TensorLayout;
  /** Bytes from the start of the segment. */
  readonly offset: number;
  readonly physicalSizeBytes: number;
  refCount = 1;
  pinCount = 0;
  freed = false;
  /** Made when first asked for. */
  view: ShmView | null = null;
  /** The view's bytes, cut to the logical size. */
  bytes: Uint8Array<ArrayBuffer> | null = null;
  /** One entry for each operation in flight. */
  holds: Holds | null = null;
  /** Called once, when the object can be evicted. */
  idleListeners: (() => void)[] | null = null;
  /** Its stack is where the object was allocated; null when that is not tracked. */
  readonly origin: Error | null;
  readonly allocatedAtMs: number;

  constructor(
    layout: TensorLayout,
    offset: number,
    physicalSizeBytes: number,
    origin: Error | null,
  ) {
    this.layout = layout;
    this.offset = offset;
    this.physicalSizeBytes = physicalSizeBytes;
    this.origin = origin;
    this.allocatedAtMs = origin === null ? 0 : Date.now();
  }

  get inFlight(): number {
    return this.holds?.size ?? 0;
  }
}

/** An allocator as its objects see it. */
export interface ChunkHome {
  readonly allocator: MemoryAllocator;
  /** The memory is gone as a whole; nothing can or need be given back. */
  readonly closed: boolean;
  makeView(chunk: Chunk): ShmView;
  /** Keeps the memory as a whole from being freed. */
  hold(reason: string): () => void;
  /** Takes the chunk back; `obj` is freed already. */
  release(obj: MemoryObj, chunk: Chunk): void;
}

/**
 * A reference-counted chunk of memory. Allocators make them, with one reference that belongs to the
 * caller: release it with refCountDown() or `using`.
 */
export abstract class MemoryObj implements Disposable {
  readonly #home: ChunkHome;
  readonly #chunk: Chunk;

  /** For allocators. @internal */
  constructor(home: ChunkHome, chunk: Chunk) {
    this.#home = home;
    this.#chunk = chunk;
  }

  /** The allocator that the memory goes back to. */
  get allocator(): MemoryAllocator {
    return this.#home.allocator;
  }

  /** False once it was freed, or its pool was closed. */
  get valid(): boolean {
    return !this.#chunk.freed && !this.#home.closed;
  }

  /** What it contains. */
  get layout(): TensorLayout {
    return this.#chunk.layout;
  }

  /** Shape of the first tensor. */
  get shape(): Shape {
    return this.#chunk.layout.shape;
  }

  /** Element type of the first tensor. */
  get dtype(): DType {
    return this.#chunk.layout.dtype;
  }

  /** One for each tensor. */
  get shapes(): readonly Shape[] {
    return this.#chunk.layout.shapes;
  }

  /** One for each tensor. */
  get dtypes(): readonly DType[] {
    return this.#chunk.layout.dtypes;
  }

  /** How the numbers are laid out. */
  get format(): MemoryFormat {
    return this.#chunk.layout.format;
  }

  /** Tokens of the first tensor; null when the format has none. */
  get numTokens(): number | null {
    return this.#chunk.layout.numTokens;
  }

  /** Bytes of all tensors together: the logical size. */
  get byteLength(): number {
    return this.#chunk.layout.byteLength;
  }

  /** Bytes that the allocator set aside: the logical size, rounded up. */
  get physicalSizeBytes(): number {
    return this.#chunk.physicalSizeBytes;
  }

  /** References that are held. */
  get refCount(): number {
    return this.#chunk.refCount;
  }

  /** Pins that are held. */
  get pinCount(): number {
    return this.#chunk.pinCount;
  }

  /** Pinned objects are not evicted, and not freed either. */
  get isPinned(): boolean {
    return this.#chunk.pinCount > 0;
  }

  /** Operations in flight; see hold(). */
  get inFlight(): number {
    return this.#chunk.inFlight;
  }

  /** True when only one reference is left, it is not pinned, and no I/O is in flight. */
  get canEvict(): boolean {
    const { refCount, pinCount, inFlight } = this.#chunk;
    return this.valid && refCount === 1 && pinCount === 0 && inFlight === 0;
  }

  /**
   * Calls `listener` once, as soon as canEvict is true again or the object is freed, from within
   * the call that made it so. For caches that passed over an object in use. Not when the pool is
   * closed: then nothing is called any more. What it throws becomes a warning.
   */
  onceIdle(listener: () => void): void {
    const chunk = this.#live("watch memory object");
    (chunk.idleListeners ??= []).push(listener);
  }

  /** All of that at once, as it is now. */
  get metadata(): MemoryObjMetadata {
    const { layout, offset, physicalSizeBytes, refCount, pinCount } = this.#chunk;
    const { shape, dtype, shapes, dtypes, format } = layout;
    return {
      shape,
      dtype,
      shapes,
      dtypes,
      format,
      address: offset,
      physicalSizeBytes,
      refCount,
      pinCount,
    };
  }

  /**
   * The memory itself, not a copy: `byteLength` bytes. The same array each time; its length is 0
   * once the object is freed. What the runtime reads into it after that is lost, and what it writes
   * from it may be zeros, but the memory's next owner has no part in either: use() keeps the object
   * until the I/O has ended. (Exceptions are in docs/memory.md.)
   * @throws {ShmError} EFREED after that; EMOVED when its buffer was transferred elsewhere.
   * @throws {RangeError} when the runtime cannot make a view that large (Bun: 4 GiB).
   */
  get bytes(): Uint8Array<ArrayBuffer> {
    const chunk = this.#live("read memory object");
    chunk.view ??= this.#home.makeView(chunk);
    if (!chunk.view.valid) {
      throw this.#error(
        "cannot be read, its buffer was transferred",
        "EMOVED",
        "read memory object",
        {
          hint:
            "Copy the bytes instead of transferring them; once the object is freed they are zeros",
        },
      );
    }
    if (chunk.bytes?.byteLength !== chunk.layout.byteLength) {
      const { bytes } = chunk.view;
      const { byteLength } = chunk.layout;
      chunk.bytes = bytes.byteLength === byteLength ? bytes : bytes.subarray(0, byteLength);
    }
    return chunk.bytes;
  }

  /** The bytes of one tensor, not a copy. Revoked with the object. */
  tensorBytes(index = 0): Uint8Array<ArrayBuffer> {
    const { offset, length, dtype } = this.#tensorRange(index);
    return this.bytes.subarray(offset, offset + length * dtypeSizeBytes(dtype));
  }

  /**
   * The elements of one tensor as a typed array, not a copy, in row-major order. Revoked with the
   * object.
   * @param dtype what it should be, for a result of that type; default whatever it is.
   * @throws {RangeError} when there is no tensor `index`, or it does not begin at a multiple of its
   *   element size (tensorBytes() has it nonetheless).
   * @throws {TypeError} when it has another dtype than `dtype`.
   * @throws {ShmError} as bytes does.
   */
  tensor<D extends DType = DType>(index = 0, dtype?: D): DTypeArrays[D] {
    const { offset, length, dtype: actual } = this.#tensorRange(index);
    if (dtype !== undefined && dtype !== actual) {
      throw new TypeError(`tensor ${index} is ${actual}, not ${describe(dtype)}`);
    }
    const { buffer, byteOffset } = this.bytes;
    return dtypeView(actual, buffer, byteOffset + offset, length) as DTypeArrays[D];
  }

  /** Takes one more reference. */
  refCountUp(): void {
    this.#live("take reference").refCount++;
  }

  /**
   * Releases one reference. Without references and pins the object is freed: its views are revoked
   * and the memory goes back.
   * @throws {ShmError} EFREED when it was freed already, EINVAL when only pins are left, EBUSY when
   *   this would free it with I/O in flight; nothing has changed then.
   */
  refCountDown(): void {
    const chunk = this.#releasable("release memory object");
    if (chunk === null) return;
    if (chunk.refCount === 0) {
      throw this.#error("has no references left, only pins", "EINVAL", "release memory object", {
        hint: "Each refCountUp() and the allocation itself allow one refCountDown()",
      });
    }
    if (chunk.refCount === 1 && chunk.pinCount === 0) this.#free(chunk);
    else chunk.refCount--;
    this.#tellIdle(chunk);
  }

  /** refCountDown(): `using` releases the reference that the allocation gave. */
  [Symbol.dispose](): void {
    this.refCountDown();
  }

  /** Keeps it from being evicted and freed until unpin(), once for each pin(). */
  pin(): void {
    this.#live("pin memory object").pinCount++;
  }

  /**
   * Takes one pin away; frees the object when that was the last and no references are left.
   * @throws {ShmError} EINVAL when it is not pinned, EFREED and EBUSY as refCountDown().
   */
  unpin(): void {
    const chunk = this.#releasable("unpin memory object");
    if (chunk === null) return;
    if (chunk.pinCount === 0) {
      throw this.#error("is not pinned", "EINVAL", "unpin memory object", {
        hint: "Each pin() allows one unpin()",
      });
    }
    if (chunk.pinCount === 1 && chunk.refCount === 0) this.#free(chunk);
    else chunk.pinCount--;
    this.#tellIdle(chunk);
  }

  /**
   * Marks I/O in flight: until the returned function is called, once, freeing the object or its
   * pool is an error.
   * @param reason for that error, e.g. "put model@..."
   */
  hold(reason: string): () => void {
    if (typeof reason !== "string") {
      throw new TypeError(`reason must be a string, got ${describe(reason)}`);
    }
    const chunk = this.#live("hold memory object");
    const release = this.#home.hold(reason);
    const end = (chunk.holds ??= new Holds()).add(reason);
    // Through `this`, so that an object in flight is not lost to the garbage collector.
    return () => {
      if (!end()) return;
      release();
      this.#tellIdle(this.#chunk);
    };
  }

  /**
   * Holds the object while `work` uses its bytes, and its I/O is in flight: what the runtime reads
   * into them, say. Releasing the last reference meanwhile is EBUSY.
   * @returns what `work` gives.
   */
  async use<T>(
    work: (bytes: Uint8Array<ArrayBuffer>) => T | Promise<T>,
    reason = "use()",
  ): Promise<T> {
    const release = this.hold(reason);
    try {
      return await work(this.bytes);
    } finally {
      release();
    }
  }

  /**
   * Gives a partial last chunk its true shape: from now on the object is its first bytes, read as
   * `numTokens` tokens. Moves no bytes. What file a chunk is read from decides its tokens, so this
   * is for an object that was allocated for a full chunk and filled with less.
   * @throws {RangeError} unless numTokens is from 1 to the present number.
   * @throws {TypeError} when the format has no tokens.
   */
  truncateTokens(numTokens: number): this {
    return this.#truncate(this.#live("truncate memory object").layout.withTokens(numTokens));
  }

  /**
   * truncateTokens() by size: whole tokens, or any number of bytes in the binary formats.
   * @throws {RangeError} when no whole number of tokens has that size, or the object is smaller.
   */
  truncateBytes(byteLength: number): this {
    return this.#truncate(this.#live("truncate memory object").layout.withByteLength(byteLength));
  }

  /** Throws unless releasing one reference frees the object. For allocators. @internal */
  checkFreeable(operation: string): void {
    const chunk = this.#live(operation);
    if (chunk.refCount !== 1 || chunk.pinCount > 0) {
      throw this.#error(
        `has ${chunk.refCount} references and ${chunk.pinCount} pins`,
        "EBUSY",
        operation,
        { hint: "Release what you hold with refCountDown(); the last release frees it" },
      );
    }
    this.#mustBeIdle(chunk, operation);
  }

  /** "KV_2LTD [2, 32, 256, 1024] bfloat16 at 4096". */
  toString(): string {
    return `${this.#chunk.layout} at ${this.#chunk.offset}`;
  }

  /** What console.log() shows in either runtime: one line, whatever state the object is in. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    const { layout, offset, refCount, pinCount } = this.#chunk;
    const { shape, dtype, shapes, dtypes } = layout;
    const tensors = Object.entries(shapes.length === 1 ? { shape, dtype } : { shapes, dtypes });
    const facts = [
      ...(this.valid ? [] : ["freed"]),
      ...tensors.map(([name, value]) => `${name}: ${JSON.stringify(value)}`),
      `format: "${layout.format}"`,
      `byteLength: ${layout.byteLength}`,
      `offset: ${offset}`,
      ...(this.valid ? [`refCount: ${refCount}`, `pinCount: ${pinCount}`] : []),
      ...(this.inFlight > 0 ? [`inFlight: ${this.inFlight}`] : []),
    ];
    return `${this.constructor.name} { ${facts.join(", ")} }`;
  }

  #free(chunk: Chunk): void {
    this.#mustBeIdle(chunk, "free memory object");
    chunk.refCount = 0;
    chunk.pinCount = 0;
    chunk.freed = true;
    chunk.bytes = null;
    this.#home.release(this, chunk);
  }

  #tellIdle(chunk: Chunk): void {
    const listeners = chunk.idleListeners;
    if (listeners === null || !(chunk.freed || this.canEvict)) return;
    chunk.idleListeners = null;
    for (const listener of listeners) callFenced("a listener of onceIdle()", listener);
  }

  #truncate(layout: TensorLayout): this {
    const { byteLength } = this.#chunk.layout;
    if (layout.byteLength > byteLength) {
      throw new RangeError(
        `${layout} has ${layout.byteLength} bytes, more than the object's ${byteLength}`,
      );
    }
    this.#chunk.layout = layout;
    return this;
  }

  #tensorRange(index: number): { offset: number; length: number; dtype: DType } {
    const { shapes, dtypes, offsets } = this.#chunk.layout;
    checkInteger("index", index, 0, shapes.length - 1);
    const length = shapes[index]!.reduce((count, size) => count * size, 1);
    return { offset: offsets[index]!, length, dtype: dtypes[index]! };
  }

  #live(operation: string): Chunk {
    if (this.#chunk.freed) {
      throw this.#error("was freed", "EFREED", operation, {
        hint: "Take a reference with refCountUp() before whoever holds the last one releases it",
      });
    }
    if (this.#home.closed) {
      throw this.#error("was freed when its pool was closed", "EFREED", operation);
    }
    return this.#chunk;
  }

  /** Null when the pool is closed: everything was released with it. */
  #releasable(operation: string): Chunk | null {
    return this.#home.closed && !this.#chunk.freed ? null : this.#live(operation);
  }

  #mustBeIdle(chunk: Chunk, operation: string): void {
    if (chunk.inFlight === 0) return;
    const reasons = chunk.holds?.reasons ?? [];
    throw this.#error(
      `has ${chunk.inFlight} operations in flight: ${reasons.slice(0, 3).join(", ")}`,
      "EBUSY",
      operation,
      { hint: "Wait for them before you release the last reference", reasons },
    );
  }

  #error(
    what: string,
    code: ErrorCode,
    operation: string,
    more: { hint?: string; reasons?: readonly string[] } = {},
  ): ShmError {
    const { offset, physicalSizeBytes, refCount, pinCount, inFlight } = this.#chunk;
    const { hint, reasons } = more;
    return new ShmError(`${this} ${what}`, {
      code,
      operation,
      ...(hint === undefined ? {} : { hint }),
      details: {
        offset,
        physicalSizeBytes,
        refCount,
        pinCount,
        inFlight,
        ...(reasons === undefined ? {} : { reasons }),
      },
    });
  }
}

/** A memory object in a segment: what connectors move without copying. */
export class TensorMemoryObj extends MemoryObj implements ShmRange {
  readonly #segment: ShmSegment;
  readonly #offset: number;

  /** For allocators. @internal */
  constructor(home: ChunkHome, chunk: Chunk, segment: ShmSegment) {
    super(home, chunk);
    this.#segment = segment;
    this.#offset = chunk.offset;
  }

  /** The segment that it is in. */
  get segment(): ShmSegment {
    return this.#segment;
  }

  /** Bytes from the start of the segment. */
  get offset(): number {
    return this.#offset;
  }

  /**
   * The address of the first byte in this process, where the GPU has pinned it. Whoever uses it must
   * hold() the object. `bytes` is the same memory at another address.
   */
  get dataPointer(): bigint {
    return placeOf(this.#segment).address + BigInt(this.#offset);
  }
}

/** A memory object in ordinary memory of the process; connectors have to copy it. */
export class BytesBufferMemoryObj extends MemoryObj {}
