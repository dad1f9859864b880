// SPDX-License-Identifier: Apache-2.0
//
// maxBytes, from the connector's end to the disk: what is kept, what is removed first, and who
// counts. How the worker does it is tested where it does it (tests/native).

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, renameSync, statSync, writeFileSync } from "node:fs";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { type ConnectorScene, connectorScene } from "./support/connector_scene.ts";
import { attachFirst } from "./support/dialect.ts";
import { LineSocket } from "./support/line_socket.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, sleep } from "./support/worker.ts";

const BLOCK = 4096;

const scene = (name: string, body: (scene: ConnectorScene) => Promise<void>) =>
  connectorScene(name, body, 256 * BLOCK);

function diskBytes(path: string): number {
  let blocks = 0;
  for (const name of readdirSync(path)) {
    if (!/\.(data|key)$/.test(name)) continue;
    blocks += statSync(`${path}/${name}`, { throwIfNoEntry: false })?.blocks ?? 0;
  }
  return blocks * 512;
}

/** What the worker counts is what is there, once it has nothing more to remove. */
async function countsRight(
  connector: ShmFileConnector,
  ...directories: readonly string[]
): Promise<Awaited<ReturnType<ShmFileConnector["info"]>>> {
  const onDisk = () => directories.reduce((sum, path) => sum + diskBytes(path), 0);
  for (let left = 1_000;; left--) {
    const info = await connector.info();
    if (info.usedBytes === onDisk()) return info;
    assert.ok(left > 0, `${info.usedBytes} counted, ${onDisk()} on the disk`);
    await sleep(10);
  }
}

scene("what was used longest ago is removed first, and the limit is kept", async (s) => {
  const maxBytes = 400 * BLOCK;
  const connector = await s.open({ maxBytes });
  const range = s.segment.range(0, 4 * BLOCK);
  const into = s.segment.range(8 * BLOCK, 4 * BLOCK);
  let most = 0;
  for (let index = 0; index < 250; index++) {
    await connector.put(`k${index}`, range);
    most = Math.max(most, diskBytes(s.store));
    assert.ok(await connector.get("k0", into), `k0 is used all the time, ${index}`);
  }
  assert.ok(most <= maxBytes, `${most} of ${maxBytes}`);
  assert.equal(await connector.get("k1", into), null, "a miss, no error");
  assert.equal(await connector.exists("k249"), true);
  const info = await countsRight(connector, s.store);
  assert.equal(info.maxBytes, maxBytes);
  assert.equal(info.objects, readdirSync(s.store).length);
  assert.ok(info.evictions! >= 250 - 100, `${info.evictions} evicted`);
  assert.ok(info.evictedBytes! >= info.evictions! * 4 * BLOCK);
  assert.equal(await connector.remove("k0"), true);
  assert.ok((await connector.info()).usedBytes! <= info.usedBytes! - 4 * BLOCK);
});

scene("puts that overlap stay within maxBytes or fail with ENOSPC", async (s) => {
  const maxBytes = 64 * BLOCK;
  const connector = await s.open({ maxBytes });
  let most = 0;
  let stored = 0;
  const one = async (index: number) => {
    for (let round = 0; round < 10; round++) {
      const range = s.segment.range(0, (1 + index % 8) * BLOCK);
      await connector.put(`k${index}-${round}`, range).then(
        () => stored++,
        (error) => shmError("ENOSPC")(error),
      );
      most = Math.max(most, diskBytes(s.store));
    }
  };
  await Promise.all(Array.from({ length: 12 }, (_, index) => one(index)));
  assert.ok(most <= maxBytes, `${most} of ${maxBytes}`);
  assert.ok(stored > 60, `${stored} stored`);
  await countsRight(connector, s.store);
});

scene("attributes and the file of a long key count", async (s) => {
  const connector = await s.open({ maxBytes: 200 * BLOCK });
  const metadata = { note: "x".repeat(500) };
  for (const key of ["a", "b", "L".repeat(300)]) {
    await connector.put(key, s.segment.range(0, 2 * BLOCK), { metadata });
    await countsRight(connector, s.store);
  }
  assert.equal(readdirSync(s.store).length, 4);
});

