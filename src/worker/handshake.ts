// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a new connection: the login where a secret is known (login.ts); then ATTACH,
// and a PING that tells lmshm-worker from a worker that knows version 1 only, both at once.

import { ShmError } from "../errors.ts";
import { Call } from "./call.ts";
import type { Connection } from "./connection.ts";
import { asksForSecret, logIn, SECRET_HINT } from "./login.ts";
import {
  type AttachRequest,
  encodeAttach,
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
    // It may have ended between two answers.
    if (connection.ended !== null) return Promise.reject(connection.ended);
    const { limitMs } = handshake;
    const call = new Call({ what, line, bytes: 0, limitMs, retriable: false });
    connection.send(call);
    return call.promise;
  };
  const { attach, secret } = handshake;
  if (secret !== null) await logIn(ask, secret, connection.peer);
  const attached = ask(`ATTACH ${attach.name}`, encodeAttach(attach));
  const ping = ask("PING", encodePing());

  const attachReply = await attached;
  const pingReply = await ping.catch(() => null);
  if (!attachReply.ok) {
    throw attachError(attachReply, attach, pingReply?.ok ?? false, connection.peer);
  }
  if (pingReply === null) await ping;
  return { extended: pingReply?.ok ?? false };
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
    : asksForSecret(reply)
    ? SECRET_HINT
    : reply.code === "ENOENT"
    ? "The worker must see the same /dev/shm: share it between the containers, and create the " +
      "segment before the connection"
    : reply.code === "EACCES" || reply.code === "EPERM"
    ? "The worker attaches segments of its own user only: run both as one user"
    : undefined;
  const details = { name: attach.name, sizeBytes: attach.sizeBytes };
  return replyError(reply, `attach segment ${attach.name} in the ${peer}`, details, hint);
}
