// SPDX-License-Identifier: Apache-2.0
//
// lmshm stat: what is known of objects without reading them.

import type { ObjectStat } from "../../mod.ts";
import { readArguments } from "../arguments.ts";
import { type Command, UsageError } from "../command.ts";
import { STAT } from "../descriptions/store.ts";
import { formatBytes } from "../format.ts";
import { mustExist, parseStore } from "./address.ts";
import { keysOf, pagesOf, patternsOf } from "./keys.ts";
import { Missing, reportedCommand } from "./report.ts";
import { withLogin } from "./login.ts";
import { StoreSession } from "./session.ts";
import { fitted } from "../prose.ts";
import { outputHasFailed, printAndWait } from "../terminal.ts";

const PAGE_KEYS = 64;
const LANES = 16;

function lines(key: string, found: ObjectStat): string[] {
  const { byteLength, mtimeMs, diskBytes, crc32c, metadata } = found;
  const kept = Object.entries(metadata).map(([name, text]) => `${name}=${text}`);
  return [
    `key       ${key}`,
    `size      ${byteLength} bytes (${formatBytes(byteLength)}), ${
      formatBytes(diskBytes)
    } on the disk`,
    `stored    ${mtimeMs === 0 ? "not known" : new Date(mtimeMs).toISOString()}`,
    `crc32c    ${crc32c === null ? "none is kept" : crc32c.toString(16).padStart(8, "0")}`,
    ...kept.map((text, index) => `${index === 0 ? "metadata" : ""}`.padEnd(10) + text),
  ];
}

export const stat: Command = {
  run(args) {
    const { values, operands: [where, ...keys] } = readArguments(STAT, args);
    const store = withLogin(parseStore(where), values["store-secret-file"]);
    if (keys.length === 0) throw new UsageError("stat needs a KEY, or a pattern such as '*'");
    const { literal, json } = values;
    const patterns = patternsOf(keys, literal);
    return reportedCommand(json, null, async (report, signal) => {
      await mustExist(store);
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        signal,
      });
      const [ask] = session.ask;
      const nothing: string[] = [];
      const found = keysOf(ask!, patterns, signal, ({ text }) => nothing.push(text));
      let first = true;
      const look = async ({ key }: { key: string }) =>
        [key, await ask!.stat(key, { signal })] as const;
      for await (const page of pagesOf(found, PAGE_KEYS, LANES, look)) {
        for (const [key, one] of page) {
          if (one === null) {
            await report.fail(key, new Missing("there is no such object"));
            continue;
          }
          const said = json ? [JSON.stringify({ key, ok: true, ...one })] : lines(key, one);
          const fit = json ? said : said.flatMap((line) => fitted(line));
          await printAndWait(first || json ? fit : ["", ...fit]);
          first = false;
        }
        if (outputHasFailed()) return;
      }
      for (const text of nothing) await report.fail(text, new Missing("nothing matches"));
    });
  },
};
