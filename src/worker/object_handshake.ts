// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a connection of version 2: the login where a secret is known (login.ts),
// HELLO, ATTACH.

import { ShmError } from "../errors.ts";
import type { WorkerHello } from "./answers_v2.ts";
import { errnoNumber } from "./errno_text.ts";
import { attachError, type Handshake } from "./handshake.ts";
import { asksForSecret, logIn, SECRET_HINT } from "./login.ts";
import type { ObjectConnection } from "./object_connection.ts";
import type { ErrorReply, Reply } from "./protocol.ts";
import { encodeAttachment } from "./protocol_v2.ts";
import { PlainCall } from "./query_calls.ts";
import { replyError } from "./reply_error.ts";
import { bestName } from "./segment_reference.ts";

/** What a worker answers to HELLO that does not know it, or has no version 2. */
const UNKNOWN_HELLO = new Set(["EPROTONOSUPPORT", "EINVAL", "ENOSYS", "EWORKER"]);

/**
 * @throws {ShmError} EPROTONOSUPPORT: the worker does not speak version 2; else its reason for
 *   refusing. The connection is of no use then and must be discarded by the caller.
 */
export async function greetWorker(
  connection: ObjectConnection,
  handshake: Handshake,
): Promise<WorkerHello> {
  const { segment, secret } = handshake;
  if (secret !== null) {
    await logIn((what, line) => connection.say(what, line), secret, connection.peer);
  }
  const greeting = await connection.greet();
  if (!greeting.ok && !UNKNOWN_HELLO.has(greeting.code)) {
    throw helloError(greeting, connection.peer);
  }
  if (connection.hello.boot === "") throw versionError(greeting, connection.peer);
  const words = encodeAttachment(bestName(segment), segment.sizeBytes, segment.identity);
  const refusal = await connection.ask(new PlainCall("ATTACH", words));
  if (refusal !== null) throw attachError(refusal, segment, true, connection.peer);
  return connection.hello;
}

/** The worker speaks to others, or at other times. */
function helloError(reply: ErrorReply, peer: string): ShmError {
  const hint = asksForSecret(reply)
    ? SECRET_HINT
    : reply.code === "EACCES"
    ? "A worker serves its own user only: run both as one user"
    : undefined;
  return replyError(reply, `say HELLO to the ${peer}`, {}, hint);
}

function versionError(reply: Reply, peer: string): ShmError {
  const said = reply.ok ? `OK ${reply.text}`.trim() : reply.message;
  const errno = errnoNumber("EPROTONOSUPPORT");
  return new ShmError(`the ${peer} does not speak version 2 of the protocol; it said: ${said}`, {
    code: "EPROTONOSUPPORT",
    operation: "say HELLO",
    ...(errno === undefined ? {} : { errno }),
    hint: "Use version 1, or start lmshm-worker with --root",
    details: { said },
  });
}
