// SPDX-License-Identifier: Apache-2.0
//
// Objects of one size in a segment: LMCache's PagedTensorMemoryAllocator. Constant time, and no
// fragmentation, at the price that a smaller object takes a whole page.

import { checkKnownOptions } from "../arguments.ts";
import { finalize } from "../internal.ts";
import type { Chunk } from "./memory_obj.ts";
import { PageSpace } from "./page_space.ts";
import {
  ALLOCATOR_OPTIONS,
  type AllocatorOptions,
  type Books,
  PoolAllocator,
} from "./pool_allocator.ts";
import type { VisitBlock } from "./pool_map.ts";
import type { ShmRange, ShmSegment } from "./segment.ts";
import { type LayoutArgument, TensorLayout } from "./tensor_layout.ts";

/** What pages a PagedTensorMemoryAllocator makes. */
export interface PagedAllocatorOptions extends AllocatorOptions {
  /** What a page has room for. */
  page: LayoutArgument;
}

export const PAGED_OPTIONS = ["page", ...ALLOCATOR_OPTIONS] as const;

/**
 * Allocates in constant time. A page is the layout's size, rounded up to `alignBytes`; what does
 * not fill a whole page at the end of the range is not used.
 */
export class PagedTensorMemoryAllocator extends PoolAllocator<number> {
  /** What a page has room for, for allocate(). */
  readonly pageLayout: TensorLayout;
  /** What a page takes of the memory: the layout's size, rounded up. */
  readonly pageBytes: number;
  readonly #space: PageSpace;
  /** By the number of its page; null and undefined: nobody is in there. */
  readonly #tenants: (Chunk | null)[] = [];

  /**
   * Divides up a segment, or a part of one.
   * @param range the memory; it must stay allocated as long as this allocator is used.
   * @throws {RangeError} when not even one page fits in, or more than 2^31 - 1 do.
   */
  constructor(range: ShmSegment | ShmRange, options: PagedAllocatorOptions) {
    checkKnownOptions("PagedTensorMemoryAllocator", options, PAGED_OPTIONS);
    super(range, options);
    this.pageLayout = TensorLayout.of(options.page);
    this.pageBytes = Math.ceil(this.pageLayout.byteLength / this.alignBytes) * this.alignBytes;
    const pages = Math.floor(this.spanBytes / this.pageBytes);
    if (pages === 0 || pages > 0x7fffffff) {
      throw new RangeError(
        `a pool of ${this.spanBytes} bytes has ${pages} pages of ${this.pageBytes} bytes; ` +
          "it must have from 1 to 2147483647",
      );
    }
    this.#space = new PageSpace(pages);
    finalize(this, "pageLayout", "pageBytes");
  }

  /** How many there are. */
  get pages(): number {
    return this.#space.pages;
  }

  /**
   * A free page.
   * @throws {RangeError} when the object is larger than a page: it would never fit.
   * @internal
   */
  protected override take(byteLength: number): number | null {
    if (byteLength > this.pageBytes) {
      throw new RangeError(
        `an object of ${byteLength} bytes does not fit into a page, which has ${this.pageBytes}`,
      );
    }
    return this.#space.take();
  }

  /** @internal */
  protected override giveBack(page: number): void {
    this.#tenants[page] = null;
    this.#space.giveBack(page);
  }

  /** @internal */
  protected override withhold(page: number): void {
    this.#space.withhold(page);
  }

  /** @internal */
  protected override offsetOf(page: number): number {
    return this.baseOffset + page * this.pageBytes;
  }

  /** @internal */
  protected override sizeOf(_page: number): number {
    return this.pageBytes;
  }

  /** @internal */
  protected override settle(page: number, tenant: Chunk): void {
    this.#tenants[page] = tenant;
  }

  /** @internal */
  protected override blockCount(): number {
    return this.#space.pages;
  }

  /** @internal */
  protected override visitBlocks(visit: VisitBlock): void {
    for (let page = 0; page < this.#space.pages; page++) {
      const state = this.#space.stateOf(page);
      visit(
        this.pageBytes,
        state === "withheld" ? "quarantined" : state,
        this.#tenants[page] ?? null,
      );
    }
  }

  /** @internal */
  protected override books(): Books {
    const { pages, freeCount, withheldCount, usedCount } = this.#space;
    return {
      totalBytes: pages * this.pageBytes,
      freeBytes: freeCount * this.pageBytes,
      quarantinedBytes: withheldCount * this.pageBytes,
      largestFreeBytes: freeCount === 0 ? 0 : this.pageBytes,
      // Free pages are equally good wherever they lie.
      fragmentation: 0,
      usedPlaces: usedCount,
      quarantinedPlaces: withheldCount,
    };
  }

  /** @internal */
  protected override findFault(): string | null {
    return this.#space.findFault();
  }
}
