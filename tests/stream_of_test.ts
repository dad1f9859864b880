// SPDX-License-Identifier: Apache-2.0
//
// streamOf(): what it gives, and how long it holds what it gives it from.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { test } from "node:test";
import { BufferAllocator, MixedMemoryAllocator, ShmSegment, streamOf } from "../src/mod.ts";
import { withoutLeaks } from "./support/leaks.ts";
import { shmError } from "./support/assertions.ts";
import { eventually } from "./support/worker.ts";

const SIZE = 1_000_003;

function fill(bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; at++) bytes[at] = at % 251;
}

async function collect(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function pool(): Promise<MixedMemoryAllocator> {
  return MixedMemoryAllocator.create({ sizeBytes: 4 * 2 ** 20, pin: "none" });
}

test("streamOf() gives the bytes of an object, and frees it after the last one", {
  timeout: 30_000,
}, () =>
  withoutLeaks(async () => {
    await using allocator = await pool();
    const obj = allocator.allocate(SIZE);
    fill(obj.bytes);
    const expected = obj.bytes.slice();
    const stream = streamOf(obj, { pieceBytes: 65_536 });
    obj.refCountDown();
    assert.ok(obj.valid, "the stream has a reference of its own");
    assert.deepEqual(await collect(stream), expected);
    assert.ok(!obj.valid);
    assert.equal(allocator.pinAllocator.stats.usedBytes, 0);
  }));

test("streamOf() gives a part of it, in pieces that are copies", { timeout: 30_000 }, async () => {
  await using allocator = await pool();
  using obj = allocator.allocate(SIZE);
  fill(obj.bytes);
  const reader = streamOf(obj, { offset: 1000, byteLength: 2500, pieceBytes: 1000 }).getReader();
  const pieces: Uint8Array[] = [];
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    pieces.push(read.value);
  }
  assert.deepEqual(pieces.map(({ length }) => length), [1000, 1000, 500]);
  obj.bytes.fill(255);
  const got = Array.from(pieces[2]!);
  assert.deepEqual(got, Array.from({ length: 500 }, (_, at) => (3000 + at) % 251));
});

test("streamOf() a range holds its segment until the stream is cancelled", {
  timeout: 30_000,
}, async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 2 ** 20, pin: "none" });
  const reader = streamOf(segment.range(4096, 2 ** 19), { pieceBytes: 4096 }).getReader();
  await reader.read();
  await assert.rejects(segment.free(), shmError("EBUSY", /1 operations in flight: stream/));
  await reader.cancel();
  await segment.free();
});

test(
  "streamOf() holds what nobody reads until its signal ends it",
  { timeout: 30_000 },
  async () => {
    await using segment = await ShmSegment.create({ sizeBytes: 2 ** 20, pin: "none" });
    const controller = new AbortController();
    const reader = streamOf(segment.range(), { signal: controller.signal }).getReader();
    await reader.read();
    controller.abort(new Error("too slow"));
    await assert.rejects(reader.read(), /too slow/);
    await segment.free();
    assert.throws(() => streamOf(segment.range(), { signal: controller.signal }));
  },
);

test("streamOf() of nothing ends at once and holds nothing", { timeout: 30_000 }, async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  assert.equal((await collect(streamOf(segment.range(0, 0)))).length, 0);
  await segment.free();
});

test("streamOf() takes an object in ordinary memory, too", { timeout: 30_000 }, async () => {
  const allocator = new BufferAllocator();
  const obj = allocator.allocate({ shape: [5000], dtype: "uint8", format: "BINARY_BUFFER" });
  fill(obj.bytes);
  const expected = obj.bytes.slice();
  const stream = streamOf(obj);
  obj.refCountDown();
  assert.deepEqual(await collect(stream), expected);
  assert.ok(!obj.valid);
});

test("streamOf() refuses what it cannot give", { timeout: 30_000 }, async () => {
  await using allocator = await pool();
  const obj = allocator.allocate(4096);
  assert.throws(() => streamOf(obj, { offset: 4000, byteLength: 97 }), RangeError);
  assert.throws(() => streamOf(obj, { pieceBytes: 0 }), RangeError);
  assert.throws(() => streamOf(obj, { signal: 5 as never }), TypeError);
  assert.throws(() => streamOf(obj, { lenght: 5 } as never), TypeError);
  obj.refCountDown();
  assert.throws(() => streamOf(obj), shmError("EFREED"));
});

test("new Response(view) has copied the view when it returns", { timeout: 30_000 }, async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  const bytes = segment.bytes(0, 4096);
  bytes.fill(1);
  const response = new Response(bytes);
  bytes.fill(2);
  assert.ok(new Uint8Array(await response.arrayBuffer()).every((byte) => byte === 1));
});

/** A server of this runtime that answers every request with `answer`. */
function serve(answer: () => Response): { port: number; stop: () => Promise<void> } {
  if ("Deno" in globalThis) {
    const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, answer);
    return { port: server.addr.port, stop: () => server.shutdown() };
  }
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  return { port: server.port!, stop: () => server.stop(true) };
}

test(
  "streamOf() as the body of a Response lets go when all is sent, and when the client goes away",
  {
    timeout: 60_000,
  },
  async () => {
    await using allocator = await MixedMemoryAllocator.create({
      sizeBytes: 64 * 2 ** 20,
      pin: "none",
    });
    using obj = allocator.allocate(48 * 2 ** 20);
    fill(obj.bytes.subarray(0, SIZE));
    const server = serve(() => new Response(streamOf(obj)));
    try {
      // A client that reads a little, and then no more: the rest does not fit into what sockets buffer.
      const client = connect(server.port, "127.0.0.1");
      client.write("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
      await once(client, "readable");
      assert.equal(obj.inFlight, 1);
      client.destroy();
      await eventually("a client that has gone holds nothing", () => obj.inFlight === 0);
      assert.equal(obj.refCount, 1);
      const answer = await fetch(`http://127.0.0.1:${server.port}/`);
      const got = new Uint8Array(await answer.arrayBuffer());
      assert.equal(got.length, obj.byteLength);
      assert.deepEqual(got.subarray(0, SIZE), obj.bytes.subarray(0, SIZE));
      await eventually("nothing is held", () => obj.inFlight === 0);
    } finally {
      await server.stop();
    }
  },
);
