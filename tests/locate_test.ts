// SPDX-License-Identifier: Apache-2.0
//
// Where the library and the worker are found: every step of the order, each against all that come
// after it, in a folder in which lmshm is installed as a package manager does it.

import assert from "node:assert/strict";
import { copyFileSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { inMemory } from "../src/native/in_memory.ts";
import { locateLibrary, locateWorker } from "../src/native/locate.ts";
import { platformName } from "../src/native/platform.ts";
import { version } from "../src/version.ts";
import { PackageTree } from "./support/package_tree.ts";
import { runScript, runToEnd } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const OPTIONS = { timeout: 120_000 };
const REPOSITORY = fileURLToPath(new URL("..", import.meta.url));
/** What the README says that Deno needs: /proc cannot be read with it. */
const FEW = [
  "--no-prompt",
  ...["ffi", "read", "write", "run", "env"].map((name) => `--allow-${name}`),
];
const here = platformName();
const [system, arch, libc] = here.split("-");
const otherLibc = `${system}-${arch}-${libc === "gnu" ? "musl" : "gnu"}`;
const both = [here, otherLibc];

test(
  "the package of this process's C library is taken where both are installed",
  OPTIONS,
  async () => {
    using tree = new PackageTree({ platforms: both });
    const found = await tree.locate("", { denoPermissions: FEW });
    assert.deepEqual(found, {
      platform: here,
      library: tree.part(here, "liblmshm.so"),
      worker: tree.part(here, "lmshm-worker"),
    });
    // A process on the other C library, with the same packages.
    const asOther = `ffi.libc = () => ${JSON.stringify(otherLibc.split("-")[2])};`;
    assert.deepEqual(await tree.locate(asOther), {
      platform: otherLibc,
      library: tree.part(otherLibc, "liblmshm.so"),
      worker: tree.part(otherLibc, "lmshm-worker"),
    });
  },
);

test("where nothing is bundled the line that embeds changes nothing", OPTIONS, async () => {
  using tree = new PackageTree({ platforms: both });
  const found = await tree.locate(`import "lmshm/embed";`, { denoPermissions: FEW });
  assert.equal(found.library, tree.part(here, "liblmshm.so"));
  assert.equal(found.worker, tree.part(here, "lmshm-worker"));
});

test(
  "packages that lie in a store, each beside its own dependencies, are found",
  OPTIONS,
  async () => {
    using tree = new PackageTree({ platforms: both, isolated: true });
    const folder = tree.file(`node_modules/.store/lmshm/node_modules/@lmshm/${here}`);
    const found = await tree.locate("", { denoPermissions: FEW });
    assert.equal(found.library, join(folder, "liblmshm.so"));
    assert.equal(found.worker, join(folder, "lmshm-worker"));
  },
);

test("what the bundle carries comes before the package", OPTIONS, async () => {
  using tree = new PackageTree({ platforms: both });
  const library = tree.file("a library");
  const worker = tree.file("a worker");
  copyFileSync(locateLibrary(), library);
  copyFileSync(locateWorker(), worker);
  const parts = JSON.stringify({ library, worker });
  const found = await tree.locate(`registerEmbedded(platformName(), ${parts});`);
  assert.match(found.library, /^\/proc\/self\/fd\/\d+$/);
  assert.match(found.worker, /^\/proc\/self\/fd\/\d+$/);
  assert.notEqual(found.worker, found.library);
});

test(
  "what is carried for another platform is none, and said where nothing else is",
  OPTIONS,
  async () => {
    using tree = new PackageTree({ platforms: [here] });
    const carried = `registerEmbedded(${
      JSON.stringify(otherLibc)
    }, { library: "/x", worker: "/y" });`;
    assert.equal((await tree.locate(carried)).library, tree.part(here, "liblmshm.so"));
    using bare = new PackageTree({ platforms: [] });
    const ended = await bare.run(carried);
    assert.notEqual(ended.code, 0);
    assert.ok(
      ended.stderr.includes(`this program (carries the parts for ${otherLibc} only)`),
      ended.stderr,
    );
  },
);

test("the environment comes before what is carried and what is installed", OPTIONS, async () => {
  using tree = new PackageTree({ platforms: both });
  const [library, worker] = [tree.file("named.so"), tree.file("named")];
  copyFileSync(locateLibrary(), library);
  copyFileSync(locateWorker(), worker);
  const env = { LMSHM_LIBRARY: library, LMSHM_WORKER: worker };
  const carried = `registerEmbedded(platformName(), { library: "/x", worker: "/y" });`;
  assert.deepEqual(await tree.locate(carried, { env }), { platform: here, library, worker });
  const ended = await tree.run("", { env: { ...env, LMSHM_WORKER: tree.file("absent") } });
  assert.notEqual(ended.code, 0);
  assert.match(ended.stderr, /tried \S+\/absent \(from LMSHM_WORKER\) \(ENOENT\)/);
});

test("what the program names comes before the environment", OPTIONS, async () => {
  using tree = new PackageTree({ platforms: both });
  const worker = tree.file("named");
  copyFileSync(locateWorker(), worker);
  const env = { LMSHM_WORKER: tree.file("absent") };
  const option = `option = ${JSON.stringify(worker)};`;
  assert.equal((await tree.locate(option, { env })).worker, worker);
});

test(
  "without a package the error has all that was looked at, and what to install",
  OPTIONS,
  async () => {
    using bare = new PackageTree({ platforms: [] });
    const none = await bare.run();
    assert.notEqual(none.code, 0);
    assert.ok(none.stderr.includes(`tried @lmshm/${here} (not installed) (ENOENT)`), none.stderr);
    assert.ok(none.stderr.includes(`Install @lmshm/${here} ${version}: package`), none.stderr);
    using tree = new PackageTree({ platforms: [otherLibc] });
    const other = await tree.run("", { denoPermissions: FEW });
    assert.notEqual(other.code, 0);
    assert.ok(
      other.stderr.includes(`@lmshm/${otherLibc}, which is installed, is for other systems`),
      other.stderr,
    );
  },
);

test("a permission that Deno wants for it is said", {
  ...OPTIONS,
  skip: "Deno" in globalThis ? false : "Bun has no permissions",
}, async () => {
  using tree = new PackageTree({ platforms: both });
  const denoPermissions = FEW.filter((word) => word !== "--allow-read");
  const ended = await tree.run("", { denoPermissions });
  assert.notEqual(ended.code, 0);
  assert.match(ended.stderr, /Deno does not allow reading.*\(EPERM\).*--allow-read/);
});

test("a package of another version is not used", OPTIONS, async () => {
  using tree = new PackageTree({ platforms: both, packageVersion: "0.0.1" });
  const ended = await tree.run();
  assert.notEqual(ended.code, 0);
  assert.ok(ended.stderr.includes(`has version 0.0.1, and this is ${version}`), ended.stderr);
});

/** Stores something through what is found, and says where that was. */
const USE = `import { ShmFileConnector, ShmSegment } from "lmshm";
const segment = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
const storageDir = new URL("store", import.meta.url).pathname;
const store = await ShmFileConnector.open({ segment, storageDir, workerBinary: option });
await store.put("k", segment.range());
console.error("stored with", segment.libraryPath);
await store.close();
segment.freeSync();
`;

test(
  "a worker without execute permission runs from memory, unless it is named",
  OPTIONS,
  async () => {
    // As where whoever unpacked the package has not kept the modes.
    using tree = new PackageTree({ platforms: both, partMode: 0o444 });
    const used = await tree.run(USE, { denoPermissions: FEW });
    assert.equal(used.code, 0, used.stderr);
    assert.ok(used.stderr.includes(`stored with ${tree.part(here, "liblmshm.so")}\n`), used.stderr);
    assert.match(used.stdout, /"worker":"\/proc\/self\/fd\/\d+"/);
    const option = `option = ${JSON.stringify(tree.part(here, "lmshm-worker"))};`;
    const named = await tree.run(option, { denoPermissions: FEW });
    assert.notEqual(named.code, 0);
    assert.match(named.stderr, /no execute permission\) \(EACCES\).*chmod \+x/);
  },
);

