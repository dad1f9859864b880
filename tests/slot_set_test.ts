// SPDX-License-Identifier: Apache-2.0
//
// The collections for what comes and goes all the time, against those of the language.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SlotSet } from "../src/slot_set.ts";
import { IdTable } from "../src/worker/v2/id_table.ts";
import { liveHeapBytes } from "./support/gc.ts";

/** Marsaglia's xorshift. */
function randomNumbers(seed: number): (limit: number) => number {
  let x = seed;
  return (limit) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % limit;
  };
}

test("a SlotSet agrees with a Set", () => {
  const random = randomNumbers(7);
  const items = Array.from({ length: 50 }, (_, name) => ({ name, slot: -1 }));
  const members = new SlotSet<typeof items[number]>();
  const model = new Set<typeof items[number]>();
  for (let step = 0; step < 20_000; step++) {
    const item = items[random(items.length)]!;
    if (random(2) === 0) {
      assert.equal(members.delete(item), model.delete(item));
    } else if (!model.has(item)) {
      members.add(item);
      model.add(item);
    }
    assert.equal(members.size, model.size);
    if (step % 100 === 0) assert.deepEqual(new Set(members), model);
  }
  members.clear();
  assert.equal(members.size, 0);
  assert.ok(items.every((item) => !members.delete(item)));
});

test("a SlotSet may change while it is gone through", () => {
  const members = new SlotSet<{ slot: number }>();
  for (let i = 0; i < 10; i++) members.add({ slot: -1 });
  let seen = 0;
  for (const member of members) {
    seen++;
    members.delete(member);
    if (seen < 5) members.add({ slot: -1 });
  }
  assert.equal(seen, 10);
  assert.equal(members.size, 4);
});

test("IdTable agrees with a Map, whatever stays behind", () => {
  const random = randomNumbers(11);
  const table = new IdTable<{ id: number }>();
  const model = new Map<number, { id: number }>();
  let next = 1;
  for (let step = 0; step < 50_000; step++) {
    if (random(100) < 52 && model.size < 700) {
      const item = { id: next++ };
      table.add(item);
      model.set(item.id, item);
    } else if (model.size > 0) {
      // Mostly the oldest, sometimes any other; a few stay for long.
      const ids = [...model.keys()];
      const id = ids[random(10) === 0 ? random(ids.length) : Math.min(3, ids.length - 1)]!;
      assert.equal(table.delete(id), model.delete(id));
      assert.equal(table.delete(id), false);
    }
    if (random(50) === 0) next += random(200);
    assert.equal(table.size, model.size);
    const asked = 1 + random(next);
    assert.equal(table.get(asked), model.get(asked));
  }
  assert.deepEqual(table.values(), [...model.values()].sort((a, b) => a.id - b.id));
  for (const id of model.keys()) assert.equal(table.get(id), model.get(id));
  table.clear();
  assert.equal(table.size, 0);
  assert.deepEqual(table.values(), []);
  assert.equal(table.get(2 ** 52 + 1), undefined);
});

test("what has left SlotSet and IdTable is not kept", { timeout: 60_000 }, async () => {
  const members = new SlotSet<{ slot: number; ballast: number[] }>();
  const table = new IdTable<{ id: number; ballast: number[] }>();
  const churn = () => {
    for (let id = 1; id <= 20_000; id++) {
      const ballast = new Array<number>(100).fill(id + 0.5);
      const member = { slot: -1, ballast };
      members.add(member);
      table.add({ id, ballast });
      members.delete(member);
      table.delete(id);
    }
  };
  churn();
  const before = await liveHeapBytes();
  churn();
  const grown = await liveHeapBytes() - before;
  // All of it would be more than 16 MB.
  assert.ok(grown < 2_000_000, `${grown} bytes`);
});
