// SPDX-License-Identifier: Apache-2.0
//
// Pools as maps: every allocator's, exact or summed up; and publishing them to whoever looks.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync, statSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import {
  BufferAllocator,
  disposeAll,
  MixedMemoryAllocator,
  PagedTensorMemoryAllocator,
  type PoolMap,
  publishPool,
  ShmSegment,
  TensorMemoryAllocator,
} from "../src/mod.ts";
import { decodeBoard, encodeBoard } from "../src/memory/pool_board.ts";
import { publishedPools } from "../src/memory/published_pools.ts";
import { lmshm } from "./support/command_line.ts";
import { fixtureCommand } from "./support/process.ts";
import { eventually } from "./support/worker.ts";

const PAGE = 4096;
const LONG = { timeout: 120_000 };

/** "used 1, free 2": in pages. */
function words({ ranges }: PoolMap): string {
  return ranges.map(({ state, sizeBytes }) => `${state} ${sizeBytes / PAGE}`).join(", ");
}

function checkSums(map: PoolMap, totalBytes: number): void {
  let end = 0;
  for (const { offset, sizeBytes } of map.ranges) {
    assert.equal(offset, end);
    assert.ok(sizeBytes > 0);
    end += sizeBytes;
  }
  assert.equal(end, totalBytes);
  assert.equal(map.totalBytes, totalBytes);
}

function ours(name: string) {
  return publishedPools().filter((pool) => pool.name === name);
}

test("map() of blocks shows each one with its size and state", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 16 * PAGE, pin: "none" });
  const pool = new TensorMemoryAllocator(segment);
  assert.equal(words(pool.map()), "free 16");
  const [a, b, c, d] = [1, 2, 3, 1].map((pages) => pool.allocate(pages * PAGE));
  assert.equal(words(pool.map()), "used 1, used 2, used 3, used 1, free 9");
  b!.pin();
  const done = c!.hold("put");
  pool.free(a!);
  const map = pool.map();
  assert.equal(words(map), "free 1, pinned 2, inFlight 3, used 1, free 9");
  assert.deepEqual(map.ranges.map(({ objects }) => objects), [0, 1, 1, 1, 0]);
  assert.equal(map.cellBytes, 0);
  checkSums(map, 16 * PAGE);
  c!.pin();
  assert.match(words(pool.map()), /inFlight 3/, "in flight, pinned or not");
  done();
  c!.unpin();
  b!.unpin();
  for (const obj of [b, c, d]) obj!.refCountDown();
  assert.equal(words(pool.map()), "free 16");
});

test("map() of pages shows each page", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 5 * PAGE, pin: "none" });
  const pool = new PagedTensorMemoryAllocator(segment, { page: 100 });
  const objs = pool.batchedAllocate(100, 4);
  objs[2]!.pin();
  pool.free(objs[0]!);
  assert.equal(words(pool.map()), "free 1, used 1, pinned 1, used 1, free 1");
  pool.free(objs[1]!);
  const again = pool.allocate(50);
  assert.equal(words(pool.map()), "free 1, used 1, pinned 1, used 1, free 1");
  objs[2]!.unpin();
  for (const obj of [again, objs[2]!, objs[3]!]) pool.free(obj);
  assert.equal(words(pool.map()), "free 1, free 1, free 1, free 1, free 1");
});

test("map() shows what is quarantined", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 2 * PAGE, pin: "none" });
  class Losing extends TensorMemoryAllocator {
    constructor() {
      super(segment);
      this.withhold(this.take(PAGE)!);
    }
  }
  assert.equal(words(new Losing().map()), "quarantined 1, free 1");
});

