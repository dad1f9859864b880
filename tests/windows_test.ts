// SPDX-License-Identifier: Apache-2.0
//
// The addresses of windows: how they are cut from slabs, and when they are used again.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { lmshm } from "../src/native/lmshm.ts";
import type { NativeSegment, OpenRequest } from "../src/native/native_segment.ts";
import { ffi } from "../src/native/ffi.ts";
import { type Window, Windows } from "../src/memory/windows.ts";
import { withoutLeaks } from "./support/leaks.ts";

const PAGE = 4096;
const MIB = 2 ** 20;
const LIMITS = { slabBytes: 16 * PAGE, reservedBytes: 32 * PAGE, maxWindows: 40 };

const REQUEST: OpenRequest = {
  kind: "anonymous",
  name: null,
  sizeBytes: 4 * MIB,
  ifExists: "reclaim",
  pin: "none",
  pages: "default",
  numa: null,
  populateThreads: 1,
  fd: null,
  gpuLibrary: null,
  gpuDevice: null,
};

/** A test with a segment of 4 MiB. */
function windowTest(name: string, body: (native: NativeSegment) => void): void {
  test(name, { timeout: 60_000 }, () =>
    withoutLeaks(() => {
      const native = lmshm().openSync(REQUEST);
      try {
        body(native);
      } finally {
        native.closeSync(false);
      }
    }));
}

function bytesOf(window: Window, byteLength: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(ffi.arrayBuffer(window.address, byteLength));
}

function open(windows: Windows, native: NativeSegment, offset: number, byteLength: number): Window {
  const window = windows.open(native, offset, byteLength);
  assert.ok(window !== null);
  return window;
}

windowTest("a window shows the segment's bytes, until it is closed", (native) => {
  const whole = new Uint8Array(ffi.arrayBuffer(native.facts.address, 4 * MIB));
  const windows = new Windows();
  for (const [offset, byteLength] of [[0, 4 * MIB], [5000, 10], [4095, 2], [3 * MIB, MIB]]) {
    const window = open(windows, native, offset!, byteLength!);
    const bytes = bytesOf(window, byteLength!);
    whole[offset!] = 5;
    assert.equal(bytes[0], 5);
    bytes[byteLength! - 1] = 6;
    assert.equal(whole[offset! + byteLength! - 1], 6);
    assert.equal(window.close(true), true);
    assert.ok(bytes.every((byte) => byte === 0));
    bytes.fill(9);
    assert.equal(whole[offset! + byteLength! - 1], 6);
    whole.fill(0);
  }
});

windowTest("addresses are used again late, and the oldest first", (native) => {
  const windows = new Windows(LIMITS);
  const addresses: bigint[] = [];
  for (let i = 0; i < 64; i++) {
    const window = open(windows, native, i * PAGE, PAGE);
    addresses.push(window.address);
    assert.ok(window.close(true));
  }
  assert.equal(new Set(addresses).size, addresses.findIndex((at, i) => addresses.indexOf(at) < i));
  assert.ok(new Set(addresses).size >= 30, "all that was reserved");
  assert.equal(addresses[32], addresses[0]);
});

windowTest("addresses are not used again while a buffer may have them", (native) => {
  const windows = new Windows(LIMITS);
  const escaped = open(windows, native, 0, PAGE);
  assert.ok(escaped.close(false));
  const kept = bytesOf(escaped, PAGE);
  for (let i = 0; i < 100; i++) {
    const window = windows.open(native, i * PAGE, PAGE);
    if (window === null) continue;
    bytesOf(window, PAGE).fill(1);
    assert.ok(window.close(true));
  }
  assert.ok(kept.every((byte) => byte === 0));
});

