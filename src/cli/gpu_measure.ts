// SPDX-License-Identifier: Apache-2.0
//
// Copies between a device and three kinds of host memory: a pinned segment, what the GPU's library
// page-locks itself, and an unpinned segment. The contenders take turns, so that what disturbs one
// disturbs all; a sample is several copies between two events of the device; medians are reported.

import { ShmSegment } from "../mod.ts";
import { type DeviceBuffer, GpuDevice, GpuEvent, type GpuStream } from "../gpu/mod.ts";
import type { HostMemory } from "../gpu/mod.ts";

const CONTENDERS = ["pool", "hostAlloc", "unpinned"] as const;
export type Contender = (typeof CONTENDERS)[number];
const WAYS = ["to-device", "to-host"] as const;
export type Way = (typeof WAYS)[number];

interface Sampled {
  /** Of all samples, decimal MB a second. */
  readonly medianMBs: number;
  readonly lowestMBs: number;
  readonly highestMBs: number;
}

export interface CopyResult {
  readonly bytes: number;
  readonly way: Way;
  readonly rates: Readonly<Record<Contender, Sampled>>;
  readonly poolToHostAlloc: number;
  readonly poolToUnpinned: number;
}

interface MeasureOptions {
  /** Ascending. */
  readonly sizes: readonly number[];
  readonly repeat: number;
  readonly signal: AbortSignal;
}

/** Bytes of a sample, at least: less is a measurement of the start of a copy. */
const SAMPLE_BYTES = 64e6;
const WAIT = { timeoutMs: 60_000 } as const;

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function summary(rates: readonly number[]): Sampled {
  return {
    medianMBs: median(rates),
    lowestMBs: Math.min(...rates),
    highestMBs: Math.max(...rates),
  };
}

interface Bench {
  readonly stream: GpuStream;
  readonly start: GpuEvent;
  readonly end: GpuEvent;
  readonly target: DeviceBuffer;
  readonly signal: AbortSignal;
}

/** One sample, in MB/s: copies of `bytes` each, one after another through the host memory. */
async function sample(
  bench: Bench,
  way: Way,
  host: (offset: number) => HostMemory,
  room: number,
  bytes: number,
): Promise<number> {
  const { stream, start, end, target, signal } = bench;
  const copies = Math.max(1, Math.ceil(SAMPLE_BYTES / bytes));
  const slots = Math.max(1, Math.floor(room / bytes));
  stream.record(start);
  for (let copy = 0; copy < copies; copy++) {
    const offset = (copy % slots) * bytes;
    const memory = host(offset);
    const device = target.range(offset, bytes);
    if (way === "to-device") stream.upload(device, memory);
    else stream.download(memory, device);
  }
  stream.record(end);
  await stream.synchronize({ ...WAIT, signal });
  const milliseconds = GpuEvent.elapsedMs(start, end);
  return copies * bytes / 1000 / Math.max(milliseconds, 1e-3);
}

/** Measures on a pinned segment; `onResult` is called after each size and way. */
export async function measureCopies(
  device: GpuDevice,
  pool: ShmSegment,
  options: MeasureOptions,
  onResult: (result: CopyResult) => void,
): Promise<CopyResult[]> {
  const { sizes, repeat, signal } = options;
  const room = pool.sizeBytes;
  await using unpinned = await ShmSegment.create({ sizeBytes: room, pin: "none", signal });
  using hostBuffer = device.hostAlloc(room);
  using target = device.alloc(room);
  using start = device.createEvent({ timing: true });
  using end = device.createEvent({ timing: true });
  await using stream = device.createStream();
  const bench = { stream, start, end, target, signal };
  const hosts = (bytes: number): Record<Contender, (offset: number) => HostMemory> => ({
    pool: (offset) => pool.range(offset, bytes),
    hostAlloc: (offset) => hostBuffer.range(offset, bytes),
    unpinned: (offset) => unpinned.range(offset, bytes),
  });
  const results: CopyResult[] = [];
  for (const bytes of sizes) {
    const memory = hosts(bytes);
    for (const way of WAYS) {
      const rates: Record<Contender, number[]> = { pool: [], hostAlloc: [], unpinned: [] };
      // The first round warms up, and is not counted.
      for (let round = 0; round <= repeat; round++) {
        for (let turn = 0; turn < CONTENDERS.length; turn++) {
          const contender = CONTENDERS[(round + turn) % CONTENDERS.length]!;
          const rate = await sample(bench, way, memory[contender], room, bytes);
          if (round > 0) rates[contender].push(rate);
        }
      }
      const medians = {
        pool: summary(rates.pool),
        hostAlloc: summary(rates.hostAlloc),
        unpinned: summary(rates.unpinned),
      };
      const result = {
        bytes,
        way,
        rates: medians,
        poolToHostAlloc: medians.pool.medianMBs / medians.hostAlloc.medianMBs,
        poolToUnpinned: medians.pool.medianMBs / medians.unpinned.medianMBs,
      };
      results.push(result);
      onResult(result);
    }
  }
  return results;
}

/** Sends bytes to the device and back. @returns whether they are the same. */
export async function roundTrip(
  device: GpuDevice,
  pool: ShmSegment,
  bytes: number,
  signal: AbortSignal,
): Promise<boolean> {
  using target = device.alloc(bytes);
  await using stream = device.createStream();
  const view = pool.bytes(0, bytes);
  const pattern = (at: number) => (at * 2654435761) >>> 24;
  for (let at = 0; at < bytes; at++) view[at] = pattern(at);
  stream.upload(target, pool.range(0, bytes));
  await stream.synchronize({ ...WAIT, signal });
  view.fill(0);
  stream.download(pool.range(0, bytes), target);
  await stream.synchronize({ ...WAIT, signal });
  for (let at = 0; at < bytes; at++) if (view[at] !== pattern(at)) return false;
  return true;
}
