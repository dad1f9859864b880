// SPDX-License-Identifier: Apache-2.0
//
// The limit of a storage directory: what counts, what is removed in which order, what is never
// touched, and that concurrent writers, in this process and in others, keep to it. First the quota
// by itself, over files that the tests write; then the connector that uses it.

import assert from "node:assert/strict";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { DirectoryQuota } from "../src/connector/directory_quota.ts";
import { keyFile } from "../src/keys/key_file.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { uniqueName } from "./support/leaks.ts";
import { runFixture } from "./support/process.ts";
import {
  eventually,
  ScriptedWorker,
  shmError,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const BLOCK = 4096;
const DAY_S = 86_400;

/** 0 for what was removed in the meantime. */
function blocksOf(path: string): number {
  return lstatSync(path, { throwIfNoEntry: false })?.blocks ?? 0;
}

/** What the objects of a directory take of the disk. */
function diskBytes(path: string): number {
  return readdirSync(path).filter((name) => /\.(data|key)$/.test(name))
    .reduce((sum, name) => sum + blocksOf(`${path}/${name}`) * 512, 0);
}

/** An object that was last used `daysAgo`. @returns its file's name. */
function writeObject(dir: TempDir, key: string, byteLength: number, daysAgo = 0): string {
  const { fileName, sidecarName } = keyFile(key);
  writeFileSync(dir.file(fileName), new Uint8Array(byteLength).fill(7));
  if (sidecarName !== null) writeFileSync(dir.file(sidecarName), key);
  age(dir.file(fileName), daysAgo);
  return fileName;
}

function age(path: string, daysAgo: number): void {
  const seconds = Date.now() / 1000 - daysAgo * DAY_S;
  utimesSync(path, seconds, seconds);
}

/** Reserves, writes, commits. */
async function put(quota: DirectoryQuota, dir: TempDir, key: string, byteLength: number) {
  const { fileName } = keyFile(key);
  const room = await quota.reserve(fileName, byteLength);
  writeObject(dir, key, byteLength);
  await room.commit();
}

function objectsIn(dir: TempDir): string[] {
  return readdirSync(dir.path).filter((name) => name.endsWith(".data"))
    .map((name) => name.slice(0, -".data".length)).sort();
}

function quotaTest(name: string, body: (dir: TempDir) => Promise<void>): void {
  test(`quota: ${name}`, { timeout: 60_000 }, async () => {
    using dir = new TempDir();
    await body(dir);
  });
}

quotaTest("a directory is counted when it is opened, and brought below the limit", async (dir) => {
  for (let index = 0; index < 8; index++) writeObject(dir, `k${index}`, 2 * BLOCK, 8 - index);
  const roomy = await DirectoryQuota.open(dir.path, { maxBytes: 100 * BLOCK });
  assert.deepEqual(roomy.stats, {
    maxBytes: 100 * BLOCK,
    usedBytes: 16 * BLOCK,
    objects: 8,
    evictions: 0,
    evictedBytes: 0,
    staleTemporaries: 0,
    staleKeys: 0,
  });
  const tight = await DirectoryQuota.open(dir.path, { maxBytes: 7 * BLOCK });
  assert.deepEqual(objectsIn(dir), ["k5", "k6", "k7"], "those used last remain");
  assert.equal(tight.stats.usedBytes, diskBytes(dir.path));
  assert.equal(tight.stats.evictions, 5);
  assert.equal(tight.stats.evictedBytes, 10 * BLOCK);
});

quotaTest("a range that cannot be looked at takes no room", async (dir) => {
  await using segment = await ShmSegment.create({ sizeBytes: 16 * BLOCK, pin: "none" });
  const { hold } = segment.range();
  for (const protocol of [1, 2] as const) {
    const options = { segment, storageDir: dir.path, maxBytes: 16 * BLOCK, protocol };
    await using connector = await ShmFileConnector.open(options);
    for (let good = 1; good <= 8; good++) {
      let looks = 0;
      const range = {
        segment,
        byteLength: BLOCK,
        hold,
        get offset() {
          if (looks++ >= good) throw new Error("no offset");
          return 0;
        },
      };
      await connector.put(`k${good}`, range).catch((error) =>
        assert.match(`${error}`, /no offset/)
      );
    }
    assert.equal(connector.stats.quota!.usedBytes, diskBytes(dir.path));
    await connector.put("whole", segment.range(0, 8 * BLOCK));
  }
  await segment.free();
});

quotaTest("what was used longest ago goes first, before and after a restart", async (dir) => {
  const open = () => DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  const first = await open();
  for (const key of ["a", "b", "c", "d"]) await put(first, dir, key, BLOCK);
  first.touch("a.data");
  await put(first, dir, "e", BLOCK);
  assert.deepEqual(objectsIn(dir), ["a", "c", "d", "e"], "b was oldest, since a was used");
  // As a reader leaves it behind: the access time tells of the use, the other does not.
  const now = Date.now() / 1000;
  for (const [days, key] of ["c", "a", "e", "d"].entries()) {
    utimesSync(dir.file(`${key}.data`), now - (10 - days) * DAY_S, now - 50 * DAY_S);
  }
  const second = await open();
  await put(second, dir, "f", 2 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["d", "e", "f"], "c and a were used longest ago");
});

quotaTest("a replaced object counts once, with its new size", async (dir) => {
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 10 * BLOCK });
  for (const blocks of [1, 5, 2, 4]) {
    await put(quota, dir, "same", blocks * BLOCK);
    assert.equal(quota.stats.usedBytes, blocks * BLOCK);
    assert.equal(quota.stats.objects, 1);
  }
  assert.equal(quota.stats.evictions, 0);
});

