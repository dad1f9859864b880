// SPDX-License-Identifier: Apache-2.0
//
// The help of the command and of its subcommands, from their descriptions, as wide as the terminal.

import {
  type CommandDescription,
  type CommandGroup,
  COMMON_STATUS,
  type OptionDescription,
  optionsOf,
} from "./description.ts";

const MAX_COLUMNS = 100;
/** In less than this, what explains a term stands below it. */
const NARROW_COLUMNS = 60;
const TERM_CELLS = 24;

/** Lines of at most `columns`, broken between words. A longer word has a line of its own. */
export function wrap(text: string, columns: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  lines.push(line);
  return lines;
}

/** "-h, --help", "--size SIZE". */
export function optionTerm({ name, short, value }: OptionDescription): string {
  return `${short === undefined ? "" : `-${short}, `}--${name}${
    value === undefined ? "" : ` ${value}`
  }`;
}

/** Terms to the left, what they mean to the right, or below where that does not fit. */
function definitions(pairs: readonly (readonly [string, string])[], columns: number): string[] {
  const widest = Math.max(...pairs.map(([term]) => term.length));
  const cells = Math.min(widest, TERM_CELLS);
  const narrow = columns < NARROW_COLUMNS;
  const indent = " ".repeat(narrow ? 6 : cells + 4);
  return pairs.flatMap(([term, meaning]) => {
    const [first = "", ...rest] = wrap(meaning, columns - indent.length);
    const below = narrow || term.length > cells;
    return [
      ...(below ? [`  ${term}`, indent + first] : [`  ${term.padEnd(cells)}  ${first}`]),
      ...rest.map((line) => indent + line),
    ];
  });
}

function optionLines(description: CommandDescription, columns: number): string[] {
  const lines: string[] = [];
  let pairs: [string, string][] = [];
  let heading = "Options";
  const flush = () => {
    if (pairs.length > 0) lines.push("", `${heading}:`, ...definitions(pairs, columns));
    pairs = [];
  };
  for (const option of optionsOf(description)) {
    if (option.heading !== undefined) {
      flush();
      heading = option.heading;
    }
    pairs.push([optionTerm(option), option.text]);
  }
  flush();
  return lines;
}

/** Of all exit statuses of a command. */
export function statusPairs({ status }: CommandDescription): [string, string][] {
  return Object.entries({ ...status, ...COMMON_STATUS });
}

/** What the JSON of a command is, in a sentence. */
export function jsonSentence({ json }: CommandDescription): string {
  return json?.form === "lines"
    ? "One JSON object a line, with these members:"
    : "One JSON object with these members, or with ok (false) and error:";
}

/** What `lmshm COMMAND --help` prints. */
export function commandHelp(description: CommandDescription, width: number): string {
  const columns = Math.min(width, MAX_COLUMNS);
  const { name, usage, about, examples, json } = description;
  const [first = "", ...rest] = wrap(`Usage: lmshm ${name} ${usage}`.trimEnd(), columns - 4);
  return [
    first,
    ...rest.map((line) => `    ${line}`),
    ...about.flatMap((paragraph) => ["", ...wrap(paragraph, columns)]),
    ...optionLines(description, columns),
    "",
    "Examples:",
    ...examples.flatMap(({ run, does }) => [
      ...wrap(does, columns - 2).map((line) => `  ${line}`),
      `    $ ${run}`,
    ]),
    "",
    "Exit status:",
    ...definitions(statusPairs(description), columns),
    ...(json === undefined ? [] : [
      "",
      "With --json:",
      ...wrap(jsonSentence(description), columns - 2).map((line) => `  ${line}`),
      ...definitions(Object.entries(json.members), columns),
    ]),
  ].join("\n");
}

/** What `lmshm --help` prints, or `lmshm shm --help` for the commands of that name. */
export function overviewHelp(
  groups: readonly CommandGroup[],
  about: string,
  usage: string,
  width: number,
): string {
  const columns = Math.min(width, MAX_COLUMNS);
  return [
    usage,
    "",
    ...wrap(about, columns),
    ...groups.flatMap(({ heading, commands }) => [
      "",
      `${heading}:`,
      ...definitions(commands.map(({ name, summary }) => [name, summary]), columns),
    ]),
    "",
    ...wrap(
      "lmshm COMMAND --help tells the options of a command, with examples; lmshm --version the " +
        "version.",
      columns,
    ),
  ].join("\n");
}
