// SPDX-License-Identifier: Apache-2.0
//
// A user's program as one executable: compiled in every way that Bun has, and run where there is
// nothing but the file, and where the system forbids one thing or another. Everything that mounts
// or sets something does so in namespaces of its own.

import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { checkCommand } from "./command_check.mjs";
import { pinnedTool } from "./dependencies.mjs";
import { buildWithZig } from "./native.mjs";
import { zero } from "./results.mjs";
import { capture, findFiles, must, root, run, say, which } from "./system.mjs";
import { hostPlatform, LIBRARY, TARGETS, WORKER } from "./targets.mjs";

/** @typedef {import("./targets.mjs").Platform} Platform */

/** What tests/fixtures/embedded_program.ts prints when all is well. */
const WELL = /^stored and loaded 4096 bytes of 7\n$/;
const STARTS = 100;

/** The ways to bundle, by the options of `bun build`. */
const WAYS = [
  ["--compile"],
  ["--compile", "--minify"],
  ["--compile", "--bytecode"],
  ["--compile", "--bytecode", "--format=esm", "--minify"],
  ["--compile", "--bytecode", "--format=esm", "--splitting"],
  ["--target=bun", "--outdir=bundle"],
];

/** Mounts what a root needs below $1, copies the program $2 and the files after it there. */
const BARE_ROOT = `
root=$1 program=$2; shift 2
mount -t tmpfs tmpfs "$root" && mkdir -p "$root/proc" "$root/dev/shm" "$root/tmp" || exit 99
cp "$program" "$root/program" || exit 99
for pair; do
  to=$root\${pair#*=}
  mkdir -p "$(dirname "$to")" && cp -L "\${pair%%=*}" "$to" || exit 99
done
mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/dev/shm" || exit 99
list() { (cd "$root" && find . -path ./proc -prune -o -print | sort); }
before=$(list)
i=0
while [ $i -lt ${STARTS} ]; do
  said=$(chroot "$root" /program 2>&1) || { echo "start $i: $said"; exit 1; }
  i=$((i + 1))
done
[ "$before" = "$(list)" ] || { echo "left behind: $(list)"; exit 1; }
rmdir "$root/tmp" && mkdir "$root/store" || exit 99
exec chroot "$root" /program /store
`;

/** Where lmshm is installed as a package manager does it: JavaScript, and the parts of lib/. */
async function userTree(/** @type {string} */ folder, /** @type {Platform[]} */ platforms) {
  const own = join(folder, "node_modules", "lmshm");
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  await must("tsc", pinnedTool("tsc"), [
    ...["--ignoreConfig", "--rewriteRelativeImportExtensions", "--skipLibCheck", "--target"],
    ...["ESNext", "--module", "ESNext", "--moduleResolution", "bundler", "--types", "bun,deno"],
    ...["--lib", "ESNext,ESNext.Disposable", "--rootDir", join(root, "src"), "--outDir"],
    ...[join(own, "dist"), join(root, "src", "mod.ts"), join(root, "src", "embed.ts")],
  ]);
  const entries = { ".": "./dist/mod.js", "./embed": "./dist/embed.js" };
  const manifest = { name: "lmshm", version, type: "module", exports: entries };
  writeFileSync(join(own, "package.json"), JSON.stringify(manifest));
  for (const platform of platforms) {
    const name = `@lmshm/${platform}`;
    const parts = join(folder, "node_modules", name);
    mkdirSync(parts, { recursive: true });
    for (const part of [LIBRARY, WORKER]) {
      copyFileSync(join(root, "lib", platform, part), join(parts, part));
    }
    const exports = { "./package.json": "./package.json", "./*": "./*" };
    writeFileSync(join(parts, "package.json"), JSON.stringify({ name, version, exports }));
  }
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "user", type: "module" }));
  copyFileSync(join(root, "tests", "fixtures", "embedded_program.ts"), join(folder, "main.ts"));
}

