// SPDX-License-Identifier: Apache-2.0
//
// A queue of copies that a device carries out in order, beside the program. A copy returns at once;
// until the device is through with it, it holds the memory on both sides, so that neither the pool
// nor a buffer can be freed under it. What has been passed is found out by an event behind each turn
// of the event loop's copies, which is polled (wait.ts).

import { checkInteger, checkKnownOptions } from "../arguments.ts";
import { checkInternal, INTERNAL } from "../internal.ts";
import { ShmError } from "../errors.ts";
import { type CopyKind, GPU_NOT_READY } from "../native/gpu_api.ts";
import { callAll, type GpuContext } from "./context.ts";
import { GpuEvent } from "./event.ts";
import { type DeviceMemory, deviceSide, type HostMemory, hostSide, type Side } from "./memory.ts";
import { pause } from "../wait.ts";
import { bounded, type WaitOptions, waitOptions } from "./wait.ts";

/** Rows in memory: row n begins at n x pitchBytes. */
export interface Rows<M> {
  /** Where the rows are. */
  readonly memory: M;
  /** Bytes from the start of one row to the start of the next; at least the rows' width. */
  readonly pitchBytes: number;
}

/** So many rows of so many bytes. */
export interface Extent {
  /** Bytes of a row. */
  readonly widthBytes: number;
  /** How many. */
  readonly rows: number;
}

/** What libraries accept as a pitch. */
const MAX_PITCH = 2 ** 31 - 1;

interface Fence {
  readonly event: bigint;
  readonly releases: (() => void)[];
  readonly done: PromiseWithResolvers<void>;
}

/** Made by GpuDevice.createStream(). Close it with close(), `await using` or `using`. */
export class GpuStream implements Disposable, AsyncDisposable {
  readonly #context: GpuContext;
  readonly #handle: bigint;
  readonly #letGo: () => void;
  /** Of copies that no fence stands behind yet. */
  #unfenced: (() => void)[] = [];
  readonly #fences: Fence[] = [];
  /**
   * Events of fences that were passed, to be used again. One is made with the stream: so there is
   * always one here, or in a fence.
   */
  readonly #spare: bigint[] = [];
  #draining = false;
  #waiters = 0;
  #failure: ShmError | undefined;
  /** Somebody was told of the failure. */
  #told = false;
  #closed = false;
  #destroyed = false;

