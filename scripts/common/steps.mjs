// SPDX-License-Identifier: Apache-2.0
//
// The steps of the gate. Each returns when it is content, throws a Failure that says what to repair,
// or throws Skipped when this machine lacks a tool; one that runs tests returns their counts.

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setUp } from "../setup.mjs";
import { checkDocuments } from "./check_documents.mjs";
import { checkPackages } from "./consumers.mjs";
import { pinnedTool } from "./dependencies.mjs";
import { checkExecutables } from "./executable.mjs";
import { layoutProblems } from "./layout.mjs";
import { buildPreset, buildWithZig } from "./native.mjs";
import { checkProto } from "./proto.mjs";
import { failuresOf, fuzzerSaid } from "./recap.mjs";
import { sum, zero } from "./results.mjs";
import { smokeTest } from "./smoke.mjs";
import { devBuild, runCtest, runSuites, SUITES } from "./suites.mjs";
import {
  capture,
  Failure,
  findFiles,
  must,
  root,
  run,
  say,
  selfCommand,
  Skipped,
  which,
} from "./system.mjs";
import {
  hostPlatform,
  LIBRARY,
  readStamp,
  sha256,
  sourcesHash,
  TARGETS,
  WORKER,
} from "./targets.mjs";
import { findCMake, systemCompiler } from "./toolchain.mjs";

/** @typedef {import("./recap.mjs").Failed} Failed */
/** @typedef {import("./results.mjs").Counts & { failures?: Failed[] }} Counts */

const ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12";

const platforms = /** @type {import("./targets.mjs").Platform[]} */ (Object.keys(TARGETS));

/**
 * What several suites came to.
 * @param {import("./suites.mjs").SuiteResult[]} results
 * @returns {Counts}
 */
function together(results) {
  return { ...sum(results), failures: failuresOf(results) };
}

/** Everything, for the suites that a step runs. */
const all = { files: [] };

/**
 * must(), with a log, so that what the tool says can be told again at the end.
 * @param {string} what its first word names the log
 * @param {string} command
 * @param {string[]} args
 */
async function tool(what, command, args) {
  const log = join(root, "build", "logs", `${what.replace(/ \(.*/, "").replaceAll(" ", "-")}.log`);
  await must(what, command, args, { log });
}

/** clang-format 14: other versions format differently. */
function clangFormat() {
  const found = ["clang-format-14", "clang-format"].map(which).find((path) =>
    path && capture(path, ["--version"])?.includes("version 14.")
  );
  return found ?? null;
}

async function format() {
  await tool("deno fmt (repair: npx deno fmt)", pinnedTool("deno"), ["fmt", "--check"]);
  const formatter = clangFormat();
  if (!formatter) throw new Skipped("clang-format 14 is missing; TypeScript is formatted well");
  const sources = findFiles(["csrc", "tests/native", "tests/fuzz"], /\.(c|cc|h|hh)$/);
  await tool("clang-format (repair: clang-format -i)", formatter, [
    "--dry-run",
    "-Werror",
    ...sources,
  ]);
}

async function lint() {
  await tool("deno lint", pinnedTool("deno"), ["lint", "--quiet"]);
  // Every public name has a description, and names nothing that is not public.
  const { exports: entries } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const paths = /** @type {string[]} */ (Object.values(entries))
    .filter((path) => path.endsWith(".ts"));
  await tool("deno doc --lint", pinnedTool("deno"), ["doc", "--quiet", "--lint", ...paths]);
  const shellcheck = which("shellcheck");
  if (!shellcheck) throw new Skipped("shellcheck is missing; TypeScript is linted well");
  const shellScripts = [join(root, ".ci", "run"), join(root, "scripts", "gpu_check.sh")];
  await tool("shellcheck", shellcheck, shellScripts);
}

async function types() {
  const page = "src/cli/dashboard/page/tsconfig.json";
  for (const config of ["tsconfig.json", "scripts/tsconfig.json", page]) {
    await tool("tsc", pinnedTool("tsc"), ["--noEmit", "-p", config]);
  }
  const sources = findFiles(["src", "tests", "examples"], /\.ts$/);
  await tool("deno check", pinnedTool("deno"), ["check", "--quiet", ...sources]);
}

