// SPDX-License-Identifier: Apache-2.0
//
// lmshm doctor: prints what findings.ts makes of what facts.ts has seen.

import { runtime, version } from "../../mod.ts";
import { readArguments } from "../arguments.ts";
import { type Command, sizeOption } from "../command.ts";
import { DOCTOR } from "../descriptions/doctor.ts";
import { gatherFacts } from "./facts.ts";
import type { Finding } from "./finding.ts";
import { findingsOf, statusOf } from "./findings.ts";
import { wrap } from "../help.ts";
import { checkAddress } from "../store/address.ts";
import { print, printAndWait, terminalColumns } from "../terminal.ts";

const POOL_BYTES = 2 ** 30;
const LEVEL_CELLS = 9;

function lines({ level, what, follows, fix }: Finding, columns: number | null): string[] {
  const room = columns === null ? Infinity : Math.max(20, columns - LEVEL_CELLS);
  const indented = (first: string, text: string) =>
    wrap(text, room).map((line, index) => (index === 0 ? first : "").padEnd(LEVEL_CELLS) + line);
  return [
    ...indented(level, what),
    ...(follows === null ? [] : indented("", `-> ${follows}`)),
    // A command is not broken: it is copied.
    ...(fix === null ? [] : [" ".repeat(LEVEL_CELLS) + `fix: ${fix}`]),
  ];
}

export const doctor: Command = {
  async run(args) {
    const { values } = readArguments(DOCTOR, args);
    const address = values["worker-address"];
    if (address !== undefined) checkAddress(address);
    const poolBytes = sizeOption("pool-size", values["pool-size"]) ?? POOL_BYTES;
    const findings = findingsOf(
      await gatherFacts({
        version,
        directories: values["storage-dir"] ?? [],
        workerAddress: address,
        secretFile: values["secret-file"],
      }),
      poolBytes,
    );
    const status = statusOf(findings);
    if (values.json) {
      print(JSON.stringify({ ok: status === 0, version, runtime, findings }));
      return status;
    }
    const columns = terminalColumns();
    await printAndWait(findings.flatMap((finding) => lines(finding, columns)));
    const count = (level: string) => {
      const found = findings.filter((one) => one.level === level).length;
      return `${found} ${level}${found === 1 ? "" : "s"}`;
    };
    print("");
    print(
      status === 0
        ? "nothing is wrong"
        : [count("error"), count("warning"), count("note")].join(", "),
    );
    return status;
  },
};
