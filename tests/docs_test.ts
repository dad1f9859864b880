// SPDX-License-Identifier: Apache-2.0
//
// What the documents say against what is there: programs that they show run and print what they say,
// command lines have options that exist, messages are those of the source, links lead somewhere,
// manifests parse. That their ts blocks have the right types is `npm run check -- docs`.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { parse, parseAllDocuments } from "yaml";
import { ERROR_CODES } from "../src/errors.ts";
import { LOADERS } from "../src/cli/commands.ts";
import { checkTieredOptions } from "../src/cache/tiered_store_options.ts";
import { loadConfig } from "../src/config/mod.ts";
import { locateWorker } from "../src/native/locate.ts";
import { runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

interface CodeBlock {
  readonly file: string;
  readonly line: number;
  readonly language: string;
  readonly text: string;
  readonly marks: readonly string[];
}

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const FIXTURES = join(ROOT, "tests", "fixtures");
const read = (file: string) => readFileSync(join(ROOT, file), "utf8");

const { allBlocks, documents, moduleOf }: {
  allBlocks: () => CodeBlock[];
  documents: () => string[];
  moduleOf: (block: CodeBlock) => { source: string };
} = await import(new URL("../scripts/common/code_blocks.mjs", import.meta.url).href);

const ENTRIES: Readonly<Record<string, string>> = JSON.parse(read("package.json")).exports;

/**
 * The source of a block with the entries by their paths, so that it runs anywhere; with names and
 * directories of this test.
 */
function program(block: CodeBlock, directory: string): string {
  return moduleOf(block).source
    .replaceAll(/(from |^import )"lmshm(\/\w+)?"/gm, (_, how, entry) => {
      const path = ENTRIES[`.${entry ?? ""}`];
      assert.ok(path !== undefined, `${block.file} imports lmshm${entry ?? ""}`);
      return `${how}${JSON.stringify(join(ROOT, path))}`;
    })
    .replaceAll('"/var/tmp/', `"${directory}/`)
    .replaceAll(/(\bname(: | = ))"kv"/g, `$1"lmshm-docs-${process.pid}"`);
}

const BLOCKS = allBlocks();

for (const [index, block] of BLOCKS.entries()) {
  if (!block.marks.includes("run")) continue;
  const title = `the program at ${block.file}:${block.line} prints what is said`;
  test(title, { timeout: 60_000 }, async () => {
    using dir = new TempDir();
    writeFileSync(dir.file("main.ts"), program(block, dir.path));
    const ended = await runFixture(relative(FIXTURES, dir.file("main.ts")), [], {
      denoPermissions: ["-A", "--config", join(ROOT, "deno.json")],
    });
    assert.equal(ended.code, 0, ended.stderr);
    const said = BLOCKS[index + 1];
    if (said?.file === block.file && said.marks.includes("prints")) {
      assert.equal(ended.stdout.trimEnd(), said.text);
    }
  });
}

test("json blocks are JSON", { timeout: 30_000 }, () => {
  for (const { language, text } of BLOCKS) if (language === "json") JSON.parse(text);
});

/** Lines of the documents that are command lines: sh blocks, indented lines, code within a line. */
function commandLines(): { where: string; line: string }[] {
  const found: { where: string; line: string }[] = [];
  for (const { file, line, language, text } of BLOCKS) {
    if (language !== "sh") continue;
    for (const command of text.replaceAll(/\\\n\s*/g, " ").split("\n")) {
      found.push({ where: `${file}:${line}`, line: command });
    }
  }
  for (const file of documents()) {
    const text = read(file).replaceAll(/^```[^]*?^```$/gm, "");
    for (const [block] of text.matchAll(/(?:^ {4}.*\n)+/gm)) {
      // A session shows what is typed after "$", and what is printed; an error is one on purpose.
      const session = /^ {4}\$ /m.test(block);
      const typed = session
        ? /^ {4}\$ (.*)\n(?! {4}lmshm: )/gm
        : /^ {4}((?:npm|bunx|lmshm|lmshm-worker) .*)$/gm;
      for (const [, command] of block.matchAll(typed)) {
        // A description may stand beside it.
        found.push({ where: file, line: command!.split(/\s{2,}/)[0]! });
      }
    }
    for (const [, command] of text.matchAll(/`((?:npm run|npm test|lmshm|lmshm-worker) [^`]+)`/g)) {
      found.push({ where: file, line: command! });
    }
  }
  return found.map(({ where, line }) => ({ where, line: line.replace(/(^|\s)#.*$/, "").trim() }))
    .filter(({ line }) => line !== "");
}

async function optionsOf(command: string): Promise<Set<string>> {
  const ended = await runFixture("../../src/cli/main.ts", [...command.split(" "), "--help"]);
  assert.equal(ended.code, 0, ended.stderr);
  return new Set(["--help", ...ended.stdout.match(/--[a-z-]+/g) ?? []]);
}

test("command lines name commands and options that exist", { timeout: 120_000 }, async () => {
  const known = new Map<string, Set<string>>();
  for (const name of Object.keys(LOADERS)) known.set(name, await optionsOf(name));
  const help = spawnSync(locateWorker(), ["--help"], { encoding: "utf8" }).stdout;
  const workerOptions = new Set(help.match(/--[a-z-]+/g));
  const { scripts } = JSON.parse(read("package.json"));
  let checked = 0;
  for (const { where, line } of commandLines()) {
    const words = line.split(/\s+/);
    const script = /^npm (?:run (?:--silent )?)?([a-z]+)/.exec(line)?.[1];
    if (script !== undefined && !["install", "ci", "add"].includes(script)) {
      assert.ok(script in scripts || script === "run", `${where}: npm has no script "${script}"`);
      checked++;
    }
    const at = words.findIndex((word) => /^(npm:|.*\/bin\/|.*dist\/)?lmshm$/.test(word));
    if (at >= 0 && !["add", "install", "link"].includes(words[at - 1] ?? "")) {
      const first = words[at + 1] ?? "";
      if (/^--(help|version)$/.test(first) || /^[A-Z]/.test(first)) continue;
      const both = `${first} ${words[at + 2]}`; // "shm ls" is a command
      const command = known.has(both) ? both : first;
      const options = known.get(command);
      assert.ok(options !== undefined, `${where}: lmshm has no command "${command}": ${line}`);
      for (const option of line.slice(line.indexOf(command)).match(/(?<=\s)--[a-z-]+/g) ?? []) {
        assert.ok(options.has(option), `${where}: lmshm ${command} has no ${option}: ${line}`);
      }
      checked++;
    }
    const worker = words.findLastIndex((word) => /(^|\/)lmshm-worker$/.test(word));
    if (worker >= 0) {
      for (const word of words.slice(worker + 1)) {
        const option = /^--[a-z-]+/.exec(word)?.[0];
        if (option === undefined) continue;
        assert.ok(workerOptions.has(option), `${where}: lmshm-worker has no ${option}: ${line}`);
      }
      checked++;
    }
  }
  assert.ok(checked > 30, `only ${checked} command lines were found`);
});

/** Text of all sources, with literals that are joined over lines in one piece. */
function sources(): string {
  return ["src", "csrc"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(ts|c|cc|h)$/.test(name))
      .map((name) => read(join(folder, name)))
  ).join("\n").replaceAll(/["`]\s*\+?\s*\n\s*["`]/g, "").replaceAll(/\s+/g, " ");
}

test("the messages of docs/troubleshooting.md are those of the source", { timeout: 30_000 }, () => {
  const page = read("docs/troubleshooting.md");
  const text = sources();
  const messages = Array.from(page.matchAll(/^### `(.*)`$/gm), ([, message]) => message!);
  assert.ok(messages.length > 30);
  for (const message of messages) {
    const pieces = message.split("…").map((piece) => piece.trim()).filter((piece) =>
      piece.length > 2
    );
    assert.ok(pieces.length > 0, message);
    for (const piece of pieces) {
      // A name that is put in, such as /dev/shm, is a constant in C.
      const found = text.includes(piece) || text.includes(piece.replace("/dev/shm ", '" '));
      assert.ok(found, `no message of the source has ${JSON.stringify(piece)} (${message})`);
    }
  }
});

test("codes that the guide names are those of ShmError", { timeout: 30_000 }, () => {
  for (const file of ["troubleshooting", "ownership", "sizing", "deployment", "bun", "deno"]) {
    for (const [word] of read(`docs/${file}.md`).matchAll(/\bE[A-Z0-9]{3,}\b/g)) {
      assert.ok((ERROR_CODES as readonly string[]).includes(word), `${word} in docs/${file}.md`);
    }
  }
});

/** The anchor that a heading has on the web. */
function anchor(heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-");
}

test("links of the documents lead somewhere", { timeout: 30_000 }, () => {
  let checked = 0;
  for (const file of documents()) {
    const text = read(file).replaceAll(/^```[^]*?^```$/gm, "").replaceAll(/`[^`\n]*`/g, "");
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue;
      const [path, fragment] = target!.split("#");
      const at = path === "" ? file : join(dirname(file), path!);
      assert.ok(existsSync(join(ROOT, at)), `${file} links to ${target}`);
      if (fragment !== undefined && at.endsWith(".md")) {
        const headings = Array.from(read(at).matchAll(/^#+ (.*)$/gm), ([, text]) => anchor(text!));
        assert.ok(headings.includes(fragment), `${file} links to ${target}`);
      }
      checked++;
    }
  }
  assert.ok(checked > 50);
});

test("the README has the permissions of docs/deno.md", { timeout: 30_000 }, () => {
  const flags = /^\| starts its own worker \| (`[^`]+`) \|$/m.exec(read("docs/deno.md"))?.[1];
  assert.ok(flags !== undefined && read("README.md").includes(flags));
});

test("the guide's index has every page of docs/", { timeout: 30_000 }, () => {
  const index = read("docs/README.md");
  for (const name of readdirSync(join(ROOT, "docs"))) {
    if (!name.endsWith(".md") || name === "README.md") continue;
    assert.ok(index.includes(`](${name})`), `docs/README.md does not name ${name}`);
  }
  assert.ok(read("README.md").split("\n").length <= 151, "the README has 150 lines at most");
});

// --- docs/sizing.md

test("the defaults of docs/sizing.md are the code's", { timeout: 30_000 }, () => {
  const page = read("docs/sizing.md");
  const rows = Object.fromEntries(
    Array.from(
      page.matchAll(/^\| `([\w-]+)` \| ([^|]+?) \|/gm),
      ([, name, value]) => [name, value],
    ),
  );
  const help = spawnSync(locateWorker(), ["--help"], { encoding: "utf8" }).stdout;
  const ofWorker = (option: string) =>
    new RegExp(`^ *${option} .*?default ([\\w,. ]+?)\\)?[;,.)]?$`, "ms").exec(help)?.[0] ?? "";
  assert.match(ofWorker("--io-threads"), new RegExp(`default ${rows["--io-threads"]}\\b`));
  assert.match(ofWorker("--max-clients"), new RegExp(`\\b${rows["--max-clients"]}\\b`));
  const connector = read("src/connector/shm_file_options.ts");
  assert.ok(connector.includes(`maxInFlight = ${rows["maxInFlight"]},`));
  assert.equal(rows["maxInFlightBytes"], "256 MiB");
  assert.ok(connector.includes("maxInFlightBytes = 256 * 2 ** 20,"));
  assert.equal(rows["populateThreads"], "CPUs, at most 8");
  assert.match(read("csrc/lmshm/populate.c"), /#define THREADS_CHOSEN_MAX 8\b/);
  const quota = read("csrc/worker/storage/quota.cc");
  assert.ok(quota.includes("high_(limit_ - limit_ / 40),") && page.includes("From 97.5 % on"));
  assert.ok(quota.includes("low_(limit_ - limit_ / 40 * 3),") && page.includes("down to 92.5 %"));
  const tiers = { hot: { tryAllocate: () => null }, cold: { batchedContains: () => 0 } };
  const { maxQueuedBytes } = checkTieredOptions(tiers as never);
  assert.ok(read("docs/memory.md").includes(`\`maxQueuedBytes\` (${maxQueuedBytes / 2 ** 20} MiB`));
});

// --- examples/deploy

/** The worker's options in a list of arguments exist, and it gets as far as opening its root. */
function checkWorkerArguments(args: readonly string[], where: string): void {
  const replaced = args.map((word) => word.replace("/var/lib/lmshm", "/nowhere"))
    .map((word, at) => args[at - 1] === "--root" ? "/nowhere" : word);
  const ended = spawnSync(locateWorker(), replaced, { encoding: "utf8" });
  assert.equal(ended.status, 3, `${where}: ${ended.stderr}`);
  assert.match(ended.stderr, /\/nowhere/, where);
}

/** The program's variables are a configuration whose pool fits into `shmBytes`. */
function checkEnvironment(environment: Record<string, string>, shmBytes: number): void {
  const { config, notices } = loadConfig({ file: null, environment });
  assert.deepEqual(notices, []);
  assert.equal(config.workerAddress, "unix:/run/lmshm/worker.sock");
  assert.ok(config.shmName !== null && config.storageDir !== null);
  assert.ok(config.poolSizeBytes < shmBytes);
}

const gibibytes = (text: string) => Number(/^(\d+)(Gi|g)$/.exec(text)?.[1]) * 2 ** 30;

const field = (value: unknown, ...path: (string | number)[]): unknown =>
  path.reduce<unknown>((at, key) => (at as Record<string | number, unknown>)?.[key], value);

test("the Compose file parses, and the two services share what they must", {
  timeout: 30_000,
}, () => {
  const file = parse(read("examples/deploy/compose.yaml"));
  const { worker, program } = file.services;
  checkWorkerArguments(worker.command, "compose.yaml");
  assert.equal(worker.user, program.user);
  for (const volume of ["shm:/dev/shm", "run:/run/lmshm"]) {
    assert.ok(worker.volumes.includes(volume) && program.volumes.includes(volume), volume);
  }
  const named = [...worker.volumes, ...program.volumes].map((volume: string) =>
    volume.split(":")[0]!
  );
  assert.deepEqual([...new Set(named)].sort(), Object.keys(file.volumes).sort());
  const size = /size=(\w+)/.exec(file.volumes.shm.driver_opts.o)?.[1];
  checkEnvironment(program.environment, gibibytes(size!));
});

test("the Kubernetes manifests parse, and the containers share what they must", {
  timeout: 30_000,
}, () => {
  const documents = parseAllDocuments(read("examples/deploy/kubernetes.yaml"));
  for (const { errors } of documents) assert.deepEqual(errors, []);
  const [claim, deployment] = documents.map((document) => document.toJS());
  const pod = deployment.spec.template.spec;
  const [worker] = pod.initContainers;
  const [program] = pod.containers;
  assert.equal(worker.restartPolicy, "Always");
  checkWorkerArguments(worker.args, "kubernetes.yaml");
  const volumes = new Map<string, Record<string, unknown>>(
    pod.volumes.map((volume: { name: string }) => [volume.name, volume]),
  );
  for (const { name } of [...worker.volumeMounts, ...program.volumeMounts]) {
    assert.ok(volumes.has(name), `there is a volume ${name}`);
  }
  const mountOf = (container: { volumeMounts: { name: string; mountPath: string }[] }) =>
    container.volumeMounts.find(({ mountPath }) => mountPath === "/dev/shm")?.name;
  assert.equal(mountOf(worker), mountOf(program));
  assert.equal(field(volumes.get(mountOf(worker)!), "emptyDir", "medium"), "Memory");
  assert.equal(
    field(volumes.get("data"), "persistentVolumeClaim", "claimName"),
    claim.metadata.name,
  );
  assert.ok(
    deployment.spec.template.metadata.labels.app === deployment.spec.selector.matchLabels.app,
  );
  const environment = Object.fromEntries(
    program.env.map(({ name, value }: { name: string; value: string }) => [name, value]),
  );
  const { sizeLimit } = field(volumes.get("shm"), "emptyDir") as { sizeLimit: string };
  checkEnvironment(environment, gibibytes(sizeLimit));
  checkEnvironment(environment, gibibytes(program.resources.limits.memory));
});

const ANALYZE = "/usr/bin/systemd-analyze";

test("the systemd unit is one that systemd takes", {
  skip: existsSync(ANALYZE) ? false : "systemd-analyze is missing",
  timeout: 60_000,
}, () => {
  using dir = new TempDir();
  const unit = read("examples/deploy/lmshm-worker.service");
  const command = /^ExecStart=(\S+) (.*)$/m.exec(unit)!;
  checkWorkerArguments(command[2]!.split(" "), "lmshm-worker.service");
  writeFileSync(dir.file("lmshm-worker.service"), unit.replace(command[1]!, locateWorker()));
  const ended = spawnSync(ANALYZE, ["verify", "--man=no", dir.file("lmshm-worker.service")], {
    encoding: "utf8",
  });
  assert.equal(ended.status, 0, ended.stderr);
  assert.ok(!/lmshm-worker\.service:/.test(ended.stderr), ended.stderr);
});
