// SPDX-License-Identifier: Apache-2.0
//
// What protocol version 2 adds to the connector, and when it is spoken: metadata, checksums, a
// directory that need not be seen, durability; and that nobody believes in what version 1 cannot do.

import assert from "node:assert/strict";
import {
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { ShmError } from "../src/errors.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { type ShmFileConnectorOptions } from "../src/connector/shm_file_connector.ts";
import { type ConnectorScene, connectorScene } from "./support/connector_scene.ts";
import { plainWorker } from "./support/plain_worker.ts";
import { version1Worker } from "./support/version1_worker.ts";
import { shmError } from "./support/assertions.ts";
import { ScriptedWorker } from "./support/worker.ts";

const MIB = 2 ** 20;

const scene = (name: string, body: (scene: ConnectorScene) => Promise<void>) =>
  connectorScene(name, body, 4 * MIB);

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

scene("nothing is looked at by path: the directory may be elsewhere by now", async (s) => {
  const workerAddress = await s.listen(s.dir.path);
  const connector = await s.open({ workerAddress });
  assert.equal(connector.protocol, 2);
  assert.deepEqual(readdirSync(s.store), [], "opening leaves nothing");
  const moved = s.dir.file("moved");
  renameSync(s.store, moved);
  const long = "z".repeat(3000);
  s.segment.bytes(0, 10).fill(5);
  await connector.batchedPut(["a/b", long], [s.segment.range(0, 10), s.segment.range(0, 10)]);
  assert.deepEqual((await connector.listAll()).sort(), ["a/b", long]);
  assert.deepEqual(await connector.listAll({ prefix: "a" }), ["a/b"]);
  assert.equal(await connector.batchedContains(["a/b", long, "none"]), 2);
  assert.equal((await connector.stat(long))?.byteLength, 10);
  assert.equal(await connector.remove(long), true);
  assert.equal(await connector.remove(long), false);
  assert.deepEqual(readdirSync(moved), ["a-SEP-b.data"]);
});

scene("get() without a range asks the worker for the length", async (s) => {
  const workerAddress = await s.listen(s.store);
  const asked: number[] = [];
  const allocate = (byteLength: number) => {
    asked.push(byteLength);
    return s.segment.range(MIB, byteLength);
  };
  const connector = await s.open({ workerAddress, allocate });
  await connector.put("k", s.segment.range(0, 77));
  assert.equal((await connector.get("k"))?.byteLength, 77);
  assert.deepEqual(asked, [77]);
});

scene("a directory below the worker's root is made, and shared by those who name it", async (s) => {
  const workerAddress = await s.listen(s.dir.path);
  const absolute = await s.open({ workerAddress, storageDir: s.dir.file("a/b") });
  const relative = await s.open({ workerAddress, storageDir: "a/b" });
  const root = await s.open({ workerAddress, storageDir: s.dir.path });
  assert.deepEqual([absolute.protocol, relative.protocol, relative.storageDir], [2, 2, "a/b"]);
  await absolute.put("k", s.segment.range(0, 10));
  assert.deepEqual(readdirSync(s.dir.file("a/b")), ["k.data"]);
  assert.equal(statSync(s.dir.file("a/b")).mode & 0o777, 0o700);
  assert.deepEqual(await relative.listAll(), ["k"]);
  assert.equal(await root.exists("k"), false);
});

scene("a directory outside the worker's root is refused, and the error says so", async (s) => {
  const workerAddress = await s.listen(s.store);
  const outside = { workerAddress, storageDir: s.dir.file("other") };
  await assert.rejects(s.open(outside), shmError("EXDEV", /worker's --root/));
  const above = { workerAddress, storageDir: "../other" };
  await assert.rejects(s.open(above), (error: unknown) => error instanceof ShmError);
  assert.deepEqual(readdirSync(s.dir.path).sort(), ["store", "w.sock"]);
});

scene("maxBytes is told to the worker that is started, and refused with another", async (s) => {
  const workerBinary = s.dir.script(
    "worker.sh",
    `printf '%s\\n' "$@" > ${s.dir.file("args")}
while IFS= read -r line; do
  case "$line" in
    HELLO*) echo "OK 2 boot=0123456789abcdef worker=sh/1 xattr=1 window=64" ;;
    *) echo "\${line%% *} OK" ;;
  esac
done`,
  );
  await s.open({ workerBinary, maxBytes: 1 << 20, workerArgs: ["--threads", "2"] });
  const args = readFileSync(s.dir.file("args"), "utf8").trim().split("\n");
  assert.deepEqual(args.slice(args.indexOf("--max-bytes")), [
    ...["--max-bytes", "1048576", "--threads", "2"],
  ]);
  const workerAddress = await s.listen(s.store);
  await assert.rejects(
    s.open({ workerAddress, maxBytes: 1 << 20 }),
    shmError("ENOTSUP", /--max-bytes 1048576/),
  );
});

scene("what version 1 cannot do is refused when it is asked for", async (s) => {
  const worker = s.stack.use(await ScriptedWorker.listen(s.dir, plainWorker(s.segment)));
  const workerAddress = worker.path;
  const workerBinary = version1Worker(s.dir);
  const refused: [Partial<ShmFileConnectorOptions>, RegExp][] = [
    [{ workerAddress, durability: "data" }, /durability "data" needs protocol version 2/],
    [{ workerAddress, ioMode: "direct" }, /ioMode "direct"/],
    [{ workerAddress, checksum: true }, /checksum true/],
    [{ workerBinary, durability: "full" }, /durability "full"/],
    [{ workerBinary, maxBytes: 4096 }, /maxBytes 4096/],
  ];
  for (const [options, text] of refused) {
    await assert.rejects(s.open(options), shmError("ENOTSUP", text));
  }
  const asksNothing = { durability: "none", ioMode: "auto", checksum: false } as const;
  const connector = await s.open({ workerAddress, ...asksNothing });
  assert.equal(connector.protocol, 1);
  await assert.rejects(
    connector.put("k", s.segment.range(0, 10), { metadata: { note: "not kept" } }),
    shmError("ENOTSUP", /metadata needs protocol version 2/),
  );
  const pool = new TensorMemoryAllocator(s.segment);
  using obj = pool.allocate({ shape: [2, 1, 8, 128], dtype: "bfloat16" });
  await connector.put("k", obj);
  assert.deepEqual((await connector.stat("k"))?.metadata, {}, "its own layout is not insisted on");
  await assert.rejects(
    s.open({ workerAddress, storageDir: "relative" }),
    shmError("ENOTSUP", /not absolute/),
  );
});

scene(
  "version 1 is spoken on the connection that said HELLO: LMCache's worker serves no second",
  async (s) => {
    const worker = s.stack.use(await ScriptedWorker.listen(s.dir, plainWorker(s.segment)));
    const connector = await s.open({ workerAddress: worker.path });
    await connector.put("k", s.segment.range(0, 10));
    assert.equal(worker.connections, 1);
    const verbs = worker.lines.map((line) => line.split(" ")[0]);
    assert.deepEqual(verbs, ["HELLO", "ATTACH", "WRITE"]);
  },
);

scene("a worker that closes the connection when it hears HELLO is told apart", async (s) => {
  const worker = s.stack.use(
    await ScriptedWorker.listen(s.dir, (_line, peer) => {
      peer.socket.destroy();
      return "";
    }),
  );
  await assert.rejects(
    s.open({ workerAddress: worker.path }),
    shmError("ECONNRESET", /when it was asked which protocol it speaks.*as LMCache's worker does/),
  );
  assert.deepEqual(worker.lines.map((line) => line.split(" ")[0]), ["HELLO"]);
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
          "xattr=1 window=64";
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
    const connector = await s.open({ workerAddress: worker.path, ...options });
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
  assert.deepEqual(await connector.listAll(), ["k".repeat(16_384)]);
  await assert.rejects(
    connector.put("k".repeat(16_385), range),
    shmError("ENAMETOOLONG", /16385 bytes/),
  );
});
