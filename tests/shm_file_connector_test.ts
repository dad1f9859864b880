// SPDX-License-Identifier: Apache-2.0
//
// One suite for every way to reach a worker: each test runs over a pipe with a named and with an
// anonymous segment, over a Unix socket, over TCP with and without a secret, and with two workers that
// know version 1 of the protocol alone: one that is started, and one with the manners of LMCache's.

import assert from "node:assert/strict";
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { test } from "node:test";
import { BufferAllocator } from "../src/memory/buffer_allocator.ts";
import type { TensorMemoryObj } from "../src/memory/memory_obj.ts";
import { type ShmRange, ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { CacheEngineKey } from "../src/keys/key.ts";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../src/connector/shm_file_connector.ts";
import { LONG } from "./support/effort.ts";
import { collectGarbage } from "./support/gc.ts";
import { uniqueName } from "./support/leaks.ts";
import { plainWorker } from "./support/plain_worker.ts";
import { version1Worker } from "./support/version1_worker.ts";
import { warningsOf } from "./support/warnings.ts";
import { shmError } from "./support/assertions.ts";
import { ScriptedWorker, startWorker, TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;
const SECRET = "correct-horse-battery-staple";

interface Scene {
  readonly connector: ShmFileConnector;
  readonly segment: ShmSegment;
  readonly dir: TempDir;
  /** Where the objects are. */
  readonly store: string;
  readonly options: ShmFileConnectorOptions;
}

interface Mode {
  readonly name: string;
  readonly anonymous: boolean;
  readonly protocol: 1 | 2;
  /** Starts what is needed and tells how to reach it. */
  start(
    dir: TempDir,
    store: string,
    segment: ShmSegment,
    stack: AsyncDisposableStack,
  ): Promise<Partial<ShmFileConnectorOptions>>;
}

const MODES: readonly Mode[] = [
  {
    name: "pipe",
    anonymous: false,
    protocol: 2,
    start: () => Promise.resolve({}),
  },
  {
    name: "pipe, anonymous segment",
    anonymous: true,
    protocol: 2,
    start: () => Promise.resolve({}),
  },
  {
    name: "unix",
    anonymous: false,
    protocol: 2,
    start: async (dir, store, _segment, stack) => {
      const worker = stack.use(await startWorker(dir.file("w.sock"), store));
      return { workerAddress: worker.address };
    },
  },
  {
    name: "tcp, secret",
    anonymous: false,
    protocol: 2,
    start: async (dir, store, _segment, stack) => {
      const secretFile = dir.file("secret");
      writeFileSync(secretFile, `${SECRET}\n`, { mode: 0o600 });
      const args = ["--secret-file", secretFile];
      const worker = stack.use(await startWorker("127.0.0.1:0", store, args));
      return { workerAddress: worker.address, secretFile };
    },
  },
  {
    name: "tcp, no secret",
    anonymous: false,
    protocol: 2,
    start: async (_dir, store, _segment, stack) => {
      const worker = stack.use(await startWorker("127.0.0.1:0", store, ["--no-auth"]));
      return { workerAddress: worker.address };
    },
  },
  {
    name: "pipe, version 1",
    anonymous: false,
    protocol: 1,
    start: (dir) => Promise.resolve({ workerBinary: version1Worker(dir) }),
  },
  {
    name: "unix, directory below the root",
    anonymous: false,
    protocol: 2,
    start: async (dir, _store, _segment, stack) => {
      const worker = stack.use(await startWorker(dir.file("w.sock"), dir.path));
      return { workerAddress: worker.address };
    },
  },
  {
    name: "version 1 alone",
    anonymous: false,
    protocol: 1,
    start: async (dir, _store, segment, stack) => {
      const worker = stack.use(await ScriptedWorker.listen(dir, plainWorker(segment)));
      return { workerAddress: worker.path };
    },
  },
];

/** What takes long, every day: one of each version. */
const FEW_MODES = MODES.filter(({ name }) => LONG || /^pipe(, version 1)?$/.test(name));

/** A test for each mode, with a check that nothing is left behind. */
function conformance(
  name: string,
  body: (scene: Scene, mode: Mode) => Promise<void>,
  modes: readonly Mode[] = MODES,
): void {
  for (const mode of modes) {
    test(`${name} (${mode.name})`, { timeout: 120_000 }, () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const store = dir.file("store");
        mkdirSync(store, { mode: 0o700 });
        const segment = stack.use(
          await ShmSegment.create({
            name: mode.anonymous ? null : uniqueName("connector"),
            sizeBytes: 8 * MIB,
            pin: "none",
          }),
        );
        const how = await mode.start(dir, store, segment, stack);
        const options = { segment, storageDir: store, ...how };
        const connector = stack.use(await ShmFileConnector.open(options));
        await body({ connector, segment, dir, store, options }, mode);
      }));
  }
}

