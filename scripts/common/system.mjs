// SPDX-License-Identifier: Apache-2.0
//
// What every script needs: where the repository is, finding programs, running them within a time
// limit. Only node: builtins, so that node, bun and deno run these scripts alike, from nothing.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  accessSync,
  constants as fsConstants,
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
} from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join, relative } from "node:path";
import process from "node:process";
import { StringDecoder } from "node:string_decoder";
import { fileURLToPath } from "node:url";

/** The repository's root. */
export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** A failure whose message says everything: printed without a stack. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {string} [said] the end of what a command printed
   */
  constructor(message, said = "") {
    super(message);
    this.said = said;
  }
}

/** Thrown by a step of the gate that lacks a tool. */
export class Skipped extends Error {}

/** @param {string} text one line of progress */
export function say(text) {
  console.log(`lmshm: ${text}`);
}

/**
 * Runs a script's main function and sets the exit status: what it returns, or 1 when it throws.
 * @param {() => Promise<number | void>} main
 */
export async function runMain(main) {
  try {
    process.exitCode = (await main()) ?? 0;
  } catch (error) {
    const words = failureWords(error);
    console.error(words === null ? error : `lmshm: ${words}`);
    process.exitCode = 1;
  }
}

/**
 * What a user is told of a failure; null where only its stack helps.
 * @param {unknown} error
 */
function failureWords(error) {
  if (error instanceof Failure) return error.message;
  if (!(error instanceof Error) || !("code" in error && "syscall" in error)) return null;
  // A read-only tree answers mkdir -p with ENOENT in some runtimes.
  const { code, syscall } = error;
  return code === "ENOENT" && syscall === "mkdir" ||
      /^(EACCES|EPERM|EROFS|ENOSPC|EDQUOT|ENOTDIR|EISDIR|EEXIST)$/.test(String(code))
    ? `${error.message}; build/, lib/, dist/ and node_modules/ of ${root} must be writable ` +
      "directories with room"
    : null;
}

/**
 * The full path of a program, or null. A name with a slash is taken as it is.
 * @param {string} name
 * @returns {string | null}
 */
export function which(name) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  const paths = name.includes("/") ? [name] : folders.map((folder) => join(folder, name));
  return paths.find((path) => {
    try {
      accessSync(path, fsConstants.X_OK);
      return statSync(path).isFile();
    } catch {
      return false;
    }
  }) ?? null;
}

/**
 * The files below folders of the repository, as sorted paths relative to its root.
 * @param {string[]} folders those that do not exist are empty
 * @param {RegExp} pattern of the file's name
 */
export function findFiles(folders, pattern) {
  return folders.filter((folder) => existsSync(join(root, folder))).flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && pattern.test(entry.name))
      .map((entry) => relative(root, join(entry.parentPath, entry.name)))
  ).sort();
}

/**
 * The command line that runs a JavaScript file with the runtime that runs this one.
 * @param {string[]} args the file and its arguments
 * @returns {[string, string[]]}
 */
export function selfCommand(args) {
  return process.versions.deno
    ? [process.execPath, ["run", "-A", "--no-config", ...args]]
    : [process.execPath, args];
}

/**
 * Runs a short command and returns what it printed on stdout, or null when it failed.
 * @param {string} command
 * @param {string[]} args
 * @param {{ cwd?: string, env?: Record<string, string | undefined>, input?: string,
 *   timeoutMs?: number }} [options]
 * @returns {string | null}
 */
export function capture(command, args, options = {}) {
  const result = spawnSync(command, args, {
    cwd: options.cwd ?? root,
    env: /** @type {Record<string, string>} */ ({ ...process.env, ...options.env }),
    input: options.input ?? "",
    encoding: "utf8",
    timeout: options.timeoutMs ?? 60_000,
    maxBuffer: 64 * 1024 * 1024,
  });
  return result.status === 0 ? result.stdout : null;
}

/**
 * Runs a command to its end, its output going to the terminal, to a log, or to both.
 * @param {string} command
 * @param {string[]} args
 * @param {object} [options]
 * @param {string} [options.cwd] the repository's root unless given
 * @param {Record<string, string | undefined>} [options.env] added to this process's
 * @param {string} [options.log] a file that receives stdout and stderr
 * @param {boolean} [options.quiet] nothing to the terminal; needs a log
 * @param {string} [options.label] begins each line on the terminal; needs a log
 * @param {number} [options.timeoutMs] then the command and its children are killed; 30 minutes
 * @param {boolean} [options.cleansUp] an interruption is passed on to the command, which ends by
 *   itself; without, it is killed, and so is this process
 * @returns {Promise<number>} the exit status; 124 when it ran out of time, 128 + n on signal n
 */
