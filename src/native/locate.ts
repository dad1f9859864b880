// SPDX-License-Identifier: Apache-2.0
//
// Where the built parts are: the shared library and the worker's executable. Order: an explicit
// path, an environment variable, the parts that a single executable carries in itself, then
// lib/<os>-<arch>-<libc>/ of this package. What is not found is an error that lists every place.
// What is found is absolute: the current directory counts at the time of the call, not later.

import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ShmError } from "../errors.ts";
import { environmentVariable, throwIfRefused } from "../permission.ts";

export type Part = "library" | "worker";

const PARTS = {
  library: { file: "liblmshm.so", variable: "LMSHM_LIBRARY", mode: 0o444 },
  worker: { file: "lmshm-worker", variable: "LMSHM_WORKER", mode: 0o111 },
} as const;

const embedded = new Map<Part, string>();

/** Called by the entry point of a single executable, before anything is located. */
export function registerEmbedded(part: Part, path: string): void {
  embedded.set(part, path);
}

/** "musl" when this process runs on musl, else "gnu": asked of the mappings of the process itself. */
function libc(): "gnu" | "musl" {
  try {
    return /\/ld-musl-/.test(readFileSync("/proc/self/maps", "latin1")) ? "musl" : "gnu";
  } catch {
    return "gnu";
  }
}

/** The name of this platform's folder below lib/, e.g. "linux-x64-gnu". */
export function platformName(): string {
  return `${process.platform}-${process.arch}-${libc()}`;
}

function packageRoot(): string | null {
  if (!import.meta.url.startsWith("file:")) return null;
  return join(dirname(fileURLToPath(import.meta.url)), "..", "..");
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

/** A file that somebody may read, or execute. (access() would say who, and Deno asks for more.) */
function usable(path: string, mode: number): boolean {
  try {
    const found = statSync(path);
    return found.isFile() && (found.mode & mode) !== 0;
  } catch (error) {
    throwIfRefused(error, `looking at ${path}`, "locate");
    return false;
  }
}

/** Every place where the part may be, best first, with the reason why it is looked for there. */
function candidates(part: Part, override: string | undefined): { path: string; why: string }[] {
  const { file, variable } = PARTS[part];
  const places: { path: string; why: string }[] = [];
  // An explicit choice stands alone: what was asked for is used, or the call fails.
  if (override) return [{ path: absolute(override), why: "given by the caller" }];
  const named = environmentVariable(variable);
  if (named) return [{ path: absolute(named), why: `from ${variable}` }];
  const own = embedded.get(part);
  if (own) places.push({ path: own, why: "carried by this executable" });
  const root = packageRoot();
  if (root) places.push({ path: join(root, "lib", platformName(), file), why: "of this package" });
  return places;
}

/**
 * The absolute path of a built part. `override` or the part's environment variable (LMSHM_LIBRARY,
 * LMSHM_WORKER) decide alone when present.
 * @throws {ShmError} ENOENT with all places that were tried.
 */
export function locate(part: Part, override?: string): string {
  const { file, variable, mode } = PARTS[part];
  const tried = candidates(part, override);
  const found = tried.find(({ path }) => usable(path, mode));
  if (found) return found.path;
  const list = tried.map(({ path, why }) => `${path} (${why})`).join(", ") || "nowhere";
  throw new ShmError(`no usable ${file} for ${platformName()}; tried ${list}`, {
    code: "ENOENT",
    operation: `locate ${part}`,
    hint: `Build it with "npm run build" (or "bun run build", "deno task build"), or set ` +
      `${variable} to its path`,
    details: { tried: tried.map(({ path }) => path), platform: platformName() },
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
