// SPDX-License-Identifier: Apache-2.0
//
// The API reference: `deno doc` writes it as a folder of pages that needs no network and no server.
// That every public name has a description is checked by the step "lint"; here, that each has a page.

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { pinnedTool } from "./dependencies.mjs";
import { capture, Failure, must, root } from "./system.mjs";

/** Name of each entry, as users import it, and its source. */
function entries() {
  const { name, exports } = JSON.parse(readFileSync(join(root, "deno.json"), "utf8"));
  return Object.entries(exports).map(([entry, path]) => ({
    name: /** @type {string} */ (entry.replace(/^\./, name)),
    path: /** @type {string} */ (path),
  }));
}

/**
 * Writes the reference, in place of what is there.
 * @param {string} folder
 * @returns {Promise<number>} names that it describes
 */
export async function writeApiReference(folder) {
  const deno = pinnedTool("deno");
  const paths = entries().map(({ path }) => path);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(dirname(folder), { recursive: true });
  await must("deno doc --html", deno, [
    ...["doc", "--quiet", "--html", "--name=lmshm", `--output=${folder}`],
    ...paths,
  ]);
  if (!existsSync(join(folder, "index.html"))) throw new Failure(`${folder} has no index.html`);
  let names = 0;
  const pages = readFileSync(join(folder, "all_symbols.html"), "utf8");
  for (const { name, path } of entries()) {
    const json = capture(deno, ["doc", "--quiet", "--json", path]);
    if (json === null) throw new Failure(`deno doc --json ${path} failed`);
    const missing = publicNames(JSON.parse(json)).filter((one) => {
      names++;
      return !pages.includes(`>${one}<`);
    });
    if (missing.length > 0) {
      throw new Failure(`the reference has no page for ${missing.join(", ")} of ${name}`);
    }
  }
  if (names === 0) throw new Failure("deno doc --json names nothing");
  return names;
}

/**
 * @param {any} document what deno doc --json writes
 * @returns {string[]}
 */
function publicNames(document) {
  const nodes = document.nodes;
  const symbols = Array.isArray(nodes)
    ? nodes
    : Object.values(nodes).flatMap((/** @type {any} */ module) => module.symbols ?? module);
  return [...new Set(symbols.map((/** @type {any} */ { name }) => name))];
}
