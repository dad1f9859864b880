// SPDX-License-Identifier: Apache-2.0
//
// What the memory layer needs of the system, and the choice between the two ways to get it:
// liblmshm (lmshm.ts) and, where that cannot be loaded, the C library itself (libc.ts).

import { ShmError } from "../errors.ts";
import { openLibc } from "./libc.ts";
import { openLmshm } from "./lmshm.ts";
import { environmentVariable } from "../permission.ts";
import { isLibraryNamed } from "./locate.ts";

export type SegmentKind = "create" | "attach" | "anonymous";
export type IfExists = "reclaim" | "fail" | "replace";
export type PinMode = "auto" | "require" | "none";
export type PageMode = "default" | "transparent" | "2M" | "1G";
export type PinnedBy = "none" | "cuda" | "cuda-driver" | "hip" | "mlock";
export type NameState = "free" | "live" | "dead" | "foreign";

/** A checked request: every number is a safe integer, the name is one path component or null. */
export interface OpenRequest {
  readonly kind: SegmentKind;
  /** Without the leading slash; null for an anonymous segment and for attaching by `fd`. */
  readonly name: string | null;
  /** 0 when attaching: all of it. */
  readonly sizeBytes: number;
  readonly ifExists: IfExists;
  readonly pin: PinMode;
  readonly pages: PageMode;
  readonly numa:
    | { readonly policy: "bind" | "interleave"; readonly nodes: readonly number[] }
    | null;
  /** 0: chosen from the CPUs. */
  readonly populateThreads: number;
  /** The descriptor to attach, or null. */
  readonly fd: number | null;
  /** Path of a GPU runtime instead of the search, or null. */
  readonly gpuLibrary: string | null;
  /** The device that is to pin, or null: as lmshm.h chooses. */
  readonly gpuDevice: number | null;
}

/** What the system made of a request. All sizes in bytes. */
export interface SegmentFacts {
  readonly address: bigint;
  readonly sizeBytes: number;
  readonly mappedBytes: number;
  readonly pageBytes: number;
  /** How much the kernel backs by huge pages. */
  readonly hugeBytes: number;
  readonly pinnedBy: PinnedBy;
  /** This process owns the name. */
  readonly owner: boolean;
  /** The segment of a dead owner was replaced. */
  readonly reclaimed: boolean;
  /** The segment of a stranger was replaced, as was asked for. */
  readonly replaced: boolean;
  /**
   * Of the segment's file, for a child process to inherit; the segment's own, and without its lock.
   * Null where the system does not open a named one's again (no /proc, no descriptor left).
   */
  readonly fd: number | null;
  /** Which file it is, "<boot>:<device>:<inode>" as in lmshm.h: no other one while it is mapped. */
  readonly identity: string;
  readonly gpuDevices: number;
  /** The GPU runtime's own code, 0 when it had none. */
  readonly gpuError: number;
  /** The GPU runtime that answered, or "". */
  readonly gpuLibrary: string;
  /** Bytes of each registration with the GPU, which no copy may cross; 0: registered as one. */
  readonly pinPieceBytes: number;
  readonly populateThreads: number;
  /** Why the memory is pinned less than was wished, and the like; "" when there is nothing to say. */
  readonly message: string;
}

export interface NativeSegment {
  readonly facts: SegmentFacts;
  /**
   * Unpins, unlinks and unmaps. With `keepRange` the addresses stay valid and read zeros, so that
   * a view that could not be revoked never faults. Called once.
   */
  closeSync(keepRange: boolean): void;
  /** The same without blocking the event loop. */
  close(keepRange: boolean): Promise<void>;
  /**
   * Puts untouched private memory at `at`, or at free addresses: 0n. See lmshm_window_reserve().
   * @returns the address, or null when the system refuses.
   */
  reserveWindow(at: bigint, bytes: number): bigint | null;
  /** Maps a part of the segment a second time. See lmshm_window_map(). False when refused. */
  mapWindow(offset: number, bytes: number, at: bigint): boolean;
  /** Takes back what was mapped there. See lmshm_window_unmap(). False when refused. */
  unmapWindow(at: bigint, bytes: number): boolean;
}

export interface OpenHooks {
  readonly signal?: AbortSignal | undefined;
  /** Called every few milliseconds while pages are populated. */
  readonly onProgress?: ((populatedBytes: number, sizeBytes: number) => void) | undefined;
}

export interface SegmentBackend {
  readonly kind: "liblmshm" | "libc";
  /** The library that serves. */
  readonly path: string;
  /** Why liblmshm does not serve; "" when it does. */
  readonly reason: string;
  openSync(request: OpenRequest): NativeSegment;
  open(request: OpenRequest, hooks: OpenHooks): Promise<NativeSegment>;
  nameState(name: string): NameState;
  /** Of what has the name now, as in SegmentFacts; null when nothing has. */
  nameIdentity(name: string): string | null;
  /** Unlinks the name of a dead owner. True if it did, false if there was nothing of the kind. */
  reclaim(name: string): boolean;
}

let chosen: SegmentBackend | undefined;

/**
 * The backend of this process, chosen at the first call: liblmshm, or libc where that is not there
 * or does not load. Environment variables leave no choice: LMSHM_BACKEND ("liblmshm" or "libc"), and
 * LMSHM_LIBRARY, the path of liblmshm.
 * @throws {ShmError} what was asked for cannot be had; EPERM: Deno does not allow looking for it
 */
export function segmentBackend(): SegmentBackend {
  chosen ??= chooseBackend(environmentVariable("LMSHM_BACKEND"));
  return chosen;
}

/**
 * Chooses the backend for the segments opened from now on; those that are open keep theirs.
 * @param kind undefined: as segmentBackend() would at its first call
 */
export function useSegmentBackend(kind: SegmentBackend["kind"] | undefined): SegmentBackend {
  chosen = chooseBackend(kind ?? environmentVariable("LMSHM_BACKEND"));
  return chosen;
}

function chooseBackend(forced: string | undefined): SegmentBackend {
  switch (forced) {
    case "liblmshm":
      return openLmshm();
    case "libc":
      return openLibc("it was not to be used (LMSHM_BACKEND=libc)");
    case undefined:
    case "":
      break;
    default:
      throw new ShmError(`LMSHM_BACKEND is ${JSON.stringify(forced)}`, {
        code: "EINVAL",
        operation: "choose backend",
        hint: 'Set it to "liblmshm" or "libc", or unset it',
      });
  }
  try {
    return openLmshm();
  } catch (error) {
    if (isLibraryNamed() || (error instanceof ShmError && error.code === "EPERM")) throw error;
    return openLibc(error instanceof Error ? error.message : String(error));
  }
}
