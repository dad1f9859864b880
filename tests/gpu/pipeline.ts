// SPDX-License-Identifier: Apache-2.0
//
// GPU to pool to disk and back, pipelined over chunks, against each of the two links alone. Run by
// scripts/gpu_check.sh; prints one JSON object. Every chunk's bytes are compared at the end.
//
//   bun tests/gpu/pipeline.ts DIRECTORY [CHUNKS] [BYTES] [ROUNDS]

import assert from "node:assert/strict";
import console from "node:console";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { CacheEngineKey, ShmFileConnector, ShmSegment } from "../../src/mod.ts";
import { type DeviceBuffer, GpuDevice, type GpuStream } from "../../src/gpu/mod.ts";

/** Chunks in the pool: what is in flight on both links together. */
const SLOTS = 8;

const [parent, chunkText = "64", byteText = "33554432", roundText = "3"] = process.argv.slice(2);
if (!parent) throw new Error("usage: pipeline.ts DIRECTORY [CHUNKS] [BYTES] [ROUNDS]");
const chunks = Number(chunkText);
const bytes = Number(byteText);
const rounds = Number(roundText);
const directory = join(parent, `lmshm-gpu-pipeline-${process.pid}`);

interface Bench {
  segment: ShmSegment;
  buffer: DeviceBuffer;
  stream: GpuStream;
  connector: ShmFileConnector;
}

function key(chunk: number): CacheEngineKey {
  return new CacheEngineKey({
    model: "gpu-check",
    worldSize: 1,
    workerId: 0,
    chunkHash: BigInt(chunk + 1),
    dtype: "bfloat16",
  });
}

/** Runs `step` for every chunk, as many at a time as there are slots. */
async function slotted(step: (chunk: number, slot: number) => Promise<void>): Promise<number> {
  const started = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: SLOTS }, async (_, slot) => {
    for (let chunk = next++; chunk < chunks; chunk = next++) await step(chunk, slot);
  }));
  return performance.now() - started;
}

function steps({ segment, buffer, stream, connector }: Bench) {
  const host = (slot: number) => segment.range(slot * bytes, bytes);
  const part = (chunk: number) => buffer.range(chunk * bytes, bytes);
  const down = async (chunk: number, slot: number) => {
    stream.download(host(slot), part(chunk));
    await stream.synchronize();
  };
  const up = async (chunk: number, slot: number) => {
    stream.upload(part(chunk), host(slot));
    await stream.synchronize();
  };
  const put = async (chunk: number, slot: number) => {
    await connector.put(key(chunk), host(slot));
  };
  const get = async (chunk: number, slot: number) => {
    const found = await connector.get(key(chunk), host(slot));
    assert.ok(found, `chunk ${chunk} is in the store`);
  };
  return { down, up, put, get };
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function measure(bench: Bench): Promise<Record<string, unknown>> {
  const { down, up, put, get } = steps(bench);
  const times: Record<string, number[]> = {};
  const time = async (name: string, step: (chunk: number, slot: number) => Promise<void>) => {
    (times[name] ??= []).push(await slotted(step));
  };
  for (let chunk = 0; chunk < chunks; chunk++) {
    bench.stream.fill(bench.buffer.range(chunk * bytes, bytes), (chunk * 7 + 1) & 255);
  }
  await bench.stream.synchronize();
  await slotted(put); // The files are there from now on, so that every round replaces them.
  for (let round = 0; round < rounds; round++) {
    await time("gpuToPool", down);
    await time("poolToDisk", put);
    await time("gpuToDisk", async (chunk, slot) => {
      await down(chunk, slot);
      await put(chunk, slot);
    });
    bench.stream.fill(bench.buffer, 0);
    await bench.stream.synchronize();
    await time("poolToGpu", up);
    await time("diskToPool", get);
    await time("diskToGpu", async (chunk, slot) => {
      await get(chunk, slot);
      await up(chunk, slot);
    });
  }
  for (let chunk = 0; chunk < chunks; chunk++) {
    await down(chunk, 0);
    const view = bench.segment.bytes(0, bytes);
    const wanted = (chunk * 7 + 1) & 255;
    for (let at = 0; at < bytes; at += 509) assert.equal(view[at], wanted, `chunk ${chunk}`);
  }
  const rates = Object.fromEntries(
    Object.entries(times).map(([name, values]) => [name, chunks * bytes / 1000 / median(values)]),
  );
  const storing = rates.gpuToDisk! / Math.min(rates.gpuToPool!, rates.poolToDisk!);
  const loading = rates.diskToGpu! / Math.min(rates.poolToGpu!, rates.diskToPool!);
  return { ok: true, chunks, bytes, slots: SLOTS, ratesMBs: rates, storing, loading, times };
}

try {
  await using segment = await ShmSegment.create({ sizeBytes: SLOTS * bytes, pin: "require" });
  using device = GpuDevice.open();
  using buffer = device.alloc(chunks * bytes);
  await using stream = device.createStream();
  await using connector = await ShmFileConnector.open({ segment, storageDir: directory });
  console.log(JSON.stringify(await measure({ segment, buffer, stream, connector })));
} finally {
  await rm(directory, { recursive: true, force: true });
}
