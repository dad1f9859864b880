// SPDX-License-Identifier: Apache-2.0
//
// What segments there are: names in /dev/shm with their state by the library, owners and what pins
// them from /proc/locks, and who has which file mapped from /proc/PID/maps, as far as the kernel shows
// it to this user.
//
// Only the process that pins a segment knows by what: nothing in /proc tells of a GPU's registration.
// So it holds a shared lock of one byte of the file, and the byte's number says it (csrc/lmshm/
// backing.h). The kernel shows that lock to everybody, and drops it when the memory is let go.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { type PinnedBy, ShmError, ShmSegment } from "../mod.ts";

export const SHM_DIRECTORY = "/dev/shm";

export type SegmentState = "live" | "dead" | "foreign" | "unlinked" | "anonymous" | "unknown";

/** By the numbers of enum lmshm_pinned_by, which are those of the bytes that are locked. */
const PINNED_BY: readonly PinnedBy[] = ["none", "cuda", "cuda-driver", "hip", "mlock"];

export interface Mapper {
  readonly pid: number;
  readonly command: string;
}

/** A member for each of --json's, with the same meaning. */
export interface SegmentRow {
  readonly name: string | null;
  readonly state: SegmentState;
  readonly sizeBytes: number;
  readonly usedBytes: number | null;
  readonly user: number | null;
  readonly ownerPid: number | null;
  readonly ageMs: number | null;
  /** Empty: by nothing. Null: not known, as lmshm has not made it or the kernel shows no locks. */
  readonly pinnedBy: readonly PinnedBy[] | null;
  readonly mappedBy: readonly Mapper[];
}

/** A file that processes have mapped. */
export interface MappedFile {
  /** As the kernel shows it: "/dev/shm/kv", "/dev/shm/kv (deleted)", "/memfd:lmshm (deleted)". */
  readonly path: string;
  /** Beyond the last byte that is mapped. */
  readonly sizeBytes: number;
  readonly mappedBy: readonly Mapper[];
}

/** "00:1b 42" of a line of /proc/PID/maps, from a stat's device and inode. */
export function mapsIdentity(device: number, inode: number): string {
  const number = BigInt(device);
  const major = ((number >> 8n) & 0xfffn) | ((number >> 32n) & ~0xfffn);
  const minor = (number & 0xffn) | ((number >> 12n) & ~0xffn);
  const hex = (part: bigint) => part.toString(16).padStart(2, "0");
  return `${hex(major)}:${hex(minor)} ${inode}`;
}

const MAPS_LINE = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) (\S+) (\d+)\s+(\/.*)$/;

/** Adds the segments of one process's maps. */
export function addMaps(
  maps: string,
  mapper: Mapper,
  found: Map<string, { path: string; sizeBytes: number; mappedBy: Map<number, Mapper> }>,
): void {
  for (const line of maps.split("\n")) {
    if (!line.includes("/dev/shm/") && !line.includes("/memfd:lmshm")) continue;
    const parts = MAPS_LINE.exec(line);
    if (!parts) continue;
    const [, from, to, offset, device, inode, path] = parts as unknown as string[];
    if (!path!.startsWith("/dev/shm/") && !/^\/memfd:lmshm(?: |$)/.test(path!)) continue;
    const end = parseInt(to!, 16) - parseInt(from!, 16) + parseInt(offset!, 16);
    const identity = `${device} ${inode}`;
    let file = found.get(identity);
    if (!file) found.set(identity, file = { path: path!, sizeBytes: 0, mappedBy: new Map() });
    file.sizeBytes = Math.max(file.sizeBytes, end);
    file.mappedBy.set(mapper.pid, mapper);
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // Gone by now, or another user's.
    return null;
  }
}

/** Who has which segments mapped, by mapsIdentity(). */
function mappedFiles(): Map<string, MappedFile> {
  const found = new Map<
    string,
    { path: string; sizeBytes: number; mappedBy: Map<number, Mapper> }
  >();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const maps = readText(`/proc/${entry}/maps`);
    if (maps === null) continue;
    const command = (readText(`/proc/${entry}/comm`) ?? "").trim();
    addMaps(maps, { pid: Number(entry), command }, found);
  }
  return new Map(
    [...found].map(([identity, file]) => [
      identity,
      { ...file, mappedBy: [...file.mappedBy.values()] },
    ]),
  );
}

