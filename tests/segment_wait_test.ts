// SPDX-License-Identifier: Apache-2.0
//
// Waiting for others through a segment: wait(), notify() and ownerGone(), with processes that are
// stopped and killed.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { unlinkSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { fixtureCommand, runFixture } from "./support/process.ts";

function waitTest(name: string, body: () => Promise<void>): void {
  test(name, { timeout: 60_000 }, () => withoutLeaks(body));
}

function failure(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ShmError, `a ShmError, not ${error}`);
    assert.equal(error.code, code, error.message);
    return true;
  };
}

async function createNamed(topic: string): Promise<{ name: string; segment: ShmSegment }> {
  const name = uniqueName(topic);
  return { name, segment: await ShmSegment.create({ name, sizeBytes: 65_536, pin: "none" }) };
}

function wordsOf(segment: ShmSegment): Int32Array<ArrayBuffer> {
  return new Int32Array(segment.bytes(0, 64).buffer);
}

/** Wakes as many as there should be, of those that are about to wait. */
async function wake(segment: ShmSegment, offset: number, wanted: number, count?: number) {
  for (let woken = 0; woken < wanted;) {
    const now = segment.notify(offset, count);
    woken += now;
    assert.ok(woken <= wanted, `${woken} woken, ${wanted} wait`);
    if (now === 0) await sleep(1);
  }
}

interface Other {
  child: ChildProcess;
  /** All that it printed, when it has ended. */
  printed: Promise<string[]>;
  exited: Promise<unknown[]>;
}

/** Starts a fixture and waits until it says that it is ready. */
async function startOther(script: string, ...args: string[]): Promise<Other> {
  const [command, line] = fixtureCommand(script, ...args);
  return await startCommand(command, line);
}

async function startCommand(command: string, line: readonly string[]): Promise<Other> {
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.on("data", (data) => text += data);
  const exited = once(child, "exit");
  const printed = once(child, "close").then(() => text.trim().split("\n").slice(1));
  await once(child.stdout, "data");
  return { child, printed, exited };
}

waitTest("notify() wakes who waits in another process, and says how many", async () => {
  const { name, segment } = await createNamed("wake");
  await using _ = segment;
  assert.equal(segment.notify(0), 0, "nobody waits");
  const other = await startOther("waiter.ts", name, "wait");
  await wake(segment, 0, 1);
  assert.deepEqual(await other.printed, ["ok", "ended"]);
  assert.equal(segment.notify(0), 0, "nobody waits any more");
});

waitTest("two processes take turns and no wake is lost", async () => {
  const { name, segment } = await createNamed("turns");
  await using _ = segment;
  const words = wordsOf(segment);
  const other = await startOther("waiter.ts", name, "turns");
  for (let turn = 0; turn < 200; turn = Atomics.load(words, 1)) {
    if (turn % 2 === 0) {
      Atomics.store(words, 1, turn + 1);
      segment.notify(4);
    } else {
      assert.notEqual(await segment.wait(4, turn, { timeoutMs: 30_000 }), "timed-out");
    }
  }
  assert.deepEqual(await other.printed, ["ended"]);
  assert.equal(Atomics.load(words, 1), 200);
});

waitTest("each of many waits is woken once, in several processes", async () => {
  const { name, segment } = await createNamed("many");
  await using _ = segment;
  const others = await Promise.all([1, 2].map(() => startOther("waiter.ts", name, "wait")));
  const results: string[] = [];
  const waits = Array.from({ length: 40 }, async () => {
    results.push(await segment.wait(0, 0));
  });
  await wake(segment, 0, 42, 5);
  await Promise.all(waits);
  assert.deepEqual(results, Array(40).fill("ok"));
  for (const other of others) assert.deepEqual(await other.printed, ["ok", "ended"]);
});

waitTest("notify() wakes no more than it is told to", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  let ended = 0;
  const waits = [1, 2, 3].map(() => segment.wait(8, 0).then(() => ended++));
  assert.equal(segment.notify(8, 0), 0);
  await wake(segment, 8, 1, 1);
  await Promise.race(waits);
  await sleep(50);
  assert.equal(ended, 1);
  await wake(segment, 8, 2);
  await Promise.all(waits);
  assert.equal(segment.notify(8), 0);
});

waitTest("a word that has changed already is not waited for", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  const words = wordsOf(segment);
  Atomics.store(words, 1, -5);
  assert.equal(await segment.wait(4, 0), "not-equal");
  assert.equal(await segment.wait(4, -5, { timeoutMs: 0 }), "timed-out");
  assert.equal(await segment.wait(4, 2 ** 32 - 5, { timeoutMs: 0 }), "timed-out", "unsigned");
  assert.equal(await segment.wait(4, 1, { timeoutMs: 0 }), "not-equal");
});

