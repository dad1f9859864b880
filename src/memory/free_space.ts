// SPDX-License-Identifier: Apache-2.0
//
// The books of an address space: which runs of it are free, which are in use. Pure arithmetic on
// numbers up to 2^53; it never touches memory and does not know what a unit is.
//
// The policy is best fit: the smallest free block that is large enough, at the lowest offset among
// equals. Free blocks are kept by size class, 32 classes for every power of two, and inside a class
// in a treap ordered by (size, offset). A bitmap finds the next class that has something, so a
// search looks into one treap, or two: logarithmic at worst, near constant mostly. Every block knows
// its neighbours in the space, so freeing merges at once and two free blocks never touch.
//
// tests/bench/allocator_bench.ts has the numbers behind the choice: first fit wastes more of a
// pool that is always full, and bins without order inside (TLSF) have to search a whole class when
// the pool is nearly full, which a cache always is.

import { ShmError } from "../errors.ts";

type BlockState = "free" | "used" | "withheld" | "merged";

/**
 * A run of the space. Its owner is the FreeSpace; others read offset and size.
 * @internal
 */
export class Block {
  readonly offset: number;
  size: number;
  state: BlockState = "free";
  /** What its owner keeps with it; the books do not look at it. */
  tenant: unknown = null;
  /** Neighbours in the space, whatever their state. */
  before: Block | null = null;
  after: Block | null = null;
  /** Children in the treap of its size class; only of free blocks. */
  left: Block | null = null;
  right: Block | null = null;
  priority = 0;

  constructor(offset: number, size: number) {
    this.offset = offset;
    this.size = size;
  }
}

/** Classes for every power of two; a power of two itself, so that classes come from bits. */
const CLASSES_PER_POWER = 32;
const CLASS_BITS = 5;
/** Sizes below 2^53. */
const POWERS = 53 - CLASS_BITS + 2;

export class FreeSpace {
  readonly size: number;
  readonly #first: Block;
  /** The treap of each size class. */
  readonly #roots: (Block | null)[] = new Array(POWERS * CLASSES_PER_POWER).fill(null);
  /** Which classes of a power have something, one word a power. */
  readonly #classMap = new Int32Array(POWERS);
  /** Which powers have something: 0 to 31 and 32 to 63. */
  readonly #powerMap = new Int32Array(2);
  /** State of a xorshift generator for treap priorities; fixed, so that runs repeat. */
  #random = 0x9e3779b9 | 0;
  #freeSize: number;
  #withheldSize = 0;
  #usedBlocks = 0;
  #withheldBlocks = 0;
  #freeBlocks = 0;

  /** `size` is an integer from 1 to 2^53 - 1. */
  constructor(size: number) {
    this.size = size;
    this.#freeSize = size;
    this.#first = new Block(0, size);
    this.#insert(this.#first);
  }

  get freeSize(): number {
    return this.#freeSize;
  }

  get withheldSize(): number {
    return this.#withheldSize;
  }

  get usedSize(): number {
    return this.size - this.#freeSize - this.#withheldSize;
  }

  get freeBlocks(): number {
    return this.#freeBlocks;
  }

  get usedBlocks(): number {
    return this.#usedBlocks;
  }

  get withheldBlocks(): number {
    return this.#withheldBlocks;
  }

