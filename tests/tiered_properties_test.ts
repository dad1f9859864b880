// SPDX-License-Identifier: Apache-2.0
//
// Random sequences of operations on a tiered store over real files, against a plain model: what was
// put is got with its bytes and its true layout, from wherever it is by then; what was asked for as
// something else is not; and no sequence loses a reference.

import assert from "node:assert/strict";
import { copyFileSync, renameSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { TensorLayout } from "../src/memory/tensor_layout.ts";
import { keyToFileName } from "../src/keys/key_file.ts";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { uniqueName } from "./support/leaks.ts";
import { effort } from "./support/effort.ts";
import { workerOf } from "./support/version1_worker.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const TOKENS = 8;
const KEYS = 6;
/** Four ways to read the same number of bytes a token. */
const LAYOUTS = [
  TensorLayout.of({ shape: [2, 1, TOKENS, 128], dtype: "bfloat16", format: "KV_2LTD" }),
  TensorLayout.of({ shape: [2, 1, TOKENS, 128], dtype: "half", format: "KV_2LTD" }),
  TensorLayout.of({ shape: [2, 2, TOKENS, 64], dtype: "bfloat16", format: "KV_2LTD" }),
  TensorLayout.of({
    shape: [[2, 1, TOKENS, 64], [2, 1, TOKENS, 64]],
    dtype: ["half", "half"],
    format: "KV_2LTD",
  }),
];

type Step =
  | { do: "put"; key: number; layout: number; tokens: number; behind: boolean }
  | { do: "get"; key: number; layout: number }
  | { do: "prefetch"; keys: number[] }
  | { do: "remove"; key: number }
  | { do: "cool" }
  | { do: "strip"; key: number };

const key = fc.integer({ min: 0, max: KEYS - 1 });
const layout = fc.integer({ min: 0, max: LAYOUTS.length - 1 });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant("put" as const),
    key,
    layout,
    tokens: fc.integer({ min: 1, max: TOKENS }),
    behind: fc.boolean(),
  }),
  fc.record({ do: fc.constant("get" as const), key, layout }),
  fc.record({ do: fc.constant("prefetch" as const), keys: fc.array(key, { maxLength: 4 }) }),
  fc.record({ do: fc.constant("remove" as const), key }),
  fc.record({ do: fc.constant("cool" as const) }),
  fc.record({ do: fc.constant("strip" as const), key }),
);

/** What is known of an object. */
interface Known {
  readonly layout: TensorLayout;
  readonly fill: number;
  /** The file has lost its attributes: its length alone tells what it is. */
  stripped: boolean;
}

for (const protocol of [1, 2] as const) {
  test(
    `tiered store: random operations agree with a model (version ${protocol})`,
    { timeout: 600_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        // Three chunks: nearly every get evicts.
        const segment = stack.use(
          await ShmSegment.create({ name: uniqueName("model"), sizeBytes: 3 * 4096, pin: "none" }),
        );
        const options = {
          segment,
          storageDir: dir.file("kv"),
          workerBinary: workerOf(protocol, dir),
        };
        const cold = stack.use(await ShmFileConnector.open(options));
        let run = 0;
        const once = async (steps: readonly Step[]) => {
          const pool = new TensorMemoryAllocator(segment);
          const hot = new LocalCpuBackend({ allocator: pool, blockingTimeoutMs: 5_000 });
          const store = new TieredStore({ hot, cold });
          const model = new Map<string, Known>();
          const name = (index: number) => `run${run}/key${index}`;
          let fill = 0;
          for (const one of steps) {
            switch (one.do) {
              case "put": {
                const wanted = LAYOUTS[one.layout]!.withTokens(one.tokens);
                using obj = await hot.allocate(wanted);
                obj.bytes.fill(++fill);
                await store.put(name(one.key), obj, {
                  writeMode: one.behind ? "behind" : "through",
                });
                model.set(name(one.key), { layout: wanted, fill, stripped: protocol === 1 });
                break;
              }
              case "get": {
                const wanted = LAYOUTS[one.layout]!;
                const known = model.get(name(one.key));
                const wasHot = hot.exists(name(one.key));
                using obj = await store.get(name(one.key), wanted);
                const right = known !== undefined &&
                  wanted.withTokens(known.layout.numTokens!).equals(known.layout);
                if (right || (known?.stripped && !wasHot && obj !== null)) {
                  assert.ok(obj, `${name(one.key)} is ${known!.layout}`);
                  assert.equal(obj.numTokens, known!.layout.numTokens);
                  assert.ok(obj.bytes.every((byte) => byte === known!.fill), name(one.key));
                  // Taken for what was asked for, and kept so: nothing says otherwise.
                  if (!right) model.set(name(one.key), { ...known!, layout: obj.layout });
                } else {
                  assert.equal(obj, null, `${known?.layout} for ${wanted}`);
                }
                break;
              }
              case "prefetch": {
                const keys = one.keys.map(name);
                const layouts = keys.map((text) =>
                  model.get(text)?.layout.withTokens(TOKENS) ?? LAYOUTS[0]!
                );
                const found = await store.prefetch(keys, layouts);
                assert.equal(found, keys.filter((text) => model.has(text)).length);
                break;
              }
              case "remove":
                assert.equal(await store.remove(name(one.key)), model.delete(name(one.key)));
                break;
              case "cool":
                await store.flush();
                hot.clear();
                break;
              case "strip": {
                const known = model.get(name(one.key));
                if (known === undefined) break;
                await store.flush();
                const path = `${dir.file("kv")}/${keyToFileName(name(one.key))}`;
                copyFileSync(path, `${path}.copy`);
                renameSync(`${path}.copy`, path);
                known.stripped = true;
                break;
              }
            }
            hot.memcheck();
          }
          await store.flush();
          for (let index = 0; index < KEYS; index++) {
            assert.equal(await store.exists(name(index)), model.has(name(index)));
          }
          await store.close();
          for (const text of model.keys()) await cold.remove(text);
          hot.clear();
          assert.equal(pool.stats.liveObjects, 0, "references that were left behind");
          assert.equal(cold.stats.mismatches, 0);
          run++;
        };
        await fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 60, size: "max" }), once),
          { numRuns: effort(80, 200) },
        );
        assert.deepEqual(await cold.listAll(), []);
      }),
  );
}
