// SPDX-License-Identifier: Apache-2.0
//
// One opened device, as its buffers, streams and events see it: the library, the number, how codes
// become errors, and who still uses it. Also what is in use of a piece of memory: copies in flight.

import { type ErrorCode, ShmError } from "../errors.ts";
import { callFenced } from "../fence.ts";
import type { GpuApi, GpuCode, Made } from "../native/gpu_api.ts";

/** Codes that CUDA and HIP share; everything else is EIO. */
const CODES: Readonly<Record<number, ErrorCode>> = {
  1: "EINVAL",
  2: "ENOMEM",
  3: "ENODEV",
  35: "ENODEV",
  100: "ENODEV",
  101: "ENODEV",
  201: "ENODEV",
  400: "EINVAL",
  801: "ENOTSUP",
};

const HINTS: Readonly<Record<string, string>> = {
  ENOMEM: "The device has too little free memory; see GpuDevice.memory()",
  ENODEV: "A process made by fork() cannot use its parent's GPU; lmshm gpu shows what there is",
};

/** A library's refusal as a ShmError. */
export function gpuError(api: GpuApi, code: GpuCode, operation: string, details = {}): ShmError {
  const name = CODES[code] ?? "EIO";
  return new ShmError(`${api.library}: ${api.errorText(code)} (${code})`, {
    code: name,
    operation,
    hint: HINTS[name],
    details: { gpuError: code, gpuLibrary: api.library, ...details },
  });
}

/** Calls each, whatever the others do. For what has no caller that an error could go to. */
export function callAll(calls: readonly (() => void)[]): void {
  for (const call of calls) callFenced("the end of a hold()", call);
}

/** Counts who uses something, and tells when nobody does any more. */
export class InUse {
  readonly #reasons = new Map<symbol, string>();
  #whenIdle: (() => void) | undefined;

  get count(): number {
    return this.#reasons.size;
  }

  /** "upload to GPU, ...": the first three. */
  get reasons(): string {
    return [...new Set(this.#reasons.values())].slice(0, 3).join(", ");
  }

  /** @returns what ends the use; idempotent. */
  add(reason: string): () => void {
    const key = Symbol(reason);
    this.#reasons.set(key, reason);
    return () => {
      if (!this.#reasons.delete(key) || this.#reasons.size > 0) return;
      const call = this.#whenIdle;
      this.#whenIdle = undefined;
      if (call) callFenced("freeing GPU memory", call);
    };
  }

  /** Calls once: now when nobody uses it, else with errors as warnings. */
  whenIdle(call: () => void): void {
    if (this.#reasons.size === 0) call();
    else this.#whenIdle = call;
  }
}

/** A device in use. @internal */
export class GpuContext {
  readonly api: GpuApi;
  readonly device: number;
  /** Its open buffers, streams and events. */
  readonly users: InUse = new InUse();
  /** The device has failed, somebody was told, and it fails every call from then on. */
  #failed = false;

  constructor(api: GpuApi, device: number) {
    this.api = api;
    this.device = device;
  }

  /** Throws unless the code is success. */
  check(code: GpuCode, operation: string, details = {}): void {
    if (code === 0) return;
    const error = gpuError(this.api, code, operation, { device: this.device, ...details });
    this.#failed ||= error.code === "EIO";
    throw error;
  }

  /** check() for what is given back at the end of a scope: says nothing that was said before. */
  checkAtEnd(code: GpuCode, operation: string): void {
    if (!this.#failed) this.check(code, operation);
  }

  /** The handle, or throws. */
  made({ code, handle }: Made, operation: string, details = {}): bigint {
    this.check(code, operation, details);
    return handle;
  }
}
