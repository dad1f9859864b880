// SPDX-License-Identifier: Apache-2.0
//
// Where the built parts are: the shared library and the worker's executable. In this order:
//
//   1. what the program says (workerBinary)
//   2. what the environment says (LMSHM_LIBRARY, LMSHM_WORKER)
//   3. what the bundle carries, if the program imports "lmshm/embed"
//   4. the package of this platform, @lmshm/linux-x64-gnu and the like, as seen from this file
//   5. lib/<platform>/ of a clone
//
// 1 and 2 stand alone: what is named is used, or the call fails. What is not found is an error that
// lists every place, and what to do. What is found is absolute: the current directory counts at the
// time of the call, not later.

import { readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type ErrorCode, ShmError } from "../errors.ts";
import { environmentVariable, throwIfRefused } from "../permission.ts";
import { version } from "../version.ts";
import { embeddedParts, expectsEmbedded, isExecutable } from "./embedded.ts";
import { inMemory } from "./in_memory.ts";
import { platformName, platformPackage, PLATFORMS } from "./platform.ts";

export type Part = "library" | "worker";

const PARTS = {
  library: { file: "liblmshm.so", variable: "LMSHM_LIBRARY" },
  worker: { file: "lmshm-worker", variable: "LMSHM_WORKER" },
} as const;

/** Where a part may be. */
interface Place {
  /** A path, or the name of a package that is not there. */
  readonly at: string;
  /** Why it is looked for there. */
  readonly why: string;
  /**
   * - `named`     somebody wants this file
   * - `embedded`  no file for the kernel
   * - `own`       a file of ours
   * - `none`      there is nothing, for the reason that `why` has
   */
  readonly kind: "named" | "embedded" | "own" | "none";
}

/**
 * Not resolve(), which takes ".." for the folder above also where a symbolic link leads elsewhere.
 * @throws {ShmError} EPERM where Deno does not tell the current directory.
 */
function absolute(path: string): string {
  if (path.startsWith("/")) return path;
  try {
    return `${process.cwd()}/${path.replace(/^(\.\/+)+/, "")}`;
  } catch (error) {
    throwIfRefused(
      error,
      path,
      "locate",
      "Allow reading the current directory, or name a full path",
    );
    throw error;
  }
}

/** A library as dlopen() takes it: a path, which is made absolute, or a name to search for. */
export function libraryPath(library: string): string {
  return library.includes("/") ? absolute(library) : library;
}

/** Every place where the part may be, best first. */
function* places(part: Part, override: string | undefined): Generator<Place> {
  const { file, variable } = PARTS[part];
  if (override) {
    return yield { at: absolute(override), why: "given by the caller", kind: "named" };
  }
  const named = environmentVariable(variable);
  if (named) return yield { at: absolute(named), why: `from ${variable}`, kind: "named" };
  const platform = platformName();
  const carried = embeddedParts();
  const own = carried.get(platform)?.[part];
  if (own) yield { at: own, why: "carried by this program", kind: "embedded" };
  else if (expectsEmbedded() || carried.size > 0) {
    const why = carried.size > 0
      ? `carries the parts for ${[...carried.keys()].join(" and ")} only`
      : "was built where none of the parts were installed";
    yield { at: "this program", why, kind: "none" };
  }
  yield packagePlace(platform, file);
  const lib = cloneFile(`lib/${platform}/${file}`);
  if (lib !== null) yield { at: lib, why: "of this clone", kind: "own" };
}

/** The manifest of a platform's package, as seen from this file. Throws when it is not installed. */
function packageManifest(platform: string): string {
  // Not import.meta.resolve(), which a bundle of CommonJS, as one of bytecode is, cannot have.
  return createRequire(import.meta.url).resolve(`${platformPackage(platform)}/package.json`);
}

function isInstalled(platform: string): boolean {
  try {
    return !isExecutable && packageManifest(platform) !== "";
  } catch {
    return false;
  }
}

function packagePlace(platform: string, file: string): Place {
  const at = platformPackage(platform);
  // Bun would look for packages in the current directory, or where the executable was made.
  if (isExecutable) return { at, why: "an executable has no packages", kind: "none" };
  let manifest: string;
  try {
    manifest = packageManifest(platform);
  } catch {
    return { at, why: "not installed", kind: "none" };
  }
  let theirs: unknown;
  try {
    theirs = JSON.parse(readFileSync(manifest, "utf8")).version;
  } catch (error) {
    throwIfRefused(error, `reading ${manifest}`, "locate");
    return { at: manifest, why: `cannot be read: ${(error as Error).message}`, kind: "none" };
  }
  if (theirs !== version) {
    return { at: manifest, why: `has version ${theirs}, and this is ${version}`, kind: "none" };
  }
  return { at: manifest.replace(/package\.json$/, file), why: `of ${at}`, kind: "own" };
}

