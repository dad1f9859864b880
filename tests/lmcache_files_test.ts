// SPDX-License-Identifier: Apache-2.0
//
// Directories of LMCache's file connectors, from what was recorded of the real ones: in-process fs://
// with its headers, and fs and fs_native of the multiprocess mode, padded or not. tests/lmcache/ does the
// same with LMCache itself.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { LocalCpuBackend } from "../src/cache/local_cpu_backend.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { keyFile } from "../src/keys/key_file.ts";
import { parseCacheKey } from "../src/keys/key.ts";
import { ObjectKey } from "../src/keys/object_key.ts";
import { TensorMemoryAllocator } from "../src/memory/tensor_allocator.ts";
import { connectorScene } from "./support/connector_scene.ts";
import { workerOf } from "./support/version1_worker.ts";
import { getAll, goldenRows, payload, putAll, type StoredItem } from "./support/lmcache_files.ts";

const SEGMENT_BYTES = 1 << 20;
const PAD = 4096;

const FS: (StoredItem & { header: Uint8Array })[] = goldenRows("fs").map((row) => ({
  seed: Number(row["seed"]),
  key: row["key"]!,
  file: row["file"]!,
  bytes: Number(row["bytes"]),
  shape: row["shape"]!,
  dtype: row["dtype"]!,
  format: row["format"]!,
  header: new Uint8Array(Buffer.from(row["header"]!, "hex")),
}));

const OBJECTS: (StoredItem & { object: ObjectKey; text: string })[] = goldenRows("objects").map(
  (row) => ({
    seed: Number(row["seed"]),
    key: row["key"]!,
    file: row["file"]!,
    text: row["text"]!,
    bytes: 6400,
    shape: "2,2,20,40",
    dtype: "bfloat16",
    format: "KV_2LTD",
    object: new ObjectKey({
      model: row["model"]!,
      kvRank: Number(row["kvRank"]),
      group: Number(row["group"]),
      chunkHash: row["hash"]!,
      salt: row["salt"]!,
    }),
  }),
);

function contentOf({ header, seed, bytes }: (typeof FS)[number]): Uint8Array {
  return new Uint8Array(Buffer.concat([header, payload(seed, bytes)]));
}

test("there are as many recorded objects as make a proof", () => {
  assert.equal(FS.length, 72);
  assert.equal(new Set(FS.map(({ format }) => format)).size, 3);
  assert.equal(OBJECTS.length, 72);
  for (const { key, file } of FS) {
    assert.equal(parseCacheKey(key).toString(), key);
    assert.equal(keyFile(key).fileName, file);
  }
});

connectorScene("all files of LMCache's fs connector are read without their headers", async (s) => {
  for (const item of FS) writeFileSync(`${s.store}/${item.file}`, contentOf(item));
  for (const saveChunkMeta of [true, false]) {
    const store = await s.open({ saveChunkMeta });
    assert.deepEqual(await getAll(store, FS, { shapes: true }), []);
    assert.deepEqual((await store.listAll()).sort(), FS.map(({ key }) => key).sort());
    const found = await store.stat(FS[1]!.key);
    assert.equal(found?.byteLength, FS[1]!.bytes);
    assert.equal(found?.metadata["shape"], FS[1]!.shape);
    await store.close();
  }
}, SEGMENT_BYTES);

