// SPDX-License-Identifier: Apache-2.0
//
// Writes docs/benchmarks.md: all of it comes from stored results, so that no number is in it that
// was not measured. One result for each runtime; charts lie beside the results.

import { describeLimit, describeResult } from "./aims.ts";
import { losses } from "./compare.ts";
import { drawChart, type Panel } from "./chart.ts";
import { describeEnvironment } from "./environment.ts";
import { drawOverview } from "./overview.ts";
import type { RunResult, Section } from "./results.ts";
import { formatNumber, spread } from "./statistics.ts";
import { cellsOf, toMarkdown } from "./text_table.ts";

const NAMES: Readonly<Record<string, string>> = { bun: "Bun", deno: "Deno" };

const AIMS = `\
What the project set itself, against other ways on the same machine in the same run. Medians of the
rounds' ratios or numbers, with the lowest and the highest round in brackets; where the aim is about
the worst, the worst of all rounds counts. "The best" of several ways and settings is the one with
the best median in this run.`;

const METHOD = `\
Contenders take turns within one run, and each round begins with another one; a first round warms up
and is not counted; the bytes are compared after every sample, outside of what is timed. Numbers are
medians with the lowest and the highest sample in brackets; ratios are taken round by round. CPU time
is that of all threads, user and system, by the kernel's clock of each process; what kernel threads
do later is not in it. Nothing is on disk when a write is answered (no fsync), unless a column says
so. MB and GB are decimal, MiB and GiB binary.

Two things would be measured instead of the contenders, and are kept out. Memory that a virtual
machine has returned to its host is up to thirty times dearer to touch than memory that was in use a
moment ago: so before objects are moved, as much is touched and freed as they need. And ext4 does not
use an inode again for a minute or more after its removal, and looks at each of those before it makes
another: so written files are emptied, not removed, and have new names every time.`;

const LOSSES = `\
Here another way was better in every round than the best of ours; the numbers are its share of ours,
medians of the tables' compared column. Blocking calls and the bare C program take part.`;

const NO_LOSSES = "In no comparison of this run did another way win every round.";

export interface Document {
  readonly markdown: string;
  /** File names and contents of the pictures. */
  readonly charts: ReadonlyMap<string, string>;
}

function nameOf({ environment }: RunResult): string {
  return NAMES[environment.runtime] ?? environment.runtime;
}

function environmentTable(results: readonly RunResult[]): string {
  const columns = results.map((result) => new Map(describeEnvironment(result.environment)));
  const names = [...columns[0]!.keys()];
  return toMarkdown({
    head: ["", ...results.map(nameOf)],
    rows: names.map((name) => [name, ...columns.map((column) => column.get(name) ?? "")]),
  }).replaceAll("---:", "---");
}

/** The tables of one title, one a runtime. */
function panelsOf(results: readonly RunResult[], section: string): Panel[] {
  const titles: string[] = [];
  for (const { sections } of results) {
    for (const { title } of sections[section]?.tables ?? []) {
      if (!titles.includes(title)) titles.push(title);
    }
  }
  return titles.flatMap((title) =>
    results.flatMap((result) => {
      const table = result.sections[section]?.tables.find((one) => one.title === title);
      return table ? [{ runtime: nameOf(result), table }] : [];
    })
  );
}

/** Each aim with what every runtime reached; null when there is none. */
function aimTable(results: readonly RunResult[]): string | null {
  const found = results.map(({ sections }) => Object.values(sections).flatMap(({ aims }) => aims));
  const names = [...new Set(found.flatMap((aims) => aims.map(({ what }) => what)))];
  if (names.length === 0) return null;
  const rows = names.map((name) => {
    const reached = found.map((aims) => aims.find(({ what }) => what === name));
    const one = reached.find((aim) => aim !== undefined)!;
    return [name, describeLimit(one), ...reached.map((aim) => aim ? describeResult(aim) : "")];
  });
  const head = ["", "aim", ...results.map(nameOf)];
  return toMarkdown({ head, rows }).replaceAll("---:", "---");
}

