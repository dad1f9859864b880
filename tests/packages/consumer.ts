// SPDX-License-Identifier: Apache-2.0
//
// A user's program, for type checks only: it names something of each entry, and of what the
// declarations lead to. scripts/common/consumers.mjs checks it as a user would, with the options of
// many; it is never run.

import { CacheEngineKey, ShmError, ShmFileConnector, ShmSegment, TieredStore } from "lmshm";
import type { MemoryObj, ShmRange } from "lmshm";
import { type LmshmConfig, loadConfig } from "lmshm/config";
import { GpuDevice } from "lmshm/gpu";
import { type KvEvent, type KvLease, LmcacheClient, type LmcacheOptions } from "lmshm/lmcache";

/** What a user has or has not: options take undefined, also with exactOptionalPropertyTypes. */
export interface Settings {
  name: string | undefined;
  signal: AbortSignal | undefined;
}

export async function store({ name, signal }: Settings, key: CacheEngineKey) {
  await using segment = await ShmSegment.create({ sizeBytes: 2 ** 27, name });
  await using connector = await ShmFileConnector.open({ segment, storageDir: "/var/tmp/kv" });
  const chunk: ShmRange = segment.range(0, 4096);
  const bytes: Uint8Array<ArrayBuffer> = segment.bytes(chunk.offset, chunk.byteLength);
  bytes.fill(1);
  try {
    await connector.put(key, chunk, { signal });
  } catch (error) {
    if (error instanceof ShmError && error.code === "ENOSPC") return null;
    throw error;
  }
  for await (const name of connector.list()) String(name);
  const back = await connector.get(key, segment.range(4096, 4096));
  return back === null ? null : back.byteLength;
}

export function settings(file: string): { config: LmshmConfig; notices: readonly string[] } {
  const { config, notices } = loadConfig({ file });
  return { config, notices };
}

export function devices(): string[] {
  using device = GpuDevice.open();
  return [device.facts.name];
}

/** Without the libraries that connecting needs: their types are not in ours. */
export async function cached(options: LmcacheOptions, tokens: number[]): Promise<number> {
  await using client = await LmcacheClient.connect(options);
  await using lease: KvLease | null = await client.retrieve(tokens);
  const bytes: Uint8Array<ArrayBuffer> | undefined = lease?.chunks[0]?.bytes;
  await client.store(tokens, (chunk) => void chunk.bytes.set(bytes ?? []));
  return await client.lookup(tokens);
}

export function hashesOf(event: KvEvent): readonly string[] {
  return event.kind === "lost" ? [] : event.hashes;
}

export type Stored = Awaited<ReturnType<TieredStore["get"]>>;
export type Bytes = MemoryObj["bytes"];
