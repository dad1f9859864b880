// SPDX-License-Identifier: Apache-2.0

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { settlesWithin, watch, within } from "../src/wait.ts";

const TIMEOUT = { timeout: 30_000 };
const never = new Promise<never>(() => {});
const expired = () => new Error("expired");

/** A signal that counts its listeners. */
function counted(): { controller: AbortController; listeners: () => number; added: () => number } {
  const controller = new AbortController();
  const { signal } = controller;
  const live = new Set<unknown>();
  let added = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args: unknown[]) => {
    added++;
    live.add(args[1]);
    Reflect.apply(addEventListener, signal, args);
  };
  signal.removeEventListener = (...args: unknown[]) => {
    live.delete(args[1]);
    Reflect.apply(removeEventListener, signal, args);
  };
  return { controller, listeners: () => live.size, added: () => added };
}

test("within() gives what the work gives, or its error", TIMEOUT, async () => {
  assert.equal(await within(sleep(1, "done"), { limitMs: 10_000, expired }), "done");
  await assert.rejects(within(Promise.reject(new Error("broken")), { expired }), /broken/);
});

test("within() ends with the limit, or with the signal's reason", TIMEOUT, async () => {
  await assert.rejects(within(never, { limitMs: 5, expired }), /expired/);
  const controller = new AbortController();
  const waiting = within(never, { limitMs: 20_000, signal: controller.signal, expired });
  controller.abort(new Error("enough"));
  await assert.rejects(waiting, /enough/);
  await assert.rejects(within(never, { signal: controller.signal, expired }), /enough/);
});

test("work that fails after its caller has gone disturbs nobody", TIMEOUT, async () => {
  const signal = AbortSignal.abort(new Error("enough"));
  const late = () => sleep(20).then(() => Promise.reject(new Error("late")));
  await assert.rejects(within(late(), { signal, expired }), /enough/);
  await assert.rejects(within(late(), { limitMs: 0, expired }), /expired/);
  await sleep(50); // An unhandled rejection would end the test.
});

test("a limit that no timer can keep is none, and does not ring at once", TIMEOUT, async () => {
  for (const limitMs of [undefined, Infinity, 2 ** 31, 1e300]) {
    assert.equal(await within(sleep(5, "done"), { limitMs, expired }), "done");
  }
});

test(
  "a thousand waits share one listener of their signal, and leave none behind",
  TIMEOUT,
  async () => {
    const { controller, listeners, added } = counted();
    const { signal } = controller;
    const reasons: unknown[] = [];
    const stops = Array.from(
      { length: 1000 },
      () => watch({ signal, expired }, (reason) => reasons.push(reason)),
    );
    assert.deepEqual([listeners(), added()], [1, 1]);
    for (const stop of stops.slice(1)) stop();
    assert.equal(listeners(), 1);
    stops[0]!();
    assert.equal(listeners(), 0);
    for (let i = 0; i < 500; i++) watch({ signal, expired }, (reason) => reasons.push(reason));
    await within(sleep(1), { signal, expired });
    const reason = new Error("enough");
    controller.abort(reason);
    assert.deepEqual(reasons, new Array(500).fill(reason));
  },
);

test("settlesWithin() says whether it did, failures included", TIMEOUT, async () => {
  assert.equal(await settlesWithin(sleep(1), 20_000), true);
  assert.equal(await settlesWithin(Promise.reject(new Error("broken")), 20_000), true);
  assert.equal(await settlesWithin(never, 5), false);
  assert.equal(await settlesWithin(never, -1), false);
});

test("a signal that is none is refused each time, and leaves no timer", TIMEOUT, () => {
  const signal = { aborted: false } as AbortSignal;
  for (let i = 0; i < 2; i++) {
    assert.throws(() => watch({ limitMs: 1, signal, expired }, () => assert.fail()), TypeError);
  }
});
