// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a new connection: the login where a secret is known (login.ts); then
// IDENTITY, which says what memory is meant and tells lmshm-worker from a worker that knows version
// 1 only, and ATTACH.

import { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import type { Connection } from "./connection.ts";
import { asksForSecret, logIn, SECRET_HINT } from "./login.ts";
import { encodeAttach, encodeIdentity, type ErrorReply, type Reply } from "./protocol.ts";
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
    // It may have ended between two answers.
    if (connection.ended !== null) return Promise.reject(connection.ended);
    const { limitMs } = handshake;
    const call = new Call({ what, line, bytes: 0, limitMs, retriable: false });
    connection.send(call);
    return call.promise;
  };
  const { segment, secret } = handshake;
  const { peer } = connection;
  if (secret !== null) await logIn(ask, secret, peer);
  const identified = await ask("IDENTITY", encodeIdentity(segment.identity));
  const extended = identified.ok;
  if (!identified.ok && asksForSecret(identified)) {
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

/** The worker refused ATTACH. @param extended whether it is lmshm-worker */
export function attachError(
  reply: ErrorReply,
  segment: SegmentReference,
  extended: boolean,
  peer: string,
): ShmError {
  const hint = asksForSecret(reply)
    ? SECRET_HINT
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
