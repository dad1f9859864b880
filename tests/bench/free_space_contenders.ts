// SPDX-License-Identifier: Apache-2.0
//
// Other ways to keep the books of an address space, held against FreeSpace: a plain list with first
// fit, one tree with best fit, and the bins of TLSF. Nothing of the library uses them.

/** What all of them can do; FreeSpace too. Sizes in units. */
export interface Book<Handle> {
  readonly freeSize: number;
  readonly largestFree: number;
  allocate(size: number): Handle | null;
  free(handle: Handle): void;
}

/** Free ranges in two arrays ordered by offset; the first that is large enough is taken. */
export class FirstFitList implements Book<number> {
  freeSize: number;
  readonly #offsets: number[] = [0];
  readonly #sizes: number[];
  readonly #used = new Map<number, number>();

  constructor(size: number) {
    this.freeSize = size;
    this.#sizes = [size];
  }

  get largestFree(): number {
    let largest = 0;
    for (const size of this.#sizes) if (size > largest) largest = size;
    return largest;
  }

  allocate(size: number): number | null {
    const index = this.#sizes.findIndex((free) => free >= size);
    if (index < 0) return null;
    const offset = this.#offsets[index]!;
    if (this.#sizes[index] === size) {
      this.#offsets.splice(index, 1);
      this.#sizes.splice(index, 1);
    } else {
      this.#offsets[index]! += size;
      this.#sizes[index]! -= size;
    }
    this.#used.set(offset, size);
    this.freeSize -= size;
    return offset;
  }

  free(offset: number): void {
    const size = this.#used.get(offset)!;
    this.#used.delete(offset);
    this.freeSize += size;
    const next = this.#firstBehind(offset);
    const joinsBefore = next > 0 && this.#offsets[next - 1]! + this.#sizes[next - 1]! === offset;
    const joinsAfter = next < this.#offsets.length && offset + size === this.#offsets[next];
    if (joinsBefore && joinsAfter) {
      this.#sizes[next - 1]! += size + this.#sizes[next]!;
      this.#offsets.splice(next, 1);
      this.#sizes.splice(next, 1);
    } else if (joinsBefore) {
      this.#sizes[next - 1]! += size;
    } else if (joinsAfter) {
      this.#offsets[next] = offset;
      this.#sizes[next]! += size;
    } else {
      this.#offsets.splice(next, 0, offset);
      this.#sizes.splice(next, 0, size);
    }
  }

  #firstBehind(offset: number): number {
    let low = 0;
    let high = this.#offsets.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#offsets[middle]! < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** A range that knows its neighbours; `left` and `right` belong to the index of free ranges. */
export class Range {
  isFree = true;
  before: Range | null = null;
  after: Range | null = null;
  left: Range | null = null;
  right: Range | null = null;
  priority = 0;
  readonly offset: number;
  size: number;

  constructor(offset: number, size: number) {
    this.offset = offset;
    this.size = size;
  }
}

/** Splitting and merging; how free ranges are found is the subclass's. */
abstract class RangeBook implements Book<Range> {
  freeSize: number;
  abstract readonly largestFree: number;

  constructor(size: number) {
    this.freeSize = size;
  }

  protected abstract insert(range: Range): void;
  protected abstract remove(range: Range): void;
  protected abstract find(size: number): Range | null;

  allocate(size: number): Range | null {
    const range = this.find(size);
    if (range === null) return null;
    this.remove(range);
    if (range.size > size) {
      const rest = new Range(range.offset + size, range.size - size);
      rest.before = range;
      rest.after = range.after;
      if (rest.after) rest.after.before = rest;
      range.after = rest;
      range.size = size;
      this.insert(rest);
    }
    range.isFree = false;
    this.freeSize -= size;
    return range;
  }

  free(range: Range): void {
    this.freeSize += range.size;
    const { before, after } = range;
    if (after?.isFree) {
      this.remove(after);
      this.#join(range, after);
    }
    let merged = range;
    if (before?.isFree) {
      this.remove(before);
      this.#join(before, range);
      merged = before;
    }
    merged.isFree = true;
    this.insert(merged);
  }

  #join(range: Range, after: Range): void {
    range.size += after.size;
    range.after = after.after;
    if (range.after) range.after.before = range;
  }
}

function precedes(a: Range, b: Range): boolean {
  return a.size < b.size || (a.size === b.size && a.offset < b.offset);
}

/** All free ranges in one treap by (size, offset); the smallest that is large enough is taken. */
export class BestFitTree extends RangeBook {
  #root: Range | null = null;
  #random = 0x9e3779b9 | 0;

  constructor(size: number) {
    super(size);
    this.insert(new Range(0, size));
  }

  get largestFree(): number {
    let range = this.#root;
    while (range?.right) range = range.right;
    return range?.size ?? 0;
  }

