// SPDX-License-Identifier: Apache-2.0
//
// Segments as large as a test wants, without memory behind them: for allocators whose books are the
// question. Views are small buffers of their own.

import type { ShmRange, ShmSegment } from "../../src/memory/segment.ts";
import { ShmView } from "../../src/memory/view.ts";

/** A range [offset, offset + byteLength) of a segment of `sizeBytes`. */
export type FakeRange = (sizeBytes: number, offset?: number, byteLength?: number) => ShmRange;

/**
 * A test body that gets ranges of fake segments. They are closed at its end, so that objects it
 * leaves behind are not reported as lost.
 */
export function withFakes(body: (fakeRange: FakeRange) => void): () => void {
  return () => {
    const fakes: { closed: boolean }[] = [];
    const hold = () => () => {};
    try {
      body((sizeBytes, offset = 0, byteLength = sizeBytes - offset) => {
        const fake = {
          sizeBytes,
          address: 0x7000_0000_0000n,
          closed: false,
          view: (at: number) => new ShmView(new ArrayBuffer(8), at, () => {}),
          hold,
        };
        fakes.push(fake);
        return { segment: fake as unknown as ShmSegment, offset, byteLength, hold };
      });
    } finally {
      for (const fake of fakes) fake.closed = true;
    }
  };
}