quotaTest("disk blocks count, not lengths", async (dir) => {
  // A file of 1 byte takes a block; one with a hole takes less than its length.
  writeObject(dir, "tiny", 1);
  writeObject(dir, "hole", 0);
  truncateSync(dir.file("hole.data"), 1_000 * BLOCK);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 20 * BLOCK });
  assert.equal(quota.stats.usedBytes, diskBytes(dir.path));
  assert.ok(quota.stats.usedBytes < 10 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["hole", "tiny"]);
  for (let index = 0; index < 40; index++) await put(quota, dir, `t${index}`, 1);
  assert.ok(diskBytes(dir.path) <= 20 * BLOCK);
  assert.equal(objectsIn(dir).length, 20, "one block each");
});

quotaTest("an object larger than the limit is EFBIG, and costs the others nothing", async (dir) => {
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  for (const key of ["a", "b", "c"]) await put(quota, dir, key, BLOCK);
  await assert.rejects(
    quota.reserve("big.data", 4 * BLOCK + 1),
    shmError("EFBIG", new RegExp(`takes ${5 * BLOCK} bytes, and .* may take ${4 * BLOCK}`)),
  );
  assert.deepEqual(objectsIn(dir), ["a", "b", "c"]);
  await put(quota, dir, "whole", 4 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["whole"], "exactly the limit fits");
});

quotaTest("ENOSPC while others are written; cancelling makes room again", async (dir) => {
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  await put(quota, dir, "kept", BLOCK);
  const rooms = await Promise.all(["a", "b", "c"].map((key) => quota.reserve(key, BLOCK)));
  assert.equal(quota.stats.usedBytes, 4 * BLOCK);
  await assert.rejects(quota.reserve("d.data", 2 * BLOCK), shmError("ENOSPC", /being written/));
  assert.deepEqual(objectsIn(dir), ["kept"], "nothing was given up for what cannot fit");
  rooms[0]!.cancel();
  assert.throws(() => rooms[0]!.cancel(), /ends once/);
  await put(quota, dir, "d", 2 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["d"]);
  rooms[1]!.cancel();
  rooms[2]!.cancel();
  assert.equal(quota.stats.usedBytes, 2 * BLOCK);
});

