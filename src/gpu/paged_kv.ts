// SPDX-License-Identifier: Apache-2.0
//
// A paged KV cache on a device, as serving engines keep it, and its way into chunks of the pool and
// back. The engine says which pages a request's tokens are in; a chunk is what connectors store:
// [2, layers, tokens, hidden] and the like, without pages.

import { checkChoice, checkInteger, checkKnownOptions, describe } from "../arguments.ts";
import { finalize } from "../internal.ts";
import { MemoryFormat } from "../memory/memory_format.ts";
import { MemoryObj } from "../memory/memory_obj.ts";
import { partOf } from "../memory/part_of_range.ts";
import type { ShmRange } from "../memory/segment.ts";
import { type Place, planCopies, type PlannedCopy } from "./kv_plan.ts";
import { DeviceBuffer, type DeviceMemory, DeviceRange } from "./memory.ts";
import type { GpuStream } from "./stream.ts";

/**
 * How a layer's memory is divided up:
 * - "planes-first": [2, pages, pageTokens, hidden], all keys, then all values;
 * - "pages-first": [pages, 2, pageTokens, hidden], keys and values of a page side by side.
 */
export type KvOrder = "planes-first" | "pages-first";

/** Where a paged KV cache lies, and how it is divided up. */
export interface PagedKvOptions {
  /** One for each layer, each with all its pages; ranges of one buffer, or buffers of their own. */
  layers?: readonly DeviceMemory[] | undefined;
  /** Instead of layers: every page by itself, pages[layer][index]. */
  pages?: readonly (readonly DeviceMemory[])[] | undefined;
  /** Tokens in a page. */
  pageTokens: number;
  /** Bytes of one token in one plane of one layer: heads x head size x element size. */
  tokenBytes: number;
  /** 2 (default): keys and values; 1: one joint vector, as latent attention has. */
  planes?: 1 | 2 | undefined;
  /** Default "planes-first". Without meaning for `pages`, which are [planes, pageTokens, hidden]. */
  order?: KvOrder | undefined;
}

/** Which part of a chunk is moved. */
export interface KvMoveOptions {
  /** How many tokens of the chunk, from its first; default all. */
  tokens?: number | undefined;
  /** Only this layer: the chunk then has one ([2, tokens, hidden]). Default all layers. */
  layer?: number | undefined;
}

/** Formats whose bytes are plane by plane, layer by layer, token by token. */
const FORMATS: Readonly<Record<1 | 2, readonly MemoryFormat[]>> = {
  1: [MemoryFormat.KV_MLA_FMT, MemoryFormat.BINARY],
  2: [MemoryFormat.KV_2LTD, MemoryFormat.KV_2TD, MemoryFormat.BINARY],
};

/** Owns no memory: the buffers must outlive it. */
export class PagedKvCache {
  /** Layers of the model. */
  readonly layerCount: number;
  /** Pages of each layer. */
  readonly pageCount: number;
  /** Tokens in a page. */
  readonly pageTokens: number;
  /** Bytes of one token in one plane of one layer. */
  readonly tokenBytes: number;
  /** 2: keys and values; 1: one joint vector. */
  readonly planes: 1 | 2;
  readonly #buffers: DeviceBuffer[] = [];
  readonly #place: (layer: number, plane: number, page: number) => Place;

