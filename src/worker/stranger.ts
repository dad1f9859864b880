// SPDX-License-Identifier: Apache-2.0
//
// Who listens on a Unix socket: there the user is asked for, where TCP has a secret. A worker serves
// its own user only, so one of another user is not ours, whatever it answers.

import { lstatSync } from "node:fs";
import type { Socket } from "node:net";

/** How to ask; src/native/users.ts has it. */
export interface Users {
  /** This process's. */
  own(): number;
  /** Of the process at the other end of a connected socket; null where that cannot be known. */
  peerOf(socket: Socket): number | null;
}

/**
 * What is wrong with whoever listens on the socket file `path`, to which `socket` is connected.
 *
 * The kernel says who it is. Where the runtime keeps the question from being asked, the file's
 * owner must do: somebody who may replace files in its directory could deceive that.
 */
export function strangerOn(path: string, socket: Socket, users: Users): Error | null {
  const own = users.own();
  const peer = users.peerOf(socket);
  const user = peer ?? lstatSync(path).uid;
  if (user === own) return null;
  return Object.assign(
    new Error(
      `user ${user} ${peer === null ? "owns it" : "listens there"}, and this is user ${own}`,
    ),
    { code: "EACCES" },
  );
}