  /** @internal */
  constructor(token: typeof INTERNAL, context: GpuContext) {
    checkInternal(token, "a GpuStream is made by GpuDevice.createStream()");
    this.#context = context;
    const made = context.api.streamCreate(context.device);
    this.#handle = context.made(made, "create GPU stream");
    const { code, handle: event } = context.api.eventCreate(context.device, false);
    if (code !== 0) context.api.streamDestroy(context.device, this.#handle);
    context.check(code, "create GPU stream");
    this.#spare.push(event);
    this.#letGo = context.users.add("stream");
  }

  /** The number of its device. */
  get device(): number {
    return this.#context.device;
  }

  /** Whether anything is still in flight, as far as is known. */
  get busy(): boolean {
    return this.#unfenced.length > 0 || this.#fences.length > 0;
  }

  /** True from the moment it takes no more work. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Queues a copy from the host to the device. Both sides have the same length.
   *
   * From pinned memory it returns at once; from other memory the library stages it, and may block.
   * @throws {TypeError} when a side is of the wrong kind, {RangeError} for lengths that differ,
   *   {ShmError} EBADF for what was freed, else what the library says.
   */
  upload(target: DeviceMemory, source: HostMemory): void {
    this.#flat("toDevice", "upload to GPU", target, source);
  }

  /** Queues a copy from the device to the host; as upload(). */
  download(target: HostMemory, source: DeviceMemory): void {
    this.#flat("toHost", "download from GPU", target, source);
  }

  /** Queues a copy on the device, or between it and another opened one; as upload(). */
  copy(target: DeviceMemory, source: DeviceMemory): void {
    this.#flat("onDevice", "copy on GPU", target, source);
  }

  /** upload() of rows, which need not be contiguous on either side. */
  upload2D(target: Rows<DeviceMemory>, source: Rows<HostMemory>, extent: Extent): void {
    this.#rows("toDevice", "upload rows to GPU", target, source, extent);
  }

  /** download() of rows. */
  download2D(target: Rows<HostMemory>, source: Rows<DeviceMemory>, extent: Extent): void {
    this.#rows("toHost", "download rows from GPU", target, source, extent);
  }

  /** copy() of rows, on one device: between the layers of a KV cache, for example. */
  copy2D(target: Rows<DeviceMemory>, source: Rows<DeviceMemory>, extent: Extent): void {
    this.#rows("onDevice", "copy rows on GPU", target, source, extent);
  }

  /** Queues setting every byte to `value`, 0 to 255. */
  fill(target: DeviceMemory, value = 0): void {
    const operation = "fill GPU memory";
    this.#mustBeOpen(operation);
    checkInteger("value", value, 0, 255);
    const side = this.#own("target", deviceSide("target", target, operation));
    if (side.byteLength === 0) return;
    const { api, device } = this.#context;
    this.#enqueue(
      operation,
      [side],
      () => api.fill(device, side.address, value, side.byteLength, this.#handle),
    );
  }

  /** Queues the event: it is reached when everything queued so far is done. */
  record(event: GpuEvent): void {
    const operation = "record GPU event";
    this.#mustBeOpen(operation);
    const { api, device } = this.#context;
    this.#context.check(api.eventRecord(device, event.handle(operation), this.#handle), operation);
  }

  /** Lets what is queued from now on wait until the event, of any stream, is reached. */
  waitFor(event: GpuEvent): void {
    const operation = "wait for GPU event in stream";
    this.#mustBeOpen(operation);
    const { api, device } = this.#context;
    this.#context.check(api.streamWait(device, this.#handle, event.handle(operation)), operation);
  }

  /**
   * Resolves when everything queued so far is done; the event loop goes on meanwhile.
   * @throws {ShmError} ETIMEDOUT; what the device failed with, from then on always.
   */
  async synchronize(options: WaitOptions = {}): Promise<void> {
    const limits = waitOptions("GpuStream.synchronize", options);
    await Promise.resolve(); // so that callers of one turn share a fence
    for (let covered = false; !covered;) {
      this.#fence();
      covered = this.#unfenced.length === 0;
      const last = this.#fences.at(-1);
      if (!last) break;
      this.#waiters++;
      await bounded(last.done.promise, "wait for GPU stream", limits)
        .finally(() => this.#waiters--);
    }
    this.#throwFailure();
  }

  /** Waits for everything that is queued, then frees the stream. Idempotent. */
  async close(options: WaitOptions = {}): Promise<void> {
    this.#closed = true;
    try {
      await this.synchronize(options);
    } finally {
      this.#destroyWhenIdle();
    }
  }

  /** close(), which does not repeat a failure that was told before. */
  async [Symbol.asyncDispose](): Promise<void> {
    const told = this.#told;
    await this.close().catch((error: unknown) => {
      if (!told || error !== this.#failure) throw error;
    });
  }

  /** Takes no more work; the stream is freed when the device is through with what it has. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.#fence();
    this.#destroyWhenIdle();
  }

  #flat(
    kind: CopyKind,
    operation: string,
    targetMemory: DeviceMemory | HostMemory,
    sourceMemory: DeviceMemory | HostMemory,
  ): void {
    this.#mustBeOpen(operation);
    const [target, source] = this.#sides(kind, operation, targetMemory, sourceMemory);
    if (target.byteLength !== source.byteLength) {
      throw new RangeError(
        `${operation}: the target has ${target.byteLength} bytes and the source ${source.byteLength}`,
      );
    }
    if (target.byteLength === 0) return;
    this.#enqueue(
      operation,
      [target, source],
      () => this.#copyBytes(kind, target, 0, source, 0, target.byteLength),
    );
  }

  /** One copy, or several where the host's registration ends and the next begins. */
  #copyBytes(
    kind: CopyKind,
    target: Side,
    targetOffset: number,
    source: Side,
    sourceOffset: number,
    byteLength: number,
  ): number {
    const { api, device } = this.#context;
    for (let done = 0; done < byteLength;) {
      const to = target.address + BigInt(targetOffset + done);
      const from = source.address + BigInt(sourceOffset + done);
      const length = Math.min(byteLength - done, roomAt(target, to), roomAt(source, from));
      const peers = kind === "onDevice" && target.device !== source.device;
      const code = peers
        ? api.copyPeer(device, to, target.device!, from, source.device!, length, this.#handle)
        : api.copy(device, kind, to, from, length, this.#handle);
      if (code !== 0) return code;
      done += length;
    }
    return 0;
  }

  #rows(
    kind: CopyKind,
    operation: string,
    targetRows: Rows<DeviceMemory | HostMemory>,
    sourceRows: Rows<DeviceMemory | HostMemory>,
    extent: Extent,
  ): void {
    this.#mustBeOpen(operation);
    const given = extent;
    checkKnownOptions("extent", given, ["widthBytes", "rows"]);
    const { widthBytes, rows } = extent;
    checkInteger("widthBytes", widthBytes, 0);
    checkInteger("rows", rows, 0);
    const [target, source] = this.#sides(
      kind,
      operation,
      targetRows?.memory,
      sourceRows?.memory,
    );
    const { pitchBytes: toPitch } = targetRows;
    const { pitchBytes: fromPitch } = sourceRows;
    checkPitch("target", toPitch, widthBytes, rows, target.byteLength);
    checkPitch("source", fromPitch, widthBytes, rows, source.byteLength);
    if (widthBytes === 0 || rows === 0) return;
    if (kind === "onDevice" && target.device !== source.device) {
      throw new RangeError(`${operation}: rows are copied within one device, not between two`);
    }
    const { api, device } = this.#context;
    this.#enqueue(operation, [target, source], () => {
      const span = (pitch: number) => pitch * (rows - 1) + widthBytes;
      const whole = roomAt(target, target.address) >= span(toPitch) &&
        roomAt(source, source.address) >= span(fromPitch) &&
        toPitch <= MAX_PITCH && fromPitch <= MAX_PITCH;
      if (whole) {
        const plan = {
          to: target.address,
          toPitch,
          from: source.address,
          fromPitch,
          width: widthBytes,
          height: rows,
        };
        return api.copyRows(device, kind, plan, this.#handle);
      }
      // Across two registrations, or with a pitch that no library takes: row by row.
      for (let row = 0; row < rows; row++) {
        const code = this.#copyBytes(
          kind,
          target,
          row * toPitch,
          source,
          row * fromPitch,
          widthBytes,
        );
        if (code !== 0) return code;
      }
      return 0;
    });
  }

