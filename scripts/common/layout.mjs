// SPDX-License-Identifier: Apache-2.0
//
// The architecture as a check: which folder of src/ and of csrc/worker/ may import which,
// that only src/native/ knows the runtime, that only named packages are used, that every C and
// C++ file is in the build, and that no file lies around.
// It reads text, not syntax trees: an import that hides from it would have to be written to hide.

import { readFileSync, statSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { capture, findFiles, root } from "./system.mjs";

/** Folder or file of src/ -> the folders and files that it may import, besides itself. */
const ARROWS = /** @type {Record<string, string[]>} */ ({
  "errors.ts": [],
  "version.ts": [],
  "nearest.ts": [],
  "slot_set.ts": [],
  "fence.ts": [],
  "at_exit.ts": [],
  "internal.ts": [],
  "permission.ts": ["errors.ts"],
  "file_error.ts": ["errors.ts", "permission.ts"],
  "arguments.ts": ["nearest.ts"],
  "wait.ts": ["errors.ts", "arguments.ts"],
  "telemetry.ts": [],
  "telemetry_probe.ts": ["errors.ts", "fence.ts", "telemetry.ts"],
  native: ["errors.ts", "at_exit.ts", "permission.ts", "version.ts", "wait.ts"],
  memory: [
    ...["errors.ts", "arguments.ts", "slot_set.ts", "fence.ts", "at_exit.ts", "internal.ts"],
    ...["permission.ts", "wait.ts", "native"],
  ],
  gpu: [
    ...["errors.ts", "arguments.ts", "wait.ts", "fence.ts", "internal.ts", "permission.ts"],
    ...["native", "memory"],
  ],
  keys: ["errors.ts", "nearest.ts", "arguments.ts"],
  // Version 1 knows files: it needs their names.
  worker: [
    ...["errors.ts", "slot_set.ts", "fence.ts", "permission.ts", "file_error.ts", "wait.ts"],
    "keys",
  ],
  // The connector starts the worker that locate.ts finds, or has users.ts say whose it is.
  connector: [
    ...["errors.ts", "nearest.ts", "arguments.ts", "fence.ts", "at_exit.ts", "internal.ts"],
    ...["permission.ts", "wait.ts", "file_error.ts", "config", "memory", "worker", "keys"],
    ...["native/locate.ts", "telemetry.ts", "telemetry_probe.ts"],
    ...["native/users.ts"],
  ],
  cache: [
    ...["errors.ts", "arguments.ts", "wait.ts", "fence.ts", "at_exit.ts", "internal.ts"],
    ...["config", "memory", "worker", "keys", "connector", "telemetry.ts", "telemetry_probe.ts"],
  ],
  config: ["errors.ts", "nearest.ts", "wait.ts", "permission.ts"],
  // A client of other people's servers: nothing of our worker is in it.
  lmcache: [
    ...["errors.ts", "arguments.ts", "wait.ts", "at_exit.ts", "internal.ts", "permission.ts"],
    "memory",
  ],
  "mod.ts": [
    ...["errors.ts", "version.ts", "at_exit.ts", "wait.ts", "telemetry.ts"],
    ...["native", "memory", "worker", "keys", "connector", "cache"],
  ],
  // What a bundle carries is looked for in native/.
  "embed.ts": ["native/embedded.ts"],
  // What the package does not show: where parts are, dead names one by one, becoming the worker, and
  // the pools that other programs publish, the plain system calls that bench compares with, and what is
  // said where a store keeps no metadata.
  cli: [
    ...["mod.ts", "gpu/mod.ts", "config/mod.ts", "version.ts", "nearest.ts", "errors.ts"],
    ...["embed.ts", "native/locate.ts", "native/exec.ts", "native/lmshm.ts", "native/probe.ts"],
    ...["native/plain_calls.ts", "worker/address.ts", "memory/published_pools.ts"],
    ...["config/store_url.ts", "worker/metadata_place.ts"],
  ],
});

/** Folder of csrc/worker/ -> the folders that it may include, besides itself; main.cc: all. */
const WORKER_ARROWS = /** @type {Record<string, string[]>} */ ({
  base: [],
  memory: ["base"],
  storage: ["base", "memory"],
  protocol: ["base", "memory", "storage"],
  net: ["base"],
  remote: ["base"],
  redis: ["base", "memory", "storage", "remote"],
  s3: ["base", "memory", "storage", "remote"],
  execution: ["base", "memory", "storage", "protocol", "net"],
  server: ["base", "memory", "storage", "protocol", "net", "execution"],
  process: [
    ...["base", "memory", "storage", "protocol", "net", "execution", "server", "remote"],
    ...["redis", "s3"],
  ],
});

/** What names a runtime, and so belongs into src/native/ alone. */
const RUNTIME =
  /"bun:|"bun"|"jsr:|\bDeno\.\w|\bBun\.\w|\bprocess\.versions\b|\bglobalThis\.(Bun|Deno)\b/;

/** Built by smoke.mjs, for each target. */
const SMOKE = "tests/native/smoke.c";

/** Lines keep their numbers. @param {string} text */
function withoutComments(text) {
  return text.replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ""))
    .replace(/^\s*\/\/.*$/gm, "").replace(/\s\/\/ .*$/gm, "");
}

