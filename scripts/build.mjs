// SPDX-License-Identifier: Apache-2.0
//
// `npm run build`: the native parts for this machine, quickly. `--zig` builds them as they ship;
// `--all` does so for every platform. Both try out what they have built.

import process from "node:process";
import { parseArgs } from "node:util";
import { installDependencies } from "./common/dependencies.mjs";
import { buildForThisMachine, buildWithZig } from "./common/native.mjs";
import { Failure, runMain, say } from "./common/system.mjs";
import { smokeTest } from "./common/smoke.mjs";
import { hostPlatform, TARGETS } from "./common/targets.mjs";

const USAGE = `Usage: npm run build -- [--zig | --all]

Builds liblmshm.so and lmshm-worker into lib/<platform>/, if they are missing or stale.
  (nothing)  for this machine, by the system's compiler, or by zig where there is none
  --zig      for this machine, as it ships: by zig, reproducible, for old systems too
  --all      the same for every platform: ${Object.keys(TARGETS).join(", ")}`;

/** @typedef {import("./common/targets.mjs").Platform} Platform */

function options() {
  try {
    return parseArgs({
      args: process.argv.slice(2),
      options: {
        all: { type: "boolean" },
        zig: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    }).values;
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const { all, zig, help } = options();
  if (help) return console.log(USAGE);
  await installDependencies();
  if (!all && !zig) {
    await buildForThisMachine({ again: true });
    return say(`lib/${hostPlatform()} is up to date`);
  }
  const platforms = all ? /** @type {Platform[]} */ (Object.keys(TARGETS)) : [hostPlatform()];
  await buildWithZig(platforms);
  for (const platform of platforms) await smokeTest(platform);
});