test("parts without any permission are used from memory, as those in an executable of Deno", {
  ...OPTIONS,
  skip: process.getuid?.() === 0 ? false : "only root can read such files",
}, async () => {
  using tree = new PackageTree({ platforms: both, partMode: 0 });
  for (const option of ["", `option = ${JSON.stringify(tree.part(here, "lmshm-worker"))};`]) {
    const used = await tree.run(option + USE, { denoPermissions: FEW });
    assert.equal(used.code, 0, used.stderr);
    assert.match(used.stderr, /stored with \/proc\/self\/fd\/\d+$/m);
  }
});

/** Where a thread that is terminated then has the file. */
async function pathInThread(file: string): Promise<string> {
  const thread = new Worker(new URL("./fixtures/memory_thread.ts", import.meta.url), {
    type: "module",
  });
  const next = () =>
    new Promise<string>((resolve) => thread.onmessage = ({ data }) => resolve(data));
  assert.equal(await next(), "ready");
  const said = next();
  thread.postMessage(file);
  const path = await said;
  thread.terminate();
  return path;
}

test(
  "threads share a part that is in memory, also with those that have ended",
  OPTIONS,
  async () => {
    using dir = new TempDir();
    const [file, other] = [dir.file("one"), dir.file("other")];
    writeFileSync(file, "a part");
    writeFileSync(other, "a park");
    const path = await pathInThread(file);
    assert.equal(await pathInThread(file), path);
    assert.equal(inMemory("library", file), path);
    assert.equal(readFileSync(path, "utf8"), "a part");
    assert.throws(() => writeFileSync(path, "A"), { code: "EPERM" });
    assert.notEqual(inMemory("library", other), path);
  },
);