  /**
   * Describes a cache whose memory is there already.
   * @throws {RangeError} when a layer's memory is no whole number of pages, or layers differ;
   *   {TypeError} when something is no device memory.
   */
  constructor(options: PagedKvOptions) {
    const given = options;
    checkKnownOptions("PagedKvCache", given, [
      ...["layers", "pages", "pageTokens", "tokenBytes", "planes", "order"],
    ]);
    const { layers, pages, planes = 2 } = options;
    this.pageTokens = checkInteger("pageTokens", options.pageTokens, 1);
    this.tokenBytes = checkInteger("tokenBytes", options.tokenBytes, 1);
    checkInteger("planes", planes, 1, 2);
    this.planes = planes;
    const order = checkChoice("order", options.order, ["planes-first", "pages-first"], FIRST);
    if ((layers === undefined) === (pages === undefined)) {
      throw new TypeError("a paged KV cache takes either layers or pages");
    }
    const planeBytes = this.pageTokens * this.tokenBytes;
    const pageBytes = planeBytes * planes;
    if (pages !== undefined) {
      const places = pages.map((list) =>
        list.map((memory) => this.#placeOf(memory, pageBytes, "page"))
      );
      this.layerCount = atLeastOne("pages", places.length);
      this.pageCount = atLeastOne("pages of a layer", places[0]!.length);
      if (places.some((list) => list.length !== this.pageCount)) {
        throw new RangeError(`every layer must have as many pages: ${places.map((l) => l.length)}`);
      }
      this.#place = (layer, plane, page) => {
        const { buffer, offset } = places[layer]![page]!;
        return { buffer, offset: offset + plane * planeBytes };
      };
      this.#finalize();
      return;
    }
    const sizes = layers!.map((memory) =>
      memory instanceof DeviceBuffer ? memory.sizeBytes : memory?.byteLength
    );
    this.layerCount = atLeastOne("layers", sizes.length);
    const bytes = sizes[0]!;
    if (sizes.some((size) => size !== bytes) || bytes % pageBytes !== 0 || bytes === 0) {
      throw new RangeError(
        `every layer must have the same number of pages of ${pageBytes} bytes, got layers of ` +
          `${[...new Set(sizes)].join(", ")} bytes`,
      );
    }
    this.pageCount = bytes / pageBytes;
    const places = layers!.map((memory) => this.#placeOf(memory, bytes, "layer"));
    const [pageStep, planeStep] = order === FIRST
      ? [planeBytes, planeBytes * this.pageCount]
      : [pageBytes, planeBytes];
    this.#place = (layer, plane, page) => {
      const { buffer, offset } = places[layer]!;
      return { buffer, offset: offset + plane * planeStep + page * pageStep };
    };
    this.#finalize();
  }

  /** Bytes of a chunk with so many tokens, of all layers or one. */
  chunkBytes(tokens: number, layers: number = this.layerCount): number {
    return this.planes * layers * tokens * this.tokenBytes;
  }

