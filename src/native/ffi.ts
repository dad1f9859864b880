// SPDX-License-Identifier: Apache-2.0
//
// What a runtime must offer to reach C, and the choice of the runtime: made once, when this module
// is loaded. Everything above src/native/ is the same code in Bun and in Deno.
//
// No module of the library awaits anything while it is loaded: a Worker of Bun would lose messages
// that arrive meanwhile, and require() would refuse it.

import process from "node:process";
import { bunFfi } from "./bun.ts";
import { denoFfi } from "./deno.ts";
import type { Functions, SymbolTable } from "./symbols.ts";

export interface Ffi {
  /** For messages and reports only. */
  readonly runtime: "bun" | "deno";
  /** The longest ArrayBuffer over foreign memory that this runtime makes, in bytes. */
  readonly maxViewBytes: number;
  /** Opens a library for the life of the process. Throws the runtime's error if it cannot. */
  open<T extends SymbolTable>(path: string, table: T): Functions<T>;
  /** Address of the bytes. They must not be garbage until the last use of the address. */
  addressOf(bytes: Uint8Array<ArrayBuffer>): bigint;
  /** A window on `byteLength` bytes at `address`, not copied. Never freed by the runtime. */
  arrayBuffer(address: bigint, byteLength: number): ArrayBuffer;
  /** The C library that this process runs on, whatever else is installed. */
  libc(): "gnu" | "musl";
  /** What tells this thread's event loop that a queue has events. */
  listen(queue: ListenedQueue, onReady: () => void): QueueListener;
}

/** What a runtime may use to learn of events: see lmshm_queue_fd() and lmshm_queue_ready(). */
export interface ListenedQueue {
  /** A socket to read from, the caller's to close; negative: -errno. */
  fd(): number;
  /** Blocks a thread of the runtime. Never rejects. */
  ready(timeoutMs: number): Promise<number>;
}

/** Stopped at first. */
export interface QueueListener {
  /** From now on events are told, and the program is kept alive. Not called twice in a row. */
  start(): void;
  /** Called while an event is told, and only then. */
  stop(): void;
}

function chooseFfi(): Ffi {
  if ("Bun" in globalThis) return bunFfi();
  if ("Deno" in globalThis) return denoFfi;
  throw new Error("lmshm needs Bun or Deno: this runtime has no FFI that it knows");
}

export const ffi: Ffi = chooseFfi();

/** What runs this program, for reports. */
export const runtime: { readonly name: "bun" | "deno"; readonly version: string } = {
  name: ffi.runtime,
  version: process.versions[ffi.runtime] ?? "",
};
