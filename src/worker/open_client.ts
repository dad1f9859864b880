// SPDX-License-Identifier: Apache-2.0
//
// Starts a worker or connects to one, and finds out which version of the protocol it speaks: HELLO
// is said, and where the worker does not know it, version 1 goes on over the same connection, as
// LMCache's worker serves no second one.

import { ShmError } from "../errors.ts";
import { GRACE_MS } from "./limits.ts";
import type { ClientOptions, ObjectClient } from "./object_client.ts";
import { settlesWithin } from "../wait.ts";
import { ClientV1 } from "./v1/client.ts";
import { unsupported } from "./v1/unsupported.ts";
import { ClientV2 } from "./v2/client.ts";
import { ConnectionV2 } from "./v2/connection.ts";
import { sayHello } from "./v2/handshake.ts";

interface OpenClientOptions extends ClientOptions {
  /** What was asked for that version 1 cannot do, for a message; null: nothing. */
  readonly beyondVersion1: string | null;
}

/**
 * @throws {ShmError} why not; ENOTSUP: the worker has version 1 alone, and more was asked for.
 *   Nothing is left behind then.
 */
export async function openClient(options: OpenClientOptions): Promise<ObjectClient> {
  const { open, handshake, limits, beyondVersion1, signal } = options;
  signal?.throwIfAborted();
  const connection = new ConnectionV2(open, limits);
  // All that is waited for from here on is waited for on this connection.
  const giveUp = () => connection.discard(signal?.reason);
  signal?.addEventListener("abort", giveUp);
  try {
    await connection.ready;
    if (await sayHello(connection, handshake).then(() => true, ifUnknown)) {
      return await ClientV2.open(options, connection);
    }
    if (beyondVersion1 !== null) throw unsupported(beyondVersion1, "open connector");
    return await ClientV1.open(options, connection);
  } catch (error) {
    connection.discard(error as ShmError);
    await settlesWithin(connection.ended, GRACE_MS);
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", giveUp);
  }
}

/** False for an error that says that there is no version 2. */
function ifUnknown(error: unknown): false {
  if (!(error instanceof ShmError)) throw error;
  // A worker that does not start has the same code for an engine that wants TLS.
  if (error.code === "EPROTONOSUPPORT" && error.operation === "say HELLO") return false;
  if (error.code !== "ECONNRESET") throw error;
  throw new ShmError(
    "the worker closed the connection when it was asked which protocol it speaks",
    {
      code: "ECONNRESET",
      operation: "say HELLO",
      errno: error.errno,
      hint: "See its log. It must answer HELLO, or refuse it with ERROR as LMCache's worker does",
      details: error.details,
      cause: error,
    },
  );
}
