// SPDX-License-Identifier: Apache-2.0
//
// The packages as users meet them: packed, published to a registry on loopback, and installed from
// there into empty directories by each package manager, where the README's example runs and the
// user's own type check passes. Every command runs in a mount namespace in which the clone is
// covered, so that nothing can come from there, and in which /dev/shm and /var/tmp are empty.

import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import process from "node:process";
import { dashboardServes } from "./dashboard_check.mjs";
import { installDependencies, pinnedTool } from "./dependencies.mjs";
import { makePackages } from "./package.mjs";
import { packageProblems } from "./package_content.mjs";
import { installRegistry, startRegistry } from "./registry.mjs";
import { zero } from "./results.mjs";
import { capture, Failure, root, say, Skipped, which } from "./system.mjs";
import { hostPlatform, sha256, TARGETS } from "./targets.mjs";

/** @typedef {import("./targets.mjs").Platform} Platform */

/** What the README says for Deno. */
const DENO_FLAGS = "--allow-ffi --allow-read --allow-write --allow-run --allow-env";
const EXAMPLE_PRINTS = /^33554432$/m;
const VERIFY = "verify --size 128MiB --chunk-size 1MiB";
const VERIFIED = /^OK: all \d+ chunks .* byte for byte$/m;

/** Compilers that users have: the last of the old implementation, and the new one. */
const COMPILERS = ["5.9.3", "7.0.2"];

/** What `bun init` writes (1.4). */
const BUN_INIT = {
  ...{ lib: ["ESNext"], target: "ESNext", module: "Preserve", moduleDetection: "force" },
  ...{ jsx: "react-jsx", allowJs: true, moduleResolution: "bundler" },
  ...{ allowImportingTsExtensions: true, verbatimModuleSyntax: true, noEmit: true },
  ...{ strict: true, skipLibCheck: true, noFallthroughCasesInSwitch: true },
  ...{ noUncheckedIndexedAccess: true, noImplicitOverride: true },
};

/** Everything that can be strict, and our declarations checked too. */
const STRICT = {
  ...{ strict: true, skipLibCheck: false, noEmit: true, noPropertyAccessFromIndexSignature: true },
  ...{ exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, isolatedModules: true },
  ...{ noUnusedLocals: true, noUnusedParameters: true, noImplicitReturns: true },
  ...{ target: "ESNext", verbatimModuleSyntax: true, erasableSyntaxOnly: true },
  // Whoever has a library of their own: inferred types must have names that can be imported.
  declaration: true,
};

/** Options of a user's type check, by a name for messages. */
const TYPE_CHECKS = /** @type {Record<string, Record<string, unknown>>} */ ({
  "bun init": { ...BUN_INIT, types: ["bun"] },
  "strict, nodenext, no types of a runtime": {
    ...{ ...STRICT, module: "nodenext", moduleResolution: "nodenext" },
    ...{ lib: ["ESNext", "DOM"], types: [] },
  },
  "strict, bundler, no types of a runtime": {
    ...{ ...STRICT, module: "ESNext", moduleResolution: "bundler" },
    ...{ lib: ["ESNext", "DOM"], types: [] },
  },
  "strict, nodenext, types of Node": {
    ...{ ...STRICT, module: "nodenext", moduleResolution: "nodenext" },
    ...{ skipLibCheck: true, lib: ["ESNext"], types: ["node"] },
  },
});

/** The words before a command that give it mounts of its own, or null where that is not allowed. */
function ownMounts() {
  const root = ["unshare", "--mount", "--propagation", "private", "--"];
  const user = ["unshare", "--map-root-user", ...root.slice(1)];
  return [root, user].find(([command, ...args]) =>
    capture(command, [...args, "mount", "-t", "tmpfs", "tmpfs", "/var/tmp"]) !== null
  ) ?? null;
}

/** Covers the clone, whose Bun and Deno stay reachable in $TOOLS, then runs what follows. */
const COVER = `
mount --bind "$BUN" "$TOOLS/bun"
mount --bind "$BUN" "$TOOLS/bunx"
mount --bind "$DENO" "$TOOLS/deno"
mount -t tmpfs -o size=4g,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o size=4g,mode=1777 tmpfs /var/tmp
mount -t tmpfs -o ro tmpfs "$CLONE"
[ ! -e "$CLONE/package.json" ]
cd "$PROJECT"
exec "$@"
`;

/** A place for empty projects, and what runs commands in them. */
class Trial {
  counts = zero();
  /** @type {string} */
  folder = mkdtempSync(join(tmpdir(), "lmshm-packages-"));
  #mounts;
  #url = "";

