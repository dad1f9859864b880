// SPDX-License-Identifier: Apache-2.0
//
// What a client says first on a new connection: the login where a secret is known (login.ts), HELLO
// (v2/handshake.ts), and ATTACH. Here: what both versions have to tell, and what a refusal means.

import type { ShmError } from "../errors.ts";
import { asksForSecret, SECRET_HINT } from "./login.ts";
import type { ErrorReply } from "./reply.ts";
import { replyError } from "./reply_error.ts";
import { bestName, lostNameHint, type SegmentReference } from "./segment_reference.ts";

export interface Handshake {
  readonly segment: SegmentReference;
  readonly secret: string | null;
  /** Where the objects are: absolute, or below the worker's root; "": the root itself. */
  readonly directory: string;
}

/** The worker refused ATTACH, or what comes before it. */
export function attachError(reply: ErrorReply, segment: SegmentReference, peer: string): ShmError {
  const hint = asksForSecret(reply)
    ? SECRET_HINT
    : reply.code === "ENOENT" || reply.code === "ESTALE"
    ? lostNameHint(segment)
    : reply.code === "EACCES" || reply.code === "EPERM"
    ? "The worker attaches segments of its own user only: run both as one user"
    : undefined;
  const { sizeBytes, identity } = segment;
  const name = segment.name ?? bestName(segment);
  const details = { name, sizeBytes, identity };
  return replyError(reply, `attach segment ${name} in the ${peer}`, details, hint);
}
