// SPDX-License-Identifier: Apache-2.0
//
// Streams: that copies do what they should and no more, that memory is held while they are in
// flight, and that waiting leaves the event loop alone. The fake carries copies out later, on
// threads, so whoever reads or frees too early is found out.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmSegment, TensorMemoryAllocator } from "../src/mod.ts";
import { type DeviceBuffer, GpuDevice, GpuEvent } from "../src/gpu/mod.ts";
import { shmError } from "./support/assertions.ts";
import { segmentInPieces } from "./support/fake_segment.ts";
import { FakeGpu, fillPattern, KINDS, noFakes } from "./support/fake_gpu.ts";
import { warningsOf } from "./support/warnings.ts";

const OPTIONS = { skip: noFakes || false, timeout: 60_000 } as const;
const KIB = 1024;
const MIB = 2 ** 20;

interface Bench {
  fake: FakeGpu;
  device: GpuDevice;
  segment: ShmSegment;
  buffer: DeviceBuffer;
}

function each(name: string, body: (bench: Bench) => Promise<void>): void {
  for (const kind of KINDS) {
    test(`${name} (${kind})`, OPTIONS, async () => {
      using fake = new FakeGpu(kind);
      fake.order("DEVICES", 2);
      {
        await using segment = await ShmSegment.create({
          sizeBytes: MIB,
          pin: "require",
          gpuLibrary: fake.path,
        });
        using device = GpuDevice.open({ gpuLibrary: fake.path });
        using buffer = device.alloc(MIB);
        await body({ fake, device, segment, buffer });
        await fake.settled();
      }
      fake.assertClean();
    });
  }
}

each("bytes go to the device and come back, at any offset", async ({ device, segment, buffer }) => {
  await using stream = device.createStream();
  const bytes = segment.bytes();
  fillPattern(bytes, 1);
  const before = bytes.slice();
  for (const [offset, length] of [[0, MIB], [1, 1], [4097, 70_001], [MIB - 3, 3]] as const) {
    stream.fill(buffer, 0xee);
    stream.upload(buffer.range(offset, length), segment.range(offset, length));
    await stream.synchronize();
    bytes.fill(0);
    stream.download(segment.range(), buffer);
    await stream.synchronize();
    for (let at = 0; at < MIB; at++) {
      const inside = at >= offset && at < offset + length;
      if (bytes[at] !== (inside ? before[at] : 0xee)) assert.fail(`byte ${at} at ${offset}`);
    }
    bytes.set(before);
  }
  assert.ok(!stream.busy);
});

each("copies of one stream keep their order", async ({ fake, device, segment, buffer }) => {
  fake.order("DELAY_US", 200);
  await using stream = device.createStream();
  using second = device.alloc(MIB);
  const bytes = segment.bytes();
  fillPattern(bytes, 2);
  const before = bytes.slice();
  // Each depends on the one before: nothing waits in between.
  stream.upload(buffer, segment.range());
  stream.copy(second, buffer);
  stream.fill(buffer, 0);
  stream.copy(buffer, second);
  stream.fill(second, 1);
  stream.download(segment.range(), buffer);
  assert.ok(stream.busy);
  await stream.synchronize();
  assert.deepEqual(bytes, before);
});

each("an event orders two streams", async ({ fake, device, segment, buffer }) => {
  fake.order("DELAY_US", 3000);
  await using first = device.createStream();
  await using second = device.createStream();
  using event = device.createEvent();
  assert.ok(event.reached()); // never recorded
  first.fill(buffer, 5);
  first.record(event);
  assert.ok(!event.reached());
  second.waitFor(event);
  second.download(segment.range(), buffer);
  await second.synchronize();
  assert.ok(event.reached());
  assert.ok(segment.bytes().every((byte) => byte === 5));
});

each("elapsed time is that of the device", async ({ fake, device, buffer }) => {
  fake.order("DELAY_US", 5000);
  await using stream = device.createStream();
  using start = device.createEvent({ timing: true });
  using end = device.createEvent({ timing: true });
  using plain = device.createEvent();
  stream.record(start);
  stream.fill(buffer, 1);
  stream.record(end);
  await end.wait();
  assert.ok(GpuEvent.elapsedMs(start, end) >= 5);
  assert.throws(() => GpuEvent.elapsedMs(start, plain), shmError("EINVAL", /without timing/));
});