/** How this file came here. A bundle has it in a file of another name. */
function origin(): "clone" | "package" | "bundle" {
  if (isExecutable) return "bundle";
  const url = import.meta.url;
  if (url.endsWith("/src/native/locate.ts")) return "clone";
  return url.endsWith("/dist/native/locate.js") ? "package" : "bundle";
}

/** A file of the clone that this file is in, by its path there; null when it is in none. */
function cloneFile(path: string): string | null {
  if (origin() !== "clone" || !import.meta.url.startsWith("file:")) return null;
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}

interface Fault {
  readonly code: ErrorCode;
  readonly text: string;
}

/** The path to use, or what is wrong with the place. */
function examine(part: Part, { at, kind }: Place): string | Fault {
  if (kind === "none") return { code: "ENOENT", text: "" };
  if (kind === "embedded") return inMemory(part, at);
  let found: { isFile(): boolean; mode: number };
  try {
    found = statSync(at);
  } catch (error) {
    throwIfRefused(error, `looking at ${at}`, "locate");
    return { code: "ENOENT", text: "" };
  }
  if (!found.isFile()) return { code: "ENOENT", text: "no file" };
  // A file without any permission is one that an executable of Deno carries.
  if ((found.mode & 0o777) === 0) return inMemory(part, at);
  if (part === "library" || (found.mode & 0o111) !== 0) return at;
  // Whoever unpacked it has not kept its mode.
  if (kind === "own") return inMemory(part, at);
  return { code: "EACCES", text: "no execute permission" };
}

/** What helps whoever has none of it. */
function fix(part: Part): string {
  const { variable } = PARTS[part];
  const platform = platformName();
  const orName = `, or set ${variable} to its path`;
  if (!PLATFORMS.includes(platform)) return `lmshm runs on ${PLATFORMS.join(", ")}`;
  const others = PLATFORMS.filter((other) => other !== platform && isInstalled(other))
    .map(platformPackage);
  const note = others.length > 0
    ? ` (${others.join(" and ")}, which is installed, is for other systems)`
    : "";
  switch (origin()) {
    case "clone":
      return `Build it with "npm run build" (or "bun run build", "deno task build")${orName}`;
    case "package":
      return `Install ${platformPackage(platform)} ${version}${note}: package managers leave it ` +
        `out when told to omit optional packages, and when they install for another system${orName}`;
    case "bundle":
      return expectsEmbedded()
        ? `Install ${platformPackage(platform)} where the program is built, and build it again`
        : "lmshm is part of a bundle, which has no packages beside it: add " +
          '`import "lmshm/embed"` to the program, and to the files of its Workers, or keep lmshm ' +
          `out of the bundle (bun build --external lmshm)${orName}`;
  }
}

/**
 * The absolute path of a built part. `override` or the part's environment variable (LMSHM_LIBRARY,
 * LMSHM_WORKER) decide alone when present.
 * @throws {ShmError} ENOENT with all places that were tried; EACCES when the only one has no execute
 *   permission, or the system lets nothing be executed from memory.
 */
function locate(part: Part, override?: string): string {
  const { file } = PARTS[part];
  const tried: string[] = [];
  const listed: string[] = [];
  let named = false;
  let code: ErrorCode = "ENOENT";
  for (const place of places(part, override)) {
    const result = examine(part, place);
    if (typeof result === "string") return result;
    named = place.kind === "named";
    code = result.code;
    tried.push(place.at);
    listed.push(`${place.at} (${[place.why, result.text].filter(Boolean).join(", ")})`);
  }
  const hint = code === "EACCES"
    ? `Give it execute permission (chmod +x ${tried[0]})`
    : named
    ? "Name a file that is there, or none"
    : fix(part);
  throw new ShmError(`no usable ${file} for ${platformName()}; tried ${listed.join(", ")}`, {
    code,
    operation: `locate ${part}`,
    hint,
    details: { tried, platform: platformName() },
  });
}

/** The path of liblmshm.so; see locate(). */
export function locateLibrary(override?: string): string {
  return locate("library", override);
}

/** The path of the lmshm-worker executable; see locate(). */
export function locateWorker(override?: string): string {
  return locate("worker", override);
}