connectorScene("what we put with saveChunkMeta is LMCache's file, byte for byte", async (s) => {
  const store = await s.open({ saveChunkMeta: true });
  await putAll(store, FS);
  for (const item of FS) {
    assert.deepEqual(
      new Uint8Array(readFileSync(`${s.store}/${item.file}`)),
      contentOf(item),
      item.key,
    );
  }
  assert.equal(readdirSync(s.store).length, FS.length, "and nothing beside");
  assert.deepEqual(await getAll(store, FS, { shapes: true }), []);
  const pieces = await Promise.all(
    FS.slice(0, 8).map((item, i) => store.load(item.key, s.segment.range(i * 8192, item.bytes))),
  );
  assert.ok(pieces.every((found) => found?.crc32c !== null), "with a checksum of the bytes alone");

  // In batches, too: what the first eight hold goes under the names of the next.
  const [first, next] = [FS.slice(0, 8), FS.slice(8, 16)];
  await store.batchedPut(next.map(({ key }) => key), pieces.map((found) => found!.range));
  for (const [at, { file }] of next.entries()) {
    const { bytes, seed } = first[at]!;
    const content = new Uint8Array(readFileSync(`${s.store}/${file}`));
    // Ranges without a layout: plain bytes.
    assert.deepEqual([...new Int32Array(content.slice(0, 28).buffer)], [
      bytes,
      4,
      6,
      bytes,
      0,
      0,
      0,
    ]);
    assert.deepEqual(content.slice(28), payload(seed, bytes));
  }
}, SEGMENT_BYTES);

connectorScene("files with and without a header, and ours, live in one directory", async (s) => {
  for (const [at, item] of FS.entries()) {
    const content = at % 3 === 0 ? contentOf(item) : payload(item.seed, item.bytes);
    if (at % 3 < 2) writeFileSync(`${s.store}/${item.file}`, content);
  }
  const store = await s.open({ saveChunkMeta: false });
  await putAll(store, FS.filter((_, at) => at % 3 === 2));
  assert.deepEqual(await getAll(store, FS, { shapes: false }), []);
  const with_ = FS.filter((_, at) => at % 3 !== 1);
  assert.deepEqual(await getAll(store, with_, { shapes: true }), []);
}, SEGMENT_BYTES);

connectorScene("a header whose bytes are not all there is a counted miss", async (s) => {
  const [whole, cut] = [FS[0]!, FS[4]!];
  writeFileSync(`${s.store}/${whole.file}`, contentOf(whole));
  writeFileSync(`${s.store}/${cut.file}`, contentOf(cut).subarray(0, -1));
  const store = await s.open();
  const keys = [whole.key, cut.key];
  const ranges = keys.map((_, i) => s.segment.range(i * 8192, 8192));
  const found = await store.batchedGet(keys, ranges);
  assert.deepEqual(found.map((range) => range?.byteLength), [whole.bytes, undefined]);
  assert.equal(store.stats.mismatches, 1);
}, SEGMENT_BYTES);

connectorScene("a chunk of LMCache has its true shape in a tiered store", async (s) => {
  const items = FS.filter(({ dtype, format }) => dtype === "half" && format === "KV_2LTD");
  for (const item of items) writeFileSync(`${s.store}/${item.file}`, contentOf(item));
  const cold = await s.open();
  const hot = s.stack.use(
    new LocalCpuBackend({ allocator: new TensorMemoryAllocator(s.segment) }),
  );
  const tiered = s.stack.use(new TieredStore({ hot, cold }));
  const chunk = { shape: [2, 2, 16, 32], dtype: "half", format: "KV_2LTD" } as const;
  const found = await tiered.batchedGet(items.map(({ key }) => key), chunk);
  for (const [at, obj] of found.entries()) {
    const { seed, bytes, shape, key } = items[at]!;
    assert.equal(obj?.shape.join(), shape, key);
    assert.deepEqual(obj?.bytes.slice(), payload(seed, bytes));
    obj?.refCountDown();
  }
  // Another format of the same size is not what was asked for.
  const other = { shape: [16, 2, 64], dtype: "half", format: "KV_T2D" } as const;
  hot.clear();
  assert.equal(await tiered.get(items[0]!.key, other), null);
  assert.match(tiered.stats.lastMismatch!.fault, /its format is KV_2LTD/);
}, SEGMENT_BYTES);

