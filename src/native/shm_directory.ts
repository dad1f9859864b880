// SPDX-License-Identifier: Apache-2.0
//
// /dev/shm itself, and what to do about an error that opening a segment in it gave.

import type { ErrorCode } from "../errors.ts";
import type { OpenRequest } from "./native_segment.ts";

export const SHM_DIRECTORY = "/dev/shm";

export const NO_DIRECTORY_HINT = "There is no /dev/shm: mount a tmpfs there " +
  "(mount -t tmpfs -o mode=1777 tmpfs /dev/shm), or use an anonymous segment, which needs none";

/** What tells causes apart that give the same errno. */
interface ErrorFacts {
  readonly isShmMissing: boolean;
  /** The segment belongs to another user. */
  readonly isOthers: boolean;
}

/** A fix worth naming, by errno. */
export function openHint(
  code: ErrorCode,
  request: OpenRequest,
  { isShmMissing, isOthers }: ErrorFacts,
): string | undefined {
  switch (code) {
    case "ENOSPC":
      return "Ask for less, free other segments, or enlarge /dev/shm " +
        "(docker run --shm-size, mount -o remount,size=...)";
    case "EEXIST":
      return "Choose another name, or stop the process that uses this one" +
        (request.ifExists === "replace" ? "" : '; ifExists: "replace" takes over a segment that ' +
          "was not made by lmshm");
    case "ENODEV":
      return 'Use pin: "auto" where a GPU is optional';
    case "ENOENT":
      if (isShmMissing) return NO_DIRECTORY_HINT;
      return "Create the segment first, under the same name and as the same user";
    case "EACCES":
      return isOthers
        ? "The segment belongs to another user; run as that user or choose another name"
        : "This user may not make files in /dev/shm: its mode should be 1777";
    case "EROFS":
      return "/dev/shm is mounted read-only";
    default:
      return undefined;
  }
}
