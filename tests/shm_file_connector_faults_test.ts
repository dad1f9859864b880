// SPDX-License-Identifier: Apache-2.0
//
// ShmFileConnector when things go wrong: workers killed in the middle, files that change while they
// are read, directories that vanish or cannot be seen.

import assert from "node:assert/strict";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { type ConnectorScene, connectorScene } from "./support/connector_scene.ts";
import { plainWorker } from "./support/plain_worker.ts";
import { workerOf } from "./support/version1_worker.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  processExists,
  ScriptedWorker,
  sleep,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const MIB = 2 ** 20;

const scene = (name: string, body: (scene: ConnectorScene) => Promise<void>) =>
  connectorScene(name, body, 16 * MIB);

const text = (segment: ShmSegment, offset: number, byteLength: number) =>
  new TextDecoder().decode(segment.bytes(offset, byteLength).slice());

/** The worker of the connector, unless it has just ended and the runtime does not know yet. */
function killWorker(connector: ShmFileConnector): void {
  const pid = connector.workerPid;
  if (pid === null) return;
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

scene("SIGKILL of the worker in the middle loses nothing and mixes nothing", async (s) => {
  const connector = await s.open({ maxRestarts: 100, restartPauseMs: 1 });
  const count = 48;
  const size = 128 * 1024;
  const fill = (round: number, index: number) => (round * count + index) % 251 + 1;
  for (let round = 0; round < 4; round++) {
    for (let index = 0; index < count; index++) {
      s.segment.bytes(index * size, size).fill(fill(round, index));
    }
    const puts = Array.from(
      { length: count },
      (_, index) => connector.put(`k${index}`, s.segment.range(index * size, size - round)),
    );
    await sleep(round);
    killWorker(connector);
    await Promise.all(puts);
    const gets = Array.from(
      { length: count },
      (_, index) => connector.get(`k${index}`, s.segment.range(8 * MIB + index * size, size)),
    );
    await sleep(1);
    killWorker(connector);
    for (const [index, found] of (await Promise.all(gets)).entries()) {
      assert.equal(found?.byteLength, size - round, `round ${round}, k${index}`);
      const bytes = s.segment.bytes(found!.offset, found!.byteLength);
      assert.ok(bytes.every((byte) => byte === fill(round, index)), `round ${round}, k${index}`);
    }
    // A worker that died after its last answer: what is lost twice is not asked a third time.
    await connector.ping();
  }
  assert.ok(connector.stats.restarts >= 4, `${connector.stats.restarts} restarts`);
  assert.equal(connector.stats.inFlight, 0);
  assert.deepEqual((await connector.listAll()).length, count);
  await connector.close();
  await s.segment.free();
});

scene("a killed worker is reported, and the next call has another", async (s) => {
  const lost: Error[] = [];
  const connector = await s.open({ onWorkerLost: (error) => lost.push(error) });
  const pid = connector.workerPid!;
  process.kill(pid, "SIGKILL");
  await eventually("the loss is reported", () => lost.length === 1);
  assert.ok(shmError("EWORKER", /killed by SIGKILL/)(lost[0]));
  assert.equal(connector.workerPid, null);
  await connector.put("k", s.segment.range(0, 10));
  assert.notEqual(connector.workerPid, pid);
  assert.equal(connector.stats.restarts, 1);
});

scene("an anonymous segment is attached again by the next worker", async (s) => {
  const segment = s.stack.use(await ShmSegment.create({ sizeBytes: MIB, pin: "none" }));
  const connector = await s.open({ segment });
  segment.bytes(0, 100).fill(3);
  await connector.put("k", segment.range(0, 100));
  process.kill(connector.workerPid!, "SIGKILL");
  const found = await connector.get("k", segment.range(5000, 100));
  assert.equal(found?.byteLength, 100);
  assert.ok(segment.bytes(5000, 100).every((byte) => byte === 3));
  await connector.close();
});

scene("a listening worker may be restarted under its clients", async (s) => {
  const address = s.dir.file("w.sock");
  const first = await startWorker(address, s.store);
  const connector = await s.open({
    workerAddress: address,
    restartPauseMs: 5,
    maxRestarts: 10_000,
  });
  await connector.put("k", s.segment.range(0, 10));
  first.child.kill("SIGKILL");
  await first[Symbol.asyncDispose]();
  const get = connector.get("k", s.segment.range(0, 10));
  s.stack.use(await startWorker(address, s.store));
  assert.equal((await get)?.byteLength, 10);
  assert.equal(connector.stats.restarts, 1);
  await connector.close();
});

scene("a worker that is away is said to be, and calls end", async (s) => {
  const worker = await startWorker("127.0.0.1:0", s.store, ["--no-auth"]);
  const connector = await s.open({
    workerAddress: worker.address,
    maxRestarts: 2,
    restartPauseMs: 5,
    restartWindowMs: 60_000,
  });
  await worker[Symbol.asyncDispose]();
  await assert.rejects(
    connector.put("k", s.segment.range(0, 10)),
    shmError("EWORKER", /ECONNREFUSED/),
  );
  await assert.rejects(connector.ping(), shmError("EWORKER", /in 1 attempt;.*the next call/));
  await assert.rejects(connector.exists("k"), shmError("EWORKER"));
  await connector.close();
});

for (const kind of ["unix", "tcp"] as const) {
  scene(`a worker that is back is used again, however long it was away (${kind})`, async (s) => {
    const args = kind === "tcp" ? ["--no-auth"] : [];
    const listen = kind === "tcp" ? "127.0.0.1:0" : s.dir.file("w.sock");
    const first = await startWorker(listen, s.store, args);
    const { address } = first;
    const connector = await s.open({
      workerAddress: address,
      maxRestarts: 2,
      restartPauseMs: 20,
      // Attempts that count for as long would be refused for the rest of the test.
      restartWindowMs: 3_600_000,
    });
    await connector.put("k", s.segment.range(0, 10));
    for (let round = 1; round <= 2; round++) {
      const worker = round === 1 ? first : s.stack.use(await startWorker(address, s.store, args));
      if (round > 1) {
        assert.equal((await connector.get("k", s.segment.range(0, 10)))?.byteLength, 10);
      }
      assert.equal(connector.stats.restarts, round - 1);
      worker.child.kill("SIGKILL");
      await worker[Symbol.asyncDispose]();
      // More failures than maxRestarts would ever allow.
      for (let call = 0; call < 4; call++) {
        await assert.rejects(connector.ping(), shmError("EWORKER"));
      }
    }
    await connector.close();
  });
}

scene("a worker that says nothing may be LMCache's, which serves one client", async (s) => {
  const worker = s.stack.use(await ScriptedWorker.listen(s.dir, () => ""));
  await assert.rejects(
    s.open({ workerAddress: worker.path, controlTimeoutMs: 50 }),
    (error: Error & { code?: string; hint?: string }) =>
      error.code === "ETIMEDOUT" && /serves one client/.test(error.hint ?? ""),
  );
});

scene("an object that grows to more than its range is never returned in part", async (s) => {
  let growths = 0;
  const worker = await s.plain((line) => {
    if (line.startsWith("READ") && line.includes("grow")) {
      appendFileSync(`${s.store}/grow.data`, "x".repeat(5));
      growths++;
    }
  });
  const connector = await s.open({ workerAddress: worker.path });
  writeFileSync(`${s.store}/grow.data`, "0123456789");
  // It fills the range, and has five more bytes by the time it is read.
  await assert.rejects(
    connector.get("grow", s.segment.range(0, 10)),
    shmError("EMSGSIZE", /15 bytes .* 10/),
  );
  assert.equal(growths, 1);
  // With room it is a longer object each time, so no length can be trusted.
  assert.equal(await connector.get("grow", s.segment.range(0, 100)), null);
  assert.equal(growths, 5, "it was tried four times");
  const { hits, misses, mismatches } = connector.stats;
  assert.deepEqual({ hits, misses, mismatches }, { hits: 0, misses: 1, mismatches: 1 });
});

scene("an object replaced once while it is read is read again", async (s) => {
  let changed = false;
  const worker = await s.plain((line) => {
    if (!line.startsWith("READ") || changed) return;
    changed = true;
    truncateSync(`${s.store}/k.data`, 4);
  });
  const connector = await s.open({ workerAddress: worker.path });
  writeFileSync(`${s.store}/k.data`, "0123456789");
  const found = await connector.get("k", s.segment.range(0, 10));
  assert.equal(found?.byteLength, 4);
  assert.equal(text(s.segment, 0, 4), "0123");
  assert.equal(connector.stats.mismatches, 0);
});

scene(
  "an object that a worker in place has only begun to write is not taken for empty",
  async (s) => {
    const worker = await s.plain((line) => {
      // It has cut the file already when its length is looked up, and has written when it is asked.
      if (line.startsWith("READ") && line.includes("begun")) {
        writeFileSync(`${s.store}/begun.data`, "whole");
      }
    });
    const connector = await s.open({ workerAddress: worker.path });
    writeFileSync(`${s.store}/begun.data`, "");
    const found = await connector.get("begun", s.segment.range(0, 10));
    assert.equal(text(s.segment, 0, found!.byteLength), "whole");
    writeFileSync(`${s.store}/empty.data`, "");
    assert.equal((await connector.get("empty", s.segment.range(0, 10)))?.byteLength, 0);
    assert.equal((await connector.get("empty", s.segment.range(0, 0)))?.byteLength, 0);
  },
);

scene("a file that vanishes before it is read is a miss", async (s) => {
  const worker = await s.plain((line) => {
    if (line.startsWith("READ") && line.includes("k.data")) unlinkSync(`${s.store}/k.data`);
  });
  const connector = await s.open({ workerAddress: worker.path });
  writeFileSync(`${s.store}/k.data`, "0123456789");
  assert.equal(await connector.get("k", s.segment.range(0, 10)), null);
  const { misses, mismatches } = connector.stats;
  assert.deepEqual({ misses, mismatches }, { misses: 1, mismatches: 0 });
});

scene("a directory that only the worker sees is used as far as it goes", async (s) => {
  const seen = "/lmshm-test-nowhere/store";
  const serve = plainWorker(s.segment);
  const worker = s.stack.use(
    await ScriptedWorker.listen(s.dir, (line, peer) => serve(line.replace(seen, s.store), peer)),
  );
  const connector = await s.open({ workerAddress: worker.path, storageDir: seen });
  assert.equal(existsSync(seen), false);
  s.segment.bytes(0, 6).set(new TextEncoder().encode("remote"));
  await connector.put("k", s.segment.range(0, 6));
  assert.equal(readFileSync(`${s.store}/k.data`, "utf8"), "remote");
  assert.equal(await connector.exists("k"), true);
  assert.equal(await connector.exists("none"), false);
  assert.equal(await connector.batchedContains(["k", "none", "k"]), 1);
  const found = await connector.get("k", s.segment.range(100, 50));
  assert.equal(text(s.segment, 100, found!.byteLength), "remote");
  assert.equal(await connector.get("none", s.segment.range(0, 10)), null);
  const unseen = shmError("ENOTSUP", /which is not here.*Mount the directory/);
  await assert.rejects(connector.listAll(), unseen);
  await assert.rejects(connector.remove("k"), unseen);
  await assert.rejects(connector.stat("k"), unseen);
});

for (const protocol of [1, 2] as const) {
  scene(`put() says that the directory is gone (version ${protocol})`, async (s) => {
    const workerBinary = workerOf(protocol, s.dir);
    const connector = await s.open({ workerBinary });
    assert.equal(connector.protocol, protocol);
    await connector.put("k", s.segment.range(0, 10));
    rmSync(s.store, { recursive: true });
    await assert.rejects(
      connector.put("k", s.segment.range(0, 10)),
      shmError("ENOENT", /^put k: .*storage directory exists/),
    );
    assert.equal(await connector.get("k", s.segment.range(0, 10)), null);
    assert.equal(await connector.exists("k"), false);
    assert.equal(await connector.stat("k"), null);
    assert.equal(await connector.batchedContains(["k"]), 0);
    assert.equal(await connector.remove("k"), false);
    // The worker's own descriptor of it still can be read, and has nothing in it.
    if (protocol === 2) assert.deepEqual(await connector.listAll(), []);
    else await assert.rejects(connector.listAll(), shmError("ENOENT"));
    assert.equal(connector.stats.inFlight, 0);
  });
}

test("put() into a read-only directory is refused by name", {
  timeout: 60_000,
  skip: process.geteuid?.() === 0 ? "root may write everywhere" : false,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
    await using connector = await ShmFileConnector.open({ segment, storageDir: dir.path });
    chmodSync(dir.path, 0o500);
    await assert.rejects(connector.put("k", segment.range(0, 10)), shmError("EACCES"));
    chmodSync(dir.path, 0o700);
  }));

