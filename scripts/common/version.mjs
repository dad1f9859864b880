// SPDX-License-Identifier: Apache-2.0
//
// The version stands in package.json. CMake and what is packed read it there; the places that must
// repeat it are listed here, so that `npm version X` can write them and a test can compare them.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Failure, root } from "./system.mjs";

/** Each file that repeats the version: what is before it, it, and what is after it. */
const COPIES = /** @type {Record<string, RegExp>} */ ({
  "deno.json": /("version": ")([^"]+)(")/,
  "src/version.ts": /(export const version = ")([^"]+)(")/,
  "csrc/include/lmshm.h": /(#define LMSHM_VERSION ")([^"]+)(")/,
});

/** @param {string} path in the repository */
function read(path) {
  return readFileSync(join(root, path), "utf8");
}

/** @returns {string} the version of package.json */
export function projectVersion() {
  return JSON.parse(read("package.json")).version;
}

/** Each place where another version stands than in package.json, one line each. */
export function versionProblems() {
  const version = projectVersion();
  const lock = JSON.parse(read("package-lock.json"));
  const found = Object.entries(COPIES).map((
    [path, pattern],
  ) => [path, pattern.exec(read(path))?.[2]]);
  found.push(["package-lock.json", lock.version], ["package-lock.json", lock.packages[""].version]);
  return found.filter(([, other]) => other !== version)
    .map(([path, other]) => `${path} says version ${other}, and package.json ${version}`);
}

/** Writes the version of package.json wherever it is repeated. @returns {string[]} those files */
export function writeVersion() {
  const version = projectVersion();
  for (const [path, pattern] of Object.entries(COPIES)) {
    const text = read(path);
    if (!pattern.test(text)) throw new Failure(`${path} has no place for the version`);
    writeFileSync(
      join(root, path),
      text.replace(pattern, (_, before, _old, after) => before + version + after),
    );
  }
  return Object.keys(COPIES);
}
