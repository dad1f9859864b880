// SPDX-License-Identifier: Apache-2.0
//
// What protocol version 2 adds to the connector, and when it is spoken: metadata, checksums, a
// directory that need not be seen, durability; and that nobody believes in what version 1 cannot do.

import assert from "node:assert/strict";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  watch,
  writeFileSync,
} from "node:fs";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../src/connector/shm_file_connector.ts";
import { fileNameToKey, sidecarOf } from "../src/keys/key_file.ts";
import { uniqueName } from "./support/leaks.ts";
import { plainWorker } from "./support/plain_worker.ts";
import {
  eventually,
  ScriptedWorker,
  shmError,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const MIB = 2 ** 20;

interface Scene {
  readonly segment: ShmSegment;
  readonly dir: TempDir;
  readonly store: string;
  readonly stack: AsyncDisposableStack;
  open(options?: Partial<ShmFileConnectorOptions>): Promise<ShmFileConnector>;
  /** The address of a worker whose root is the directory `root`. */
  listen(root: string, ...args: string[]): Promise<string>;
}

function scene(name: string, body: (scene: Scene) => Promise<void>): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const store = dir.file("store");
      mkdirSync(store, { mode: 0o700 });
      const segment = stack.use(
        await ShmSegment.create({ name: uniqueName("v2"), sizeBytes: 4 * MIB, pin: "none" }),
      );
      await body({
        segment,
        dir,
        store,
        stack,
        open: async (options = {}) =>
          stack.use(await ShmFileConnector.open({ segment, storageDir: store, ...options })),
        listen: async (root, ...args) => {
          const worker = stack.use(await startWorker(dir.file("w.sock"), root, args));
          return worker.address;
        },
      });
    }));
}

scene("a memory object stores its shape, dtype and format by itself", async (s) => {
  const connector = await s.open();
  const pool = new TensorMemoryAllocator(s.segment);
  using obj = pool.tryAllocate({ shape: [2, 1, 8, 128], dtype: "bfloat16", format: "KV_2LTD" })!;
  await connector.put("full", obj, { metadata: { tenant: "a" } });
  assert.deepEqual((await connector.stat("full"))?.metadata, {
    dtype: "bfloat16",
    format: "KV_2LTD",
    shape: "2,1,8,128",
    tenant: "a",
  });
  obj.truncateTokens(3);
  await connector.put("part", obj);
  const part = await connector.stat("part");
  assert.deepEqual([part?.byteLength, part?.metadata["shape"]], [3 * 512, "2,1,3,128"]);
});

scene("metadata that no worker accepts is refused by name, and nothing is stored", async (s) => {
  const connector = await s.open();
  const range = s.segment.range(0, 10);
  const put = (metadata: Record<string, string>) => connector.put("k", range, { metadata });
  await assert.rejects(put({ Shape: "1" }), /attribute "Shape" is no name/);
  await assert.rejects(put({ crc32c: "1" }), /attribute "crc32c" is reserved/);
  await assert.rejects(put({ x: "y".repeat(5000) }), /at most 32 of 4096 bytes/);
  await assert.rejects(put({ x: 1 as unknown as string }), TypeError);
  assert.deepEqual(readdirSync(s.store), []);
  assert.equal(connector.stats.inFlight, 0);
  await put({ x: "y".repeat(2000) });
});

