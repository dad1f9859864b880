// SPDX-License-Identifier: Apache-2.0
//
// Whether what is to be done fits onto the disk and into memory, asked before anything is made.

import { readFileSync } from "node:fs";
import { stat, statfs } from "node:fs/promises";
import { freemem } from "node:os";
import { dirname, resolve } from "node:path";
import { ShmError } from "../../mod.ts";
import { memoryLeft } from "../control_group.ts";
import { formatBytes } from "../format.ts";

/** Bytes that this user may still write. */
export async function freeDiskBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return Number(bavail) * Number(bsize);
}

/** Those of a path's directories that are missing, the innermost first. */
export async function missingOf(path: string): Promise<string[]> {
  const missing: string[] = [];
  for (let at = resolve(path);; at = dirname(at)) {
    const found = await stat(at).catch((error: NodeJS.ErrnoException) => error);
    if (!(found instanceof Error) || found.code !== "ENOENT") return missing;
    missing.push(at);
  }
}

/** @throws {ShmError} ENOSPC when the data is larger than the free disk, before anything is done. */
export async function mustFitDisk(bytes: number, directory: string): Promise<void> {
  const free = await freeDiskBytes(directory);
  if (bytes <= free) return;
  throw new ShmError(
    `the data has ${formatBytes(bytes)}, and ${directory} has ${formatBytes(free)} free`,
    {
      code: "ENOSPC",
      operation: "verify",
      hint: "Send less (--size), or name a larger disk (--storage-dir)",
      details: { bytes, freeBytes: free, directory },
    },
  );
}

/** @throws {ShmError} ENOMEM when the segment is larger than the memory that there is. */
export function mustFitMemory(sizeBytes: number): void {
  const available = availableMemory();
  if (sizeBytes <= available) return;
  throw new ShmError(
    `the segment has ${formatBytes(sizeBytes)}, and ${
      formatBytes(available)
    } of memory are available`,
    {
      code: "ENOMEM",
      operation: "verify",
      hint: "Make it smaller with --pool-size: the data goes through it in rounds",
      details: { sizeBytes, availableBytes: available },
    },
  );
}

/** What the kernel could give away; freemem() of a runtime may leave out what it only caches. */
function availableOnMachine(): number {
  try {
    const kilobytes = /^MemAvailable:\s+(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
    return kilobytes === undefined ? freemem() : Number(kilobytes) * 1024;
  } catch {
    return freemem();
  }
}

/** The same, or what this control group may still have of it. */
export function availableMemory(): number {
  return Math.min(availableOnMachine(), memoryLeft() ?? Infinity);
}