test(
  "a clone takes what is in its lib/, and an installed package before that",
  OPTIONS,
  async () => {
    using dir = new TempDir();
    for (const part of ["src", "tests/fixtures", "deno.json", "package.json", "tsconfig.json"]) {
      cpSync(join(REPOSITORY, part), dir.file(part), { recursive: true });
    }
    const script = dir.file("program.ts");
    writeFileSync(
      script,
      `import { locateLibrary } from "./src/native/locate.ts";
console.log(locateLibrary());\n`,
    );
    const env = { LMSHM_LIBRARY: "" };
    const absent = await runScript(script, { env, denoPermissions: FEW });
    assert.notEqual(absent.code, 0);
    assert.ok(absent.stderr.includes(`@lmshm/${here} (not installed)`), absent.stderr);
    const lib = dir.file(`lib/${here}/liblmshm.so`);
    assert.ok(absent.stderr.includes(`${lib} (of this clone)`), absent.stderr);
    assert.match(absent.stderr, /npm run build/);
    for (const platform of both) {
      mkdirSync(dir.file(`lib/${platform}`), { recursive: true });
      copyFileSync(locateLibrary(), dir.file(`lib/${platform}/liblmshm.so`));
    }
    const built = await runScript(script, { env, denoPermissions: FEW });
    assert.equal(built.stdout.trim(), lib, built.stderr);
    const installed = dir.file(`node_modules/@lmshm/${here}`);
    mkdirSync(installed, { recursive: true });
    const manifest = { name: `@lmshm/${here}`, version };
    writeFileSync(join(installed, "package.json"), JSON.stringify(manifest));
    copyFileSync(locateLibrary(), join(installed, "liblmshm.so"));
    const own = await runScript(script, { env, denoPermissions: FEW });
    assert.equal(own.stdout.trim(), join(installed, "liblmshm.so"), own.stderr);
  },
);

test("a bundle with the line carries what is installed where it is made", {
  ...OPTIONS,
  skip: "Bun" in globalThis ? false : "Bun bundles",
}, async () => {
  // Not both, nor those of the other processor: what is missing does not stop the bundler.
  using tree = new PackageTree({ platforms: [here] });
  using elsewhere = new TempDir();
  const program = tree.program(`import "lmshm/embed";\n${USE}`);
  const build = ["build", "--target=bun", program, "--outdir", elsewhere.path];
  const built = await runToEnd(process.execPath, build);
  assert.equal(built.code, 0, built.stderr);
  const env = { LMSHM_LIBRARY: "", LMSHM_WORKER: "" };
  const ended = await runScript(elsewhere.file("program.js"), { env, cwd: elsewhere.path });
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stderr, /stored with \/proc\/self\/fd\/\d+$/m);
});

test("a bundle without the parts says how to take them along", {
  ...OPTIONS,
  skip: "Bun" in globalThis ? false : "Bun bundles",
}, async () => {
  using tree = new PackageTree({ platforms: both });
  using elsewhere = new TempDir();
  const bundle = elsewhere.file("bundle.js");
  const build = ["build", "--target=bun", tree.program(), "--outfile", bundle];
  const built = await runToEnd(process.execPath, build);
  assert.equal(built.code, 0, built.stderr);
  const env = { LMSHM_LIBRARY: "", LMSHM_WORKER: "" };
  const ended = await runScript(bundle, { env, cwd: elsewhere.path });
  assert.notEqual(ended.code, 0, ended.stdout);
  assert.ok(ended.stderr.includes(`tried @lmshm/${here} (not installed)`), ended.stderr);
  assert.match(ended.stderr, /import "lmshm\/embed".*bun build --external lmshm/);
});