scene("a file that somebody damaged is a miss that is counted, never wrong data", async (s) => {
  const connector = await s.open();
  s.segment.bytes(0, 5000).fill(7);
  for (const key of ["bit", "short", "long"]) await connector.put(key, s.segment.range(0, 5000));
  const damage = (key: string, change: (bytes: Uint8Array) => Uint8Array) => {
    const path = `${s.store}/${key}.data`;
    // In place, so that the attributes stay; and as if nobody had touched it.
    const { atime, mtime } = statSync(path);
    writeFileSync(path, change(readFileSync(path)));
    utimesSync(path, atime, mtime);
  };
  damage("bit", (bytes) => bytes.with(4321, 6));
  damage("short", (bytes) => bytes.slice(0, 4999));
  damage("long", (bytes) => Uint8Array.of(...bytes, 7));
  const into = s.segment.range(MIB, 8192);
  for (const key of ["bit", "short", "long"]) {
    assert.equal(await connector.get(key, into), null, key);
    assert.equal(await connector.exists(key), true, key);
  }
  const { gets, hits, misses, mismatches } = connector.stats;
  assert.deepEqual({ gets, hits, misses, mismatches }, {
    gets: 3,
    hits: 0,
    misses: 3,
    mismatches: 3,
  });
  // Whoever does not want checksums verified gets what is there, if the length is right.
  const trusting = await s.open({ checksum: false });
  const found = await trusting.get("bit", into);
  assert.deepEqual([found?.byteLength, s.segment.bytes(MIB + 4321, 1)[0]], [5000, 6]);
  assert.equal(await trusting.get("short", into), null);
  await trusting.put("bit", s.segment.range(0, 10));
  assert.equal((await connector.stat("bit"))?.crc32c, null);
  // A later put makes it whole.
  await connector.put("bit", s.segment.range(0, 5000));
  assert.equal((await connector.get("bit", into))?.byteLength, 5000);
});

scene("a directory that cannot be seen from here has everything but existsSync()", async (s) => {
  const workerAddr = await s.listen(s.store);
  const connector = await s.open({ workerAddr, storageVisible: false });
  assert.equal(connector.protocol, 2, "both mean the same directory");
  assert.equal(connector.storageVisible, false);
  assert.deepEqual(readdirSync(s.store), [], "the question has left nothing");
  const long = "z".repeat(3000);
  s.segment.bytes(0, 10).fill(5);
  await connector.batchedPut(["a/b", long], [s.segment.range(0, 10), s.segment.range(0, 10)]);
  assert.deepEqual((await connector.list()).sort(), ["a/b", long]);
  assert.deepEqual(await connector.list({ prefix: "a" }), ["a/b"]);
  assert.equal(await connector.batchedContains(["a/b", long, "none"]), 2);
  assert.equal((await connector.stat(long))?.byteLength, 10);
  assert.equal(await connector.remove(long), true);
  assert.equal(await connector.remove(long), false);
  assert.deepEqual(readdirSync(s.store), ["a-SEP-b.data"]);
  assert.throws(() => connector.existsSync("a/b"), shmError("ENOTSUP", /cannot be seen/));
});

scene("get() without a range asks the worker for the length", async (s) => {
  const workerAddr = await s.listen(s.store);
  const asked: number[] = [];
  const allocate = (byteLength: number) => {
    asked.push(byteLength);
    return s.segment.range(MIB, byteLength);
  };
  const connector = await s.open({ workerAddr, storageVisible: false, allocate });
  await connector.put("k", s.segment.range(0, 77));
  assert.equal((await connector.get("k"))?.byteLength, 77);
  assert.deepEqual(asked, [77]);
});

scene("protocol 2 keeps keys below the worker's root, wherever that is", async (s) => {
  mkdirSync(s.dir.file("root"));
  const workerAddr = await s.listen(s.dir.file("root"));
  const storageDir = "/lmshm-test-nowhere/store";
  const connector = await s.open({ workerAddr, storageDir, protocol: 2 });
  assert.equal(connector.storageVisible, false);
  await connector.put("k", s.segment.range(0, 10));
  assert.deepEqual(readdirSync(s.dir.file("root")), ["k.data"]);
  // What is here by the same name is not what the worker has.
  const other = await s.open({ workerAddr, protocol: 2 });
  assert.equal(other.storageVisible, false);
  assert.equal(await other.exists("k"), true);
  assert.deepEqual(readdirSync(s.store), []);
});