quotaTest("an object that is being replaced is not removed under its writer", async (dir) => {
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  await put(quota, dir, "old", BLOCK);
  await put(quota, dir, "other", BLOCK);
  const room = await quota.reserve("old.data", BLOCK);
  await put(quota, dir, "new", 2 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["new", "old"], "the younger one went");
  await room.commit();
  assert.equal(quota.stats.usedBytes, 3 * BLOCK);
});

quotaTest("a write that failed leaves nothing in the books", async (dir) => {
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  const room = await quota.reserve("never.data", BLOCK);
  await room.commit();
  assert.equal(quota.stats.usedBytes, 0);
  assert.equal(quota.stats.objects, 0);
});

quotaTest("concurrent reservations never exceed the limit", async (dir) => {
  const maxBytes = 16 * BLOCK;
  const quota = await DirectoryQuota.open(dir.path, { maxBytes, refreshMs: 0 });
  let refused = 0;
  let most = 0;
  const one = async (index: number) => {
    for (let round = 0; round < 25; round++) {
      const blocks = 1 + (index * 7 + round * 3) % 5;
      try {
        await put(quota, dir, `k${index}-${round % 4}`, blocks * BLOCK);
      } catch (error) {
        shmError("ENOSPC")(error);
        refused++;
      }
      const { usedBytes } = quota.stats;
      most = Math.max(most, usedBytes, diskBytes(dir.path));
      if (round % 5 === 0) quota.touch(`k${index}-0.data`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, (_, index) => one(index)));
  assert.ok(most <= maxBytes, `${most} of ${maxBytes}`);
  assert.ok(refused < 200, "some found room");
  assert.equal(quota.stats.usedBytes, diskBytes(dir.path), "the books are right at the end");
});

quotaTest("random operations agree with a plain model", async (dir) => {
  const maxBytes = 12 * BLOCK;
  const quota = await DirectoryQuota.open(dir.path, { maxBytes });
  let model: { key: string; blocks: number }[] = [];
  const without = (key: string) => model.filter((one) => one.key !== key);
  let state = 12345;
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  for (let step = 0; step < 600; step++) {
    const key = `k${random(15)}`;
    const what = random(10);
    if (what < 6) {
      const blocks = 1 + random(4);
      await put(quota, dir, key, blocks * BLOCK);
      const total = () => model.reduce((sum, one) => sum + one.blocks, blocks);
      while (total() > 12) model.shift();
      model = [...without(key), { key, blocks }];
    } else if (what < 9) {
      quota.touch(`${key}.data`);
      const found = model.find((one) => one.key === key);
      if (found) model = [...without(key), found];
    } else {
      rmSync(dir.file(`${key}.data`), { force: true });
      quota.removed(`${key}.data`);
      model = without(key);
    }
    assert.deepEqual(objectsIn(dir), model.map((one) => one.key).sort(), `step ${step}`);
    const blocks = model.reduce((sum, one) => sum + one.blocks, 0);
    assert.equal(quota.stats.usedBytes, blocks * BLOCK, `step ${step}`);
  }
  assert.ok(quota.stats.evictions > 50, "the limit was felt");
});

quotaTest("two quotas on one directory keep the limit and each other's objects", async (dir) => {
  const options = { maxBytes: 10 * BLOCK, refreshMs: 0 };
  const one = await DirectoryQuota.open(dir.path, options);
  const two = await DirectoryQuota.open(dir.path, options);
  for (let index = 0; index < 30; index++) {
    await put(index % 2 ? one : two, dir, `k${index}`, BLOCK);
    assert.ok(diskBytes(dir.path) <= options.maxBytes, `after ${index}`);
  }
  const left = objectsIn(dir);
  assert.equal(left.length, 10, "what one removed, the other does not count");
  assert.ok(left.includes("k29") && left.includes("k28") && !left.includes("k0"), left.join());
  // The other replaces an object with a larger one: noticed, though the name was known.
  writeObject(dir, "k29", 5 * BLOCK);
  await put(one, dir, "last", BLOCK);
  await put(one, dir, "last", BLOCK);
  assert.ok(diskBytes(dir.path) <= options.maxBytes);
  assert.equal(one.stats.usedBytes, diskBytes(dir.path));
});

quotaTest("additions by others go unnoticed for refreshMs, and no longer", async (dir) => {
  const patient = await DirectoryQuota.open(dir.path, {
    maxBytes: 4 * BLOCK,
    refreshMs: 3_600_000,
  });
  for (const key of ["x", "y", "z"]) writeObject(dir, key, BLOCK, 1);
  await put(patient, dir, "a", 2 * BLOCK);
  assert.equal(patient.stats.evictions, 0, "it has not looked");
  const eager = await DirectoryQuota.open(dir.path, { maxBytes: 5 * BLOCK, refreshMs: 0 });
  writeObject(dir, "w", BLOCK, 2);
  await put(eager, dir, "b", BLOCK);
  assert.deepEqual(objectsIn(dir).filter((key) => "ab".includes(key)), ["a", "b"]);
  assert.ok(diskBytes(dir.path) <= 5 * BLOCK);
});

quotaTest("who writes much looks at what others wrote before refreshMs are over", async (dir) => {
  const options = { maxBytes: 64 * BLOCK, refreshMs: 60_000 };
  const one = await DirectoryQuota.open(dir.path, options);
  const two = await DirectoryQuota.open(dir.path, options);
  for (let index = 0; index < 40; index++) await put(two, dir, `two${index}`, BLOCK);
  // A sixteenth of the limit, and again: but there is a least time between two looks.
  const endMs = performance.now() + 20_000;
  while (one.stats.objects <= 40 && performance.now() < endMs) await put(one, dir, "one", BLOCK);
  assert.equal(one.stats.objects, 41);
  assert.equal(one.stats.usedBytes, diskBytes(dir.path));
});

/** A process id that is nobody's. */
function deadPid(): number {
  for (let pid = 4_000_000; pid > 3_000_000; pid--) if (!existsSync(`/proc/${pid}`)) return pid;
  throw new Error("every process id is taken");
}

quotaTest("temporaries of dead writers are removed, those of others are not", async (dir) => {
  const temporary = (name: string, pid: number, days: number) => {
    const file = `.${name}.${pid}.0123456789abcdef.tmp`;
    writeFileSync(dir.file(file), "partial");
    age(dir.file(file), days);
    return file;
  };
  const stale = temporary("dead.data", deadPid(), 1 / 24);
  const ancient = temporary("reused-number.data", process.pid, 2);
  const young = temporary("young.data", deadPid(), 0);
  const alive = temporary("alive.data", process.pid, 1 / 24);
  const foreign = ".bash_history.tmp";
  writeFileSync(dir.file(foreign), "not ours");
  age(dir.file(foreign), 100);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 100 * BLOCK, refreshMs: 0 });
  assert.deepEqual(readdirSync(dir.path).sort(), [young, alive, foreign].sort());
  assert.ok(!existsSync(dir.file(stale)) && !existsSync(dir.file(ancient)));
  assert.equal(quota.stats.staleTemporaries, 2);
  // A writer that dies later is noticed, too, without another opening.
  age(dir.file(young), 1);
  await put(quota, dir, "a", BLOCK);
  assert.ok(!existsSync(dir.file(young)));
  assert.equal(quota.stats.staleTemporaries, 3);
});

