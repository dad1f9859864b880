// SPDX-License-Identifier: Apache-2.0
//
// What must hold for every command, in one table: beside a worker that is busy, at a terminal of 40
// columns, before a reader that ends early, with output that cannot be written, on a full disk, and
// when the worker is killed in the middle. LMSHM_TEST_COMMAND has the same of the single executable.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { DESCRIPTIONS } from "../src/cli/commands.ts";
import { ShmFileConnector, ShmSegment } from "../src/mod.ts";
import { atTerminal, hasProgram, inShell, lmshmCommand } from "./support/command_line.ts";
import { uniqueName } from "./support/leaks.ts";
import { type Ended, runToEnd } from "./support/process.ts";
import { eventually, type ListeningWorker, startWorker, TempDir } from "./support/worker.ts";

const LONG = { timeout: 300_000 };
const MIB = 2 ** 20;

interface Row {
  /** Of a line that works. $A: the worker, $S: a store of it, $D: a directory, $F: a full disk. */
  readonly line: string;
  /** Where nothing is wrong; default 0. */
  readonly status?: readonly number[];
  /** It asks the worker at $A, and this is its status when that one is killed meanwhile. */
  readonly gone?: number;
  /** Writes to a full disk. */
  readonly full?: string;
  /** Prints where it listens, and goes on: it must end where that cannot be written. */
  readonly serves?: string;
  /** What it prints is for programs, and as wide as it is. */
  readonly wide?: true;
}

const SMALL = "--size 4MiB --chunk-size 1MiB --pin none";

/** Of every command. A row of one that is not there is no harm. */
const ROWS: Readonly<Record<string, Row>> = {
  worker: { line: "worker --root $D/own", wide: true },
  metrics: { line: "metrics $S", gone: 1, wide: true, serves: "metrics $S --listen 127.0.0.1:0" },
  // It serves until it is ended; at an address that is another machine's it ends by itself.
  dashboard: {
    line: "dashboard $A --listen 192.0.2.1:9809",
    status: [1],
    serves: "dashboard $A --listen 0",
  },
  top: { line: "top $A -n 1 -i 0.1", gone: 1 },
  put: { line: "put $S $D/f $D/g", gone: 1, full: "put $F/kv $D/big" },
  get: { line: "get $S seed -o $D/out/", gone: 1, full: "get $S seed -o $F/out/" },
  ls: { line: "ls -l $S", gone: 1 },
  stat: { line: "stat $S seed", gone: 1 },
  rm: { line: "rm -n $S see*", gone: 1 },
  cp: { line: "cp $S $D/copy seed", gone: 1, full: "cp $S $F/kv seed" },
  "shm ls": { line: "shm ls" },
  "shm rm": { line: "shm rm lmshm-test-none-of-that-name", status: [1] },
  "shm gc": { line: "shm gc -n" },
  doctor: {
    line: "doctor --worker-address $A --storage-dir $D/own --pool-size 1MiB",
    status: [0, 1, 3],
    gone: 1,
  },
  verify: {
    line: `verify --worker-address $A --storage-dir $D/root/v ${SMALL}`,
    gone: 1,
    full: `verify --storage-dir $F/v ${SMALL}`,
  },
  check: { line: "check --config $D/check.yaml", gone: 1, full: "check --config $D/full.yaml" },
  gpu: { line: "gpu --quick", status: [0, 1] },
  bench: {
    line: "bench $D/bench --quick --chunk-size 256KiB",
    full: "bench $F/bench --chunk-size 256KiB",
  },
  completion: { line: "completion bash", wide: true },
  man: { line: "man", wide: true },
};

const rows = Object.entries(ROWS).filter(([name]) => DESCRIPTIONS.some((one) => one.name === name));

test("every command stands in the table of what must hold for all", () => {
  for (const { name } of DESCRIPTIONS) assert.ok(name in ROWS, `${name} needs a row`);
});

/** A worker with objects, files to store, and lines with the places put in. */
class Scene implements AsyncDisposable {
  readonly dir: TempDir;
  readonly #worker: ListeningWorker;

  private constructor(dir: TempDir, worker: ListeningWorker) {
    this.dir = dir;
    this.#worker = worker;
  }

  static async open(): Promise<Scene> {
    const dir = new TempDir();
    for (const name of ["root", "root/sub", "own", "disk"]) mkdirSync(dir.file(name));
    const content = (bytes: number) => new Uint8Array(bytes).fill(7);
    for (const [name, bytes] of [["f", 100_000], ["g", 10], ["big", 3 * MIB]] as const) {
      writeFileSync(dir.file(name), content(bytes));
    }
    writeFileSync(dir.file("root/sub/seed.data"), content(2 * MIB));
    const worker = await startWorker(`unix:${dir.file("w.sock")}`, dir.file("root"));
    const config = (storage: string, more: object) =>
      JSON.stringify({
        max_local_cpu_size: 1 / 64,
        extra_config: { "shmfs.storage_dir": storage, ...more },
      });
    const named = uniqueName("operator");
    writeFileSync(
      dir.file("check.yaml"),
      config(dir.file("root/c"), {
        "shmfs.worker_addr": worker.address,
        "shmfs.shm_name": `/${named}`,
      }),
    );
    writeFileSync(dir.file("full.yaml"), config(dir.file("disk/c"), {}));
    return new Scene(dir, worker);
  }

