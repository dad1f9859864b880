// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a connection of version 2: AUTH where a secret is known, HELLO, ATTACH.

import { ShmError } from "../errors.ts";
import type { WorkerHello } from "./answers_v2.ts";
import { errnoNumber } from "./errno_text.ts";
import { attachError, authError, type Handshake } from "./handshake.ts";
import type { ObjectConnection } from "./object_connection.ts";
import type { Reply } from "./protocol.ts";
import { encodeAttachment } from "./protocol_v2.ts";
import { PlainCall } from "./query_calls.ts";
import { bestName } from "./segment_reference.ts";

/**
 * @throws {ShmError} EPROTONOSUPPORT: the worker does not speak version 2; else its reason for
 *   refusing. The connection is of no use then and must be discarded by the caller.
 */
export async function greetWorker(
  connection: ObjectConnection,
  handshake: Handshake,
): Promise<WorkerHello> {
  const { segment, secret } = handshake;
  const greeting = await connection.greet(secret);
  if ("auth" in greeting) throw authError(greeting.auth, connection.peer);
  if (connection.hello.boot === "") throw versionError(greeting.hello, connection.peer);
  const words = encodeAttachment(bestName(segment), segment.sizeBytes, segment.identity);
  const refusal = await connection.ask(new PlainCall("ATTACH", words));
  if (refusal !== null) throw attachError(refusal, segment, true, connection.peer);
  return connection.hello;
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
