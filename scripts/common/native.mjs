// SPDX-License-Identifier: Apache-2.0
//
// The native build. Three ways lead to lib/<platform>/, which is what the TypeScript side loads:
// cmake with the system's compiler (quick), cmake with zig (what ships: reproducible, any target),
// and, where there is no cmake, the compiler called directly.

import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { installZig } from "./dependencies.mjs";
import { Failure, findFiles, must, root, run, say } from "./system.mjs";
import {
  hostPlatform,
  LIBRARY,
  publish,
  readStamp,
  sourcesHash,
  TARGETS,
  WORKER,
} from "./targets.mjs";
import { findCMake, INSTALL_HINT, systemCompiler } from "./toolchain.mjs";

/** @typedef {import("./toolchain.mjs").CMake} CMake */
/** @typedef {import("./targets.mjs").Platform} Platform */

/** How many compilers run at once. */
function jobs() {
  return process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism());
}

/**
 * Configures and builds a preset. A build folder that another cmake, generator or source tree has
 * left, or whose compiler is gone, is made anew.
 * @param {CMake} tools
 * @param {string} preset
 * @param {object} [options]
 * @param {string} [options.folder] below build/; the preset's name unless given
 * @param {Record<string, string>} [options.defines]
 * @param {string[]} [options.targets] all unless given
 * @param {Record<string, string | undefined>} [options.env]
 * @returns {Promise<string>} the build folder
 */
export async function buildPreset(tools, preset, options = {}) {
  const name = options.folder ?? preset;
  const folder = join(root, "build", name);
  const generator = tools.ninja ? "Ninja" : "Unix Makefiles";
  const log = join(root, "build", "logs", `build-${name.replaceAll("/", "-")}.log`);
  const configureLog = log.replace("build-", "configure-");
  const cache = join(folder, "CMakeCache.txt");
  if (existsSync(cache)) {
    const text = readFileSync(cache, "utf8");
    const same = text.includes(`CMAKE_HOME_DIRECTORY:INTERNAL=${root}\n`) &&
      text.includes(`CMAKE_GENERATOR:INTERNAL=${generator}\n`);
    if (!same) rmSync(folder, { recursive: true, force: true });
  }
  const configure = ["--preset", preset, "-B", folder, "-G", generator];
  if (tools.ninja) configure.push(`-DCMAKE_MAKE_PROGRAM=${tools.ninja}`);
  for (const [key, value] of Object.entries(options.defines ?? {})) {
    configure.push(`-D${key}=${value}`);
  }
  const how = { env: options.env, log: configureLog, quiet: true };
  if (await run(tools.cmake, configure, how) !== 0) {
    rmSync(folder, { recursive: true, force: true });
    await must(`configuring ${name}`, tools.cmake, configure, how);
  }
  const build = ["--build", folder, "-j", jobs()];
  if (options.targets) build.push("--target", ...options.targets);
  await must(`building ${name}`, tools.cmake, build, { env: options.env, log, quiet: true });
  return folder;
}

/** @returns {Record<string, string>} where zig keeps what it has compiled: libc++ takes minutes */
export function zigEnvironment() {
  const base = process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  return { ZIG_GLOBAL_CACHE_DIR: process.env.ZIG_GLOBAL_CACHE_DIR ?? join(base, "zig") };
}

/**
 * Builds one of zig's targets and strips it.
 * @param {CMake} tools
 * @param {string} zig
 * @param {string} target
 * @param {boolean} worker the library otherwise
 * @returns {Promise<string>} the path of the stripped file
 */
async function buildZigPart(tools, zig, target, worker) {
  const folder = await buildPreset(tools, "release", {
    folder: `release/${target}-${worker ? "worker" : "library"}`,
    defines: {
      LMSHM_ZIG: zig,
      LMSHM_TARGET: target,
      LMSHM_WORKER: worker ? "ON" : "OFF",
      LMSHM_STATIC_WORKER: "ON",
    },
    targets: [worker ? WORKER : "lmshm"],
    env: zigEnvironment(),
  });
  const name = worker ? WORKER : LIBRARY;
  const stripped = join(folder, name);
  await must(`stripping ${name}`, zig, [
    "objcopy",
    "--strip-all",
    join(folder, "out", name),
    stripped,
  ], { env: zigEnvironment() });
  return stripped;
}

/**
 * Builds what ships for the platforms given, with cmake and zig.
 * @param {Platform[]} platforms
 */
