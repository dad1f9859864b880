// SPDX-License-Identifier: Apache-2.0
//
// What is said first on a connection of version 2: HELLO, which names the directory, and ATTACH.

import { ShmError } from "../../errors.ts";
import { errnoNumber } from "../errno_text.ts";
import { attachError, type Handshake } from "../handshake.ts";
import { asksForSecret, SECRET_HINT } from "../login.ts";
import type { ErrorReply, Reply } from "../reply.ts";
import { replyError } from "../reply_error.ts";
import { bestName } from "../segment_reference.ts";
import { parseHello, type WorkerHello } from "./answers.ts";
import type { ConnectionV2 } from "./connection.ts";
import { plain, QueryCall } from "./query_calls.ts";
import { encodeAttachment, helloLine } from "./requests.ts";

/** What a worker answers to HELLO that does not know it, or has another version. */
const UNKNOWN_HELLO = new Set(["EPROTONOSUPPORT", "ENOSYS", "EWORKER"]);

const DIRECTORY_HINTS: Readonly<Record<string, string>> = {
  EXDEV: "storageDir must be in the worker's --root, by the path that it has where the worker runs",
  ELOOP: "No symbolic link may be on the way from the worker's --root to storageDir",
  ENOTDIR: "A part of storageDir's path is not a directory",
  EMFILE: "The worker keeps as many directories as it can: use fewer, or raise its limit of open " +
    "files (ulimit -n)",
};

/**
 * Says HELLO, once. The connection speaks version 1 on, unless it succeeds.
 * @throws {ShmError} EPROTONOSUPPORT: the worker does not speak version 2; else its reason for
 *   refusing, such as EXDEV for a directory outside its root.
 */
export async function sayHello(
  connection: ConnectionV2,
  { secret, directory }: Handshake,
): Promise<WorkerHello> {
  if (connection.hello !== null) return connection.hello;
  const { peer } = connection;
  await connection.logIn(secret);
  const reply = await connection.say("HELLO", helloLine(directory));
  const hello = reply.ok ? parseHello(reply.text) : null;
  if (hello === null) {
    if (reply.ok || UNKNOWN_HELLO.has(reply.code)) throw versionError(reply, peer);
    throw helloError(reply, directory, peer);
  }
  connection.hello = hello;
  return hello;
}

/** Attaches the segment. @throws {ShmError} the worker's reason for refusing. */
export async function attach(connection: ConnectionV2, { segment }: Handshake): Promise<void> {
  const words = encodeAttachment(bestName(segment), segment.sizeBytes, segment.identity);
  const { refusal } = await connection.ask(new QueryCall(null, plain("ATTACH", words)));
  if (refusal !== null) throw attachError(refusal, segment, connection.peer);
}

/** The worker speaks to others, at other times, or of other directories. */
function helloError(reply: ErrorReply, directory: string, peer: string): ShmError {
  const aboutDirectory = reply.message.includes("HELLO 2: ");
  const hint = asksForSecret(reply)
    ? SECRET_HINT
    : aboutDirectory
    ? DIRECTORY_HINTS[reply.code]
    : reply.code === "EACCES"
    ? "A worker serves its own user only: run both as one user"
    : undefined;
  return replyError(reply, `say HELLO to the ${peer}`, { storageDir: directory }, hint);
}

function versionError(reply: Reply, peer: string): ShmError {
  const said = reply.ok ? `OK ${reply.text}`.trim() : reply.message;
  const errno = errnoNumber("EPROTONOSUPPORT");
  return new ShmError(`the ${peer} does not speak version 2 of the protocol; it said: ${said}`, {
    code: "EPROTONOSUPPORT",
    operation: "say HELLO",
    ...(errno === undefined ? {} : { errno }),
    hint: "Start lmshm-worker there; with another worker open a new connector",
    details: { said },
  });
}