/** The workflows, by actionlint, which Go fetches and builds where it is missing. */
async function workflows() {
  const folder = join(root, "build", "tools", "go");
  const own = join(folder, "bin", "actionlint");
  const find = () => which("actionlint") ?? which(own);
  const go = which("go");
  if (!find() && go) {
    say("actionlint is missing: fetching it into build/tools");
    await run(go, ["install", ACTIONLINT], {
      env: {
        GOPATH: folder,
        GOBIN: "",
        GOCACHE: join(folder, "cache"),
        GOFLAGS: "-modcacherw",
        GOTOOLCHAIN: "local",
      },
      log: join(root, "build", "logs", "actionlint.log"),
      quiet: true,
      timeoutMs: 5 * 60_000,
    });
    for (const name of ["cache", "pkg"]) {
      rmSync(join(folder, name), { recursive: true, force: true });
    }
  }
  const actionlint = find();
  if (!actionlint) {
    throw new Skipped(`actionlint is missing, and ${go ? "Go got none" : "so is Go"}`);
  }
  await tool("actionlint", actionlint, findFiles([".github/workflows"], /\.ya?ml$/));
}

function layout() {
  const problems = layoutProblems();
  if (problems.length > 0) throw new Failure(problems.join("\n"));
}

/** The functions that a built library shows must be those of csrc/lmshm.map. */
async function exports() {
  await setUp();
  if (!which("nm")) throw new Skipped("nm is missing (Debian: apt-get install binutils)");
  const map = readFileSync(join(root, "csrc", "lmshm.map"), "utf8").replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/#.*/g, "");
  const listed = [...(/global:([\s\S]*?)local:/.exec(map)?.[1] ?? "").matchAll(/\w+/g)]
    .map(([name]) => name).sort();
  if (listed.length === 0) throw new Failure("csrc/lmshm.map lists no symbol");
  const sources = sourcesHash();
  for (const platform of platforms) {
    if (readStamp(platform)?.sources !== sources) continue;
    const library = join(root, "lib", platform, LIBRARY);
    const shown = (capture("nm", ["-D", "--defined-only", "--format=posix", library]) ?? "")
      .split("\n").map((line) => line.split(/[ @]/)[0]).filter((name) => /^[a-z]/.test(name))
      .sort();
    const missing = listed.filter((name) => !shown.includes(name));
    const extra = shown.filter((name) => !listed.includes(name));
    if (missing.length + extra.length > 0) {
      throw new Failure(
        `${library} differs from csrc/lmshm.map: missing ${missing.join(", ") || "none"}; ` +
          `not listed ${extra.join(", ") || "none"}`,
      );
    }
  }
}

/** cmake, and the environment in which it finds the system's compiler. */
async function nativeTools() {
  const tools = await findCMake();
  if (!tools) throw new Skipped("cmake is missing");
  const system = systemCompiler();
  if (!system) throw new Skipped("there is no system compiler that works");
  return { tools, env: { CC: system.cc, CXX: system.cxx } };
}

/**
 * The system's compiler must have nothing to say, about the optimized build too; and clang nothing
 * about the worker's locks, where it is there.
 */
async function warnings() {
  const { tools, env } = await nativeTools();
  await buildPreset(tools, "dev", { ...devBuild(true), env });
  const clang = which("clang++-19") ?? which("clang++");
  if (!clang) return say("no clang++: the worker's locks are not checked");
  const sources = findFiles(["csrc/worker"], /\.cc$/).map((path) => join(root, path));
  const flags = ["-std=c++20", "-D_GNU_SOURCE", "-fsyntax-only", "-Wthread-safety", "-Werror"];
  const include = ["-I", join(root, "csrc"), "-I", join(root, "csrc", "include")];
  const log = join(root, "build", "logs", "thread-safety.log");
  const status = await run(clang, [...flags, ...include, ...sources], { log });
  if (status !== 0) throw new Failure(`clang finds locks that are not held: see ${log}`);
}

/** @param {"asan" | "tsan"} preset */
async function sanitizer(preset) {
  const { tools, env } = await nativeTools();
  return await runCtest(tools, preset, preset, all, { env });
}

