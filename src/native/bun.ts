// SPDX-License-Identifier: Apache-2.0
//
// bun:ffi in the shape of ffi.ts. Deno loads this module too, and could not load an import of
// bun:ffi, so that is asked for when the program runs in Bun.

import process from "node:process";
import type { FFIFunction, Pointer } from "bun:ffi";
import { errnoName, ShmError } from "../errors.ts";
import type { Ffi, ListenedQueue, QueueListener } from "./ffi.ts";
import { type CType, type Functions, GLIBC_SYMBOLS, type SymbolTable } from "./symbols.ts";

const NAMES = {
  usize: "u64",
  isize: "i64",
  i32: "i32",
  u32: "u32",
  bytes: "ptr",
  void: "void",
} as const satisfies Record<CType, string>;

type BunFfi = typeof import("bun:ffi");

export function bunFfi(): Ffi {
  const { dlopen, ptr, toArrayBuffer } = process.getBuiltinModule("bun:ffi") as unknown as BunFfi;
  const open = <T extends SymbolTable>(path: string, table: T): Functions<T> => {
    const symbols: Record<string, FFIFunction> = {};
    for (const [name, { args, result }] of Object.entries(table)) {
      symbols[name] = { args: args.map((type) => NAMES[type]), returns: NAMES[result] };
    }
    return dlopen(path, symbols).symbols as unknown as Functions<T>;
  };
  return {
    runtime: "bun",
    maxViewBytes: 2 ** 32,
    open,
    libc() {
      try {
        // musl answers to this name, too, and has no such function.
        open("libc.so.6", GLIBC_SYMBOLS);
        return "gnu";
      } catch {
        return "musl";
      }
    },
    addressOf: (bytes) => BigInt(ptr(bytes)),
    arrayBuffer: (address, byteLength) =>
      toArrayBuffer(Number(address) as Pointer, 0, byteLength) as ArrayBuffer,
    listen: (queue, onReady) => new BunListener(queue, onReady),
  };
}

interface Referable {
  ref(): void;
  unref(): void;
}

/** Bun.connect() of a socket that is there; its types know only those that it makes. */
type ConnectFd = (options: {
  fd: number;
  socket: { open(socket: Referable): void; data(): void };
}) => Promise<unknown>;

/** Bun's event loop watches the queue's socket. */
class BunListener implements QueueListener {
  #socket: Referable | undefined;
  #listening = false;

  constructor(queue: ListenedQueue, onReady: () => void) {
    const fd = queue.fd();
    if (fd < 0) {
      throw new ShmError("no socket for events", {
        code: errnoName(-fd),
        errno: -fd,
        operation: "wait",
        hint: "Raise the limit of open files (ulimit -n)",
      });
    }
    const { connect } = process.getBuiltinModule("bun") as unknown as { connect: ConnectFd };
    void connect({
      fd,
      socket: {
        open: (socket) => {
          this.#socket = socket;
          this.#keepAlive();
        },
        data: onReady,
      },
    });
  }

  start(): void {
    this.#listening = true;
    this.#keepAlive();
  }

  stop(): void {
    this.#listening = false;
    this.#keepAlive();
  }

  #keepAlive(): void {
    if (this.#listening) this.#socket?.ref();
    else this.#socket?.unref();
  }
}
