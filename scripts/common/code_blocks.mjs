// SPDX-License-Identifier: Apache-2.0
//
// The code blocks of README.md, docs/ and examples/README.md. Each ```ts block is a module that must
// have the right types; what it needs and a reader need not see stands in a comment before it:
//
//   <!-- with: import type { ShmSegment } from "lmshm"; declare const segment: ShmSegment; -->
//
// and <!-- run --> before a block has the tests run it, and compare what it prints with the block
// after <!-- prints -->. What is no module of its own, such as a signature, is not marked as ts.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { findFiles, root } from "./system.mjs";

/**
 * @typedef {object} CodeBlock
 * @property {string} file  relative to the root
 * @property {number} line  of its first line, from 1
 * @property {string} language  "" where none is said
 * @property {string} text
 * @property {string[]} marks  the comments right before it, without <!-- and -->
 */

/** The documents that are checked. */
export function documents() {
  return [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ...findFiles(["docs", "examples"], /\.md$/),
  ];
}

/**
 * @param {string} file
 * @param {string} text
 * @returns {CodeBlock[]}
 */
function blocksIn(file, text) {
  const blocks = [];
  const lines = text.split("\n");
  /** @type {string[]} */
  let marks = [];
  for (let at = 0; at < lines.length; at++) {
    const mark = /^<!-- (.*) -->$/.exec(lines[at]);
    if (mark) marks.push(mark[1]);
    else if (lines[at].startsWith("```")) {
      const start = at + 1;
      const end = lines.indexOf("```", start);
      if (end < 0) throw new Error(`${file}:${start}: a code block without an end`);
      const body = lines.slice(start, end).join("\n");
      blocks.push({
        file,
        line: start + 1,
        language: lines[at].slice(3).trim(),
        text: body,
        marks,
      });
      at = end;
      marks = [];
    } else if (lines[at] !== "") marks = [];
  }
  return blocks;
}

/** @returns {CodeBlock[]} of all documents */
export function allBlocks() {
  return documents().flatMap((file) => blocksIn(file, readFileSync(join(root, file), "utf8")));
}

/**
 * The module that a ts block is, and how many lines stand before its own.
 * @param {CodeBlock} block
 */
export function moduleOf({ text, marks }) {
  const hidden = marks.flatMap((mark) => /^with: (.*)$/.exec(mark)?.[1] ?? []);
  return { source: [...hidden, text, "export {};", ""].join("\n"), before: hidden.length };
}
