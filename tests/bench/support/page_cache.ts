// SPDX-License-Identifier: Apache-2.0
//
// Control of the page cache for files of one's own: written out, thrown out, and looked at. Needs no
// privileges. What a hypervisor or a disk keeps in its own memory is beyond it.

import { statSync } from "node:fs";
import { ffi } from "../../../src/native/ffi.ts";
import { libc } from "./libc.ts";

const O_RDONLY = 0;
const O_CLOEXEC = 0o2000000;
const POSIX_FADV_DONTNEED = 4;
const PROT_READ = 1;
const MAP_SHARED = 1;
const PAGE_BYTES = 4096;

function withFile<T>(path: string, use: (fd: number) => T): T {
  const name = new TextEncoder().encode(`${path}\0`);
  const fd = libc().open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw new Error(`${path} cannot be opened`);
  try {
    return use(fd);
  } finally {
    libc().close(fd);
  }
}

/** Writes everything that the file system of `directory` has not yet on disk. Blocks. */
export function syncFileSystem(directory: string): void {
  withFile(directory, (fd) => {
    if (libc().syncfs(fd) !== 0) throw new Error(`syncfs of ${directory} failed`);
  });
}

/** Throws the files' pages out of the page cache; they must be written out already. */
export function dropFromCache(paths: readonly string[]): void {
  for (const path of paths) {
    withFile(path, (fd) => libc().posix_fadvise(fd, 0n, 0n, POSIX_FADV_DONTNEED));
  }
}

/** Which share of the files' pages is in the page cache, 0 to 1. */
export function residentShare(paths: readonly string[]): number {
  let pages = 0;
  let resident = 0;
  for (const path of paths) {
    const { size } = statSync(path);
    if (size === 0) continue;
    const vector = new Uint8Array(new ArrayBuffer(Math.ceil(size / PAGE_BYTES)));
    withFile(path, (fd) => {
      const address = libc().mmap(0n, BigInt(size), PROT_READ, MAP_SHARED, fd, 0n);
      if (address <= 0n) throw new Error(`${path} cannot be mapped`);
      try {
        if (libc().mincore(address, BigInt(size), vector) !== 0) {
          throw new Error(`mincore of ${path} failed in ${ffi.runtime}`);
        }
      } finally {
        libc().munmap(address, BigInt(size));
      }
    });
    pages += vector.length;
    for (const page of vector) resident += page & 1;
  }
  return pages === 0 ? 0 : resident / pages;
}
