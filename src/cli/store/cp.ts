// SPDX-License-Identifier: Apache-2.0
//
// lmshm cp: objects of one store to another. They are loaded into memory, where the checksum is
// verified, and stored from there; no file is copied, so that both may be anywhere.

import { isDeepStrictEqual } from "node:util";
import type { ObjectStat } from "../../mod.ts";
import { ShmError } from "../../errors.ts";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, sizeOption, UsageError } from "../command.ts";
import { CP } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { keyPattern } from "./pattern.ts";
import { mustExist, parseStore } from "./address.ts";
import { keysOf, patternsOf } from "./keys.ts";
import { type Done, Missing, reportedCommand } from "./report.ts";
import { StoreSession } from "./session.ts";

const ATTEMPTS = 3;

/** Whether both are known to have the same bytes, and the same metadata. */
function isSame(one: ObjectStat, other: ObjectStat | null): boolean {
  return other !== null && one.byteLength === other.byteLength && one.crc32c !== null &&
    one.crc32c === other.crc32c && isDeepStrictEqual({ ...one.metadata }, { ...other.metadata });
}

async function copyObject(
  session: StoreSession,
  key: string,
  force: boolean,
  signal: AbortSignal,
): Promise<Done> {
  const [from, to] = session.ask;
  for (let attempt = 1;; attempt++) {
    const found = await from!.stat(key, { signal });
    if (found === null) throw new Missing("there is no such object");
    const { byteLength } = found;
    if (!force && isSame(found, await to!.stat(key, { signal }))) {
      return { byteLength, skipped: true };
    }
    try {
      return await session.withRange(byteLength, async (range, [source, target]) => {
        const loaded = await source!.load(key, range, { signal });
        if (loaded === null) throw new Missing("it is gone, or is not what was stored");
        const keeps = target!.keepsMetadata && Object.keys(loaded.metadata).length > 0;
        await target!.put(key, loaded.range, {
          signal,
          ...(keeps ? { metadata: loaded.metadata } : {}),
        });
        return { byteLength: loaded.range.byteLength, skipped: false };
      });
    } catch (error) {
      const longer = error instanceof ShmError && error.code === "EMSGSIZE";
      if (!longer || attempt >= ATTEMPTS) throw error;
    }
  }
}

export const cp: Command = {
  run(args) {
    const { values, operands: [first, second, ...keys] } = readArguments(CP, args);
    const stores = [parseStore(first, "FROM"), parseStore(second, "TO")] as const;
    const { literal, json, force } = values;
    if (stores[0].text === stores[1].text) throw new UsageError("FROM and TO are the same store");
    const patterns = keys.length === 0 ? [keyPattern("*")] : patternsOf(keys, literal);
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    const memoryBytes = sizeOption("memory", values.memory);
    return reportedCommand(json, "copied", async (report, signal) => {
      await mustExist(stores[0]);
      await using session = await StoreSession.open(stores, {
        secretFile: values["secret-file"],
        storeSecretFile: values["store-secret-file"],
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        signal,
      });
      const nothing: string[] = [];
      const found = keysOf(session.ask[0]!, patterns, signal, ({ text }) => nothing.push(text));
      await inLanes(
        found,
        inFlight,
        ({ key }) => report.object(key, signal, () => copyObject(session, key, force, signal)),
      );
      for (const text of keys.length === 0 ? [] : nothing) {
        await report.fail(text, new Missing("nothing matches"));
      }
    });
  },
};
