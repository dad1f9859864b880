// SPDX-License-Identifier: Apache-2.0
//
// `npm run pack`: what would be published, as tarballs in dist/npm/. Nothing is published.

import { statSync } from "node:fs";
import { relative } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { installDependencies } from "./common/dependencies.mjs";
import { makePackages } from "./common/package.mjs";
import { Failure, root, runMain, say } from "./common/system.mjs";
import { hostPlatform, TARGETS } from "./common/targets.mjs";

/** @typedef {import("./common/targets.mjs").Platform} Platform */

const USAGE = `Usage: npm run pack -- [--host] [--repository URL]

Packs lmshm and a package with the native parts for each platform into dist/npm/, always with the
parts as they ship (built by zig), whatever was built before.
  --host            only this machine's platform
  --repository URL  where the sources are, for package.json`;

function options() {
  try {
    return parseArgs({
      args: process.argv.slice(2),
      options: {
        host: { type: "boolean" },
        repository: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const { host, repository, help } = options();
  if (help) return console.log(USAGE);
  await installDependencies();
  const all = /** @type {Platform[]} */ (Object.keys(TARGETS));
  const tarballs = await makePackages(host ? [hostPlatform()] : all, { repository });
  for (const path of tarballs) {
    say(`${relative(root, path)}, ${(statSync(path).size / 1024).toFixed(0)} KiB`);
  }
});
