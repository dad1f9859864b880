// SPDX-License-Identifier: Apache-2.0
//
// Deno.dlopen in the shape of ffi.ts. Bun loads this module too: it names Deno only when it is used.

import { throwIfRefused } from "../permission.ts";
import type { Ffi, ListenedQueue, QueueListener } from "./ffi.ts";
import type { CType, Functions, SymbolTable } from "./symbols.ts";

const NAMES = {
  usize: "usize",
  isize: "isize",
  i32: "i32",
  u32: "u32",
  bytes: "buffer",
  void: "void",
} as const satisfies Record<CType, Deno.NativeResultType>;

/** What Deno allows with a bare --allow-ffi only: one with a list of paths opens libraries. */
function withPointers<T>(use: () => T): T {
  try {
    return use();
  } catch (error) {
    const hint = "Run it with a bare --allow-ffi, without a list of paths: views are pointers";
    throwIfRefused(error, "using pointers", "view memory", hint);
    throw error;
  }
}

function pointer(address: bigint): Deno.PointerObject {
  const made = Deno.UnsafePointer.create(address);
  if (made === null) throw new TypeError("address must not be 0");
  return made;
}

export const denoFfi: Ffi = {
  runtime: "deno",
  maxViewBytes: Number.MAX_SAFE_INTEGER,
  open<T extends SymbolTable>(path: string, table: T): Functions<T> {
    const symbols: Record<string, Deno.ForeignFunction> = {};
    for (const [name, { args, result, blocks = false }] of Object.entries(table)) {
      const parameters = args.map((type) => NAMES[type] as Deno.NativeType);
      symbols[name] = { parameters, result: NAMES[result], nonblocking: blocks };
    }
    return Deno.dlopen(path, symbols).symbols as unknown as Functions<T>;
  },
  addressOf: (bytes) => withPointers(() => Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes))),
  arrayBuffer: (address, byteLength) =>
    withPointers(() => Deno.UnsafePointerView.getArrayBuffer(pointer(address), byteLength)),
  // What it was built for. To look at the process itself would take --allow-all.
  libc: () => Deno.build.target.includes("musl") ? "musl" : "gnu",
  listen: (queue, onReady) => new DenoListener(queue, onReady),
};

/**
 * How long one call blocks. A thread (Worker) that is terminated meanwhile is not gone before it has
 * returned.
 */
const BLOCK_MS = 1000;

class DenoListener implements QueueListener {
  readonly #queue: ListenedQueue;
  readonly #onReady: () => void;
  #listening = false;

  constructor(queue: ListenedQueue, onReady: () => void) {
    this.#queue = queue;
    this.#onReady = onReady;
  }

  start(): void {
    this.#listening = true;
    this.#listen();
  }

  stop(): void {
    this.#listening = false;
  }

  async #listen(): Promise<void> {
    while (this.#listening) {
      if (await this.#queue.ready(BLOCK_MS) > 0) this.#onReady();
    }
  }
}
