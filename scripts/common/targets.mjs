// SPDX-License-Identifier: Apache-2.0
//
// The platforms, and lib/<platform>/ of each: the library, the worker, and a stamp with the hash of
// the sources that they were made of, so that an unchanged tree costs milliseconds.

import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { Failure, findFiles, root, say } from "./system.mjs";
import { projectVersion } from "./version.mjs";

export const LIBRARY = "liblmshm.so";
export const WORKER = "lmshm-worker";
const STAMP = "build.json";

/**
 * What ships: for each platform zig's name of the target. The worker is always linked statically
 * with musl, so one file serves both platforms of an architecture.
 */
export const TARGETS = {
  "linux-x64-gnu": { library: "x86_64-linux-gnu.2.17", worker: "x86_64-linux-musl" },
  "linux-x64-musl": { library: "x86_64-linux-musl", worker: "x86_64-linux-musl" },
  "linux-arm64-gnu": { library: "aarch64-linux-gnu.2.17", worker: "aarch64-linux-musl" },
  "linux-arm64-musl": { library: "aarch64-linux-musl", worker: "aarch64-linux-musl" },
};

/** @typedef {keyof typeof TARGETS} Platform */

/**
 * This machine's platform, named as src/native/locate.ts does.
 * @returns {Platform}
 */
export function hostPlatform() {
  const maps = existsSync("/proc/self/maps") ? readFileSync("/proc/self/maps", "latin1") : "";
  const libc = /\/ld-musl-/.test(maps) ? "musl" : "gnu";
  const name = `${process.platform}-${process.arch}-${libc}`;
  if (!Object.hasOwn(TARGETS, name)) {
    throw new Failure(
      `lmshm runs on ${Object.keys(TARGETS).join(", ")}; this machine is ${name}` +
        ` ("npm run build -- --all" builds for the others)`,
    );
  }
  return /** @type {Platform} */ (name);
}

/** The hash of everything that the library and the worker are made of. */
export function sourcesHash() {
  const hash = createHash("sha256");
  const files = [
    ...findFiles(["csrc", "cmake"], /./),
    ...["CMakeLists.txt", "CMakePresets.json", "scripts/zig/package-lock.json"],
  ];
  // Of package.json only the version gets into them.
  hash.update(projectVersion());
  for (const file of files) {
    hash.update(`${file}\0`).update(readFileSync(join(root, file))).update("\0");
  }
  return hash.digest("hex");
}

/** @param {string} path */
export function sha256(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/**
 * @typedef {{ sources: string, toolchain: "system" | "zig" | "direct", compiler: string }} Stamp
 * @param {Platform} platform
 * @returns {Stamp | null} null when a part is missing or damaged
 */
export function readStamp(platform) {
  const folder = join(root, "lib", platform);
  try {
    const stamp = JSON.parse(readFileSync(join(folder, STAMP), "utf8"));
    const whole = [LIBRARY, WORKER].every((name) => sha256(join(folder, name)) === stamp[name]);
    return whole ? stamp : null;
  } catch {
    return null;
  }
}

/**
 * Puts built parts into lib/<platform>/, each by rename, so that a process that has the old file
 * loaded keeps it whole.
 * @param {Platform} platform
 * @param {{ library: string, worker: string }} built paths
 * @param {Stamp} stamp
 */
export function publish(platform, built, stamp) {
  const folder = join(root, "lib", platform);
  mkdirSync(folder, { recursive: true });
  for (const [name, from] of [[LIBRARY, built.library], [WORKER, built.worker]]) {
    const temporary = join(folder, `.${name}.${process.pid}`);
    copyFileSync(from, temporary);
    chmodSync(temporary, 0o755);
    renameSync(temporary, join(folder, name));
  }
  const hashes = { [LIBRARY]: sha256(built.library), [WORKER]: sha256(built.worker) };
  writeFileSync(join(folder, STAMP), JSON.stringify({ ...stamp, ...hashes }, null, 2) + "\n");
  say(`lib/${platform}: built with ${stamp.compiler}`);
}
