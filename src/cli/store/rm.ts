// SPDX-License-Identifier: Apache-2.0
//
// lmshm rm: removes objects from a store.

import { readArguments } from "../arguments.ts";
import { type Command, integerOption, UsageError } from "../command.ts";
import { RM } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { mustExist, parseStore } from "./address.ts";
import { keysOf, patternsOf } from "./keys.ts";
import { Missing, reportedCommand } from "./report.ts";
import { StoreSession } from "./session.ts";
import { printAndWait } from "../terminal.ts";

export const rm: Command = {
  run(args) {
    const { values, operands: [where, ...keys] } = readArguments(RM, args);
    const store = parseStore(where);
    if (keys.length === 0) throw new UsageError("rm needs a KEY, or a pattern such as 'run7/*'");
    const { literal, json, "dry-run": dryRun } = values;
    const patterns = patternsOf(keys, literal);
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    return reportedCommand(json, dryRun ? "would remove" : "removed", async (report, signal) => {
      await mustExist(store);
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        storeSecretFile: values["store-secret-file"],
        signal,
      });
      const [ask] = session.ask;
      const nothing: string[] = [];
      const found = keysOf(ask!, patterns, signal, ({ text }) => nothing.push(text));
      await inLanes(found, inFlight, ({ key, listed }) =>
        report.object(key, signal, async () => {
          const there = dryRun
            ? await ask!.exists(key, { signal })
            : await ask!.remove(key, { signal });
          // What somebody else removed since it was listed is gone, as was wished.
          if (!there && !listed) throw new Missing("there is no such object");
          if (dryRun && !json) await printAndWait([key]);
          return { removed: there && !dryRun };
        }));
      for (const text of nothing) await report.fail(text, new Missing("nothing matches"));
    });
  },
};
