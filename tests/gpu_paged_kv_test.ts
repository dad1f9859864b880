// SPDX-License-Identifier: Apache-2.0
//
// A paged KV cache and chunks of the pool: whatever the layout, every token of every layer must lie
// where the format says, and nothing else may be touched. Against a model that moves byte by byte.

import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { planCopies } from "../src/gpu/kv_plan.ts";
import {
  MemoryFormat,
  ShmSegment,
  TensorMemoryAllocator,
  type TensorMemoryObj,
} from "../src/mod.ts";
import { type DeviceMemory, GpuDevice, type KvOrder, PagedKvCache } from "../src/gpu/mod.ts";
import { FakeGpu, fillPattern, noFakes } from "./support/fake_gpu.ts";

const OPTIONS = { skip: noFakes || false, timeout: 120_000 } as const;
const KIB = 1024;

interface Shape {
  layers: number;
  pageCount: number;
  pageTokens: number;
  tokenBytes: number;
  planes: 1 | 2;
  order: KvOrder;
  /** One buffer for all layers, with a gap between them, one each, or every page by itself. */
  storage: "one" | "spaced" | "each" | "pages";
}

const shapes: fc.Arbitrary<Shape> = fc.record({
  layers: fc.integer({ min: 1, max: 5 }),
  pageCount: fc.integer({ min: 1, max: 9 }),
  pageTokens: fc.constantFrom(1, 3, 16),
  tokenBytes: fc.constantFrom(1, 6, 32),
  planes: fc.constantFrom(1, 2),
  order: fc.constantFrom("planes-first", "pages-first"),
  storage: fc.constantFrom("one", "spaced", "each", "pages"),
});

function pageBytesOf({ planes, pageTokens, tokenBytes }: Shape): number {
  return planes * pageTokens * tokenBytes;
}

/** Where a byte of a token lies in its layer, by the definition of the order. */
function offsetInLayer(shape: Shape, plane: number, page: number, token: number): number {
  const { pageTokens, tokenBytes, pageCount, planes, order, storage } = shape;
  const pagesFirst = order === "pages-first" || storage === "pages";
  const block = pagesFirst ? page * planes + plane : plane * pageCount + page;
  return (block * pageTokens + token) * tokenBytes;
}

test("planned copies touch every byte of the tokens once, in the right place", {
  timeout: 120_000,
}, () => {
  fc.assert(
    fc.property(shapes, fc.nat(200), fc.nat(50), fc.integer(), (shape, want, spare, seed) => {
      const { layers, pageTokens, tokenBytes, planes, pageCount } = shape;
      const tokens = want % (pageCount * pageTokens + 1);
      const chunkTokens = tokens + spare;
      const order = shuffled(pageCount, seed);
      const copies = planCopies({
        planes,
        layers,
        pageTokens,
        tokenBytes,
        chunkTokens,
        tokens,
        place: (layer, plane, page) => ({
          buffer: shape.storage === "each" ? layer : 0,
          offset: (shape.storage === "each" ? 0 : layer * pageCount * pageBytesOf(shape)) +
            offsetInLayer(shape, plane, order[page]!, 0),
        }),
      });
      const moved = new Map<number, string>();
      for (const copy of copies) {
        for (let row = 0; row < copy.rows; row++) {
          for (let at = 0; at < copy.widthBytes; at++) {
            const to = copy.chunkOffset + row * copy.chunkPitch + at;
            assert.ok(!moved.has(to), "each byte once");
            moved.set(to, `${copy.buffer}:${copy.deviceOffset + row * copy.devicePitch + at}`);
          }
        }
      }
      assert.equal(moved.size, planes * layers * tokens * tokenBytes);
      for (let plane = 0; plane < planes; plane++) {
        for (let layer = 0; layer < layers; layer++) {
          for (let token = 0; token < tokens; token++) {
            const to = ((plane * layers + layer) * chunkTokens + token) * tokenBytes;
            const page = order[Math.floor(token / pageTokens)]!;
            const from = (shape.storage === "each" ? 0 : layer * pageCount * pageBytesOf(shape)) +
              offsetInLayer(shape, plane, page, token % pageTokens);
            assert.equal(moved.get(to), `${shape.storage === "each" ? layer : 0}:${from}`);
          }
        }
      }
    }),
    { numRuns: 400 },
  );
});

