// SPDX-License-Identifier: Apache-2.0
//
// lmshm shm ls, rm and gc. What is dead is decided by the library under the kernel's lock
// (lmshm_reclaim), never from what was listed before.

import { statSync } from "node:fs";
import { ShmError } from "../mod.ts";
import { lmshm, type Reclaimed } from "../native/lmshm.ts";
import { readArguments } from "./arguments.ts";
import { type Command, complainAbout, UsageError } from "./command.ts";
import { SHM_GC, SHM_LS, SHM_RM } from "./descriptions/shm.ts";
import { formatAge, formatBytes } from "./format.ts";
import { scanSegments, SHM_DIRECTORY, shmNames } from "./shm_scan.ts";
import { type Column, print, printAndWait, table } from "./terminal.ts";

const COLUMNS: readonly Column[] = [
  { title: "segment", shrinks: true },
  { title: "state" },
  { title: "size", right: true },
  { title: "user", right: true, leaves: 3 },
  { title: "owner", right: true, leaves: 2 },
  { title: "age", right: true, leaves: 1 },
  { title: "pinned", leaves: 4 },
  { title: "mapped by", leaves: 5 },
];

/** A name as it is in /dev/shm. @throws {UsageError} */
function fileName(text: string): string {
  const name = text.replace(/^\/dev\/shm\//, "").replace(/^\//, "");
  if (name === "" || name.includes("/") || name === "." || name === ".." || name.includes("\0")) {
    throw new UsageError(`"${text}" is no name of a segment, such as kv or /kv`);
  }
  return name;
}

export const shmLs: Command = {
  async run(args) {
    const { values: { json }, operands } = readArguments(SHM_LS, args);
    const wanted = operands.map((text) => `/${fileName(text)}`);
    const all = scanSegments();
    const rows = wanted.length === 0 ? all : all.filter(({ name }) => wanted.includes(name ?? ""));
    if (json) {
      await printAndWait(rows.map((row) => JSON.stringify(row)));
    } else if (rows.length > 0) {
      const lines = table(
        COLUMNS,
        rows.map(({ name, state, sizeBytes, user, ownerPid, ageMs, pinnedBy, mappedBy }) => [
          name ?? "-",
          state,
          formatBytes(sizeBytes),
          user === null ? "-" : String(user),
          ownerPid === null ? "-" : String(ownerPid),
          ageMs === null ? "-" : formatAge(ageMs),
          pinnedBy === null ? "-" : pinnedBy.join(" ") || "no",
          mappedBy.map(({ pid, command }) => `${command}:${pid}`).join(" ") || "-",
        ]),
      );
      await printAndWait(lines);
    } else if (wanted.length === 0) {
      print("no segments");
    }
    const missing = wanted.filter((name) => !all.some((row) => row.name === name));
    for (const name of missing) complainAbout(name, "there is no such segment");
    return missing.length === 0 ? 0 : 1;
  },
};

/** Why a segment that is not dead stays. */
const REASONS: Readonly<Record<Exclude<Reclaimed, "removed">, string>> = {
  free: "there is no such segment",
  live: "its owner lives; stop that process first (lmshm shm ls shows it)",
  foreign: "lmshm has not made it, so whether somebody uses it cannot be known; if lmshm shm ls " +
    "shows nobody, remove it with rm",
};

interface Removal {
  readonly name: string;
  readonly ok: boolean;
  readonly sizeBytes: number;
  readonly state: string;
  readonly error?: string;
}

function sizeOf(name: string): number {
  return statSync(`${SHM_DIRECTORY}/${name}`, { throwIfNoEntry: false })?.size ?? 0;
}

function remove(name: string): Removal {
  const sizeBytes = sizeOf(name);
  const facts = { name: `/${name}`, sizeBytes };
  try {
    const became = lmshm().tryReclaim(name);
    return became === "removed"
      ? { ...facts, ok: true, state: "dead" }
      : { ...facts, ok: false, state: became, error: REASONS[became] };
  } catch (error) {
    const others = error instanceof ShmError && error.code === "EACCES";
    return {
      ...facts,
      ok: false,
      state: "unknown",
      error: others
        ? "it belongs to another user: run this as that user"
        : (error as Error).message,
    };
  }
}

async function tell(removals: readonly Removal[], json: boolean, verb: string): Promise<number> {
  const failed = removals.filter(({ ok }) => !ok);
  if (json) await printAndWait(removals.map((one) => JSON.stringify(one)));
  for (const { name, error } of failed) complainAbout(name, error!);
  if (json) return failed.length === 0 ? 0 : 1;
  const done = removals.filter(({ ok }) => ok);
  const bytes = done.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  await printAndWait([
    ...done.map(({ name, sizeBytes }) => `${verb} ${name}, ${formatBytes(sizeBytes)}`),
    done.length === 0
      ? "nothing is removed"
      : `${verb} ${done.length} ${done.length === 1 ? "segment" : "segments"}, ${
        formatBytes(bytes)
      }`,
  ]);
  return failed.length === 0 ? 0 : 1;
}

export const shmRm: Command = {
  async run(args) {
    const { values: { json }, operands } = readArguments(SHM_RM, args);
    if (operands.length === 0) throw new UsageError("shm rm needs a NAME; see lmshm shm ls");
    return await tell(operands.map(fileName).map(remove), json, "removed");
  },
};

export const shmGc: Command = {
  async run(args) {
    const { values: { json, "dry-run": dryRun } } = readArguments(SHM_GC, args);
    const removals = shmNames().map((name): Removal => {
      if (!dryRun) return remove(name);
      const state = nameState(name);
      return { name: `/${name}`, ok: state === "dead", sizeBytes: sizeOf(name), state };
    });
    // What is alive, a stranger's, another user's or gone by now is nothing to collect.
    const dead = removals.filter(({ ok, state, error }) =>
      ok || (error !== undefined && state === "unknown" && !error.startsWith("it belongs"))
    );
    return await tell(dead, json, dryRun ? "would remove" : "removed");
  },
};

function nameState(name: string): string {
  try {
    return lmshm().nameState(name);
  } catch {
    return "unknown";
  }
}
