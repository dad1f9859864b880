// SPDX-License-Identifier: Apache-2.0
//
// Does what was built for a platform work at all? A small C program loads the library and
// allocates; the worker serves one session on pipes. Another machine's parts run under qemu-user.
// What this machine has no means to run (qemu, or a C library to load with) is skipped aloud.

import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { randomBytes } from "node:crypto";
import { installZig } from "./dependencies.mjs";
import { zigEnvironment } from "./native.mjs";
import { Failure, must, root, say, which } from "./system.mjs";
import { hostPlatform, LIBRARY, TARGETS, WORKER } from "./targets.mjs";

/** @typedef {import("./targets.mjs").Platform} Platform */

const QEMU = { x64: "qemu-x86_64-static", arm64: "qemu-aarch64-static" };
const MACHINE = { x64: "x86_64", arm64: "aarch64" };

/**
 * The words before a command of the platform, or the reason why it cannot run here.
 * @param {Platform} platform
 * @param {boolean} dynamic it needs the platform's own C library
 * @returns {string[] | string}
 */
function runner(platform, dynamic) {
  const [, arch, libc] = /** @type {["linux", "x64" | "arm64", "gnu" | "musl"]} */ (
    platform.split("-")
  );
  const machine = MACHINE[arch];
  const foreign = arch !== process.arch;
  const emulator = foreign ? which(QEMU[arch]) : null;
  if (foreign && !emulator) {
    return `${QEMU[arch]} is missing (Debian: apt-get install qemu-user-static)`;
  }
  const command = emulator ? [emulator] : [];
  if (!dynamic || platform === hostPlatform()) return command;
  const sysroot = foreign ? `/usr/${machine}-linux-${libc}` : "";
  const loader = libc === "musl"
    ? `/lib/ld-musl-${machine}.so.1`
    : `/lib/ld-linux-${machine}.so.1`.replace("linux-x86_64.so.1", "linux-x86-64.so.2");
  if (!existsSync(sysroot + loader)) {
    return `${sysroot}${loader} is missing` +
      (foreign && libc === "gnu" ? " (Debian: apt-get install libc6-arm64-cross)" : "");
  }
  if (sysroot) command.push("-L", sysroot);
  return command;
}

/**
 * @param {string} what
 * @param {string[]} command
 * @param {string} [input]
 * @returns {string} stdout
 */
function expectSuccess(what, command, input = "") {
  const options = /** @type {const} */ ({ input, encoding: "utf8", timeout: 60_000 });
  const { status, signal, stdout, stderr, error } = spawnSync(
    command[0],
    command.slice(1),
    options,
  );
  if (status !== 0) {
    throw new Failure(
      `${what}: ${error?.message ?? `ended with ${signal ?? `status ${status}`}`}\n` +
        `${command.join(" ")}\n${stdout}${stderr}`,
    );
  }
  return stdout;
}

/**
 * The compiler of a program that can load the platform's library. Not zig for musl: it links every
 * program statically then, and a static program loads nothing.
 * @param {Platform} platform
 * @returns {Promise<string[] | string>} or why there is none
 */
async function programCompiler(platform) {
  if (!platform.endsWith("musl")) {
    return [await installZig(), "cc", "-target", TARGETS[platform].library];
  }
  if (platform === hostPlatform()) return ["cc"];
  const arch = platform.split("-")[1];
  const musl = arch === process.arch ? which("musl-gcc") : null;
  return musl ? [musl] : `no compiler for ${platform} programs` +
    (arch === process.arch ? " (Debian: apt-get install musl-tools)" : "");
}

/** @param {Platform} platform @param {string} folder for temporary files */
async function smokeLibrary(platform, folder) {
  const command = runner(platform, true);
  if (typeof command === "string") return `library skipped: ${command}`;
  const compiler = await programCompiler(platform);
  if (typeof compiler === "string") return `library skipped: ${compiler}`;
  const program = join(folder, "smoke");
  const source = join(root, "tests", "native", "smoke.c");
  await must("compiling the smoke test", compiler[0], [
    ...[...compiler.slice(1), "-O2", "-std=c11", "-D_GNU_SOURCE"],
    ...[source, "-o", program, "-ldl"],
  ], { env: zigEnvironment(), log: join(folder, "log"), quiet: true });
  const library = join(root, "lib", platform, LIBRARY);
  const name = `/lmshm-smoke-library-${process.pid}`;
  expectSuccess(`smoke test of ${library}`, [...command, program, library, name]);
  return "library works";
}

/** @param {Platform} platform @param {string} folder for temporary files */
function smokeWorker(platform, folder) {
  const command = runner(platform, false);
  if (typeof command === "string") return `worker skipped: ${command}`;
  const worker = join(root, "lib", platform, WORKER);
  const length = 12_345;
  const sizeBytes = 65_536;
  const base = 4096;
  const readAt = 32_768;
  const name = `lmshm-smoke-worker-${process.pid}`;
  const segment = join("/dev/shm", name);
  const object = join(folder, "an object");
  const content = randomBytes(length);
  writeFileSync(segment, Buffer.concat([content, Buffer.alloc(sizeBytes - length)]), {
    mode: 0o600,
  });
  try {
    const requests = [
      [`ATTACH /${name} ${sizeBytes} ${base}`, /^OK\b/],
      [`WRITE ${object} ${base} ${length}`, new RegExp(`^OK ${length}$`)],
      [`READ ${object} ${base + readAt} ${length}`, new RegExp(`^OK ${length}$`)],
      [`READ ${object}.missing ${base} 1`, /^ERROR ENOENT\b/],
      [`READ ${object} ${base + sizeBytes} 1`, /^ERROR\b/],
      ["QUIT", /^OK$/],
    ];
    const input = requests.map(([line]) => `${line}\n`).join("");
    const what = `smoke test of ${worker}`;
    const answers = expectSuccess(what, [...command, worker], input).trimEnd().split("\n");
    requests.forEach(([line, expected], index) => {
      if (!(/** @type {RegExp} */ (expected).test(answers[index] ?? ""))) {
        throw new Failure(`${what}: "${line}" was answered "${answers[index]}", not ${expected}`);
      }
    });
    if (!readFileSync(object).equals(content)) {
      throw new Failure(`${what}: the file differs from what was written`);
    }
    if (!readFileSync(segment).subarray(readAt, readAt + length).equals(content)) {
      throw new Failure(`${what}: what was read differs from what was written`);
    }
  } finally {
    rmSync(segment, { force: true });
  }
  return "worker works";
}

/**
 * Tries what lib/<platform>/ holds, and says how it went.
 * @param {Platform} platform
 */
export async function smokeTest(platform) {
  const folder = mkdtempSync(join(tmpdir(), "lmshm-smoke-"));
  try {
    const library = await smokeLibrary(platform, folder);
    say(`lib/${platform}: ${library}, ${smokeWorker(platform, folder)}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
