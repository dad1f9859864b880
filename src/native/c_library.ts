// SPDX-License-Identifier: Apache-2.0
//
// The few functions of the C library itself that neither runtime offers.

import { throwIfRefused } from "../permission.ts";
import { ffi } from "./ffi.ts";
import { type Functions, LIBC_SYMBOLS } from "./symbols.ts";

let opened: Functions<typeof LIBC_SYMBOLS> | undefined;

/**
 * The C library of this process, glibc or musl.
 * @throws {ShmError} EPERM: Deno does not allow it.
 */
export function cLibrary(): Functions<typeof LIBC_SYMBOLS> {
  if (opened === undefined) {
    try {
      opened = ffi.open("libc.so.6", LIBC_SYMBOLS);
    } catch (error) {
      throwIfRefused(error, "loading the C library", "call the C library");
      opened = ffi.open("libc.so", LIBC_SYMBOLS);
    }
  }
  return opened;
}