scene("a directory below the worker's root is reached by paths", async (s) => {
  const workerAddr = await s.listen(s.dir.path);
  const connector = await s.open({ workerAddr });
  assert.equal(connector.protocol, 1);
  assert.equal(connector.storageVisible, true);
  await connector.put("k", s.segment.range(0, 10));
  assert.deepEqual(readdirSync(s.store), ["k.data"]);
  assert.deepEqual(readdirSync(s.dir.path).sort(), ["store", "w.sock"]);
  assert.equal(await connector.stat("k").then((found) => found?.byteLength), 10);
});

scene("what version 1 cannot do is refused when it is asked for", async (s) => {
  const worker = s.stack.use(await ScriptedWorker.listen(s.dir, plainWorker(s.segment)));
  const workerAddr = worker.path;
  const refused: [Partial<ShmFileConnectorOptions>, RegExp][] = [
    [{ workerAddr, durability: "data" }, /durability "data" needs protocol version 2/],
    [{ workerAddr, ioMode: "direct" }, /ioMode "direct"/],
    [{ workerAddr, checksum: true }, /checksum true/],
    [{ protocol: 1, durability: "full" }, /durability "full"/],
  ];
  for (const [options, text] of refused) {
    await assert.rejects(s.open(options), shmError("ENOTSUP", text));
  }
  const asksNothing = { durability: "none", ioMode: "auto", checksum: false } as const;
  const connector = await s.open({ workerAddr, ...asksNothing });
  assert.equal(connector.protocol, 1);
  await connector.put("k", s.segment.range(0, 10), { metadata: { note: "not kept" } });
  assert.deepEqual((await connector.stat("k"))?.metadata, {});
  await assert.rejects(s.open({ workerAddr, protocol: 2 }), shmError("EPROTONOSUPPORT"));
});

scene("a worker of version 1 is connected to once, since LMCache's serves no second", async (s) => {
  const worker = s.stack.use(await ScriptedWorker.listen(s.dir, plainWorker(s.segment)));
  const connector = await s.open({ workerAddr: worker.path });
  await connector.put("k", s.segment.range(0, 10));
  assert.equal(worker.connections, 1);
  assert.ok(!worker.lines.some((line) => line.startsWith("HELLO")), "and asked nothing new");
});

scene("a worker that is started and knows version 1 alone is used as it is", async (s) => {
  const workerBinary = s.dir.script(
    "worker.sh",
    `while read -r verb rest; do
  case "$verb" in
    HELLO) echo "ERROR unknown command: HELLO" ;;
    READ) echo "ERROR open failed: No such file or directory" ;;
    *) echo OK ;;
  esac
done`,
  );
  const connector = await s.open({ workerBinary });
  assert.equal(connector.protocol, 1);
  assert.equal(await connector.get("none", s.segment.range(0, 10)), null);
  await assert.rejects(s.open({ workerBinary, protocol: 2 }), shmError("EPROTONOSUPPORT"));
});

for (const durability of ["none", "data", "full"] as const) {
  for (const ioMode of ["auto", "direct", "cached"] as const) {
    scene(`durability ${durability} and ioMode ${ioMode} keep every byte`, async (s) => {
      const connector = await s.open({ durability, ioMode });
      for (const [index, byteLength] of [0, 1, 4096, 70_001, MIB + 5].entries()) {
        const bytes = s.segment.bytes(0, byteLength);
        bytes.forEach((_, at) => bytes[at] = (at * 31 + index) & 0xff);
        await connector.put(`k${index}`, s.segment.range(0, byteLength));
        s.segment.bytes(2 * MIB, byteLength).fill(0);
        const found = await connector.get(`k${index}`, s.segment.range(2 * MIB, 2 * MIB));
        assert.equal(found?.byteLength, byteLength);
        assert.deepEqual(s.segment.bytes(2 * MIB, byteLength).slice(), bytes.slice());
      }
      assert.equal(readdirSync(s.store).length, 5);
    });
  }
}

