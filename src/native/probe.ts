// SPDX-License-Identifier: Apache-2.0
//
// What the system can do, tried out by system calls that neither runtime offers: what a directory's
// file system can, Landlock, file capabilities. Leaves nothing behind.

import process from "node:process";
import { cString, probeCalls } from "./c_library.ts";

const O_RDWR = 2;
const O_CLOEXEC = 0o2000000;
/** O_DIRECT and O_DIRECTORY have each other's number on arm64. */
const ARM = process.arch === "arm64";
const O_DIRECT = ARM ? 0o200000 : 0o40000;
const O_DIRECTORY = ARM ? 0o40000 : 0o200000;
const O_TMPFILE = 0o20000000 | O_DIRECTORY;
const LANDLOCK_CREATE_RULESET = 444n;
const LANDLOCK_VERSION = 1n;

export interface DirectoryAbilities {
  /** Files without a name (O_TMPFILE). */
  readonly nameless: boolean;
  /** I/O past the page cache (O_DIRECT); whether it is refused at last is seen when it is done. */
  readonly direct: boolean;
  /** User extended attributes. */
  readonly attributes: boolean;
}

/**
 * What files of an existing directory that may be written to can have.
 * @param scratch the path of an empty file in it, for where there are no nameless ones
 */
export function probeDirectory(directory: string, scratch: string): DirectoryAbilities {
  const { open, close, fsetxattr } = probeCalls();
  const tries = (path: string, flags: number, also?: (fd: number) => boolean) => {
    const fd = open(cString(path), flags | O_CLOEXEC, 0o600);
    if (fd < 0) return false;
    const fine = also === undefined || also(fd);
    close(fd);
    return fine;
  };
  const value = cString("1");
  return {
    nameless: tries(directory, O_TMPFILE | O_RDWR),
    direct: tries(scratch, O_RDWR | O_DIRECT),
    attributes: tries(
      scratch,
      O_RDWR,
      (fd) => fsetxattr(fd, cString("user.lmshm_probe"), value, 1n, 0) === 0,
    ),
  };
}

/** Version of the kernel's Landlock; 0: there is none, or this process may not use it. */
export function landlockVersion(): number {
  const version = probeCalls().syscall(LANDLOCK_CREATE_RULESET, 0n, 0n, LANDLOCK_VERSION);
  return version > 0n ? Number(version) : 0;
}

/** Whether a program has file capabilities (setcap), which take rights from its processes, too. */
export function hasFileCapabilities(path: string): boolean {
  const value = new Uint8Array(new ArrayBuffer(64));
  return probeCalls().getxattr(cString(path), cString("security.capability"), value, 64n) > 0n;
}
