// SPDX-License-Identifier: Apache-2.0
//
// What a test must leave as it found it: /dev/shm, open descriptors, mappings, child processes.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";

let serial = 0;

/** A segment name that no other test uses. */
export function uniqueName(topic: string): string {
  return `lmshm-test-${topic}-${process.pid}-${serial++}`;
}

function shmDescriptors(): string[] {
  const found: string[] = [];
  for (const fd of readdirSync("/proc/self/fd")) {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      if (target.startsWith("/dev/shm/lmshm-test") || target.startsWith("/memfd:lmshm")) {
        found.push(target);
      }
    } catch {
      // The descriptor of the listing itself is gone by now.
    }
  }
  return found.sort();
}

function shmMappings(): string[] {
  return readFileSync("/proc/self/maps", "utf8").split("\n")
    .filter((line) => line.includes("/dev/shm/lmshm-test") || line.includes("/memfd:lmshm"));
}

function shmNames(): string[] {
  return readdirSync("/dev/shm")
    .filter((name) => name.startsWith("lmshm-test") && name.includes(`-${process.pid}-`)).sort();
}

/** Process ids of this process's children that have not been waited for. */
export function childProcesses(): number[] {
  const own = `/proc/self/task`;
  const children: number[] = [];
  for (const task of readdirSync(own)) {
    try {
      const list = readFileSync(`${own}/${task}/children`, "utf8").trim();
      if (list) children.push(...list.split(/\s+/).map(Number));
    } catch {
      // The thread ended, or the kernel does not tell.
    }
  }
  return children.sort((a, b) => a - b);
}

/** Runs `body` and asserts that no segment, descriptor or mapping of ours is left behind. */
export async function withoutLeaks(body: () => void | Promise<void>): Promise<void> {
  const before = { names: shmNames(), fds: shmDescriptors(), maps: shmMappings() };
  await body();
  assert.deepEqual(shmNames(), before.names, "names in /dev/shm");
  assert.deepEqual(shmDescriptors(), before.fds, "open descriptors");
  assert.deepEqual(shmMappings(), before.maps, "mappings");
}