test("ObjectKey writes and reads LMCache's texts and file names", () => {
  for (const { object, text, key, file } of OBJECTS) {
    assert.equal(object.toString(), text);
    assert.equal(object.inDirectory(), key);
    assert.equal(keyFile(object).fileName, file);
    assert.equal(keyFile(object).sidecarName, null);
    for (const form of [text, key]) {
      const back = ObjectKey.parse(form);
      assert.ok(back.equals(object));
      assert.deepEqual({ ...back }, { ...object });
    }
    assert.equal(Buffer.from(object.chunkHash).toString("hex"), object.chunkHashHex);
  }
});

for (const padded of [false, true]) {
  const what = padded ? "padded by fs_native with O_DIRECT" : "of fs and fs_native";
  connectorScene(`objects of the multiprocess mode, ${what}, are read and written`, async (s) => {
    for (const { file, seed, bytes } of OBJECTS) {
      const content = new Uint8Array(padded ? Math.ceil(bytes / PAD) * PAD : bytes).fill(0x5a);
      content.set(payload(seed, bytes));
      writeFileSync(`${s.store}/${file}`, content);
    }
    const store = await s.open(padded ? { padBytes: PAD } : {});
    const keyOf = (_: StoredItem, at: number) => OBJECTS[at]!.object;
    assert.deepEqual(await getAll(store, OBJECTS, { shapes: false, keyOf }), []);
    const listed = (await store.listAll()).map((key) => ObjectKey.tryParse(key)?.toString());
    assert.deepEqual(listed.sort(), OBJECTS.map(({ text }) => text).sort());
    assert.equal(await store.exists(OBJECTS[3]!.object), true);
    for (const { object } of OBJECTS) assert.equal(await store.remove(object), true);
    assert.deepEqual(readdirSync(s.store), []);

    await putAll(store, OBJECTS, keyOf);
    for (const { file, seed, bytes } of OBJECTS) {
      const content = new Uint8Array(readFileSync(`${s.store}/${file}`));
      assert.deepEqual(content.subarray(0, bytes), payload(seed, bytes));
      assert.equal(content.length, padded ? 8192 : bytes);
    }
    assert.deepEqual(await getAll(store, OBJECTS, { shapes: true, keyOf }), []);
  }, SEGMENT_BYTES);
}

connectorScene(
  "a padded file that nobody can cut is a miss, and without the option too long",
  async (s) => {
    const { object, file } = OBJECTS[0]!;
    writeFileSync(`${s.store}/${file}`, new Uint8Array(8192));
    const padded = await s.open({ padBytes: PAD });
    assert.equal(await padded.get(object, s.segment.range(0, 4096)), null);
    assert.equal(await padded.get(object, s.segment.range(0, 9000)), null);
    assert.equal(padded.stats.mismatches, 2);
    assert.equal((await padded.get(object, s.segment.range(0, 8192)))?.byteLength, 8192);
    await padded.close();
    const plain = await s.open();
    await assert.rejects(plain.get(object, s.segment.range(0, 6400)), { code: "EMSGSIZE" });
  },
  SEGMENT_BYTES,
);