quotaTest(
  "a long key's object counts with the file that keeps its key, and goes with it",
  async (dir) => {
    const long = "L".repeat(400);
    writeObject(dir, long, BLOCK, 5);
    const { sidecarName } = keyFile(long);
    assert.ok(sidecarName !== null && existsSync(dir.file(sidecarName)));
    const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
    assert.equal(quota.stats.usedBytes, 2 * BLOCK);
    await put(quota, dir, "a", 3 * BLOCK);
    assert.deepEqual(readdirSync(dir.path), ["a.data"]);
    assert.equal(quota.stats.evictedBytes, 2 * BLOCK);
    await put(quota, dir, "M".repeat(400), BLOCK);
    await assert.rejects(quota.reserve(keyFile(long).fileName, 4 * BLOCK), shmError("EFBIG"));
  },
);

quotaTest("a key without an object counts, and is removed when it is old", async (dir) => {
  const [lone, young] = ["L", "Y"].map((letter) => keyFile(letter.repeat(400)).sidecarName!);
  const kept = "K".repeat(400);
  writeObject(dir, kept, BLOCK);
  for (const name of [lone!, young!, keyFile(kept).sidecarName!]) {
    writeFileSync(dir.file(name), "the key");
    age(dir.file(name), name === young ? 0 : 1);
  }
  const foreign = "private.key";
  writeFileSync(dir.file(foreign), "not ours");
  age(dir.file(foreign), 100);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 100 * BLOCK, refreshMs: 0 });
  assert.ok(!existsSync(dir.file(lone!)));
  assert.ok(
    [young!, foreign, keyFile(kept).sidecarName!].every((name) => existsSync(dir.file(name))),
  );
  assert.equal(quota.stats.staleKeys, 1);
  assert.equal(quota.stats.usedBytes, diskBytes(dir.path) - blocksOf(dir.file(foreign)) * 512);
  age(dir.file(young!), 1);
  await put(quota, dir, "a", BLOCK);
  assert.ok(!existsSync(dir.file(young!)));
  assert.equal(quota.stats.usedBytes, 3 * BLOCK);
});

