// SPDX-License-Identifier: Apache-2.0
//
// What is published: the package lmshm, JavaScript and declarations made by tsc, and a package for
// each platform with the two native parts as zig built them. Each is laid out in build/npm/<name>/
// and packed into dist/npm/. The same commit gives the same bytes wherever and whenever it is packed.

import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, relative } from "node:path";
import { pinnedTool } from "./dependencies.mjs";
import { buildWithZig } from "./native.mjs";
import { Failure, findFiles, must, root } from "./system.mjs";
import { LIBRARY, TARGETS, WORKER } from "./targets.mjs";

/** @typedef {import("./targets.mjs").Platform} Platform */

const SCOPE = "@lmshm";

/** What people search a registry for. */
const KEYWORDS = [
  ...["shared-memory", "shm", "zero-copy", "pinned-memory", "cuda", "gpu"],
  ...["kv-cache", "llm", "lmcache", "bun", "deno"],
];

/** Modules that do something when they are loaded, besides defining what they export. */
const WITH_EFFECTS = ["./dist/embed.js", "./dist/cli/main.js", "./dist/cli/executable.js"];

/** @returns {Record<string, any>} */
function rootManifest() {
  return JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
}

/** @param {Platform} platform */
function platformPackage(platform) {
  return `${SCOPE}/${platform}`;
}

/**
 * What all packages have in common.
 * @param {Record<string, any>} manifest of the root
 * @param {string | undefined} repository
 */
function common({ version, license }, repository) {
  return {
    version,
    license,
    ...(repository === undefined ? {} : { repository: { type: "git", url: repository } }),
    publishConfig: { access: "public" },
  };
}