  /** Not by child.kill(): in Deno a second signal of that is not sent. */
  signal(signal: NodeJS.Signals): void {
    process.kill(this.#worker.child.pid!, signal);
  }

  /** The words of a line. */
  words(line: string): string[] {
    const places: Record<string, string> = {
      $A: this.#worker.address,
      $S: `sub@${this.#worker.address}`,
      $D: this.dir.path,
      $F: this.dir.file("disk"),
    };
    return line.split(" ").map((word) => word.replace(/^\$[A-Z]/, (name) => places[name]!));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker[Symbol.asyncDispose]();
    this.dir[Symbol.dispose]();
  }
}

/** Puts and gets of 1 MiB in a worker until it is ended. */
async function underLoad(scene: Scene, work: () => Promise<void>): Promise<void> {
  await using segment = await ShmSegment.create({
    name: uniqueName("load"),
    sizeBytes: 4 * MIB,
    pin: "none",
  });
  await using connector = await ShmFileConnector.open({
    segment,
    storageDir: scene.dir.file("root/load"),
    workerAddress: scene.words("$A")[0]!,
  });
  let ended = false;
  const load = Promise.all([0, 1, 2, 3].map(async (lane) => {
    const range = segment.range(lane * MIB, MIB);
    for (; !ended;) {
      await connector.put(`load-${lane}`, range);
      await connector.get(`load-${lane}`, range);
    }
  }));
  try {
    await work();
  } finally {
    ended = true;
    await load;
  }
}

const quoted = (words: readonly string[]) =>
  words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");

function expected({ status = [0] }: Row, { code, stdout, stderr }: Ended, name: string): void {
  assert.ok(status.includes(code ?? -1), `${name}: status ${code}\n${stdout}\n${stderr}`);
  noStack(stdout + stderr, name);
}

/** A failure of the command itself is no answer to anything. */
function noStack(text: string, name: string): void {
  assert.ok(!/^ +at .*:\d+:\d+\)?$/m.test(text), `${name}:\n${text}`);
}

test("beside a busy worker, at a terminal of 40 columns, every command works and fits", {
  ...LONG,
  skip: hasProgram("script") ? false : "script (bsdutils) is not installed",
}, async () => {
  await using scene = await Scene.open();
  const tooWide: string[] = [];
  await underLoad(scene, async () => {
    for (const [name, row] of rows) {
      const input = name === "worker" ? " </dev/null" : "";
      const ended = await atTerminal(40, `lmshm ${quoted(scene.words(row.line))}${input}`);
      expected(row, ended, name);
      if (row.wide) continue;
      for (const line of ended.stdout.split(/[\r\n]+/)) {
        // What failed is told in one line, that can be searched for.
        if (line.startsWith("lmshm: ")) continue;
        // What is to be copied is not broken: a command, a path.
        if (/^ *(fix: |(\S+ {2,})?\S+$)/.test(line)) continue;
        if (line.length > 40) tooWide.push(`${name}: ${line}`);
      }
    }
  });
  assert.deepEqual(tooWide, []);
});

test("a reader that ends early is no failure of any command", LONG, async () => {
  await using scene = await Scene.open();
  await underLoad(scene, async () => {
    for (const [name, row] of rows) {
      const { stderr, code } = await inShell(
        `lmshm ${quoted(scene.words(row.line))} </dev/null | head -n 1 >/dev/null
         exit "\${PIPESTATUS[0]}"`,
      );
      assert.ok((row.status ?? [0]).includes(code!), `${name}: status ${code}, ${stderr}`);
      assert.ok(!/EPIPE|[Bb]roken pipe/.test(stderr), `${name}: ${stderr}`);
      noStack(stderr, name);
    }
  });
});

test("output that cannot be written is a failure of every command", {
  ...LONG,
  skip: existsSync("/dev/full") ? false : "there is no /dev/full",
}, async () => {
  await using scene = await Scene.open();
  for (const [name, row] of rows) {
    // The worker answers on stdout, and has been asked nothing.
    if (name === "worker") continue;
    const line = `lmshm ${quoted(scene.words(row.serves ?? row.line))} </dev/null >/dev/full`;
    const { stderr, code } = await inShell(line);
    assert.ok(code !== 0, `${name}: ${stderr}`);
    assert.match(stderr, /standard output cannot be written/, name);
    noStack(stderr, name);
  }
});

/** All files below a directory. */
function filesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(directory, name)).isFile()
  );
}