  /**
   * Queues copying tokens from their pages into a chunk. The chunk is held, and must not be read,
   * until the stream has passed it.
   * @param pages the index of each page, in the order of the tokens; only the last may be in part.
   * @param chunk a memory object of a fitting format and shape, or any range of that size.
   * @returns how many copies were queued.
   * @throws {RangeError} for page numbers and sizes that do not fit, {TypeError} for another format,
   *   {ShmError} as GpuStream.download2D().
   */
  save(
    stream: GpuStream,
    pages: readonly number[],
    chunk: ShmRange,
    options: KvMoveOptions = {},
  ): number {
    const copies = this.#plan("PagedKvCache.save", pages, chunk, options);
    for (const copy of copies) {
      const { widthBytes, rows } = copy;
      const source = { memory: this.#deviceRange(copy), pitchBytes: copy.devicePitch };
      const target = { memory: chunkRange(chunk, copy), pitchBytes: copy.chunkPitch };
      if (rows === 1) stream.download(target.memory, source.memory);
      else stream.download2D(target, source, { widthBytes, rows });
    }
    return copies.length;
  }

  /** Queues copying a chunk into pages: the way back of save(). */
  load(
    stream: GpuStream,
    pages: readonly number[],
    chunk: ShmRange,
    options: KvMoveOptions = {},
  ): number {
    const copies = this.#plan("PagedKvCache.load", pages, chunk, options);
    for (const copy of copies) {
      const { widthBytes, rows } = copy;
      const target = { memory: this.#deviceRange(copy), pitchBytes: copy.devicePitch };
      const source = { memory: chunkRange(chunk, copy), pitchBytes: copy.chunkPitch };
      if (rows === 1) stream.upload(target.memory, source.memory);
      else stream.upload2D(target, source, { widthBytes, rows });
    }
    return copies.length;
  }

  /**
   * Queues copying whole pages within the cache, in all layers: from[i] to to[i].
   * @throws {RangeError} when the lists differ in length, or a page is on both or twice in `to`.
   */
  copyPages(stream: GpuStream, from: readonly number[], to: readonly number[]): void {
    if (from.length !== to.length) {
      throw new RangeError(`${from.length} pages to copy, and ${to.length} to copy them to`);
    }
    this.#checkPages(from);
    this.#checkPages(to);
    const targets = new Set(to);
    if (targets.size !== to.length || from.some((page) => targets.has(page))) {
      throw new RangeError("a page can be copied to once, and only if nothing is copied from it");
    }
    const byteLength = this.pageTokens * this.tokenBytes;
    const range = ({ buffer, offset }: Place) => this.#buffers[buffer]!.range(offset, byteLength);
    for (let layer = 0; layer < this.layerCount; layer++) {
      for (let plane = 0; plane < this.planes; plane++) {
        from.forEach((page, index) => {
          const target = this.#place(layer, plane, to[index]!);
          stream.copy(range(target), range(this.#place(layer, plane, page)));
        });
      }
    }
  }

  #plan(
    operation: string,
    pages: readonly number[],
    chunk: ShmRange,
    options: KvMoveOptions,
  ): PlannedCopy[] {
    const given = options;
    checkKnownOptions(operation, given, ["tokens", "layer"]);
    const { layer } = options;
    if (layer !== undefined) checkInteger("layer", layer, 0, this.layerCount - 1);
    const layers = layer === undefined ? this.layerCount : 1;
    const chunkTokens = this.#chunkTokens(chunk, layers);
    const tokens = checkInteger("tokens", options.tokens ?? chunkTokens, 0, chunkTokens);
    const needed = Math.ceil(tokens / this.pageTokens);
    if (pages.length !== needed) {
      throw new RangeError(
        `${tokens} tokens take ${needed} pages of ${this.pageTokens}, got ${pages.length}`,
      );
    }
    this.#checkPages(pages);
    return planCopies({
      planes: this.planes,
      layers,
      pageTokens: this.pageTokens,
      tokenBytes: this.tokenBytes,
      chunkTokens,
      tokens,
      place: (index, plane, page) => this.#place(layer ?? index, plane, pages[page]!),
    });
  }

  #finalize(): void {
    finalize(this, "layerCount", "pageCount", "pageTokens", "tokenBytes", "planes");
  }

  #checkPages(pages: readonly number[]): void {
    if (!Array.isArray(pages)) throw new TypeError(`pages must be a list, got ${describe(pages)}`);
    for (const page of pages) checkInteger("page", page, 0, this.pageCount - 1);
  }

  #chunkTokens(chunk: ShmRange, layers: number): number {
    if (chunk instanceof MemoryObj) {
      const { format, shapes } = chunk.layout;
      if (!FORMATS[this.planes].includes(format) || shapes.length !== 1) {
        throw new TypeError(
          `a chunk of ${this.planes === 2 ? "keys and values" : "joint vectors"} has one tensor ` +
            `of format ${FORMATS[this.planes].join(" or ")}, got ${chunk.layout}`,
        );
      }
      const inShape = format === MemoryFormat.KV_2TD ? 1 : shapes[0]![1]!;
      if (format !== MemoryFormat.BINARY && inShape !== layers) {
        throw new RangeError(`the chunk has ${inShape} layers, not ${layers}: ${chunk.layout}`);
      }
    }
    const perToken = this.chunkBytes(1, layers);
    if (chunk.byteLength % perToken !== 0) {
      throw new RangeError(
        `the chunk has ${chunk.byteLength} bytes, no whole number of tokens of ${perToken}`,
      );
    }
    return chunk.byteLength / perToken;
  }

  #placeOf(memory: DeviceMemory, byteLength: number, what: string): Place {
    const range = memory instanceof DeviceBuffer ? memory.range() : memory;
    if (!(range instanceof DeviceRange)) {
      throw new TypeError(`a ${what} must be memory on a device, got ${describe(memory)}`);
    }
    if (range.byteLength !== byteLength) {
      throw new RangeError(`a ${what} must have ${byteLength} bytes, got ${range.byteLength}`);
    }
    let buffer = this.#buffers.indexOf(range.buffer);
    if (buffer < 0) buffer = this.#buffers.push(range.buffer) - 1;
    return { buffer, offset: range.offset };
  }

  #deviceRange({ buffer, deviceOffset, devicePitch, widthBytes, rows }: PlannedCopy): DeviceRange {
    return this.#buffers[buffer]!.range(deviceOffset, devicePitch * (rows - 1) + widthBytes);
  }
}

const FIRST = "planes-first";

function atLeastOne(what: string, count: number): number {
  if (count < 1) throw new RangeError(`a paged KV cache needs ${what}`);
  return count;
}

/** The part of a chunk that a copy touches; held through the chunk itself. */
function chunkRange(chunk: ShmRange, copy: PlannedCopy): ShmRange {
  const { chunkOffset, chunkPitch, widthBytes, rows } = copy;
  return partOf(chunk, chunkOffset, chunkPitch * (rows - 1) + widthBytes);
}
