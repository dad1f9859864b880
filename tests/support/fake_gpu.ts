// SPDX-License-Identifier: Apache-2.0
//
// The fake GPU runtimes of tests/native/ in the process of a test: compiled when first needed,
// ordered about, and asked for their books. They really move bytes, later and on threads of their
// own; see fake_gpu.c.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ffi } from "../../src/native/ffi.ts";
import { cString } from "../../src/native/c_library.ts";
import type { Functions, SymbolTable } from "../../src/native/symbols.ts";
import { type GpuLibraryKind } from "../../src/gpu/mod.ts";

export const KINDS = ["cudart", "driver", "hip"] as const;
export type FakeKind = (typeof KINDS)[number];
export const LIBRARY_KIND: Readonly<Record<FakeKind, GpuLibraryKind>> = {
  cudart: "cuda",
  driver: "cuda-driver",
  hip: "hip",
};

const SYMBOLS = {
  fake_gpu_books: {
    c: "void fake_gpu_books(struct fake_gpu_books *books)",
    args: ["bytes"],
    result: "void",
  },
  fake_gpu_reset: { c: "void fake_gpu_reset(void)", args: [], result: "void" },
  fake_gpu_order: {
    c: "void fake_gpu_order(const char *variable, const char *value)",
    args: ["bytes", "bytes"],
    result: "void",
  },
} as const satisfies SymbolTable;

/** In the order of struct fake_gpu_books. */
const FIELDS = [
  ...["calls", "registered", "contexts", "pushed", "lastError", "violations", "contextMask"],
  ...["deviceRanges", "hostRanges", "streams", "events", "copies", "pending"],
] as const;
export type Books = Record<
  | "calls"
  | "registered"
  | "contexts"
  | "pushed"
  | "lastError"
  | "violations"
  | "contextMask"
  | "deviceRanges"
  | "hostRanges"
  | "streams"
  | "events"
  | "copies"
  | "pending",
  number
>;

const native = new URL("../native/", import.meta.url);
const SOURCES = ["fake_gpu.c", "fake_gpu_memory.c", "fake_gpu_stream.c"];
const HEADERS = ["fake_gpu.h", "fake_gpu_inside.h"];
const CC = process.env.CC || "cc";

/** Why there are no fakes here; "" when there are. */
export const noFakes: string = (() => {
  try {
    execFileSync(CC, ["--version"], { stdio: "ignore" });
    return "";
  } catch {
    return `there is no C compiler (${CC})`;
  }
})();

/** The path of a fake, compiled for as long as its sources are what they are. */
export function fakeLibrary(kind: FakeKind): string {
  const hash = createHash("sha256");
  for (const name of [...SOURCES, ...HEADERS]) hash.update(readFileSync(new URL(name, native)));
  const folder = fileURLToPath(
    new URL(`../../build/fake-gpu/${hash.digest("hex").slice(0, 16)}/`, import.meta.url),
  );
  const path = `${folder}libfake_gpu_${kind}.so`;
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const made = `${path}.${process.pid}`;
  const files = SOURCES.map((name) => fileURLToPath(new URL(name, native)));
  execFileSync(CC, [
    ...["-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread", "-shared", "-fPIC"],
    ...["-fvisibility=hidden", `-DFAKE_GPU_${kind.toUpperCase()}`, ...files, "-ldl", "-o", made],
  ]);
  renameSync(made, path);
  return path;
}

/** One fake, with new books and without orders; dispose() checks that nothing is left. */
export class FakeGpu implements Disposable {
  readonly path: string;
  readonly #symbols: Functions<typeof SYMBOLS>;
  readonly #ordered = new Set<string>();
  readonly #contexts: number;

  constructor(kind: FakeKind) {
    this.path = fakeLibrary(kind);
    this.#symbols = ffi.open(this.path, SYMBOLS);
    this.#symbols.fake_gpu_reset();
    // A driver's primary context that some earlier device was not closed for.
    this.#contexts = this.books().contexts;
  }

  /** Gives an order; null takes it back. Names are without their FAKE_GPU_. */
  order(name: string, value: string | number | null): void {
    const variable = `FAKE_GPU_${name}`;
    this.#ordered.add(variable);
    const text = value === null ? null : cString(String(value));
    this.#symbols.fake_gpu_order(cString(variable), text);
  }

  books(): Books {
    const numbers = new Int32Array(new ArrayBuffer(4 * FIELDS.length));
    this.#symbols.fake_gpu_books(new Uint8Array(numbers.buffer));
    return Object.fromEntries(FIELDS.map((name, index) => [name, numbers[index]])) as Books;
  }

  /** Waits until nothing is queued, and streams that were let go have ended. */
  async settled(): Promise<void> {
    const until = performance.now() + 10_000;
    const busy = ({ pending, streams }: Books) => pending > 0 || streams > 0;
    while (busy(this.books()) && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** What a correct program leaves: nothing. */
  assertClean(): void {
    const { calls: _calls, copies: _copies, contextMask: _mask, ...books } = this.books();
    assert.deepEqual(books, {
      registered: 0,
      contexts: this.#contexts,
      pushed: 0,
      lastError: 0,
      violations: 0,
      deviceRanges: 0,
      hostRanges: 0,
      streams: 0,
      events: 0,
      pending: 0,
    });
  }

  [Symbol.dispose](): void {
    for (const variable of this.#ordered) {
      this.#symbols.fake_gpu_order(cString(variable), null);
    }
  }
}

/** Bytes that differ from place to place. */
export function fillPattern(bytes: Uint8Array, seed: number): void {
  let state = (seed * 0x9e3779b9 + 1) >>> 0 || 1;
  for (let at = 0; at < bytes.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state & 255;
  }
}
