// SPDX-License-Identifier: Apache-2.0
//
// How the library is loaded: synchronously, all of it.

import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { runtime } from "../src/native/ffi.ts";
import { runFixture } from "./support/process.ts";

const LONG = { timeout: 120_000 };

test("Workers get every message that was posted while they load the library", LONG, async () => {
  // Many Workers, so that loading takes long. If the library awaited something meanwhile, one in five
  // of them would lose its messages in Bun.
  const ended = await runFixture("early_messages_main.ts", ["3", "24", "20"], {
    timeoutMs: 100_000,
  });
  const answered = Array.from({ length: 3 }, () => new Array(24).fill(20).join(" "));
  assert.equal(ended.stdout.trim(), answered.join("\n"), ended.stderr.slice(-2000));
});

const ENTRIES = ["mod.ts", "gpu/mod.ts", "config/mod.ts", "embed.ts"];
const SOURCE = new URL("../src/", import.meta.url);

/** The modules that loading `entry` evaluates, and the packages that they import. */
function reachable(entry: string): { modules: Map<string, string>; packages: Set<string> } {
  const modules = new Map<string, string>();
  const packages = new Set<string>();
  const visit = (href: string) => {
    if (modules.has(href)) return;
    const text = readFileSync(new URL(href), "utf8").replaceAll(
      /\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm,
      "",
    );
    modules.set(href, text);
    const imports = /^(?:import|export)\s(?!type\b)(?:[^;]*?\sfrom\s)?\s*"([^"]+)";/gm;
    for (const [, specifier] of text.matchAll(imports)) {
      if (specifier!.startsWith(".")) visit(new URL(specifier!, href).href);
      else if (!specifier!.startsWith("node:")) packages.add(specifier!);
    }
  };
  visit(new URL(entry, SOURCE).href);
  return { modules, packages };
}

test("no entry loads a package before it is needed, and no module awaits", () => {
  for (const entry of ENTRIES) {
    const { modules, packages } = reachable(entry);
    assert.ok(modules.size > (entry === "embed.ts" ? 0 : 5), entry);
    assert.deepEqual([...packages], [], entry);
    for (const [module, text] of modules) {
      // What is not indented is evaluated while the module is loaded.
      const awaits = /^(?:(?:const|let|var|export|using)\b.*[=(]\s*|for\s+)?await\b.*/m.exec(text);
      assert.equal(awaits, null, module);
    }
  }
});

test("the command loads nothing of the library before it knows what to do", () => {
  const { modules } = reachable("cli/main.ts");
  const below = [...modules.keys()].map((href) => href.slice(SOURCE.href.length));
  assert.ok(below.includes("cli/terminal.ts"), below.join(" "));
  assert.deepEqual(below.filter((path) => !/^(cli\/|version\.ts$)/.test(path)), []);
});

test(
  "all entries load where no package is installed, and only reading YAML needs one",
  LONG,
  async () => {
    const tree = mkdtempSync(join(tmpdir(), "lmshm-bare-"));
    try {
      for (const path of ["src", "tests/fixtures/bare_entries.ts"]) {
        cpSync(new URL(`../${path}`, import.meta.url), join(tree, path), { recursive: true });
      }
      const ended = await runFixture("bare_entries.ts", [], { tree });
      const lines = [`${runtime.name} function`, "256", "ENOENT"];
      assert.equal(ended.stdout.trim(), lines.join("\n"), ended.stderr);
    } finally {
      rmSync(tree, { recursive: true });
    }
  },
);

test("require() loads the library", { timeout: 60_000 }, async () => {
  const ended = await runFixture("require.cjs");
  assert.equal(ended.code, 0, ended.stderr);
  assert.equal(ended.stdout.trim(), `${runtime.name} function function`);
});