waitTest("a wait that is not woken ends at its limit", async () => {
  const { name, segment } = await createNamed("limit");
  await using _ = segment;
  assert.equal(await segment.wait(0, 0, { timeoutMs: 20 }), "timed-out");
  const other = await startOther("waiter.ts", name, "timeout");
  assert.deepEqual(await other.printed, ["timed-out", "ended"]);
  assert.equal(segment.notify(0), 0);
});

waitTest("a signal ends a wait with its reason, and only that one", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  const reason = new Error("enough");
  await assert.rejects(segment.wait(0, 0, { signal: AbortSignal.abort(reason) }), reason);
  const controller = new AbortController();
  const stays = segment.wait(0, 0);
  const goes = segment.wait(0, 0, { signal: controller.signal });
  const rejected = assert.rejects(goes, reason);
  await sleep(20);
  controller.abort(reason);
  await rejected;
  await wake(segment, 0, 1);
  assert.equal(await stays, "ok");
  const { signal } = new AbortController();
  assert.equal(await segment.wait(0, 1, { signal }), "not-equal");
});

waitTest("a segment that is freed ends what waits for it", async () => {
  for (const how of ["free", "freeSync"] as const) {
    const segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
    const waits = [0, 4, 8, 8].map((offset) =>
      assert.rejects(segment.wait(offset, 0), failure("ECANCELED"))
    );
    if (how === "free") await sleep(10);
    await segment[how]();
    await Promise.all(waits);
    await assert.rejects(segment.wait(0, 0), failure("EBADF"));
    await assert.rejects(segment.ownerGone(), failure("EBADF"));
    assert.throws(() => segment.notify(0), failure("EBADF"));
  }
});

waitTest("what is no word, value, limit or count is refused", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4099, pin: "none" });
  for (const offset of [1, 2, 4097, 4096, 4100, -4, 0.5, NaN]) {
    await assert.rejects(segment.wait(offset, 0), RangeError, `wait at ${offset}`);
    assert.throws(() => segment.notify(offset), RangeError, `notify at ${offset}`);
  }
  for (const expected of [2 ** 32, -(2 ** 31) - 1, 0.5, NaN]) {
    await assert.rejects(segment.wait(0, expected), RangeError, `expected ${expected}`);
  }
  await assert.rejects(segment.wait(0, 0, { timeoutMs: -1 }), RangeError);
  await assert.rejects(segment.wait(0, 0, { timeoutMs: NaN }), RangeError);
  await assert.rejects(segment.wait(0, 0, { timeout: 5 } as object), TypeError);
  await assert.rejects(segment.wait(0, "0" as unknown as number), TypeError);
  await assert.rejects(segment.wait(0, 0, { signal: {} as AbortSignal }), TypeError);
  assert.throws(() => segment.notify(0, -1), RangeError);
  assert.throws(() => segment.notify(0, 1.5), RangeError);
});

waitTest("the event loop turns while somebody waits", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  const wait = segment.wait(0, 0);
  for (let tick = 0; tick < 5; tick++) await sleep(1);
  await wake(segment, 0, 1);
  assert.equal(await wait, "ok");
});

waitTest("who was stopped meanwhile sees the change when it goes on", async () => {
  const { name, segment } = await createNamed("stopped");
  await using _ = segment;
  const other = await startOther("waiter.ts", name, "wait");
  process.kill(other.child.pid!, "SIGSTOP");
  Atomics.store(wordsOf(segment), 0, 1);
  segment.notify(0);
  process.kill(other.child.pid!, "SIGCONT");
  const [result] = await other.printed;
  assert.ok(result === "ok" || result === "not-equal", `${result}`);
});

waitTest("who was killed is not counted", async () => {
  const { name, segment } = await createNamed("dead");
  await using _ = segment;
  const other = await startOther("waiter.ts", name, "wait");
  await sleep(50);
  process.kill(other.child.pid!, "SIGKILL");
  await other.exited;
  assert.equal(segment.notify(0), 0);
});

async function startThread(): Promise<{ thread: Worker; next: () => Promise<unknown> }> {
  const thread = new Worker(new URL("./fixtures/waiting_thread.ts", import.meta.url), {
    type: "module",
  });
  const next = () => new Promise((resolve) => thread.onmessage = ({ data }) => resolve(data));
  assert.equal(await next(), "ready");
  return { thread, next };
}

waitTest("a thread waits as the program does", async () => {
  const { name, segment } = await createNamed("thread");
  await using _ = segment;
  const { thread, next } = await startThread();
  const ended = next();
  thread.postMessage([name, 0]);
  await wake(segment, 0, 1);
  assert.equal(await ended, "ok");
  thread.terminate();
});

// Its mapping is kept until the process ends (ending_test.ts), so this looks for no leaks.
test("a thread that is terminated takes no wake from others", { timeout: 60_000 }, async () => {
  const words = 11;
  const { name, segment } = await createNamed("terminated");
  await using _ = segment;
  const { thread, next } = await startThread();
  const waits = next();
  thread.postMessage([name, words]);
  await wake(segment, 4 * words, 1); // the last
  assert.equal(await waits, "waits");
  thread.terminate();
  let woken = 1;
  // Each word is asked once, after a longer time.
  for (let word = 0; word < words && woken > 0; word++) {
    await sleep(10 * 2 ** word);
    woken = segment.notify(4 * word);
  }
  assert.equal(woken, 0);
  const own = segment.wait(0, 0);
  await wake(segment, 0, 1);
  assert.equal(await own, "ok");
});

