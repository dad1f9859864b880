// SPDX-License-Identifier: Apache-2.0
//
// Many things asked for together: bounded, in order, and each with an outcome of its own.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { heldOutcomes } from "../src/connector/object_transport.ts";
import { Failed, outcomesOf, valuesOf } from "../src/worker/outcome.ts";
import { sleep } from "./support/worker.ts";

test("outcomesOf() begins in order, so many at a time, and keeps what fails apart", async () => {
  let [running, most] = [0, 0];
  const begun: number[] = [];
  const outcomes = await outcomesOf(100, 7, async (index) => {
    begun.push(index);
    most = Math.max(most, ++running);
    await sleep(index % 3);
    running--;
    if (index % 10 === 3) throw new Error(`${index} failed`);
    return index * 2;
  });
  assert.equal(most, 7);
  assert.deepEqual(begun, [...begun.keys()]);
  assert.equal(begun.length, 100);
  for (const [index, outcome] of outcomes.entries()) {
    if (index % 10 === 3) assert.match(String((outcome as Failed).error), /failed/);
    else assert.equal(outcome, index * 2);
  }
  assert.throws(() => valuesOf(outcomes), /^Error: 3 failed/);
  assert.deepEqual(valuesOf(outcomes.slice(0, 3)), [0, 2, 4]);
  assert.deepEqual(await outcomesOf(0, 7, () => Promise.reject(new Error("never"))), []);
  const [thrown] = await outcomesOf(1, 7, () => {
    throw new Error("at once");
  });
  assert.match(String((thrown as Failed).error), /at once/);
});

test("heldOutcomes() holds all memory first, until all have ended", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  const range = segment.range(0, 8);
  let held = 0;
  const counted = {
    ...range,
    hold: () => {
      held++;
      return () => void held--;
    },
  };
  const seen: number[] = [];
  await heldOutcomes([counted, counted, range], "test", async () => {
    seen.push(held);
    await sleep(1);
  });
  assert.deepEqual(seen, [2, 2, 2]);
  assert.equal(held, 0);
  const freed = {
    ...range,
    hold: () => {
      throw new Error("it was freed");
    },
  };
  let begun = false;
  const work = () => {
    begun = true;
    return Promise.resolve();
  };
  await assert.rejects(heldOutcomes([counted, freed], "test", work), /it was freed/);
  assert.equal(begun, false);
  assert.equal(held, 0);
});
