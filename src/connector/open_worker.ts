// SPDX-License-Identifier: Apache-2.0
//
// From a connector's settings to a client of its worker, which is started here or runs already.

import { chmod, lstat, mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { ShmError } from "../errors.ts";
import { fileError } from "../file_error.ts";
import type { ShmSegment } from "../memory/segment.ts";
import { ownUser, peerUserOf } from "../native/users.ts";
import type { ObjectClient } from "../worker/object_client.ts";
import { openClient } from "../worker/open_client.ts";
import type { SegmentReference } from "../worker/segment_reference.ts";
import { SocketTransport } from "../worker/socket_transport.ts";
import { SpawnTransport } from "../worker/spawn_transport.ts";
import type { OpenTransport } from "../worker/transport.ts";
import { directoryMode } from "../config/file_mode.ts";
import { within } from "../wait.ts";
import { mustBeOpen, type ShmFileSettings } from "./shm_file_options.ts";

/** The child's number of the segment's descriptor; stdio has 0 to 2. */
const CHILD_SEGMENT_FD = 3;

/** Errors as ShmFileConnector.open(). Nothing is left behind by a failure. */
export async function openWorker(
  settings: ShmFileSettings,
  signal: AbortSignal,
): Promise<ObjectClient> {
  const { segment, secret, limits, onWorkerLost: onLost, storageDir } = settings;
  const starts = settings.address === null;
  const reference = referTo(segment, starts);
  if (starts && settings.engine === null) {
    await within(makeDirectory(storageDir, settings.fileMode), { signal });
  }
  return await openClient({
    open: transportOf(settings),
    handshake: { segment: reference, secret, directory: storageDir },
    limits,
    onLost,
    beyondVersion1: beyondVersion1(settings),
    signal,
  });
}

/** Connects to the worker that the settings name, or starts it. */
function transportOf(settings: ShmFileSettings): OpenTransport {
  const { address, connectTimeoutMs, segment, workerArgs, maxBytes, onLog } = settings;
  if (address !== null) {
    const users = { own: ownUser, peerOf: peerUserOf };
    return (handlers) => new SocketTransport({ address, connectTimeoutMs, users }, handlers);
  }
  const binary = settings.workerBinary!;
  const cwd = settings.workerCwd;
  const passFd = segment.fd;
  const grant = passFd === null ? [] : ["--segment-fd", `${CHILD_SEGMENT_FD}`];
  const quota = maxBytes === undefined ? [] : ["--max-bytes", `${maxBytes}`];
  const { fileMode, fileGroup } = settings;
  const mode = fileMode === undefined ? [] : ["--file-mode", fileMode.toString(8).padStart(4, "0")];
  const group = fileGroup === undefined ? [] : ["--group", fileGroup];
  const args = [...placeArguments(settings), ...grant, ...quota, ...mode, ...group, ...workerArgs];
  const env = settings.engine?.secrets;
  return (handlers) => {
    // The number of a descriptor that was closed may be another file's by now.
    mustBeOpen(segment, "start worker");
    return new SpawnTransport({ binary, args, cwd, passFd, env, onLog }, handlers);
  };
}

/** The command line of a worker is public: secrets are not on it. */
function placeArguments({ engine, storageDir }: ShmFileSettings): string[] {
  if (engine === null) return ["--root", storageDir];
  const { url, secretFile } = engine;
  return ["--store", url, ...(secretFile === null ? [] : ["--store-secret-file", secretFile])];
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

/** What was asked for that version 1 cannot do: nobody shall believe in it. */
function beyondVersion1(settings: ShmFileSettings): string | null {
  const { ioMode, durability, checksum, maxBytes } = settings;
  if (ioMode !== undefined && ioMode !== "auto") return `ioMode "${ioMode}"`;
  if (durability !== undefined && durability !== "none") return `durability "${durability}"`;
  if (checksum === true) return "checksum true";
  if (settings.saveChunkMeta) return "saveChunkMeta true";
  if (settings.padBytes !== undefined) return `padBytes ${settings.padBytes}`;
  if (settings.fileMode !== undefined) return `fileMode 0o${settings.fileMode.toString(8)}`;
  if (settings.fileGroup !== undefined) return `fileGroup ${JSON.stringify(settings.fileGroup)}`;
  return maxBytes === undefined ? null : `maxBytes ${maxBytes}`;
}

/**
 * The worker's root, and the directories above it, where they are missing; for its user alone, or
 * for all who may read its files.
 */
async function makeDirectory(path: string, fileMode = 0o600): Promise<void> {
  const noDirectory = () =>
    new ShmError(`${path} is no directory`, {
      code: "ENOTDIR",
      operation: "open storage directory",
      hint: "Name a directory, or one that can be made",
      details: { path },
    });
  try {
    const made = await mkdir(path, { recursive: true, mode: 0o700 });
    if (made !== undefined && fileMode !== 0o600) await letIn(path, made, directoryMode(fileMode));
  } catch (cause) {
    if ((cause as { code?: unknown }).code === "EEXIST") throw noDirectory();
    throw fileError(cause, "create storage directory", path);
  }
  const found = await lstat(`${path}/.`).catch((cause) => {
    throw fileError(cause, "open storage directory", path);
  });
  if (!found.isDirectory()) throw noDirectory();
}

/** Whatever the umask: `path` and the directories above it, up to the first one that was made. */
async function letIn(path: string, first: string, mode: number): Promise<void> {
  for (let at = path;; at = dirname(at)) {
    await chmod(at, mode);
    if (at === first || at === dirname(at)) return;
  }
}
