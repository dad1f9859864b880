// SPDX-License-Identifier: Apache-2.0
//
// Views of a segment that the program has forgotten, and those that it has kept.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { effort } from "./support/effort.ts";
import { collectGarbage, liveHeapBytes } from "./support/gc.ts";
import { withoutLeaks } from "./support/leaks.ts";

const VIEWS = effort(100_000, 300_000);
const LIMIT = { timeout: 300_000 };

/** Looks at `count` different ranges of the segment, and collects now and then. */
async function lookAt(count: number, look: (index: number) => void): Promise<number> {
  let heapBytes = 0;
  for (let i = 0; i < count; i++) {
    look(i);
    if (i % 30_000 === 0) heapBytes = await liveHeapBytes();
  }
  return heapBytes;
}

for (const how of ["bytes", "view"] as const) {
  test(
    `views of ${how}() that are forgotten do not add up, and those that are kept are revoked`,
    LIMIT,
    () =>
      withoutLeaks(async () => {
        const segment = ShmSegment.createSync({ sizeBytes: VIEWS + 8, pin: "none" });
        const look = how === "bytes"
          ? (index: number) => segment.bytes(index, 8)
          : (index: number) => segment.view(index, 8).bytes;
        const kept = [look(11), look(12).subarray(1, 3), new DataView(look(13).buffer)];
        const before = await lookAt(1000, look);
        const growth = await lookAt(VIEWS, look) - before;
        assert.ok(growth < 80 * VIEWS, `${growth} bytes more`);
        segment.bytes(12, 2)[0] = 77;
        assert.equal((kept[1] as Uint8Array)[0], segment.bytes(13, 1)[0]);
        await segment.free();
        assert.equal((kept[0] as Uint8Array).length, 0);
        assert.equal((kept[1] as Uint8Array).length, 0);
        assert.throws(() => (kept[2] as DataView).byteLength, TypeError);
      }),
  );
}

test(
  "the same range gives the same array while somebody keeps it",
  LIMIT,
  () =>
    withoutLeaks(async () => {
      using segment = ShmSegment.createSync({ sizeBytes: 4096, pin: "none" });
      const array = segment.bytes(8, 16);
      const part = segment.bytes(32, 16).subarray(2);
      const collected = new WeakRef(segment.bytes(64, 16));
      await collectGarbage(() => collected.deref() === undefined);
      assert.equal(segment.bytes(8, 16), array);
      assert.equal(segment.bytes(32, 16).buffer, part.buffer, "and over the same buffer");
      assert.equal(segment.bytes(64, 16).length, 16);
      const moved = segment.bytes(8, 16).buffer.transfer();
      assert.notEqual(segment.bytes(8, 16), array, "one that was moved away is no use");
      assert.equal(new Uint8Array(moved).length, 16);
    }),
);

test("`using` revokes a view, and nothing else", LIMIT, () =>
  withoutLeaks(() => {
    using segment = ShmSegment.createSync({ sizeBytes: 4096, pin: "none" });
    const other = segment.view(0, 8);
    let bytes: Uint8Array;
    {
      using view = segment.view(0, 8);
      bytes = view.bytes;
      bytes[0] = 3;
    }
    assert.equal(bytes.length, 0);
    assert.equal(other.bytes[0], 3);
    assert.ok(other.valid);
  }));

test("a loop of `using` keeps nothing until the event loop turns", LIMIT, () =>
  withoutLeaks(() => {
    using segment = ShmSegment.createSync({ sizeBytes: 4096, pin: "none" });
    // What a weak reference is made to lives until the event loop turns, in either runtime.
    let weak = 0;
    const own = globalThis.WeakRef;
    globalThis.WeakRef = class<T extends WeakKey> extends own<T> {
      constructor(target: T) {
        super(target);
        weak++;
      }
    };
    try {
      for (let i = 0; i < 10_000; i++) {
        using view = segment.view(i % 1024, 8);
        view.bytes[0] = 1;
      }
    } finally {
      globalThis.WeakRef = own;
    }
    assert.equal(weak, 0);
  }));

test(
  "free() revokes every view that was not revoked, however many there are",
  LIMIT,
  () =>
    withoutLeaks(async () => {
      const segment = ShmSegment.createSync({ sizeBytes: 4096, pin: "none" });
      const views = Array.from({ length: 5000 }, (_, i) => segment.view(i % 4000, 8));
      for (const view of views.filter((_, i) => i % 3 === 0)) assert.ok(view.revoke());
      await segment.free();
      assert.ok(views.every((view) => !view.valid && view.bytes.length === 0));
    }),
);