/** "./src/gpu/mod.ts" -> "./dist/gpu/mod.js". @param {string} source @param {string} extension */
function compiled(source, extension) {
  return source.replace(/^\.\/src\//, "./dist/").replace(/\.ts$/, extension);
}

/**
 * package.json of the package lmshm, derived from the root's.
 * @param {string} [repository] its address, if it has one
 */
function libraryManifest(repository) {
  const manifest = rootManifest();
  const { name, description, engines, exports: entries, bin, dependencies } = manifest;
  const { peerDependencies, peerDependenciesMeta } = manifest;
  const platforms = /** @type {Platform[]} */ (Object.keys(TARGETS)).map(platformPackage);
  return {
    name,
    description,
    keywords: KEYWORDS,
    ...common(manifest, repository),
    type: "module",
    // Only scripts of a clone run in node.
    engines: { bun: engines.bun, deno: engines.deno },
    exports: Object.fromEntries(
      Object.entries(entries).map(([entry, source]) => [
        entry,
        source.endsWith(".ts")
          ? { types: compiled(source, ".d.ts"), default: compiled(source, ".js") }
          : source,
      ]),
    ),
    bin: Object.fromEntries(
      Object.entries(bin).map(([command, source]) => [command, compiled(source, ".js").slice(2)]),
    ),
    files: ["dist", "src", "docs", "CHANGELOG.md", "SECURITY.md"],
    sideEffects: WITH_EFFECTS,
    dependencies,
    optionalDependencies: Object.fromEntries(platforms.map((one) => [one, manifest.version])),
    // Of lmshm/lmcache alone, which says what to install.
    peerDependencies,
    peerDependenciesMeta,
  };
}

/**
 * package.json of a platform's package.
 * @param {Platform} platform
 * @param {string} [repository]
 */
function platformManifest(platform, repository) {
  const [os, cpu, libc] = platform.split("-");
  const manifest = rootManifest();
  return {
    name: platformPackage(platform),
    description: `The native parts of ${manifest.name} for ${platformWords(platform)}`,
    ...common(manifest, repository),
    os: [os],
    cpu: [cpu],
    libc: [libc === "gnu" ? "glibc" : "musl"],
    exports: Object.fromEntries(
      ["package.json", LIBRARY, WORKER].map((file) => [`./${file}`, `./${file}`]),
    ),
    files: [LIBRARY, WORKER],
    // What is dlopen()ed and executed must be files.
    preferUnplugged: true,
  };
}

/** @param {Platform} platform */
function platformWords(platform) {
  const [, cpu, libc] = platform.split("-");
  return `Linux on ${cpu} with ${libc === "gnu" ? "glibc 2.17 or newer" : "musl"}`;
}

/** @param {Platform} platform */
function platformReadme(platform) {
  return `# ${platformPackage(platform)}

The native parts of the package lmshm for ${platformWords(platform)}:

- \`${LIBRARY}\`, the C library that lmshm loads, without dependencies but the C library;
- \`${WORKER}\`, the worker that moves objects between shared memory and storage, linked statically.

It depends on this one, and finds it by itself. There is nothing to import from here.
`;
}

/**
 * An empty folder below build/npm/ with a package's package.json, README.md and LICENSE.
 * @param {{ name: string }} manifest
 * @param {string} readme
 */
function layOut(manifest, readme) {
  const folder = join(root, "build", "npm", manifest.name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  put(folder, "package.json", JSON.stringify(manifest, null, 2) + "\n");
  put(folder, "README.md", readme);
  copy("LICENSE", folder, "LICENSE");
  return folder;
}

/** @param {string} folder @param {string} path @param {string} text */
function put(folder, path, text) {
  writeFileSync(join(folder, path), text);
  chmodSync(join(folder, path), 0o644);
}

/** @param {string} from in the repository @param {string} folder @param {string} to in it */
function copy(from, folder, to, mode = 0o644) {
  const path = join(folder, to);
  mkdirSync(dirname(path), { recursive: true });
  copyFileSync(join(root, from), path);
  // Not what a clone's umask made of it.
  chmodSync(path, mode);
}

/**
 * tsc makes "./errors.js" of "./errors.ts" in JavaScript, but not in declarations, and there only tsc
 * itself understands the latter. Both are of the same length, so that the maps stay true.
 * @param {string} folder
 */
function rewriteDeclarations(folder) {
  for (const name of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".d.ts")) continue;
    const path = join(folder, name);
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.replace(/((?:\bfrom|\bimport\s*\(?)\s*"\.[^"]*)\.ts"/g, '$1.js"'));
  }
}

/** @param {string | undefined} repository */
async function layOutLibrary(repository) {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const folder = layOut(libraryManifest(repository), readme);
  for (const path of findFiles(["src"], /\.ts$/)) copy(path, folder, path);
  await must("tsc", pinnedTool("tsc"), ["-p", join(root, "scripts", "package", "tsconfig.json")]);
  rewriteDeclarations(join(folder, "dist"));
  // Of the dashboard, whose modules import them as text.
  for (const path of findFiles(["src/cli/dashboard/page"], /\.(js|html|css|svg)$/)) {
    copy(path, folder, path);
    copy(path, folder, path.replace(/^src\//, "dist/"));
  }
  for (const path of ["CHANGELOG.md", "SECURITY.md", ...findFiles(["docs"], /\.(md|svg)$/)]) {
    if (!path.startsWith("docs/bench/")) copy(path, folder, path);
  }
  return folder;
}

/** @param {Platform} platform @param {string | undefined} repository */
function layOutPlatform(platform, repository) {
  const folder = layOut(platformManifest(platform, repository), platformReadme(platform));
  for (const part of [LIBRARY, WORKER]) {
    copy(join("lib", platform, part), folder, part, 0o755);
  }
  return folder;
}

/**
 * Packs a folder, and gives the path of the tarball.
 * @param {string} folder
 * @param {string} destination
 */
async function pack(folder, destination) {
  const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = `${name.replace(/^@/, "").replace("/", "-")}-${version}.tgz`;
  const log = join(root, "build", "logs", `pack-${file}.log`);
  await must(`packing ${name}`, pinnedTool("bun"), [
    ...["pm", "pack", "--ignore-scripts", "--quiet", "--destination", destination],
  ], { cwd: folder, log, quiet: true });
  const path = join(destination, file);
  if (!existsSync(path)) throw new Failure(`${path} was not packed; see ${log}`);
  return path;
}

/**
 * Makes the tarballs: of lmshm, and of the platforms given, whose parts are built if need be.
 * @param {Platform[]} platforms
 * @param {{ destination?: string, repository?: string }} [options] dist/npm/ unless given
 * @returns {Promise<string[]>} their paths; what lmshm depends on comes first
 */
export async function makePackages(platforms, options = {}) {
  const { destination = join(root, "dist", "npm"), repository } = options;
  await buildWithZig(platforms);
  // Made beside and moved at the end: what is there is whole, and of one version.
  const unfinished = `${destination}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  const tarballs = [];
  for (const platform of platforms) {
    tarballs.push(await pack(layOutPlatform(platform, repository), unfinished));
  }
  tarballs.push(await pack(await layOutLibrary(repository), unfinished));
  rmSync(destination, { recursive: true, force: true });
  renameSync(unfinished, destination);
  return tarballs.map((path) => join(destination, relative(unfinished, path)));
}
