// SPDX-License-Identifier: Apache-2.0
//
// Keys as LMCache writes them, and keys as file names.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { CacheEngineKey, KEY_DTYPES, LayerCacheEngineKey, parseCacheKey } from "../src/keys/key.ts";
import { fileNameToKey, keyFile, keyToFileName } from "../src/keys/key_file.ts";
import { shmError } from "./support/assertions.ts";

const fields = {
  model: "meta-llama/Llama-3.1-8B",
  worldSize: 8,
  workerId: 3,
  chunkHash: 0xdeadbeefn,
  dtype: "bfloat16",
} as const;

test("CacheEngineKey.toString() writes what LMCache writes", () => {
  assert.equal(
    new CacheEngineKey(fields).toString(),
    "meta-llama/Llama-3.1-8B@8@3@deadbeef@bfloat16",
  );
  const tags = [["tenant", "a%b"], ["salt", ""]] as const;
  const tagged = new CacheEngineKey({ ...fields, dtype: "half", tags });
  assert.equal(`${tagged}`, "meta-llama/Llama-3.1-8B@8@3@deadbeef@half@tenant%a%b@salt%");
  assert.equal(
    `${tagged.layer(31)}`,
    "meta-llama/Llama-3.1-8B@8@3@deadbeef@half@31@tenant%a%b@salt%",
  );
});

test("parseCacheKey() gives back every key unchanged", () => {
  const texts = [
    "m@1@0@0@half",
    "org/model name@1@-1@-7f@float",
    "m@1@0@00ab@uint8@user%x@y%",
    "m@1@0@ffffffffffffffffffffffffffffffff@fp8_e4m3fn@0",
    "m@1@0@ab@half@12@t%1",
    "\u6a21\u578b@1@0@ab@double@t%\u{1f600}",
    ...KEY_DTYPES.map((dtype) => `m@2@1@c0ffee@${dtype}`),
  ];
  for (const text of texts) assert.equal(parseCacheKey(text).toString(), text);
  const layer = parseCacheKey("m@1@0@ab@half@12@t%1");
  assert.ok(layer instanceof LayerCacheEngineKey);
  assert.equal(layer.layerId, 12);
  assert.deepEqual(layer.tags, [["t", "1"]]);
  assert.equal(parseCacheKey("m@1@0@-7f@half").chunkHash, -0x7fn);
  assert.equal(parseCacheKey("m@1@0@00ab@half").chunkHash, 0xabn);
});

test("parseCacheKey() refuses what would not come back unchanged", () => {
  const wrong: [string, RegExp][] = [
    ["m@1@0@ab", /4 parts/],
    ["", /1 parts/],
    ["m@x@0@ab@half", /world_size/],
    ["m@01@0@ab@half", /come back/],
    ["m@1@0@AB@half", /lower-case/],
    ["m@1@0@0xab@half", /0x/],
    ["m@1@0@@half", /hexadecimal/],
    ["m@1@0@ab@haf", /did you mean "half"/],
    ["m@1@0@ab@half@tag", /instead of tag%value/],
    ["m@1@0@ab@half@007", /come back/],
    ["m@1@0@ab@half@t%a@b", /instead of tag%value/],
    ["a@b@1@0@ab@half", /world_size/],
  ];
  for (const [text, pattern] of wrong) {
    assert.throws(() => parseCacheKey(text), (error: unknown) => {
      assert.ok(error instanceof RangeError, `${text}: ${error}`);
      assert.match(error.message, pattern, text);
      return true;
    });
  }
  assert.throws(() => CacheEngineKey.parse("m@1@0@ab@half@3"), /layer/);
  assert.throws(() => parseCacheKey(7 as unknown as string), TypeError);
});

test("CacheEngineKey refuses parts that would be split elsewhere", () => {
  const wrong: [Partial<ConstructorParameters<typeof CacheEngineKey>[0]>, RegExp][] = [
    [{ model: "user@host" }, /model/],
    [{ model: "a\nb" }, /control/],
    [{ model: "\ud83d" }, /surrogate/],
    [{ worldSize: 1.5 }, /worldSize/],
    [{ workerId: NaN }, /workerId/],
    [{ chunkHash: "XYZ" }, /chunkHash/],
    [{ dtype: "bfloat61" as "half" }, /did you mean "bfloat16"/],
    [{ tags: [["a%b", "c"]] }, /tag/],
    [{ tags: [["a", "b@c"]] }, /value of tag a/],
  ];
  for (const [part, pattern] of wrong) {
    assert.throws(() => new CacheEngineKey({ ...fields, ...part }), pattern);
  }
  assert.throws(() => new CacheEngineKey({ ...fields, model: 1 as unknown as string }), TypeError);
  assert.throws(() => new LayerCacheEngineKey({ ...fields, layerId: -1 }), /layerId/);
});