each("memory is held until the device is through", async ({ fake, device, segment, buffer }) => {
  await using stream = device.createStream();
  fake.order("STUCK", 1);
  stream.upload(buffer, segment.range());
  await assert.rejects(segment.free(), shmError("EBUSY", /upload to GPU/));
  assert.throws(() => buffer.free(), shmError("EBUSY", /upload to GPU/));
  await assert.rejects(
    stream.synchronize({ timeoutMs: 30 }),
    shmError("ETIMEDOUT", /after 30 ms/),
  );
  await assert.rejects(segment.free(), shmError("EBUSY", /in flight/)); // waiting less frees nothing
  fake.order("STUCK", null);
  await stream.synchronize();
  assert.equal(fake.books().pending, 0);
  buffer.free();
});

each("a memory object is held, too", async ({ fake, device, segment, buffer }) => {
  await using stream = device.createStream();
  const allocator = new TensorMemoryAllocator(segment);
  const chunk = allocator.allocate(64 * KIB);
  fake.order("STUCK", 1);
  stream.download(chunk as never, buffer.range(0, 64 * KIB));
  assert.throws(() => chunk.refCountDown(), shmError("EBUSY", /download from GPU/));
  fake.order("STUCK", null);
  await stream.synchronize();
  chunk.refCountDown();
});

each("disposing in flight frees when the device is through", async (bench) => {
  const { fake, device, segment } = bench;
  fake.order("STUCK", 1);
  {
    using second = device.alloc(64 * KIB);
    using stream = device.createStream();
    stream.upload(second, segment.range(0, 64 * KIB));
    assert.ok(!stream.closed);
  }
  assert.equal(fake.books().deviceRanges, 2);
  assert.equal(fake.books().streams, 1);
  fake.order("STUCK", null);
  await fake.settled();
  assert.equal(fake.books().deviceRanges, 1);
  assert.equal(fake.books().streams, 0);
});

each("waiting leaves the event loop running", async ({ fake, device, buffer }) => {
  await using stream = device.createStream();
  fake.order("STUCK", 1);
  stream.fill(buffer, 1);
  let turns = 0;
  const timer = setInterval(() => {
    // Nobody else lets the device go on.
    if (++turns === 3) fake.order("STUCK", null);
  }, 5);
  await stream.synchronize();
  clearInterval(timer);
  assert.ok(turns >= 3);
});

each("waiting ends with its signal, and the work does not", async ({ fake, device, buffer }) => {
  await using stream = device.createStream();
  fake.order("STUCK", 1);
  stream.fill(buffer, 1);
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error("enough")), 10);
  await assert.rejects(stream.synchronize({ signal: controller.signal }), /enough/);
  await assert.rejects(stream.synchronize({ signal: AbortSignal.abort(new Error("no")) }), /no/);
  using event = device.createEvent();
  stream.record(event);
  const later = new AbortController();
  setTimeout(() => later.abort(new Error("late")), 10);
  await assert.rejects(event.wait({ signal: later.signal }), /late/);
  await assert.rejects(event.wait({ timeoutMs: 10 }), shmError("ETIMEDOUT", /10 ms/));
  for (const timeoutMs of [0, -1, NaN, 1e12]) {
    await assert.rejects(stream.synchronize({ timeoutMs }), RangeError);
  }
  assert.ok(stream.busy);
  fake.order("STUCK", null);
  await event.wait();
});

each("many copies from many callers all arrive", async ({ fake, device, segment, buffer }) => {
  await using stream = device.createStream();
  const bytes = segment.bytes();
  fillPattern(bytes, 3);
  const before = bytes.slice();
  await Promise.all(Array.from({ length: 256 }, async (_, index) => {
    const range = [index * 4096, 4096] as const;
    stream.upload(buffer.range(...range), segment.range(...range));
    await stream.synchronize();
    bytes.fill(0, range[0], range[0] + range[1]);
    stream.download(segment.range(...range), buffer.range(...range));
    await stream.synchronize();
  }));
  assert.deepEqual(bytes, before);
  // One event behind each turn's copies, not one behind each copy.
  assert.ok(fake.books().events <= 8, `${fake.books().events} events`);
});

