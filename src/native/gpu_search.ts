// SPDX-License-Identifier: Apache-2.0
//
// Which GPU library serves, by the rules of liblmshm (lmshm.h, PINNING): the caller's, else the
// environment's LMSHM_GPU_LIBRARY, else libcudart of CUDA 13, 12 and 11, then libcuda, then
// libamdhip64; the first that counts a device. A library once opened stays so.

import { environmentVariable } from "../permission.ts";
import type { GpuApi } from "./gpu_api.ts";
import { openCudaDriver } from "./gpu_driver.ts";
import { openCudart, openHip } from "./gpu_runtime.ts";
import { libraryPath } from "./locate.ts";

const OPENERS = { cudart: openCudart, driver: openCudaDriver, hip: openHip } as const;
type Opener = keyof typeof OPENERS;

const CANDIDATES: readonly (readonly [string, Opener])[] = [
  ["libcudart.so.13", "cudart"],
  ["libcudart.so.12", "cudart"],
  ["libcudart.so.11.0", "cudart"],
  ["libcudart.so", "cudart"],
  ["libcuda.so.1", "driver"],
  ["libamdhip64.so.7", "hip"],
  ["libamdhip64.so.6", "hip"],
  ["libamdhip64.so.5", "hip"],
  ["libamdhip64.so", "hip"],
];

/** A library that counts a device; or why there is none, and the first that was there at all. */
type GpuSearch =
  | { readonly api: GpuApi; readonly devices: number; readonly reason: "" }
  | {
    readonly api: null;
    readonly devices: 0;
    readonly reason: string;
    readonly library: string;
    readonly code: number;
  };

const opened = new Map<string, GpuApi>();

function tryOpen(path: string, openers: readonly Opener[]): GpuApi | string {
  const known = opened.get(path);
  if (known) return known;
  let problem = "";
  for (const name of openers) {
    try {
      const api = OPENERS[name](path);
      opened.set(path, api);
      return api;
    } catch (error) {
      problem ||= error instanceof Error ? error.message : String(error);
      // What HIP says of its version is more to the point than what it is not.
      if (name === "hip" && problem && error instanceof Error && /HIP/.test(error.message)) {
        problem = error.message;
      }
    }
  }
  return problem;
}

function ask(path: string, openers: readonly Opener[]): GpuSearch & { readonly opened: boolean } {
  const none = { api: null, devices: 0, library: path, code: 0 } as const;
  const api = tryOpen(path, openers);
  if (typeof api === "string") return { ...none, reason: api, opened: false };
  const { code, count } = api.count();
  if (code !== 0) {
    const reason = `counting devices of ${path}: ${api.errorText(code)} (${code})`;
    return { ...none, reason, code, opened: true };
  }
  if (count < 1) return { ...none, reason: `${path} counts no GPU`, opened: true };
  return { api, devices: count, reason: "", opened: true };
}

/** Looks for a GPU. Blocks for as long as libraries take to load: some ms, with a driver some 100. */
export function findGpu(library?: string): GpuSearch {
  const given = library || environmentVariable("LMSHM_GPU_LIBRARY");
  if (given) {
    const named = libraryPath(given);
    const found = ask(named, ["cudart", "driver", "hip"]);
    if (found.api || found.opened) return found;
    return {
      ...found,
      reason: `${named} is no GPU runtime library that can be used: ${found.reason}`,
    };
  }
  let first: GpuSearch | undefined;
  for (const [path, opener] of CANDIDATES) {
    const found = ask(path, [opener]);
    if (found.api) return found;
    if (found.opened) first ??= found;
  }
  return first ?? {
    api: null,
    devices: 0,
    reason: "no GPU runtime library found (libcudart, libcuda, libamdhip64)",
    library: "",
    code: 0,
  };
}
