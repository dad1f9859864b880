// SPDX-License-Identifier: Apache-2.0
//
// A short run of the protocol soak: that it holds, and that it really did what it is for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { protocolSoak } from "./soak/protocol_soak.ts";
import { LONG } from "./support/effort.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";
import { ValueHistory } from "./support/value_history.ts";

for (const seed of LONG ? [1, 2] : [1]) {
  test(`raw clients that do everything get nothing but right bytes (${seed})`, {
    timeout: 600_000,
  }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const { counts, hasAttributes } = await protocolSoak({
        seed,
        rounds: 4,
        operationsPerRound: 600,
        lanes: 6,
        directory: dir.path,
      });
      const done = (what: string) => counts[what] ?? 0;
      for (const what of ["unix 1", "unix 2", "tcp 1", "tcp 2"]) {
        assert.ok(done(`connected ${what}`) > 0, what);
      }
      assert.equal(done("worker killed"), 1);
      assert.ok(!hasAttributes || done("kept open") > 0, "no object stayed open");
      for (const what of ["hit", "miss", "put", "remove", "write 1", "read 1", "bad line"]) {
        assert.ok(done(what) > 20, `${what}: ${JSON.stringify(counts)}`);
      }
      assert.ok(done("listing") > 0 && done("replaced from outside") > 0, JSON.stringify(counts));
    }));
}

/** A history of the key "k", and what is wrong with it. */
function faultOf(tell: (history: ValueHistory) => void): string | null {
  const history = new ValueHistory("k");
  tell(history);
  return history.check();
}

test("a history finds what no order explains, and nothing else", () => {
  const put = (history: ValueHistory, version: number, sentAt: number, answeredAt: number) => {
    history.put(version, 10, sentAt).answeredAt = answeredAt;
  };
  const remove = (history: ValueHistory, sentAt: number, answeredAt: number) => {
    history.remove(sentAt).answeredAt = answeredAt;
  };
  // The old value, after the new one was acknowledged.
  assert.match(
    faultOf((history) => {
      put(history, 1, 1, 2);
      put(history, 2, 3, 4);
      history.saw(1, 10, 5, 6);
    })!,
    /version 1 was there from 2 to 5, and in between, from 3 to 4, version 2/,
  );
  // While the new one is being put, either.
  assert.equal(
    faultOf((history) => {
      put(history, 1, 1, 2);
      put(history, 2, 3, 8);
      history.saw(1, 10, 4, 5);
      history.saw(2, 10, 6, 7);
    }),
    null,
  );
  // But not the new one, and then the old one again.
  assert.match(
    faultOf((history) => {
      put(history, 1, 1, 2);
      put(history, 2, 3, 12);
      history.saw(2, 10, 4, 5);
      history.saw(1, 10, 6, 7);
      history.saw(2, 10, 8, 9);
    })!,
    /version [12] was there/,
  );
  // A miss, after a put was acknowledged.
  assert.match(
    faultOf((history) => {
      put(history, 1, 1, 2);
      history.missed(3, 4);
    })!,
    /a miss/,
  );
  assert.equal(
    faultOf((history) => {
      put(history, 1, 1, 2);
      remove(history, 3, 8);
      history.missed(4, 5);
    }),
    null,
  );
  // Something, after a removal was acknowledged.
  assert.match(
    faultOf((history) => {
      put(history, 1, 1, 2);
      remove(history, 3, 4);
      history.present(5, 6);
    })!,
    /something from 5 to 6/,
  );
  assert.match(
    faultOf((history) => {
      put(history, 1, 1, 2);
      remove(history, 3, 4);
      history.saw(1, 10, 5, 6);
    })!,
    /a removal/,
  );
  // A put that failed, and a put that nobody knows the end of.
  const history = new ValueHistory("k");
  history.put(1, 10, 1).failed = true;
  assert.match(history.saw(1, 10, 2, 3)!, /answered with an error/);
  assert.match(history.saw(7, 10, 2, 3)!, /not of this time/);
  assert.match(
    faultOf((lost) => {
      put(lost, 1, 1, 2);
      lost.put(2, 10, 3);
      lost.saw(1, 10, 4, 5);
      lost.saw(2, 10, 6, 7);
      lost.saw(1, 10, 8, 9);
    })!,
    /version [12] was there/,
  );
});