test(
  "all threads of a process share the number of windows",
  { timeout: 60_000 },
  () =>
    withoutLeaks(() => {
      const native = lmshm().openSync(REQUEST);
      const all: Window[] = [];
      // Each thread has one of these.
      for (const windows of [new Windows(), new Windows()]) {
        for (let i = 0; i < 10_000; i++) {
          const window = windows.open(native, 0, PAGE);
          if (window === null) break;
          all.push(window);
        }
      }
      const opened = all.length;
      const closed = all.every((window) => window.close(true));
      const again = open(new Windows(), native, 0, PAGE).close(true);
      native.closeSync(false);
      assert.ok(opened >= 10_000 && opened <= 16_384, `${opened} at a time`);
      assert.ok(closed && again);
    }),
);

windowTest(
  "what is around a buffer that escaped is used again, and the buffer's own is not",
  (native) => {
    const windows = new Windows({ ...LIMITS, reservedBytes: 256 * PAGE });
    const escaped: Uint8Array[] = [];
    for (let i = 0; i < 2000; i++) {
      const window = windows.open(native, i % 100 * PAGE, PAGE);
      assert.ok(window !== null, `there is none after ${i}`);
      bytesOf(window, PAGE).fill(1);
      assert.ok(window.close(i % 15 !== 0));
      if (i % 15 === 0) escaped.push(bytesOf(window, PAGE).fill(2));
    }
    assert.ok(escaped.every((bytes) => bytes.every((byte) => byte === 2)));
  },
);

windowTest("a window that the system refuses costs nothing", (native) => {
  const windows = new Windows({ ...LIMITS, reservedBytes: LIMITS.slabBytes });
  let refused = 0;
  const refusing = Object.create(native, {
    mapWindow: { value: () => refused++ < 0 },
    reserveWindow: { value: native.reserveWindow.bind(native) },
    facts: { value: native.facts },
  }) as NativeSegment;
  const before = open(windows, native, 0, PAGE);
  for (let i = 0; i < 100; i++) assert.equal(windows.open(refusing, 0, PAGE), null);
  assert.equal(refused, 100);
  const after = open(windows, native, PAGE, PAGE);
  assert.equal(after.address - before.address, BigInt(PAGE));
  for (const window of [before, after]) assert.ok(window.close(true));
});

windowTest("there are so many windows and so much address space, and no more", (native) => {
  const few = new Windows({ ...LIMITS, maxWindows: 3 });
  const three = [0, 1, 2].map((page) => open(few, native, page * PAGE, PAGE));
  assert.equal(few.open(native, 0, PAGE), null);
  three[1]!.close(true);
  three[1] = open(few, native, 0, PAGE);
  for (const window of three) window.close(true);

  const windows = new Windows(LIMITS);
  const all: Window[] = [];
  for (let window; (window = windows.open(native, 0, PAGE)) !== null;) all.push(window);
  assert.ok(all.length >= 30 && all.length <= 32, `${all.length}`);
  for (const window of all) window.close(true);
  open(windows, native, 0, PAGE).close(true);
});

windowTest("a window of 2 MiB and more can have huge pages", (native) => {
  const windows = new Windows();
  open(windows, native, 0, PAGE).close(true);
  const window = open(windows, native, MIB, 2 * MIB);
  assert.equal(window.address % BigInt(2 * MIB), BigInt(MIB));
  window.close(true);
});

test(
  "free() takes back the views of objects that are still allocated",
  { timeout: 60_000 },
  () =>
    withoutLeaks(async () => {
      const { TensorMemoryAllocator } = await import("../src/memory/tensor_allocator.ts");
      const segment = ShmSegment.createSync({ sizeBytes: MIB, pin: "none" });
      const pool = new TensorMemoryAllocator(segment);
      const obj = pool.allocate(PAGE);
      const { bytes } = obj;
      const moved = pool.allocate(PAGE);
      const elsewhere = new Uint8Array(moved.bytes.buffer.transfer());
      elsewhere[0] = 1;
      await segment.free();
      assert.equal(bytes.length, 0);
      assert.equal(elsewhere[0], 0);
    }),
);
