// SPDX-License-Identifier: Apache-2.0
//
// `npm run release`: everything that a release consists of, in dist/release/: the packages, the
// command as one executable for each platform, and their checksums. Only --publish publishes. What
// stands in the way of a release ends it at once, except with --dry-run, which goes on and tells all
// of it at the end.

import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { installDependencies } from "./common/dependencies.mjs";
import { makePackages } from "./common/package.mjs";
import { capture, Failure, must, root, runMain, say, selfCommand } from "./common/system.mjs";
import { hostPlatform, sha256, TARGETS } from "./common/targets.mjs";
import { projectVersion, versionProblems } from "./common/version.mjs";

/** @typedef {import("./common/targets.mjs").Platform} Platform */

const SUMS = "SHA256SUMS";
const NOTES = "NOTES.md";

const USAGE = `Usage: npm run release -- [--dry-run | --publish] [--host] [--repository URL]

Checks that the tree is clean, that HEAD is tagged with the version, that the version is the same
everywhere and that CHANGELOG.md has an entry with a date for it. Then packs, compiles and writes
checksums into dist/release/.
  --dry-run         goes on whatever the checks say; the exit status is 1 if they said anything
  --publish         publishes the packages to the registry that npm is configured for, with
                    provenance where npm can prove it; what is there already is left alone
  --host            only this machine's platform; cannot be published
  --repository URL  where the sources are, for package.json`;

function options() {
  try {
    const { values } = parseArgs({
      args: process.argv.slice(2),
      options: {
        "dry-run": { type: "boolean", default: false },
        publish: { type: "boolean", default: false },
        host: { type: "boolean", default: false },
        repository: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.publish && (values["dry-run"] || values.host)) {
      throw new Error("--publish takes neither --dry-run nor --host");
    }
    return values;
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

/** @param {string[]} args @returns {string} what git says; empty where it fails */
function git(...args) {
  return capture("git", args)?.trim() ?? "";
}

/**
 * The entry of CHANGELOG.md for a version: its heading's rest and its text; null without one.
 * @param {string} version
 */
function changelogEntry(version) {
  const text = readFileSync(join(root, "CHANGELOG.md"), "utf8");
  const entry = text.split(/^## /m).slice(1).find((one) => one.split(/\s/)[0] === version);
  if (entry === undefined) return null;
  const [heading, ...lines] = entry.split("\n");
  return { rest: heading.slice(version.length).trim(), text: lines.join("\n").trim() };
}

/** What stands in the way of a release, one line each. */
function obstacles() {
  const version = projectVersion();
  const problems = versionProblems();
  const changed = git("status", "--porcelain").split("\n").filter((line) => line !== "");
  if (changed.length > 0) problems.push(`${changed.length} files are not committed: ${changed[0]}`);
  if (!git("tag", "--points-at", "HEAD").split("\n").includes(`v${version}`)) {
    problems.push(`HEAD is not tagged v${version}`);
  }
  const entry = changelogEntry(version);
  if (entry === null || entry.text === "") problems.push(`CHANGELOG.md says nothing of ${version}`);
  else if (!/^\(\d{4}-\d\d-\d\d\)$/.test(entry.rest)) {
    problems.push(`CHANGELOG.md has no date for ${version}: "## ${version} ${entry.rest}"`);
  }
  return problems;
}

/**
 * The command as an executable, for each platform.
 * @param {Platform[]} platforms
 * @param {string} folder
 */
async function compile(platforms, folder) {
  const chosen = platforms.flatMap((platform) => ["--platform", platform]);
  const [command, args] = selfCommand([join(root, "scripts", "compile.mjs"), ...chosen]);
  await must("compiling", command, args);
  for (const platform of platforms) {
    const made = platform === hostPlatform() ? "lmshm" : `lmshm-${platform}`;
    renameSync(join(root, "dist", made), join(folder, `lmshm-${platform}`));
  }
  return platforms.map((platform) => join(folder, `lmshm-${platform}`));
}

/** @param {string[]} tarballs those that others depend on first */
async function publish(tarballs) {
  const version = projectVersion();
  for (const path of tarballs) {
    const manifest = capture("tar", ["-xzOf", path, "package/package.json"]);
    const { name } = JSON.parse(manifest ?? "{}");
    if (capture("npm", ["view", `${name}@${version}`, "version"])?.trim() === version) {
      say(`${name} ${version} is published already`);
      continue;
    }
    // Within a workflow of GitHub's npm can prove where the tarball comes from.
    const proof = process.env.ACTIONS_ID_TOKEN_REQUEST_URL ? ["--provenance"] : [];
    await must(`publishing ${name}`, "npm", ["publish", path, "--access", "public", ...proof]);
    say(`${name} ${version} is published`);
  }
}

await runMain(async () => {
  const { "dry-run": dryRun, publish: toPublish, host, repository, help } = options();
  if (help) return console.log(USAGE);
  const problems = obstacles();
  if (problems.length > 0 && !dryRun) throw new Failure(problems.join("\n"));
  await installDependencies();
  const all = /** @type {Platform[]} */ (Object.keys(TARGETS));
  const platforms = host ? [hostPlatform()] : all;
  const folder = join(root, "dist", "release");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const tarballs = (await makePackages(platforms, { repository })).map((path) => {
    copyFileSync(path, join(folder, basename(path)));
    return join(folder, basename(path));
  });
  const files = [...tarballs, ...await compile(platforms, folder)];
  const sums = files.map((path) => `${sha256(path)}  ${basename(path)}\n`);
  writeFileSync(join(folder, SUMS), sums.join(""));
  writeFileSync(join(folder, NOTES), `${changelogEntry(projectVersion())?.text ?? ""}\n`);
  console.log(sums.join("").trimEnd());
  say(`${files.length} files and ${SUMS} are in ${relative(root, folder)}`);
  if (toPublish) await publish(tarballs);
  for (const problem of problems) say(`in the way of a release: ${problem}`);
  return problems.length > 0 ? 1 : 0;
});