quotaTest("a probe that a client left is no object, and is removed", async (dir) => {
  const probe = `.lmshm-probe.${deadPid()}.0123456789abcdef.tmp.data`;
  writeFileSync(dir.file(probe), "");
  const young = await DirectoryQuota.open(dir.path, { maxBytes: 100 * BLOCK });
  assert.equal(young.stats.objects, 0);
  age(dir.file(probe), 1);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 100 * BLOCK });
  assert.deepEqual(readdirSync(dir.path), []);
  assert.equal(quota.stats.staleTemporaries, 1);
});

quotaTest("objects that LMCache wrote count, whatever their key", async (dir) => {
  const name = "meta-llama-SEP-Llama-3.1-8B@1@0@-5f3a@bfloat16.data";
  writeFileSync(dir.file(name), new Uint8Array(3 * BLOCK).fill(1));
  age(dir.file(name), 3);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK });
  assert.equal(quota.stats.usedBytes, 3 * BLOCK);
  await put(quota, dir, "ours", 2 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["ours"]);
});

quotaTest("foreign files, directories and links are neither counted nor touched", async (dir) => {
  using elsewhere = new TempDir();
  writeFileSync(elsewhere.file("precious.data"), new Uint8Array(50 * BLOCK));
  writeFileSync(dir.file("README"), new Uint8Array(50 * BLOCK));
  writeFileSync(dir.file("model.safetensors"), new Uint8Array(50 * BLOCK));
  writeFileSync(dir.file("orphan.key"), "no object's");
  mkdirSync(dir.file("directory.data"));
  writeFileSync(dir.file("directory.data/inner.data"), new Uint8Array(50 * BLOCK));
  symlinkSync(elsewhere.file("precious.data"), dir.file("link.data"));
  for (const name of readdirSync(dir.path)) if (name !== "link.data") age(dir.file(name), 9);
  const before = readdirSync(dir.path).sort();
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK, refreshMs: 0 });
  assert.equal(quota.stats.usedBytes, 0);
  for (let index = 0; index < 10; index++) await put(quota, dir, `k${index}`, 2 * BLOCK);
  assert.deepEqual(
    readdirSync(dir.path).filter((name) => !/^k\d\.data$/.test(name)).sort(),
    before,
  );
  assert.equal(lstatSync(elsewhere.file("precious.data")).size, 50 * BLOCK);
  assert.deepEqual(readdirSync(dir.file("directory.data")), ["inner.data"]);
});