scene("what is asked for is what the worker is told", async (s) => {
  const worker = s.stack.use(
    await ScriptedWorker.listen(s.dir, (line) => {
      const [id, verb, ...words] = line.split(" ");
      if (id === "HELLO") {
        return "OK 2 boot=0123456789abcdef worker=scripted/1 " +
          "features=batch,cancel,crc32c,xattr window=64";
      }
      switch (verb) {
        case "PUT":
        case "GET":
          return `${id} OK ${words[2]}`;
        case "EXISTS":
          return `${id} OK ${"0".repeat(words.length)}`;
        default:
          return `${id} OK`;
      }
    }),
  );
  const told = async (options: Partial<ShmFileConnectorOptions>) => {
    const connector = await s.open({ workerAddr: worker.path, protocol: 2, ...options });
    worker.lines.length = 0;
    await connector.put("k", s.segment.range(0, 8), { priority: "low", metadata: { a: "b c" } });
    await connector.get("k", s.segment.range(0, 8), { priority: "high" });
    await connector.close();
    return worker.lines.slice(0, 2).map((line) => line.split(" ").slice(1).sort().join(" "));
  };
  assert.deepEqual(await told({}), ["0 8 PUT a=b%20c k prio=low", "0 8 GET k prio=high"]);
  assert.deepEqual(await told({ ioMode: "direct", durability: "full", checksum: false }), [
    "0 8 PUT a=b%20c crc=0 io=direct k prio=low sync=full",
    "0 8 GET io=direct k prio=high verify=0",
  ]);
});

scene("a get with high priority overtakes the puts that wait", async (s) => {
  const connector = await s.open({ maxInFlight: 1 });
  await connector.put("wanted", s.segment.range(0, 10));
  const order: string[] = [];
  const puts = Array.from(
    { length: 50 },
    (_, index) =>
      connector.put(`k${index}`, s.segment.range(0, MIB), { priority: "low" })
        .then(() => order.push("put")),
  );
  const got = connector.get("wanted", s.segment.range(2 * MIB, 10), { priority: "high" })
    .then(() => order.push("get"));
  await Promise.all([...puts, got]);
  assert.ok(order.indexOf("get") < 25, `after ${order.indexOf("get")} of 50 puts`);
});

scene("keys of more than 16,384 bytes are refused, the longest is stored", async (s) => {
  const connector = await s.open();
  const range = s.segment.range(0, 10);
  await connector.put("k".repeat(16_384), range);
  assert.deepEqual(await connector.list(), ["k".repeat(16_384)]);
  await assert.rejects(
    connector.put("k".repeat(16_385), range),
    shmError("ENAMETOOLONG", /16385 bytes/),
  );
});

scene(
  "what an opening puts into the directory for a moment is nothing that is listed",
  async (s) => {
    const address = await s.listen(s.store);
    const seen = new Set<string>();
    const watcher = watch(s.store, (_event, name) => {
      if (name !== null) seen.add(name);
    });
    try {
      for (const protocol of ["auto", 1, 2] as const) {
        const opened = await s.open({ workerAddr: address, protocol });
        assert.equal(opened.protocol, protocol === "auto" ? 2 : protocol);
      }
      await eventually("a file is seen", () => seen.size > 0);
    } finally {
      watcher.close();
    }
    for (const name of seen) {
      assert.ok(
        fileNameToKey(name) === null && sidecarOf(name) === null,
        name,
      );
    }
    assert.deepEqual(readdirSync(s.store), []);
  },
);

scene("a probe that a killed client left is not listed, in either protocol", async (s) => {
  const address = await s.listen(s.store);
  writeFileSync(`${s.store}/.lmshm-probe.1.0123456789abcdef.tmp`, "");
  writeFileSync(`${s.store}/.lmshm-probe.1.0123456789abcdef.tmp.data`, "");
  for (const protocol of [1, 2] as const) {
    const connector = await s.open({ workerAddr: address, protocol });
    await connector.put("an object", s.segment.range(0, 10));
    assert.deepEqual(await connector.list(), ["an object"]);
  }
});
