// SPDX-License-Identifier: Apache-2.0
//
// What must hold of tarballs, whoever made them: the files that belong in and no others, their modes,
// and that what they name is in them.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { Failure } from "./system.mjs";
import { LIBRARY, WORKER } from "./targets.mjs";

/** What every package has. */
const ALWAYS = ["package.json", "README.md", "LICENSE"];

/** The dashboard's page, which is text to the modules that import it. */
const PAGE = /^(dist|src)\/cli\/dashboard\/page\/\w+\.(js|html|css|svg)$/;

/** What the package lmshm may have besides. */
const LIBRARY_FILES =
  /^(dist\/[\w/]+\.(js|js\.map|d\.ts|d\.ts\.map)|src\/[\w/]+\.ts|src\/lmcache\/wire\/lmcache\.proto|docs\/[\w/.-]+\.(md|svg)|CHANGELOG\.md|SECURITY\.md)$/;

/** The hooks that a package manager runs, or asks its user about. */
const HOOKS = ["preinstall", "install", "postinstall", "prepare"];

/** What nothing of the declarations may need: a user has them, or not. */
const FOREIGN_TYPES = /\bNodeJS\.|\bBuffer\b|"node:|"bun:|\bDeno\.|\bBun\.|<reference types/;

/** @param {string} folder @returns {string[]} */
function files(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name))).sort();
}

/** @param {unknown} entries of package.json's exports @returns {string[]} the paths that they name */
function targets(entries) {
  if (typeof entries === "string") return [entries];
  return Object.values(/** @type {object} */ (entries)).flatMap(targets);
}

/** @param {string} text */
function withoutComments(text) {
  return text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
}

