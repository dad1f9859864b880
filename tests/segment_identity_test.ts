// SPDX-License-Identifier: Apache-2.0
//
// Program and worker share one memory, or the call fails: whatever the segment's name leads to by
// then. Each with a worker that is started here, one at a Unix socket and one at a TCP port.
//
// In all of them the name moves on to a segment of the same size that belongs to somebody else, full
// of 0xaa: those bytes must never be stored, and never be overwritten.

import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
} from "../src/connector/shm_file_connector.ts";
import { uniqueName } from "./support/leaks.ts";
import { plainWorker } from "./support/plain_worker.ts";
import { fixtureCommand } from "./support/process.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  type ListeningWorker,
  processExists,
  ScriptedWorker,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const SIZE = 1 << 20;
const OURS = 9;
const THEIRS = 0xaa;
const WAYS = ["spawned", "unix", "tcp"] as const;
type Way = (typeof WAYS)[number];

interface Scene {
  readonly name: string;
  readonly dir: TempDir;
  readonly store: string;
  readonly way: Way;
  /** For the test's end, last first. */
  readonly stack: AsyncDisposableStack;
  /** Starts the listening worker, again at the same address; nothing for a spawned one. */
  serve(): Promise<void>;
  workerPid(connector: ShmFileConnector): number;
  /** Ends the connector's worker, as a crash does. */
  crash(connector: ShmFileConnector): Promise<void>;
  open(segment: ShmSegment): Promise<ShmFileConnector>;
  /** The segment that the name leads to, and whether its bytes are all as its owner left them. */
  theirsAreUntouched(): boolean;
}

/** The test, for each way to a worker. */
function eachWay(title: string, body: (scene: Scene) => Promise<void>): void {
  for (const way of WAYS) {
    test(
      `${title} (${way})`,
      { timeout: 120_000 },
      () =>
        withoutWorkers(async () => {
          await using stack = new AsyncDisposableStack();
          await body(makeScene(stack, way));
        }),
    );
  }
}

function makeScene(stack: AsyncDisposableStack, way: Way): Scene {
  const dir = stack.use(new TempDir());
  const store = dir.file("store");
  mkdirSync(store);
  const name = uniqueName("identity");
  let worker: ListeningWorker | null = null;
  let address = way === "unix" ? `unix:${dir.file("worker.sock")}` : "127.0.0.1:0";
  stack.defer(async () => await worker?.[Symbol.asyncDispose]());
  return {
    name,
    dir,
    store,
    way,
    stack,
    async serve() {
      if (way === "spawned") return;
      worker = await startWorker(address, store, way === "tcp" ? ["--no-auth"] : []);
      address = worker.address;
    },
    workerPid: (connector) => worker?.child.pid ?? connector.workerPid!,
    async crash(connector) {
      const child: ChildProcess | null = worker?.child ?? null;
      const pid = this.workerPid(connector);
      const gone = child === null ? null : once(child, "exit");
      process.kill(pid, "SIGKILL");
      await gone;
      worker = null;
      await eventually("the worker has gone", () => !processExists(pid));
    },
    async open(segment) {
      const options: ShmFileConnectorOptions = {
        ...{ segment, storageDir: store },
        // A worker takes its time to start on a busy machine.
        ...{ maxRestarts: 100, restartPauseMs: 100 },
      };
      if (way !== "spawned") options.workerAddress = address;
      return stack.use(await ShmFileConnector.open(options));
    },
    theirsAreUntouched() {
      return readFileSync(`/dev/shm/${name}`).every((byte) => byte === THEIRS);
    },
  };
}