each("rows are copied, and nothing between them", async ({ device, segment, buffer }) => {
  await using stream = device.createStream();
  const bytes = segment.bytes();
  const cases = [
    [{ rows: 5, widthBytes: 100 }, 128, 300],
    [{ rows: 1, widthBytes: 100 }, 100, 0],
    [{ rows: 7, widthBytes: 64 }, 64, 64],
    [{ rows: 0, widthBytes: 64 }, 64, 64],
    [{ rows: 3, widthBytes: 1 }, 4096, 1],
  ] as const;
  for (const [extent, hostPitch, devicePitch] of cases) {
    const { rows, widthBytes } = extent;
    fillPattern(bytes, 4);
    const before = bytes.slice();
    stream.fill(buffer, 0xee);
    stream.upload2D(
      { memory: buffer, pitchBytes: devicePitch },
      { memory: segment.range(0, 64 * KIB), pitchBytes: hostPitch },
      extent,
    );
    using second = device.alloc(MIB);
    stream.fill(second, 0xdd);
    stream.copy2D(
      { memory: second, pitchBytes: 2 * devicePitch },
      { memory: buffer, pitchBytes: devicePitch },
      extent,
    );
    stream.download2D(
      { memory: segment.range(128 * KIB, 64 * KIB), pitchBytes: hostPitch },
      { memory: second, pitchBytes: 2 * devicePitch },
      extent,
    );
    await stream.synchronize();
    for (let at = 0; at < 64 * KIB; at++) {
      const row = Math.floor(at / hostPitch);
      const copied = row < rows && at - row * hostPitch < widthBytes;
      const wanted = copied ? before[at] : before[128 * KIB + at];
      if (bytes[128 * KIB + at] !== wanted) assert.fail(`byte ${at} of ${rows} rows`);
    }
    stream.download(segment.range(256 * KIB, 64 * KIB), buffer.range(0, 64 * KIB));
    await stream.synchronize();
    for (let at = 0; at < 64 * KIB; at++) {
      const row = Math.min(rows - 1, devicePitch === 0 ? 0 : Math.floor(at / devicePitch));
      const inside = at - row * devicePitch;
      const wanted = rows > 0 && inside < widthBytes ? before[row * hostPitch + inside] : 0xee;
      if (bytes[256 * KIB + at] !== wanted) assert.fail(`byte ${at} on the device`);
    }
  }
});

each("rows that do not fit are refused before anything happens", async (bench) => {
  const { fake, device, segment, buffer } = bench;
  await using stream = device.createStream();
  const upload = (extent: object, hostPitch: number, devicePitch: number) => () =>
    stream.upload2D(
      { memory: buffer, pitchBytes: devicePitch },
      { memory: segment.range(), pitchBytes: hostPitch },
      extent as never,
    );
  assert.throws(upload({ rows: 2, widthBytes: 100 }, 99, 100), RangeError); // overlapping rows
  assert.throws(upload({ rows: 2, widthBytes: MIB }, MIB, MIB), /take 2097152/);
  assert.throws(upload({ rows: -1, widthBytes: 1 }, 1, 1), RangeError);
  assert.throws(upload({ rows: 1, widthBytes: 1.5 }, 2, 2), RangeError);
  assert.throws(upload({ rows: 1, widthBytes: 1, height: 2 }, 2, 2), /height/);
  assert.throws(upload({ rows: 2, widthBytes: 1 }, NaN, 2), RangeError);
  assert.equal(fake.books().copies, 0);
});

