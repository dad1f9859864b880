// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a new connection: AUTH where a secret is known, IDENTITY, which says what
// memory is meant and tells lmshm-worker from a worker that knows version 1 only, and ATTACH.

import { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import type { Connection } from "./connection.ts";
import {
  encodeAttach,
  encodeAuth,
  encodeIdentity,
  type ErrorReply,
  type Reply,
} from "./protocol.ts";
import { replyError } from "./reply_error.ts";
import {
  bestName,
  lostNameHint,
  mustLeadToSegment,
  type SegmentReference,
} from "./segment_reference.ts";

export interface Handshake {
  readonly segment: SegmentReference;
  readonly secret: string | null;
  readonly limitMs: number;
}

export interface WorkerFacts {
  /** It is lmshm-worker, or knows its extensions: paths may contain spaces, writes are atomic. */
  readonly extended: boolean;
}

/**
 * @throws {ShmError} when the worker refuses; the connection is of no use then and must be
 *   discarded by the caller.
 */
export async function shakeHands(
  connection: Connection,
  handshake: Handshake,
): Promise<WorkerFacts> {
  const ask = (what: string, line: string): Promise<Reply> => {
    const { limitMs } = handshake;
    const call = new Call({ what, line, bytes: 0, limitMs, retriable: false });
    connection.send(call);
    return call.promise;
  };
  const { segment, secret } = handshake;
  const auth = secret === null ? null : ask("AUTH", encodeAuth(secret));
  const authReply = await auth;
  if (authReply && !authReply.ok) throw authError(authReply, connection.peer);

  const { peer } = connection;
  const identified = await ask("IDENTITY", encodeIdentity(segment.identity));
  const extended = identified.ok;
  if (!identified.ok && isAuthWanted(identified)) {
    throw attachError(identified, segment, extended, peer);
  }
  // Nobody else can attach by descriptor, nor prove anything.
  const name = extended ? bestName(segment) : segment.name ?? bestName(segment);
  if (!extended) mustLeadToSegment(segment, peer);
  const attached = await ask(`ATTACH ${name}`, encodeAttach({ ...segment, name }));
  if (!attached.ok) throw attachError(attached, segment, extended, peer);
  if (!extended) mustLeadToSegment(segment, peer);
  return { extended };
}

function isAuthWanted(reply: ErrorReply): boolean {
  return /\bAUTH\b|authenticat/i.test(reply.message);
}

/** The worker refused AUTH. */
export function authError(reply: ErrorReply, peer: string): ShmError {
  const unknown = reply.code === "ENOSYS" || /unknown command/i.test(reply.message);
  return replyError(
    reply,
    `authenticate to the ${peer}`,
    {},
    unknown
      ? "This worker has no authentication: it is not lmshm-worker. Leave the secret out " +
        "(also the variable LMSHM_SECRET) if it is to be trusted"
      : "secret, secretFile or LMSHM_SECRET must be what the worker was started with",
  );
}

/** The worker refused ATTACH. @param extended whether it is lmshm-worker */
export function attachError(
  reply: ErrorReply,
  segment: SegmentReference,
  extended: boolean,
  peer: string,
): ShmError {
  const hint = isAuthWanted(reply)
    ? "Give the worker's secret: secret, secretFile or the variable LMSHM_SECRET"
    : segment.name === null && !extended
    ? "Only lmshm-worker can attach an anonymous segment: give the segment a name"
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
