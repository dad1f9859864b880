// SPDX-License-Identifier: Apache-2.0
//
// All configurations in LMCache's source distribution, files and blocks of its documents: what of them
// loadConfig() accepts. LMSHM_LMCACHE_SOURCE names its directory, unpacked.
//
// Accepted must be whatever describes a store of ours, or none. Refused may be stores that nothing here
// speaks to, those of several directories, and what needs TLS, a sentinel or S3 Express, with a text that
// says what to write instead.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import console from "node:console";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { parseAllDocuments } from "yaml";
import { loadConfig } from "../../src/config/mod.ts";
import type { ConfigProblem } from "../../src/config/problems.ts";
import { ShmError } from "../../src/errors.ts";

const SOURCE = process.env["LMSHM_LMCACHE_SOURCE"] ?? "";
/** Why a configuration may be refused, by what the error says. The rest is a mistake of ours. */
const REASONS: readonly (readonly [RegExp, string])[] = [
  [/^remote_url .* has the scheme (\S+),/, "$1"],
  [/^remote_url .* is LMCache's own server, .* share a directory/, "lm://"],
  [/^remote_url .* names the connector/, "another connector"],
  [/several directories|is more than one place|a store here has one$/, "several stores"],
  [/lmshm\.remote_url: s3:\/\/[a-z0-9-]+\?endpoint=https:\/\/\S+layout=lmcache-s3/, "s3:// by TLS"],
  [/is of S3 Express/, "S3 Express"],
  [/lmshm\.remote_url: redis:\/\/MASTER/, "redis-sentinel://"],
  [/lmshm\.remote_url: redis:\/\/127\.0\.0\.1:PORT\?layout=payload/, "valkey:// by TLS"],
  [/unique/, "no YAML"],
];

/** What is indented below ".. code-block:: yaml", and between fences of Markdown. */
function blocksOf(path: string, text: string): string[] {
  if (path.endsWith(".md")) {
    return [...text.matchAll(/^( *)```ya?ml\n([\s\S]*?)^ *```/gm)].map(([, , block]) => block!);
  }
  return [...text.matchAll(/^( *)\.\. code-block:: *ya?ml\n((?:\1 +.*\n| *\n)+)/gm)].map(
    ([, , block]) => block!.replaceAll(/^ *:\w+:.*\n/gm, ""),
  );
}

function undented(block: string): string {
  const lines = block.split("\n").filter((line) => line.trim() !== "");
  const indent = Math.min(...lines.map((line) => line.search(/\S/)));
  return lines.map((line) => line.slice(indent)).join("\n");
}

/** With names where the documents have "<your host>" and "{REGION}". */
function filledIn(text: string): string {
  return text.replace(/^remote_url: *"(\w+):\/\/.*$/m, (line) =>
    line
      .replace(/, \.\.\. /, ", ")
      .replaceAll(/<[^>]*port[^>]*>/gi, "7001")
      .replaceAll(/<[^<>]*>|\{[^{}]*\}|\$\w+/g, "one"));
}

/** By where each is. A configuration is a mapping with a key of LMCache's. */
function configurations(): Map<string, string> {
  const found = new Map<string, string>();
  const source = readFileSync(join(SOURCE, "lmcache/v1/config.py"), "utf8");
  const keys = new Set([...source.matchAll(/^ {4}"([a-z_0-9]+)": \{/gm)].map(([, key]) => key!));
  keys.add("local_device");
  const add = (place: string, text: string) => {
    const documents = parseAllDocuments(text, { version: "1.1", uniqueKeys: false });
    const [document] = documents;
    if (documents.length !== 1 || !document || document.errors.length > 0) return;
    const value: unknown = document.toJS();
    if (typeof value !== "object" || value === null || Array.isArray(value)) return;
    const own = Object.keys(value);
    if (own.some((key) => ["apiVersion", "services", "steps"].includes(key))) return;
    if (own.some((key) => keys.has(key))) found.set(place, filledIn(text));
  };
  for (const path of readdirSync(SOURCE, { recursive: true, encoding: "utf8" })) {
    if (/\.ya?ml$/.test(path)) add(path, readFileSync(join(SOURCE, path), "utf8"));
    if (!/\.(rst|md)$/.test(path)) continue;
    const blocks = blocksOf(path, readFileSync(join(SOURCE, path), "utf8"));
    for (const [index, block] of blocks.entries()) add(`${path} #${index}`, undented(block));
  }
  return found;
}

test("configurations in LMCache's source distribution", {
  skip: SOURCE === "" && "LMSHM_LMCACHE_SOURCE names no unpacked source distribution of LMCache",
  timeout: 120_000,
}, () => {
  const found = configurations();
  assert.ok(found.size > 150, `${found.size} configurations`);
  const refused = new Map<string, number>();
  const wrong: string[] = [];
  for (const [place, text] of found) {
    try {
      loadConfig({ text, environment: null });
    } catch (error) {
      assert.ok(error instanceof ShmError && error.code === "ECONFIG", String(error));
      const problems = error.details["problems"] as readonly ConfigProblem[];
      for (const { message } of problems) {
        const reason = REASONS.find(([pattern]) => pattern.test(message));
        if (reason === undefined) {
          wrong.push(`${place}: ${message}`);
          continue;
        }
        const [pattern, name] = reason;
        const why = name.replace("$1", pattern.exec(message)?.[1] ?? "");
        refused.set(why, (refused.get(why) ?? 0) + 1);
      }
    }
  }
  assert.deepEqual(wrong, []);
  const total = [...refused.values()].reduce((sum, count) => sum + count, 0);
  console.log(`${found.size} configurations, ${found.size - total} accepted; refused:`);
  for (const [why, count] of refused) console.log(`  ${count} ${why}`);
});
