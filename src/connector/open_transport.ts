// SPDX-License-Identifier: Apache-2.0
//
// Opens the way to a worker: starts it or connects to it, and finds out which version of the
// protocol both can speak, and whether the storage directory is the same one here and there.

import { ShmError } from "../errors.ts";
import type { ShmSegment } from "../memory/segment.ts";
import { ownUser, peerUserOf } from "../native/users.ts";
import { WorkerClient } from "../worker/client.ts";
import type { Handshake } from "../worker/handshake.ts";
import { ObjectClient } from "../worker/object_client.ts";
import type { SegmentReference } from "../worker/segment_reference.ts";
import { SocketTransport } from "../worker/socket_transport.ts";
import { SpawnTransport } from "../worker/spawn_transport.ts";
import type { OpenTransport } from "../worker/transport.ts";
import { NO_METADATA } from "./chunk_metadata.ts";
import { keyFile, probeKey } from "../keys/key_file.ts";
import { Deadline } from "../wait.ts";
import type { ObjectTransport } from "./object_transport.ts";
import { mustBeOpen, type ShmFileSettings } from "./shm_file_options.ts";
import { StorageDirectory } from "./storage_directory.ts";
import { TransportV1 } from "./transport_v1.ts";
import { TransportV2 } from "./transport_v2.ts";

/** The child's number of the segment's descriptor; stdio has 0 to 2. */
const CHILD_SEGMENT_FD = 3;

/** For a connection that was opened to ask something, and has nothing in flight. */
const CLOSE_MS = 1_000;

export interface OpenedTransport<T extends ObjectTransport = ObjectTransport> {
  readonly transport: T;
  /** Whether the worker's directory is storageDir here too. */
  readonly visible: boolean;
}

/**
 * Version 2 where the worker has it, unless the settings say otherwise.
 *
 * Keys of version 2 are below the worker's --root, and a worker that somebody else started may have
 * another root than storageDir, which paths of version 1 allow. So a running worker is spoken to in
 * version 2 only when both mean the same directory, or when the settings insist. It is asked in
 * version 1 first: LMCache's worker ends with its first connection.
 *
 * Errors as ShmFileConnector.open(). Nothing is left behind by a failure.
 */
export async function openTransport(settings: ShmFileSettings): Promise<OpenedTransport> {
  const { protocol, address } = settings;
  if (protocol === 2) return await openV2(settings);
  if (protocol === "auto" && address === null) {
    const opened = await openV2(settings).catch(unlessUnsupported);
    if (opened !== null) return opened;
  }
  const first = await openV1(settings);
  let chosen: OpenedTransport | null = null;
  try {
    if (protocol === "auto" && address !== null && first.transport.extended) {
      chosen = await openBetter(settings, first.transport);
    }
    if (chosen === null) checkForV1(settings);
  } catch (error) {
    await first.transport.close(CLOSE_MS);
    throw error;
  }
  if (chosen === null) return first;
  await first.transport.close(CLOSE_MS);
  return chosen;
}

/** What a client of either version is opened with. */
function clientOptions(settings: ShmFileSettings) {
  const { segment, secret, limits, onWorkerLost } = settings;
  const handshake: Handshake = {
    segment: referTo(segment, settings.address === null),
    secret,
    limitMs: limits.controlTimeoutMs,
  };
  return { open: connectionOf(settings), handshake, limits, onLost: onWorkerLost };
}

/** Connects to the worker that the settings name, or starts it. */
function connectionOf(settings: ShmFileSettings): OpenTransport {
  const { address, connectTimeoutMs, segment, storageDir, workerArgs, onLog } = settings;
  if (address !== null) {
    const users = { own: ownUser, peerOf: peerUserOf };
    return (handlers) => new SocketTransport({ address, connectTimeoutMs, users }, handlers);
  }
  const binary = settings.workerBinary!;
  const cwd = settings.workerCwd;
  const passFd = segment.fd;
  const grant = passFd === null ? [] : ["--segment-fd", `${CHILD_SEGMENT_FD}`];
  const args = ["--root", storageDir, ...grant, ...workerArgs];
  return (handlers) => {
    // The number of a descriptor that was closed may be another file's by now.
    mustBeOpen(segment, "start worker");
    return new SpawnTransport({ binary, args, cwd, passFd, onLog }, handlers);
  };
}

/** @param spawned the worker is started here, and inherits the descriptor */
function referTo(segment: ShmSegment, spawned: boolean): SegmentReference {
  const { name, fd, identity, address: baseAddress } = segment;
  const descriptor = spawned && fd !== null ? `fd:${CHILD_SEGMENT_FD}` : null;
  if (name === null && descriptor === null) {
    throw new TypeError("the segment has neither a name nor a descriptor that a worker can attach");
  }
  return {
    name,
    descriptor,
    sizeBytes: BigInt(segment.sizeBytes),
    baseAddress,
    identity,
    lookUpName: () => segment.lookUpName(),
  };
}

