// SPDX-License-Identifier: Apache-2.0
//
// Set-up: npm packages, then the native parts of this machine; only what is missing or stale.
// Every other script calls it by itself; `npm run setup` runs it alone.

import { pathToFileURL } from "node:url";
import process from "node:process";
import { installDependencies } from "./common/dependencies.mjs";
import { buildForThisMachine } from "./common/native.mjs";
import { runMain, say } from "./common/system.mjs";

/** Makes everything ready to run; well under a second when nothing changed. */
export async function setUp() {
  await installDependencies();
  await buildForThisMachine();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await runMain(async () => {
    await setUp();
    say("everything is in place");
  });
}
