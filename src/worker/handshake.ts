// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a new connection: AUTH where a secret is known, ATTACH, and a PING that
// tells lmshm-worker from a worker that knows version 1 only. All at once: one round trip.

import { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import type { Connection } from "./connection.ts";
import {
  type AttachRequest,
  encodeAttach,
  encodeAuth,
  encodePing,
  type ErrorReply,
  type Reply,
} from "./protocol.ts";
import { replyError } from "./reply_error.ts";

export interface Handshake {
  readonly attach: AttachRequest;
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
  const { attach, secret } = handshake;
  const auth = secret === null ? null : ask("AUTH", encodeAuth(secret));
  const attached = ask(`ATTACH ${attach.name}`, encodeAttach(attach));
  const ping = ask("PING", encodePing());

  const authReply = await auth;
  if (authReply && !authReply.ok) throw authError(authReply, connection.peer);
  const attachReply = await attached;
  const pingReply = await ping.catch(() => null);
  if (!attachReply.ok) {
    throw attachError(attachReply, attach, pingReply?.ok ?? false, connection.peer);
  }
  if (pingReply === null) await ping;
  return { extended: pingReply?.ok ?? false };
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
  attach: AttachRequest,
  extended: boolean,
  peer: string,
): ShmError {
  const anonymous = attach.name.startsWith("fd:");
  const hint = anonymous && !extended
    ? "Only lmshm-worker can attach an anonymous segment: give the segment a name"
    : /\bAUTH\b|authenticat/i.test(reply.message)
    ? "Give the worker's secret: secret, secretFile or the variable LMSHM_SECRET"
    : reply.code === "ENOENT"
    ? "The worker must see the same /dev/shm: share it between the containers, and create the " +
      "segment before the connection"
    : reply.code === "EACCES" || reply.code === "EPERM"
    ? "The worker attaches segments of its own user only: run both as one user"
    : undefined;
  const details = { name: attach.name, sizeBytes: attach.sizeBytes };
  return replyError(reply, `attach segment ${attach.name} in the ${peer}`, details, hint);
}