// --- version 1

async function openV1(settings: ShmFileSettings): Promise<OpenedTransport<TransportV1>> {
  const { segment, limits } = settings;
  const directory = new StorageDirectory(settings.storageDir);
  const client = await WorkerClient.open(clientOptions(settings));
  try {
    const visible = settings.storageVisible ??
      (settings.address === null || await seesPaths(directory, client, segment));
    const { controlTimeoutMs } = limits;
    const transport = new TransportV1({ client, segment, directory, visible, controlTimeoutMs });
    return { transport, visible };
  } catch (error) {
    await client.close();
    throw error;
  }
}

/** Whether a worker finds, under its path, a file that is made here. */
async function seesPaths(
  directory: StorageDirectory,
  client: WorkerClient,
  segment: ShmSegment,
): Promise<boolean> {
  const name = probeKey();
  return await directory.withProbe(name, () => hasPath(directory.fileOf(name), client, segment)) ??
    false;
}

/** Whether a worker of version 1 finds a file of this path. */
async function hasPath(path: string, client: WorkerClient, segment: ShmSegment): Promise<boolean> {
  const { address } = segment;
  const reply = await client.read({ path, address, byteLength: 0, release: () => {} });
  return reply.ok;
}

/** Throws if something was asked for that version 1 cannot do: nobody shall believe in it. */
function checkForV1({ ioMode, durability, checksum }: ShmFileSettings): void {
  const asked = ioMode !== undefined && ioMode !== "auto"
    ? `ioMode "${ioMode}"`
    : durability !== undefined && durability !== "none"
    ? `durability "${durability}"`
    : checksum === true
    ? "checksum true"
    : null;
  if (asked === null) return;
  throw new ShmError(`${asked} needs protocol version 2, and version 1 is spoken`, {
    code: "ENOTSUP",
    operation: "open connector",
    hint: "Use lmshm-worker with the storage directory as its --root, or leave the option out",
    details: { ioMode, durability, checksum },
  });
}

// --- version 2

async function openV2(settings: ShmFileSettings): Promise<OpenedTransport<TransportV2>> {
  const { ioMode, durability, checksum, address, storageVisible } = settings;
  const client = await ObjectClient.open(clientOptions(settings));
  try {
    const visible = storageVisible ?? (address === null || await seesKeys(settings, client));
    return { transport: new TransportV2({ client, ioMode, durability, checksum }), visible };
  } catch (error) {
    await client.close();
    throw error;
  }
}

/** Whether a worker finds, under its key, a file that is made in the storage directory here. */
async function seesKeys(settings: ShmFileSettings, client: ObjectClient): Promise<boolean> {
  const directory = new StorageDirectory(settings.storageDir);
  const key = probeKey();
  const { fileName } = keyFile(key);
  return await directory.withProbe(fileName, async () => (await client.exists([key]))[0]!) ?? false;
}

/** Null for an error that says that there is no version 2. */
function unlessUnsupported(error: unknown): null {
  if (error instanceof ShmError && error.code === "EPROTONOSUPPORT") return null;
  throw error;
}

/** Version 2 of a running worker of ours; null when its keys are not below storageDir. */
async function openBetter(
  settings: ShmFileSettings,
  first: TransportV1,
): Promise<OpenedTransport | null> {
  const opened = await openV2(settings).catch(unlessUnsupported);
  if (opened === null) return null;
  let same = false;
  try {
    same = await isSameDirectory(settings, first, opened.transport);
  } finally {
    if (!same) await opened.transport.close(CLOSE_MS);
  }
  return same ? opened : null;
}

/** Whether the worker's root and its storageDir are one: an empty object tells. */
async function isSameDirectory(
  settings: ShmFileSettings,
  byPath: TransportV1,
  byKey: TransportV2,
): Promise<boolean> {
  const call = { deadline: new Deadline(settings.limits.controlTimeoutMs), priority: undefined };
  const file = keyFile(probeKey());
  const nothing = settings.segment.range(0, 0);
  try {
    await byKey.put(file, nothing, NO_METADATA, call, () => {});
    return await byPath.load(file, nothing, call) !== null;
  } catch (error) {
    // It may not be written, or lies elsewhere: then paths say more exactly what is meant.
    if (error instanceof ShmError) return false;
    throw error;
  } finally {
    await byKey.remove(file, call).catch(() => false);
  }
}