test("pages of different allocations are not copied together", { timeout: 30_000 }, () => {
  const copies = planCopies({
    planes: 1,
    layers: 4,
    pageTokens: 1,
    tokenBytes: 8,
    chunkTokens: 4,
    tokens: 4,
    place: (layer, _, page) => ({ buffer: layer * 4 + page, offset: (layer + page) * 100 }),
  });
  assert.equal(copies.length, 16);
  assert.ok(
    copies.every(({ rows, deviceOffset, buffer }) =>
      rows === 1 && deviceOffset === (Math.floor(buffer / 4) + buffer % 4) * 100
    ),
  );
});

test("pages at even distances take few copies", { timeout: 30_000 }, () => {
  const plan = (pages: number[], oneBuffer: boolean) =>
    planCopies({
      planes: 2,
      layers: 32,
      pageTokens: 16,
      tokenBytes: 2048,
      chunkTokens: 256,
      tokens: 256,
      place: (layer, plane, page) => ({
        buffer: oneBuffer ? 0 : layer,
        offset: (oneBuffer ? layer * 2 * 1000 * 32768 : 0) + (plane * 1000 + pages[page]!) * 32768,
      }),
    });
  const inOrder = Array.from({ length: 16 }, (_, page) => 100 + page);
  const everyOther = inOrder.map((page) => 2 * page);
  const scattered = [5, 900, 17, 3, 501, 44, 2, 77, 600, 31, 350, 8, 222, 99, 700, 61];
  assert.equal(plan(inOrder, false).length, 64); // one for each plane and layer
  assert.equal(plan(everyOther, false).length, 64);
  assert.equal(plan(scattered, true).length, 32); // one for each plane and page, all layers
  assert.ok(plan(inOrder, false).every(({ rows }) => rows === 1)); // contiguous: plain copies
  assert.ok(plan(everyOther, false).every(({ rows }) => rows === 16));
});

function shuffled(count: number, seed: number): number[] {
  let state = (seed >>> 0) || 1;
  const list = Array.from({ length: count }, (_, index) => index);
  for (let at = count - 1; at > 0; at--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = state % (at + 1);
    [list[at], list[other]] = [list[other]!, list[at]!];
  }
  return list;
}

/** The cache, and the bytes of each layer as a device range. */
function makeCache(device: GpuDevice, shape: Shape) {
  const { layers, pageCount, pageTokens, tokenBytes, planes, order, storage } = shape;
  const pageBytes = pageBytesOf(shape);
  const layerBytes = pageCount * pageBytes;
  const gap = storage === "spaced" ? 40 : 0;
  const count = storage === "each" ? layers : 1;
  const buffers = Array.from(
    { length: count },
    () => device.alloc(storage === "each" ? layerBytes : layers * (layerBytes + gap)),
  );
  const layerMemory: DeviceMemory[] = Array.from(
    { length: layers },
    (_, layer) =>
      storage === "each"
        ? buffers[layer]!
        : buffers[0]!.range(layer * (layerBytes + gap), layerBytes),
  );
  const common = { pageTokens, tokenBytes, planes };
  const cache = storage === "pages"
    ? new PagedKvCache({
      ...common,
      pages: layerMemory.map((_, layer) =>
        Array.from(
          { length: pageCount },
          (_, page) => buffers[0]!.range(layer * layerBytes + page * pageBytes, pageBytes),
        )
      ),
    })
    : new PagedKvCache({ ...common, layers: layerMemory, order });
  return { cache, layerMemory, layerBytes, buffers };
}

