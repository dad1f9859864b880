// SPDX-License-Identifier: Apache-2.0
//
// The rule from keys to file names exists twice, here and in the worker. tests/golden/keys.tsv
// holds both to the same names.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileNameToKey, keyFile } from "../src/keys/key_file.ts";
import type { ErrorCode } from "../src/errors.ts";
import { shmError } from "./support/assertions.ts";

const GOLDEN = new URL("./golden/keys.tsv", import.meta.url);

/** The bytes that a percent-encoded word stands for. */
function decode(word: string): Uint8Array {
  const bytes: number[] = [];
  for (let at = 0; at < word.length; at++) {
    if (word[at] === "%") {
      bytes.push(parseInt(word.slice(at + 1, at + 3), 16));
      at += 2;
    } else {
      bytes.push(word.charCodeAt(at));
    }
  }
  return Uint8Array.from(bytes);
}

/** Null for bytes that are no text. */
function textOf(bytes: Uint8Array): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

interface Row {
  readonly key: string | null;
  /** Null: refused. */
  readonly fileName: string | null;
  /** Why it is refused. */
  readonly refusal: string | null;
  readonly line: string;
}

function readRows(): Row[] {
  const lines = readFileSync(GOLDEN, "utf8").split("\n").filter((line) =>
    line !== "" && !line.startsWith("#")
  );
  return lines.map((line) => {
    const [key, result, ...rest] = line.split("\t");
    assert.ok(key !== undefined && result !== undefined && rest.length === 0, line);
    const refusal = /^E[A-Z]+$/.test(result) ? result : null;
    const fileName = refusal === null ? textOf(decode(result)) : null;
    return { key: textOf(decode(key)), fileName, refusal, line: line.slice(0, 200) };
  });
}

test("keyFile() gives the names of the golden file, and refuses what it refuses", () => {
  const rows = readRows();
  assert.ok(rows.length > 50);
  for (const { key, fileName, refusal, line } of rows) {
    if (fileName === null) {
      const expected = refusal === "EINVAL" ? RangeError : shmError(refusal as ErrorCode);
      // Bytes that are no text cannot be handed to keyFile() at all.
      if (key !== null) assert.throws(() => keyFile(key), expected, line);
      continue;
    }
    assert.ok(key !== null, line);
    const file = keyFile(key);
    assert.equal(file.fileName, fileName, line);
    const hashed = fileNameToKey(fileName) === null;
    assert.equal(file.sidecarName, hashed ? fileName.replace(/\.data$/, ".key") : null, line);
  }
});
