// SPDX-License-Identifier: Apache-2.0
//
// lmshm completion: scripts with which bash, zsh and fish complete commands and options, made from
// the descriptions of the commands.

import { version } from "../version.ts";
import { didYouMean, readArguments } from "./arguments.ts";
import { type Command, UsageError } from "./command.ts";
import { DESCRIPTIONS } from "./commands.ts";
import { type CommandDescription, type OptionDescription, optionsOf } from "./description.ts";
import { COMPLETION, SHELLS } from "./descriptions/own.ts";
import { print } from "./terminal.ts";

/** The first words of all commands. */
function firstWords(): string[] {
  return [...new Set(DESCRIPTIONS.map(({ name }) => name.split(" ")[0]!))];
}

/** The second words of a command that has such. */
function secondWords(first: string): string[] {
  return DESCRIPTIONS.flatMap(({ name }) => {
    const [one, two] = name.split(" ");
    return one === first && two !== undefined ? [two] : [];
  });
}

function flagsOf(description: CommandDescription): string[] {
  return optionsOf(description).flatMap(({ name, short }) =>
    short === undefined ? [`--${name}`] : [`--${name}`, `-${short}`]
  );
}

/** In single quotes, for every shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

// --- bash

function bashOption({ name, value, choices, completes }: OptionDescription): string[] {
  if (value === undefined) return [];
  const reply = choices
    ? `mapfile -t COMPREPLY < <(compgen -W ${quoted(choices.join(" "))} -- "$cur")`
    : completes === "directory"
    ? 'mapfile -t COMPREPLY < <(compgen -d -- "$cur")'
    : completes === "file"
    ? 'mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
    : "COMPREPLY=()";
  return [`        --${name}) ${reply}; return ;;`];
}

function bashCommand(description: CommandDescription): string[] {
  const { name, operands } = description;
  const words = typeof operands === "object" ? [...operands] : [];
  const values = description.options.flatMap(bashOption);
  return [
    `    ${quoted(name)})`,
    ...(values.length === 0 ? [] : [`      case $prev in`, ...values, "      esac"]),
    `      words=${quoted([...words, ...flagsOf(description)].join(" "))}`,
    ...(operands === "file" ? ["      files=yes"] : []),
    "      ;;",
  ];
}

/** @returns the script for bash. */
export function bashCompletion(): string {
  const nested = firstWords().filter((word) => secondWords(word).length > 0);
  return [
    `# bash completion of lmshm ${version}, made by: lmshm completion bash`,
    "_lmshm() {",
    "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' words='' files=''",
    "  COMPREPLY=()",
    "  if ((COMP_CWORD > 1)); then command=${COMP_WORDS[1]}; fi",
    ...nested.map((word) =>
      `  if [[ $command == ${word} ]] && ((COMP_CWORD > 2)); then command+=" \${COMP_WORDS[2]}"; fi`
    ),
    "  case $command in",
    `    '') words=${quoted([...firstWords(), "help", "--help", "--version"].join(" "))} ;;`,
    `    help) words=${quoted(firstWords().join(" "))} ;;`,
    ...nested.map((word) => `    ${word}) words=${quoted(secondWords(word).join(" "))} ;;`),
    ...DESCRIPTIONS.flatMap(bashCommand),
    "  esac",
    '  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")',
    "  if [[ $files && $cur != -* ]]; then",
    '    mapfile -t COMPREPLY < <(compgen -f -- "$cur")',
    "  fi",
    "}",
    "complete -o filenames -F _lmshm lmshm",
  ].join("\n");
}

// --- zsh

/** As an _arguments specification has it: no colon, no bracket. */
function zshText(text: string): string {
  return text.replaceAll(/[:[\]]/g, "\\$&");
}

function zshOption({ name, short, value, repeat, choices, completes, text }: OptionDescription) {
  const action = choices
    ? `(${choices.join(" ")})`
    : completes === "directory"
    ? "_files -/"
    : completes === "file"
    ? "_files"
    : " ";
  const rest = value === undefined ? "" : `:${zshText(value)}:${action}`;
  const many = repeat ? "*" : "";
  return [`--${name}`, ...(short === undefined ? [] : [`-${short}`])].map((flag) =>
    quoted(`${many}${flag}[${zshText(text)}]${rest}`)
  );
}

function zshCommand(description: CommandDescription): string[] {
  const { name, operands } = description;
  const specs = optionsOf(description).flatMap(zshOption);
  if (typeof operands === "object") specs.push(quoted(`*:operand:(${operands.join(" ")})`));
  else if (operands === "file") specs.push(quoted("*:file:_files"));
  return [
    `    ${quoted(name)})`,
    `      _arguments -s ${specs.join(" \\\n        ")}`,
    "      ;;",
  ];
}