  protected override insert(range: Range): void {
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    range.priority = this.#random = x ^ (x << 5);
    let [parent, below, node]: [Range | null, boolean, Range | null] = [null, false, this.#root];
    while (node !== null && node.priority >= range.priority) {
      parent = node;
      below = precedes(range, node);
      node = below ? node.left : node.right;
    }
    this.#link(parent, below, range);
    [range.left, range.right] = split(node, range);
  }

  protected override remove(range: Range): void {
    let [parent, below, node]: [Range | null, boolean, Range | null] = [null, false, this.#root];
    while (node !== null && node !== range) {
      parent = node;
      below = precedes(range, node);
      node = below ? node.left : node.right;
    }
    this.#link(parent, below, join(range.left, range.right));
  }

  protected override find(size: number): Range | null {
    let best: Range | null = null;
    let node = this.#root;
    while (node !== null) {
      if (node.size >= size) {
        best = node;
        node = node.left;
      } else {
        node = node.right;
      }
    }
    return best;
  }

  #link(parent: Range | null, below: boolean, child: Range | null): void {
    if (parent === null) this.#root = child;
    else if (below) parent.left = child;
    else parent.right = child;
  }
}

function split(node: Range | null, at: Range): [Range | null, Range | null] {
  if (node === null) return [null, null];
  if (precedes(node, at)) {
    const [smaller, larger] = split(node.right, at);
    node.right = smaller;
    return [node, larger];
  }
  const [smaller, larger] = split(node.left, at);
  node.left = larger;
  return [smaller, node];
}

function join(left: Range | null, right: Range | null): Range | null {
  if (left === null || right === null) return left ?? right;
  if (left.priority >= right.priority) {
    left.right = join(left.right, right);
    return left;
  }
  right.left = join(left, right.left);
  return right;
}

const BIN_BITS = 5;
const BINS_PER_POWER = 1 << BIN_BITS;

/**
 * Lists of free ranges by size, 32 for every power of two, and bitmaps of those that are not empty:
 * TLSF, with two additions without which it would waste far more. It first looks for a fit among a
 * few ranges of the request's own bin, and it searches that bin to its end before it gives up.
 */
export class BinnedLists extends RangeBook {
  readonly #peek = 16;
  readonly #heads: (Range | null)[] = new Array(48 * BINS_PER_POWER).fill(null);
  readonly #bins = new Int32Array(48);
  readonly #powers = new Int32Array(2);

  constructor(size: number) {
    super(size);
    this.insert(new Range(0, size));
  }

  get largestFree(): number {
    const [low, high] = [this.#powers[0]!, this.#powers[1]!];
    const power = high !== 0 ? 63 - Math.clz32(high) : 31 - Math.clz32(low);
    if (power < 0) return 0;
    let largest = 0;
    let range = this.#heads[power * BINS_PER_POWER + 31 - Math.clz32(this.#bins[power]!)] ?? null;
    for (; range !== null; range = range.right) largest = Math.max(largest, range.size);
    return largest;
  }

  /** `left` and `right` are the neighbours in the list of a bin. */
  protected override insert(range: Range): void {
    const bin = binOf(range.size);
    const head = this.#heads[bin] ?? null;
    range.left = null;
    range.right = head;
    if (head !== null) head.left = range;
    this.#heads[bin] = range;
    const power = bin >>> BIN_BITS;
    this.#bins[power]! |= 1 << (bin & 31);
    this.#powers[power >>> 5]! |= 1 << (power & 31);
  }

  protected override remove(range: Range): void {
    const { left, right } = range;
    if (right !== null) right.left = left;
    if (left !== null) {
      left.right = right;
      return;
    }
    const bin = binOf(range.size);
    this.#heads[bin] = right;
    if (right !== null) return;
    const power = bin >>> BIN_BITS;
    this.#bins[power]! &= ~(1 << (bin & 31));
    if (this.#bins[power] === 0) this.#powers[power >>> 5]! &= ~(1 << (power & 31));
  }

  protected override find(size: number): Range | null {
    const own = binOf(size);
    let best: Range | null = null;
    let range = this.#heads[own] ?? null;
    for (let looked = 0; range !== null && looked < this.#peek; looked++, range = range.right) {
      if (range.size >= size && (best === null || range.size < best.size)) best = range;
    }
    if (best !== null) return best;
    const larger = this.#firstBinFrom(own + 1);
    if (larger >= 0) return this.#heads[larger] ?? null;
    while (range !== null && range.size < size) range = range.right;
    return range;
  }

  #firstBinFrom(bin: number): number {
    let power = bin >>> BIN_BITS;
    let bins = this.#bins[power]! & (-1 << (bin & 31));
    while (bins === 0) {
      const above = this.#powers[++power >>> 5]! & (-1 << (power & 31));
      if (above === 0) {
        if (power >= 32) return -1;
        power = 31;
        continue;
      }
      power = (power & ~31) + lowestBit(above);
      bins = this.#bins[power]!;
    }
    return power * BINS_PER_POWER + lowestBit(bins);
  }
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** Sizes below 2^32. */
function binOf(size: number): number {
  if (size < BINS_PER_POWER) return size;
  const power = 31 - Math.clz32(size) - BIN_BITS;
  return power * BINS_PER_POWER + (size >>> power);
}
