// SPDX-License-Identifier: Apache-2.0
//
// Which user this process is, and which user is at the other end of a Unix socket, as the kernel
// says it. Asked of the C library: Deno tells the first only with a permission of its own, and
// neither runtime tells the second.

import type { Socket } from "node:net";
import { cLibrary } from "./c_library.ts";

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
/** struct ucred: pid, uid, gid. */
const UCRED_BYTES = 12;

/** The effective user id of this process. */
export function ownUser(): number {
  return cLibrary().geteuid();
}

/**
 * The effective user id with which the process at the other end of a connected Unix socket began to
 * listen. Null where the runtime does not say which descriptor the socket has: it need not.
 */
export function peerUserOf(socket: Socket): number | null {
  const { _handle } = socket as unknown as { _handle?: { readonly fd?: unknown } | null };
  const fd = _handle?.fd;
  if (typeof fd !== "number" || !Number.isInteger(fd) || fd < 0) return null;
  const credentials = new Uint8Array(UCRED_BYTES);
  const length = new Uint8Array(new Uint32Array([UCRED_BYTES]).buffer);
  if (cLibrary().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length) !== 0) return null;
  // A socket that is not connected has no peer, and user 0xffffffff.
  const [pid, uid] = new Uint32Array(credentials.buffer);
  return pid === 0 && uid === 0xffff_ffff ? null : uid!;
}
