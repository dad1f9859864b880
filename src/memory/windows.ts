// SPDX-License-Identifier: Apache-2.0
//
// Windows: addresses at which a part of a segment is mapped a second time, for the arrays that
// JavaScript gets of a memory object. A pool hands the memory of a released object to the next
// owner at once. Detaching the array is not enough then: a runtime may have a thread in the middle
// of a read into it (Deno detaches all the same), or the buffer may have been transferred. So each
// array has addresses of its own, and when it is taken back, private memory that nobody else sees is
// put in their place: what is late lands there.
//
// That only works if the addresses do not come to mean another array too soon. They are cut from
// slabs of reserved address space, in order, and a slab is used again only when all of it has been
// taken back and `reservedBytes` of others were reserved since, the oldest first. What a buffer has
// that escaped is lost, and what is around it in the slab is used again. No address is given back to
// the system: when all of `reservedBytes` is lost there are no windows any more.
//
// Address space costs nothing, but each window is a mapping, of which a process has 65,530
// (vm.max_map_count), and a gap between two windows is another. Hence `maxWindows`, which liblmshm
// allows all threads of the process together.

import type { NativeSegment } from "../native/native_segment.ts";

interface WindowLimits {
  readonly slabBytes: number;
  /** Of address space, before some is used again. */
  readonly reservedBytes: number;
  /** Open at a time. */
  readonly maxWindows: number;
}

/** 16 TiB of the 128 TiB of addresses that a process has on most machines. */
export const LIMITS: WindowLimits = {
  slabBytes: 16 * 2 ** 30,
  reservedBytes: 16 * 2 ** 40,
  maxWindows: 16_384,
};

/** Where huge pages can begin. */
const HUGE_BYTES = 2 ** 21;
/** A part of a slab between two that are lost is used again if it is at least this part of one. */
const LEAST_OF_SLAB = 1 / 256;

/** Addresses fit into 48 bits, so they are plain numbers here. */
interface Addresses {
  readonly at: number;
  readonly bytes: number;
}

interface Slab {
  readonly base: number;
  readonly bytes: number;
  /** Bytes from the base that were cut off so far. */
  cut: number;
  /** Windows that are open. */
  open: number;
  /** Parts of it that are never used again. */
  readonly lost: Addresses[];
}

/** Where a window goes: whole pages of the segment, and whole pages of a slab. */
interface Cut extends Addresses {
  readonly slab: Slab;
}

export interface Window {
  readonly address: bigint;
  /**
   * Takes it back.
   * @param quiet no other ArrayBuffer can have these addresses.
   * @returns whether the memory cannot be reached through them any more.
   */
  close(quiet: boolean): boolean;
}

function roundUp(bytes: number, unit: number): number {
  return Math.ceil(bytes / unit) * unit;
}

/** All windows of a thread of JavaScript. */
export class Windows {
  readonly #limits: WindowLimits;
  #current: Slab | null = null;
  /** Taken back as a whole, the oldest first. */
  readonly #idle: Slab[] = [];
  #reservedBytes = 0;
  #open = 0;

  constructor(limits: WindowLimits = LIMITS) {
    this.#limits = limits;
  }

  /**
   * Opens a window on a part of a segment that lies within it.
   * @returns null when there are too many, or the system has no room for one.
   */
  open(native: NativeSegment, offset: number, byteLength: number): Window | null {
    if (this.#open >= this.#limits.maxWindows) return null;
    const { pageBytes } = native.facts;
    const first = offset - offset % pageBytes;
    const bytes = roundUp(offset + byteLength, pageBytes) - first;
    const cut = this.#cut(
      native,
      first,
      bytes,
      Math.max(pageBytes, bytes < HUGE_BYTES ? 0 : HUGE_BYTES),
    );
    if (cut === null) return null;
    const { slab, at } = cut;
    if (!native.mapWindow(first, bytes, BigInt(at))) {
      this.#takeBack(native, cut);
      return null;
    }
    slab.open++;
    this.#open++;
    return {
      address: BigInt(at + (offset - first)),
      close: (quiet) => this.#close(native, cut, quiet),
    };
  }

  #close(native: NativeSegment, { slab, at, bytes }: Cut, quiet: boolean): boolean {
    slab.open--;
    this.#open--;
    const gone = native.unmapWindow(BigInt(at), bytes);
    if (!gone || !quiet) slab.lost.push({ at, bytes });
    this.#retire(native, slab);
    return gone;
  }

  /** Nothing was mapped there, but something may have been unmapped. */
  #takeBack(native: NativeSegment, { slab, at, bytes }: Cut): void {
    if (native.reserveWindow(BigInt(at), bytes) === null) slab.lost.push({ at, bytes });
    else slab.cut = at - slab.base;
  }

  /** @param unit where the file can be mapped: addresses and offsets differ by a multiple of it. */
  #cut(native: NativeSegment, offset: number, bytes: number, unit: number): Cut | null {
    const behind = offset % unit;
    const place = (slab: Slab) => roundUp(slab.base + slab.cut - behind, unit) + behind;
    let slab = this.#current;
    if (slab === null || place(slab) + bytes > slab.base + slab.bytes) {
      this.#current = this.#newSlab(native, bytes + unit);
      if (slab !== null) this.#retire(native, slab);
      slab = this.#current;
      if (slab === null) return null;
    }
    const at = place(slab);
    slab.cut = at + bytes - slab.base;
    return { slab, at, bytes };
  }

  #newSlab(native: NativeSegment, bytes: number): Slab | null {
    const { slabBytes, reservedBytes } = this.#limits;
    const wanted = Math.max(slabBytes, bytes);
    if (this.#reservedBytes + wanted <= reservedBytes) {
      const base = native.reserveWindow(0n, wanted);
      if (base !== null) {
        this.#reservedBytes += wanted;
        return newSlab(Number(base), wanted);
      }
    }
    const oldest = this.#idle.findIndex((slab) => slab.bytes >= bytes);
    if (oldest < 0) return null;
    return this.#idle.splice(oldest, 1)[0]!;
  }

  /** Nothing more is cut from it; once all of it was taken back, it can be used again. */
  #retire(native: NativeSegment, slab: Slab): void {
    if (slab === this.#current || slab.open > 0) return;
    let base = slab.base;
    const end = { at: slab.base + slab.bytes, bytes: 0 };
    for (const { at, bytes } of [...slab.lost.sort((a, b) => a.at - b.at), end]) {
      this.#useAgain(native, base, at - base);
      base = at + bytes;
    }
  }

  #useAgain(native: NativeSegment, base: number, bytes: number): void {
    if (bytes === 0 || bytes < LEAST_OF_SLAB * this.#limits.slabBytes) return;
    // What came late has taken memory, which goes now.
    if (native.reserveWindow(BigInt(base), bytes) !== null) this.#idle.push(newSlab(base, bytes));
  }
}

function newSlab(base: number, bytes: number): Slab {
  return { base, bytes, cut: 0, open: 0, lost: [] };
}

/** Those of this thread. */
export const windows: Windows = new Windows();