const mounts = (() => {
  using dir = new TempDir();
  const done = spawnSync("mount", ["-t", "tmpfs", "lmshm-test", dir.path], { encoding: "utf8" });
  if (done.status === 0) spawnSync("umount", ["-l", dir.path]);
  return done.status === 0 ? false : "no file system can be mounted here";
})();

test("a full disk is told by every command that writes to one, and nothing is left on it", {
  ...LONG,
  skip: mounts,
}, async () => {
  await using scene = await Scene.open();
  const disk = scene.dir.file("disk");
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=1m", "lmshm-test", disk]);
  assert.equal(mounted.status, 0);
  try {
    for (const [name, { full }] of rows) {
      if (full === undefined) continue;
      const [command, line] = lmshmCommand(...scene.words(full));
      const ended = await runToEnd(command, line, { timeoutMs: 120_000 });
      const said = ended.stdout + ended.stderr;
      assert.equal(ended.code, 1, `${name}: ${said}`);
      assert.match(said, /ENOSPC|[Nn]o space left/, name);
      noStack(said, name);
      assert.deepEqual(filesBelow(disk), [], `${name} left something`);
    }
  } finally {
    spawnSync("umount", ["-l", disk]);
  }
});

/** Connections to a Unix socket, those included that nobody has accepted. */
function connectionsTo(path: string): number {
  const lines = readFileSync("/proc/net/unix", "utf8").split("\n");
  // Flags of one that listens.
  return lines.filter((line) => line.endsWith(` ${path}`) && !/ 00010000 /.test(line)).length;
}

test("a worker that is killed in the middle ends every command that asks it, and nothing is left", {
  ...LONG,
}, async () => {
  await using scene = await Scene.open();
  const asking = rows.filter(([, { gone }]) => gone !== undefined);
  // In the middle: it has the connections, and answers nobody.
  scene.signal("SIGSTOP");
  const started = asking.map(([name, row]) => {
    const [command, line] = lmshmCommand(...scene.words(row.line));
    const child = spawn(command, line, { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    child.stdout.on("data", (data) => said += data);
    child.stderr.on("data", (data) => said += data);
    const closed = new Promise<number | null>((resolve) => child.on("close", resolve));
    return { name, row, child, closed, text: () => said };
  });
  await eventually(
    "all are connected",
    () => connectionsTo(scene.dir.file("w.sock")) >= asking.length,
    120_000,
  );
  scene.signal("SIGKILL");
  for (const { name, row, child, closed, text } of started) {
    const late = setTimeout(() => child.kill("SIGKILL"), 120_000);
    assert.equal(await closed, row.gone, `${name}: ${text()}`);
    clearTimeout(late);
    assert.match(text(), /w\.sock|worker/, name);
    noStack(text(), name);
    const left = readdirSync("/dev/shm").filter((one) => one.includes(`-${child.pid}`));
    assert.deepEqual(left, [], name);
  }
  assert.deepEqual(readdirSync("/dev/shm").filter((one) => one.includes("-operator-")), []);
});

/** The workers that a process has started: of an executable they have no name of their own. */
function workersOf(pid: number): number[] {
  return readdirSync("/proc").filter((name) => /^\d+$/.test(name)).filter((name) => {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      const [, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      const words = readFileSync(`/proc/${name}/cmdline`, "utf8").split("\0");
      return Number(parent) === pid && words.includes("--segment-fd");
    } catch {
      return false;
    }
  }).map(Number);
}

for (const line of ["bench $D/b --quick --chunk-size 1MiB", `verify --storage-dir $D/v ${SMALL}`]) {
  const name = line.split(" ")[0]!;
  test(`lmshm ${name} leaves nothing when the worker that it started is killed`, LONG, async () => {
    await using scene = await Scene.open();
    const before = readdirSync(scene.dir.path).sort();
    const [command, words] = lmshmCommand(...scene.words(line));
    const child = spawn(command, words, { stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    child.stdout.on("data", (data) => said += data);
    child.stderr.on("data", (data) => said += data);
    let over = false;
    const closed = new Promise<number | null>((resolve) => child.on("close", resolve));
    void closed.then(() => over = true);
    let killed = 0;
    await eventually("its worker is there", () => {
      for (const pid of workersOf(child.pid!)) {
        process.kill(pid, "SIGKILL");
        killed++;
      }
      return over || killed > 0;
    });
    const code = await closed;
    // verify goes on with another one; numbers of two workers are of no use.
    if (name === "bench") assert.equal(code, 1, said);
    else assert.ok(code === 0 || code === 1, said);
    noStack(said, name);
    assert.ok(killed > 0);
    assert.deepEqual(workersOf(child.pid!), []);
    assert.deepEqual(readdirSync(scene.dir.path).sort(), before);
    const left = readdirSync("/dev/shm").filter((one) => one.includes(`-${child.pid}`));
    assert.deepEqual(left, []);
  });
}
