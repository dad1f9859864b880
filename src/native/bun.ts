// SPDX-License-Identifier: Apache-2.0
//
// bun:ffi in the shape of ffi.ts. Loaded in Bun only.

import { dlopen, type FFIFunction, type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import type { Ffi } from "./ffi.ts";
import type { CType, Functions, SymbolTable } from "./symbols.ts";

const NAMES = {
  usize: "u64",
  isize: "i64",
  i32: "i32",
  u32: "u32",
  bytes: "ptr",
  void: "void",
} as const satisfies Record<CType, string>;

export const ffi: Ffi = {
  runtime: "bun",
  maxViewBytes: 2 ** 32,
  open<T extends SymbolTable>(path: string, table: T): Functions<T> {
    const symbols: Record<string, FFIFunction> = {};
    for (const [name, { args, result }] of Object.entries(table)) {
      symbols[name] = { args: args.map((type) => NAMES[type]), returns: NAMES[result] };
    }
    return dlopen(path, symbols).symbols as unknown as Functions<T>;
  },
  addressOf: (bytes) => BigInt(ptr(bytes)),
  arrayBuffer: (address, byteLength) =>
    toArrayBuffer(Number(address) as Pointer, 0, byteLength) as ArrayBuffer,
};
