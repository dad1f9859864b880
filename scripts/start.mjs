// SPDX-License-Identifier: Apache-2.0
//
// `npm start`: set-up, then `lmshm verify` on the project's own real input, by the pinned Bun.
// Arguments after `--` go to `lmshm verify`.

import process from "node:process";
import { pinnedTool } from "./common/dependencies.mjs";
import { run, runMain } from "./common/system.mjs";
import { setUp } from "./setup.mjs";

await runMain(async () => {
  await setUp();
  return await run(pinnedTool("bun"), ["src/cli/main.ts", "verify", ...process.argv.slice(2)]);
});
