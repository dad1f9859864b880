// SPDX-License-Identifier: Apache-2.0
//
// The text of protocol version 2: requests as the golden file has them, which the worker's tests
// read as well, and answers, good and bad.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  parseAnswer,
  parseFacts,
  parseFlags,
  parseHello,
  parseNumber,
  parsePage,
  parseRefusal,
  parseRefusedItem,
  parseStat,
  parseStored,
  splitItems,
} from "../src/worker/v2/answers.ts";
import type { Durability, FileHeader, IoMode, Priority } from "../src/worker/object_client.ts";
import { decodeWord, encodeWord } from "../src/worker/percent.ts";
import { MAX_LINE_BYTES } from "../src/worker/reply.ts";
import {
  checkLength,
  encodeAttachment,
  encodeAttributes,
  encodeKey,
  encodeList,
  encodePlace,
  getOptions,
  MAX_WORDS_BYTES,
  putOptions,
  requestLine,
  type RequestWords,
} from "../src/worker/v2/requests.ts";

const GOLDEN = new URL("./golden/v2_requests.tsv", import.meta.url);

/** The bytes of a percent-coded word, by other means than the code under test. */
function bytesOf(word: string): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < word.length; at++) {
    const coded = word[at] === "%";
    bytes.push(coded ? parseInt(word.slice(at + 1, at + 3), 16) : word.charCodeAt(at));
    if (coded) at += 2;
  }
  return Uint8Array.from(bytes);
}

const textOf = (word: string) => new TextDecoder("utf-8", { fatal: true }).decode(bytesOf(word));

/** What the second column says of one object; a word may come more than once. */
class Meaning {
  readonly words: readonly (readonly [string, string])[];

  constructor(text: string) {
    this.words = text.split(" ").map((word) => {
      const equals = word.indexOf("=");
      return [word.slice(0, equals), word.slice(equals + 1)] as const;
    });
  }

  all(name: string): string[] {
    return this.words.filter(([each]) => each === name).map(([, value]) => value);
  }

  get(name: string): string | undefined {
    return this.all(name)[0];
  }

  number(name: string): bigint {
    return BigInt(this.get(name)!);
  }

  attributes(): Record<string, Uint8Array> {
    return Object.fromEntries(
      this.words.filter(([name]) => name.startsWith("attr."))
        .map(([name, value]) => [name.slice("attr.".length), bytesOf(value)]),
    );
  }
}

const padOf = (one: Meaning) => one.get("pad") === undefined ? undefined : Number(one.get("pad"));

const alone = (words: string): RequestWords => ({ words, tail: "" });

function wordsOf(verb: string, one: Meaning): RequestWords[] {
  const io = one.get("io") as IoMode | undefined;
  const place = (size: string) =>
    encodePlace(textOf(one.get("key")!), one.number("offset"), one.number(size));
  const keys = () => alone(one.all("key").map((key) => encodeKey(textOf(key))).join(" "));
  switch (verb) {
    case "ATTACH":
      return [
        alone(
          encodeAttachment(
            textOf(one.get("shm_name")!),
            one.number("size"),
            one.get("identity")!,
          ),
        ),
      ];
    case "PUT":
      return [{
        words: place("length") + putOptions({
          checksum: one.get("crc") === "1",
          io,
          sync: one.get("sync") as Durability | undefined,
          header: one.get("head") as FileHeader | undefined,
          padBytes: padOf(one),
          ifAbsent: one.get("if") === "absent",
        }),
        tail: encodeAttributes(one.attributes()),
      }];
    case "GET":
      return [alone(
        place("capacity") +
          getOptions({ verify: one.get("verify") === "1", io, padBytes: padOf(one) }),
      )];
    case "STAT":
    case "EXISTS":
    case "REMOVE":
    case "CONTAINS":
      return [keys()];
    case "LIST": {
      const cursor = one.get("cursor")!;
      const prefix = bytesOf(one.get("prefix")!);
      return [alone(encodeList(Number(one.get("limit")), cursor === "" ? null : cursor, prefix))];
    }
    case "AUTH":
      return [alone(one.get("secret")!)];
    case "CANCEL":
      return [alone(one.get("request")!)];
    default:
      return [];
  }
}