export async function run(command, args, options = {}) {
  const { log, quiet = false, label, timeoutMs = 30 * 60_000, cleansUp = false } = options;
  const env = /** @type {Record<string, string>} */ ({ ...process.env, ...options.env });
  const cwd = options.cwd ?? root;
  // A signal that comes while the command is being started is heard once ended() listens, and does
  // not end this process alone.
  const held = () => {};
  process.on("SIGINT", held).on("SIGTERM", held);
  try {
    return await runTo(command, args, { log, quiet, label, timeoutMs, cleansUp, env, cwd });
  } finally {
    process.off("SIGINT", held).off("SIGTERM", held);
  }
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {{ log: string | undefined, quiet: boolean, label: string | undefined, timeoutMs: number,
 *   cleansUp: boolean, env: Record<string, string>, cwd: string }} options
 * @returns {Promise<number>}
 */
async function runTo(command, args, options) {
  const { log, quiet, label, timeoutMs, cleansUp, env, cwd } = options;
  if (!log) {
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", "inherit", "inherit"] });
    return await ended(child, timeoutMs, false, cleansUp);
  }
  mkdirSync(dirname(log), { recursive: true });
  const file = createWriteStream(log);
  await once(file, "open"); // which throws where it cannot be written
  // A process group of its own, so that running out of time ends its children too.
  const child = spawn(command, args, {
    cwd,
    env,
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  for (const stream of [child.stdout, child.stderr]) {
    const show = label === undefined
      ? (/** @type {Buffer} */ chunk) => process.stdout.write(chunk)
      : labelled(label);
    stream.on("data", (chunk) => {
      file.write(chunk);
      if (!quiet) show(chunk);
    });
  }
  const status = await ended(child, timeoutMs, true);
  await new Promise((resolve) => file.end(resolve));
  return status;
}

/**
 * Writes whole lines to the terminal, each behind the label.
 * @param {string} label
 */
function labelled(label) {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  return (/** @type {Buffer} */ chunk) => {
    const lines = (rest + decoder.write(chunk)).split("\n");
    rest = lines.pop() ?? "";
    if (lines.length > 0) process.stdout.write(lines.map((line) => `${label}${line}\n`).join(""));
  };
}

/**
 * @param {import("node:child_process").ChildProcess} child
 * @param {number} timeoutMs
 * @param {boolean} group the child leads a process group, which ends with it
 * @param {boolean} [cleansUp] an interrupted child is waited for, and its status is the result
 * @returns {Promise<number>}
 */
function ended(child, timeoutMs, group, cleansUp = false) {
  return new Promise((resolve, reject) => {
    let expired = false;
    const kill = () => {
      if (child.pid === undefined) return;
      try {
        process.kill(group ? -child.pid : child.pid, "SIGKILL");
      } catch {
        // Nothing of it is left.
      }
    };
    const timer = setTimeout(() => {
      expired = true;
      kill();
    }, timeoutMs);
    // A group of its own does not hear the terminal's Ctrl-C. A child that does, and cleans up, takes
    // a second SIGINT for impatience, but not a SIGTERM.
    const interrupted = () => {
      if (cleansUp) {
        child.kill("SIGTERM");
        return;
      }
      kill();
      process.exit(130);
    };
    process.once("SIGINT", interrupted);
    process.once("SIGTERM", interrupted);
    const done = () => {
      clearTimeout(timer);
      process.off("SIGINT", interrupted);
      process.off("SIGTERM", interrupted);
    };
    child.once("error", (error) => {
      done();
      reject(new Failure(`cannot run ${child.spawnfile}: ${error.message}`));
    });
    // What it left behind in the background holds the pipes open, and "close" would wait for it.
    child.once("exit", () => {
      if (group) kill();
    });
    child.once("close", (code, signal) => {
      done();
      resolve(expired ? 124 : code ?? 128 + (signal ? constants.signals[signal] : 0));
    });
  });
}

/**
 * The last lines of a file.
 * @param {string} path
 * @param {number} count
 */
export function tail(path, count) {
  return readFileSync(path, "utf8").trimEnd().split("\n").slice(-count).join("\n");
}

/**
 * run(), and a Failure unless the command succeeds; a quiet command's log is shown then.
 * @param {string} what e.g. "npm ci"
 * @param {string} command
 * @param {string[]} args
 * @param {Parameters<typeof run>[2]} [options]
 */
export async function must(what, command, args, options = {}) {
  const status = await run(command, args, options);
  if (status === 0) return;
  const why = status === 124 ? "ran out of time" : `ended with status ${status}`;
  throw new Failure(
    `${what} ${why}: ${[command, ...args].join(" ")}` +
      (options.quiet && options.log ? `\n${tail(options.log, 60)}` : ""),
    options.log ? tail(options.log, 20) : "",
  );
}