test("chunks are saved and loaded as a model says", OPTIONS, async () => {
  using fake = new FakeGpu("driver");
  {
    await using segment = await ShmSegment.create({
      sizeBytes: 512 * KIB,
      pin: "require",
      gpuLibrary: fake.path,
    });
    using device = GpuDevice.open({ gpuLibrary: fake.path });
    await using stream = device.createStream();
    await fc.assert(
      fc.asyncProperty(shapes, fc.nat(300), fc.nat(20), fc.integer(), async (shape, n, s, seed) => {
        const { layers, pageCount, pageTokens, tokenBytes, planes } = shape;
        const { cache, layerMemory, layerBytes, buffers } = makeCache(device, shape);
        try {
          const tokens = n % (pageCount * pageTokens + 1);
          const chunkTokens = Math.max(1, tokens + s);
          const pages = shuffled(pageCount, seed).slice(0, Math.ceil(tokens / pageTokens));
          const chunkBytes = cache.chunkBytes(chunkTokens);
          assert.equal(chunkBytes, planes * layers * chunkTokens * tokenBytes);
          const at = 256 * KIB + 17;
          const chunk = segment.range(at, chunkBytes);

          // The caches' bytes, through the first half of the segment.
          const models = layerMemory.map((memory, layer) => {
            const bytes = segment.bytes(0, layerBytes);
            fillPattern(bytes, seed + layer);
            return { memory, bytes: bytes.slice() };
          });
          for (const { memory, bytes } of models) {
            segment.bytes(0, layerBytes).set(bytes);
            stream.upload(memory, segment.range(0, layerBytes));
            await stream.synchronize();
          }
          const view = segment.bytes(at, chunkBytes);
          view.fill(0xcc);
          cache.save(stream, pages, chunk, { tokens });
          await stream.synchronize();
          const expected = new Uint8Array(chunkBytes).fill(0xcc);
          for (let plane = 0; plane < planes; plane++) {
            for (let layer = 0; layer < layers; layer++) {
              for (let token = 0; token < tokens; token++) {
                const page = pages[Math.floor(token / pageTokens)]!;
                const from = offsetInLayer(shape, plane, page, token % pageTokens);
                const to = ((plane * layers + layer) * chunkTokens + token) * tokenBytes;
                expected.set(models[layer]!.bytes.subarray(from, from + tokenBytes), to);
              }
            }
          }
          assert.deepEqual(view, expected);

          // Back into other pages: those are the model's then, and all others as they were.
          const others = shuffled(pageCount, seed + 1).slice(0, pages.length);
          cache.load(stream, others, chunk, { tokens });
          await stream.synchronize();
          for (let layer = 0; layer < layers; layer++) {
            const { memory, bytes } = models[layer]!;
            for (let plane = 0; plane < planes; plane++) {
              for (let token = 0; token < tokens; token++) {
                const page = others[Math.floor(token / pageTokens)]!;
                const to = offsetInLayer(shape, plane, page, token % pageTokens);
                const from = ((plane * layers + layer) * chunkTokens + token) * tokenBytes;
                bytes.set(expected.subarray(from, from + tokenBytes), to);
              }
            }
            stream.download(segment.range(0, layerBytes), memory);
            await stream.synchronize();
            assert.deepEqual(segment.bytes(0, layerBytes), bytes);
          }
        } finally {
          for (const buffer of buffers) buffer.free();
        }
      }),
      { numRuns: 60 },
    );
  }
  fake.assertClean();
});

for (const planes of [1, 2] as const) {
  test(
    `memory objects of ${planes} planes have the layers and tokens of their shape`,
    OPTIONS,
    async () => {
      using fake = new FakeGpu("cudart");
      {
        await using segment = await ShmSegment.create({
          sizeBytes: 512 * KIB,
          gpuLibrary: fake.path,
        });
        const allocator = new TensorMemoryAllocator(segment);
        using device = GpuDevice.open({ gpuLibrary: fake.path });
        using buffer = device.alloc(3 * 4 * planes * 16 * 64);
        const layer = buffer.sizeBytes / 3;
        const cache = new PagedKvCache({
          layers: [0, 1, 2].map((index) => buffer.range(index * layer, layer)),
          pageTokens: 16,
          tokenBytes: 64,
          planes,
        });
        assert.equal(cache.pageCount, 4);
        await using stream = device.createStream();
        const all = planes === 2 ? MemoryFormat.KV_2LTD : MemoryFormat.KV_MLA_FMT;
        using chunk = allocator.allocate({
          shape: [planes, 3, 40, 32],
          dtype: "bfloat16",
          format: all,
        });
        stream.fill(buffer, 3);
        chunk.bytes.fill(0);
        assert.throws(() => cache.save(stream, [0, 1], chunk as TensorMemoryObj), /take 3 pages/);
        cache.save(stream, [2, 0, 1], chunk as TensorMemoryObj);
        await stream.synchronize();
        assert.ok(chunk.bytes.every((byte) => byte === 3));
        // A partial last chunk: fewer tokens in the same memory, without gaps.
        chunk.truncateTokens(20);
        chunk.bytes.fill(0);
        cache.save(stream, [3, 1], chunk as TensorMemoryObj);
        await stream.synchronize();
        assert.ok(chunk.bytes.every((byte) => byte === 3));
        using two = allocator.allocate({
          shape: [planes, 2, 40, 32],
          dtype: "bfloat16",
          format: all,
        });
        assert.throws(
          () => cache.save(stream, [0, 1, 2], two as TensorMemoryObj),
          /2 layers, not 3/,
        );
        using wrong = allocator.allocate({
          shape: [40, 2, 32],
          dtype: "bfloat16",
          format: MemoryFormat.KV_T2D,
        });
        assert.throws(() => cache.save(stream, [0, 1, 2], wrong as TensorMemoryObj), /of format/);
        if (planes === 2) {
          using single = allocator.allocate({
            shape: [2, 40, 32],
            dtype: "bfloat16",
            format: MemoryFormat.KV_2TD,
          });
          single.bytes.fill(0);
          cache.save(stream, [2, 0, 1], single as TensorMemoryObj, { layer: 1 });
          await stream.synchronize();
          assert.ok(single.bytes.every((byte) => byte === 3));
        }
      }
      fake.assertClean();
    },
  );
}

