// SPDX-License-Identifier: Apache-2.0
//
// Which tools this machine has for the native build: a system compiler that really works, cmake,
// ninja. Where cmake is missing it is fetched from the Python package index into build/tools, when
// python3 has pip; where that fails too, the caller builds without cmake.

import { existsSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { capture, root, run, say, which } from "./system.mjs";

const CMAKE_MINIMUM = [3, 21];
const CMAKE_PACKAGES = ["cmake==3.31.6", "ninja==1.11.1.4"];

/** What to install for a complete native build, by system. */
export const INSTALL_HINT = [
  "Debian, Ubuntu:  apt-get install cmake ninja-build g++",
  "Fedora, RHEL:    dnf install cmake ninja-build gcc-c++",
  "Alpine:          apk add cmake samurai g++ linux-headers",
  "macOS:           brew install cmake ninja  (cross-builds only)",
].map((line) => `  ${line}`).join("\n");

/** A program that needs what the sources need: threads, C++20, the kernel's headers. */
const PROBES = {
  c: "#include <pthread.h>\n#include <sys/mman.h>\n#include <linux/mempolicy.h>\nint main(void) { return 0; }\n",
  "c++":
    "#include <span>\n#include <thread>\nint main() { std::span<int> s; return static_cast<int>(s.size()); }\n",
};

/**
 * The system's compilers, or null unless both compile and link.
 * @returns {{ cc: string, cxx: string, version: string } | null}
 */
export function systemCompiler() {
  /** @type {Record<"c" | "c++", string | undefined>} */
  const found = { c: undefined, "c++": undefined };
  const candidates = {
    c: [process.env.CC, "cc", "gcc", "clang"],
    "c++": [process.env.CXX, "c++", "g++", "clang++"],
  };
  for (const language of /** @type {const} */ (["c", "c++"])) {
    const standard = language === "c" ? "c11" : "c++20";
    const args = [`-std=${standard}`, "-pthread", "-x", language, "-", "-o", "/dev/null"];
    found[language] = candidates[language].find((name) => {
      const path = name ? which(name) : null;
      return path !== null && capture(path, args, { input: PROBES[language] }) !== null;
    });
  }
  const { c: cc, "c++": cxx } = found;
  if (!cc || !cxx) return null;
  return { cc, cxx, version: (capture(cxx, ["--version"]) ?? cxx).split("\n")[0] };
}

/** @param {string | null} path */
function recentEnough(path) {
  const text = path && capture(path, ["--version"]);
  const found = text && /version (\d+)\.(\d+)/.exec(text);
  if (!found) return false;
  const [major, minor] = [Number(found[1]), Number(found[2])];
  return major > CMAKE_MINIMUM[0] || (major === CMAKE_MINIMUM[0] && minor >= CMAKE_MINIMUM[1]);
}

/** @typedef {{ cmake: string, ctest: string, ninja: string | null }} CMake */

/**
 * cmake of the system or of build/tools, fetched there if need be; null when there is no way.
 * @returns {Promise<CMake | null>}
 */
export async function findCMake() {
  const system = which("cmake");
  if (recentEnough(system)) {
    return { cmake: "cmake", ctest: "ctest", ninja: which("ninja") };
  }
  const tools = join(root, "build", "tools", "python");
  const bin = join(tools, "cmake", "data", "bin");
  const fetched = () => {
    if (!recentEnough(join(bin, "cmake"))) return null;
    const ninja = join(tools, "bin", "ninja");
    return {
      cmake: join(bin, "cmake"),
      ctest: join(bin, "ctest"),
      ninja: existsSync(ninja) ? ninja : which("ninja"),
    };
  };
  const python = which("python3");
  if (fetched() === null && python && capture(python, ["-m", "pip", "--version"]) !== null) {
    say(`${system ? "cmake is too old" : "cmake is missing"}: fetching it into build/tools`);
    const args = ["-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20"];
    await run(python, [...args, "--upgrade", "--target", tools, ...CMAKE_PACKAGES], {
      log: join(root, "build", "logs", "pip.log"),
      quiet: true,
      timeoutMs: 5 * 60_000,
    });
  }
  return fetched();
}
