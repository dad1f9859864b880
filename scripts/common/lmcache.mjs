// SPDX-License-Identifier: Apache-2.0
//
// LMCache in a virtual environment outside the repository, with torch, whose processors are not used:
// about 6 GB, once. A wheel of the next version lies beside it, unpacked, for a test that it is refused.

import { existsSync, mkdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { capture, Failure, must, root, run, say, which } from "./system.mjs";

const VERSION = "0.5.6";
const NEWER = "0.5.7rc2";
const INSTALL_MINUTES = 60;

/** @param {string} venv */
function python(venv) {
  return join(venv, "bin", "python");
}

/** @param {string} venv @returns {string | null} the version that is installed there */
function versionIn(venv) {
  const program = "import importlib.metadata as m; print(m.version('lmcache'))";
  return existsSync(python(venv)) ? capture(python(venv), ["-c", program])?.trim() ?? null : null;
}

/** @returns {string} a folder of the user's for what takes long to fetch */
function cacheFolder() {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lmshm");
}

/**
 * An environment with LMCache: the one that LMSHM_LMCACHE_VENV names, or one of the user's cache.
 * @returns {Promise<string>}
 */
export async function installLmcache() {
  const given = process.env.LMSHM_LMCACHE_VENV;
  if (given) {
    const found = versionIn(given);
    if (found !== null) {
      if (found !== VERSION) say(`${given} has LMCache ${found}; tests are made for ${VERSION}`);
      return given;
    }
    throw new Failure(`LMSHM_LMCACHE_VENV is ${given}, and there is no LMCache`);
  }
  const venv = join(cacheFolder(), `lmcache-${VERSION}`);
  if (versionIn(venv) === VERSION) return venv;
  const program = which("python3");
  if (!program) throw new Failure("python3 is missing, 3.10 to 3.13");
  mkdirSync(cacheFolder(), { recursive: true });
  const log = join(root, "build", "logs", "lmcache.log");
  say(`installing LMCache ${VERSION} with torch, about 6 GB, into ${venv}`);
  await must("python3 -m venv", program, ["-m", "venv", venv], { log, quiet: true });
  await must("pip install lmcache", python(venv), [
    ...["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"],
    `lmcache==${VERSION}`,
  ], { log, quiet: true, timeoutMs: INSTALL_MINUTES * 60_000 });
  if (versionIn(venv) !== VERSION) {
    throw new Failure(`LMCache did not arrive in ${venv}; see ${log}`);
  }
  return venv;
}

/**
 * The next version, without what it depends on.
 * @param {string} venv has that
 * @returns {Promise<string | null>} for PYTHONPATH; null, said aloud, where it cannot be had
 */
export async function installNewerLmcache(venv) {
  const folder = join(cacheFolder(), `lmcache-${NEWER}`);
  if (existsSync(join(folder, "lmcache"))) return folder;
  const log = join(root, "build", "logs", "lmcache.log");
  const status = await run(python(venv), [
    ...["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"],
    ...["--no-deps", "--target", folder, `lmcache==${NEWER}`],
  ], { log, quiet: true, timeoutMs: 5 * 60_000 });
  if (status === 0) return folder;
  say(`LMCache ${NEWER} cannot be installed, and that it is refused is not tested; see ${log}`);
  return null;
}

/**
 * Its sources, whose tests are run with our adapter. LMSHM_LMCACHE_SOURCES names those that are there.
 * @param {string} venv has that version
 * @returns {Promise<string | null>} null, said aloud, where they cannot be had
 */
export async function installLmcacheSources(venv) {
  const given = process.env.LMSHM_LMCACHE_SOURCES;
  if (given) return given;
  const folder = join(cacheFolder(), `lmcache-${VERSION}-sources`);
  const sources = join(folder, `lmcache-${VERSION}`);
  if (existsSync(join(sources, "tests"))) return sources;
  const log = join(root, "build", "logs", "lmcache.log");
  const pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"];
  // pip asks a source distribution what it is by its own build script, which needs these.
  const steps = [
    [python(venv), [...pip, "install", "setuptools", "setuptools_scm", "ninja", "wheel", "pytest"]],
    [python(venv), [
      ...[...pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"],
      ...["--dest", folder, `lmcache==${VERSION}`],
    ]],
    ["tar", ["-xzf", join(folder, `lmcache-${VERSION}.tar.gz`), "-C", folder]],
  ];
  mkdirSync(folder, { recursive: true });
  const env = { NO_CUDA_EXT: "1" };
  for (const [program, words] of steps) {
    const status = await run(String(program), [...words], {
      ...{ log, env, quiet: true, timeoutMs: 10 * 60_000 },
    });
    if (status === 0) continue;
    say(`LMCache's sources cannot be fetched, and its own tests are not run; see ${log}`);
    return null;
  }
  return sources;
}
