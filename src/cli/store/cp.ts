// SPDX-License-Identifier: Apache-2.0
//
// lmshm cp: objects of one store to another. They are loaded into memory, where the checksum is
// verified, and stored from there; no file is copied, so that both may be anywhere. What is there
// already is not copied again: same.ts says what is compared.

import type { Metadata, ShmFileConnector } from "../../mod.ts";
import { whatKeepsMetadata } from "../../worker/metadata_place.ts";
import { ShmError } from "../../errors.ts";
import { readArguments } from "../arguments.ts";
import { type Command, integerOption, sizeOption, UsageError } from "../command.ts";
import { CP } from "../descriptions/store.ts";
import { inLanes } from "../lanes.ts";
import { keyPattern } from "./pattern.ts";
import { isTcp, mustExist, parseStore } from "./address.ts";
import { keysOf, patternsOf } from "./keys.ts";
import { type Done, Missing, reportedCommand, type StoreReport } from "./report.ts";
import { withLogins } from "./login.ts";
import { layoutOf, lostNames, NO_CHECKSUM, sameness } from "./same.ts";
import { StoreSession } from "./session.ts";

const ATTEMPTS = 3;

async function copyObject(
  session: StoreSession,
  key: string,
  force: boolean,
  report: StoreReport,
  signal: AbortSignal,
): Promise<Done> {
  const [from, to] = session.ask as [ShmFileConnector, ShmFileConnector];
  const noteLost = (lost: readonly string[]) => {
    if (lost.length === 0) return {};
    const kept = whatKeepsMetadata(to.protocol, to.engine);
    report.note(`TO has no place for metadata (${lost.join(", ")}), the bytes go alone. ${kept}`);
    return { lost };
  };
  for (let attempt = 1;; attempt++) {
    const found = await session.of(0, from.stat(key, { signal }));
    if (found === null) throw new Missing("there is no such object");
    const { byteLength } = found;
    const there = force ? null : await session.of(1, to.stat(key, { signal }));
    const compared = there && sameness(found, there, to.keepsMetadata);
    if (there && compared) {
      if (!compared.includes("checksum")) report.note(NO_CHECKSUM);
      const lost = noteLost(lostNames(found, there, to.keepsMetadata));
      return { byteLength, skipped: true, compared, ...lost };
    }
    try {
      return await session.withRange(byteLength, async (range, [source, target]) => {
        const loaded = await session.of(0, source!.load(key, range, { signal }));
        if (loaded === null) throw new Missing("it is gone, or is not what was stored");
        const put = (metadata: Metadata) => {
          const some = Object.keys(metadata).length > 0;
          const options = { signal, ...(some ? { metadata } : {}) };
          return session.of(1, target!.put(key, loaded.range, options));
        };
        const metadata = to.keepsMetadata ? loaded.metadata : layoutOf(loaded.metadata);
        await put(metadata).catch((error) => {
          // LMCache's header has no place for a layout that is none of its own.
          const unfit = error instanceof ShmError && error.code === "EINVAL";
          if (to.keepsMetadata || !unfit || Object.keys(metadata).length === 0) throw error;
          return put({});
        });
        const any = !to.keepsMetadata && Object.keys(loaded.metadata).length > 0;
        const kept = any ? await session.of(1, to.stat(key, { signal })) : null;
        const lost = any ? noteLost(lostNames(loaded, kept, false)) : {};
        return { byteLength: loaded.range.byteLength, skipped: false, ...lost };
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
    const secretFile = values["to-secret-file"];
    const to = { ...parseStore(second, "TO"), secretFile };
    if (secretFile !== undefined && !isTcp(to)) {
      throw new UsageError(
        `--to-secret-file is for a worker at host:port, and TO is ${to.text}; a password of an ` +
          "engine is in --to-store-secret-file",
      );
    }
    const stores = withLogins(
      [parseStore(first, "FROM"), to],
      values["store-secret-file"],
      values["to-store-secret-file"],
    );
    const { literal, json, force } = values;
    if (stores[0].text === stores[1].text) throw new UsageError("FROM and TO are the same store");
    const patterns = keys.length === 0 ? [keyPattern("*")] : patternsOf(keys, literal);
    const inFlight = integerOption("in-flight", values["in-flight"] ?? "4", 1, 64);
    const memoryBytes = sizeOption("memory", values.memory);
    return reportedCommand(json, "copied", async (report, signal) => {
      await mustExist(stores[0]);
      await using session = await StoreSession.open(stores, {
        secretFile: values["secret-file"],
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        signal,
      });
      const nothing: string[] = [];
      const found = keysOf(session.ask[0]!, patterns, signal, ({ text }) => nothing.push(text));
      await inLanes(
        session.listed(0, found),
        inFlight,
        ({ key }) =>
          report.object(key, signal, () => copyObject(session, key, force, report, signal)),
      );
      for (const text of keys.length === 0 ? [] : nothing) {
        await report.fail(text, new Missing("nothing matches"));
      }
    });
  },
};