test("map() of a pool with many blocks sums them up in cells, and nothing is lost", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 1000 * PAGE, pin: "none" });
  const pool = new PagedTensorMemoryAllocator(segment, { page: PAGE });
  const objs = pool.batchedAllocate(PAGE, 600);
  for (let index = 0; index < 600; index += 3) pool.free(objs[index]!);
  for (let index = 1; index < 600; index += 3) objs[index]!.pin();
  const map = pool.map({ maxRanges: 50 });
  assert.ok(map.ranges.length <= 50);
  assert.equal(map.cellBytes, 100 * PAGE);
  checkSums(map, 1000 * PAGE);
  const sum = (state: string, of: "sizeBytes" | "objects") =>
    map.ranges.filter((range) => range.state === state).reduce((all, range) => all + range[of], 0);
  assert.equal(sum("pinned", "sizeBytes"), 200 * PAGE);
  assert.equal(sum("used", "objects"), 200);
  assert.equal(sum("free", "sizeBytes"), 600 * PAGE);
  assert.equal(sum("free", "objects"), 0);
  const blocks = new TensorMemoryAllocator(segment);
  const large = blocks.allocate(700 * PAGE);
  const small = blocks.batchedAllocate(PAGE, 10);
  const cells = blocks.map({ maxRanges: 10 });
  checkSums(cells, 1000 * PAGE);
  assert.equal(words(cells), "used 500, used 210, free 290", "one block lies in both");
  assert.deepEqual(cells.ranges.map(({ objects }) => objects), [1, 10, 0]);
  assert.throws(() => blocks.map({ maxRanges: 4 }), RangeError);
  for (const obj of [large, ...small]) blocks.free(obj);
});

test("map() of buffers and of a mixed pool", async () => {
  const buffers = new BufferAllocator();
  assert.deepEqual(buffers.map(), { totalBytes: 0, cellBytes: 0, ranges: [] });
  const [a, b] = [buffers.allocate(PAGE), buffers.allocate(2 * PAGE)];
  a.pin();
  assert.equal(words(buffers.map()), "pinned 1, used 2");
  a.unpin();
  buffers.free(a);
  assert.equal(words(buffers.map()), "used 2");
  buffers.free(b);
  await using mixed = await MixedMemoryAllocator.create({ sizeBytes: 4 * PAGE, pin: "none" });
  using _obj = mixed.allocate(PAGE);
  assert.equal(words(mixed.map()), "used 1, free 3");
});

test(
  "a published pool is seen by this user alone, is drawn again, and goes at the end",
  LONG,
  async () => {
    const name = `lmshm-test-publish-${process.pid}`;
    await using pool = await MixedMemoryAllocator.create({
      name,
      sizeBytes: 8 * PAGE,
      pin: "none",
    });
    using published = publishPool(pool, { intervalMs: 100 });
    const path = `/dev/shm${published.segmentName}`;
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const [seen] = ours(`/${name}`);
    assert.equal(seen!.live, true);
    assert.equal(seen!.pid, process.pid);
    assert.equal(seen!.kind, "blocks");
    assert.equal(seen!.board, published.segmentName);
    assert.equal(words(seen!.map), "free 8");
    using _obj = pool.allocate(3 * PAGE);
    using _buffer = pool.allocate({ shape: [100], format: "BINARY_BUFFER" });
    await eventually(
      "it is drawn again",
      () => words(ours(`/${name}`)[0]!.map) === "used 3, free 5",
    );
    assert.deepEqual(ours(`/${name}`)[0]!.buffers, { objects: 1, bytes: 100 });
    assert.equal(ours(`/${name}`)[0]!.stats.usedBytes, 3 * PAGE);
    published.close();
    published.close();
    published.update();
    assert.ok(!existsSync(path));
    assert.deepEqual(ours(`/${name}`), []);
  },
);

test("publishing ends with the pool, and with disposeAll()", LONG, async () => {
  const pool = await MixedMemoryAllocator.create({ sizeBytes: PAGE, pin: "none" });
  const published = publishPool(pool, { name: "lmshm-test-ends", intervalMs: 100 });
  await pool.close();
  await eventually("the map is gone", () => published.closed);
  assert.ok(!existsSync(`/dev/shm${published.segmentName}`));
  assert.throws(() => publishPool(pool), { code: "EBADF" });
  const buffers = publishPool(new BufferAllocator(), { name: "lmshm-test-all" });
  await disposeAll();
  assert.ok(!existsSync(`/dev/shm${buffers.segmentName}`));
  buffers.update();
  assert.ok(buffers.closed);
});