test("requestLine() writes exactly the golden lines that a client writes", () => {
  const rows = readFileSync(GOLDEN, "utf8").split("\n").filter((line) =>
    line !== "" && !line.startsWith("#")
  );
  const verbs = new Set<string>();
  let written = 0;
  for (const row of rows) {
    const [line, meaning, ours] = row.split("\t");
    assert.ok(ours === "yes" || ours === "no", row);
    if (ours === "no") continue;
    const objects = meaning!.split(" ; ").map((text) => new Meaning(text));
    const first = objects[0]!;
    const verb = first.get("verb")!;
    verbs.add(verb);
    const words = objects.flatMap((one) => wordsOf(verb, one));
    const priority = first.get("prio") as Priority | undefined;
    assert.equal(requestLine(first.number("id"), verb, words, priority), `${line}\n`);
    written++;
  }
  assert.ok(written >= 30, `${written} lines`);
  for (
    const verb of [...["ATTACH", "PUT", "GET", "STAT", "EXISTS", "REMOVE", "CONTAINS", "LIST"], ...[
      "CANCEL",
      "INFO",
    ]]
  ) {
    assert.ok(verbs.has(verb), verb);
  }
});

test("encodeWord() and decodeWord() keep every byte and every text", () => {
  for (let byte = 0; byte < 256; byte++) {
    const word = encodeWord(Uint8Array.of(byte));
    assert.match(word, /^(?:%[0-9A-F]{2}|[A-Za-z0-9\-._~@/:+=,])$/, `byte ${byte}`);
    assert.deepEqual(bytesOf(word), Uint8Array.of(byte));
  }
  for (
    const text of [
      "",
      "plain/Key-1@2",
      "a b",
      ";",
      "%",
      "100%25",
      "\u00e9\u20ac\u{1f600}",
      "\0\n\x7f",
    ]
  ) {
    assert.equal(decodeWord(encodeWord(text)), text, JSON.stringify(text));
  }
  assert.equal(
    decodeWord("a!*(b)%2f%c3%A9"),
    "a!*(b)/\u00e9",
    "small digits, and what is printable",
  );
  assert.equal(decodeWord("%FF"), "\ufffd");
  for (const word of ["%", "%4", "%G0", "%-1", "a b", "\u00e9", "\x7f", "a\0"]) {
    assert.equal(decodeWord(word), null, JSON.stringify(word));
  }
});

test("encodePlace() and the options refuse what no worker accepts", () => {
  for (
    const key of [
      "",
      "a\nb",
      "a\0",
      "a\x7f",
      "a\u0085",
      "\ud800",
      "k".repeat(16_385),
      "\u20ac".repeat(5_462),
    ]
  ) {
    assert.throws(() => encodePlace(key, 0, 1), RangeError, JSON.stringify(key.slice(0, 20)));
  }
  assert.equal(encodeKey("k".repeat(16_384)).length, 16_384);
  assert.equal(encodeKey("\u20ac".repeat(5_461)).length, 9 * 5_461);
  assert.throws(() => encodePlace(5 as unknown as string, 0, 1), TypeError);
  for (const offset of [-1, 1.5, NaN, 2 ** 53, -1n, 2n ** 64n]) {
    assert.throws(() => encodePlace("k", offset, 1), RangeError, `${offset}`);
    assert.throws(() => encodePlace("k", 0, offset), RangeError, `${offset}`);
  }
  assert.throws(() => encodePlace("k", "1" as unknown as number, 1), TypeError);
  assert.throws(() => putOptions({ io: "fast" as IoMode }), /io must be one of auto, direct/);
  assert.throws(() => getOptions({ io: "fast" as IoMode }), /io must be one of auto, direct/);
  assert.throws(() => putOptions({ sync: "yes" as Durability }), /sync must be one of none/);
});

test("encodeAttributes() remembers those that cannot change, and no others", () => {
  const changing: Record<string, string> = { shape: "1" };
  assert.equal(encodeAttributes(changing), " shape=1");
  changing["shape"] = "2";
  assert.equal(encodeAttributes(changing), " shape=2");
  const fixed = Object.freeze({ shape: "3" });
  assert.equal(encodeAttributes(fixed), " shape=3");
  assert.equal(encodeAttributes(fixed), " shape=3");
});