/** What a step of it found wrong, or null. @typedef {string | null} Finding */

/**
 * @param {string[]} command
 * @param {{ cwd?: string, env?: Record<string, string> }} [options]
 */
function tryOut(command, options = {}) {
  const { status, signal, stdout, stderr, error } = spawnSync(command[0], command.slice(1), {
    encoding: "utf8",
    timeout: 5 * 60_000,
    cwd: options.cwd,
    env: { ...process.env, LMSHM_LIBRARY: "", LMSHM_WORKER: "", ...options.env },
  });
  return {
    ok: status === 0,
    stdout: stdout ?? "",
    text: `${error ?? signal ?? ""}${stdout}${stderr}`,
  };
}

/** @param {string[]} command @param {RegExp} [expected] @returns {Finding} */
function finding(command, expected = WELL, options = {}) {
  const { stdout, text } = tryOut(command, options);
  return expected.test(expected === WELL ? stdout : text) ? null : text.slice(-2000);
}

/** Runs a script of sh in namespaces of its own, with a /dev/shm of its own. @param {string} script */
function inNamespaces(script, /** @type {string[]} */ ...args) {
  const own = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm || exit 99\n";
  return [
    ...["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private"],
    ...["sh", "-c", own + script, "sh", ...args],
  ];
}

/**
 * The pairs "file=place in the root" that a program of glibc needs: its loader and its libraries.
 * @param {string} program
 */
function librariesOf(program) {
  const listed = capture("ldd", [program]) ?? "";
  return [...listed.matchAll(/(?:=> )?(\/\S+)/g)].map(([, path]) => `${path}=${path}`);
}

/**
 * The same for a program of musl: the loader of Debian's package musl, and a C++ library from a wheel
 * for musl, old enough for that loader, with the two functions that it lacks and nothing calls.
 * @returns {Promise<string[] | string>} or why there are none
 */
async function muslLibraries() {
  const loader = "/lib/ld-musl-x86_64.so.1";
  if (process.arch !== "x64") return "the libraries of musl are known for x64 only";
  if (!existsSync(loader)) return `${loader} is missing (Debian: apt-get install musl-tools)`;
  const compiler = which("musl-gcc");
  const python = which("python3");
  if (!compiler || !python) return `${compiler ? "python3" : "musl-gcc"} is missing`;
  const folder = join(root, "build", "tools", "musl");
  // The wheel's libstdc++ is older than Bun's and lacks two functions, which only end the program:
  // a library of its name has those and needs it.
  const newer = join(folder, "libstdc++.so.6");
  if (!existsSync(newer)) {
    await run(python, [
      ...["-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--timeout", "20"],
      ...["--disable-pip-version-check", "--root-user-action", "ignore", "--only-binary=:all:"],
      ...["--platform", "musllinux_1_1_x86_64", "--python-version", "3.11", "--target", folder],
      "kiwisolver==1.4.4",
    ], { log: join(root, "build", "logs", "musl.log"), quiet: true, timeoutMs: 2 * 60_000 });
    const real = findFiles(["build/tools/musl/kiwisolver.libs"], /libstdc\+\+/)[0];
    if (real === undefined) return "no C++ library for musl can be fetched";
    const source = join(folder, "newer.c");
    const names = ["_ZSt28__throw_bad_array_new_lengthv", "_ZSt21__glibcxx_assert_failPKciS0_S0_"];
    writeFileSync(
      source,
      names.map((name) => `void ${name}(void) { __builtin_trap(); }\n`).join(""),
    );
    await must("musl-gcc", compiler, [
      ...["-shared", "-fPIC", source, "-o", newer, "-Wl,-soname,libstdc++.so.6"],
      ...["-Wl,--no-as-needed", join(root, real)],
    ]);
  }
  const libraries = findFiles(["build/tools/musl/kiwisolver.libs"], /\.so/);
  return [
    ...[loader, "/lib/libc.musl-x86_64.so.1"].map((place) => `${loader}=${place}`),
    `${newer}=/lib/libstdc++.so.6`,
    ...libraries.map((path) => `${join(root, path)}=/lib/${path.replace(/.*\//, "")}`),
  ];
}

