// SPDX-License-Identifier: Apache-2.0
//
// What a runtime still does with an object's bytes after the object was released: a read that was in
// flight must not change the memory's next owner, a write that was in flight must not show it.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { open } from "node:fs/promises";
import { connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { withoutLeaks } from "./support/leaks.ts";
import { TempDir } from "./support/worker.ts";

const BYTES = 4096;
const TIMEOUT = { timeout: 60_000 };
const inDeno = "Deno" in globalThis;

/** A read into an object's bytes that is in flight, and what ends it. */
interface LateRead {
  /** Sends BYTES bytes of 90; resolves when the read has ended, whatever came of it. */
  end(): Promise<void>;
  close(): void | Promise<void>;
}

type StartRead = (bytes: Uint8Array<ArrayBuffer>) => Promise<LateRead>;

function settled(promise: Promise<unknown>): Promise<void> {
  return promise.then(() => {}, () => {});
}

/** A read of a named pipe: `start` gets its path, and answers with what is pending. */
function pipeRead(
  start: (path: string, bytes: Uint8Array<ArrayBuffer>) => Promise<{
    pending: Promise<unknown>;
    close(): void | Promise<void>;
  }>,
): StartRead {
  return async (bytes) => {
    const dir = new TempDir();
    const path = dir.file("pipe");
    execFileSync("mkfifo", [path]);
    // Opened for both, so that neither end waits for the other.
    const writer = fs.openSync(path, fs.constants.O_RDWR);
    const { pending, close } = await start(path, bytes);
    return {
      async end() {
        fs.writeSync(writer, new Uint8Array(BYTES).fill(90));
        await settled(pending);
      },
      async close() {
        await close();
        fs.closeSync(writer);
        dir[Symbol.dispose]();
      },
    };
  };
}

const READS: Record<string, StartRead> = {
  "fs.read()": pipeRead((path, bytes) => {
    const fd = fs.openSync(path, fs.constants.O_RDWR);
    const pending = new Promise((resolve) => fs.read(fd, bytes, 0, BYTES, null, resolve));
    return Promise.resolve({ pending, close: () => fs.closeSync(fd) });
  }),
  "FileHandle.read()": pipeRead(async (path, bytes) => {
    const file = await open(path, "r+");
    return { pending: file.read(bytes, 0, BYTES, null), close: () => file.close() };
  }),
  "a socket's onread": async (bytes) => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
    const { port } = server.address() as { port: number };
    let arrived = () => {};
    const pending = new Promise<void>((resolve) => arrived = resolve);
    const onread = { buffer: bytes, callback: () => (arrived(), true) };
    const client = connect({ port, host: "127.0.0.1", onread });
    client.on("error", () => arrived());
    const peer = await accepted;
    peer.on("error", () => {});
    return {
      async end() {
        peer.write(new Uint8Array(BYTES).fill(90));
        await Promise.race([pending, sleep(1000)]);
      },
      async close() {
        client.destroy();
        peer.destroy();
        await new Promise((resolve) => server.close(resolve));
      },
    };
  },
};

interface Conn {
  read(bytes: Uint8Array): Promise<number | null>;
  write(bytes: Uint8Array): Promise<number>;
  close(): void;
  readonly readable: ReadableStream<Uint8Array>;
}

async function connection(): Promise<{ here: Conn; there: Conn; close(): Promise<void> }> {
  const listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const { port } = listener.addr as Deno.NetAddr;
  const [here, there] = await Promise.all([
    Deno.connect({ port, hostname: "127.0.0.1" }),
    listener.accept(),
  ]);
  const close = (): Promise<void> => {
    for (const one of [here, there, listener]) {
      try {
        one.close();
      } catch {
        // Its stream has closed it.
      }
    }
    return Promise.resolve();
  };
  return { here: here as Conn, there: there as Conn, close };
}