test("pages are copied within the cache, in all layers", OPTIONS, async () => {
  using fake = new FakeGpu("hip");
  {
    await using segment = await ShmSegment.create({ sizeBytes: 64 * KIB, gpuLibrary: fake.path });
    using device = GpuDevice.open({ gpuLibrary: fake.path });
    using buffer = device.alloc(2 * 8 * 2 * 64);
    const cache = new PagedKvCache({
      layers: [buffer.range(0, 1024), buffer.range(1024, 1024)],
      pageTokens: 4,
      tokenBytes: 16,
      order: "pages-first",
    });
    await using stream = device.createStream();
    const bytes = segment.bytes(0, 2048);
    fillPattern(bytes, 9);
    const model = bytes.slice();
    stream.upload(buffer, segment.range(0, 2048));
    cache.copyPages(stream, [0, 7, 0], [1, 2, 5]);
    stream.download(segment.range(0, 2048), buffer);
    await stream.synchronize();
    for (const layer of [0, 1024]) {
      for (const [from, to] of [[0, 1], [7, 2], [0, 5]] as const) {
        model.copyWithin(layer + to * 128, layer + from * 128, layer + from * 128 + 128);
      }
    }
    assert.deepEqual(bytes, model);
    assert.throws(() => cache.copyPages(stream, [0, 1], [2]), /2 pages to copy/);
    assert.throws(() => cache.copyPages(stream, [0, 1], [2, 2]), RangeError);
    assert.throws(() => cache.copyPages(stream, [0, 1], [1, 2]), RangeError);
    assert.throws(() => cache.copyPages(stream, [8], [1]), RangeError);
  }
  fake.assertClean();
});

test("caches and chunks that do not fit are refused", OPTIONS, async () => {
  using fake = new FakeGpu("driver");
  {
    await using segment = await ShmSegment.create({ sizeBytes: 64 * KIB, gpuLibrary: fake.path });
    using device = GpuDevice.open({ gpuLibrary: fake.path });
    using buffer = device.alloc(4096);
    await using stream = device.createStream();
    const options = { pageTokens: 4, tokenBytes: 16, layers: [buffer] };
    const wrong: [object, RegExp][] = [
      [{ ...options, layers: [] }, /needs layers/],
      [{ ...options, layers: undefined }, /either layers or pages/],
      [{ ...options, pages: [[buffer]] }, /either layers or pages/],
      [{ ...options, pageTokens: 3 }, /pages of 96 bytes/],
      [{ ...options, layers: [buffer, buffer.range(0, 128)] }, /same number of pages/],
      [{ ...options, layers: [segment.range(0, 4096)] }, /must be memory on a device/],
      [{ ...options, layers: undefined, pages: [[buffer]] }, /must have 128 bytes, got 4096/],
      [{ ...options, planes: 3 }, /planes/],
      [{ ...options, order: "rows-first" }, /order/],
      [{ ...options, tokenBytes: 0 }, /tokenBytes/],
      [{ ...options, heads: 8 }, /heads/],
    ];
    for (const [given, words] of wrong) {
      assert.throws(() => new PagedKvCache(given as never), words);
    }
    const cache = new PagedKvCache(options);
    const chunk = segment.range(0, cache.chunkBytes(8));
    assert.throws(() => cache.save(stream, [0], chunk), /8 tokens take 2 pages of 4, got 1/);
    assert.throws(() => cache.save(stream, [0, 32], chunk), RangeError);
    assert.throws(() => cache.save(stream, [0, -1], chunk), RangeError);
    assert.throws(() => cache.load(stream, [0, 1], chunk, { tokens: 9 }), RangeError);
    assert.throws(() => cache.load(stream, [0, 1], chunk, { layer: 1 }), RangeError);
    assert.throws(() => cache.load(stream, [0, 1], segment.range(0, 33)), /no whole number/);
    assert.equal(fake.books().copies, 0);
  }
  fake.assertClean();
});
