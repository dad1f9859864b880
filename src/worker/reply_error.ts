// SPDX-License-Identifier: Apache-2.0
//
// A worker's ERROR reply as a ShmError with a hint.

import { type ErrorDetails, knownCode, ShmError } from "../errors.ts";
import { errnoNumber } from "./errno_text.ts";
import type { ErrorReply } from "./reply.ts";

/** An engine's own error says what to do there; which of the two the worker has is not known here. */
const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: "Free space in the store: in its engine, or in its directory's file system",
  EDQUOT: "The disk quota of the user that runs the worker is used up",
  EACCES: "Where the store is a directory, check its permissions, and that it is below the " +
    "worker's --root",
  EROFS: "The storage directory's file system is mounted read-only",
  ENOENT:
    "Where the store is a directory, check that the storage directory exists where the worker " +
    "runs. A worker keeps the directory that it found at its start: if that was removed and made again, open the " +
    "connector again, or restart the worker if it runs by itself",
  ENOTDIR: "A part of the storage directory's path is not a directory",
  EMFILE: "Raise the limit of open files (ulimit -n) of the worker",
  ENFILE:
    "The system has as many files open as it can (fs.file-max): raise that, or end what opens " +
    "them",
  EIO: "Where the store is a directory, its device reports an error: see the kernel's log",
};

/** The worker's quota says by itself what to do. */
function hintOf({ code, message }: ErrorReply): string | undefined {
  return code === "ENOSPC" && message.includes("--max-bytes")
    ? "Of a worker that is started here, maxBytes is its --max-bytes"
    : HINTS[code];
}

/**
 * @param operation what was asked, e.g. "put m@1@0@ff@half"
 * @param hint instead of the usual one for the reply's code
 */
export function replyError(
  reply: ErrorReply,
  operation: string,
  details: ErrorDetails = {},
  hint: string | undefined = hintOf(reply),
): ShmError {
  const errno = errnoNumber(reply.code);
  // The message may begin with the code and with what was asked, which ShmError shows anyway.
  const message = withoutPrefix(
    withoutPrefix(reply.message, `${reply.code} `),
    `${operation}: `,
  );
  return new ShmError(`the worker answered: ${message}`, {
    code: knownCode(reply.code) ?? "EIO",
    operation,
    ...(errno === undefined ? {} : { errno }),
    ...(hint === undefined ? {} : { hint }),
    details: { ...details, reply: reply.message },
  });
}

function withoutPrefix(text: string, prefix: string): string {
  return text.startsWith(prefix) ? text.slice(prefix.length) : text;
}
