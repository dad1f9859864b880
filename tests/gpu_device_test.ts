// SPDX-License-Identifier: Apache-2.0
//
// GPUs: what is told of them, opening, memory on them, and that nothing is left. With fake runtimes
// of each kind, in this process.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmSegment } from "../src/mod.ts";
import { type DeviceMemory, GpuDevice, gpuStatus, type HostMemory } from "../src/gpu/mod.ts";
import { shmError } from "./support/assertions.ts";
import {
  FakeGpu,
  type FakeKind,
  fakeLibrary,
  KINDS,
  LIBRARY_KIND,
  noFakes,
} from "./support/fake_gpu.ts";

const OPTIONS = { skip: noFakes || false, timeout: 60_000 } as const;
const MIB = 2 ** 20;

function each(name: string, body: (fake: FakeGpu, kind: FakeKind) => void | Promise<void>): void {
  for (const kind of KINDS) {
    test(`${name} (${kind})`, OPTIONS, async () => {
      using fake = new FakeGpu(kind);
      await body(fake, kind);
      fake.assertClean();
    });
  }
}

each("gpuStatus() tells of every device and makes no context", (fake, kind) => {
  fake.order("DEVICES", 3);
  fake.order("MEMORY", 5 * 2 ** 32);
  const status = gpuStatus({ gpuLibrary: fake.path });
  assert.ok(status.available);
  assert.equal(status.kind, LIBRARY_KIND[kind]);
  assert.equal(status.gpuLibrary, fake.path);
  assert.notEqual(status.driverVersion, "");
  assert.deepEqual(
    status.devices.map(({ index, name, memoryBytes, pciBusId }) => ({
      index,
      name,
      memoryBytes,
      pciBusId,
    })),
    [0, 1, 2].map((index) => ({
      index,
      name: `Fake GPU ${index}`,
      memoryBytes: 5 * 2 ** 32,
      pciBusId: `0000:0${index + 1}:00.0`,
    })),
  );
  assert.equal(status.devices[0]!.computeCapability, kind === "hip" ? "" : "9.0");
  assert.equal(fake.books().contextMask, 0);
});

each("without a device gpuStatus() says why and open() throws ENODEV", (fake, kind) => {
  fake.order("DEVICES", 0);
  const none = gpuStatus({ gpuLibrary: fake.path });
  assert.ok(!none.available);
  assert.match(none.reason, /counts no GPU/);
  fake.order("FAIL", "count:0:35");
  const old = gpuStatus({ gpuLibrary: fake.path });
  assert.ok(!old.available);
  assert.equal(old.gpuError, 35);
  assert.match(old.reason, kind === "cudart" ? /cudaErrorInsufficientDriver/ : /insufficient/);
  assert.throws(
    () => GpuDevice.open({ gpuLibrary: fake.path }),
    shmError("ENODEV", /insufficient/),
  );
  assert.equal(fake.books().contextMask, 0);
});

test("a library that is none is a reason, not a crash", { timeout: 60_000 }, () => {
  for (const gpuLibrary of ["/nowhere/libcudart.so", "libm.so.6", "/etc/passwd", "/"]) {
    const status = gpuStatus({ gpuLibrary });
    assert.ok(!status.available, gpuLibrary);
    assert.ok(status.reason.includes(gpuLibrary), status.reason);
    assert.throws(() => GpuDevice.open({ gpuLibrary }), shmError("ENODEV", /GPU/));
  }
});

test("HIP before version 6 can pin but not copy, and says so", OPTIONS, () => {
  using fake = new FakeGpu("hip");
  fake.order("HIP_VERSION", 50700000);
  // A path of its own: a library that is open stays so.
  const path = `${fakeLibrary("hip").replace("/libfake", "/./libfake")}`;
  const status = gpuStatus({ gpuLibrary: path });
  assert.ok(!status.available);
  assert.match(status.reason, /HIP 5\.7; copies need HIP 6/);
});