test("publishPool() says what is wrong with its arguments, and leaves nothing then", () => {
  const buffers = new BufferAllocator();
  const before = publishedPools().length;
  assert.throws(() => publishPool({} as BufferAllocator), TypeError);
  assert.throws(() => publishPool(buffers, { name: "" }), RangeError);
  assert.throws(() => publishPool(buffers, { name: 1 as unknown as string }), TypeError);
  assert.throws(() => publishPool(buffers, { name: "x".repeat(81) }), RangeError);
  assert.throws(() => publishPool(buffers, { intervalMs: 99 }), RangeError);
  assert.throws(() => publishPool(buffers, { intervalms: 1 } as object), /intervalMs/);
  assert.equal(publishedPools().length, before);
});

test("a board of the most ranges fits, and a damaged one is none", () => {
  const stats = new BufferAllocator().stats;
  const sizeBytes = 2 ** 40 + 4096;
  const ranges = Array.from({ length: 4096 }, (_, index) => ({
    offset: index * sizeBytes,
    sizeBytes,
    state: "inFlight" as const,
    objects: 1_000_000,
  }));
  const map = { totalBytes: 4096 * sizeBytes, cellBytes: 5 * sizeBytes, ranges };
  const board = {
    name: "Ä\u0000".repeat(40),
    pid: 1,
    kind: "pages" as const,
    segment: null,
    updatedMs: Date.now(),
    everyMs: 1000,
    stats,
    buffers: null,
    map,
  };
  const bytes = encodeBoard(board);
  assert.ok(bytes.length <= 192 * 1024, `${bytes.length}`);
  const padded = new Uint8Array(192 * 1024);
  padded.set(bytes);
  assert.deepEqual(decodeBoard(padded), board);
  for (const at of [0, 8, 12, 16, 1000]) {
    const damaged = padded.slice();
    damaged[at]! ^= 1;
    assert.equal(decodeBoard(damaged), null, `byte ${at}`);
  }
  for (let length = 0; length < 40; length++) {
    assert.equal(decodeBoard(bytes.subarray(0, length)), null);
  }
});

test("a publisher that is killed leaves a dead map, which shm gc removes", LONG, async () => {
  const name = `lmshm-test-killed-${process.pid}`;
  const [command, line] = fixtureCommand("pool_publisher.ts", name);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  const said = String((await once(child.stdout, "data"))[0]);
  const segment = /^PUBLISHED (\/\S+)/.exec(said)![1]!;
  try {
    const MiB = 2 ** 20;
    const [pool] = ours(name);
    assert.deepEqual(
      pool!.map.ranges.map(({ state, sizeBytes }) => `${state} ${sizeBytes / MiB}`),
      ["used 1", "free 1", "pinned 2", "inFlight 1", "free 3"],
    );
    assert.ok(pool!.live);
    process.kill(child.pid!, "SIGKILL");
    await gone;
    assert.equal(ours(name)[0]!.live, false, "it is seen that nobody draws it any more");
    const { code, stdout } = await lmshm("shm", "rm", segment);
    assert.equal(code, 0);
    assert.match(stdout, /removed \/lmshm-pool-/);
    assert.deepEqual(ours(name), []);
  } finally {
    rmSync(`/dev/shm${segment}`, { force: true });
  }
});

test("what looks like a map and is none is passed over", () => {
  const path = `/dev/shm/lmshm-pool-${process.pid}-none`;
  const before = publishedPools().length;
  try {
    writeFileSync(path, "lmshmap1 nonsense");
    assert.equal(publishedPools().length, before);
    rmSync(path);
    spawnSync("mkfifo", [path]);
    assert.equal(publishedPools().length, before, "nor does it wait for a writer");
  } finally {
    rmSync(path, { force: true });
  }
});
