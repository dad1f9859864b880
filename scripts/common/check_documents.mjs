// SPDX-License-Identifier: Apache-2.0
//
// The gate's step "docs": the documents against the compiler, and the API reference.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeApiReference } from "./api_reference.mjs";
import { allBlocks, moduleOf } from "./code_blocks.mjs";
import { pinnedTool } from "./dependencies.mjs";
import { Failure, must, root } from "./system.mjs";

/**
 * The ts blocks of the documents have the right types, and the API reference has every public name.
 * What the documents say beyond that is checked by tests/docs_test.ts.
 */
export async function checkDocuments() {
  const folder = join(root, "build", "docs");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const blocks = allBlocks().filter(({ language }) => language === "ts");
  if (blocks.length < 20) throw new Failure(`only ${blocks.length} ts blocks were found`);
  for (const block of blocks) {
    const name = `${block.file.replaceAll("/", "_")}_line_${block.line}.ts`;
    writeFileSync(join(folder, name), moduleOf(block).source);
  }
  const { exports: entries } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const config = join(folder, "tsconfig.json");
  writeFileSync(config, JSON.stringify(typesOfBlocks(entries)));
  await must(
    "tsc over the code blocks (file_line_N.ts is the block at line N)",
    pinnedTool("tsc"),
    ["--noEmit", "-p", config],
  );
  await writeApiReference(join(folder, "api"));
}

/** @param {Record<string, string>} entries */
function typesOfBlocks(entries) {
  const paths = Object.entries(entries).map(([entry, path]) => [
    entry.replace(/^\./, "lmshm"),
    [join(root, path)],
  ]);
  return {
    extends: "../../tsconfig.json",
    compilerOptions: {
      paths: Object.fromEntries(paths),
      noUnusedLocals: false,
      typeRoots: [join(root, "node_modules", "@types")],
    },
    include: ["*.ts"],
    exclude: [],
  };
}