quotaTest("what cannot be removed is named, and does not keep the rest", async (dir) => {
  writeObject(dir, "a", 2 * BLOCK, 3);
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK, refreshMs: 3_600_000 });
  await put(quota, dir, "b", BLOCK);
  // A directory in its place: no file can be removed there, not even by root.
  rmSync(dir.file("a.data"));
  mkdirSync(dir.file("a.data/full"), { recursive: true });
  await put(quota, dir, "c", 2 * BLOCK);
  assert.deepEqual(objectsIn(dir), ["a", "c"], "the next one went instead");
  await assert.rejects(
    quota.reserve("d.data", 4 * BLOCK),
    shmError("ENOSPC", /EISDIR|EPERM|ENOTEMPTY/),
  );
  assert.equal(quota.stats.usedBytes, 2 * BLOCK, "a still counts");
  rmSync(dir.file("a.data"), { recursive: true });
  await put(quota, dir, "d", 4 * BLOCK);
  assert.equal(quota.stats.usedBytes, 4 * BLOCK);
});

quotaTest("a directory that is gone or no directory is said so", async (dir) => {
  await assert.rejects(
    DirectoryQuota.open(dir.file("none"), { maxBytes: BLOCK }),
    shmError("ENOENT", /storage directory/),
  );
  const quota = await DirectoryQuota.open(dir.path, { maxBytes: 4 * BLOCK, refreshMs: 0 });
  rmSync(dir.path, { recursive: true });
  await assert.rejects(quota.reserve("a.data", 1), shmError("ENOENT", /storage directory/));
  assert.equal(quota.stats.usedBytes, 0, "nothing stays reserved");
  mkdirSync(dir.path);
  await put(quota, dir, "a", BLOCK);
});

quotaTest("a wrong option is refused by name", async (dir) => {
  for (const maxBytes of [0, BLOCK - 1, -1, 1.5, NaN, Infinity]) {
    await assert.rejects(DirectoryQuota.open(dir.path, { maxBytes }), /RangeError: maxBytes/);
  }
  await assert.rejects(
    DirectoryQuota.open(dir.path, { maxBytes: BLOCK, refreshMs: -1 }),
    /refreshMs/,
  );
  const misspelt = { maxBytes: BLOCK, refreshMS: 1 };
  await assert.rejects(DirectoryQuota.open(dir.path, misspelt), /no option "refreshMS"/);
});

// --- the connector

/** A connector with a limit, by default over a pipe. */
function connectorTest(
  name: string,
  body: (dir: TempDir, segment: ShmSegment, store: string) => Promise<void>,
): void {
  test(`quota: ${name}`, { timeout: 120_000 }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("quota"), sizeBytes: 2 ** 20, pin: "none" }),
      );
      const store = dir.file("store");
      mkdirSync(store, { mode: 0o700 });
      await body(dir, segment, store);
    }));
}

connectorTest(
  "a connector with maxBytes keeps to it, oldest-used first",
  async (_dir, segment, store) => {
    const maxBytes = 8 * BLOCK;
    // Version 1 stores nothing beside the bytes, so that the sizes are known exactly.
    const options = { segment, storageDir: store, maxBytes, protocol: 1 } as const;
    await using connector = await ShmFileConnector.open(options);
    const range = segment.range(0, 2 * BLOCK);
    for (const key of ["a", "b", "c", "d"]) await connector.put(key, range);
    assert.ok(await connector.get("a", segment.range(32 * BLOCK, 2 * BLOCK)));
    await connector.put("e", range);
    assert.deepEqual((await connector.list()).sort(), ["a", "c", "d", "e"]);
    assert.deepEqual(connector.stats.quota, {
      maxBytes,
      usedBytes: 8 * BLOCK,
      objects: 4,
      evictions: 1,
      evictedBytes: 2 * BLOCK,
      staleTemporaries: 0,
      staleKeys: 0,
    });
    assert.equal(await connector.get("b", segment.range(0, 2 * BLOCK)), null, "a miss, no error");
    assert.equal(await connector.remove("a"), true);
    assert.equal(connector.stats.quota?.usedBytes, 6 * BLOCK);
    await connector.put("L".repeat(300), segment.range(0, BLOCK));
    assert.equal(connector.stats.quota?.usedBytes, 8 * BLOCK, "with the file of its key");
    await assert.rejects(
      connector.put("big", segment.range(0, 9 * BLOCK)),
      shmError("EFBIG", /maxBytes/),
    );
    assert.equal(diskBytes(store), 8 * BLOCK);
  },
);

