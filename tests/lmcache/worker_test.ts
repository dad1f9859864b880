// SPDX-License-Identifier: Apache-2.0
//
// LMCache's own worker, built from its source distribution (LMSHM_LMCACHE_SOURCE), with our connector.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { readFileSync } from "node:fs";
import type { ShmFileConnector } from "../../src/connector/shm_file_connector.ts";
import type { ShmSegment } from "../../src/memory/segment.ts";
import { connectorScene } from "../support/connector_scene.ts";
import type { TempDir } from "../support/worker.ts";

const SOURCE = process.env["LMSHM_LMCACHE_SOURCE"] ?? "";
const SEGMENT_BYTES = 1 << 20;
const KEY = "m/x@1@0@ab@half";

if (SOURCE === "") {
  test("LMCache's own worker", {
    skip: "LMSHM_LMCACHE_SOURCE names no unpacked source distribution of LMCache",
  }, () => {});
}

function build(dir: TempDir): string {
  const worker = dir.file("shm_file_worker");
  const source = join(SOURCE, "tests/v1/shm_allocator/csrc/shm_file_worker.cpp");
  const { status, stderr } = spawnSync("c++", ["-std=c++17", "-o", worker, source, "-lrt"], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  return worker;
}

/** A port that nobody listens on just now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

async function roundTrip(store: ShmFileConnector, segment: ShmSegment): Promise<void> {
  assert.equal(store.protocol, 1);
  segment.bytes(0, 5000).fill(7);
  await store.put(KEY, segment.range(0, 5000));
  assert.ok(
    readFileSync(`${store.storageDir}/m-SEP-x@1@0@ab@half.data`).every((byte) => byte === 7),
  );
  const found = await store.get(KEY, segment.range(8192, 8192));
  assert.equal(found?.byteLength, 5000);
  assert.ok(segment.bytes(8192, 5000).every((byte) => byte === 7));
}

if (SOURCE !== "") {
  connectorScene("LMCache's worker serves us over pipes", async (s) => {
    await roundTrip(await s.open({ workerBinary: build(s.dir) }), s.segment);
  }, SEGMENT_BYTES);

  connectorScene(
    "LMCache's worker at a port serves one, and the next learns why not",
    async (s) => {
      const port = await freePort();
      const workerAddress = `127.0.0.1:${port}`;
      const worker = spawn(build(s.dir), ["--listen", workerAddress], { stdio: "ignore" });
      const exited = once(worker, "exit");
      try {
        const first = await s.open({ workerAddress, connectTimeoutMs: 5_000 }).catch(async () => {
          // It may not listen yet.
          await new Promise((resolve) => setTimeout(resolve, 500));
          return await s.open({ workerAddress });
        });
        await roundTrip(first, s.segment);
        await assert.rejects(
          s.open({ workerAddress, controlTimeoutMs: 200 }),
          (error: Error & { code?: string; hint?: string }) =>
            error.code === "ETIMEDOUT" && /serves one client/.test(error.hint ?? ""),
        );
        await first.close();
      } finally {
        worker.kill();
        await exited;
      }
    },
    SEGMENT_BYTES,
  );
}
