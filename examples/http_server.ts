// SPDX-License-Identifier: Apache-2.0
//
// Chunks over HTTP: an upload goes into the pool and from there to the disk, a download comes out of
// the pool, whole or in part, and is loaded first where the pool does not have it.
//
//   bun examples/http_server.ts [DIRECTORY [PORT]]
//   deno run -A examples/http_server.ts [DIRECTORY [PORT]]
//
//   curl -T file http://127.0.0.1:8080/chunks/some-key
//   curl -r 0-99 http://127.0.0.1:8080/chunks/some-key
//   curl -X DELETE http://127.0.0.1:8080/chunks/some-key
//   curl http://127.0.0.1:8080/stats
//
// How often a byte is copied by JavaScript: once from what the runtime has received into the pool,
// and once from the pool into what it sends. Between pool and disk never.

import console from "node:console";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { disposeAll, ShmError, streamOf, type TensorMemoryObj, TieredStore } from "lmshm";

const MAX_CHUNK_BYTES = 64 * 2 ** 20;
/** A client that takes its chunk more slowly does not keep the memory. */
const SEND_LIMIT_MS = 60_000;

const directory = process.argv[2] ?? await mkdtemp(join(tmpdir(), "lmshm-example-"));
const store = await TieredStore.create({
  hot: { sizeBytes: 256 * 2 ** 20, blockingTimeoutMs: 5_000 },
  cold: { storageDir: directory, maxBytes: 2 ** 30 },
  writeMode: "through", // an upload is answered when it is stored
});

/** The object of a key with a reference for the caller; null: there is none. */
async function find(key: string): Promise<TensorMemoryObj | null> {
  const near = store.hot.get(key);
  if (near !== null) return near;
  const facts = await store.cold.stat(key); // how much memory it needs
  return facts === null ? null : await store.get(key, facts.byteLength);
}

async function upload(key: string, request: Request): Promise<Response> {
  const byteLength = Number(request.headers.get("content-length") ?? NaN);
  if (!Number.isSafeInteger(byteLength) || byteLength < 1) return text(411, "a length is needed");
  if (byteLength > MAX_CHUNK_BYTES) return text(413, `at most ${MAX_CHUNK_BYTES} bytes`);
  using obj = await store.allocate(byteLength); // evicts, and waits for others to release memory
  const { bytes } = obj;
  let at = 0;
  for await (const piece of request.body ?? []) {
    if (at + piece.length > byteLength) return text(400, "more than the length that was said");
    bytes.set(piece, at);
    at += piece.length;
  }
  if (at < byteLength) return text(400, `${at} bytes instead of ${byteLength}`);
  await store.put(key, obj);
  return text(201, `${byteLength} bytes`);
}

async function download(key: string, request: Request): Promise<Response> {
  using obj = await find(key);
  if (obj === null) return text(404, "no such chunk");
  const size = obj.byteLength;
  const range = parseRange(request.headers.get("range"), size);
  if (range === null) {
    return text(416, "no such range", { "content-range": `bytes */${size}` });
  }
  const { start, end, partial } = range;
  const headers = {
    "content-type": "application/octet-stream",
    "accept-ranges": "bytes",
    "content-length": String(end - start),
    ...(partial ? { "content-range": `bytes ${start}-${end - 1}/${size}` } : {}),
  };
  if (request.method === "HEAD") return new Response(null, { headers });
  // The stream has a reference of its own, so ours may go when this function returns. (Bun sends one
  // of several pieces without its length.)
  const signal = AbortSignal.timeout(SEND_LIMIT_MS);
  const body = streamOf(obj, { offset: start, byteLength: end - start, signal });
  return new Response(body, { status: partial ? 206 : 200, headers });
}

/** One range of the header; the whole where there is none that is understood; null: beyond the end. */
function parseRange(header: string | null, size: number) {
  const whole = { start: 0, end: size, partial: false };
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  if (first === undefined || last === undefined || first + last === "") return whole;
  const start = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(size, Number(last) + 1);
  return start < end ? { start, end, partial: true } : null;
}

function text(status: number, words: string, headers: Record<string, string> = {}): Response {
  return new Response(`${words}\n`, { status, headers });
}

async function handle(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/stats") {
    return Response.json(store.stats);
  }
  const key = /^\/chunks\/([^/]+)$/.exec(pathname)?.[1];
  if (key === undefined) return text(404, "PUT, GET or DELETE /chunks/KEY");
  try {
    switch (request.method) {
      case "PUT":
        return await upload(decodeURIComponent(key), request);
      case "GET":
      case "HEAD":
        return await download(decodeURIComponent(key), request);
      case "DELETE":
        return await store.remove(decodeURIComponent(key))
          ? text(200, "removed")
          : text(404, "no such chunk");
      default:
        return text(405, "PUT, GET, HEAD or DELETE");
    }
  } catch (error) {
    if (error instanceof TypeError || error instanceof RangeError) return text(400, error.message);
    if (!(error instanceof ShmError)) throw error;
    // No memory in time, or no room on the disk: the client may try again.
    const isBusy = ["ETIMEDOUT", "ENOSPC", "EWORKER"].includes(error.code);
    return text(isBusy ? 503 : 500, error.message);
  }
}

const port = Number(process.argv[3] ?? 8080);
const hostname = "127.0.0.1";
const server = "Deno" in globalThis
  ? Deno.serve({ port, hostname, onListen: () => {} }, handle)
  : Bun.serve({ port, hostname, fetch: handle });
const listens = "addr" in server ? (server.addr as Deno.NetAddr).port : server.port;
console.log(`http://${hostname}:${listens}/chunks/KEY, stored in ${directory}`);

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.once(signal, async () => {
    await ("shutdown" in server ? server.shutdown() : server.stop());
    await disposeAll(); // writes what is queued, ends the worker, frees the pool
    if (process.argv[2] === undefined) await rm(directory, { recursive: true, force: true });
    console.log("closed");
    process.exit();
  });
}
