// SPDX-License-Identifier: Apache-2.0
//
// The few functions of the C library itself that neither runtime offers.

import { throwIfRefused } from "../permission.ts";
import { ffi } from "./ffi.ts";
import {
  EXEC_SYMBOLS,
  type Functions,
  LIBC_SYMBOLS,
  MEMORY_FILE_SYMBOLS,
  PLAIN_SYMBOLS,
  PROBE_SYMBOLS,
  type SymbolTable,
} from "./symbols.ts";

/** Functions of the C library of this process, glibc or musl. */
function open<T extends SymbolTable>(table: T): Functions<T> {
  try {
    return ffi.open("libc.so.6", table);
  } catch (error) {
    throwIfRefused(error, "loading the C library", "call the C library");
    return ffi.open("libc.so", table);
  }
}

let opened: Functions<typeof LIBC_SYMBOLS> | undefined;
let probes: Functions<typeof PROBE_SYMBOLS> | undefined;
let plain: Functions<typeof PLAIN_SYMBOLS> | undefined;
let memoryFiles: Functions<typeof MEMORY_FILE_SYMBOLS> | undefined;

/**
 * What the C library says about users.
 * @throws {ShmError} EPERM: Deno does not allow it.
 */
export function cLibrary(): Functions<typeof LIBC_SYMBOLS> {
  return opened ??= open(LIBC_SYMBOLS);
}

/**
 * What makes files in memory. Apart: opening a table takes a millisecond in Bun.
 * @throws {ShmError} EPERM: Deno does not allow it.
 */
export function memoryFileCalls(): Functions<typeof MEMORY_FILE_SYMBOLS> {
  return memoryFiles ??= open(MEMORY_FILE_SYMBOLS);
}

/** What takes another program in the place of this one. @throws as cLibrary(). */
export function execCalls(): Functions<typeof EXEC_SYMBOLS> {
  return open(EXEC_SYMBOLS);
}

/** What tells what the system can do. @throws as cLibrary(). */
export function probeCalls(): Functions<typeof PROBE_SYMBOLS> {
  return probes ??= open(PROBE_SYMBOLS);
}

/** What a plain program would call. @throws as cLibrary(). */
export function plainCalls(): Functions<typeof PLAIN_SYMBOLS> {
  return plain ??= open(PLAIN_SYMBOLS);
}

/** NUL-terminated UTF-8 in memory that the collector does not move. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  const encoded = new TextEncoder().encode(text);
  const bytes = new Uint8Array(new ArrayBuffer(encoded.length + 1));
  bytes.set(encoded);
  return bytes;
}
