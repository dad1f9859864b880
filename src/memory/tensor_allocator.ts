// SPDX-License-Identifier: Apache-2.0
//
// Objects of any size in a segment: LMCache's TensorMemoryAllocator. Where they lie is decided by
// FreeSpace (best fit, merging at once), which counts in units of the alignment, so that every
// object begins at a multiple of it and no remainder is too small to be used.

import { checkKnownOptions } from "../arguments.ts";
import { type Block, FreeSpace } from "./free_space.ts";
import type { Chunk } from "./memory_obj.ts";
import {
  ALLOCATOR_OPTIONS,
  type AllocatorOptions,
  type Books,
  PoolAllocator,
} from "./pool_allocator.ts";
import type { VisitBlock } from "./pool_map.ts";
import type { ShmRange, ShmSegment } from "./segment.ts";

/**
 * Allocates in time logarithmic in the number of free ranges. What does not fill a whole
 * `alignBytes` at either end of the range is not used.
 */
export class TensorMemoryAllocator extends PoolAllocator<Block> {
  readonly #space: FreeSpace;

  /**
   * Divides up a segment, or a part of one.
   * @param range the memory; it must stay allocated as long as this allocator is used.
   * @throws {RangeError} when it is smaller than one `alignBytes`.
   */
  constructor(range: ShmSegment | ShmRange, options: AllocatorOptions = {}) {
    checkKnownOptions("TensorMemoryAllocator", options, ALLOCATOR_OPTIONS);
    super(range, options);
    const units = Math.floor(this.spanBytes / this.alignBytes);
    if (units === 0) {
      throw new RangeError(
        `a pool of ${this.spanBytes} bytes is smaller than its alignment, ${this.alignBytes}`,
      );
    }
    this.#space = new FreeSpace(units);
  }

  /** @internal */
  protected override take(byteLength: number): Block | null {
    return this.#space.allocate(Math.ceil(byteLength / this.alignBytes));
  }

  /** @internal */
  protected override giveBack(block: Block): void {
    block.tenant = null;
    this.#space.free(block);
  }

  /** @internal */
  protected override withhold(block: Block): void {
    this.#space.withhold(block);
  }

  /** @internal */
  protected override offsetOf(block: Block): number {
    return this.baseOffset + block.offset * this.alignBytes;
  }

  /** @internal */
  protected override sizeOf(block: Block): number {
    return block.size * this.alignBytes;
  }

  /** @internal */
  protected override settle(block: Block, tenant: Chunk): void {
    block.tenant = tenant;
  }

  /** @internal */
  protected override blockCount(): number {
    const { freeBlocks, usedBlocks, withheldBlocks } = this.#space;
    return freeBlocks + usedBlocks + withheldBlocks;
  }

  /** @internal */
  protected override visitBlocks(visit: VisitBlock): void {
    for (const { size, state, tenant } of this.#space.blocks()) {
      visit(
        size * this.alignBytes,
        state === "used" || state === "free" ? state : "quarantined",
        tenant as Chunk | null,
      );
    }
  }

  /** @internal */
  protected override books(): Books {
    const { alignBytes } = this;
    const { size, freeSize, withheldSize, largestFree, usedBlocks, withheldBlocks } = this.#space;
    return {
      totalBytes: size * alignBytes,
      freeBytes: freeSize * alignBytes,
      quarantinedBytes: withheldSize * alignBytes,
      largestFreeBytes: largestFree * alignBytes,
      fragmentation: freeSize === 0 ? 0 : 1 - largestFree / freeSize,
      usedPlaces: usedBlocks,
      quarantinedPlaces: withheldBlocks,
    };
  }

  /** @internal */
  protected override findFault(): string | null {
    return this.#space.findFault();
  }
}