each("memory of the wrong kind, device or length is refused", async (bench) => {
  const { fake, device, segment, buffer } = bench;
  await using stream = device.createStream();
  using other = GpuDevice.open({ gpuLibrary: fake.path, device: 1 });
  using elsewhere = other.alloc(4096);
  using host = device.hostAlloc(4096);
  const part = buffer.range(0, 4096);
  const range = segment.range(0, 4096);
  const wrong: [() => void, RegExp][] = [
    [() => stream.upload(range as never, range), /target must be memory on a device/],
    [() => stream.upload(part, part as never), /source must be a range of a segment/],
    [() => stream.download(part as never, part), /target must be a range of a segment/],
    [() => stream.download(range, host as never), /source must be memory on a device/],
    [() => stream.copy(range as never, part), /target must be memory on a device/],
    [() => stream.fill(host as never), /target must be memory on a device/],
    [() => stream.upload(part, { ...range, segment: {} } as never), /segment/],
    [() => stream.upload(part, undefined as never), /source must be/],
    [() => stream.upload(part, segment.range(0, 4095)), /4096 bytes and the source 4095/],
    [() => stream.upload(part, { ...range, byteLength: 2 * MIB }), /beyond/],
    [() => stream.upload(part, { ...range, offset: -4096 }), /offset/],
    [() => stream.upload(elsewhere, range), /on GPU 1, and the stream on GPU 0/],
    [() => stream.download(range, elsewhere), /on GPU 1, and the stream on GPU 0/],
    [() => stream.fill(elsewhere), /on GPU 1/],
    [() => stream.fill(buffer, 256), /value/],
    [() => stream.fill(buffer, -1), /value/],
  ];
  for (const [call, words] of wrong) {
    assert.throws(call, (error: Error) => {
      assert.ok(error instanceof TypeError || error instanceof RangeError, String(error));
      assert.match(error.message, words);
      return true;
    });
  }
  assert.equal(fake.books().copies, 0);
  assert.ok(!stream.busy);
});

each("copies go between two devices", async ({ fake, device, segment, buffer }) => {
  using other = GpuDevice.open({ gpuLibrary: fake.path, device: 1 });
  using elsewhere = other.alloc(MIB);
  await using stream = device.createStream();
  const bytes = segment.bytes();
  fillPattern(bytes, 5);
  const before = bytes.slice();
  stream.upload(buffer, segment.range());
  stream.copy(elsewhere, buffer);
  stream.fill(buffer, 0);
  stream.copy(buffer, elsewhere);
  stream.download(segment.range(), buffer);
  await stream.synchronize();
  assert.deepEqual(bytes, before);
  const rows = { rows: 2, widthBytes: 1 };
  assert.throws(
    () =>
      stream.copy2D(
        { memory: elsewhere, pitchBytes: 2 },
        { memory: buffer, pitchBytes: 2 },
        rows,
      ),
    /within one device/,
  );
});

each("a host buffer copies as a segment does", async ({ device, buffer }) => {
  using host = device.hostAlloc(64 * KIB);
  await using stream = device.createStream();
  fillPattern(host.bytes, 6);
  const before = host.bytes.slice();
  stream.upload(buffer.range(0, 64 * KIB), host);
  await stream.synchronize();
  host.bytes.fill(0);
  stream.download(host.range(1, 1000), buffer.range(1, 1000));
  await stream.synchronize();
  assert.deepEqual(host.bytes.subarray(1, 1001), before.subarray(1, 1001));
  assert.equal(host.bytes[1001], 0);
});

each("what was refused is told, and the stream goes on", async (bench) => {
  const { fake, device, segment, buffer } = bench;
  await using stream = device.createStream();
  for (const call of ["copy", "copy2d", "memset"]) {
    fake.order("FAIL", `${call}:0:1`);
    const rows = { rows: 2, widthBytes: 8 };
    const host = { memory: segment.range(), pitchBytes: 16 };
    assert.throws(() => {
      if (call === "copy") stream.upload(buffer, segment.range());
      else if (call === "memset") stream.fill(buffer);
      else stream.upload2D({ memory: buffer, pitchBytes: 8 }, host, rows);
    }, shmError("EINVAL", /invalid argument/));
    fake.order("FAIL", null);
  }
  stream.upload(buffer, segment.range());
  await stream.synchronize();
});

each("a device that fails ends the stream with its error", async (bench) => {
  const { fake, device, segment, buffer } = bench;
  const stream = device.createStream();
  stream.upload(buffer, segment.range());
  fake.order("FAIL", "query:0:719");
  await assert.rejects(stream.synchronize(), shmError("EIO", /719/));
  await assert.rejects(stream.synchronize(), shmError("EIO", /719/)); // from then on
  assert.throws(() => stream.fill(buffer), shmError("EIO", /719/));
  fake.order("FAIL", null);
  await assert.rejects(stream.close(), shmError("EIO", /719/));
  await stream.close().catch(() => {});
  const again = device.createStream();
  fake.order("FAIL", "record:0:700");
  again.upload(buffer, segment.range());
  await assert.rejects(again.synchronize(), shmError("EIO", /700/));
  fake.order("FAIL", null);
  await again.close().catch(() => {});
});

