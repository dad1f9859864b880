// SPDX-License-Identifier: Apache-2.0
//
// What failed, said once more at the end: a record of a long run often shows no more than that.
import { Buffer } from "node:buffer";

/**
 * @typedef {object} Failed
 * @property {string} name of a test or a step, with its suite before it: "bun: puts are atomic"
 * @property {string} text what it said; empty: nothing
 */

/** Begins the block; .ci/run looks for it. */
const TITLE = "=== failed";
/** Of one failure: an assertion says it in its first lines, and where it was in its last. */
const HEAD_LINES = 15;
const TAIL_LINES = 5;
/** That are told with their text; of the others the names must do. */
const MOST_TEXTS = 20;
/** Of each stack in a sanitizer's report. */
const MOST_FRAMES = 5;

/** @param {Failed} failure @returns {string[]} */
function linesOf({ text }) {
  // deno-lint-ignore no-control-regex
  const lines = reportFirst(text.replace(/\x1b\[[0-9;]*m/g, "").trimEnd().split("\n"))
    .map((line) => line.trimEnd().slice(0, 400));
  const cut = lines.length - HEAD_LINES - TAIL_LINES;
  return cut <= 0
    ? lines
    : [...lines.slice(0, HEAD_LINES), `... ${cut} lines ...`, ...lines.slice(-TAIL_LINES)];
}

/**
 * A sanitizer's report comes before all else that a test printed, and of its stacks only what is in
 * the project's sources: what else failed followed from it.
 * @param {string[]} lines
 * @returns {string[]}
 */
function reportFirst(lines) {
  const begin = lines.findIndex((line) =>
    /(?:WARNING|ERROR): \w+Sanitizer: |: runtime error: /.test(line)
  );
  if (begin === -1) return lines;
  const summary = lines.findIndex((line, i) => i > begin && line.startsWith("SUMMARY: "));
  const end = summary === -1 ? lines.length : summary + 1;
  let frames = 0;
  const report = lines.slice(begin, end).flatMap((line) => {
    if (/^[\s=]*$/.test(line)) return [];
    if (!/^\s+#\d/.test(line)) {
      frames = 0;
      return [line];
    }
    const [, number, name, place] =
      /^\s+(#\d+) (?:0x[\da-f]+ in )?(.*?) (?:\S*\/)?((?:csrc|tests)\/\S+?:\d+)/.exec(line) ?? [];
    if (place === undefined || ++frames > MOST_FRAMES) return [];
    return [`    ${number} ${name.replace(/(?<!operator)\(.*|<.*/, "")} ${place}`];
  });
  return [...report, ...lines.slice(0, begin), ...lines.slice(end)];
}

/**
 * The block that goes before the last line; nothing where nothing failed.
 * @param {Failed[]} failures
 * @returns {string[]} lines
 */
export function recap(failures) {
  if (failures.length === 0) return [];
  return [
    TITLE,
    ...failures.flatMap((failure, index) => {
      const told = index < MOST_TEXTS && failure.text.trim() !== "";
      return [failure.name, ...(told ? linesOf(failure).map((line) => `    ${line}`) : [])];
    }),
  ];
}

/**
 * What a run of libFuzzer said of its failure, and the input: a record may be all that is left of
 * the machine. As long as a recap tells whole, for inputs of up to 4 KiB.
 * @param {string} log
 * @param {Uint8Array | undefined} input undefined: it wrote none
 * @returns {string}
 */
export function fuzzerSaid(log, input) {
  const lines = log.trimEnd().split("\n");
  const named = lines.findIndex((line) => /does not hold: |ERROR: |runtime error: /.test(line));
  if (named === -1) return lines.slice(-HEAD_LINES).join("\n");
  const base64 = input === undefined ? "" : Buffer.from(input).toString("base64");
  const end = [
    ...lines.slice(named + 1).filter((line) => line.startsWith("SUMMARY: ")).slice(0, 1),
    ...(input === undefined ? [] : [`the input, ${input.length} bytes in base64:`]),
    ...(base64.match(/.{1,400}/g) ?? []),
  ];
  const stack = lines.slice(named + 1).filter((line) =>
    /^\s+#\d+ .*\S+\.(cc|h|hh|c):\d+/.test(line)
  );
  const space = Math.max(HEAD_LINES + TAIL_LINES - 1 - end.length, 0);
  return [lines[named], ...stack.slice(0, space), ...end].join("\n");
}

/**
 * The failures of suites, each with its suite's name.
 * @param {{ suite: string, failures: Failed[] }[]} results
 * @returns {Failed[]}
 */
export function failuresOf(results) {
  return results.flatMap(({ suite, failures }) =>
    failures.map(({ name, text }) => ({ name: `${suite}: ${name}`, text }))
  );
}
