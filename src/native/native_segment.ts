// SPDX-License-Identifier: Apache-2.0
//
// What is asked for when a segment is opened, and what the system made of it: lmshm_options and
// lmshm_info of csrc/include/lmshm.h, in the words of TypeScript.

type SegmentKind = "create" | "attach" | "anonymous";
/** What to do when the name is taken: replace a dead owner's segment, nothing, or a stranger's too. */
export type IfExists = "reclaim" | "fail" | "replace";
/** How to page-lock: by the GPU or mlock where they can, by the GPU or fail, or not at all. */
export type PinMode = "auto" | "require" | "none";
/** Pages of the memory: as usual, transparent huge pages, or huge pages that were set aside. */
export type PageMode = "default" | "transparent" | "2M" | "1G";
/** What page-locks the memory. */
export type PinnedBy = "none" | "cuda" | "cuda-driver" | "hip" | "mlock";
/** Who has a name: nobody, a live owner, a dead one, or a stranger. */
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
  /** Of the first byte, in this process. */
  readonly address: bigint;
  /** As it was asked for. */
  readonly sizeBytes: number;
  /** The same, rounded up to whole pages. */
  readonly mappedBytes: number;
  /** Bytes of a page of the mapping. */
  readonly pageBytes: number;
  /** How much the kernel backs by huge pages. */
  readonly hugeBytes: number;
  /** What page-locks it. */
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
  /** GPUs that the GPU runtime counts; 0 without one. */
  readonly gpuDevices: number;
  /** The GPU runtime's own code, 0 when it had none. */
  readonly gpuError: number;
  /** The GPU runtime that answered, or "". */
  readonly gpuLibrary: string;
  /** Bytes of each registration with the GPU, which no copy may cross; 0: registered as one. */
  readonly pinPieceBytes: number;
  /** Threads that populated it. */
  readonly populateThreads: number;
  /** Why the memory is pinned less than was wished, and the like; "" when there is nothing to say. */
  readonly message: string;
}

export interface NativeSegment {
  readonly facts: SegmentFacts;
  /**
   * Unpins, unlinks and unmaps. With `keepRange` the addresses stay valid and read zeros, so that
   * a view that could not be revoked never faults. While close() goes on it waits for its end.
   */
  closeSync(keepRange: boolean): void;
  /** The same without blocking the event loop. Called once. */
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
  /** See lmshm_queue_wait(). */
  wait(offset: number, expected: number, timeoutMs: number): NativeWait;
  /** See lmshm_queue_owner(). */
  waitForOwner(timeoutMs: number): NativeWait;
  /** See lmshm_notify(). */
  notify(offset: number, count: number): number;
}

/** A wait under way. */
export interface NativeWait {
  /** The result of its event, or -errno when it did not begin. Never rejects. */
  readonly ended: Promise<number>;
  /** Has it end soon. */
  cancel(): void;
}

export interface OpenHooks {
  readonly signal?: AbortSignal | undefined;
  /** Called every few milliseconds while pages are populated. */
  readonly onProgress?: ((populatedBytes: number, sizeBytes: number) => void) | undefined;
}