test("encodeAttributes() refuses what no worker accepts", () => {
  const encode = (attributes: Record<string, string>) => encodeAttributes(attributes);
  assert.equal(encode({ shape: "1,2", note: "two words" }), " shape=1,2 note=two%20words");
  for (const name of ["", "X", "a-b", "a b", "n".repeat(33)]) {
    assert.throws(() => encode({ [name]: "1" }), /is no name/, name);
  }
  const reserved = [
    "key",
    "length",
    "crc32c",
    "crc",
    "verify",
    "mtime_ms",
    "disk",
    "io",
    "sync",
    "prio",
  ];
  for (const name of reserved) {
    assert.throws(() => encode({ [name]: "1" }), /reserved/, name);
  }
  assert.throws(() => encode({ a: "\udc00" }), RangeError);
  assert.throws(() => encode({ a: 1 as unknown as string }), TypeError);
  const many = (count: number) =>
    Object.fromEntries(Array.from({ length: count }, (_, index) => [`a${index}`, "1"]));
  assert.equal(encode(many(32)).split(" ").length, 33);
  assert.throws(() => encode(many(33)), /33 attributes/);
  assert.ok(encode({ a: "x".repeat(4_095) }));
  assert.throws(() => encode({ a: "x".repeat(4_096) }), /4097 bytes/);
});

test("the longest words that are accepted fit into a line", () => {
  const line = requestLine(2 ** 53 - 1, "CONTAINS", [alone("k".repeat(MAX_WORDS_BYTES))]);
  assert.ok(line.length <= MAX_LINE_BYTES, `${line.length}`);
  const put = requestLine(2 ** 53 - 1, "PUT", [alone("k".repeat(MAX_WORDS_BYTES))], "normal");
  assert.ok(put.length <= MAX_LINE_BYTES, `${put.length}`);
  checkLength("a put", MAX_WORDS_BYTES);
  assert.throws(() => checkLength("a put", MAX_WORDS_BYTES + 1), /a put: its request has/);
});

test("encodeList() refuses a limit that no worker accepts", () => {
  for (const limit of [0, 1_001, 1.5, NaN, -1]) {
    assert.throws(() => encodeList(limit, null), RangeError, `${limit}`);
  }
});

test("parseAnswer() tells id, OK and ERROR, and nothing else", () => {
  assert.deepEqual(parseAnswer("7 OK"), { id: 7, ok: true, text: "" });
  assert.deepEqual(parseAnswer("12 OK 5 a=b"), { id: 12, ok: true, text: "5 a=b" });
  assert.deepEqual(parseAnswer("0 ERROR EINVAL no id"), { id: 0, ok: false, text: "EINVAL no id" });
  const wrong = [
    ...[
      "",
      "OK",
      "OK 2",
      "7",
      "7 ",
      "7 OKAY",
      "7 OK2",
      "7  OK",
      " 7 OK",
      "-1 OK",
      "7 ok",
      "7 ERROR",
    ],
    ...["x OK", "7x OK", "1.5 OK", "99999999999999999 OK", "9007199254740993 OK", "\u0000 OK"],
  ];
  for (const line of wrong) assert.equal(parseAnswer(line), null, JSON.stringify(line));
});

test("parseRefusal() and parseRefusedItem() tell name and text", () => {
  assert.deepEqual(parseRefusal("ENOENT get k: gone"), {
    ok: false,
    code: "ENOENT",
    message: "get k: gone",
  });
  assert.deepEqual(parseRefusal("EIO"), { ok: false, code: "EIO", message: "" });
  assert.deepEqual(parseRefusedItem("-ENOENT"), { ok: false, code: "ENOENT", message: "" });
  assert.deepEqual(parseRefusedItem("-ENOSPC no%20space"), {
    ok: false,
    code: "ENOSPC",
    message: "no space",
  });
  for (const text of ["", "oops", "enoent x", "E", "Error x", "EN-T x"]) {
    assert.equal(parseRefusal(text), null, text);
    assert.equal(parseRefusedItem(`-${text}`), null, text);
  }
  assert.equal(parseRefusedItem("-EIO two words"), null);
  assert.equal(parseRefusedItem("-EIO %4"), null);
});

