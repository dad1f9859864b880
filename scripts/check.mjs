// SPDX-License-Identifier: Apache-2.0
//
// `npm run check`: the gate. Every step runs alone too: `npm run check -- lint types`. A step that
// lacks a tool is skipped aloud. It ends with a table, what failed, and the line "N passed, N failed, N
// skipped", in which a step that runs tests counts with its tests.

import process from "node:process";
import { parseArgs } from "node:util";
import { installDependencies } from "./common/dependencies.mjs";
import { recap } from "./common/recap.mjs";
import { countsLine, sum } from "./common/results.mjs";
import { STEPS } from "./common/steps.mjs";
import { Failure, runMain, Skipped } from "./common/system.mjs";

/** @typedef {import("./common/results.mjs").Counts} Counts */
/** @typedef {import("./common/recap.mjs").Failed} Failed */

const USAGE = `Usage: npm run check -- [--skip STEP]... [STEP...]

Runs these steps, all unless named: ${Object.keys(STEPS).join(" ")}`;

function options() {
  try {
    const { values, positionals } = parseArgs({
      args: process.argv.slice(2),
      allowPositionals: true,
      options: {
        skip: { type: "string", multiple: true },
        help: { type: "boolean", short: "h" },
      },
    });
    const skip = values.skip ?? [];
    const unknown = [...positionals, ...skip].find((name) => !Object.hasOwn(STEPS, name));
    if (unknown !== undefined) throw new Error(`there is no step "${unknown}"`);
    const chosen = Object.keys(STEPS).filter((name) =>
      (positionals.length === 0 || positionals.includes(name)) && !skip.includes(name)
    );
    return { chosen, help: values.help };
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

/** @param {unknown} error */
function failureText(error) {
  if (!(error instanceof Failure)) return error instanceof Error ? `${error.stack}` : `${error}`;
  return error.said === "" ? error.message : `${error.message.split("\n")[0]}\n${error.said}`;
}

await runMain(async () => {
  const { chosen, help } = options();
  if (help) return console.log(USAGE);
  await installDependencies();
  /** @type {{ name: string, result: string, counts: Counts, seconds: string }[]} */
  const table = [];
  /** @type {Failed[]} */
  const failures = [];
  for (const name of chosen) {
    console.log(`\n=== ${name}`);
    const start = performance.now();
    let result = "ok";
    let counts = { passed: 1, failed: 0, skipped: 0 };
    try {
      const tests = await STEPS[name]();
      if (tests) {
        counts = { passed: tests.passed, failed: tests.failed, skipped: tests.skipped };
        result = tests.failed > 0 ? "FAILED" : "ok";
        for (const { name: test, text } of tests.failures ?? []) {
          failures.push({ name: `${name}: ${test}`, text });
        }
      }
    } catch (error) {
      if (error instanceof Skipped) {
        result = `skipped: ${error.message}`;
        counts = { passed: 0, failed: 0, skipped: 1 };
      } else {
        result = "FAILED";
        counts = { passed: 0, failed: 1, skipped: 0 };
        console.error(error instanceof Failure ? error.message : error);
        failures.push({ name, text: failureText(error) });
      }
    }
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    table.push({ name, result, counts, seconds });
  }
  console.log("\n=== summary");
  for (const { name, result, counts, seconds } of table) {
    const row = [name.padEnd(9), `${seconds} s`.padStart(8), countsLine(counts).padEnd(34), result];
    console.log(row.join("  "));
  }
  const total = sum(table.map(({ counts }) => counts));
  for (const line of recap(failures)) console.log(line);
  console.log(countsLine(total));
  return total.failed > 0 ? 1 : 0;
});