scene("a put that cannot fit is ENOSPC, and one that fails gives its room back", async (s) => {
  const connector = await s.open({ maxBytes: 16 * BLOCK });
  await assert.rejects(
    connector.put("big", s.segment.range(0, 17 * BLOCK)),
    shmError("ENOSPC", /--max-bytes is 65536.* started here, maxBytes is its --max-bytes$/),
  );
  mkdirSync(`${s.store}/taken.data`);
  for (let attempt = 0; attempt < 10; attempt++) {
    await assert.rejects(
      connector.put("taken", s.segment.range(0, 8 * BLOCK)),
      shmError("EISDIR"),
    );
  }
  assert.equal((await connector.info()).usedBytes, 0);
  await connector.put("a", s.segment.range(0, 12 * BLOCK));
  assert.equal((await connector.info()).evictions, 0);
});

scene("what is in the directory when the worker starts counts", async (s) => {
  for (let index = 0; index < 40; index++) {
    writeFileSync(`${s.store}/old${index}.data`, new Uint8Array(2 * BLOCK));
  }
  const connector = await s.open({ maxBytes: 100 * BLOCK });
  for (let index = 0; index < 20; index++) {
    await connector.put(`new${index}`, s.segment.range(0, 2 * BLOCK));
  }
  assert.ok(diskBytes(s.store) <= 100 * BLOCK, `${diskBytes(s.store)}`);
  for (let index = 0; index < 20; index++) assert.ok(await connector.exists(`new${index}`));
});

scene(
  "one account for all clients of a worker, in all directories, of both versions",
  async (s) => {
    const maxBytes = 120 * BLOCK;
    const workerAddress = await s.listen(s.dir.path, "--max-bytes", String(maxBytes));
    const other = s.dir.file("other");
    mkdirSync(other);
    const two = await s.open({ workerAddress });
    const one = await LineSocket.connect(workerAddress);
    const { name, sizeBytes } = s.segment;
    assert.equal(await attachFirst(one.ask, name!.slice(1), sizeBytes, 0n), "OK");
    for (let index = 0; index < 20; index++) await two.put(`k${index}`, s.segment.range(0, BLOCK));
    const before = await two.info();
    assert.equal(before.dirObjects, 20);
    for (let index = 0; index < 60; index++) {
      const written = await one.ask(`WRITE ${other}/k${index}.data 0 ${2 * BLOCK}`);
      assert.equal(written, `OK ${2 * BLOCK}`);
      const all = diskBytes(s.store) + diskBytes(other);
      assert.ok(all <= maxBytes, `${all} of ${maxBytes}`);
    }
    const info = await countsRight(two, s.store, other);
    assert.equal(info.dirUsedBytes, diskBytes(s.store));
    assert.ok(info.evictions! > 0);
    assert.equal(await two.exists("k0"), false, "the oldest of all is another directory's");
    assert.ok(existsSync(`${other}/k59.data`));
    one.finish();
    await one.closed;
  },
);

scene("a directory that is moved away while it is used keeps its limit", async (s) => {
  const maxBytes = 64 * BLOCK;
  const connector = await s.open({ maxBytes });
  await connector.put("before", s.segment.range(0, BLOCK));
  const moved = s.dir.file("moved");
  renameSync(s.store, moved);
  mkdirSync(s.store);
  for (let index = 0; index < 60; index++) {
    await connector.put(`k${index}`, s.segment.range(0, 4 * BLOCK));
    assert.ok(diskBytes(moved) <= maxBytes, `${diskBytes(moved)} of ${maxBytes}`);
  }
  assert.deepEqual(readdirSync(s.store), []);
  await countsRight(connector, moved);
});