each("only the chosen device gets a context", async (fake) => {
  fake.order("DEVICES", 4);
  {
    using device = GpuDevice.open({ gpuLibrary: fake.path, device: 2 });
    assert.equal(device.index, 2);
    assert.equal(device.name, "Fake GPU 2");
    using buffer = device.alloc(MIB);
    assert.equal(buffer.device, 2);
    await using segment = await ShmSegment.create({
      sizeBytes: MIB,
      pin: "require",
      gpuLibrary: fake.path,
      gpuDevice: 2,
    });
    await using stream = device.createStream();
    using event = device.createEvent();
    stream.upload(buffer, segment.range());
    stream.record(event);
    await event.wait();
    assert.equal(device.memoryKind(segment.range()), "pinned");
    assert.equal(fake.books().contextMask, 1 << 2);
  }
  assert.equal(fake.books().contextMask, 1 << 2);
});

each("open() names a device that is not there", (fake) => {
  fake.order("DEVICES", 2);
  assert.throws(
    () => GpuDevice.open({ gpuLibrary: fake.path, device: 2 }),
    shmError("ENODEV", /no GPU 2: .* counts 2/),
  );
  for (const device of [-1, 1.5, NaN]) {
    assert.throws(() => GpuDevice.open({ gpuLibrary: fake.path, device }), RangeError);
  }
  assert.throws(() => GpuDevice.open({ gpuLibrary: fake.path, devise: 1 } as never), /devise/);
});

each("a segment pinned for a device that is not there says which", async (fake) => {
  await assert.rejects(
    ShmSegment.create({
      sizeBytes: MIB,
      pin: "require",
      gpuLibrary: fake.path,
      gpuDevice: 7,
    }),
    shmError("ENODEV", /no GPU 7/),
  );
});

each("memory is counted, and too much of it is ENOMEM", (fake) => {
  fake.order("MEMORY", 8 * MIB);
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  assert.deepEqual(device.memory(), { freeBytes: 8 * MIB, totalBytes: 8 * MIB });
  {
    using buffer = device.alloc(5 * MIB);
    assert.equal(buffer.sizeBytes, 5 * MIB);
    assert.equal(device.memory().freeBytes, 3 * MIB);
    assert.throws(() => device.alloc(4 * MIB), shmError("ENOMEM", /out of memory/));
    assert.throws(() => device.close(), shmError("EBUSY", /in use by 1: device buffer/));
  }
  assert.equal(device.memory().freeBytes, 8 * MIB);
  for (const size of [0, -1, 0.5, NaN]) assert.throws(() => device.alloc(size), RangeError);
});

each("freed memory is refused, and freeing is idempotent", (fake) => {
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  const buffer = device.alloc(4096);
  const range = buffer.range();
  using stream = device.createStream();
  buffer.free();
  buffer.free();
  buffer[Symbol.dispose]();
  assert.ok(buffer.closed);
  assert.throws(() => stream.fill(range), shmError("EBADF", /was freed/));
  assert.throws(() => buffer.hold("x"), shmError("EBADF", /was freed/));
});

each("ranges are checked", (fake) => {
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  using buffer = device.alloc(4096);
  assert.equal(buffer.range(96).byteLength, 4000);
  for (const [offset, length] of [[-1, 1], [0, 4097], [4096, 1], [1.5, 1], [0, -1]]) {
    assert.throws(() => buffer.range(offset, length), RangeError, `${offset} ${length}`);
  }
});

each("borrow() takes device memory and refuses host memory", async (fake) => {
  fake.order("DEVICES", 2);
  await using segment = await ShmSegment.create({ sizeBytes: 8192, gpuLibrary: fake.path });
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  using other = GpuDevice.open({ gpuLibrary: fake.path, device: 1 });
  using buffer = device.alloc(8192);
  using elsewhere = other.alloc(8192);
  {
    using borrowed = device.borrow(buffer.address + 4096n, 4096);
    assert.equal(borrowed.sizeBytes, 4096);
  }
  assert.equal(fake.books().deviceRanges, 2); // what was borrowed is not freed
  const refused = (address: bigint, words: RegExp) =>
    assert.throws(() => device.borrow(address, 4096), shmError("EFAULT", words));
  refused(segment.address, /pinned host memory, not memory of GPU 0/);
  refused(4096n, /pageable host memory/);
  refused(elsewhere.address, /memory of GPU 1/);
  refused(buffer.address + 4097n, /host memory/); // its last byte is beyond
  assert.throws(() => device.borrow(Number(buffer.address) as never, 4096), TypeError);
  assert.throws(() => device.borrow(-4096n, 4096), TypeError);
});