  #sides(
    kind: CopyKind,
    operation: string,
    target: DeviceMemory | HostMemory,
    source: DeviceMemory | HostMemory,
  ): [Side, Side] {
    const to = kind === "toHost"
      ? hostSide("target", target as HostMemory, operation)
      : deviceSide("target", target as DeviceMemory, operation);
    const from = kind === "toDevice"
      ? hostSide("source", source as HostMemory, operation)
      : deviceSide("source", source as DeviceMemory, operation);
    if (kind === "onDevice" && (to.device === this.device || from.device === this.device)) {
      return [to, from];
    }
    this.#own("target", to);
    this.#own("source", from);
    return [to, from];
  }

  /** Throws when the side is on another device than the stream. */
  #own(name: string, side: Side): Side {
    if (side.device === null || side.device === this.device) return side;
    throw new RangeError(
      `the ${name} is on GPU ${side.device}, and the stream on GPU ${this.device}`,
    );
  }

  #enqueue(operation: string, sides: readonly Side[], queue: () => number): void {
    const releases: (() => void)[] = [];
    try {
      for (const side of sides) releases.push(side.hold(operation));
    } catch (error) {
      callAll(releases);
      throw error;
    }
    const code = queue();
    // Held even then: of several copies the first may have been queued.
    if (this.#unfenced.length === 0) queueMicrotask(() => this.#fence());
    this.#unfenced.push(...releases);
    this.#context.check(code, operation, { bytes: sides[0]?.byteLength });
  }

  /** Puts an event behind what was queued last, and sees to its being polled. */
  #fence(): void {
    if (this.#unfenced.length === 0 || this.#destroyed) return;
    const { api, device } = this.#context;
    let event = this.#spare.pop();
    if (event === undefined) {
      const made = api.eventCreate(device, false);
      // None to be had now: #drain() comes back when the one of an earlier fence is free.
      if (made.code !== 0) return;
      event = made.handle;
    }
    const releases = this.#unfenced;
    this.#unfenced = [];
    const code = api.eventRecord(device, event, this.#handle);
    if (code !== 0) {
      this.#fail(code);
      // A device that takes no event any more has ended what it was doing.
      callAll(releases);
      this.#spare.push(event);
      return;
    }
    const done = Promise.withResolvers<void>();
    this.#fences.push({ event, releases, done });
    if (!this.#draining) void this.#drain();
  }

  /** Polls fence after fence until none is left. Never throws. */
  async #drain(): Promise<void> {
    this.#draining = true;
    const { api, device } = this.#context;
    for (let fence = this.#fences[0]; fence; fence = this.#fences[0]) {
      const started = performance.now();
      let code = api.eventQuery(device, fence.event);
      while (code === GPU_NOT_READY) {
        await pause(performance.now() - started, this.#waiters > 0);
        code = api.eventQuery(device, fence.event);
      }
      if (code !== 0) this.#fail(code);
      this.#fences.shift();
      this.#spare.push(fence.event);
      this.#fence();
      callAll(fence.releases);
      fence.done.resolve();
    }
    this.#draining = false;
    if (this.#closed) this.#destroyWhenIdle();
  }

  #fail(code: number): void {
    try {
      this.#context.check(code, "wait for GPU stream");
    } catch (error) {
      this.#failure ??= error as ShmError;
    }
  }

  #destroyWhenIdle(): void {
    if (this.#destroyed || this.#fences.length > 0 || this.#unfenced.length > 0) return;
    this.#destroyed = true;
    const { api, device } = this.#context;
    // What a device that has failed says here is of no use to anybody.
    for (const event of this.#spare.splice(0)) api.eventDestroy(device, event);
    api.streamDestroy(device, this.#handle);
    this.#letGo();
  }

  #mustBeOpen(operation: string): void {
    if (this.#closed) throw new ShmError("the stream was closed", { code: "EBADF", operation });
    this.#throwFailure();
  }

  #throwFailure(): void {
    if (!this.#failure) return;
    this.#told = true;
    throw this.#failure;
  }
}

/** Bytes from an address to the end of the registration that it lies in. */
function roomAt(side: Side, address: bigint): number {
  if (side.pieceBytes === 0) return Number.MAX_SAFE_INTEGER;
  return side.pieceBytes - Number(address - side.pieceBase) % side.pieceBytes;
}

function checkPitch(
  name: string,
  pitchBytes: number,
  widthBytes: number,
  rows: number,
  byteLength: number,
): void {
  checkInteger(`${name}.pitchBytes`, pitchBytes, rows > 1 ? widthBytes : 0);
  const needed = rows === 0 ? 0 : pitchBytes * (rows - 1) + widthBytes;
  if (needed > byteLength) {
    throw new RangeError(
      `the ${name} has ${byteLength} bytes, and ${rows} rows of ${widthBytes} bytes, ` +
        `${pitchBytes} apart, take ${needed}`,
    );
  }
}