function zshList(variable: string, pairs: readonly (readonly [string, string])[]): string[] {
  return [
    `  ${variable}=(`,
    ...pairs.map(([word, summary]) => `    ${quoted(`${word}:${summary.replaceAll(":", "\\:")}`)}`),
    "  )",
  ];
}

function summaryOf(first: string): string {
  const found = DESCRIPTIONS.filter(({ name }) => name.split(" ")[0] === first);
  return found.length === 1 ? found[0]!.summary : `${secondWords(first).join(", ")}`;
}

/** @returns the script for zsh. */
export function zshCompletion(): string {
  const nested = firstWords().filter((word) => secondWords(word).length > 0);
  return [
    "#compdef lmshm",
    `# zsh completion of lmshm ${version}, made by: lmshm completion zsh`,
    "_lmshm() {",
    "  local -a commands",
    "  local command",
    ...zshList("commands", [
      ...firstWords().map((word) => [word, summaryOf(word)] as const),
      ["help", "the help of a command"],
    ]),
    "  if ((CURRENT == 2)); then",
    "    _describe command commands",
    "    return",
    "  fi",
    '  command="${words[2]}"',
    ...nested.flatMap((word) => [
      `  if [[ $command == ${word} ]]; then`,
      "    if ((CURRENT == 3)); then",
      `      compadd ${secondWords(word).join(" ")}`,
      "      return",
      "    fi",
      '    command+=" ${words[3]}"',
      "    shift words",
      "    ((CURRENT--))",
      "  fi",
    ]),
    "  shift words",
    "  ((CURRENT--))",
    "  case $command in",
    `    help) compadd ${firstWords().join(" ")} ;;`,
    ...DESCRIPTIONS.flatMap(zshCommand),
    "  esac",
    "}",
    '_lmshm "$@"',
  ].join("\n");
}

// --- fish

function fishOption(condition: string, option: OptionDescription): string {
  const { name, short, value, choices, completes, text } = option;
  const takes = value === undefined
    ? ""
    : choices
    ? ` -x -a ${quoted(choices.join(" "))}`
    : completes === "directory"
    ? " -x -a '(__fish_complete_directories)'"
    : completes === "file"
    ? " -r -F"
    : " -x";
  const letter = short === undefined ? "" : ` -s ${short}`;
  return `complete -c lmshm -n ${condition} -l ${name}${letter}${takes} -d ${fishQuoted(text)}`;
}

function fishQuoted(text: string): string {
  return `'${text.replaceAll(/[\\']/g, "\\$&")}'`;
}

function fishCommand(description: CommandDescription): string[] {
  const { name, operands } = description;
  const words = name.split(" ");
  const seen = [
    ...words.map((word) => `__fish_seen_subcommand_from ${word}`),
    // "ls" alone is another command than "shm ls".
    ...firstWords().filter((word) => words.length === 1 && secondWords(word).includes(name))
      .map((word) => `not __fish_seen_subcommand_from ${word}`),
  ].join("; and ");
  const condition = fishQuoted(seen);
  return [
    ...(typeof operands === "object"
      ? [`complete -c lmshm -n ${condition} -a ${quoted(operands.join(" "))}`]
      : operands === "file"
      ? [`complete -c lmshm -n ${condition} -F`]
      : []),
    ...optionsOf(description).map((option) => fishOption(condition, option)),
  ];
}

/** @returns the script for fish. */
export function fishCompletion(): string {
  const nested = firstWords().filter((word) => secondWords(word).length > 0);
  return [
    `# fish completion of lmshm ${version}, made by: lmshm completion fish`,
    "complete -c lmshm -f",
    ...firstWords().map((word) =>
      `complete -c lmshm -n __fish_use_subcommand -a ${word} -d ${fishQuoted(summaryOf(word))}`
    ),
    ...nested.map((word) => {
      const seconds = secondWords(word).join(" ");
      const condition = `__fish_seen_subcommand_from ${word}; and ` +
        `not __fish_seen_subcommand_from ${seconds}`;
      return `complete -c lmshm -n ${fishQuoted(condition)} -a ${fishQuoted(seconds)}`;
    }),
    ...DESCRIPTIONS.flatMap(fishCommand),
  ].join("\n");
}

const SCRIPTS = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion };

export const completion: Command = {
  run(args) {
    const { operands: [shell, ...more] } = readArguments(COMPLETION, args);
    const known = SHELLS.find((one) => one === shell);
    if (known === undefined || more.length > 0) {
      const meant = shell === undefined ? "" : didYouMean(shell, SHELLS);
      throw new UsageError(`completion takes one of ${SHELLS.join(", ")}${meant}`);
    }
    print(SCRIPTS[known]());
    return Promise.resolve(0);
  },
};
