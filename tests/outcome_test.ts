// SPDX-License-Identifier: Apache-2.0
//
// Many things asked for together: bounded, in order, and each with an outcome of its own.

import assert from "node:assert/strict";
import { test } from "node:test";
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