  /** The size of the largest free block, 0 when there is none. */
  get largestFree(): number {
    const power = highestBit(this.#powerMap);
    if (power < 0) return 0;
    const sizeClass = power * CLASSES_PER_POWER + 31 - Math.clz32(this.#classMap[power]!);
    let block = this.#rootOf(sizeClass);
    while (block?.right) block = block.right;
    return block?.size ?? 0;
  }

  /**
   * Takes a run of `size`, an integer of at least 1. Null when no free block is that large: when
   * it says so, it is so.
   */
  allocate(size: number): Block | null {
    const block = this.#find(size);
    if (block === null) return null;
    this.#remove(block);
    if (block.size > size) this.#insert(this.#split(block, size));
    block.state = "used";
    this.#usedBlocks++;
    this.#freeSize -= size;
    return block;
  }

  /**
   * Gives back what allocate() returned, withheld or not, and merges it with free neighbours. The
   * block is not the caller's any more.
   * @throws {ShmError} EFREED when it was given back before.
   */
  free(block: Block): void {
    if (block.state === "used") {
      this.#usedBlocks--;
    } else if (block.state === "withheld") {
      this.#withheldBlocks--;
      this.#withheldSize -= block.size;
    } else {
      throw new ShmError(`the range at ${block.offset} is ${block.state}, not in use`, {
        code: "EFREED",
        operation: "free range",
        details: { offset: block.offset, size: block.size },
      });
    }
    this.#freeSize += block.size;
    const { before, after } = block;
    if (after?.state === "free") this.#absorb(block, after);
    if (before?.state === "free") {
      this.#absorbInto(before, block);
      block.state = "merged";
      this.#insert(before);
    } else {
      block.state = "free";
      this.#insert(block);
    }
  }

  /** Sets a block that is in use aside: neither used nor free, until free(). */
  withhold(block: Block): void {
    if (block.state !== "used") {
      throw new ShmError(`the range at ${block.offset} is ${block.state}, not in use`, {
        code: "EFREED",
        operation: "withhold range",
        details: { offset: block.offset, size: block.size },
      });
    }
    block.state = "withheld";
    this.#usedBlocks--;
    this.#withheldBlocks++;
    this.#withheldSize += block.size;
  }

  /** All blocks from the lowest offset to the highest. */
  *blocks(): Generator<Readonly<Block>> {
    for (let block: Block | null = this.#first; block !== null; block = block.after) yield block;
  }

  /**
   * Proves the books: blocks cover the space without gap or overlap, free ones never touch, the
   * sums are right, and the size classes hold exactly the free blocks, in order.
   * @returns null, or the first fault found, in words.
   */
  findFault(): string | null {
    return this.#faultOfSpace() ?? this.#faultOfClasses();
  }

  #find(size: number): Block | null {
    const own = classOf(size);
    let best: Block | null = null;
    let block = this.#rootOf(own);
    while (block !== null) {
      if (block.size >= size) {
        best = block;
        block = block.left;
      } else {
        block = block.right;
      }
    }
    if (best !== null) return best;
    const larger = this.#nextClass(own + 1);
    if (larger < 0) return null;
    let smallest = this.#rootOf(larger);
    while (smallest?.left) smallest = smallest.left;
    return smallest;
  }

  /** The first class from `sizeClass` on that has something, or -1. */
  #nextClass(sizeClass: number): number {
    let power = sizeClass >>> CLASS_BITS;
    if (power >= POWERS) return -1;
    let classes = this.#classMap[power]! & (-1 << (sizeClass & (CLASSES_PER_POWER - 1)));
    if (classes === 0) {
      power = lowestBitFrom(this.#powerMap, power + 1);
      if (power < 0) return -1;
      classes = this.#classMap[power]!;
    }
    return power * CLASSES_PER_POWER + lowestBit(classes);
  }

  /** Cuts `block`, which is in no class, down to `size`, and returns the rest as a new block. */
  #split(block: Block, size: number): Block {
    const rest = new Block(block.offset + size, block.size - size);
    rest.before = block;
    rest.after = block.after;
    if (rest.after !== null) rest.after.before = rest;
    block.after = rest;
    block.size = size;
    return rest;
  }

  /** Merges a free neighbour into `block`, which is in no class. */
  #absorb(block: Block, after: Block): void {
    this.#remove(after);
    after.state = "merged";
    this.#join(block, after);
  }

