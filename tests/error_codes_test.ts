// SPDX-License-Identifier: Apache-2.0
//
// The codes of ShmError: the type, the table of docs/errors.md and what the code throws are one list.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import { test } from "node:test";
import { errnoName, ERROR_CODES, type ErrorCode, knownCode, ShmError } from "../src/errors.ts";

/** Words of the protocol that look like codes. */
const WORDS = new Set(["EXISTS", "ERROR"]);
// Of the commands' own sockets: they are told in words.
const OF_COMMANDS = new Set(["EADDRINUSE", "EADDRNOTAVAIL"]);

const SOURCE = new URL("../src/", import.meta.url);

function wordsOf(file: string): string[] {
  const text = readFileSync(new URL(file, SOURCE), "utf8").replaceAll(
    /^\s*(\/\/|\*|\/\*).*$/gm,
    "",
  );
  return Array.from(text.matchAll(/"(E[A-Z0-9]{2,})"/g), (found) => found[1]!);
}

function inSource(): Map<string, string> {
  const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && file !== "errors.ts");
  assert.ok(files.length > 50);
  return new Map(files.flatMap((file) => wordsOf(file).map((word) => [word, file])));
}

test("every code that the source names is one of ERROR_CODES", () => {
  for (const [word, file] of inSource()) {
    if (WORDS.has(word) || (file.startsWith("cli/") && OF_COMMANDS.has(word))) continue;
    assert.ok(knownCode(word), `${word} in ${file} is no code; add it to src/errors.ts`);
  }
});

test("every code that no kernel has is thrown somewhere", () => {
  const words = inSource();
  for (const code of ERROR_CODES) {
    if (code in constants.errno || code === "ENOTFOUND") continue; // That is the resolver's.
    assert.ok(words.has(code), `${code} is thrown nowhere`);
  }
});

test("the table of docs/errors.md has every code, once, and no other", () => {
  const page = readFileSync(new URL("../docs/errors.md", import.meta.url), "utf8");
  const table = page.slice(page.indexOf("| code | what happened |")).trimEnd();
  const listed = table.split("\n").slice(2).flatMap((row) =>
    Array.from(row.split("|")[1]!.matchAll(/`([^`]+)`/g), (found) => found[1]!)
  );
  assert.deepEqual(listed.toSorted(), [...ERROR_CODES]);
});

test("errno numbers are this machine's, and one that nobody foresaw is kept beside EIO", () => {
  for (const code of ERROR_CODES) {
    const errno = (constants.errno as Record<string, number>)[code];
    if (errno !== undefined) assert.equal(errnoName(errno), code);
  }
  const errno = 4711;
  const code: ErrorCode = errnoName(errno);
  assert.equal(code, "EIO");
  const error = new ShmError("failed", { code, errno, operation: "test" });
  assert.match(error.message, /\(EIO, errno 4711\)/);
  assert.equal(knownCode("ENOPKG"), undefined);
  assert.equal(knownCode(5), undefined);
});
