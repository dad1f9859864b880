// SPDX-License-Identifier: Apache-2.0
//
// The ways to move an object between memory and a file that a TypeScript program has without this
// project: node:fs, and the runtime's own calls. The latter are the reason that this file, alone
// among the benchmarks, asks where it runs.

import { closeSync, openSync, readSync } from "node:fs";
import { open, readFile, rename, writeFile } from "node:fs/promises";
import type { Slot } from "./arena.ts";

export interface WriteWay {
  readonly name: string;
  readonly note: string;
  readonly write: (slot: Slot) => Promise<void>;
}

export interface ReadWay {
  readonly name: string;
  readonly note: string;
  /** @returns where the bytes are now. */
  readonly read: (slot: Slot) => Promise<Uint8Array>;
  /** It blocks: there is never more than one under way. */
  readonly blocks?: boolean;
}

const FS_WRITES: readonly WriteWay[] = [
  {
    name: "fs/promises writeFile",
    note: "in place: a killed write leaves a part",
    write: ({ path, bytes }) => writeFile(path, bytes),
  },
  {
    name: "fs/promises writeFile, rename",
    note: "whole or not at all, as ours",
    async write({ path, bytes }) {
      await writeFile(`${path}.tmp`, bytes);
      await rename(`${path}.tmp`, path);
    },
  },
];

async function readInto(path: string, into: Uint8Array): Promise<Uint8Array> {
  const file = await open(path, "r");
  try {
    for (let done = 0; done < into.length;) {
      const { bytesRead } = await file.read(into, done, into.length - done, done);
      if (bytesRead === 0) throw new Error(`${path} ends after ${done} bytes`);
      done += bytesRead;
    }
  } finally {
    await file.close();
  }
  return into;
}

function readIntoSync(path: string, into: Uint8Array): Uint8Array {
  const file = openSync(path, "r");
  try {
    for (let done = 0; done < into.length;) {
      const bytesRead = readSync(file, into, done, into.length - done, done);
      if (bytesRead === 0) throw new Error(`${path} ends after ${done} bytes`);
      done += bytesRead;
    }
  } finally {
    closeSync(file);
  }
  return into;
}

const FS_READS: readonly ReadWay[] = [
  {
    name: "fs/promises read",
    note: "into the pool",
    read: ({ path, bytes }) => readInto(path, bytes),
  },
  {
    name: "fs/promises readFile",
    note: "into a new buffer",
    read: ({ path }) => readFile(path),
  },
  {
    name: "fs readSync",
    note: "into the pool; blocks the event loop",
    blocks: true,
    // deno-lint-ignore require-await
    read: async ({ path, bytes }) => readIntoSync(path, bytes),
  },
];

/** Every way to write here. */
export function writeWays(): readonly WriteWay[] {
  const own: WriteWay = "Bun" in globalThis
    ? {
      name: "Bun.write",
      note: "in place",
      write: async ({ path, bytes }) => void await Bun.write(path, bytes),
    }
    : {
      name: "Deno.writeFile",
      note: "in place",
      write: ({ path, bytes }) => Deno.writeFile(path, bytes),
    };
  return [...FS_WRITES, own];
}

/** Every way to read here. */
export function readWays(): readonly ReadWay[] {
  const own: ReadWay = "Bun" in globalThis
    ? {
      name: "Bun.file().arrayBuffer",
      note: "into a new buffer",
      read: async ({ path }) => new Uint8Array(await Bun.file(path).arrayBuffer()),
    }
    : {
      name: "Deno.readFile",
      note: "into a new buffer",
      read: ({ path }) => Deno.readFile(path),
    };
  return [...FS_READS, own];
}
