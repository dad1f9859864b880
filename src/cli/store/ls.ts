// SPDX-License-Identifier: Apache-2.0
//
// lmshm ls: the keys of a store, page by page as the store gives them.

import type { ObjectStat } from "../../mod.ts";
import { readArguments } from "../arguments.ts";
import { type Command, UsageError } from "../command.ts";
import { LS } from "../descriptions/store.ts";
import { formatBytes } from "../format.ts";
import { keyPattern } from "./pattern.ts";
import { mustExist, parseStore } from "./address.ts";
import { type Found, keysOf, pagesOf, patternsOf } from "./keys.ts";
import { Missing, reportedCommand } from "./report.ts";
import { withLogin } from "./login.ts";
import { StoreSession } from "./session.ts";
import { outputHasFailed, printAndWait, shortened, terminalColumns } from "../terminal.ts";

const PAGE_KEYS = 256;
const LANES = 16;

/** "2026-11-30 12:00", UTC; 0: the store does not know. */
function timeText(ms: number): string {
  if (ms === 0) return "-".padEnd("2026-11-30 12:00".length);
  return new Date(ms).toISOString().slice(0, 16).replace("T", " ");
}

function longLine(key: string, { byteLength, mtimeMs }: ObjectStat): string {
  const facts = `${formatBytes(byteLength).padStart(7)}  ${timeText(mtimeMs)}  `;
  const columns = terminalColumns();
  return facts + (columns === null ? key : shortened(key, Math.max(8, columns - facts.length)));
}

export const ls: Command = {
  run(args) {
    const { values, operands: [where, ...keys] } = readArguments(LS, args);
    const store = withLogin(parseStore(where), values["store-secret-file"]);
    const { long, literal, json } = values;
    if (keys.includes("")) throw new UsageError("a KEY is empty; leave it out to list all");
    const patterns = keys.length === 0 ? [keyPattern("*")] : patternsOf(keys, literal);
    return reportedCommand(json, null, async (report, signal) => {
      await mustExist(store);
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        signal,
      });
      const [ask] = session.ask;
      const nothing: string[] = [];
      const look = async ({ key, listed }: Found) => {
        if (!long && listed) return { key, there: true, found: null };
        if (!long) return { key, there: await ask!.exists(key, { signal }), found: null };
        const found = await ask!.stat(key, { signal });
        return { key, there: found !== null, found, listed };
      };
      const found = keysOf(ask!, patterns, signal, ({ text }) => nothing.push(text));
      for await (const page of pagesOf(found, PAGE_KEYS, LANES, look)) {
        for (const { key, there, listed } of page) {
          // What was removed since it was listed was not there.
          if (!there && !listed) await report.fail(key, new Missing("there is no such object"));
        }
        await printAndWait(
          page.filter(({ there }) => there).map(({ key, found }) =>
            json
              ? JSON.stringify({ key, ok: true, ...found })
              : found === null
              ? key
              : longLine(key, found)
          ),
        );
        if (outputHasFailed()) return;
      }
      for (const text of keys.length === 0 ? [] : nothing) {
        await report.fail(text, new Missing("nothing matches"));
      }
    });
  },
};