waitTest("Atomics on a segment's bytes are atomic between processes", async () => {
  const { name, segment } = await createNamed("atomics");
  await using _ = segment;
  const words = wordsOf(segment);
  const other = await startOther("waiter.ts", name, "add");
  Atomics.store(words, 1, 1);
  segment.notify(4);
  for (let i = 0; i < 1_000_000; i++) Atomics.add(words, 2, 1);
  assert.deepEqual(await other.printed, ["ended"]);
  assert.equal(Atomics.load(words, 2), 2_000_000);
});

waitTest("an owner that is killed has died, and its memory stays", async () => {
  const name = uniqueName("killed");
  const owner = await startOther("owner.ts", name, "4096", "wait");
  const segment = await ShmSegment.attach({ name, pin: "none" });
  const gone = segment.ownerGone();
  process.kill(owner.child.pid!, "SIGSTOP");
  assert.equal(await segment.ownerGone({ timeoutMs: 100 }), "timed-out", "who is stopped lives");
  process.kill(owner.child.pid!, "SIGKILL");
  assert.equal(await gone, "died");
  assert.equal(new TextDecoder().decode(segment.bytes(0, 5)), "owner");
  assert.equal(await segment.ownerGone(), "died", "told again");
  await owner.exited;
  await segment.free();
  ShmSegment.reclaimDead();
  assert.equal(ShmSegment.nameState(name), "free");
});

waitTest("an owner that frees the segment has released it", async () => {
  const { name, segment } = await createNamed("released");
  const other = await startOther("waiter.ts", name, "owner");
  await using attached = await ShmSegment.attach({ name, pin: "none" });
  const gone = attached.ownerGone();
  await segment.free();
  assert.equal(await gone, "released");
  const [how] = await other.printed;
  assert.equal(how, "released", "whenever it looked");
});

waitTest("without a descriptor left waiting for an owner says what to do", async () => {
  const { name, segment } = await createNamed("files");
  await using _ = segment;
  const [command, line] = fixtureCommand("waiter.ts", name, "no-files");
  const limited = ["-c", 'ulimit -n 200; exec "$0" "$@"', command, ...line];
  const [failed, after, ended] = await (await startCommand("sh", limited)).printed;
  assert.match(failed!, /\(EMFILE\).*ulimit -n/s);
  assert.deepEqual([after, ended], ["timed-out", "ended"]);
});

waitTest("an owner that takes the place of a dead one is another's", async () => {
  const name = uniqueName("successor");
  const owner = await startOther("owner.ts", name, "4096", "wait");
  await using segment = await ShmSegment.attach({ name, pin: "none" });
  const gone = segment.ownerGone();
  process.kill(owner.child.pid!, "SIGKILL");
  await owner.exited;
  await using successor = await ShmSegment.create({ name, sizeBytes: 4096, pin: "none" });
  assert.notEqual(successor.identity, segment.identity);
  assert.equal(await gone, "died");
  await using attached = await ShmSegment.attach({ name, pin: "none" });
  assert.equal(await attached.ownerGone({ timeoutMs: 50 }), "timed-out");
});

waitTest("waiting for an owner ends by a signal, and with the own mapping", async () => {
  const { name, segment } = await createNamed("detached");
  await using _ = segment;
  const attached = await ShmSegment.attach({ name, pin: "none" });
  const controller = new AbortController();
  const aborted = assert.rejects(attached.ownerGone({ signal: controller.signal }), /enough/);
  const gone = attached.ownerGone();
  controller.abort(new Error("enough"));
  await aborted;
  await attached.free();
  assert.equal(await gone, "detached");
});

waitTest("a segment without another owner is refused", async () => {
  const { segment } = await createNamed("own");
  await using _ = segment;
  await assert.rejects(segment.ownerGone(), failure("EINVAL"));
  const strangers = uniqueName("stranger");
  writeFileSync(`/dev/shm/${strangers}`, new Uint8Array(4096), { mode: 0o600 });
  await using attached = await ShmSegment.attach({ name: strangers, pin: "none" });
  await assert.rejects(attached.ownerGone(), failure("ENOTSUP"));
  unlinkSync(`/dev/shm/${strangers}`);
});

waitTest("waiting needs no permission beyond those for a segment", async () => {
  const { name, segment } = await createNamed("permissions");
  await using _ = segment;
  const denoPermissions = ["--no-prompt", "--allow-ffi", "--allow-read", "--allow-env"];
  const ended = await runFixture("waiter.ts", [name, "timeout"], { denoPermissions });
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /timed-out/);
});