connectorTest(
  "puts that overlap stay within maxBytes or fail with ENOSPC",
  async (_dir, segment, store) => {
    const maxBytes = 16 * BLOCK;
    await using connector = await ShmFileConnector.open({ segment, storageDir: store, maxBytes });
    let most = 0;
    let stored = 0;
    const one = async (index: number) => {
      for (let round = 0; round < 10; round++) {
        await connector.put(`k${index}-${round}`, segment.range(0, (1 + index % 3) * BLOCK)).then(
          () => stored++,
          (error) => shmError("ENOSPC")(error),
        );
        most = Math.max(most, diskBytes(store));
      }
    };
    await Promise.all(Array.from({ length: 12 }, (_, index) => one(index)));
    assert.ok(most <= maxBytes, `${most} of ${maxBytes}`);
    assert.ok(stored > 20, `${stored} stored`);
    assert.equal(connector.stats.quota?.usedBytes, diskBytes(store));
  },
);

connectorTest(
  "what an object's attributes take of the disk counts",
  async (_dir, segment, store) => {
    // Objects of two blocks, and one for attributes: where those were forgotten, a fourth would fit.
    const maxBytes = 11 * BLOCK;
    const options = { segment, storageDir: store, maxBytes, protocol: 2 } as const;
    await using connector = await ShmFileConnector.open(options);
    const metadata = { note: "x".repeat(500) };
    for (let index = 0; index < 12; index++) {
      await connector.put(`k${index}`, segment.range(0, 2 * BLOCK), { metadata });
      assert.equal(connector.stats.quota?.usedBytes, diskBytes(store));
      assert.ok(diskBytes(store) <= maxBytes, `${diskBytes(store)} of ${maxBytes}`);
      assert.ok(await connector.exists(`k${index}`));
    }
    assert.ok(connector.stats.quota!.objects >= 3);
  },
);

connectorTest("a put that fails gives its room back", async (_dir, segment, store) => {
  await using connector = await ShmFileConnector.open({
    segment,
    storageDir: store,
    maxBytes: 8 * BLOCK,
    protocol: 1,
  });
  mkdirSync(`${store}/taken.data`);
  const range = segment.range(0, 3 * BLOCK);
  for (let attempt = 0; attempt < 5; attempt++) {
    await assert.rejects(connector.put("taken", range), shmError("EISDIR"));
  }
  await assert.rejects(
    connector.put("late", range, { signal: AbortSignal.abort(new Error("no")) }),
  );
  // The file that keeps a long key cannot be written: nothing is sent to the worker at all.
  const long = "L".repeat(300);
  mkdirSync(`${store}/${keyFile(long).sidecarName}/full`, { recursive: true });
  await assert.rejects(connector.put(long, range), shmError("EISDIR"));
  await eventually("all room is free", () => connector.stats.quota?.usedBytes === 0);
  await connector.put("a", segment.range(0, 8 * BLOCK));
  assert.equal(connector.stats.quota?.evictions, 0);
});

