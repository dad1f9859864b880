// SPDX-License-Identifier: Apache-2.0
//
// Counting: what a suite's report says passed, failed or was skipped, and sums of that. Reports
// are JUnit XML (bun, deno, ctest) or what Python's unittest prints.

import { existsSync, readFileSync } from "node:fs";

/** @typedef {{ passed: number, failed: number, skipped: number }} Counts */
/** @typedef {import("./recap.mjs").Failed} Failed */

/** @returns {Counts} */
export function zero() {
  return { passed: 0, failed: 0, skipped: 0 };
}

/** @param {Counts[]} all @returns {Counts} */
export function sum(all) {
  return all.reduce((total, { passed, failed, skipped }) => ({
    passed: total.passed + passed,
    failed: total.failed + failed,
    skipped: total.skipped + skipped,
  }), zero());
}

/** The line that programs read. @param {Counts} counts */
export function countsLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`;
}

/**
 * The test cases of a JUnit file, counted by their elements: runners disagree about what the
 * totals in the attributes of a suite mean.
 * @param {string} path
 * @returns {Counts & { failures: Failed[] }} with those that failed
 */
export function readJunit(path) {
  const result = { ...zero(), failures: /** @type {Failed[]} */ ([]) };
  if (!existsSync(path)) return result;
  // Test names and output are escaped, or in CDATA, which may hold anything.
  const xml = readFileSync(path, "utf8")
    .replace(
      /<!\[CDATA\[([\s\S]*?)\]\]>/g,
      (_, text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;"),
    );
  for (const [, attributes, body = ""] of xml.matchAll(TEST_CASE)) {
    if (/<(failure|error)\b/.test(body) || /\bstatus="fail"/.test(attributes)) {
      result.failed++;
      const name = unescape(/\bname="([^"]*)"/.exec(attributes)?.[1] ?? "?");
      result.failures.push({ name, text: failureText(body) });
    } else if (/<skipped\b/.test(body) || /\bstatus="(notrun|disabled)"/.test(attributes)) {
      result.skipped++;
    } else result.passed++;
  }
  return result;
}

/**
 * What a test case says of its failure: the failure's own text, or where there is none, as in ctest's
 * reports, what the test printed, without the tests of a program that went well.
 * @param {string} body of the element
 */
function failureText(body) {
  const [, attributes = "", own = ""] =
    /<(?:failure|error)\b((?:"[^"]*"|[^">])*?)(?:\/>|>([\s\S]*?)<\/(?:failure|error)>)/.exec(
      body,
    ) ?? [];
  const message = /\bmessage="([^"]*)"/.exec(attributes)?.[1] ?? "";
  const text = unescape(own.trim() === "" ? message : own);
  if (text.trim() !== "") return text;
  const [, printed = ""] = /<system-out>([\s\S]*?)<\/system-out>/.exec(body) ?? [];
  return unescape(printed).trimEnd().split("\n").filter((line) => !/^(ok|skip) /.test(line))
    .join("\n");
}

/** @param {string} text XML */
function unescape(text) {
  const named = /** @type {Record<string, string>} */ ({ lt: "<", gt: ">", quot: '"', apos: "'" });
  return text.replace(/&(lt|gt|quot|apos);/g, (_, name) => named[name])
    .replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code))).replaceAll("&amp;", "&");
}

const TEST_CASE = /<testcase\b((?:"[^"]*"|[^">])*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g;

/**
 * What `python3 -m unittest` printed, e.g. "Ran 7 tests in 1.2s ... FAILED (errors=1, skipped=2)".
 * @param {string} text
 * @returns {Counts & { failures: Failed[] }}
 */
export function unittestCounts(text) {
  const ran = Number(/^Ran (\d+) tests? in /m.exec(text)?.[1] ?? 0);
  const last = text.trimEnd().split("\n").at(-1) ?? "";
  const number = (/** @type {string} */ name) =>
    Number(new RegExp(`\\b${name}=(\\d+)`).exec(last)?.[1] ?? 0);
  const failed = number("failures") + number("errors") + number("unexpected successes");
  const skipped = number("skipped");
  const failures = [...text.matchAll(/^(?:ERROR|FAIL): (.*)\n-{70}\n([\s\S]*?)\n(?=[=-]{70}\n)/gm)]
    .map(([, name, said]) => ({ name, text: said }));
  return { passed: Math.max(ran - failed - skipped, 0), failed, skipped, failures };
}