scene("a full disk is ENOSPC, and the old object stays", async (s) => {
  const worker = await s.plain((line) =>
    line.startsWith("WRITE") ? "ERROR write failed: No space left on device" : undefined
  );
  const connector = await s.open({ workerAddress: worker.path });
  writeFileSync(`${s.store}/k.data`, "old");
  await assert.rejects(
    connector.put("k", s.segment.range(0, 10)),
    shmError("ENOSPC", /put k: .*Free space/),
  );
  assert.equal((await connector.get("k", s.segment.range(0, 3)))?.byteLength, 3);
});

scene("a segment stays while a worker that was given up may still write into it", async (s) => {
  const worker = s.stack.use(
    await ScriptedWorker.listen(
      s.dir,
      (line) => line.startsWith("WRITE") ? "" : undefined,
      { stubborn: true },
    ),
  );
  const connector = await s.open({ workerAddress: worker.path, ioTimeoutMs: 100, maxRestarts: 0 });
  await assert.rejects(connector.put("k", s.segment.range(0, 10)), shmError("ETIMEDOUT"));
  await assert.rejects(s.segment.free(), shmError("EBUSY", /put k/));
  worker.dropClients();
  await eventually("the worker is known to be gone", () => {
    try {
      s.segment.freeSync();
      return true;
    } catch (error) {
      return !shmError("EBUSY")(error);
    }
  });
});

scene("opening and closing 30 times leaves nothing behind", async (s) => {
  const pids: number[] = [];
  for (let round = 0; round < 30; round++) {
    const connector = await s.open();
    pids.push(connector.workerPid!);
    await connector.put(`k${round % 3}`, s.segment.range(0, 100));
    await connector.close();
  }
  assert.ok(pids.every((pid) => !processExists(pid)));
  assert.deepEqual(readdirSync(s.store).sort(), ["k0.data", "k1.data", "k2.data"]);
});