/** @param {string} program @param {Platform} platform @returns {Finding} */
function partsMissing(program, platform) {
  const bytes = readFileSync(program);
  const missing = [LIBRARY, WORKER].filter((part) =>
    !bytes.includes(readFileSync(join(root, "lib", platform, part)))
  );
  return missing.length === 0 ? null : `${missing.join(" and ")} is not in it`;
}

/** @returns {string | null} why nothing can be mounted here */
function cannotMount() {
  if (!which("unshare")) return "unshare is missing (Debian: apt-get install util-linux)";
  return tryOut(inNamespaces("exit 0")).ok ? null : "namespaces cannot be made here";
}

/**
 * The step: everything that is said above, counted.
 * @returns {Promise<import("./results.mjs").Counts>}
 */
export async function checkExecutables() {
  const counts = zero();
  const note = (/** @type {string} */ name, /** @type {Finding} */ found) => {
    if (found === null) counts.passed++;
    else counts.failed++;
    say(`${name}: ${found === null ? "ok" : `FAILED\n${found}`}`);
  };
  const skip = (/** @type {string} */ name, /** @type {string} */ why) => {
    counts.skipped++;
    say(`${name}: skipped: ${why}`);
  };
  const platforms = /** @type {Platform[]} */ (Object.keys(TARGETS));
  await buildWithZig(platforms);
  const folder = mkdtempSync(join(tmpdir(), "lmshm-executable-"));
  try {
    await userTree(folder, platforms);
    const modules = join(folder, "node_modules");
    const bun = pinnedTool("bun");
    const build = (/** @type {string[]} */ ...options) => {
      const built = tryOut([bun, "build", ...options, "main.ts"], { cwd: folder });
      return built.ok ? null : built.text;
    };
    for (const way of WAYS) {
      const compiled = way[0] === "--compile";
      const failure = build(...way, ...(compiled ? ["--outfile=one"] : []));
      const command = compiled ? [join(folder, "one")] : [bun, join(folder, "bundle", "main.js")];
      // What was there when it was built is not there where it runs.
      renameSync(modules, `${modules}.aside`);
      note(`bun build ${way.join(" ")}`, failure ?? finding([...command, folder]));
      renameSync(`${modules}.aside`, modules);
    }
    for (const platform of platforms) {
      const file = `for-${platform}`;
      const target = `--target=bun-${platform.replace("-gnu", "")}`;
      const failure = build("--compile", target, `--outfile=${file}`);
      const name = `compiled for ${platform}`;
      if (failure?.includes("Failed to download")) skip(name, failure.trim());
      else note(name, failure ?? partsMissing(join(folder, file), platform));
      if (!platform.includes(`-${process.arch}-`)) rmSync(join(folder, file), { force: true });
    }
    checkMissing(folder, build, note);
    const why = cannotMount();
    if (why) skip("where there is nothing but the file", why);
    else {
      await checkPlaces(folder, note, skip);
      note(
        "the command, as an operator",
        checkCommand(folder, tryOut, inNamespaces, hostPlatform()),
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return counts;
}

/**
 * A program that is built where the parts for its system are not installed, or without the line.
 * @param {string} folder
 * @param {(...options: string[]) => Finding} build
 * @param {(name: string, found: Finding) => void} note
 */
function checkMissing(folder, build, note) {
  const host = hostPlatform();
  const scope = join(folder, "node_modules", "@lmshm");
  const fix = `Install @lmshm/${host} where the program is built`;
  for (
    const [what, path, expected] of [
      ["this system's parts", join(scope, host), `carries the parts for .* only.*${fix}`],
      ["any parts", scope, `built where none of the parts were installed.*${fix}`],
    ]
  ) {
    renameSync(path, join(folder, "aside"));
    const failure = build("--compile", "--outfile=without");
    note(
      `built without ${what}`,
      failure ?? finding([join(folder, "without"), folder], new RegExp(expected)),
    );
    renameSync(join(folder, "aside"), path);
  }
  const main = join(folder, "main.ts");
  const text = readFileSync(main, "utf8");
  writeFileSync(main, text.replace('import "lmshm/embed";', ""));
  // With packages in the current directory, which are not the executable's.
  for (const way of [["--compile"], ["--compile", "--bytecode"]]) {
    const bare = build(...way, "--outfile=without");
    note(
      `built without the line, by bun build ${way.join(" ")}`,
      bare ?? finding(
        [join(folder, "without"), folder],
        /an executable has no packages.*add `import "lmshm\/embed"` to the program/,
        { cwd: folder },
      ),
    );
  }
  writeFileSync(main, text);
}

/**
 * @param {string} folder
 * @param {(name: string, found: Finding) => void} note
 * @param {(name: string, why: string) => void} skip
 */
async function checkPlaces(folder, note, skip) {
  const top = join(folder, "root");
  mkdirSync(top);
  const host = hostPlatform();
  const gnu = join(folder, "for-linux-x64-gnu");
  const program = join(folder, `for-${host}`);
  if (process.arch === "x64") {
    const bare = inNamespaces(BARE_ROOT, top, gnu, ...librariesOf(gnu));
    note(`${STARTS} starts where there is nothing but the file, glibc`, finding(bare));
  }
  const forMusl = join(folder, "for-linux-x64-musl");
  const musl = existsSync(forMusl) ? await muslLibraries() : "it was not compiled";
  const name = `${STARTS} starts where there is nothing but the file, musl`;
  if (typeof musl === "string") skip(name, musl);
  else {note(
      name,
      finding(inNamespaces(BARE_ROOT, top, forMusl, ...musl)),
    );}

  const noexec = (/** @type {number} */ value) =>
    inNamespaces(
      `echo ${value} > /proc/sys/vm/memfd_noexec || exit 99; "$1" "$2"`,
      program,
      folder,
    );
  if (tryOut(inNamespaces("test -w /proc/sys/vm/memfd_noexec")).ok) {
    note("vm.memfd_noexec 1", finding(noexec(1)));
    note(
      "vm.memfd_noexec 2 is said",
      finding(noexec(2), /no program run from memory.*memfd_noexec is 2.*LMSHM_WORKER/),
    );
  } else skip("vm.memfd_noexec", "this kernel has it not");

  // The program and what it stores lie elsewhere than in /tmp.
  const setUp = 'mkdir /dev/shm/d && cp "$1" /dev/shm/p && chmod 755 /dev/shm/p || exit 99\n';
  for (
    const [what, how] of [
      ["noexec", "mount -t tmpfs -o noexec tmpfs /tmp"],
      ["read-only", "mount -t tmpfs -o ro tmpfs /tmp"],
    ]
  ) {
    const script = `${setUp}{ ${how}; } || exit 99; cd /; exec /dev/shm/p /dev/shm/d`;
    note(`a temporary directory that is ${what}`, finding(inNamespaces(script, program)));
  }

  const setcap = which("setcap") ?? which("/usr/sbin/setcap");
  const capable = `${setUp}chmod 1777 /dev/shm/d; ${setcap} cap_ipc_lock+ep /dev/shm/p || exit 99
cd /; exec su nobody -s /bin/sh -c "exec /dev/shm/p /dev/shm/d"`;
  if (!setcap || !which("su")) {
    skip(
      "a program with file capabilities",
      "setcap is missing (Debian: apt-get install libcap2-bin)",
    );
  } else note("a program with file capabilities", finding(inNamespaces(capable, program)));
}
