// SPDX-License-Identifier: Apache-2.0
//
// Writes docs/benchmarks.md: all of it comes from stored results, so that no number is in it that
// was not measured. One result for each runtime; charts lie beside the results.

import { losses } from "./compare.ts";
import { drawChart, type Panel } from "./chart.ts";
import { describeEnvironment } from "./environment.ts";
import type { RunResult, Section } from "./results.ts";
import { formatNumber, spread, unitName } from "./statistics.ts";
import { cellsOf, toMarkdown } from "./text_table.ts";

const NAMES: Readonly<Record<string, string>> = { bun: "Bun", deno: "Deno" };

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
    const { limit, unit } = reached.find((aim) => aim !== undefined)!;
    const cells = reached.map((aim) =>
      aim ? `${formatNumber(aim.got)}${aim.got <= aim.limit ? "" : ", missed"}` : ""
    );
    return [name, `at most ${limit}${unit && ` ${unitName(unit)}`}`, ...cells];
  });
  return toMarkdown({ head: ["", "aim", ...results.map(nameOf)], rows });
}

/** One line for each group of each table that has a loss. */
function lossLines(results: readonly RunResult[]): string[] {
  const lines = new Map<string, string[]>();
  for (const result of results) {
    const tables = Object.values(result.sections).flatMap((section) => section.tables);
    for (const { table, row, ratios } of losses(tables)) {
      const ours = table.compare!.baselineIsOurs;
      const against = ours ? "of ours" : `of ${table.compare!.baseline}`;
      const group = row.group ? `, ${row.group}` : "";
      const where = `${nameOf(result)}, ${table.title}${group} (${against})`;
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

/**
 * @param results one for each runtime, at least one
 * @param folder where the charts will lie, relative to the document
 */
export function writeDocument(results: readonly RunResult[], folder: string): Document {
  const sorted = [...results].sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  const names = [...new Set(sorted.flatMap(({ sections }) => Object.keys(sections)))];
  const charts = new Map<string, string>();
  const texts = names.map((name) => {
    const svg = drawChart(name, panelsOf(sorted, name));
    if (svg) charts.set(`${name}.svg`, svg);
    return sectionText(name, sorted, svg ? `${folder}/${name}.svg` : null);
  });
  const aims = aimTable(sorted);
  const lost = lossLines(sorted);
  const quick = sorted.some((result) => result.quick)
    ? "\n\n**These are from a quick run: fewer rounds and smaller sizes than a full one.**"
    : "";
  const head = `# Benchmarks

Written by \`npm run bench -- --write docs/benchmarks.md\`; do not edit. The raw samples lie in
[${folder}/](${folder}/). \`npm run bench -- --help\` tells how to run a part.

How it is measured: contenders take turns within one run, and each round begins with another one; a
first round warms up and is not counted; the bytes are compared after every sample, outside of what
is timed. Numbers are medians with the lowest and the highest sample in brackets; ratios are taken
round by round. CPU time is that of all threads, user and system, by the kernel's clock of each
process; what kernel threads do later is not in it. Nothing is on disk when a write is answered
(no fsync), unless a column says so. MB and GB are decimal, MiB and GiB binary.${quick}

## Environment

${environmentTable(sorted)}

${aims === null ? "" : `## Aims\n\n${aims}\n\n`}## Where this project loses

${
    lost.length > 0
      ? "Here another way was better in every round; the numbers are the medians of the tables' last " +
        `columns. Blocking calls and the bare C program take part.\n\n${lost.join("\n")}`
      : "In no comparison of this run did another way win every round."
  }`;
  return { markdown: [head, ...texts, ""].join("\n\n").replace(/\n+$/, "\n"), charts };
}
