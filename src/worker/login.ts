// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end of a TCP connection: both ends prove that they know the secret, and
// neither says it. Before the worker has proven itself nothing is told to it, and nothing believed
// of it. docs/protocol.md specifies the proofs; csrc/worker/server/login.h is the counterpart.

import { Buffer } from "node:buffer";
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { ShmError } from "../errors.ts";
import { errnoNumber } from "./errno_text.ts";
import type { ErrorReply, Reply } from "./reply.ts";
import { replyError } from "./reply_error.ts";

/** Sends a line of the beginning of a connection, and resolves with the answer to it. */
export type Ask = (what: string, line: string) => Promise<Reply>;

type ProofOf = "client" | "worker";

const DIGITS = /^[0-9a-f]{64}$/;

/** Throws a RangeError, without the secret in it, unless a worker can accept `secret`. */
export function checkSecret(secret: string): void {
  if (!/^[\x21-\x7e]{16,1024}$/.test(secret)) {
    throw new RangeError(
      `a secret has 16 to 1,024 printable ASCII characters without spaces; this one has ` +
        `${secret.length} characters`,
    );
  }
}

/** What one end proves: 64 hexadecimal digits. The nonces as they were said. */
export function loginProof(
  of: ProofOf,
  secret: string,
  clientNonce: string,
  workerNonce: string,
): string {
  return createHmac("sha256", secret)
    .update(`lmshm ${of} 1\0${clientNonce}\0${workerNonce}`)
    .digest("hex");
}

/**
 * Proves to a worker that this program knows the secret, and demands the same of it.
 * @throws {ShmError} EACCES: one of the two does not know it; ENOSYS: the worker knows no secrets;
 *   else its reason for refusing. The connection must be discarded then.
 */
export async function logIn(ask: Ask, secret: string, peer: string): Promise<void> {
  const clientNonce = randomBytes(32).toString("hex");
  const challenge = await ask("CHALLENGE", `CHALLENGE ${clientNonce}\n`);
  if (!challenge.ok) throw refusalError(challenge, peer);
  const workerNonce = challenge.text;
  if (!DIGITS.test(workerNonce)) throw impostorError(peer);

  const proof = loginProof("client", secret, clientNonce, workerNonce);
  const answer = await ask("PROVE", `PROVE ${proof}\n`);
  if (!answer.ok) throw refusalError(answer, peer);
  const expected = Buffer.from(loginProof("worker", secret, clientNonce, workerNonce));
  const given = Buffer.from(answer.text);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    throw impostorError(peer);
  }
}

/** Whether a refusal says that a secret is missing. */
export function asksForSecret(reply: ErrorReply): boolean {
  return reply.code === "EACCES" && /authenticat/i.test(reply.message);
}

/** For those whom a worker refuses because they have shown no secret. */
export const SECRET_HINT =
  "Give the worker's secret: secret, secretFile or the variable LMSHM_SECRET";

function impostorError(peer: string): ShmError {
  const who = peer.replace(/^worker (?=at )/, "");
  return new ShmError(
    `whoever answers ${who} does not know the secret: it is not your worker`,
    {
      code: "EACCES",
      operation: "log in",
      errno: errnoNumber("EACCES")!,
      hint: "Find out which program listens there before anything else; nothing was told to it. " +
        "If it is your worker, it was started with another secret",
      details: { peer },
    },
  );
}

function refusalError(reply: ErrorReply, peer: string): ShmError {
  const unknown = reply.code === "ENOSYS" || /unknown command/i.test(reply.message);
  return replyError(
    unknown ? { ...reply, code: "ENOSYS" } : reply,
    `log in to the ${peer}`,
    {},
    unknown
      ? "It asks for no secret: it is not lmshm-worker, or was started with --no-auth. Leave the " +
        "secret out (also the variable LMSHM_SECRET) if it is to be trusted"
      : reply.code === "EACCES"
      ? "secret, secretFile or LMSHM_SECRET must be what the worker was started with"
      : undefined,
  );
}
