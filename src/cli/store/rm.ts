// SPDX-License-Identifier: Apache-2.0
//
// lmshm rm: removes objects from a store, those that a pattern finds many with one request.

import { readArguments } from "../arguments.ts";
import { type Command, integerOption, UsageError } from "../command.ts";
import { RM } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { mustExist, parseStore } from "./address.ts";
import { batchesOf, type Found, keysOf, patternsOf } from "./keys.ts";
import { type Done, Missing, reportedCommand } from "./report.ts";
import { withLogin } from "./login.ts";
import { StoreSession } from "./session.ts";
import { printAndWait } from "../terminal.ts";

/** With S3 a request for one key takes a while: between two batches somebody wants to see progress. */
const BATCH_KEYS = 128;

export const rm: Command = {
  run(args) {
    const { values, operands: [where, ...keys] } = readArguments(RM, args);
    const store = withLogin(parseStore(where), values["store-secret-file"]);
    if (keys.length === 0) throw new UsageError("rm needs a KEY, or a pattern such as 'run7/*'");
    const { literal, json, "dry-run": dryRun } = values;
    const patterns = patternsOf(keys, literal);
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    return reportedCommand(json, dryRun ? "would remove" : "removed", async (report, signal) => {
      await mustExist(store);
      await using session = await StoreSession.open([store], {
        secretFile: values["secret-file"],
        signal,
      });
      const [ask] = session.ask;
      const nothing: string[] = [];
      const one = async (key: string, listed: boolean): Promise<Done> => {
        const there = dryRun
          ? listed || await ask!.exists(key, { signal })
          : await ask!.remove(key, { signal });
        // What somebody else removed since it was listed is gone, as was wished.
        if (!there && !listed) throw new Missing("there is no such object");
        if (dryRun && !json) await printAndWait([key]);
        return { removed: there && !dryRun };
      };
      const found = keysOf(ask!, patterns, signal, ({ text }) => nothing.push(text));
      await inLanes(batchesOf(found, BATCH_KEYS), inFlight, async (batch) => {
        const [{ key, listed }] = batch as [Found];
        if (!listed) return await report.object(key, signal, () => one(key, false));
        const keys = batch.map(({ key }) => key);
        const together = async () => {
          if (dryRun) return await Promise.all(keys.map((key) => one(key, true)));
          const flags = await ask!.batchedRemove(keys, { signal });
          return flags.map((removed) => ({ removed }));
        };
        await report.objects(keys, signal, together, (key) => one(key, true));
      });
      for (const text of nothing) await report.fail(text, new Missing("nothing matches"));
    });
  },
};
