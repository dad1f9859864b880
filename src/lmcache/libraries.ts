// SPDX-License-Identifier: Apache-2.0
//
// The libraries that the client stands on, loaded when somebody connects. They are optional peers of
// the package: who never talks to a server of LMCache has none of them.

import { ShmError } from "../errors.ts";

/** What to install, as package managers take it. */
export const PEERS = [
  "@bufbuild/protobuf@2",
  "@connectrpc/connect@2",
  "@connectrpc/connect-node@2",
  "@msgpack/msgpack@3",
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