/** Bytes that tell where they are and whose they are. */
function pattern(byteLength: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  let state = seed * 2_654_435_761 + 1;
  for (let index = 0; index < byteLength; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[index] = state >>> 24;
  }
  return bytes;
}

conformance("put() and get() keep every byte, and touch no other", async (s) => {
  const { connector, segment } = s;
  for (const [index, byteLength] of [0, 1, 4095, 4096, 4097, MIB, MIB + 3].entries()) {
    const data = pattern(byteLength, index);
    segment.bytes(13, byteLength).set(data);
    await connector.put(`k${index}`, segment.range(13, byteLength));
    const at = 4 * MIB + 4096 + index;
    const around = segment.bytes(at - 64, byteLength + 128);
    around.fill(0xa5);
    const found = await connector.get(`k${index}`, segment.range(at, byteLength));
    assert.deepEqual([found?.offset, found?.byteLength], [at, byteLength]);
    assert.deepEqual(around.slice(64, 64 + byteLength), data, `${byteLength} bytes`);
    const edges = [...around.subarray(0, 64), ...around.subarray(64 + byteLength)];
    assert.ok(edges.every((byte) => byte === 0xa5), `${byteLength} bytes: beyond the range`);
  }
});

conformance("get() returns the part of a longer range that the object fills", async (s) => {
  const { connector, segment } = s;
  segment.bytes(0, 1000).fill(7);
  await connector.put("short", segment.range(0, 1000));
  const tail = segment.bytes(MIB, 4096);
  tail.fill(0xa5);
  const found = await connector.get("short", segment.range(MIB, 4096));
  assert.equal(found?.segment, segment);
  assert.deepEqual([found?.offset, found?.byteLength], [MIB, 1000]);
  assert.ok(tail.subarray(0, 1000).every((byte) => byte === 7));
  assert.ok(tail.subarray(1000).every((byte) => byte === 0xa5));
  const nothing = await connector.get("short", segment.range(8 * MIB, 0)).catch((error) => error);
  assert.ok(shmError("EMSGSIZE")(nothing), "also at the very end of the segment");
});

