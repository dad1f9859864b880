// SPDX-License-Identifier: Apache-2.0
//
// The FFI table against its two sources of truth: the header and the built library. A declaration
// in a comment is no check; this is.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { INFO_BYTES, INFO_LAYOUT, OPTIONS_BYTES, OPTIONS_LAYOUT } from "../src/native/lmshm.ts";
import { EVENT_BYTES, EVENT_LAYOUT } from "../src/native/queue.ts";
import { locateLibrary } from "../src/native/locate.ts";
import { type CType, LMSHM_SYMBOLS, type SymbolTable } from "../src/native/symbols.ts";
import { exportedFunctions } from "./support/elf.ts";

const header = readFileSync(new URL("../csrc/include/lmshm.h", import.meta.url), "utf8")
  .replace(/\/\*[\s\S]*?\*\//g, " ");

function squeeze(text: string): string {
  return text.replace(/\s+/g, " ").replace(/\s*\*\s*/g, " *").trim();
}

/** Every function prototype of the header, by name. */
function prototypes(): Map<string, string> {
  const found = new Map<string, string>();
  for (const [, text, name] of header.matchAll(/^((?:[\w *]+?)(\w+)\([^()]*\));/gm)) {
    found.set(name!, squeeze(text!));
  }
  return found;
}

function typeOf(declaration: string): CType {
  if (declaration === "void") return "void";
  if (declaration.includes("*")) return "bytes";
  const kinds: Record<string, CType> = {
    int: "i32",
    int32_t: "i32",
    uint32_t: "u32",
    size_t: "usize",
    uint64_t: "usize",
    intptr_t: "isize",
  };
  const kind = kinds[declaration.replace(/^const /, "").split(" ")[0]!];
  assert.ok(kind, `no FFI type for "${declaration}"`);
  return kind;
}

/** Byte offsets of a struct's fields by the rules of LP64, and its size. */
function layout(struct: string): { offsets: Record<string, number>; sizeBytes: number } {
  const body = new RegExp(`typedef struct ${struct} \\{([^}]*)\\}`).exec(header)?.[1];
  assert.ok(body, `${struct} is in the header`);
  const offsets: Record<string, number> = {};
  let end = 0;
  for (const field of body.split(";").map(squeeze).filter(Boolean)) {
    const [, type, name, count] = /^(.*?)\s?\*?(\w+)(?:\[(\d+)\])?$/.exec(field)!;
    const pointer = field.includes("*");
    const width = pointer || /64_t/.test(type!) ? 8 : /32_t/.test(type!) ? 4 : 1;
    end = Math.ceil(end / width) * width;
    offsets[name!] = end;
    end += width * Number(count ?? 1);
  }
  return { offsets, sizeBytes: Math.ceil(end / 8) * 8 };
}

test("the FFI table declares exactly the functions of lmshm.h", () => {
  const declared = prototypes();
  assert.deepEqual(Object.keys(LMSHM_SYMBOLS).sort(), [...declared.keys()].sort());
  for (const [name, { c }] of Object.entries(LMSHM_SYMBOLS)) {
    assert.equal(squeeze(c), declared.get(name), name);
  }
});

test("the FFI types follow from the C declarations", () => {
  for (const [name, entry] of Object.entries(LMSHM_SYMBOLS as SymbolTable)) {
    const [, result, parameters] = /^(.*?)\w+\((.*)\)$/.exec(squeeze(entry.c))!;
    const wanted = parameters === "void" ? [] : parameters!.split(", ").map((parameter) => {
      const type = typeOf(parameter);
      // Handles and raw addresses are pointers in C and bigint here.
      return /lmshm_(segment|job|queue) \*|void \*(ptr|at)/.test(parameter) ? "usize" : type;
    });
    assert.deepEqual(entry.args, wanted, name);
    const returned = typeOf(result!.trim());
    assert.equal(entry.result, returned === "bytes" ? "usize" : returned, name);
  }
});

test("the struct layouts are those of lmshm.h", () => {
  const options = layout("lmshm_options");
  assert.deepEqual({ ...OPTIONS_LAYOUT }, options.offsets);
  assert.equal(OPTIONS_BYTES, options.sizeBytes);
  const info = layout("lmshm_info");
  assert.deepEqual({ ...INFO_LAYOUT }, info.offsets);
  assert.equal(INFO_BYTES, info.sizeBytes);
  const event = layout("lmshm_event");
  assert.deepEqual({ ...EVENT_LAYOUT }, event.offsets);
  assert.equal(EVENT_BYTES, event.sizeBytes);
});

test("the library exports the functions of the table and nothing else", () => {
  assert.deepEqual(exportedFunctions(locateLibrary()).sort(), Object.keys(LMSHM_SYMBOLS).sort());
});
