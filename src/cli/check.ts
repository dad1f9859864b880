// SPDX-License-Identifier: Apache-2.0
//
// lmshm check: tries out what a configuration describes, as LMCache's basic check does. Reading the
// options and printing; the work is in configuration_check.ts.

import process from "node:process";
import { runtime, version } from "../mod.ts";
import { type LmshmConfig, loadConfig } from "../config/mod.ts";
import { type Command, interruptible, parseOptions, sizeOption, UsageError } from "./command.ts";
import { type CheckStep, ConfigurationCheck } from "./configuration_check.ts";
import { formatBytes, formatRate, formatTime } from "./format.ts";
import { print, tableRow } from "./terminal.ts";

const WIDTHS = [24, 6, 7, 9, 9, 13];

const HELP = `Usage: lmshm check --config FILE [OPTION]...

Makes what the configuration describes (the pool, its worker, the storage directory), sends a few
chunks of the configured number of tokens through it, the last one half full, and compares every
byte: put, exists, list, get from the store and from the pool, metadata, remove. Says how the worker
really does it (protocol, I/O, durability). Removes what it made, also when it is interrupted (exit
status 130). Exit status 0 only if everything held.

A full storage directory with lmshm.max_storage_size gives up its oldest objects for the chunks.

Options:
  --config FILE      a YAML or JSON file in LMCache's spelling (default: $LMCACHE_CONFIG_FILE)
  --pool-size SIZE   a pool of this size instead of max_local_cpu_size
  --json             one JSON object on stdout instead of text
`;

interface Settings {
  file: string | undefined;
  poolBytes: number | undefined;
  json: boolean;
}

function settings(args: string[]): Settings {
  const { values } = parseOptions("check", args, {
    config: { type: "string" },
    "pool-size": { type: "string" },
    json: { type: "boolean", default: false },
  });
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
      config.storageDir === null
        ? "none"
        : (config.workerAddress ?? "started, over pipes") + requests(config)
    }`,
    `storage  ${config.storageDir ?? "none"}${
      config.maxBytes === null ? "" : `, at most ${formatBytes(config.maxBytes)}`
    }`,
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
  for (const notice of notices) say(`notice   ${notice}`);
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
    print(JSON.stringify({ version, runtime, file, notices, ...report }));
  }
  return report.ok;
}

export const check: Command = {
  help: HELP,
  run(args) {
    const given = settings(args);
    return interruptible(given.json, (signal) => checkWith(given, signal));
  },
};