export async function buildWithZig(platforms) {
  const tools = await findCMake();
  if (!tools) {
    throw new Failure(`cmake 3.21 or newer is needed to build what ships:\n${INSTALL_HINT}`);
  }
  const sources = sourcesHash();
  const stale = platforms.filter((platform) => {
    const stamp = readStamp(platform);
    return stamp?.sources !== sources || stamp.toolchain !== "zig";
  });
  for (const platform of platforms) {
    if (!stale.includes(platform)) say(`lib/${platform} is up to date`);
  }
  if (stale.length === 0) return;
  const zig = await installZig();
  /** @type {Map<string, string>} */
  const workers = new Map();
  for (const platform of stale) {
    const { library, worker } = TARGETS[platform];
    say(`building ${platform} with zig`);
    if (!workers.has(worker)) {
      say(`  the worker: the first time ever takes minutes, zig compiles libc++`);
      workers.set(worker, await buildZigPart(tools, zig, worker, true));
    }
    const built = {
      library: await buildZigPart(tools, zig, library, false),
      worker: /** @type {string} */ (workers.get(worker)),
    };
    publish(platform, built, { sources, toolchain: "zig", compiler: `zig for ${library}` });
  }
}

/**
 * Builds without cmake: one command for each part.
 * @param {Platform} platform
 * @param {ReturnType<typeof systemCompiler>} system null: with zig
 */
async function buildDirectly(platform, system) {
  const zig = system ? null : await installZig();
  if (zig) say("there is no system compiler: zig is used; its first time takes minutes");
  const folder = join(root, "build", "direct");
  mkdirSync(folder, { recursive: true });
  const { library, worker } = TARGETS[platform];
  const include = ["-I", join(root, "csrc", "include"), "-I", join(root, "csrc")];
  const common = [
    "-O2",
    "-DNDEBUG",
    "-D_GNU_SOURCE",
    "-pthread",
    "-fvisibility=hidden",
    ...include,
  ];
  /** @type {[string, string, string[]][]} */
  const parts = [
    [LIBRARY, library, [
      ...["-std=c11", "-shared", "-fPIC"],
      `-Wl,--version-script,${join(root, "csrc", "lmshm.map")}`,
      ...findFiles(["csrc/lmshm"], /\.c$/),
      "-ldl",
    ]],
    [WORKER, worker, [
      ...(zig ? ["-std=c++20", "-static"] : ["-std=c++20"]),
      ...findFiles(["csrc/worker"], /\.cc$/),
    ]],
  ];
  for (const [name, target, args] of parts) {
    const cxx = name === WORKER;
    const compiler = zig ?? (cxx ? system?.cxx : system?.cc) ?? "";
    const prefix = zig ? [cxx ? "c++" : "cc", "-target", target] : [];
    const output = join(folder, name);
    await must(`compiling ${name}`, compiler, [...prefix, ...common, ...args, "-o", output], {
      env: zig ? zigEnvironment() : {},
      log: join(root, "build", "logs", `direct-${name}.log`),
      quiet: true,
    });
  }
  publish(platform, { library: join(folder, LIBRARY), worker: join(folder, WORKER) }, {
    sources: sourcesHash(),
    toolchain: "direct",
    compiler: system?.version ?? `zig for ${library}`,
  });
}

/**
 * Builds the library and the worker for this machine if those in lib/ are missing or stale.
 * @param {object} [options]
 * @param {boolean} [options.again] also when they were made by zig, which set-up accepts
 */
export async function buildForThisMachine(options = {}) {
  const platform = hostPlatform();
  const sources = sourcesHash();
  const stamp = readStamp(platform);
  if (stamp?.sources === sources && !(options.again && stamp.toolchain === "zig")) return;
  const system = systemCompiler();
  const tools = await findCMake();
  if (tools && system) {
    say(`building the native parts with ${system.version}`);
    const folder = await buildPreset(tools, "dev", {
      targets: ["lmshm", WORKER],
      env: { CC: system.cc, CXX: system.cxx },
    });
    const out = join(folder, "out");
    publish(platform, { library: join(out, LIBRARY), worker: join(out, WORKER) }, {
      sources,
      toolchain: "system",
      compiler: system.version,
    });
  } else if (tools) {
    say("there is no system compiler: zig is used; its first time takes minutes");
    await buildWithZig([platform]);
  } else {
    say(`cmake is missing: building without it, and without the native tests. To install it:`);
    console.log(INSTALL_HINT);
    await buildDirectly(platform, system);
  }
}
