// SPDX-License-Identifier: Apache-2.0
//
// Two processes with one segment, each of which registers it for itself: both find it pinned, and
// both copy at once. Run by scripts/gpu_check.sh; prints one JSON object.
//
//   bun tests/gpu/pair.ts [SECONDS] [BYTES]
//   bun tests/gpu/pair.ts attach NAME SECONDS BYTES     (what the first one starts)

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { ShmSegment } from "../../src/mod.ts";
import { GpuDevice } from "../../src/gpu/mod.ts";

interface Rates {
  pinnedBy: string;
  gpuSays: string;
  toDeviceMBs: number;
  toHostMBs: number;
}

const SLOTS = 4;
const LIMIT_MS = 60_000;

/**
 * Uploads the pattern at the segment's start, and downloads it to `ownOffset`, for some time each;
 * then checks the bytes.
 */
async function copying(
  device: GpuDevice,
  segment: ShmSegment,
  ownOffset: number,
  seconds: number,
  bytes: number,
): Promise<Rates> {
  using buffer = device.alloc(bytes * SLOTS);
  await using stream = device.createStream();
  const rates = { toDeviceMBs: 0, toHostMBs: 0 };
  for (const way of ["toDeviceMBs", "toHostMBs"] as const) {
    const started = performance.now();
    let moved = 0;
    while (performance.now() - started < seconds * 500) {
      for (let slot = 0; slot < SLOTS; slot++) {
        const host = segment.range(way === "toDeviceMBs" ? 0 : ownOffset, bytes);
        const part = buffer.range(slot * bytes, bytes);
        if (way === "toDeviceMBs") stream.upload(part, host);
        else stream.download(host, part);
      }
      await stream.synchronize({ timeoutMs: LIMIT_MS });
      moved += SLOTS * bytes;
    }
    rates[way] = moved / 1000 / (performance.now() - started);
  }
  const got = segment.bytes(ownOffset, bytes);
  for (let at = 0; at < bytes; at += 4093) assert.equal(got[at], pattern(at), `byte ${at}`);
  return { pinnedBy: segment.pinnedBy, gpuSays: device.memoryKind(segment.range()), ...rates };
}

const pattern = (at: number) => (at * 31 + 7) & 255;

async function attached(name: string, seconds: number, bytes: number): Promise<void> {
  await using segment = await ShmSegment.attach({ name, pin: "require" });
  using device = GpuDevice.open();
  console.log("ready");
  await once(createInterface({ input: process.stdin }), "line");
  console.log(JSON.stringify(await copying(device, segment, 2 * bytes, seconds, bytes)));
}

async function owner(seconds: number, bytes: number): Promise<void> {
  const name = `lmshm-gpu-pair-${process.pid}`;
  await using segment = await ShmSegment.create({ sizeBytes: 3 * bytes, name, pin: "require" });
  using device = GpuDevice.open();
  const first = segment.bytes(0, bytes);
  for (let at = 0; at < bytes; at++) first[at] = pattern(at);
  const alone = await copying(device, segment, bytes, seconds, bytes);
  const self = fileURLToPath(import.meta.url);
  const line = [...process.execArgv, self, "attach", name, `${seconds}`, `${bytes}`];
  const child = spawn(process.execPath, line, { stdio: ["pipe", "pipe", "inherit"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS + seconds * 4000);
  try {
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const ready = await lines.next();
    assert.equal(ready.value, "ready", "the second process did not come so far");
    child.stdin.write("go\n");
    const [together, other] = await Promise.all([
      copying(device, segment, bytes, seconds, bytes),
      lines.next().then(({ value }) => JSON.parse(String(value)) as Rates),
    ]);
    const ok = [alone, together, other].every(({ gpuSays }) => gpuSays === "pinned");
    console.log(JSON.stringify({ ok, bytes, alone, together, other }));
    process.exitCode = ok ? 0 : 1;
  } finally {
    clearTimeout(timer);
    child.stdin.end();
    child.kill();
  }
}

const args = process.argv.slice(2);
if (args[0] === "attach") await attached(args[1]!, Number(args[2]), Number(args[3]));
else await owner(Number(args[0] ?? 2), Number(args[1] ?? 33_554_432));