scene("two workers on one directory keep the limit together, within a tenth", async (s) => {
  const maxBytes = 200 * BLOCK;
  const length = 2 * BLOCK;
  const connectors = [await s.open({ maxBytes }), await s.open({ maxBytes })];
  const contentOf = (key: string) => {
    const words = new Uint32Array(length / 4);
    const seed = [...key].reduce((sum, letter) => 31 * sum + letter.charCodeAt(0), 0);
    return new Uint8Array(words.map((_, index) => seed * 0x9e3779b1 + index).buffer);
  };
  const put = new Set<string>(); // in the order of the answers
  let most = 0;
  await Promise.all(connectors.map(async (connector, number) => {
    const range = s.segment.range(number * length, length);
    for (let index = 0; index < 150; index++) {
      const key = `w${number}-${index}`;
      s.segment.bytes(range.offset, length).set(contentOf(key));
      await connector.put(key, range);
      put.add(key);
      most = Math.max(most, diskBytes(s.store));
    }
  }));
  assert.ok(most <= 1.1 * maxBytes, `${most} of ${maxBytes}`);
  await eventually("both know of each other's", () => diskBytes(s.store) <= maxBytes);
  // Room may still be made while these are read: a miss is right where the object has gone, and
  // only there.
  const [lister, reader] = [connectors[0]!, connectors[1]!];
  const listed = await lister.listAll();
  const into = s.segment.range(4 * length, length);
  const newest = [...put].at(-1)!;
  let hits = 0;
  let last = "";
  for (const key of listed) {
    assert.ok(put.delete(key), `${key} was put, and is listed once`);
    if (await reader.get(key, into)) {
      hits++;
      if (key === newest) last = key;
      assert.deepEqual(s.segment.bytes(into.offset, length).slice(), contentOf(key), key);
    } else {
      assert.ok(!existsSync(`${s.store}/${key}.data`), `${key} is a miss although it is there`);
    }
  }
  for (const key of put) {
    assert.ok(!existsSync(`${s.store}/${key}.data`), `${key} is there and was not listed`);
  }
  assert.deepEqual([reader.stats.hits, reader.stats.misses], [hits, listed.length - hits]);
  assert.equal(reader.stats.mismatches, 0);
  assert.equal(last, newest, "what was put last stays");
  assert.ok(hits * length >= 0.85 * maxBytes, `no more is removed than has to be: ${hits} left`);
});

scene("lmshm.max_storage_size of extra_config is the limit, in GB", async (s) => {
  const extra = { "shmfs.storage_dir": s.store, "lmshm.max_storage_size": 0.5 };
  const { segment } = s;
  {
    await using connector = await ShmFileConnector.fromConfig(extra, { segment });
    assert.equal((await connector.info()).maxBytes, 2 ** 29);
  }
  const none = { ...extra, "lmshm.max_storage_size": null };
  await using without = await ShmFileConnector.fromConfig(none, { segment });
  assert.ok(!(await without.info()).maxBytes);
  for (const size of ["much", -1, 0]) {
    await assert.rejects(
      ShmFileConnector.fromConfig({ ...extra, "lmshm.max_storage_size": size }, { segment }),
      shmError("ECONFIG", /extra_config's lmshm\.max_storage_size is /),
    );
  }
  for (const maxBytes of [100, 1.5]) {
    await assert.rejects(s.open({ maxBytes }), /RangeError: maxBytes/);
  }
});

scene("info() counts requests, bytes, hits and misses, and how long requests took", async (s) => {
  const connector = await s.open({ maxBytes: 64 * BLOCK });
  const range = s.segment.range(0, BLOCK);
  for (const key of ["a", "b", "c"]) await connector.put(key, range);
  assert.ok(await connector.get("a", range));
  assert.equal(await connector.get("none", range), null);
  const { verbs, hits, misses, dirObjects, threads } = await connector.info();
  assert.deepEqual([hits, misses, dirObjects], [1, 1, 3]);
  assert.ok(threads! > 0);
  const put = verbs["put"]!;
  assert.deepEqual([put.requests, put.errors, put.bytes], [3, 0, 3 * BLOCK]);
  assert.equal(put.latency.at(-1)?.leUs, Infinity);
  assert.equal(put.latency.at(-1)?.count, 3);
  assert.ok(put.latencySumUs > 0);
  assert.ok(put.latency.every(({ count }, index) => count >= (put.latency[index - 1]?.count ?? 0)));
});
