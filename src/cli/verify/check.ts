// SPDX-License-Identifier: Apache-2.0
//
// lmshm check: tries out what a configuration describes, as LMCache's basic check does. Reading the
// options and printing; the work is in configuration_check.ts.

import process from "node:process";
import { runtime, version } from "../../mod.ts";
import { type LmshmConfig, loadConfig } from "../../config/mod.ts";
import { readArguments } from "../arguments.ts";
import { type Command, interruptible, sizeOption, UsageError } from "../command.ts";
import { CHECK } from "../descriptions/check.ts";
import { type CheckStep, ConfigurationCheck, storeOf } from "./configuration_check.ts";
import { formatBytes, formatRate, formatTime } from "../format.ts";
import { print, tableRow } from "../terminal.ts";

/** Of max_local_cpu_size. */
const DEFAULT_POOL_BYTES = 5 * 2 ** 30;
const WIDTHS = [24, 6, 7, 9, 9, 13];

interface Settings {
  file: string | undefined;
  poolBytes: number | undefined;
  json: boolean;
}

function settings(args: readonly string[]): Settings {
  const { values } = readArguments(CHECK, args);
  const file = values.config;
  if (file === "" || (file === undefined && !process.env.LMCACHE_CONFIG_FILE)) {
    throw new UsageError("check needs --config FILE; see lmshm check --help");
  }
  return { file, poolBytes: sizeOption("pool-size", values["pool-size"]), json: values.json };
}

function stepRow({ name, ok, objects, bytes, milliseconds }: CheckStep): string {
  return tableRow([
    name,
    ok === null ? "-" : ok ? "ok" : "FAILED",
    objects === 0 ? "" : `${objects}`,
    bytes === 0 ? "" : formatBytes(bytes),
    ok === null ? "" : formatTime(milliseconds),
    ok === null ? "" : formatRate(bytes, milliseconds),
  ], WIDTHS);
}

/** What the worker is asked for beyond the usual: ", io direct, durability full". */
function requests({ ioMode, durability, checksum }: LmshmConfig): string {
  const asked = [
    ioMode === "auto" ? "" : `, io ${ioMode}`,
    durability === "none" ? "" : `, durability ${durability}`,
    checksum ? "" : ", no checksums",
  ];
  return asked.join("");
}

function describe(config: LmshmConfig): string[] {
  return [
    `pool     ${config.shmName ?? "private"}, ${formatBytes(config.poolSizeBytes)}, ` +
    `${config.hotTier ? config.cachePolicy : "keeps nothing"}`,
    `worker   ${
      storeOf(config) === null
        ? "none"
        : (config.workerAddress ?? "started, over pipes") + requests(config)
    }`,
    `storage  ${storeOf(config) ?? "none"}${
      config.maxBytes === null ? "" : `, at most ${formatBytes(config.maxBytes)}`
    }`,
  ];
}

/** What nobody may have asked for is told before it is made and pinned. */
function defaultPool({ poolSizeBytes }: LmshmConfig): string[] {
  if (poolSizeBytes !== DEFAULT_POOL_BYTES) return [];
  return [
    `the pool takes ${formatBytes(poolSizeBytes)} of memory and pins it: LMCache's default where ` +
    "max_local_cpu_size is not said; --pool-size tries with less",
  ];
}

async function checkWith(given: Settings, signal: AbortSignal): Promise<boolean> {
  const say = (line: string) => given.json || print(line);
  const { config, notices, file } = loadConfig({
    ...(given.file === undefined ? {} : { file: given.file }),
    overrides: given.poolBytes === undefined ? {} : { poolSizeBytes: given.poolBytes },
  });
  say(`lmshm ${version} on ${runtime.name} ${runtime.version}, ${file}`);
  for (const line of describe(config)) say(line);
  const said = [...notices, ...defaultPool(config)];
  for (const notice of said) say(`notice   ${notice}`);
  say("");
  say(tableRow(["step", "result", "objects", "size", "time", "rate"], WIDTHS));
  const check = new ConfigurationCheck(config, signal, (step) => {
    say(stepRow(step));
    if (step.ok !== true) say(`  ${step.detail}`);
  });
  const report = await check.run();
  say("");
  for (const note of report.notes) say(`note     ${note}`);
  const untried = report.steps.filter(({ ok }) => ok === null).length;
  say(
    !report.ok
      ? "FAILED"
      : untried === 0
      ? "OK: everything held"
      : `OK: everything that could be tried held; ${untried} could not`,
  );
  if (given.json) {
    print(JSON.stringify({ version, runtime, file, notices: said, ...report }));
  }
  return report.ok;
}

export const check: Command = {
  run(args) {
    const given = settings(args);
    return interruptible(given.json, (signal) => checkWith(given, signal));
  },
};
