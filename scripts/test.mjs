// SPDX-License-Identifier: Apache-2.0
//
// `npm test`: set-up, then every suite. The last line is the sum: "N passed, N failed, N skipped"; before
// it is what failed, once more.

import process from "node:process";
import { parseArgs } from "node:util";
import { countsLine, sum } from "./common/results.mjs";
import { failuresOf, recap } from "./common/recap.mjs";
import { runSuites, SUITES } from "./common/suites.mjs";
import { Failure, runMain } from "./common/system.mjs";
import { setUp } from "./setup.mjs";

const USAGE = `Usage: npm test -- [--only SUITE[,SUITE...]] [-t NAME] [FILE...]

Runs the tests; the last line is "N passed, N failed, N skipped". Logs are in build/logs.
  --only SUITE  only these of ${SUITES.join(", ")}
  -t NAME       only tests whose name contains NAME
  FILE          only tests in files whose path contains FILE, e.g. segment`;

function options() {
  try {
    const { values, positionals } = parseArgs({
      args: process.argv.slice(2),
      allowPositionals: true,
      options: {
        only: { type: "string", multiple: true },
        name: { type: "string", short: "t" },
        help: { type: "boolean", short: "h" },
      },
    });
    const only = (values.only ?? []).flatMap((list) => list.split(","));
    const unknown = only.find((name) => !SUITES.some((suite) => suite === name));
    if (unknown !== undefined) throw new Error(`there is no suite "${unknown}"`);
    return { ...values, only, files: positionals };
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const { only, name, files, help } = options();
  if (help) return console.log(USAGE);
  try {
    await setUp();
  } catch (error) {
    console.error(error instanceof Failure ? `lmshm: ${error.message}` : error);
    const failure = { name: "set-up", text: error instanceof Error ? error.message : `${error}` };
    for (const line of recap([failure])) console.log(line);
    console.log(countsLine({ passed: 0, failed: 1, skipped: 0 }));
    return 1;
  }
  const chosen = SUITES.filter((suite) => only.length === 0 || only.includes(suite));
  const results = await runSuites(chosen, { files, name });

  console.log("\n=== summary");
  for (const { suite, note, failures: _, ...counts } of results) {
    console.log(`${suite.padEnd(8)} ${countsLine(counts)}${note ? `  (${note})` : ""}`);
  }
  const total = sum(results);
  if (total.passed + total.failed + total.skipped === 1) {
    throw new Failure(`no test matches ${[...files, name ?? ""].join(" ").trim()}`);
  }
  for (const line of recap(failuresOf(results))) console.log(line);
  console.log(countsLine(total));
  return total.failed > 0 ? 1 : 0;
});