test("CacheEngineKey derives the keys of ranks and layers", () => {
  const key = new CacheEngineKey({ ...fields, tags: [["t", "v"]] });
  assert.ok(key.equals(parseCacheKey(key.toString())));
  assert.ok(!key.equals(key.withWorkerId(4)));
  assert.equal(key.withWorkerId(4).workerId, 4);
  const layers = key.splitLayers(3);
  assert.deepEqual(layers.map((layer) => layer.layerId), [0, 1, 2]);
  assert.deepEqual(layers[2]!.tags, key.tags);
  assert.ok(!key.equals(layers[0]!));
});

test("keyToFileName() gives LMCache's names", () => {
  assert.equal(
    keyToFileName(new CacheEngineKey(fields)),
    "meta-llama-SEP-Llama-3.1-8B@8@3@deadbeef@bfloat16.data",
  );
  assert.equal(keyToFileName("./models/x@1@0@a@half"), ".-SEP-models-SEP-x@1@0@a@half.data");
  assert.equal(keyToFileName("with space"), "with space.data");
  assert.equal(keyToFileName(".."), "...data");
});

const TRICKY = [
  "plain",
  "a/b",
  "/",
  "//",
  "/a/",
  "..",
  ".",
  "../../etc/passwd",
  "a.data",
  "a.key",
  "-SEP-",
  "a-SEP-b",
  "-SEP/x",
  "/SEP-x",
  "-SE/P-",
  "%2F",
  "a  b",
  "\u6a21\u578b/\u{1f600}",
  "e\u0301",
  "\u00e9",
  "\ufffd",
  `sha256-${"0".repeat(64)}`,
  "x".repeat(250),
  "x".repeat(251),
  "/".repeat(50),
  "/".repeat(51),
  "\u20ac".repeat(84),
  "y".repeat(5_000),
];

test("keyToFileName() never gives two keys one file, nor more than a file name", () => {
  const names = TRICKY.map(keyToFileName);
  assert.equal(new Set(names).size, TRICKY.length);
  for (const name of names) {
    assert.ok(Buffer.byteLength(name) <= 255, name);
    assert.ok(!name.includes("/"), name);
    assert.ok(name !== "." && name !== "..", name);
  }
});

test("fileNameToKey() gives the key back, or names the file that has it", () => {
  let hashed = 0;
  for (const key of TRICKY) {
    const { fileName, sidecarName } = keyFile(key);
    assert.equal(fileNameToKey(fileName), sidecarName === null ? key : null, key);
    if (sidecarName !== null) hashed++;
  }
  // -SEP- three times, a replacement character, a hash's look, four too long names.
  assert.equal(hashed, 9);
});

test("fileNameToKey() passes over what is no object", () => {
  for (
    const name of [
      "",
      ".data",
      "x",
      "x.key",
      "x.data.tmp",
      ".x.123.0123456789abcdef.tmp",
      "bad\ufffd.data",
      "a\nb.data",
      `${"x".repeat(251)}.data`,
      `sha256-${"0".repeat(64)}.data`,
    ]
  ) assert.equal(fileNameToKey(name), null, JSON.stringify(name));
});

test("keyFile() takes keys of up to 16,384 bytes, however many characters that are", () => {
  for (const key of ["k".repeat(16_384), "\u20ac".repeat(5_461), "\u{1f600}".repeat(4_096)]) {
    assert.match(keyFile(key).fileName, /^sha256-/);
  }
  for (const key of ["k".repeat(16_385), "\u20ac".repeat(5_462), "\u{1f600}".repeat(4_097)]) {
    assert.throws(() => keyFile(key), shmError("ENAMETOOLONG", /more than 16384/));
  }
});

test("keyFile() refuses keys that no file name can hold", () => {
  for (const key of ["", "a\0b", "a\nb", "tab\t", "\u0085", "\ud800", "x\udc00"]) {
    assert.throws(() => keyFile(key), RangeError, JSON.stringify(key));
  }
  assert.throws(() => keyFile(undefined as unknown as string), TypeError);
  assert.throws(() => keyFile({ toString: () => "x" } as unknown as string), TypeError);
});