test("ObjectKey refuses what LMCache refuses, and what would not come back", () => {
  const fields = { model: "m", kvRank: 1, chunkHash: "ab" };
  const wrong: [Partial<ConstructorParameters<typeof ObjectKey>[0]>, RegExp][] = [
    [{ model: "a@b" }, /model "a@b" contains "@"/],
    [{ model: "a\nb" }, /control/],
    [{ kvRank: -1 }, /kvRank/],
    [{ kvRank: 1.5 }, /kvRank/],
    [{ group: -1 }, /group/],
    [{ chunkHash: "abc" }, /pairs of lower-case/],
    [{ chunkHash: "AB" }, /pairs of lower-case/],
    [{ salt: "a@b" }, /salt/],
    [{ salt: "a/b" }, /salt/],
    [{ salt: "a\\b" }, /salt/],
    [{ salt: "a\0b" }, /salt.*control/],
    [{ salt: "x".repeat(129) }, /129 characters, more than 128/],
    [{ salts: "x" } as object, /did you mean "salt"/],
  ];
  for (const [part, pattern] of wrong) {
    assert.throws(() => new ObjectKey({ ...fields, ...part }), pattern);
  }
  assert.equal(new ObjectKey({ ...fields, salt: "\u{1f642}".repeat(128) }).salt.length, 256);
  const longest = new ObjectKey({
    ...fields,
    kvRank: 2 ** 40,
    chunkHash: new Uint8Array([0, 255]),
  });
  assert.equal(longest.toString(), "m@10000000000@0@00ff");
  assert.ok(ObjectKey.parse(longest.inDirectory()).equals(longest));
  assert.equal(ObjectKey.kvRank(8, 5, 4, 1), 0x08050401);
  assert.equal(ObjectKey.kvRank(1, 0), 0x01000100);
  assert.throws(() => ObjectKey.kvRank(256, 0), /worldSize "256" is more than 255/);
  for (
    const text of [
      ...["", "m", "m@1@0@ab", "m@00000001@0", "m@00000001@0@ab@s@t", "m@00000001@0@ab@"],
      ...["m@0X00000001@0@ab", "m@0000000G@0@ab", "m@00000001@01@ab", "m@000000001@0@ab"],
      ...["m@00000001@0@aB", "m@00000001@-1@ab", "m@ffffffffffffff@0@ab"],
      "model@1@0@5f3a@bfloat16",
    ]
  ) {
    assert.throws(() => ObjectKey.parse(text), RangeError, text);
    assert.equal(ObjectKey.tryParse(text), null);
  }
});

test("where LMCache's file name is not the key's alone, ours is another", () => {
  const separated = new ObjectKey({ model: "a-SEP-b", kvRank: 1, chunkHash: "ab" });
  assert.match(keyFile(separated).fileName, /^sha256-[0-9a-f]{64}\.data$/);
  assert.match(keyFile("a-SEP-b@1@0@ab@half").fileName, /^sha256-[0-9a-f]{64}\.data$/);
  // LMCache takes these as they are, and so do we.
  for (const key of ["@1@0@ab@half", "m@1@0@ab@half@%v", "m@1@0@ab@half@%"]) {
    assert.equal(parseCacheKey(key).toString(), key);
    assert.equal(keyFile(key).fileName, `${key}.data`);
  }
});

connectorScene("fileMode lets others read, and a worker that runs was told before", async (s) => {
  const made = s.dir.file("new/store");
  const store = await s.open({ storageDir: made, fileMode: 0o644 });
  await store.put("k", s.segment.range(0, 10));
  const modeOf = (path: string) => (statSync(path).mode & 0o7777).toString(8);
  assert.equal(modeOf(`${made}/k.data`), "644");
  assert.equal(modeOf(made), "755");
  assert.equal(modeOf(s.dir.file("new")), "755");
  await assert.rejects(s.open({ fileMode: 0o666 }), /fileMode is 0o666.*not everybody writes/);
  const workerAddress = await s.listen(s.store);
  await assert.rejects(
    s.open({ workerAddress, fileMode: 0o640 }),
    (error: Error & { code?: string }) =>
      error.code === "ENOTSUP" && /Start it with --file-mode 0640/.test(error.message),
  );
  await assert.rejects(s.open({ workerAddress, fileGroup: "kv" }), { code: "ENOTSUP" });
  await assert.rejects(s.open({ padBytes: 3000 }), /padBytes is 3000; accepted is a power of two/);
}, SEGMENT_BYTES);

connectorScene(
  "with version 1 of the protocol there are neither headers nor padding",
  async (s) => {
    const workerBinary = workerOf(1, s.dir);
    for (const options of [{ saveChunkMeta: true }, { padBytes: 512 }]) {
      await assert.rejects(s.open({ workerBinary, ...options }), {
        code: "ENOTSUP",
      });
    }
  },
  SEGMENT_BYTES,
);