  /** Merges `block`, which is in no class, into its free neighbour before it. */
  #absorbInto(before: Block, block: Block): void {
    this.#remove(before);
    this.#join(before, block);
  }

  #join(block: Block, after: Block): void {
    block.size += after.size;
    block.after = after.after;
    if (block.after !== null) block.after.before = block;
    after.before = after.after = null;
  }

  /** Puts a free block into the treap of its class: down to its priority, then splits the rest. */
  #insert(block: Block): void {
    const sizeClass = classOf(block.size);
    const priority = block.priority = this.#nextRandom();
    this.#freeBlocks++;
    let node = this.#rootOf(sizeClass);
    if (node === null) this.#markClass(sizeClass);
    let parent: Block | null = null;
    let below = false;
    while (node !== null && node.priority >= priority) {
      parent = node;
      below = precedes(block, node);
      node = below ? node.left : node.right;
    }
    this.#link(sizeClass, parent, below, block);
    // What was here goes below the new block, the smaller to its left and the larger to its right:
    // each next piece hangs at the inner edge of the piece before it.
    block.left = block.right = null;
    let smaller = block;
    let larger = block;
    while (node !== null) {
      if (precedes(node, block)) {
        if (smaller === block) smaller.left = node;
        else smaller.right = node;
        smaller = node;
        node = node.right;
      } else {
        if (larger === block) larger.right = node;
        else larger.left = node;
        larger = node;
        node = node.left;
      }
    }
    if (smaller !== block) smaller.right = null;
    if (larger !== block) larger.left = null;
  }

  /** Takes a free block out of the treap of its class; its children merge into its place. */
  #remove(block: Block): void {
    const sizeClass = classOf(block.size);
    let parent: Block | null = null;
    let below = false;
    let node = this.#rootOf(sizeClass);
    while (node !== null && node !== block) {
      parent = node;
      below = precedes(block, node);
      node = below ? node.left : node.right;
    }
    this.#freeBlocks--;
    let { left, right } = block;
    while (left !== null || right !== null) {
      if (right === null || (left !== null && left.priority >= right.priority)) {
        this.#link(sizeClass, parent, below, left);
        parent = left;
        below = false;
        left = left?.right ?? null;
      } else {
        this.#link(sizeClass, parent, below, right);
        parent = right;
        below = true;
        right = right.left;
      }
    }
    this.#link(sizeClass, parent, below, null);
    if (this.#roots[sizeClass] === null) this.#unmarkClass(sizeClass);
    block.left = block.right = null;
  }

  #rootOf(sizeClass: number): Block | null {
    return this.#roots[sizeClass] ?? null;
  }

  /** Makes `child` the root of a class, or the left (`below`) or right child of `parent`. */
  #link(sizeClass: number, parent: Block | null, below: boolean, child: Block | null): void {
    if (parent === null) this.#roots[sizeClass] = child;
    else if (below) parent.left = child;
    else parent.right = child;
  }

  #markClass(sizeClass: number): void {
    const power = sizeClass >>> CLASS_BITS;
    this.#classMap[power]! |= 1 << (sizeClass & (CLASSES_PER_POWER - 1));
    this.#powerMap[power >>> 5]! |= 1 << (power & 31);
  }

  #unmarkClass(sizeClass: number): void {
    const power = sizeClass >>> CLASS_BITS;
    this.#classMap[power]! &= ~(1 << (sizeClass & (CLASSES_PER_POWER - 1)));
    if (this.#classMap[power] === 0) this.#powerMap[power >>> 5]! &= ~(1 << (power & 31));
  }

  #nextRandom(): number {
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return this.#random = x;
  }

  #faultOfSpace(): string | null {
    const sums = { free: 0, used: 0, withheld: 0, merged: 0 };
    const counts = { free: 0, used: 0, withheld: 0, merged: 0 };
    let end = 0;
    let before: Block | null = null;
    for (let block: Block | null = this.#first; block !== null; block = block.after) {
      const { offset, size, state } = block;
      if (offset !== end) return `the range at ${offset} begins where ${end} was expected`;
      if (!(Number.isSafeInteger(size) && size > 0)) {
        return `the range at ${offset} has size ${size}`;
      }
      if (block.before !== before) return `the range at ${offset} has lost its neighbour before it`;
      if (state === "merged") return `the range at ${offset} was merged and is still listed`;
      if (state === "free" && before?.state === "free") {
        return `the free ranges at ${before.offset} and ${offset} are not merged`;
      }
      sums[state] += size;
      counts[state]++;
      end += size;
      before = block;
    }
    if (end !== this.size) return `the ranges end at ${end} of ${this.size}`;
    const expected = [
      ["free", sums.free, this.#freeSize],
      ["withheld", sums.withheld, this.#withheldSize],
      ["used", sums.used, this.usedSize],
      ["number of free ranges", counts.free, this.#freeBlocks],
      ["number of withheld ranges", counts.withheld, this.#withheldBlocks],
      ["number of used ranges", counts.used, this.#usedBlocks],
    ] as const;
    for (const [what, counted, booked] of expected) {
      if (counted !== booked) return `${what}: ${counted} counted, ${booked} in the books`;
    }
    return null;
  }

  #faultOfClasses(): string | null {
    let listed = 0;
    for (const [sizeClass, root] of this.#roots.entries()) {
      const power = sizeClass >>> CLASS_BITS;
      const marked = (this.#classMap[power]! >>> (sizeClass & (CLASSES_PER_POWER - 1)) & 1) === 1;
      const powerMarked = (this.#powerMap[power >>> 5]! >>> (power & 31) & 1) === 1;
      if (marked !== (root !== null)) return `size class ${sizeClass} and its mark disagree`;
      if (powerMarked !== (this.#classMap[power] !== 0)) return `power ${power} is marked wrongly`;
      let last: Block | null = null;
      for (const block of inOrder(root)) {
        const { offset, size } = block;
        if (block.state !== "free") {
          return `the ${block.state} range at ${offset} is listed as free`;
        }
        if (classOf(size) !== sizeClass) {
          return `the range at ${offset} is in size class ${sizeClass}`;
        }
        if (last !== null && !precedes(last, block)) {
          return `the range at ${offset} is out of order`;
        }
        const child = Math.max(priorityOf(block.left), priorityOf(block.right));
        if (child > block.priority) return `the range at ${offset} is below its child in the treap`;
        last = block;
        listed++;
      }
    }
    if (listed !== this.#freeBlocks) {
      return `${listed} of ${this.#freeBlocks} free ranges are listed`;
    }
    return null;
  }
}

/** Exact below 32; above, each power of two has 32 classes of equal width. Monotone in size. */
function classOf(size: number): number {
  if (size < CLASSES_PER_POWER) return size;
  if (size < 2 ** 32) {
    const power = 31 - Math.clz32(size) - CLASS_BITS;
    return power * CLASSES_PER_POWER + (size >>> power);
  }
  const power = 63 - Math.clz32(size / 2 ** 32) - CLASS_BITS;
  return power * CLASSES_PER_POWER + Math.floor(size / 2 ** power);
}

function precedes(a: Block, b: Block): boolean {
  return a.size < b.size || (a.size === b.size && a.offset < b.offset);
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** The lowest bit set from `bit` on in two words, or -1. */
function lowestBitFrom(words: Int32Array, bit: number): number {
  const masked = bit < 64 ? words[bit >>> 5]! & (-1 << (bit & 31)) : 0;
  if (masked !== 0) return (bit & ~31) + lowestBit(masked);
  return bit < 32 && words[1] !== 0 ? 32 + lowestBit(words[1]!) : -1;
}

function highestBit(words: Int32Array): number {
  if (words[1] !== 0) return 63 - Math.clz32(words[1]!);
  return words[0] !== 0 ? 31 - Math.clz32(words[0]!) : -1;
}

function priorityOf(block: Block | null): number {
  return block === null ? -Infinity : block.priority;
}

function* inOrder(root: Block | null): Generator<Block> {
  if (root === null) return;
  yield* inOrder(root.left);
  yield root;
  yield* inOrder(root.right);
}
