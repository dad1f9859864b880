// SPDX-License-Identifier: Apache-2.0
//
// lmshm gpu: which GPUs there are, whether a segment can be pinned for one, and how fast copies are.

import process from "node:process";
import { runtime, ShmError, ShmSegment, version } from "../mod.ts";
import { GpuDevice, type GpuStatus, gpuStatus } from "../gpu/mod.ts";
import { readArguments } from "./arguments.ts";
import { type Command, integerOption, interruptible, UsageError } from "./command.ts";
import { GPU } from "./descriptions/gpu.ts";
import { formatBytes, formatTime, parseSize } from "./format.ts";
import { type CopyResult, measureCopies, roundTrip } from "./gpu_measure.ts";
import { printFitted } from "./prose.ts";
import { print, tableRow } from "./terminal.ts";

const SIZES = [1e6, 8e6, 33_554_432, 256e6];
const QUICK_SIZES = [1e6, 8e6];
const ROUND_TRIP_BYTES = 4 * 2 ** 20;
const WIDTHS = [10, 9, 13, 13, 13, 13, 12];

interface Settings {
  list: boolean;
  device: number | undefined;
  library: string | undefined;
  sizes: readonly number[];
  repeat: number;
  json: boolean;
}

function settings(args: readonly string[]): Settings {
  const { values } = readArguments(GPU, args);
  if (values.library === "") throw new UsageError("--library takes a file");
  const size = (text: string) => {
    try {
      return parseSize("--size", text);
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
  };
  const sizes = values.size?.map(size).sort((a, b) => a - b);
  return {
    list: values.list,
    device: values.device === undefined
      ? undefined
      : integerOption("device", values.device, 0, 1023),
    library: values.library,
    sizes: sizes ?? (values.quick ? QUICK_SIZES : SIZES),
    repeat: values.repeat === undefined
      ? (values.quick ? 3 : 15)
      : integerOption("repeat", values.repeat, 1, 1000),
    json: values.json,
  };
}

function rate(megabytes: number): string {
  return `${(megabytes / 1000).toFixed(megabytes < 99_950 ? 2 : 1)} GB/s`;
}

function row({ bytes, way, rates, poolToHostAlloc, poolToUnpinned }: CopyResult): string {
  return tableRow([
    way,
    formatBytes(bytes),
    rate(rates.pool.medianMBs),
    rate(rates.hostAlloc.medianMBs),
    rate(rates.unpinned.medianMBs),
    `${poolToHostAlloc.toFixed(3)}`,
    `${poolToUnpinned.toFixed(2)}`,
  ], WIDTHS);
}

/** A device that is asked for by number must be one of those that were counted. */
function checkDevice(given: Settings, { gpuLibrary, devices }: GpuStatus): void {
  const wanted = given.device ?? Number(process.env.LMSHM_GPU_DEVICE || 0);
  const count = devices.length;
  // What is no number at all is told by whoever opens the device.
  if (Number.isNaN(wanted) || wanted < count) return;
  const range = count === 1 ? "0" : `from 0 to ${count - 1}`;
  throw new ShmError(`there is no GPU ${wanted}: ${gpuLibrary} counts ${count}`, {
    code: "ENODEV",
    operation: "open GPU",
    hint: `${given.device === undefined ? "LMSHM_GPU_DEVICE" : "--device"} can be ${range} here; ` +
      "lmshm gpu --list shows which is which",
    details: { device: wanted, devices: count },
  });
}

/** The lines that show what there is. */
function describe(status: GpuStatus): string[] {
  if (!status.available) return [`no GPU: ${status.reason}`];
  const { kind, gpuLibrary, driverVersion, runtimeVersion, devices } = status;
  const versions = [
    ...(driverVersion ? [`driver ${driverVersion}`] : []),
    ...(runtimeVersion ? [`runtime ${runtimeVersion}`] : []),
  ];
  return [
    `library  ${gpuLibrary} (${[kind, ...versions].join(", ")})`,
    ...devices.map(({ index, name, memoryBytes, pciBusId, computeCapability }) =>
      `GPU ${index}    ${name}, ${formatBytes(memoryBytes)}` +
      (pciBusId ? `, PCI ${pciBusId}` : "") +
      (computeCapability ? `, compute capability ${computeCapability}` : "")
    ),
  ];
}

async function measure(
  given: Settings,
  status: GpuStatus,
  say: (line: string) => void,
  signal: AbortSignal,
): Promise<Record<string, unknown>> {
  const { gpuLibrary } = status;
  const largest = Math.max(ROUND_TRIP_BYTES, ...given.sizes);
  // Several chunks, so that copies do not all come from the same few pages.
  const sizeBytes = Math.max(largest, Math.min(4 * largest, 256e6));
  // Pinned first: that makes the context, on a thread beside the event loop.
  const started = performance.now();
  await using pool = await ShmSegment.create({
    sizeBytes,
    pin: "require",
    gpuLibrary,
    gpuDevice: given.device,
    signal,
  });
  const createMs = performance.now() - started;
  using device = GpuDevice.open({ gpuLibrary, device: given.device });
  const { freeBytes, totalBytes } = device.memory();
  const poolKind = device.memoryKind(pool.range());
  say(
    `using    GPU ${device.index}, ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)} free`,
  );
  say(
    `segment  ${formatBytes(sizeBytes)}, pinned by ${pool.pinnedBy} in ${formatTime(createMs)} ` +
      `with its creation; the GPU calls it ${poolKind}`,
  );
  if (poolKind !== "pinned") {
    throw new ShmError(`the GPU says that the segment is ${poolKind}`, {
      code: "EIO",
      operation: "pin segment",
      hint: "The library that pins and the one that copies may use different drivers",
    });
  }
  const same = await roundTrip(device, pool, ROUND_TRIP_BYTES, signal);
  say(`bytes    ${same ? "came back as they were sent" : "DIFFER after a round trip"}`);
  say("");
  say(
    tableRow(["copy", "bytes", "pool", "cudaHostAlloc", "unpinned", "pool/alloc", "pool/unp."], [
      ...WIDTHS,
    ]),
  );
  const copies = await measureCopies(
    device,
    pool,
    { sizes: given.sizes, repeat: given.repeat, signal },
    (result) => say(row(result)),
  );
  return {
    ok: same,
    device: { ...device.facts, freeBytes },
    segment: { sizeBytes, pinnedBy: pool.pinnedBy, createMs, gpuSays: poolKind },
    sameBytes: same,
    repeat: given.repeat,
    copies,
  };
}

async function gpuWith(given: Settings, signal: AbortSignal): Promise<boolean> {
  const say = (line: string) => given.json || printFitted(line);
  const status = gpuStatus({ gpuLibrary: given.library });
  say(`lmshm ${version} on ${runtime.name} ${runtime.version}`);
  for (const line of describe(status)) say(line);
  const facts = { version, runtime, gpu: status };
  if (!status.available) {
    if (given.json) print(JSON.stringify({ ok: false, ...facts }));
    return false;
  }
  if (given.list) {
    if (given.json) print(JSON.stringify({ ok: true, ...facts }));
    return true;
  }
  checkDevice(given, status);
  const report = await measure(given, status, say, signal);
  if (given.json) print(JSON.stringify({ ...facts, ...report }));
  return report.ok === true;
}

export const gpu: Command = {
  run(args) {
    const given = settings(args);
    return interruptible(given.json, (signal) => gpuWith(given, signal));
  },
};