if (inDeno) {
  READS["Deno.FsFile.read()"] = pipeRead(async (path, bytes) => {
    const file = await Deno.open(path, { read: true, write: true });
    return { pending: file.read(bytes), close: () => file.close() };
  });
  READS["Deno.FsFile.readable"] = pipeRead(async (path, bytes) => {
    const file = await Deno.open(path, { read: true, write: true });
    const reader = file.readable.getReader({ mode: "byob" });
    return { pending: reader.read(bytes), close: () => settled(reader.cancel()) };
  });
  READS["Deno.Conn.read()"] = async (bytes) => {
    const { here, there, close } = await connection();
    const pending = here.read(bytes);
    return {
      async end() {
        await there.write(new Uint8Array(BYTES).fill(90));
        await settled(pending);
      },
      close,
    };
  };
  READS["Deno.Conn.readable"] = async (bytes) => {
    const { here, there, close } = await connection();
    const pending = here.readable.getReader({ mode: "byob" }).read(bytes);
    return {
      async end() {
        await there.write(new Uint8Array(BYTES).fill(90));
        await settled(pending);
      },
      close,
    };
  };
}

function allocate(pool: TensorMemoryAllocator): TensorMemoryObj {
  return pool.allocate(BYTES);
}

for (const [what, start] of Object.entries(READS)) {
  test(
    `${what} that ends after the release spares the next owner`,
    TIMEOUT,
    () =>
      withoutLeaks(async () => {
        using segment = ShmSegment.createSync({ sizeBytes: 16 * BYTES, pin: "none" });
        const pool = new TensorMemoryAllocator(segment);
        const obj = allocate(pool);
        const late = await start(obj.bytes);
        try {
          await sleep(50);
          obj.refCountDown();
          using next = allocate(pool);
          assert.equal(next.offset, obj.offset, "the memory has a new owner");
          next.bytes.fill(1);
          await late.end();
          await sleep(20);
          assert.ok(next.bytes.every((byte) => byte === 1), "the late bytes were not seen");
          assert.equal(pool.memcheck().quarantinedBytes, 0);
        } finally {
          await late.close();
        }
      }),
  );
}

interface Writer {
  write(bytes: Uint8Array<ArrayBuffer>): Promise<unknown>;
  close(): void | Promise<void>;
}

/** For asynchronous writes: those of node:fs block in Deno. Open for both, as above. */
async function openForWriting(path: string): Promise<Writer> {
  if (!inDeno) return await open(path, "r+");
  const file = await Deno.open(path, { read: true, write: true });
  return { write: (bytes) => file.write(bytes), close: () => file.close() };
}

test(
  "a write that ends after the release does not show the next owner",
  TIMEOUT,
  () =>
    withoutLeaks(async () => {
      using dir = new TempDir();
      const path = dir.file("pipe");
      execFileSync("mkfifo", [path]);
      const writer = await openForWriting(path);
      const sizeBytes = 2 ** 20;
      using segment = ShmSegment.createSync({ sizeBytes, pin: "none" });
      const pool = new TensorMemoryAllocator(segment);
      const obj = pool.allocate(sizeBytes);
      const { bytes } = obj;
      bytes.fill(7);
      // More than a pipe holds, so it waits for the reader. With its first byte it has begun.
      const writing = settled(writer.write(bytes));
      await once(
        spawn("head", ["-c", "1", path], { stdio: ["ignore", "ignore", "inherit"] }),
        "close",
      );
      obj.refCountDown();
      using next = pool.allocate(sizeBytes);
      assert.equal(next.offset, obj.offset, "the memory has a new owner");
      next.bytes.fill(1);
      const reader = spawn("head", ["-c", String(sizeBytes - 1), path], {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const seen = new Set<number>();
      reader.stdout.on("data", (piece: Uint8Array) => piece.forEach((byte) => seen.add(byte)));
      const ended = once(reader, "close");
      await writing;
      await writer.close();
      await ended;
      assert.ok(seen.has(7) && !seen.has(1), `bytes ${[...seen]} were written`);
    }),
);