each("memoryKind() tells what the library knows", async (fake) => {
  await using pinned = await ShmSegment.create({
    sizeBytes: 3 * MIB,
    pin: "require",
    gpuLibrary: fake.path,
  });
  await using plain = await ShmSegment.create({ sizeBytes: MIB, pin: "none" });
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  using buffer = device.alloc(4096);
  using host = device.hostAlloc(4096);
  assert.equal(device.memoryKind(pinned.range()), "pinned");
  assert.equal(device.memoryKind(pinned.range(MIB + 1, 3)), "pinned");
  assert.equal(device.memoryKind(plain.range()), "pageable");
  assert.equal(device.memoryKind(buffer), "device");
  assert.equal(device.memoryKind(buffer.range(1, 1)), "device");
  assert.equal(device.memoryKind(host), "pinned");
  assert.equal(device.memoryKind(host.range(4095, 1)), "pinned");
  assert.throws(() => device.memoryKind({} as never), TypeError);
});

each("a host buffer's view is empty once it is freed", (fake) => {
  using device = GpuDevice.open({ gpuLibrary: fake.path });
  const host = device.hostAlloc(4096);
  const view = host.bytes;
  view[4095] = 9;
  assert.equal(host.bytes[4095], 9);
  host.free();
  assert.equal(view.length, 0);
  assert.throws(() => host.bytes, shmError("EBADF", /was freed/));
});

each(
  "a device that was closed makes nothing more, and ends when its last user does",
  async (fake) => {
    const device = GpuDevice.open({ gpuLibrary: fake.path });
    const buffer = device.alloc(4096);
    const stream = device.createStream();
    device[Symbol.dispose]();
    assert.ok(device.closed);
    assert.throws(() => device.alloc(1), shmError("EBADF", /was closed/));
    stream.fill(buffer, 1); // what there is goes on
    stream[Symbol.dispose]();
    buffer[Symbol.dispose]();
    device.close();
    await fake.settled();
  },
);

each("whatever call fails is a clear error, and nothing is left", async (fake) => {
  const steps: Record<string, (device: GpuDevice) => unknown> = {
    malloc: (device) => device.alloc(4096),
    hostalloc: (device) => device.hostAlloc(4096),
    stream: (device) => device.createStream(),
    event: (device) => device.createEvent(),
    info: (device) => device.memory(),
  };
  for (const [call, step] of Object.entries(steps)) {
    using device = GpuDevice.open({ gpuLibrary: fake.path });
    fake.order("FAIL", `${call}:0:719`);
    assert.throws(() => step(device), shmError("EIO", /719/), call);
    fake.order("FAIL", null);
  }
  await Promise.resolve();
});

/** Never run: what must not compile does not. */
export function _typesKeepHostAndDeviceApart(
  device: GpuDevice,
  segment: ShmSegment,
): void {
  const buffer = device.alloc(1);
  const stream = device.createStream();
  const onHost: HostMemory = segment.range();
  const onDevice: DeviceMemory = buffer.range();
  stream.upload(onDevice, onHost);
  // @ts-expect-error: a host range is no device memory
  stream.upload(onHost, onHost);
  // @ts-expect-error: device memory is no host range
  stream.upload(onDevice, onDevice);
  // @ts-expect-error: the target of a download is the host's
  stream.download(onDevice, onHost);
  // @ts-expect-error: an address is no memory
  stream.copy(buffer.address, onDevice);
  // @ts-expect-error: the same fields do not make a device range
  const forged: DeviceMemory = { buffer, offset: 0, byteLength: 1, device: 0 };
  // @ts-expect-error: a host buffer is no device buffer
  const swapped: DeviceMemory = device.hostAlloc(1);
  void [forged, swapped];
}