/** What JavaScript or declarations import. @param {string} code */
function specifiers(code) {
  return [...code.matchAll(/(?:^import|\bfrom|\bimport\s*\()\s*"([^"]+)"/gm)].map(([, one]) => one);
}

/**
 * The declarations that a user's type check reads.
 * @param {string} folder
 * @param {string[]} entries
 */
function reachable(folder, entries) {
  const found = new Set(entries.map((path) => join(path)));
  for (const path of found) {
    if (!existsSync(join(folder, path))) continue;
    const code = withoutComments(readFileSync(join(folder, path), "utf8"));
    for (const specifier of specifiers(code).filter((one) => one.startsWith("."))) {
      found.add(join(dirname(path), specifier).replace(/\.js$/, ".d.ts"));
    }
  }
  return found;
}

/** Is there a section of symbols in an ELF file of 64 bits? @param {Buffer} elf */
function hasSymbols(elf) {
  const [start, size, count] = [
    Number(elf.readBigUInt64LE(0x28)),
    elf.readUInt16LE(0x3a),
    elf.readUInt16LE(0x3c),
  ];
  const SHT_SYMTAB = 2;
  return Array.from({ length: count }, (_, index) => elf.readUInt32LE(start + index * size + 4))
    .includes(SHT_SYMTAB);
}

/**
 * @param {string} folder an unpacked platform package
 * @param {Record<string, any>} manifest
 */
function platformProblems(folder, manifest) {
  const problems = [];
  const expected = [...ALWAYS, LIBRARY, WORKER].sort();
  if (String(files(folder)) !== String(expected)) problems.push(`it has ${files(folder)}`);
  for (const name of [LIBRARY, WORKER]) {
    const path = join(folder, name);
    if (!existsSync(path)) continue;
    const bytes = readFileSync(path);
    if (bytes.readUInt32BE(0) !== 0x7f454c46) problems.push(`${name} is no ELF file`);
    else if (bytes.readUInt16LE(18) !== (manifest.cpu[0] === "x64" ? 62 : 183)) {
      problems.push(`${name} is not for ${manifest.cpu}`);
    } else if (hasSymbols(bytes)) problems.push(`${name} is not stripped`);
  }
  return problems;
}

/**
 * @param {string} folder the unpacked package lmshm
 * @param {Record<string, any>} manifest
 */
function libraryProblems(folder, manifest) {
  const problems = [];
  const all = files(folder);
  for (const path of all) {
    const belongs = ALWAYS.includes(path) || LIBRARY_FILES.test(path) || PAGE.test(path);
    if (!belongs) problems.push(`it has ${path}`);
  }
  for (const path of [...targets(manifest.exports), ...targets(manifest.bin)]) {
    if (!existsSync(join(folder, path))) problems.push(`package.json names ${path}`);
  }
  const declared = reachable(
    folder,
    targets(manifest.exports).filter((path) => /\.d\.ts$/.test(path)),
  );
  const { dependencies, optionalDependencies, peerDependencies } = manifest;
  const packages = [dependencies, optionalDependencies, peerDependencies].flatMap(Object.keys);
  const modules = all.filter((name) => /^dist\/.*\.(js|d\.ts)$/.test(name) && !PAGE.test(name));
  for (const path of modules) {
    const text = readFileSync(join(folder, path), "utf8");
    const code = withoutComments(text);
    for (const specifier of specifiers(code)) {
      const fine = specifier.startsWith(".")
        ? existsSync(join(folder, dirname(path), specifier)) &&
          (specifier.endsWith(".js") || PAGE.test(join(dirname(path), specifier)))
        : specifier.startsWith("node:") ||
          packages.some((name) => specifier === name || specifier.startsWith(`${name}/`));
      if (!fine) problems.push(`${path} imports ${specifier}`);
    }
    if (declared.has(path)) {
      const peer = specifiers(code).find((one) => one in peerDependencies);
      if (peer !== undefined) {
        problems.push(`${path} needs the types of ${peer}, which is optional`);
      }
      const foreign = FOREIGN_TYPES.exec(code);
      if (foreign) problems.push(`${path} needs types of a runtime: ${foreign[0]}`);
    }
    const map = /^\/\/# sourceMappingURL=(.*)$/m.exec(text)?.[1];
    if (map === undefined) problems.push(`${path} has no map`);
    else {
      const { sources } = JSON.parse(readFileSync(join(folder, dirname(path), map), "utf8"));
      for (const source of sources) {
        if (!existsSync(join(folder, dirname(path), source))) {
          problems.push(`the map of ${path} names ${source}`);
        }
      }
    }
  }
  return problems;
}

/** @param {string} path of a tarball @param {string} folder to unpack it in @returns {string[]} */
function problemsOf(path, folder) {
  // -p: the modes as they are, not less the umask.
  const { status, stderr } = spawnSync("tar", ["-xpzf", path, "-C", folder], { encoding: "utf8" });
  if (status !== 0) throw new Failure(`tar cannot read ${path}: ${stderr}`);
  const top = join(folder, "package");
  const manifest = JSON.parse(readFileSync(join(top, "package.json"), "utf8"));
  const problems = manifest.name === "lmshm"
    ? libraryProblems(top, manifest)
    : platformProblems(top, manifest);
  for (const hook of HOOKS) {
    if (manifest.scripts?.[hook] !== undefined) problems.push(`it has an install script, ${hook}`);
  }
  const executable = [LIBRARY, WORKER, ...targets(manifest.bin ?? {})];
  for (const file of files(top)) {
    const mode = statSync(join(top, file)).mode & 0o777;
    const wanted = executable.includes(file) ? 0o755 : 0o644;
    if (mode !== wanted) problems.push(`${file} has mode ${mode.toString(8)}`);
  }
  return problems.map((problem) => `${path}: ${problem}`);
}

/**
 * Everything that is wrong with the tarballs, one line each.
 * @param {string[]} tarballs
 */
export function packageProblems(tarballs) {
  return tarballs.flatMap((path) => {
    const folder = mkdtempSync(join(tmpdir(), "lmshm-package-"));
    try {
      return problemsOf(path, folder);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