async function fuzz() {
  const tools = await findCMake();
  if (!tools) throw new Skipped("cmake is missing");
  if (!which("clang-19")) {
    throw new Skipped("clang-19 is missing (Debian: apt-get install clang-19 libclang-rt-19-dev)");
  }
  const folder = await buildPreset(tools, "fuzz");
  const seconds = process.env.LMSHM_FUZZ_SECONDS ?? "20";
  const counts = { ...zero(), failures: /** @type {Failed[]} */ ([]) };
  const targets = findFiles(["tests/fuzz"], /\.cc$/).map((path) => path.replace(/.*\/|\.cc$/g, ""));
  for (const target of targets) {
    const found = join(folder, "corpus", target);
    mkdirSync(found, { recursive: true });
    const kept = join(root, "tests", "fuzz", "corpus", target.replace(/_fuzz$/, ""));
    const log = join(root, "build", "logs", `fuzz-${target}.log`);
    say(`fuzzing ${target} for ${seconds} s`);
    const status = await run(join(folder, "out", target), [
      ...[`-max_total_time=${seconds}`, "-timeout=10", "-rss_limit_mb=2048", "-verbosity=1"],
      ...[`-artifact_prefix=${join(folder, `${target}-`)}`, found],
      ...(existsSync(kept) ? [kept] : []),
    ], { log, quiet: true, cwd: folder });
    if (status === 0) counts.passed++;
    else {
      counts.failed++;
      const said = readFileSync(log, "utf8");
      const written = said.match(/Test unit written to (.+)$/m)?.[1];
      const input = written && existsSync(written) ? readFileSync(written) : undefined;
      counts.failures.push({ name: target, text: fuzzerSaid(said, input) });
      console.error(`${said.slice(-4000)}\n${target} failed: ${log}`);
    }
  }
  if (targets.length === 0) throw new Failure("tests/fuzz holds no target");
  return counts;
}

/** What ships, on this machine: both runtimes must pass with it. */
async function zig() {
  const platform = hostPlatform();
  await buildWithZig([platform]);
  await smokeTest(platform);
  // Nothing of a page is native: the step "test" has looked at it.
  process.env.LMSHM_WITHOUT_BROWSER = "true";
  try {
    return together(await runSuites(["bun", "deno"], all));
  } finally {
    delete process.env.LMSHM_WITHOUT_BROWSER;
  }
}

/** What ships, for every platform: it runs, and comes out the same from another folder. */
async function release() {
  await buildWithZig(platforms);
  for (const platform of platforms) await smokeTest(platform);
  const copy = mkdtempSync(join(tmpdir(), "lmshm-elsewhere-"));
  try {
    const names = ["CMakeLists.txt", "CMakePresets.json", "package.json", "package-lock.json"];
    const others = ["cmake", "csrc", "scripts", "tests/native/smoke.c"];
    for (const name of [...names, ...others]) {
      cpSync(join(root, name), join(copy, name), {
        recursive: true,
        filter: (path) => !path.endsWith("node_modules"),
      });
    }
    for (const name of ["node_modules", "scripts/zig/node_modules"]) {
      symlinkSync(join(root, name), join(copy, name));
    }
    say(`building everything again in ${copy}`);
    const [command, args] = selfCommand([join(copy, "scripts", "build.mjs"), "--all"]);
    const log = join(root, "build", "logs", "elsewhere.log");
    await must("building elsewhere", command, args, { cwd: copy, log, quiet: true });
    for (const platform of platforms) {
      for (const name of [LIBRARY, WORKER]) {
        const [here, there] = [root, copy].map((top) => sha256(join(top, "lib", platform, name)));
        if (here !== there) {
          throw new Failure(
            `lib/${platform}/${name} depends on where it is built: ${here} ${there}`,
          );
        }
      }
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

/** Each benchmark still runs, in small; what it measures on a busy machine says nothing. */
async function bench() {
  await setUp();
  await must("npm run bench -- --quick", pinnedTool("bun"), [
    ...["run", "tests/bench/main.ts", "--quick"],
  ], { log: join(root, "build", "logs", "bench.log"), quiet: true });
}

async function test() {
  await setUp();
  return together(await runSuites(SUITES, all));
}

/** Every step by name, in the order of running: the quick ones first. */
export const STEPS = /** @type {Record<string, () => void | Promise<void | Counts>>} */ ({
  format,
  lint,
  types,
  layout,
  docs: checkDocuments,
  proto: checkProto,
  workflows,
  exports,
  warnings,
  test,
  asan: () => sanitizer("asan"),
  tsan: () => sanitizer("tsan"),
  fuzz,
  zig,
  release,
  packages: checkPackages,
  executable: checkExecutables,
  bench,
});