/** Which rows and columns each aim was taken from. */
function basisLines(results: readonly RunResult[]): string[] {
  const lines = new Map<string, Map<string, string[]>>();
  for (const result of results) {
    for (const { what, basis } of Object.values(result.sections).flatMap(({ aims }) => aims)) {
      if (basis === "") continue;
      const known = lines.get(what) ?? new Map<string, string[]>();
      known.set(basis, [...known.get(basis) ?? [], nameOf(result)]);
      lines.set(what, known);
    }
  }
  return [...lines].map(([what, known]) => {
    const alike = known.size === 1;
    const each = [...known].map(([basis, names]) =>
      alike ? basis : `${names.join(" and ")}: ${basis}`
    );
    return `- ${what}: ${each.join("; ")}`;
  });
}

/** One line for each group of each table that has a loss. */
function lossLines(results: readonly RunResult[]): string[] {
  const lines = new Map<string, string[]>();
  for (const result of results) {
    const tables = Object.values(result.sections).flatMap((section) => section.tables);
    for (const { table, row, against, ratios } of losses(tables)) {
      const group = row.group ? `, ${row.group}` : "";
      const where = `${nameOf(result)}, ${table.title}${group} (of ${against})`;
      const known = lines.get(where) ?? [];
      known.push(`${row.contender} ${formatNumber(spread(ratios).median)}`);
      lines.set(where, known);
    }
  }
  return [...lines].map(([where, who]) => `- ${where}: ${who.join(", ")}`);
}

function tableText({ runtime, table }: Panel): string {
  return `**${runtime}**\n\n${toMarkdown(cellsOf(table))}`;
}

function sectionText(
  name: string,
  results: readonly RunResult[],
  chartFile: string | null,
): string {
  const sections = results.flatMap((result) => {
    const section = result.sections[name];
    return section ? [{ result, section }] : [];
  });
  const first: Section = sections[0]!.section;
  const parts = [`## ${first.title}`, first.intro];
  if (chartFile !== null) parts.push(`![${first.title}, drawn](${chartFile})`);
  let title = "";
  for (const panel of panelsOf(results, name)) {
    if (panel.table.title !== title) {
      title = panel.table.title;
      parts.push(`### ${title}`, panel.table.conditions);
    }
    parts.push(tableText(panel));
  }
  const notes = sections.flatMap(({ result, section }) =>
    section.notes.map((note) => `- ${nameOf(result)}: ${note.replace(/\s*\n\s*/g, "; ")}`)
  );
  if (notes.length > 0) parts.push(notes.join("\n"));
  return parts.join("\n\n");
}

/** Another document with measurements: its file beside this one, and what it is about. */
export interface FurtherReading {
  readonly file: string;
  readonly about: string;
}

/**
 * @param results one for each runtime, at least one
 * @param folder where the charts will lie, relative to the document
 * @param further is named at the beginning
 */
export function writeDocument(
  results: readonly RunResult[],
  folder: string,
  further: readonly FurtherReading[] = [],
): Document {
  const sorted = [...results].sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  const names = [...new Set(sorted.flatMap(({ sections }) => Object.keys(sections)))];
  const charts = new Map<string, string>();
  const texts = names.map((name) => {
    const svg = drawChart(name, panelsOf(sorted, name));
    if (svg) charts.set(`${name}.svg`, svg);
    return sectionText(name, sorted, svg ? `${folder}/${name}.svg` : null);
  });
  const overview = drawOverview(sorted, nameOf);
  if (overview) charts.set("overview.svg", overview);
  const aims = aimTable(sorted);
  const basis = basisLines(sorted);
  const lost = lossLines(sorted);
  const quick = sorted.some((result) => result.quick)
    ? "\n\n**These are from a quick run: fewer rounds and smaller sizes than a full one.**"
    : "";
  const more = further.length === 0
    ? ""
    : `\n\nMeasured elsewhere:\n\n${
      further.map(({ file, about }) => `- [${file}](${file}): ${about}`).join("\n")
    }`;
  const head = `# Benchmarks

Written by \`npm run bench -- --write docs/benchmarks.md\`; do not edit. The raw samples lie in
[${folder}/](${folder}/). \`npm run bench -- --help\` tells how to run a part.${more}${quick}

${aims === null ? "" : `## Aims\n\n${AIMS}\n\n${aims}\n\n`}${
    basis.length === 0 ? "" : `What was held against what:\n\n${basis.join("\n")}\n\n`
  }## How it is measured

${METHOD}

## Environment

${environmentTable(sorted)}

## Where this project loses

${lost.length > 0 ? `${LOSSES}\n\n${lost.join("\n")}` : NO_LOSSES}`;
  return { markdown: [head, ...texts, ""].join("\n\n").replace(/\n+$/, "\n"), charts };
}