/** A process that owns the segment, until it is killed. */
async function startOwner(name: string): Promise<{ kill(): Promise<void> }> {
  const [command, line] = fixtureCommand("owner.ts", name, String(SIZE), "wait");
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  await Promise.race([
    once(child.stdout, "data"),
    exited.then(([code]) => assert.fail(`the owner exited with status ${code}`)),
  ]);
  return {
    async kill() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

/** Another segment has the name from now on, as after the crash of its owner. */
function takeName({ name, stack }: Pick<Scene, "name" | "stack">): ShmSegment {
  unlinkSync(`/dev/shm/${name}`);
  const theirs = stack.use(ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" }));
  theirs.bytes().fill(THEIRS);
  return theirs;
}

function createOurs({ name, stack }: Scene): ShmSegment {
  const ours = stack.use(ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" }));
  ours.bytes().fill(OURS);
  return ours;
}

function stored(store: string, key: string): Uint8Array {
  return readFileSync(`${store}/${key}.data`);
}

/** Puts and gets through a connector that must work, and compares every byte. */
async function roundTrip(scene: Scene, connector: ShmFileConnector, ours: ShmSegment, key: string) {
  ours.bytes().fill(OURS);
  await connector.put(key, ours.range(4096, 8192));
  assert.ok(stored(scene.store, key).every((byte) => byte === OURS), "our bytes are stored");
  ours.bytes().fill(1);
  const back = await connector.get(key, ours.range(65_536, 8192));
  assert.equal(back?.byteLength, 8192);
  assert.ok(ours.bytes(65_536, 8192).every((byte) => byte === OURS), "and come back to us");
}

/** A put and a get that must not go anywhere. */
async function refused(scene: Scene, connector: ShmFileConnector, ours: ShmSegment, code: RegExp) {
  writeFileSync(`${scene.store}/there.data`, new Uint8Array(4096).fill(7));
  for (
    const call of [
      () => connector.put("new", ours.range(0, 4096)),
      () => connector.get("there", ours.range(0, 4096)),
    ]
  ) {
    await assert.rejects(call, (error: Error & { code?: string }) => {
      assert.match(error.code ?? "", code, error.message);
      assert.match(error.message, /another segment|removed while/);
      assert.match(error.message, /open a new connector/);
      return true;
    });
  }
  assert.deepEqual(readdirSync(scene.store).filter((name) => name.startsWith("new")), []);
  assert.ok(ours.bytes().every((byte) => byte === OURS), "our memory is as it was");
}

eachWay(
  "after the owner was killed and started again an attachment is not taken for its new segment",
  async (scene) => {
    const { name, way, stack } = scene;
    const first = await startOwner(name);
    const ours = stack.use(await ShmSegment.attach({ name, pin: "none" }));
    ours.bytes().fill(OURS);
    await first.kill();
    const second = await startOwner(name);
    stack.defer(async () => {
      await second.kill();
      ShmSegment.reclaimDead();
    });
    using theirs = await ShmSegment.attach({ name, pin: "none" });
    theirs.bytes().fill(THEIRS);
    await scene.serve();
    if (way === "spawned") {
      // It inherits what is mapped here.
      await roundTrip(scene, await scene.open(ours), ours, "k");
    } else {
      await assert.rejects(
        scene.open(ours),
        shmError("ESTALE", /another segment.*attach it again/),
      );
      assert.ok(ours.bytes().every((byte) => byte === OURS));
    }
    assert.ok(scene.theirsAreUntouched());
    // What to do, done.
    using again = await ShmSegment.attach({ name, pin: "none" });
    await roundTrip(scene, await scene.open(again), again, "again");
  },
);

eachWay("a running connector goes on with its memory when the name moves on", async (scene) => {
  const ours = createOurs(scene);
  await scene.serve();
  const connector = await scene.open(ours);
  await roundTrip(scene, connector, ours, "before");
  takeName(scene);
  await roundTrip(scene, connector, ours, "after");
  unlinkSync(`/dev/shm/${scene.name}`);
  await roundTrip(scene, connector, ours, "unlinked");
});

eachWay(
  "a worker that is restarted after the name moved on gets no other memory",
  async (scene) => {
    const ours = createOurs(scene);
    await scene.serve();
    const connector = await scene.open(ours);
    await roundTrip(scene, connector, ours, "before");
    ours.bytes().fill(OURS);
    const theirs = takeName(scene);
    await scene.crash(connector);
    await scene.serve();
    if (scene.way === "spawned") {
      await roundTrip(scene, connector, ours, "after");
      assert.equal(connector.stats.restarts, 1);
    } else {
      await refused(scene, connector, ours, /^ESTALE$/);
      // Who has the name now is served.
      await connector.close();
      await roundTrip(scene, await scene.open(theirs), theirs, "theirs");
      theirs.bytes().fill(THEIRS);
    }
    assert.ok(scene.theirsAreUntouched());
  },
);

eachWay("a request in flight is not repeated with other memory", async (scene) => {
  const ours = createOurs(scene);
  await scene.serve();
  const connector = await scene.open(ours);
  await connector.put("there", ours.range(0, 4096));
  const worker = scene.workerPid(connector);
  process.kill(worker, "SIGSTOP");
  await eventually(
    "the worker has stopped",
    () => /^State:\tT/m.test(readFileSync(`/proc/${worker}/status`, "utf8")),
  );
  const calls = [
    connector.put("new", ours.range(4096, 8192)),
    connector.get("there", ours.range(65_536, 4096)),
    connector.batchedPut(["b1", "b2"], [ours.range(16_384, 100), ours.range(20_480, 100)]),
  ];
  const outcomes = Promise.allSettled(calls);
  takeName(scene);
  await scene.crash(connector);
  await scene.serve();
  for (const outcome of await outcomes) {
    if (scene.way === "spawned") assert.equal(outcome.status, "fulfilled");
    else assert.equal((outcome as { reason?: { code?: string } }).reason?.code, "ESTALE");
  }
  assert.ok(scene.theirsAreUntouched());
  assert.ok(ours.bytes().every((byte) => byte === OURS));
  for (const file of readdirSync(scene.store).filter((name) => name.endsWith(".data"))) {
    assert.ok(readFileSync(`${scene.store}/${file}`).every((byte) => byte === OURS), file);
  }
});

eachWay(
  "a worker that is restarted after the name was unlinked gets the memory or says why not",
  async (scene) => {
    const ours = createOurs(scene);
    await scene.serve();
    const connector = await scene.open(ours);
    ours.bytes().fill(OURS);
    unlinkSync(`/dev/shm/${scene.name}`);
    await scene.crash(connector);
    await scene.serve();
    if (scene.way === "spawned") await roundTrip(scene, connector, ours, "after");
    else await refused(scene, connector, ours, /^ENOENT$/);
  },
);

eachWay("of two live programs with one name each has its own memory", async (scene) => {
  const ours = createOurs(scene);
  const theirs = takeName(scene);
  await scene.serve();
  if (scene.way === "spawned") {
    await roundTrip(scene, await scene.open(ours), ours, "ours");
  } else {
    await assert.rejects(scene.open(ours), shmError("ESTALE"));
  }
  assert.ok(scene.theirsAreUntouched());
  await roundTrip(scene, await scene.open(theirs), theirs, "theirs");
});

test("the descriptor of a segment that was freed is not handed to another worker", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    for (const name of [uniqueName("freed"), undefined]) {
      const segment = ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" });
      await using connector = await ShmFileConnector.open({ segment, storageDir: dir.path });
      const pid = connector.workerPid!;
      segment.freeSync();
      assert.equal(await connector.exists("k"), false, "the worker that runs is asked");
      process.kill(pid, "SIGKILL");
      await eventually("the worker has gone", () => !processExists(pid));
      await assert.rejects(connector.exists("k"), shmError("EBADF", /was freed/));
    }
  }));

// --- workers that cannot be told what memory is meant

test("a worker of version 1 alone is not believed when the name leads elsewhere", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(new TempDir());
    const name = uniqueName("plain");
    const ours = stack.use(ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" }));
    const serve = plainWorker(ours);
    let onAttach = () => {};
    const worker = stack.use(
      await ScriptedWorker.listen(dir, (line, peer) => {
        if (line.startsWith("ATTACH")) onAttach();
        return serve(line, peer);
      }),
    );
    let losses = 0;
    const open = () =>
      ShmFileConnector.open({
        segment: ours,
        storageDir: dir.path,
        workerAddress: worker.path,
        onWorkerLost: () => losses++,
      });
    const connector = await open();
    await connector.put("k", ours.range(0, 4096));

    // It reconnects, and while it attaches the name moves on.
    onAttach = () => void takeName({ name, stack });
    worker.dropClients();
    await eventually("the loss is seen", () => losses > 0);
    const attached = worker.lines.length;
    await assert.rejects(
      connector.put("k", ours.range(0, 4096)),
      shmError("ESTALE", /another segment/),
    );
    onAttach = () => {};
    assert.ok(!worker.lines.slice(attached).some((line) => line.startsWith("WRITE")));
    await connector.close();

    // Now it has moved on already: nothing is attached.
    const before = worker.lines.length;
    await assert.rejects(open(), shmError("ESTALE", /attach it again/));
    assert.ok(!worker.lines.slice(before).some((line) => line.startsWith("ATTACH")));
    unlinkSync(`/dev/shm/${name}`);
    await assert.rejects(open(), shmError("ESTALE", /Python before 3\.13/));
  }));

// --- another /dev/shm

/** Words of a command that runs "$@" with an empty /dev/shm of its own. */
const PRIVATE = [
  ...["unshare", "-m", "--propagation", "private", "--", "sh", "-c"],
  'mount -t tmpfs tmpfs /dev/shm && truncate -s 1048576 "/dev/shm/$0" && ' +
  'chmod 600 "/dev/shm/$0" && exec "$@"',
];
const mayUnshare = spawnSync(PRIVATE[0]!, [...PRIVATE.slice(1), "lmshm-x", "true"]).status === 0;

test("a worker with a /dev/shm of its own is refused", {
  timeout: 60_000,
  skip: mayUnshare ? false : "this user may not have a mount namespace",
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const name = uniqueName("private");
    using segment = ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" });
    const words = [...PRIVATE.slice(1), name, locateWorker()];
    const listen = `unix:${dir.file("s")}`;
    const child = spawn(PRIVATE[0]!, [...words, "--listen", listen, "--root", dir.path], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const exited = once(child, "exit");
    try {
      await Promise.race([once(child.stdout, "data"), exited]);
      const options = { segment, storageDir: dir.path, workerAddress: listen };
      await assert.rejects(
        ShmFileConnector.open(options),
        shmError("ESTALE", /different \/dev\/shm.*share it between the containers/),
      );
    } finally {
      child.kill("SIGTERM");
      await exited;
    }
  }));

// --- what a killed program leaves

test("a killed program's name can be taken at once, though its worker lives on", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const name = uniqueName("orphan");
    const [command, line] = fixtureCommand("connected.ts", name, dir.path);
    const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
    const exited = once(child, "exit");
    const [said] = await once(child.stdout, "data");
    const worker = Number(String(said));
    assert.ok(processExists(worker));
    process.kill(worker, "SIGSTOP"); // so that it cannot see that its stdin has ended
    try {
      child.kill("SIGKILL");
      await exited;
      assert.equal(ShmSegment.nameState(name), "dead");
      using again = ShmSegment.createSync({ name, sizeBytes: SIZE, pin: "none" });
      assert.equal(again.facts.reclaimed, true);
      assert.ok(processExists(worker));
    } finally {
      process.kill(worker, "SIGKILL");
    }
  }));
