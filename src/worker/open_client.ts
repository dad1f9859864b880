// SPDX-License-Identifier: Apache-2.0
//
// Starts a worker or connects to one, and finds out which version of the protocol it speaks: HELLO
// is said, and where the worker does not know it, version 1 goes on over the same connection.

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
  /** "auto": 2 where the worker has it. */
  readonly protocol: "auto" | 1 | 2;
  /** What was asked for that version 1 cannot do, for a message; null: nothing. */
  readonly beyondVersion1: string | null;
}

/**
 * @throws {ShmError} why not; ENOTSUP: the worker has version 1 alone, and more was asked for;
 *   EPROTONOSUPPORT: version 2 was. Nothing is left behind then.
 */
export async function openClient(options: OpenClientOptions): Promise<ObjectClient> {
  const { open, handshake, limits, protocol, beyondVersion1 } = options;
  const connection = new ConnectionV2(open, limits);
  try {
    await connection.ready;
    const speaks2 = protocol !== 1 &&
      await sayHello(connection, handshake).then(() => true, protocol === 2 ? raise : ifUnknown);
    if (speaks2) return await ClientV2.open(options, connection);
    if (beyondVersion1 !== null) throw unsupported(beyondVersion1, "open connector");
    return await ClientV1.open(options, connection);
  } catch (error) {
    connection.discard(error as ShmError);
    await settlesWithin(connection.ended, GRACE_MS);
    throw error;
  }
}

function raise(error: unknown): never {
  throw error;
}

/** False for an error that says that there is no version 2. */
function ifUnknown(error: unknown): false {
  if (error instanceof ShmError && error.code === "EPROTONOSUPPORT") return false;
  throw error;
}
