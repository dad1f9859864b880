// SPDX-License-Identifier: Apache-2.0
//
// Which copies move the pages of a paged KV cache into one chunk, or back: pure arithmetic. A page
// holds some tokens of one layer; a chunk holds, plane by plane (keys, values) and layer by layer,
// all its tokens without gaps. Pages that lie at even distances make one copy of many rows, either
// page by page within a layer or layer by layer for one page, whichever takes fewer copies.

/** Where some bytes are: an allocation, by its number, and an offset in it. */
export interface Place {
  readonly buffer: number;
  readonly offset: number;
}

/** One copy of rows between the chunk and the device. */
export interface PlannedCopy {
  readonly buffer: number;
  readonly deviceOffset: number;
  readonly devicePitch: number;
  /** Bytes from the start of the chunk. */
  readonly chunkOffset: number;
  readonly chunkPitch: number;
  readonly widthBytes: number;
  readonly rows: number;
}

interface PlanRequest {
  /** 2: keys and values; 1: both in one. */
  readonly planes: number;
  /** How many layers the chunk has. */
  readonly layers: number;
  readonly pageTokens: number;
  /** Of one token in one plane of one layer. */
  readonly tokenBytes: number;
  /** Tokens that the chunk has room for. */
  readonly chunkTokens: number;
  /** Tokens to move: the first of the chunk. */
  readonly tokens: number;
  /** Where the page with index `page` (0 to the number of pages used) begins. */
  place(layer: number, plane: number, page: number): Place;
}

/** One row, before rows at even distances are put together. */
interface Row extends Place {
  readonly chunkOffset: number;
  readonly widthBytes: number;
}

/** Puts rows of one width at even distances together, greedily; contiguous ones into one row. */
function merge(rows: readonly Row[]): PlannedCopy[] {
  const copies: PlannedCopy[] = [];
  for (let first = 0; first < rows.length;) {
    const begin = rows[first]!;
    const second = rows[first + 1];
    const devicePitch = second ? second.offset - begin.offset : 0;
    const chunkPitch = second ? second.chunkOffset - begin.chunkOffset : 0;
    let next = first + 1;
    if (devicePitch >= begin.widthBytes && chunkPitch >= begin.widthBytes) {
      while (next < rows.length && follows(rows[next - 1]!, rows[next]!, devicePitch, chunkPitch)) {
        next++;
      }
    }
    const count = next - first;
    const contiguous = devicePitch === begin.widthBytes && chunkPitch === begin.widthBytes;
    const width = begin.widthBytes;
    copies.push({
      buffer: begin.buffer,
      deviceOffset: begin.offset,
      devicePitch: count === 1 || contiguous ? width * (contiguous ? count : 1) : devicePitch,
      chunkOffset: begin.chunkOffset,
      chunkPitch: count === 1 || contiguous ? width * (contiguous ? count : 1) : chunkPitch,
      widthBytes: contiguous && count > 1 ? width * count : width,
      rows: contiguous && count > 1 ? 1 : count,
    });
    first = next;
  }
  return copies;
}

function follows(previous: Row, row: Row, devicePitch: number, chunkPitch: number): boolean {
  return row.buffer === previous.buffer && row.widthBytes === previous.widthBytes &&
    row.offset - previous.offset === devicePitch &&
    row.chunkOffset - previous.chunkOffset === chunkPitch;
}

/** The copies, in no particular order; together they touch every byte of the tokens once. */
export function planCopies(request: PlanRequest): PlannedCopy[] {
  const { planes, layers, pageTokens, tokenBytes, chunkTokens, tokens } = request;
  const pages = Math.ceil(tokens / pageTokens);
  const row = (plane: number, layer: number, page: number): Row => ({
    ...request.place(layer, plane, page),
    chunkOffset: ((plane * layers + layer) * chunkTokens + page * pageTokens) * tokenBytes,
    widthBytes: Math.min(pageTokens, tokens - page * pageTokens) * tokenBytes,
  });
  const byPage: PlannedCopy[] = [];
  const byLayer: PlannedCopy[] = [];
  for (let plane = 0; plane < planes; plane++) {
    for (let layer = 0; layer < layers; layer++) {
      byPage.push(...merge(Array.from({ length: pages }, (_, page) => row(plane, layer, page))));
    }
    for (let page = 0; page < pages; page++) {
      const rows = Array.from({ length: layers }, (_, layer) => row(plane, layer, page));
      byLayer.push(...merge(rows));
    }
  }
  return byLayer.length < byPage.length ? byLayer : byPage;
}
