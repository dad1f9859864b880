// SPDX-License-Identifier: Apache-2.0
//
// `npm run bench`: set-up, then tests/bench/main.ts in Bun and in Deno, one after the other.
// `--runtime bun` or `--runtime deno` takes one of them; all other arguments go to main.ts, e.g.
// `npm run bench -- --quick --only segment` (`-- --help` shows them).

import process from "node:process";
import { pinnedTool } from "./common/dependencies.mjs";
import { Failure, run, runMain } from "./common/system.mjs";
import { setUp } from "./setup.mjs";

const RUNTIMES = { bun: ["run"], deno: ["run", "-A"] };

await runMain(async () => {
  const args = process.argv.slice(2);
  const at = args.indexOf("--runtime");
  let chosen = at < 0 ? undefined : args.splice(at, 2)[1];
  if (at >= 0 && !Object.hasOwn(RUNTIMES, chosen ?? "")) {
    const names = Object.keys(RUNTIMES).join(" or ");
    throw new Failure(`--runtime takes ${names}, not "${chosen ?? ""}"`);
  }
  await setUp();
  // These are the same in both.
  if (["--help", "-h", "--list", "--render"].some((flag) => args.includes(flag))) chosen ??= "bun";
  for (const runtime of /** @type {const} */ (["bun", "deno"])) {
    if (chosen && runtime !== chosen) continue;
    const command = [...RUNTIMES[runtime], "tests/bench/main.ts", ...args];
    const status = await run(pinnedTool(runtime), command, { timeoutMs: 2 * 60 * 60_000 });
    if (status !== 0) return status;
  }
  return 0;
});