connectorTest(
  "a put whose caller gave up takes its room until the worker is done",
  async (dir, segment, store) => {
    let answer = () => {};
    await using worker = await ScriptedWorker.listen(dir, (line, peer) => {
      if (!line.startsWith("WRITE")) return undefined;
      answer = () => {
        writeFileSync(line.split(" ")[1]!, new Uint8Array(2 * BLOCK));
        peer.send(`OK ${2 * BLOCK}\n`);
      };
      return "";
    });
    await using connector = await ShmFileConnector.open({
      segment,
      storageDir: store,
      storageVisible: true,
      workerAddr: worker.path,
      maxBytes: 3 * BLOCK,
    });
    const late = connector.put("a", segment.range(0, 2 * BLOCK), { timeoutMs: 100 });
    await assert.rejects(late, shmError("ETIMEDOUT"));
    assert.equal(connector.stats.quota?.usedBytes, 2 * BLOCK);
    await assert.rejects(connector.put("b", segment.range(0, 2 * BLOCK)), shmError("ENOSPC"));
    answer();
    await eventually("it counts as an object", () => connector.stats.quota?.objects === 1);
    assert.equal(connector.stats.quota?.usedBytes, 2 * BLOCK);
  },
);

connectorTest(
  "maxBytes needs a directory that can be seen from here",
  async (dir, segment, store) => {
    await using worker = await startWorker(dir.file("w.sock"), store);
    const options = { segment, storageDir: store, workerAddr: worker.address, maxBytes: 8 * BLOCK };
    await assert.rejects(
      ShmFileConnector.open({ ...options, storageVisible: false }),
      shmError("ENOTSUP", /maxBytes is 32768, and .* cannot be seen from here/),
    );
    await using connector = await ShmFileConnector.open(options);
    assert.equal(connector.stats.quota?.maxBytes, 8 * BLOCK);
  },
);

connectorTest(
  "lmshm.max_storage_size of extra_config is the limit, in GB",
  async (_dir, segment, store) => {
    const extra = { "shmfs.storage_dir": store, "lmshm.max_storage_size": 0.5 };
    await using connector = await ShmFileConnector.fromConfig(extra, { segment });
    assert.equal(connector.stats.quota?.maxBytes, 2 ** 29);
    await using without = await ShmFileConnector.fromConfig({
      ...extra,
      "lmshm.max_storage_size": null,
    }, { segment });
    assert.equal(without.stats.quota, null);
    for (const size of ["much", -1, 0]) {
      await assert.rejects(
        ShmFileConnector.fromConfig({ ...extra, "lmshm.max_storage_size": size }, { segment }),
        shmError("ECONFIG", /extra_config's lmshm\.max_storage_size is /),
      );
    }
    for (const maxBytes of [100, 1.5]) {
      await assert.rejects(
        ShmFileConnector.open({ segment, storageDir: store, maxBytes }),
        /RangeError: maxBytes/,
      );
    }
  },
);

connectorTest(
  "two processes on one directory keep the limit together",
  async (_dir, segment, store) => {
    const maxBytes = 32 * BLOCK;
    const others = [0, 1].map((index) =>
      runFixture("quota_writer.ts", [store, `${maxBytes}`, `p${index}-`, "60", "0"])
    );
    for (const { code, stderr, stdout } of await Promise.all(others)) {
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^stored 60\n$/);
    }
    // Each reserved one object at a time, and saw the other's objects when it did.
    assert.ok(diskBytes(store) <= maxBytes + 2 * BLOCK, `${diskBytes(store)} of ${maxBytes}`);
    await using connector = await ShmFileConnector.open({ segment, storageDir: store, maxBytes });
    assert.ok(diskBytes(store) <= maxBytes);
    assert.ok(connector.stats.quota!.objects >= 10);
    for (const key of await connector.list()) {
      const found = await connector.get(key, segment.range(0, 2 * BLOCK));
      assert.ok(found !== null, "what is there is whole");
      const bytes = readFileSync(`${store}/${keyFile(key).fileName}`);
      assert.equal(bytes.length, 2 * BLOCK);
    }
  },
);