  /** @param {string[]} mounts the words before a command that give it mounts of its own */
  constructor(mounts) {
    this.#mounts = mounts;
    for (const name of ["tools", "home", "tmp"]) mkdirSync(join(this.folder, name));
    for (const name of ["bun", "bunx", "deno"]) {
      writeFileSync(join(this.folder, "tools", name), "", { mode: 0o755 });
    }
  }

  /** @param {string} url the registry that all commands use from now on */
  useRegistry(url) {
    this.#url = url;
  }

  /** @returns {Record<string, string>} nothing of ours or of npm's, which runs us, gets through */
  #environment() {
    const place = (/** @type {string} */ name) => join(this.folder, name);
    const path = [
      place("tools"),
      dirname(process.execPath),
      ...(process.env.PATH ?? "").split(
        delimiter,
      ).filter((folder) => !folder.includes("node_modules")),
    ];
    return {
      PATH: path.join(delimiter),
      HOME: place("home"),
      TMPDIR: place("tmp"),
      BUN_INSTALL_CACHE_DIR: place("bun-cache"),
      DENO_DIR: place("deno-cache"),
      DENO_NO_UPDATE_CHECK: "1",
      npm_config_cache: place("npm-cache"),
      npm_config_update_notifier: "false",
      npm_config_audit: "false",
      npm_config_fund: "false",
      NPM_CONFIG_REGISTRY: this.#url,
      NO_COLOR: "1",
    };
  }

  /**
   * An empty directory.
   * @param {string} name
   * @param {Record<string, string>} [files]
   */
  project(name, files = {}) {
    const folder = join(this.folder, name);
    mkdirSync(folder);
    for (const [path, text] of Object.entries(files)) writeFileSync(join(folder, path), text);
    return folder;
  }

  /**
   * Runs a line of shell in a project, and returns what it printed.
   * @param {string} project
   * @param {string} line
   * @returns {string}
   */
  shell(project, line) {
    const [command, ...args] = this.#mounts;
    const { status, signal, stdout, stderr, error } = spawnSync(command, [
      ...args,
      ...["sh", "-euc", COVER, "cover", "sh", "-euc", line],
    ], {
      cwd: "/",
      env: {
        ...this.#environment(),
        BUN: realpathSync(pinnedTool("bun")),
        DENO: realpathSync(pinnedTool("deno")),
        TOOLS: join(this.folder, "tools"),
        CLONE: root,
        PROJECT: project,
      },
      encoding: "utf8",
      timeout: 180_000,
      killSignal: "SIGKILL",
      maxBuffer: 16 * 1024 * 1024,
    });
    if (status === 0) return stdout;
    const how = error?.message ?? `ended with ${signal ?? `status ${status}`}`;
    throw new Failure(`${line}: ${how}\n${stdout}${stderr}`.slice(0, 6000));
  }

  /**
   * One thing that must hold.
   * @param {string} name
   * @param {() => void} body
   */
  check(name, body) {
    const start = performance.now();
    try {
      body();
      this.counts.passed++;
      say(`${name}: ok, ${((performance.now() - start) / 1000).toFixed(1)} s`);
    } catch (error) {
      this.counts.failed++;
      say(`${name}: FAILED`);
      console.error(error instanceof Failure ? error.message : error);
    }
  }

  end() {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** @param {string} text @param {RegExp} pattern */
function expectMatch(text, pattern) {
  if (!pattern.test(text)) throw new Failure(`${pattern} is not in:\n${text}`);
}

/** @param {string} folder @returns {string[]} what is in it; nothing where there is none */
function list(folder) {
  return existsSync(folder) ? readdirSync(folder).sort() : [];
}

/** What an installation may put into a project. @param {string} project */
function expectOnlyOurs(project) {
  const commands = list(join(project, "node_modules", ".bin"));
  const packages = list(join(project, "node_modules")).filter((name) => !name.startsWith("."));
  const others = [
    ...commands.filter((name) => !["lmshm", "yaml"].includes(name)),
    ...packages.filter((name) => !["lmshm", "@lmshm", "yaml"].includes(name)),
  ];
  if (others.length > 0) throw new Failure(`node_modules has ${others.join(", ")}`);
}

/** @param {string} project @param {Platform} platform whose package must be installed, and no other */
function expectParts(project, platform) {
  const installed = list(join(project, "node_modules", "@lmshm"));
  if (String(installed) !== platform) {
    throw new Failure(`the parts of ${installed.join(", ") || "no platform"}, not of ${platform}`);
  }
}

/** The first block of the README that imports lmshm, as it stands. */
function readmeExample() {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/^\`\`\`ts\n([\s\S]*?)^\`\`\`$/gm)].map(([, code]) => code);
  const example = blocks.find((code) => /from "lmshm"/.test(code));
  if (example === undefined) throw new Failure("README.md has no example");
  return example;
}

/** @param {Trial} trial @param {string} example */
function bunProjects(trial, example) {
  const files = { "main.ts": example, "package.json": '{ "name": "a-program", "type": "module" }' };
  for (const linker of ["hoisted", "isolated"]) {
    trial.check(`bun add, ${linker}`, () => {
      const project = trial.project(`bun-${linker}`, files);
      trial.shell(project, `bun add --linker ${linker} lmshm`);
      expectMatch(trial.shell(project, "bun main.ts"), EXAMPLE_PRINTS);
      expectOnlyOurs(project);
      expectMatch(trial.shell(project, "bunx lmshm --version"), /^lmshm \d/);
      const required = "console.log(typeof require('lmshm').ShmSegment)";
      expectMatch(trial.shell(project, `bun -e "${required}"`), /^function$/m);
    });
  }
  trial.check("npm install, run by Bun", () => {
    const project = trial.project("npm", files);
    trial.shell(project, "npm install lmshm");
    expectMatch(trial.shell(project, "bun main.ts"), EXAMPLE_PRINTS);
    const command = "bun node_modules/lmshm/dist/cli/main.js";
    expectMatch(trial.shell(project, dashboardServes(command)), /the dashboard serves/);
    expectMatch(trial.shell(project, "npx --no-install lmshm --version"), /^lmshm \d/);
    expectParts(project, hostPlatform());
  });
  trial.check("npm install for each platform brings the parts of that one", () => {
    for (const platform of /** @type {Platform[]} */ (Object.keys(TARGETS))) {
      const [os, cpu, libc] = platform.split("-");
      const project = trial.project(`npm-${platform}`, files);
      const flags = `--os ${os} --cpu ${cpu} --libc ${libc === "gnu" ? "glibc" : libc}`;
      trial.shell(project, `npm install ${flags} lmshm`);
      expectParts(project, platform);
    }
  });
  trial.check("bun build --compile of a program that imports lmshm/embed", () => {
    const project = trial.project("executable", {
      ...files,
      "main.ts": `import "lmshm/embed";\n${example}`,
    });
    trial.shell(project, "bun add lmshm && bun build --compile main.ts --outfile program");
    rmSync(join(project, "node_modules"), { recursive: true });
    expectMatch(trial.shell(project, "./program"), EXAMPLE_PRINTS);
  });
  trial.check("bun add of a clone brings no tools along", () => {
    const clone = trial.project("clone");
    for (const path of ["package.json", "scripts/tools/package.json", "src"]) {
      cpSync(join(root, path), join(clone, path), { recursive: true });
    }
    const project = trial.project("of-a-clone", files);
    trial.shell(project, "bun add ../clone");
    expectOnlyOurs(project);
  });
  trial.check("bunx lmshm verify", () => {
    expectMatch(trial.shell(trial.project("bunx"), `bunx lmshm ${VERIFY}`), VERIFIED);
  });
}

/** @param {Trial} trial @param {string} example */
function denoProjects(trial, example) {
  for (
    const [mode, config] of Object.entries({
      "without node_modules": "{}",
      "with node_modules": '{ "nodeModulesDir": "auto" }',
    })
  ) {
    trial.check(`deno add, ${mode}`, () => {
      const project = trial.project(`deno-${mode.replaceAll(" ", "-")}`, {
        "deno.json": config,
        "main.ts": example,
        "consumer.ts": readFileSync(join(root, "tests", "packages", "consumer.ts"), "utf8"),
      });
      trial.shell(project, "deno add npm:lmshm");
      expectMatch(trial.shell(project, `deno run ${DENO_FLAGS} main.ts`), EXAMPLE_PRINTS);
      trial.shell(project, "deno check main.ts consumer.ts");
    });
  }
  trial.check("deno run npm:lmshm verify", () => {
    const project = trial.project("deno-run");
    expectMatch(trial.shell(project, `deno run -A npm:lmshm ${VERIFY}`), VERIFIED);
    const served = trial.shell(project, dashboardServes("deno run -A npm:lmshm"));
    expectMatch(served, /the dashboard serves/);
  });
}

/** The libraries of lmshm/lmcache, with the versions that lmshm is tested with. */
function peers() {
  const read = (/** @type {string} */ path) => JSON.parse(readFileSync(join(root, path), "utf8"));
  const { dependencies } = read("scripts/tools/package.json");
  return Object.keys(read("package.json").peerDependencies)
    .map((name) => `${name}@${dependencies[name]}`);
}

/** Nobody listens at that port: how far it gets says what it has. */
const CONNECTS = `import { LmcacheClient } from "lmshm/lmcache";
await LmcacheClient.connect({ address: "127.0.0.1:1", model: "m" })
  .catch((error) => console.log(error.code ?? error, error.hint));
`;
const INSTALL_THEM = /^ENOTSUP Install them: bun add @bufbuild/m;
const CONNECTED = /^ECONNREFUSED /m;

/** @param {Trial} trial */
function lmcacheProjects(trial) {
  const files = {
    "main.ts": CONNECTS,
    "package.json": '{ "name": "a-program", "type": "module" }',
  };
  trial.check("lmshm/lmcache in Bun says what to install, and does with it", () => {
    const project = trial.project("lmcache-bun", files);
    trial.shell(project, "bun add lmshm");
    expectMatch(trial.shell(project, "bun main.ts"), INSTALL_THEM);
    trial.shell(project, `bun add ${peers().join(" ")}`);
    expectMatch(trial.shell(project, "bun main.ts"), CONNECTED);
    trial.shell(project, "bun build --compile main.ts --outfile program");
    rmSync(join(project, "node_modules"), { recursive: true });
    expectMatch(trial.shell(project, "./program"), CONNECTED);
  });
  trial.check("lmshm/lmcache in Deno says what to install, and does with it", () => {
    const project = trial.project("lmcache-deno", { "main.ts": CONNECTS, "deno.json": "{}" });
    trial.shell(project, "deno add npm:lmshm");
    expectMatch(trial.shell(project, "deno run -A main.ts"), INSTALL_THEM);
    trial.shell(project, `deno add ${peers().map((peer) => `npm:${peer}`).join(" ")}`);
    expectMatch(trial.shell(project, "deno run -A main.ts"), CONNECTED);
  });
}

/** @param {Trial} trial @param {string} example */
function typeChecks(trial, example) {
  trial.check("bun init, bun add, tsc", () => {
    const project = trial.project("bun-init");
    trial.shell(project, "bun init --yes && bun add lmshm");
    writeFileSync(join(project, "index.ts"), example);
    trial.shell(project, "bunx tsc --noEmit");
  });
  for (const compiler of COMPILERS) {
    const project = trial.project(`types-${compiler}`, {
      "main.ts": example,
      "package.json": '{ "name": "a-program", "type": "module" }',
    });
    copyFileSync(join(root, "tests", "packages", "consumer.ts"), join(project, "consumer.ts"));
    trial.check(`TypeScript ${compiler} installs beside it`, () => {
      trial.shell(project, `bun add lmshm && bun add --dev typescript@${compiler} @types/bun`);
    });
    for (const [name, compilerOptions] of Object.entries(TYPE_CHECKS)) {
      trial.check(`TypeScript ${compiler}, ${name}`, () => {
        const config = { compilerOptions, files: ["main.ts", "consumer.ts"] };
        writeFileSync(join(project, "tsconfig.json"), JSON.stringify(config));
        trial.shell(project, "bunx tsc");
      });
    }
  }
}

/** verdaccio; null, said aloud, where it cannot be had. */
async function registryProgram() {
  try {
    return await installRegistry();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    say(`installing from a registry is skipped: verdaccio cannot be had\n${error.message}`);
    return null;
  }
}

/**
 * Everything above.
 * @returns {Promise<import("./results.mjs").Counts>}
 */
export async function checkPackages() {
  for (const tool of ["npm", "tar", "unshare"]) {
    if (!which(tool)) throw new Skipped(`${tool} is missing`);
  }
  const mounts = ownMounts();
  if (mounts === null) throw new Skipped("mounts of one's own are not allowed here");
  await installDependencies();
  const tarballs = await makePackages(/** @type {Platform[]} */ (Object.keys(TARGETS)));
  const trial = new Trial(mounts);
  try {
    trial.check("what is in the packages", () => {
      const problems = packageProblems(tarballs);
      if (problems.length > 0) throw new Failure(problems.join("\n"));
    });
    const again = await makePackages(/** @type {Platform[]} */ (Object.keys(TARGETS)), {
      destination: join(trial.folder, "again"),
    });
    trial.check("packing again gives the same bytes", () => {
      tarballs.forEach((path, index) => {
        if (sha256(path) !== sha256(again[index])) throw new Failure(`${path} differs`);
      });
    });
    const program = await registryProgram();
    if (program === null) {
      trial.counts.skipped++;
      return trial.counts;
    }
    const registry = await startRegistry(program, join(trial.folder, "registry"));
    try {
      await registry.publish(tarballs);
      trial.useRegistry(registry.url);
      const example = readmeExample();
      bunProjects(trial, example);
      denoProjects(trial, example);
      lmcacheProjects(trial);
      typeChecks(trial, example);
    } finally {
      await registry.stop();
    }
  } finally {
    trial.end();
  }
  return trial.counts;
}
