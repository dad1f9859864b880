// SPDX-License-Identifier: Apache-2.0
//
// `npm run docs`: the API reference as a folder of HTML pages, in dist/docs.

import console from "node:console";
import { join, relative, resolve } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { writeApiReference } from "./common/api_reference.mjs";
import { installDependencies } from "./common/dependencies.mjs";
import { Failure, root, runMain } from "./common/system.mjs";

const USAGE = `Usage: npm run docs -- [OPTION]...

Writes the API reference as HTML pages that can be opened from the disk.

  --output DIR   where to (default: dist/docs); what is there is replaced`;

function options() {
  try {
    return parseArgs({
      args: process.argv.slice(2),
      options: { output: { type: "string" }, help: { type: "boolean", short: "h" } },
    }).values;
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const { output, help } = options();
  if (help) return console.log(USAGE);
  await installDependencies();
  const folder = output === undefined ? join(root, "dist", "docs") : resolve(output);
  const names = await writeApiReference(folder);
  console.log(`${names} names are described in ${relative(process.cwd(), folder)}/index.html`);
});
