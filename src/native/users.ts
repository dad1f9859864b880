// SPDX-License-Identifier: Apache-2.0
//
// Which user this process is, and which user is at the other end of a Unix socket, as the kernel
// says it. Asked of the C library: Deno tells the first only with a permission of its own, and
// neither runtime tells the second.

import type { Socket } from "node:net";
import { throwIfRefused } from "../permission.ts";
import { ffi } from "./ffi.ts";
import { LIBC_SYMBOLS } from "./symbols.ts";

const { geteuid, getsockopt } = LIBC_SYMBOLS;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
/** struct ucred: pid, uid, gid. */
const UCRED_BYTES = 12;

function open() {
  try {
    return ffi.open("libc.so.6", { geteuid, getsockopt });
  } catch (error) {
    throwIfRefused(error, "loading the C library", "look up user");
    return ffi.open("libc.so", { geteuid, getsockopt });
  }
}

let libc: ReturnType<typeof open> | undefined;

/** The effective user id of this process. */
export function ownUser(): number {
  libc ??= open();
  return libc.geteuid();
}

/**
 * The effective user id with which the process at the other end of a connected Unix socket began to
 * listen. Null where the runtime does not say which descriptor the socket has: it need not.
 */
export function peerUserOf(socket: Socket): number | null {
  const { _handle } = socket as unknown as { _handle?: { readonly fd?: unknown } | null };
  const fd = _handle?.fd;
  if (typeof fd !== "number" || !Number.isInteger(fd) || fd < 0) return null;
  libc ??= open();
  const credentials = new Uint8Array(UCRED_BYTES);
  const length = new Uint8Array(new Uint32Array([UCRED_BYTES]).buffer);
  if (libc.getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, length) !== 0) return null;
  // A socket that is not connected has no peer, and user 0xffffffff.
  const [pid, uid] = new Uint32Array(credentials.buffer);
  return pid === 0 && uid === 0xffff_ffff ? null : uid!;
}
