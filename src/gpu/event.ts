// SPDX-License-Identifier: Apache-2.0
//
// A mark in a stream: recorded by one, waited for by other streams on the device, or by the program.

import { checkInternal, INTERNAL } from "../internal.ts";
import { ShmError } from "../errors.ts";
import { GPU_NOT_READY } from "../native/gpu_api.ts";
import type { GpuContext } from "./context.ts";
import { pause } from "../wait.ts";
import { bounded, type WaitOptions, waitOptions } from "./wait.ts";

/** Made by GpuDevice.createEvent(); GpuStream.record() sets it. Free it with `using`. */
export class GpuEvent implements Disposable {
  /** True when elapsed times can be had of it. */
  readonly timing: boolean;
  readonly #context: GpuContext;
  readonly #handle: bigint;
  readonly #letGo: () => void;
  #closed = false;

  /** @internal */
  constructor(token: typeof INTERNAL, context: GpuContext, timing: boolean) {
    checkInternal(token, "a GpuEvent is made by GpuDevice.createEvent()");
    this.#context = context;
    this.timing = timing;
    const made = context.api.eventCreate(context.device, timing);
    this.#handle = context.made(made, "create GPU event");
    this.#letGo = context.users.add("event");
  }

  /** The device's number. */
  get device(): number {
    return this.#context.device;
  }

  /** @internal */
  handle(operation: string): bigint {
    if (!this.#closed) return this.#handle;
    throw new ShmError("the event was freed", { code: "EBADF", operation });
  }

  /** Whether the device has passed it; true when it was never recorded. Never blocks. */
  reached(): boolean {
    const handle = this.handle("query GPU event");
    const code = this.#context.api.eventQuery(this.#context.device, handle);
    if (code === GPU_NOT_READY) return false;
    this.#context.check(code, "query GPU event");
    return true;
  }

  /**
   * Resolves when the device has passed it; the event loop goes on meanwhile.
   * @throws {ShmError} ETIMEDOUT, or what the device failed with.
   */
  async wait(options: WaitOptions = {}): Promise<void> {
    const limits = waitOptions("GpuEvent.wait", options);
    let over = false;
    const poll = async () => {
      const started = performance.now();
      while (!over && !this.reached()) await pause(performance.now() - started, true);
    };
    await bounded(poll(), "wait for GPU event", limits).finally(() => over = true);
  }

  /**
   * Time between two events with timing that the device has passed, in ms.
   * @throws {ShmError} EINVAL without timing; EIO with what the device says when one is not passed.
   */
  static elapsedMs(start: GpuEvent, end: GpuEvent): number {
    const context = start.#context;
    if (!start.timing || !end.timing) {
      throw new ShmError("an event was made without timing", {
        code: "EINVAL",
        operation: "measure GPU time",
        hint: "createEvent({ timing: true })",
      });
    }
    const operation = "measure GPU time";
    const { code, milliseconds } = context.api.eventElapsed(
      context.device,
      start.handle(operation),
      end.handle(operation),
    );
    context.check(code, operation);
    return milliseconds;
  }

  /** Frees it; what waits for it in streams is not disturbed. Idempotent. */
  close(): void {
    this.#context.check(this.#release(), "free GPU event");
  }

  /** close() that throws nothing for what the device failed with before. */
  [Symbol.dispose](): void {
    this.#context.checkAtEnd(this.#release(), "free GPU event");
  }

  #release(): number {
    if (this.#closed) return 0;
    this.#closed = true;
    const code = this.#context.api.eventDestroy(this.#context.device, this.#handle);
    this.#letGo();
    return code;
  }
}
