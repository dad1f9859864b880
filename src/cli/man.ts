// SPDX-License-Identifier: Apache-2.0
//
// lmshm man: the manual page, made from the descriptions of the commands, in the man macros of roff.

import { version } from "../version.ts";
import { readArguments } from "./arguments.ts";
import type { Command } from "./command.ts";
import { GROUPS } from "./commands.ts";
import { type CommandDescription, optionsOf } from "./description.ts";
import { MAN } from "./descriptions/own.ts";
import { jsonSentence, optionTerm, statusPairs } from "./help.ts";
import { print } from "./terminal.ts";

/** As text: nothing in it is a request or an escape, and hyphens can be copied. */
function roff(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("'", "\\(aq")
    .replaceAll("`", "\\(ga").replaceAll("^", "\\(ha").replaceAll("~", "\\(ti")
    .replace(/^\./, "\\&.");
}

function term(name: string, meaning: string): string[] {
  return [".TP", `.B ${roff(name)}`, roff(meaning)];
}

function commandLines(description: CommandDescription): string[] {
  const { name, usage, about, examples, json } = description;
  const lines = [
    `.SS ${roff(`lmshm ${name}`)}`,
    `.B ${roff(`lmshm ${name}`)}`,
    ...(usage === "" ? [] : [roff(usage)]),
  ];
  for (const paragraph of about) lines.push(".PP", roff(paragraph));
  for (const option of optionsOf(description)) {
    if (option.heading !== undefined) lines.push(".PP", `${roff(option.heading)}:`);
    lines.push(...term(optionTerm(option), option.text));
  }
  lines.push(".PP", "Examples:");
  for (const { run, does } of examples) {
    lines.push(".PP", roff(does), ".PP", ".RS 4", ".nf", `$ ${roff(run)}`, ".fi", ".RE");
  }
  lines.push(".PP", "Exit status:");
  for (const [status, meaning] of statusPairs(description)) lines.push(...term(status, meaning));
  if (json !== undefined) {
    lines.push(".PP", roff(`With --json: ${jsonSentence(description)}`));
    for (const [member, meaning] of Object.entries(json.members)) {
      lines.push(...term(member, meaning));
    }
  }
  return lines;
}

/** @returns the page. */
export function manualPage(): string {
  return [
    `.TH LMSHM 1 "" "lmshm ${version}" "User Commands"`,
    ".SH NAME",
    "lmshm \\- pinned shared memory, and a worker that moves it to storage and back",
    ".SH SYNOPSIS",
    ".B lmshm",
    ".I COMMAND",
    "[OPTION]...",
    ".SH DESCRIPTION",
    roff(
      'What an operator does with lmshm at a terminal. An operand "-" is stdin or stdout; options ' +
        "may stand before and after operands.",
    ),
    ...GROUPS.flatMap(({ heading, commands }) => [
      `.SH ${roff(heading.toUpperCase())}`,
      ...commands.flatMap(commandLines),
    ]),
    ".SH ENVIRONMENT",
    ...term("LMSHM_LIBRARY", "liblmshm.so to use instead of the one that comes with this command"),
    ...term("LMSHM_WORKER", "lmshm-worker to use likewise"),
    ...term("LMSHM_SECRET", "the secret of TCP workers, where no file is given"),
    ...term("LMSHM_STORE_SECRET", "the password of Redis or Valkey, where no file is given"),
    ...term(
      "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
      "the login of S3, likewise",
    ),
    ...term("LMSHM_GPU_LIBRARY", "the GPU runtime to use instead of the search"),
    ...term("LMSHM_GPU_DEVICE", "the GPU to use"),
    ...term("LMSHM_DEBUG", "if set, stacks of errors are shown"),
    ".SH SEE ALSO",
    ".BR shm_overview (7)",
  ].join("\n");
}

export const man: Command = {
  run(args) {
    readArguments(MAN, args);
    print(manualPage());
    return Promise.resolve(0);
  },
};