/** @param {string} path below src/ */
function layerOf(path) {
  return path.split("/")[0];
}

/** The only folder that imports the optional peers of the package: it is loaded when it is needed. */
const WITH_PEERS = /^lmcache\/wire\//;

/** "@scope/name/part" -> "@scope/name". @param {string} specifier */
function packageOf(specifier) {
  return specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1).join("/");
}

/**
 * @param {string} path
 * @param {{ own: string[], peers: string[] }} packages
 * @returns {string[]}
 */
function problemsOf(path, packages) {
  const inSource = relative("src", path);
  const layer = layerOf(inSource);
  const allowed = ARROWS[layer];
  if (!allowed) return [`${path}: "${layer}" is no known layer; see scripts/common/layout.mjs`];
  const problems = [];
  const text = withoutComments(readFileSync(join(root, path), "utf8"));
  for (const [, specifier] of text.matchAll(/\b(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
    if (specifier.startsWith(".")) {
      const target = join(dirname(inSource), specifier);
      // What a version of the protocol is made of is the worker layer's own affair.
      const own = layer !== "worker" && /^worker\/v\d\//.test(target);
      const fine = !own &&
        [layerOf(target), target].some((name) => name === layer || allowed.includes(name));
      if (!fine) {
        const may = allowed.join(", ") || "nothing";
        problems.push(`${path}: imports "${specifier}"; ${layer} may import ${may}`);
      }
    } else if (!specifier.startsWith("node:") && layer !== "native") {
      const known = WITH_PEERS.test(inSource) ? [...packages.own, ...packages.peers] : packages.own;
      if (!known.includes(packageOf(specifier))) {
        problems.push(`${path}: imports "${specifier}", which is no dependency of package.json`);
      }
    }
  }
  text.split("\n").forEach((line, index) => {
    if (layer !== "native" && RUNTIME.test(line)) {
      problems.push(`${path}:${index + 1}: names a runtime outside src/native/: ${line.trim()}`);
    }
  });
  return problems;
}

/** @param {string} path below csrc/worker/ @returns {string[]} */
function workerProblemsOf(path) {
  const [layer, ...rest] = relative("csrc/worker", path).split("/");
  if (rest.length === 0) return [];
  const allowed = WORKER_ARROWS[layer];
  if (!allowed) return [`${path}: "${layer}" is no known layer; see scripts/common/layout.mjs`];
  const text = readFileSync(join(root, path), "utf8");
  return [...text.matchAll(/^#include "worker\/([^"]+)"/gm)]
    .filter(([, header]) => ![layer, ...allowed].includes(header.split("/")[0]))
    .map(([, header]) =>
      `${path}: includes "${header}"; ${layer} may include ${allowed.join(", ") || "nothing"}`
    );
}

/** What stands at the top, beside folders. */
const TOP_FILES = [
  ...[".clang-format", ".gitignore", ".npmrc", "CHANGELOG.md", "CMakeLists.txt"],
  ...["CMakePresets.json", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md"],
  ...["bunfig.toml", "deno.json", "package-lock.json", "package.json", "tsconfig.json"],
];
const MAX_FILE_BYTES = 512 * 1024;

/** @returns {string[]} what is in the repository and does not belong there */
function strayFiles() {
  const tracked = capture("git", ["ls-files"])?.split("\n").filter(Boolean) ?? [];
  return tracked.flatMap((path) => {
    if (!path.includes("/") && !TOP_FILES.includes(path)) {
      return [`${path}: no file of the top level; it was made by hand, or belongs into a folder`];
    }
    const bytes = statSync(join(root, path), { throwIfNoEntry: false })?.size ?? 0;
    return bytes > MAX_FILE_BYTES
      ? [`${path}: ${bytes} bytes; what is that large is made, not kept`]
      : [];
  });
}

/**
 * Every breach of the architecture, one line each; empty when all is well.
 * @returns {string[]}
 */
export function layoutProblems() {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const packages = {
    own: Object.keys(manifest.dependencies ?? {}),
    peers: Object.keys(manifest.peerDependencies ?? {}),
  };
  const problems = findFiles(["src"], /\.ts$/).flatMap((path) => problemsOf(path, packages));
  problems.push(...strayFiles());
  if (manifest.devDependencies) {
    problems.push(
      "package.json: has devDependencies, which Bun installs into a project that adds a clone; " +
        "scripts/tools/package.json is for them",
    );
  }
  problems.push(...findFiles(["csrc/worker"], /\.(h|cc)$/).flatMap(workerProblemsOf));
  const cmake = readFileSync(join(root, "CMakeLists.txt"), "utf8");
  const built = findFiles(["csrc", "tests/native", "tests/fuzz"], /\.(c|cc)$/);
  for (const path of built) {
    if (path !== SMOKE && !cmake.includes(path)) problems.push(`${path}: not in CMakeLists.txt`);
  }
  const lock = readFileSync(join(root, "package-lock.json"), "utf8");
  if (/"resolved": "https?:/.test(lock)) {
    problems.push("package-lock.json: names where packages came from; run npm install again");
  }
  return problems;
}