/** The process that holds flock(LOCK_EX) on each file, by mapsIdentity(). */
export function lockOwners(locks: string): Map<string, number> {
  const owners = new Map<string, number>();
  for (const line of locks.split("\n")) {
    const parts = /: FLOCK +ADVISORY +WRITE +(-?\d+) +([0-9a-f]+:[0-9a-f]+):(\d+) /.exec(line);
    if (parts && Number(parts[1]) > 0) owners.set(`${parts[2]} ${parts[3]}`, Number(parts[1]));
  }
  return owners;
}

/** What each file is pinned by, by mapsIdentity(): shared locks of one byte. */
export function lockPins(locks: string): Map<string, PinnedBy[]> {
  const pins = new Map<string, PinnedBy[]>();
  for (const line of locks.split("\n")) {
    const parts = /: OFDLCK +ADVISORY +READ +-?\d+ +([0-9a-f]+:[0-9a-f]+):(\d+) (\d+) \3$/.exec(
      line,
    );
    const by = parts && PINNED_BY[Number(parts[3])];
    if (!by || by === "none") continue;
    const identity = `${parts[1]} ${parts[2]}`;
    const known = pins.get(identity) ?? [];
    if (!known.includes(by)) pins.set(identity, [...known, by].sort());
  }
  return pins;
}

/** What the kernel's list of locks says. */
interface Locks {
  readonly owners: ReadonlyMap<string, number>;
  /** Null: it cannot be read. */
  readonly pins: ReadonlyMap<string, readonly PinnedBy[]> | null;
}

function readLocks(): Locks {
  const text = readText("/proc/locks");
  return { owners: lockOwners(text ?? ""), pins: text === null ? null : lockPins(text) };
}

function pinsOf(
  { pins }: Locks,
  identity: string,
  state: SegmentState,
): readonly PinnedBy[] | null {
  const known = pins?.get(identity);
  // What lmshm has not made may be locked in ways that leave no mark.
  return known ?? (pins === null || state === "foreign" || state === "unlinked" ? null : []);
}

function stateOf(name: string): SegmentState | "free" {
  try {
    return ShmSegment.nameState(name);
  } catch (error) {
    if (error instanceof ShmError && error.code === "EACCES") return "unknown";
    throw error;
  }
}

function namedRow(
  name: string,
  mapped: Map<string, MappedFile>,
  locks: Locks,
): SegmentRow | null {
  const found = statSync(`${SHM_DIRECTORY}/${name}`, { throwIfNoEntry: false });
  if (!found) return null;
  const state = stateOf(name);
  if (state === "free") return null;
  const identity = mapsIdentity(found.dev, found.ino);
  const row = {
    name: `/${name}`,
    state,
    sizeBytes: found.size,
    usedBytes: found.blocks * 512,
    user: found.uid,
    ownerPid: state === "live" ? locks.owners.get(identity) ?? null : null,
    ageMs: Math.max(0, Date.now() - found.ctimeMs),
    pinnedBy: pinsOf(locks, identity, state),
    mappedBy: mapped.get(identity)?.mappedBy ?? [],
  };
  mapped.delete(identity);
  return row;
}

/** @throws {ShmError} where /dev/shm cannot be read. */
export function shmNames(): string[] {
  try {
    return readdirSync(SHM_DIRECTORY, { withFileTypes: true }).filter((entry) => entry.isFile())
      .map(({ name }) => name).sort();
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    throw new ShmError(`${SHM_DIRECTORY} cannot be listed: ${(cause as Error).message}`, {
      code: missing ? "ENOENT" : "EACCES",
      operation: "list segments",
      ...(missing
        ? { hint: "Mount a tmpfs there: mount -t tmpfs -o mode=1777 tmpfs /dev/shm" }
        : {}),
      cause,
    });
  }
}

/** All segments: those with a name first, in the order of their names. */
export function scanSegments(): SegmentRow[] {
  const names = shmNames();
  const mapped = mappedFiles();
  const locks = readLocks();
  const named = names.map((name) => namedRow(name, mapped, locks)).filter((row) => row !== null);
  const nameless = [...mapped].map(([identity, { path, sizeBytes, mappedBy }]): SegmentRow => {
    const state = path.startsWith("/memfd:") ? "anonymous" : "unlinked";
    return {
      name: null,
      state,
      sizeBytes,
      usedBytes: null,
      user: null,
      ownerPid: null,
      ageMs: null,
      pinnedBy: pinsOf(locks, identity, state),
      mappedBy,
    };
  });
  return [...named, ...nameless];
}
