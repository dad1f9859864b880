// SPDX-License-Identifier: Apache-2.0
//
// A get() without a range whose caller gives up while the worker still moves bytes: the memory that
// was allocated for it goes back when the worker is done, and the caller hears the right reason.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { MemoryObj } from "../src/memory/memory_obj.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { uniqueName } from "./support/leaks.ts";
import { asked, scripted } from "./support/object_worker.ts";
import {
  eventually,
  type Peer,
  ScriptedWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

test("memory of get() without a range goes back when the worker is done, not before", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const loading: { id: number; peer: Peer }[] = [];
    const worker = stack.use(
      await ScriptedWorker.listen(
        dir,
        scripted((line, peer) => {
          if (!/^[0-9]+ GET /.test(line)) return undefined;
          loading.push({ id: asked(line).id, peer });
          return "";
        }),
      ),
    );
    const segment = stack.use(
      await ShmSegment.create({ name: uniqueName("abort"), sizeBytes: 1 << 20, pin: "none" }),
    );
    const pool = new TensorMemoryAllocator(segment);
    const allocated: MemoryObj[] = [];
    const connector = stack.use(
      await ShmFileConnector.open({
        segment,
        storageDir: dir.file("elsewhere"),
        workerAddress: worker.path,
        allocate: (byteLength) => {
          const obj = pool.tryAllocate(byteLength);
          if (obj !== null) allocated.push(obj);
          return obj;
        },
      }),
    );
    const abort = new AbortController();
    const reason = new Error("changed my mind");
    const getting = connector.get("key", undefined, { signal: abort.signal });
    getting.catch(() => {});
    await eventually("the worker is asked", () => loading.length === 1);
    abort.abort(reason);
    await assert.rejects(getting, (error) => error === reason);
    const [obj] = allocated;
    assert.ok(obj!.valid, "the worker may still write to it");
    const [{ id, peer }] = loading as [{ id: number; peer: Peer }];
    peer.send(`${id} ERROR ECANCELED get key: Operation canceled\n`);
    await eventually("the memory is free", () => !obj!.valid);
    assert.equal(pool.stats.liveObjects, 0);
  }));
