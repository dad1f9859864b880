// SPDX-License-Identifier: Apache-2.0
//
// lmshm as a package manager installs it, in a folder of its own: node_modules with the compiled
// library and the packages of some platforms. Their parts are those that the tests run with, the
// ones of other platforms too: whether they fit is not what is tested with it.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { locateLibrary, locateWorker } from "../../src/native/locate.ts";
import { version } from "../../src/version.ts";
import { type Ended, runScript } from "./process.ts";
import { TempDir } from "./worker.ts";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

/** What TypeScript is told to make of src/: what the package has. */
const EMIT = [
  ...["--noEmit", "false", "--rewriteRelativeImportExtensions", "--skipLibCheck"],
  ...["--declaration", "false", "--target", "ESNext", "--module", "ESNext"],
  ...["--moduleResolution", "bundler", "--types", "bun,deno", "--lib", "ESNext,ESNext.Disposable"],
];

/** The compiled library. It is kept in build/ and made again when src/ has changed. */
function compile(): string {
  const hash = createHash("sha256");
  const sources = readdirSync(join(REPOSITORY, "src"), { recursive: true, encoding: "utf8" });
  for (const name of sources.filter((path) => path.endsWith(".ts")).sort()) {
    hash.update(`${name}\0`).update(readFileSync(join(REPOSITORY, "src", name)));
  }
  const parent = join(REPOSITORY, "build", "tests");
  const name = `package-${hash.digest("hex").slice(0, 16)}`;
  const folder = join(parent, name);
  if (existsSync(folder)) return folder;
  mkdirSync(parent, { recursive: true });
  for (const other of readdirSync(parent)) {
    if (other.startsWith("package-")) rmSync(join(parent, other), { recursive: true, force: true });
  }
  const unfinished = join(parent, `unfinished-${process.pid}`);
  const tsc = join(REPOSITORY, "node_modules/.bin/tsc");
  const entries = ["mod.ts", "embed.ts"].map((entry) => join(REPOSITORY, "src", entry));
  const root = ["--rootDir", join(REPOSITORY, "src"), "--outDir", unfinished];
  execFileSync(tsc, [...EMIT, "--ignoreConfig", ...root, ...entries], { cwd: REPOSITORY });
  try {
    renameSync(unfinished, folder);
  } catch {
    // Another process was as quick.
    rmSync(unfinished, { recursive: true, force: true });
  }
  return folder;
}

export interface TreeOptions {
  /** Whose packages are installed. */
  platforms: readonly string[];
  /** Of those packages; default: the library's. */
  packageVersion?: string;
  /** The mode of the files in them. */
  partMode?: number;
  /** Each package in a folder where only what it depends on is beside it, as some managers do. */
  isolated?: boolean;
}

/** What the program of a tree prints. */
export interface Located {
  platform: string;
  library: string;
  worker: string;
}

/** A folder with lmshm installed in it; removed when it is disposed. */
export class PackageTree implements Disposable {
  readonly #dir = new TempDir();

  constructor({ platforms, packageVersion = version, partMode = 0o755, isolated }: TreeOptions) {
    const modules = this.file("node_modules");
    const store = isolated ? this.file("node_modules/.store/lmshm/node_modules") : modules;
    const own = join(store, "lmshm");
    cpSync(compile(), join(own, "dist"), { recursive: true });
    writeJson(join(own, "package.json"), {
      name: "lmshm",
      version,
      type: "module",
      exports: { ".": "./dist/mod.js", "./embed": "./dist/embed.js", "./*": "./dist/*.js" },
    });
    if (isolated) symlinkSync(".store/lmshm/node_modules/lmshm", join(modules, "lmshm"));
    for (const platform of platforms) {
      const name = `@lmshm/${platform}`;
      const folder = join(store, name);
      writeJson(join(folder, "package.json"), {
        name,
        version: packageVersion,
        exports: { "./package.json": "./package.json", "./*": "./*" },
      });
      for (
        const [name, from] of [["liblmshm.so", locateLibrary()], ["lmshm-worker", locateWorker()]]
      ) {
        copyFileSync(from!, join(folder, name!));
        chmodSync(join(folder, name!), partMode);
      }
    }
    writeJson(this.file("package.json"), { name: "user", type: "module" });
    writeJson(this.file("deno.json"), { nodeModulesDir: "manual" });
  }

  file(name: string): string {
    return join(this.#dir.path, name);
  }

  /** The path of a part in the package of a platform, where nothing is isolated. */
  part(platform: string, name: string): string {
    return this.file(`node_modules/@lmshm/${platform}/${name}`);
  }

  /** Writes a program into the tree, after which it prints where the parts are, as JSON. */
  program(before = ""): string {
    const path = this.file("program.js");
    writeFileSync(
      path,
      `import { ffi } from "lmshm/native/ffi";
import { registerEmbedded } from "lmshm/native/embedded";
import { locateLibrary, locateWorker } from "lmshm/native/locate";
import { platformName } from "lmshm/native/platform";
let option;
${before}
const platform = platformName();
const found = { platform, library: locateLibrary(), worker: locateWorker(option) };
console.log(JSON.stringify(found));
`,
    );
    return path;
  }

  /** Runs program(), and returns what it prints. */
  async locate(before = "", options: Parameters<typeof runScript>[1] = {}): Promise<Located> {
    const ended = await this.run(before, options);
    if (ended.code !== 0) throw new Error(ended.stderr);
    return JSON.parse(ended.stdout);
  }

  async run(before = "", options: Parameters<typeof runScript>[1] = {}): Promise<Ended> {
    const env = { LMSHM_LIBRARY: "", LMSHM_WORKER: "", ...options.env };
    return await runScript(this.program(before), { cwd: this.#dir.path, ...options, env });
  }

  [Symbol.dispose](): void {
    this.#dir[Symbol.dispose]();
  }
}

function writeJson(path: string, value: unknown): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, JSON.stringify(value));
}