each("a closed stream takes nothing, and closing twice is fine", async (bench) => {
  const { device, segment, buffer } = bench;
  const stream = device.createStream();
  stream.upload(buffer, segment.range());
  await Promise.all([stream.close(), stream.close()]);
  stream[Symbol.dispose]();
  assert.ok(stream.closed);
  assert.throws(() => stream.fill(buffer), shmError("EBADF", /was closed/));
  assert.throws(() => stream.record(undefined as never), shmError("EBADF", /was closed/));
});

each(
  "a hold() of the user's that fails stops no other copy",
  async ({ device, segment, buffer }) => {
    await using stream = device.createStream();
    const { offset, byteLength } = segment.range(0, 4096);
    const own = (hold: () => unknown) => ({
      segment,
      offset,
      byteLength,
      hold: hold as () => () => void,
    });
    const warnings = await warningsOf(async () => {
      stream.upload(
        buffer.range(0, 4096),
        own(() => () => {
          throw new Error("from release");
        }),
      );
      stream.upload(buffer.range(4096, 4096), segment.range(4096, 4096));
      await stream.synchronize();
    });
    assert.deepEqual(warnings, ["the end of a hold() failed: from release"]);
    assert.throws(() => stream.upload(buffer.range(0, 4096), own(() => undefined)), TypeError);
    stream.upload(buffer.range(0, 4096), segment.range(0, 4096));
    await stream.synchronize();
    assert.ok(!stream.busy);
  },
);

test("copies do not cross from one registration into the next", OPTIONS, async () => {
  using fake = new FakeGpu("driver");
  {
    // As a pool of more than 64 GiB would be, in small: the fake refuses what crosses.
    await using segment = segmentInPieces(4 * MIB, MIB);
    using device = GpuDevice.open({ gpuLibrary: fake.path });
    using buffer = device.alloc(4 * MIB);
    await using stream = device.createStream();
    fillPattern(segment.bytes(), 7);
    const before = segment.bytes().slice();
    const copies = () => fake.books().copies;
    stream.upload(buffer, segment.range());
    await stream.synchronize();
    assert.equal(copies(), 4);
    segment.bytes().fill(0);
    stream.download(segment.range(MIB - 1, MIB + 2), buffer.range(MIB - 1, MIB + 2));
    await stream.synchronize();
    assert.equal(copies(), 7);
    assert.deepEqual(
      segment.bytes().subarray(MIB - 1, 2 * MIB + 1),
      before.subarray(MIB - 1, 2 * MIB + 1),
    );
    // Rows: at once where they lie in one piece, row by row where they do not.
    const extent = { rows: 3, widthBytes: 10 };
    const rows = (offset: number) => ({ memory: segment.range(offset, MIB), pitchBytes: 100 });
    stream.upload2D({ memory: buffer, pitchBytes: 10 }, rows(0), extent);
    await stream.synchronize();
    assert.equal(copies(), 8);
    stream.upload2D({ memory: buffer, pitchBytes: 10 }, rows(MIB - 105), extent);
    await stream.synchronize();
    assert.equal(copies(), 8 + 4); // the second of the three rows lies across
  }
  fake.assertClean();
});

each("a library without a free event lets no memory go early", async (bench) => {
  const { fake, device, segment, buffer } = bench;
  await using stream = device.createStream();
  fake.order("STUCK", "1");
  fake.order("FAIL", "event:0:2");
  stream.upload(buffer, segment.range());
  await new Promise((resolve) => setTimeout(resolve, 10));
  stream.download(segment.range(0, KIB), buffer.range(0, KIB));
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.throws(() => buffer.free(), shmError("EBUSY", /copies in flight: upload.*, download/));
  assert.throws(() => segment.freeSync(), shmError("EBUSY", /upload/));
  const waiting = stream.synchronize();
  fake.order("STUCK", null);
  await waiting;
  assert.equal(fake.books().copies, 2);
  assert.ok(!stream.busy);
  fake.order("FAIL", null);
});