test("parseStored() reads length, checksum and attributes", () => {
  assert.deepEqual(parseStored("0"), { byteLength: 0, crc32c: null, attributes: {} });
  assert.deepEqual(parseStored("10 crc32c=95204346 note=two%20words b= c=x=y"), {
    byteLength: 10,
    crc32c: 0x95204346,
    attributes: { note: "two words", b: "", c: "x=y" },
  });
  assert.equal(parseStored("1 crc32c=ffffffff")!.crc32c, 0xffff_ffff);
  const odd = parseStored("1 __proto__=x constructor=y")!.attributes;
  assert.deepEqual(Object.entries(odd), [["__proto__", "x"], ["constructor", "y"]]);
  // As for any other name, the last one said counts.
  const twice = parseStored("1 __proto__=x a=1 __proto__=y a=2")!.attributes;
  assert.deepEqual(Object.entries(twice), [["__proto__", "y"], ["a", "2"]]);
  assert.deepEqual(parseStored("1 io=direct sync=data")!.attributes, {}, "words of the protocol");
  const wrong = [
    ...["", "x", "-1", "1.5", "1 ", "1  a=b", "1 a", "1 =b", "1 A=b", "1 a=%4", "1 a=\u00e9"],
    ...["1 crc32c=1", "1 crc32c=0000000g", "1 crc32c=", "9007199254740993", "12345678901234567"],
  ];
  for (const text of wrong) assert.equal(parseStored(text), null, JSON.stringify(text));
});

test("parseStat() wants time and disk usage as well", () => {
  assert.deepEqual(parseStat("10 mtime_ms=1795373690721 disk=8192 crc32c=00000000 a=b"), {
    byteLength: 10,
    mtimeMs: 1_795_373_690_721,
    diskBytes: 8_192,
    crc32c: 0,
    attributes: { a: "b" },
  });
  for (
    const text of [
      "10",
      "10 disk=1",
      "10 mtime_ms=1",
      "10 mtime_ms=x disk=1",
      "10 mtime_ms= disk=1",
    ]
  ) {
    assert.equal(parseStat(text), null, text);
  }
});

test("parseFlags(), parseNumber(), parsePage() and parseFacts() take what they know", () => {
  assert.deepEqual(parseFlags("101", 3), [true, false, true]);
  for (const text of ["", "10", "1010", "1 1", "12x"]) {
    assert.equal(parseFlags(text, 3), null, text);
  }
  assert.equal(parseNumber("42"), 42);
  for (const text of ["", "x", "-1", "1 2"]) assert.equal(parseNumber(text), null, text);
  assert.deepEqual(parsePage("-"), { cursor: null, keys: [] });
  assert.deepEqual(parsePage("c.data a/b c%20d"), { cursor: "c.data", keys: ["a/b", "c d"] });
  for (const text of ["", " a", "- ", "- a  b", "- %4", "\u00e9"]) {
    assert.equal(parsePage(text), null, JSON.stringify(text));
  }
  assert.deepEqual(parseFacts("a=1 b=x%20y c="), { a: "1", b: "x y", c: "" });
  assert.deepEqual(parseFacts(""), {});
  for (const text of ["a", "=1", "a=1 ", "a=%4"]) assert.equal(parseFacts(text), null, text);
  assert.deepEqual(splitItems("1 ; -ENOENT ; 2 a=;"), ["1", "-ENOENT", "2 a=;"]);
});

test("parseHello() ignores what it does not know and wants a boot id", () => {
  const hello = parseHello(
    "2 boot=3b0fd3e2ac1f9d77 worker=lmshm-worker/0.1.0 xattr=1 " +
      "window=1024 engine=redis weather=fine",
  );
  assert.deepEqual(hello, {
    boot: "3b0fd3e2ac1f9d77",
    worker: "lmshm-worker/0.1.0",
    xattr: true,
    engine: "redis",
    window: 1024,
  });
  const little = parseHello("2 boot=0000000000000000 later=word");
  assert.equal(little?.xattr, false);
  assert.equal(little?.window, null);
  assert.equal(little?.engine, null);
  for (
    const text of [
      ...[
        "",
        "2",
        "3 boot=3b0fd3e2ac1f9d77",
        "2 worker=x",
        "2 boot=xyz",
        "2 boot=3B0FD3E2AC1F9D77",
      ],
      ...["2 boot=3b0fd3e2ac1f9d77 window=0", "2 boot=3b0fd3e2ac1f9d77 window=x", "OK"],
    ]
  ) {
    assert.equal(parseHello(text), null, text);
  }
});