conformance("a part that get() returns keeps the object that it is a part of", async (s) => {
  const { connector, segment } = s;
  const pool = new TensorMemoryAllocator(segment.range(4 * MIB, 4 * MIB));
  const data = pattern(2 * MIB - 5000, 1);
  segment.bytes(0, data.length).set(data);
  await connector.put("short", segment.range(0, data.length));
  const into = pool.allocate(2 * MIB);
  const loads = [
    () => connector.get("short", into),
    async () => (await connector.load("short", into))!.range,
    async () => (await connector.batchedGet(["short"], [into]))[0],
  ];
  for (const [index, load] of loads.entries()) {
    const part = (await load())!;
    assert.deepEqual([part.offset, part.byteLength], [into.offset, data.length]);
    const release = part.hold("somebody's copy");
    assert.throws(() => into.refCountDown(), shmError("EBUSY", /somebody's copy/));
    release();
    const putting = connector.put(`copy${index}`, part);
    assert.throws(() => into.refCountDown(), shmError("EBUSY", /put copy|write copy/));
    await putting;
    // And as what is loaded into.
    const getting = connector.get(`copy${index}`, part);
    assert.throws(() => into.refCountDown(), shmError("EBUSY", /get copy/));
    assert.equal((await getting)?.byteLength, data.length);
    assert.deepEqual(segment.bytes(part.offset, part.byteLength).slice(), data);
  }
  assert.equal(into.inFlight, 0);
  const part = (await connector.get("short", into))!;
  into.refCountDown();
  await assert.rejects(connector.put("late", part), shmError("EFREED"));
  assert.equal(await connector.exists("late"), false);
});

conformance("get() refuses an object longer than the range, naming both sizes", async (s) => {
  const { connector, segment } = s;
  await connector.put("long", segment.range(0, 5000));
  const into = segment.range(MIB, 4999);
  await assert.rejects(connector.get("long", into), (error: unknown) => {
    assert.ok(shmError("EMSGSIZE", /5000 bytes .* 4999/)(error));
    return true;
  });
});

conformance("a miss is null, false and 0, not an error", async (s) => {
  const { connector, segment } = s;
  assert.equal(await connector.load("none", segment.range(0, 4096)), null);
  assert.equal(await connector.stat("none"), null);
  assert.equal(await connector.get("none", segment.range(0, 4096)), null);
  assert.equal(await connector.exists("none"), false);
  assert.equal(await connector.remove("none"), false);
  assert.equal(await connector.batchedContains(["none"]), 0);
  assert.deepEqual(await connector.listAll(), []);
  assert.deepEqual(
    await connector.batchedGet(["a", "b"], [segment.range(0, 1), segment.range(1, 1)]),
    [
      null,
      null,
    ],
  );
});

conformance("put() replaces a longer object and a shorter one", async (s) => {
  const { connector, segment } = s;
  for (const byteLength of [5000, 10, 70_000, 0, 4096]) {
    const data = pattern(byteLength, byteLength);
    segment.bytes(0, byteLength).set(data);
    await connector.put("same", segment.range(0, byteLength));
    const found = await connector.get("same", segment.range(MIB, 100_000));
    assert.equal(found?.byteLength, byteLength);
    assert.deepEqual(segment.bytes(MIB, byteLength).slice(), data);
  }
  assert.deepEqual(await connector.listAll(), ["same"]);
});

const KEY = new CacheEngineKey({
  model: "org/model",
  worldSize: 2,
  workerId: 1,
  chunkHash: 0xfeedn,
  dtype: "bfloat16",
  tags: [["tenant", "a"]],
});

conformance("files have LMCache's names and exactly the payload", async (s) => {
  const { connector, segment, store } = s;
  const data = pattern(10_001, 1);
  segment.bytes(0, data.length).set(data);
  await connector.put(KEY, segment.range(0, data.length));
  const name = "org-SEP-model@2@1@feed@bfloat16@tenant%a.data";
  assert.deepEqual(readdirSync(store), [name]);
  assert.deepEqual(new Uint8Array(readFileSync(`${store}/${name}`)), data);
  // And the other way round: what somebody else wrote.
  writeFileSync(`${store}/org-SEP-model@2@1@beef@half.data`, "hello");
  const found = await connector.get("org/model@2@1@beef@half", segment.range(MIB, 100));
  assert.equal(new TextDecoder().decode(segment.bytes(MIB, found!.byteLength).slice()), "hello");
});

conformance("stat() and load() tell what was stored with an object", async (s, mode) => {
  const { connector, segment, store } = s;
  const kept = mode.protocol === 2;
  assert.equal(connector.keepsMetadata, kept);
  const before = Date.now();
  segment.bytes(0, 9).set(new TextEncoder().encode("123456789"));
  const metadata = { model: "org/\u6a21\u578b", note: "two words; a%b=c" };
  const put = connector.put("k", segment.range(0, 9), { metadata });
  if (kept) {
    await put;
  } else {
    await assert.rejects(put, shmError("ENOTSUP", /metadata needs protocol version 2/));
    await connector.put("k", segment.range(0, 9), { metadata: {} });
  }
  const stat = await connector.stat("k");
  assert.equal(stat?.byteLength, 9);
  assert.ok(Math.abs(stat!.mtimeMs - before) < 60_000, `${stat!.mtimeMs} and ${before}`);
  assert.equal(stat!.diskBytes, lstatSync(`${store}/k.data`).blocks * 512);
  assert.equal(stat!.crc32c, kept ? 0xe306_9283 : null, "the check value of CRC-32C");
  assert.deepEqual(stat!.metadata, kept ? metadata : {});
  const loaded = await connector.load("k", segment.range(100, 50), { priority: "high" });
  assert.deepEqual([loaded?.range.offset, loaded?.range.byteLength], [100, 9]);
  assert.equal(loaded!.crc32c, stat!.crc32c);
  assert.deepEqual(loaded!.metadata, stat!.metadata);
  const both = [segment.range(200, 50), segment.range(300, 50)];
  const ended = await connector.loadEach(["k", "none"], both);
  const batch = ended.map((one) => one.status === "fulfilled" ? one.value : one.reason);
  assert.deepEqual([batch[0]?.range.offset, batch[0]?.range.byteLength, batch[1]], [200, 9, null]);
  assert.deepEqual([batch[0]!.crc32c, batch[0]!.metadata], [stat!.crc32c, stat!.metadata]);
  await connector.put("k", segment.range(0, 5), { priority: "low" });
  assert.deepEqual((await connector.stat("k"))?.metadata, {}, "replaced with the object");
  // Somebody else's file has none.
  writeFileSync(`${store}/theirs.data`, "hello");
  const theirs = await connector.load("theirs", segment.range(0, 50));
  assert.deepEqual([theirs?.crc32c, theirs?.metadata], [null, {}]);
});

/** Keys that are in a file beside the object, or have spaces. */
const BEYOND_VERSION_1 = [
  "a-SEP-b",
  `sha256-${"0".repeat(64)}`,
  "y".repeat(251),
  "z".repeat(3000),
  ...["with space", "two  spaces", "READ /etc/passwd 0 0"],
];

conformance("keys of every kind are kept apart and listed as they were given", async (s, mode) => {
  const { connector, segment } = s;
  const keys = [
    "plain",
    "a/b",
    "..",
    "../up",
    "/abs",
    ".hidden",
    "x.data",
    "x.key",
    "\u6a21\u578b/\u{1f600}",
    "y".repeat(250),
    `${KEY}`,
    ...(mode.protocol === 2 ? BEYOND_VERSION_1 : []),
  ];
  await Promise.all(keys.map((key, index) => {
    segment.bytes(index * 8, 8).fill(index);
    return connector.put(key, segment.range(index * 8, 8));
  }));
  assert.deepEqual((await connector.listAll()).sort(), [...keys].sort());
  for (const [index, key] of keys.entries()) {
    assert.equal(await connector.exists(key), true, key);
    await connector.get(key, segment.range(MIB, 8));
    assert.ok(segment.bytes(MIB, 8).every((byte) => byte === index), key);
  }
  assert.deepEqual(await connector.listAll({ prefix: "x." }).then((found) => found.sort()), [
    "x.data",
    "x.key",
  ]);
  for (const key of keys) assert.equal(await connector.remove(key), true, key);
  assert.deepEqual(await connector.listAll(), []);
  assert.deepEqual(readdirSync(s.store), []);
});

conformance(
  "keys that no file can have are refused, and by version 1 those that its lines cannot carry",
  async (s, mode) => {
    const { connector, segment } = s;
    const range = segment.range(0, 8);
    for (const key of ["", "a\nQUIT", "a\0b", "\ud800"]) {
      await assert.rejects(connector.put(key, range), RangeError);
      await assert.rejects(connector.get(key, range), RangeError);
      await assert.rejects(connector.exists(key), RangeError);
    }
    if (mode.protocol === 2) return;
    for (const key of BEYOND_VERSION_1) {
      await assert.rejects(connector.put(key, range), shmError("ENOTSUP", /Use lmshm-worker/));
      await assert.rejects(connector.get(key, range), shmError("ENOTSUP"));
    }
  },
);

conformance("list() passes over what is no object", async (s, mode) => {
  const { connector, segment, store } = s;
  await connector.put("real", segment.range(0, 8));
  mkdirSync(`${store}/directory.data`);
  symlinkSync(`${store}/real.data`, `${store}/link.data`);
  writeFileSync(`${store}/.real.data.99.0123456789abcdef.tmp`, "x");
  writeFileSync(`${store}/README`, "x");
  writeFileSync(`${store}/sha256-${"1".repeat(64)}.data`, "nobody knows its key");
  writeFileSync(`${store}/sha256-${"2".repeat(64)}.key`, "a key without object");
  assert.deepEqual(await connector.listAll(), ["real"]);
  assert.equal(await connector.exists("directory"), false);
  // The stand-in for LMCache's worker follows links.
  const followed = mode.name === "version 1 alone";
  assert.equal(await connector.exists("link"), followed);
  assert.equal(await connector.get("directory", segment.range(0, 8)), null);
  assert.equal(await connector.stat("directory"), null);
  assert.equal(await connector.stat("link"), null);
});

conformance("200 concurrent puts and gets never mix their data", async (s) => {
  const { connector, segment } = s;
  const count = 200;
  const size = (index: number) => 1000 + index * 17;
  const slot = 8192;
  for (let index = 0; index < count; index++) {
    segment.bytes(index * slot, size(index)).set(pattern(size(index), index));
  }
  const work: Promise<unknown>[] = [];
  for (let index = 0; index < count; index++) {
    const key = `mixed-${index}`;
    const range = segment.range(index * slot, size(index));
    work.push(
      connector.put(key, range).then(async () => {
        const into = segment.range(4 * MIB + index * slot, slot);
        const found = await connector.get(key, into);
        assert.equal(found?.byteLength, size(index), key);
        assert.deepEqual(
          segment.bytes(into.offset, size(index)).slice(),
          pattern(size(index), index),
        );
      }),
      connector.get(`absent-${index}`, segment.range(8 * MIB - 1, 1)).then((found) =>
        assert.equal(found, null)
      ),
    );
  }
  await Promise.all(work);
  const { puts, gets, hits, misses, mismatches, inFlight } = connector.stats;
  assert.deepEqual({ puts, gets, hits, misses, mismatches, inFlight }, {
    puts: count,
    gets: 2 * count,
    hits: count,
    misses: count,
    mismatches: 0,
    inFlight: 0,
  });
});

conformance("concurrent puts of one key leave one of them, whole", async (s, mode) => {
  const { connector, segment } = s;
  const size = 100_000;
  for (let index = 0; index < 8; index++) segment.bytes(index * size, size).fill(index + 1);
  const puts = Array.from(
    { length: 8 },
    (_, index) => connector.put("contended", segment.range(index * size, size - index)),
  );
  const gets = Array.from(
    { length: 8 },
    (_, index) => connector.get("contended", segment.range(4 * MIB + index * size, size)),
  );
  await Promise.all(puts);
  for (
    const found of [
      ...await Promise.all(gets),
      await connector.get("contended", segment.range(2 * MIB, size)),
    ]
  ) {
    if (found === null) continue;
    const bytes = segment.bytes(found.offset, found.byteLength);
    const writer = bytes[0]!;
    assert.ok(bytes.every((byte) => byte === writer), "one writer's bytes alone");
    assert.equal(found.byteLength, size - (writer - 1), mode.name);
  }
  assert.deepEqual(readdirSync(s.store), ["contended.data"]);
});

conformance("the batch calls do as the single ones, in order", async (s) => {
  const { connector, segment } = s;
  const keys = ["b0", "b1", "b2", "b3"];
  const ranges = keys.map((_, index) => segment.range(index * 100, 100));
  keys.forEach((_, index) => segment.bytes(index * 100, 100).fill(index + 1));
  await connector.batchedPut(keys, ranges);
  assert.equal(await connector.batchedContains(keys), 4);
  await connector.remove("b2");
  assert.equal(await connector.batchedContains(keys), 2);
  assert.equal(await connector.batchedContains([]), 0);
  const many = Array.from({ length: 150 }, () => "b0");
  assert.equal(await connector.batchedContains([...many, "b2", "b0"]), 150);
  const into = keys.map((_, index) => segment.range(MIB + index * 100, 100));
  const found = await connector.batchedGet(keys, into);
  assert.deepEqual(found.map((range) => range?.byteLength ?? null), [100, 100, null, 100]);
  assert.ok(segment.bytes(MIB + 300, 100).every((byte) => byte === 4));
  await assert.rejects(connector.batchedGet(keys, into.slice(1)), RangeError);
  await assert.rejects(connector.batchedPut(keys.slice(1), ranges), RangeError);
  const short = [segment.range(0, 100), segment.range(0, 99)];
  await assert.rejects(connector.batchedGet(["b0", "b1"], short), shmError("EMSGSIZE"));
});

conformance("loadEach() and putEach() tell what became of each object", async (s) => {
  const { connector, segment } = s;
  const range = segment.range(0, 8);
  const freed = {
    ...range,
    hold: () => {
      throw new Error("it was freed");
    },
  };
  const stored = await connector.putEach(["a", "b"], [range, segment.range(8, 16)]);
  assert.deepEqual(stored, Array(2).fill({ status: "fulfilled", value: true }));
  const [a, b, none] = await connector.loadEach(
    ["a", "b", "none"],
    [100, 200, 300].map((at) => segment.range(at, 8)),
  );
  assert.ok(a?.status === "fulfilled" && a.value?.range.offset === 100);
  assert.ok(b?.status === "rejected" && b.reason.code === "EMSGSIZE");
  assert.deepEqual(none, { status: "fulfilled", value: null });
  const refused = await connector.putEach(["c", "d"], [range, freed]);
  assert.ok(refused.every((one) => one.status === "rejected" && /freed/.test(one.reason.message)));
  assert.deepEqual(await connector.loadEach([], []), []);
  await assert.rejects(connector.loadEach(["a"], []), RangeError);
  await assert.rejects(connector.putEach(["a"], []), RangeError);
  const { puts, gets, hits, misses, bytesGot, inFlight } = connector.stats;
  assert.deepEqual([puts, gets, hits, misses, bytesGot, inFlight], [2, 3, 1, 1, 8, 0]);
});

conformance("a large batch goes in pieces, and what is wrong spoils its own alone", async (s) => {
  const { connector } = s;
  const keys = Array.from({ length: 2_500 }, (_, index) => `p/${index}`);
  const ranges = keys.map((_, index) => s.segment.range(index * 8, 8));
  const freed = {
    ...s.segment.range(0, 8),
    hold: () => {
      throw new Error("it was freed");
    },
  };
  const withFreed = ranges.with(1_500, freed);
  await assert.rejects(connector.batchedPut(keys, withFreed), /it was freed/);
  assert.equal(await connector.batchedContains(keys), 1_024);
  assert.equal(await connector.exists(keys[2_048]!), true);
  assert.equal(connector.stats.puts, 2_500 - 1_024);
  await connector.batchedPut(keys, ranges);
  assert.equal(await connector.batchedContains(keys), 2_500);
  const withWrong = keys.with(2_200, "\n");
  await assert.rejects(connector.batchedGet(withWrong, ranges), /control character/);
  await assert.rejects(connector.batchedGet(keys, withFreed), /it was freed/);
  const found = await connector.batchedGet(keys, ranges);
  assert.deepEqual(found.map((range) => range?.offset), ranges.map(({ offset }) => offset));
  assert.equal(connector.stats.inFlight, 0);
}, FEW_MODES);

conformance("a range of another segment, and what is no range, is refused", async (s) => {
  const { connector, segment } = s;
  await using other = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  await assert.rejects(
    connector.put("k", other.range(0, 8)),
    shmError("EINVAL", /belongs to an anonymous segment/),
  );
  await assert.rejects(connector.get("k", other.range(0, 8)), shmError("EINVAL"));
  await assert.rejects(connector.put("k", new Uint8Array(8) as never), TypeError);
  await assert.rejects(connector.get("k", 7 as never), TypeError);
  using outside = new BufferAllocator().allocate({ shape: [8] });
  await assert.rejects(
    connector.put("k", outside as never),
    /takes a range of a segment, and BINARY/,
  );
  await assert.rejects(connector.get("k"), TypeError);
  assert.equal(connector.stats.inFlight, 0);
  assert.equal(await connector.exists("k"), false);
  await connector.put("k", segment.range(0, 8));
});

conformance("signal and timeoutMs are obeyed, and a used-up one sends nothing", async (s) => {
  const { connector, segment } = s;
  const signal = AbortSignal.abort(new Error("not now"));
  const range = segment.range(0, 8);
  await assert.rejects(connector.put("k", range, { signal }), /not now/);
  await assert.rejects(connector.get("k", range, { signal }), /not now/);
  await assert.rejects(connector.exists("k", { signal }), /not now/);
  await assert.rejects(connector.listAll({ signal }), /not now/);
  await assert.rejects(connector.ping({ signal }), /not now/);
  await assert.rejects(connector.put("k", range, { timeoutMs: 0 }), RangeError);
  await assert.rejects(connector.put("k", range, { timeoutMs: NaN }), RangeError);
  await assert.rejects(connector.put("k", range, { priority: "urgent" as "high" }), /"urgent"/);
  await connector.put("k", range, { timeoutMs: 2 ** 40, signal: new AbortController().signal });
  assert.equal(await connector.exists("k"), true);
});

conformance("ping() answers, and the worker is known for what it is", async (s, mode) => {
  const { connector } = s;
  assert.ok(await connector.ping() >= 0);
  assert.equal(connector.protocol, mode.protocol);
  assert.equal(
    connector.transport,
    mode.name.startsWith("version") ? "unix" : mode.name.split(",")[0],
  );
  if (mode.protocol === 2) {
    const { worker, threads } = await connector.info();
    assert.match(worker, /^lmshm-worker\//);
    assert.ok(typeof threads === "number" && threads > 0, `${threads}`);
  } else {
    await assert.rejects(
      connector.info(),
      shmError("ENOTSUP", /info\(\) needs protocol version 2/),
    );
  }
  assert.equal(connector.workerPid !== null, connector.transport === "pipe");
});

conformance("get() without a range takes memory from the option allocate", async (s, mode) => {
  if (mode.name === "tcp, no secret") return; // the same connection as with a secret
  const { segment } = s;
  const asked: number[] = [];
  let disposed = 0;
  let room = true;
  const allocate = (byteLength: number) => {
    asked.push(byteLength);
    if (!room) return null;
    const range = segment.range(MIB, byteLength + 10);
    return { ...range, [Symbol.dispose]: () => void disposed++ };
  };
  await using other = await ShmFileConnector.open({ ...s.options, allocate });
  segment.bytes(0, 77).fill(9);
  await other.put("k", segment.range(0, 77));
  assert.equal(await other.get("none"), null);
  const found = await other.get("k");
  assert.deepEqual([found?.offset, found?.byteLength], [MIB, 77]);
  assert.equal(disposed, 0);
  room = false;
  assert.equal(await other.get("k"), null);
  assert.deepEqual(asked, [77, 77]);
});

conformance("get() without a range returns the memory object itself, truncated", async (s) => {
  const { segment } = s;
  const pool = new TensorMemoryAllocator(segment.range(4 * MIB, 4 * MIB));
  const given: TensorMemoryObj[] = [];
  const allocate = () => {
    given.push(pool.allocate({ shape: [2, 1, 256, 64], dtype: "half" }));
    return given.at(-1)!;
  };
  await using other = await ShmFileConnector.open({ ...s.options, allocate });
  const token = 2 * 64 * 2;
  segment.bytes(0, 100 * token).fill(7);
  await other.put("partial", segment.range(0, 100 * token));
  const got = await other.get("partial");
  assert.equal(got, given[0]);
  assert.equal(given[0]!.numTokens, 100);
  given[0]!.refCountDown();
  assert.equal(pool.stats.liveObjects, 0);
});

conformance("memory of get() without a range lives as long as what it returns", async (s) => {
  const { segment } = s;
  const pool = new TensorMemoryAllocator(segment.range(4 * MIB, 4 * MIB));
  // Of 7 bytes there is no whole number of tokens.
  const allocate = () => pool.allocate({ shape: [2, 1, 256, 64], dtype: "half" });
  await using other = await ShmFileConnector.open({ ...s.options, allocate });
  segment.bytes(0, 7).fill(7);
  await other.put("odd", segment.range(0, 7));
  const got = (await other.get("odd"))!;
  assert.equal(got.byteLength, 7);
  (() => void pool.allocate(4096))();
  await collectGarbage(() => pool.stats.leakedObjects > 0);
  assert.equal(pool.stats.leakedObjects, 1, "the one that nobody has");
  assert.equal(pool.stats.liveObjects, 1);
  const release = got.hold("test");
  const dispose = () => (got as ShmRange & Disposable)[Symbol.dispose]();
  assert.throws(dispose, shmError("EBUSY", /test/));
  release();
  dispose();
  assert.equal(pool.stats.liveObjects, 0);
  assert.throws(() => got.hold("late"), shmError("EFREED"));
});

conformance("what fails when memory is given back hides no other failure", async (s, mode) => {
  if (mode.protocol === 1) return; // no different there
  const { segment } = s;
  let range: ShmRange = segment.range(MIB, 10);
  const allocate = () => ({
    ...range,
    [Symbol.dispose]: () => {
      throw new Error("dispose failed");
    },
  });
  await using other = await ShmFileConnector.open({ ...s.options, allocate });
  await other.put("k", segment.range(0, 77));
  const warned = await warningsOf(async () => {
    await assert.rejects(other.get("k"), shmError("EMSGSIZE"));
    range = { ...range, hold: () => undefined as never };
    await assert.rejects(other.get("k"), /hold\(\) must give a function/);
    range = { ...range, segment: {} as never };
    await assert.rejects(other.get("k"), TypeError);
  });
  assert.ok(warned.length > 0 && warned.every((one) => /dispose failed/.test(one)), `${warned}`);
});

conformance(
  "the segment cannot be freed while a call is in flight, and can be afterwards",
  async (s) => {
    const { connector, segment } = s;
    const put = connector.put("k", segment.range(0, 4 * MIB));
    await assert.rejects(segment.free(), shmError("EBUSY", /put k/));
    await put;
    const get = connector.get("k", segment.range(0, 4 * MIB));
    await assert.rejects(segment.free(), shmError("EBUSY", /get k/));
    await get;
    await segment.free();
    await assert.rejects(
      connector.put("k", { ...rangeOf(segment), hold: () => segment.hold("x") }),
      shmError("EBADF"),
    );
  },
);

function rangeOf(segment: ShmSegment) {
  return { segment, offset: 0, byteLength: 8 };
}

conformance("close() waits for calls in flight, can be repeated, and ends all use", async (s) => {
  const { connector, segment } = s;
  const puts = Array.from(
    { length: 20 },
    (_, index) => connector.put(`k${index}`, segment.range(index * MIB % (7 * MIB), MIB)),
  );
  await Promise.all([connector.close(), connector.close(), ...puts]);
  await connector.close();
  assert.equal(connector.stats.puts, 20);
  assert.equal(readdirSync(s.store).length, 20);
  const range = segment.range(0, 8);
  const closed = shmError("EBADF", /closed/);
  await assert.rejects(connector.put("k", range), closed);
  await assert.rejects(connector.get("k", range), closed);
  await assert.rejects(connector.exists("k"), closed);
  await assert.rejects(connector.listAll(), closed);
  await assert.rejects(connector.remove("k"), closed);
  await assert.rejects(connector.ping(), closed);
  await segment.free();
});
