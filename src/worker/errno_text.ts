// SPDX-License-Identifier: Apache-2.0
//
// From a worker's words to an errno name. lmshm-worker begins its messages with the name
// ("ENOENT open /x: No such file or directory"); LMCache's worker ends them with the C library's
// text ("open failed: No such file or directory"), which glibc and musl word alike except where
// both forms are listed.

import { constants } from "node:os";

const TEXTS: Readonly<Record<string, string>> = {
  "Operation not permitted": "EPERM",
  "No such file or directory": "ENOENT",
  "Input/output error": "EIO",
  "I/O error": "EIO",
  "Resource temporarily unavailable": "EAGAIN",
  "Cannot allocate memory": "ENOMEM",
  "Out of memory": "ENOMEM",
  "Permission denied": "EACCES",
  "Bad address": "EFAULT",
  "Device or resource busy": "EBUSY",
  "Resource busy": "EBUSY",
  "File exists": "EEXIST",
  "Invalid cross-device link": "EXDEV",
  "Cross-device link": "EXDEV",
  "Not a directory": "ENOTDIR",
  "Is a directory": "EISDIR",
  "Invalid argument": "EINVAL",
  "Too many open files in system": "ENFILE",
  "Too many open files": "EMFILE",
  "No file descriptors available": "EMFILE",
  "File too large": "EFBIG",
  "No space left on device": "ENOSPC",
  "Read-only file system": "EROFS",
  "File name too long": "ENAMETOOLONG",
  "Filename too long": "ENAMETOOLONG",
  "Too many levels of symbolic links": "ELOOP",
  "Symbolic link loop": "ELOOP",
  "Stale file handle": "ESTALE",
  "Disk quota exceeded": "EDQUOT",
  "Quota exceeded": "EDQUOT",
  "Connection timed out": "ETIMEDOUT",
};

/** "ENOENT" for a message that begins with that name or ends with its text, else "EWORKER". */
export function codeFromMessage(message: string): string {
  const named = /^(E[A-Z0-9]{2,15})(?= |:|$)/.exec(message);
  if (named) return named[1]!;
  if (/^unknown command\b/i.test(message)) return "ENOSYS";
  const tail = message.slice(message.lastIndexOf(": ") + 1).trim();
  return TEXTS[tail] ?? TEXTS[message] ?? "EWORKER";
}

/** The kernel's number for an errno name on this machine; undefined for the library's own codes. */
export function errnoNumber(code: string): number | undefined {
  return (constants.errno as Readonly<Record<string, number>>)[code];
}
