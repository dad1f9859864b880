// SPDX-License-Identifier: Apache-2.0
//
// What a subcommand is, as data: its options, examples, exit statuses and the form of its JSON. Help,
// completion, the man page and the reading of arguments are all made from this one description.

export interface OptionDescription {
  /** Without the dashes. */
  readonly name: string;
  /** One letter. */
  readonly short?: string;
  /** What stands for its value, such as "DIR"; an option without is a switch. */
  readonly value?: string;
  /** It may be given several times. */
  readonly repeat?: true;
  /** The values that there are. */
  readonly choices?: readonly string[];
  /** What a shell should complete. */
  readonly completes?: "file" | "directory";
  readonly text: string;
  /** Begins a group of options in the help, with this heading. */
  readonly heading?: string;
}

export interface Example {
  readonly run: string;
  readonly does: string;
}

export interface CommandDescription {
  /** One word, or two: "shm ls". */
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** What follows the name in the usage line. */
  readonly usage: string;
  /** Operands are taken; and what a shell should complete in their place. */
  readonly operands?: "any" | "file" | readonly string[];
  /** Paragraphs. */
  readonly about: readonly string[];
  readonly options: readonly OptionDescription[];
  readonly examples: readonly Example[];
  /** What each exit status means; 2 and 130 mean the same everywhere. */
  readonly status: Readonly<Record<number, string>>;
  /** What --json prints: one object, or one a line; and its members. */
  readonly json?: {
    readonly form: "object" | "lines";
    readonly members: Readonly<Record<string, string>>;
  };
}

export interface CommandGroup {
  readonly heading: string;
  readonly commands: readonly CommandDescription[];
}

/** What every command has beside its own. */
const HELP_OPTION: OptionDescription = {
  name: "help",
  short: "h",
  text: "this text",
};

export const JSON_OPTION = {
  name: "json",
  text: "JSON on stdout instead of text; its form is told below",
} as const satisfies OptionDescription;

/** The statuses that mean the same in every command. */
export const COMMON_STATUS: Readonly<Record<number, string>> = {
  2: "the command line is wrong",
  130: "interrupted",
};

/** All options of a command, those included that all have. */
export function optionsOf({ options }: CommandDescription): readonly OptionDescription[] {
  return [...options, HELP_OPTION];
}

type ValueOf<O> = O extends { readonly value: string }
  ? O extends { readonly repeat: true } ? string[] | undefined : string | undefined
  : boolean;

/** What an option of a description gives: a switch a boolean, others what was said, if it was. */
export type ValuesOf<D extends { readonly options: readonly OptionDescription[] }> = {
  readonly [O in D["options"][number] as O["name"]]: ValueOf<O>;
};
