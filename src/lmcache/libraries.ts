// SPDX-License-Identifier: Apache-2.0
//
// The libraries that the client stands on, loaded when somebody connects. They are optional peers of
// the package: who never talks to a server of LMCache has none of them.

import { ShmError } from "../errors.ts";

/**
 * What to install, as package managers take it. With "@2" alone npm finds no two of Connect that go
 * together: it prefers what is tagged "latest", and that is not the newest of both.
 */
export const PEERS = [
  "@bufbuild/protobuf@2.17",
  "@connectrpc/connect@2.3",
  "@connectrpc/connect-node@2.3",
  "@msgpack/msgpack@3.1",
] as const;

type Grpc = typeof import("./wire/grpc.ts");

/** @throws {ShmError} ENOTSUP when one of them is not installed. */
export async function loadGrpc(): Promise<Grpc> {
  try {
    return await import("./wire/grpc.ts");
  } catch (cause) {
    const { message } = cause as Error;
    throw new ShmError(`a library that the client needs cannot be loaded: ${message}`, {
      code: "ENOTSUP",
      operation: "connect to LMCache",
      hint: `Install them: bun add ${PEERS.join(" ")}; in Deno: deno add ` +
        PEERS.map((peer) => `npm:${peer}`).join(" "),
      details: { packages: PEERS },
      cause,
    });
  }
}
