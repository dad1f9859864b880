// SPDX-License-Identifier: Apache-2.0
//
// Segments as large as a test wants, without memory behind them: for allocators whose books are the
// question. Nobody may look at their bytes.

import { INTERNAL } from "../../src/internal.ts";
import { type ShmRange, ShmSegment } from "../../src/memory/segment.ts";
import { lmshm } from "../../src/native/lmshm.ts";
import type { NativeSegment, SegmentFacts } from "../../src/native/native_segment.ts";

/** A range [offset, offset + byteLength) of a segment of `sizeBytes`. */
export type FakeRange = (sizeBytes: number, offset?: number, byteLength?: number) => ShmRange;

type Make = new (
  token: typeof INTERNAL,
  request: { name: null },
  native: NativeSegment,
) => ShmSegment;

/** A segment over memory that was opened otherwise. */
function segmentOver(native: NativeSegment): ShmSegment {
  const make = ShmSegment as unknown as Make;
  return new make(INTERNAL, { name: null }, native);
}

/** An anonymous segment that says it is registered with the GPU in pieces. */
export function segmentInPieces(sizeBytes: number, pinPieceBytes: number): ShmSegment {
  const native = lmshm().openSync({
    kind: "anonymous",
    name: null,
    sizeBytes,
    ifExists: "reclaim",
    pin: "none",
    pages: "default",
    numa: null,
    populateThreads: 0,
    fd: null,
    gpuLibrary: null,
    gpuDevice: null,
  });
  return segmentOver({
    facts: { ...native.facts, pinPieceBytes },
    close: (keepRange) => native.close(keepRange),
    closeSync: (keepRange) => native.closeSync(keepRange),
    reserveWindow: (at, bytes) => native.reserveWindow(at, bytes),
    mapWindow: (offset, bytes, at) => native.mapWindow(offset, bytes, at),
    unmapWindow: (at, bytes) => native.unmapWindow(at, bytes),
    wait: (offset, expected, timeoutMs) => native.wait(offset, expected, timeoutMs),
    waitForOwner: (timeoutMs) => native.waitForOwner(timeoutMs),
    notify: (offset, count) => native.notify(offset, count),
  });
}

function fakeSegment(sizeBytes: number): ShmSegment {
  const nothing = () => {
    throw new Error("a fake segment has no memory");
  };
  const facts = { address: 0x7000_0000_0000n, sizeBytes, owner: false, fd: null, pageBytes: 4096 };
  const native: NativeSegment = {
    facts: facts as unknown as SegmentFacts,
    close: () => Promise.resolve(),
    closeSync: () => {},
    reserveWindow: nothing,
    mapWindow: nothing,
    unmapWindow: nothing,
    wait: nothing,
    waitForOwner: nothing,
    notify: nothing,
  };
  return segmentOver(native);
}

/**
 * A test body that gets ranges of fake segments. They are closed at its end, so that objects it
 * leaves behind are not reported as lost.
 */
export function withFakes(body: (fakeRange: FakeRange) => void): () => void {
  return () => {
    const fakes: ShmSegment[] = [];
    try {
      body((sizeBytes, offset = 0, byteLength = sizeBytes - offset) => {
        const fake = fakeSegment(sizeBytes);
        fakes.push(fake);
        return fake.range(offset, byteLength);
      });
    } finally {
      for (const fake of fakes) fake.freeSync();
    }
  };
}
