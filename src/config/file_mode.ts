// SPDX-License-Identifier: Apache-2.0
//
// Modes that the files of a store may have; the worker's rule is the same (file_access.h).

/** Its owner can read and write, nobody can execute, and not everybody can write. */
export function isFileMode(mode: number): boolean {
  return Number.isInteger(mode) && mode >= 0 && mode <= 0o777 &&
    (mode & 0o600) === 0o600 && (mode & ~0o664) === 0;
}

/** Of a directory whose files have that mode: who may read these may enter it. */
export function directoryMode(fileMode: number): number {
  return fileMode | 0o100 | ((fileMode & 0o044) >> 2);
}
