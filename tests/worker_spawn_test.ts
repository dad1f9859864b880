// SPDX-License-Identifier: Apache-2.0
//
// ClientV1 with child processes that cannot be started, die, hang, or talk too much. Shell
// scripts play the worker; shm_file_connector_*_test.ts have the real one.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { locateWorker } from "../src/native/locate.ts";
import type { WorkerLimits } from "../src/worker/limits.ts";
import { ClientV1 } from "../src/worker/v1/client.ts";
import { SpawnTransport } from "../src/worker/spawn_transport.ts";
import { fixtureCommand, runFixture } from "./support/process.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, processExists, sleep, TempDir, withoutWorkers } from "./support/worker.ts";

interface Watch {
  readonly log: string[];
  readonly lost: Error[];
}

function openClient(
  binary: string,
  limits: Partial<WorkerLimits> = {},
  watch: Watch = { log: [], lost: [] },
): Promise<ClientV1> {
  const options = { binary, args: [], passFd: null, onLog: (line: string) => watch.log.push(line) };
  return ClientV1.open({
    open: (handlers) => new SpawnTransport(options, handlers),
    handshake: {
      segment: {
        name: "/kv",
        descriptor: null,
        sizeBytes: 4096n,
        baseAddress: 4096n,
        identity: "-",
      },
      secret: null,
      directory: "/",
    },
    limits: {
      maxInFlight: 64,
      maxInFlightBytes: 1 << 30,
      controlTimeoutMs: 10_000,
      ioTimeoutMs: 10_000,
      closeTimeoutMs: 10_000,
      restarts: { max: 5, windowMs: 60_000, pauseMs: 10 },
      ...limits,
    },
    onLost: (error) => watch.lost.push(error),
  });
}

/** A shell worker that answers as version 1 does; `onTransfer` runs for READ and WRITE. */
function worker(dir: TempDir, onTransfer: string, onStart = ""): string {
  return dir.script(
    "worker.sh",
    `${onStart}
transfer() { ${onTransfer}
}
while IFS= read -r line; do
  case "$line" in
    READ*|WRITE*) transfer "\${line##* }" ;;
    PING) echo "ERROR unknown command: \$line" ;;
    QUIT) echo OK; exit 0 ;;
    *) echo OK ;;
  esac
done`,
  );
}

async function put(client: ClientV1, byteLength: number, release = () => {}) {
  return (await client.put({ key: "x", offset: 0, byteLength, release })).byteLength;
}

test(
  "a shell worker serves, and ends with QUIT",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const client = await openClient(worker(dir, 'echo "OK $1"'));
      const pid = client.pid!;
      assert.ok(processExists(pid));
      const sizes = Array.from({ length: 100 }, (_, index) => index);
      assert.deepEqual(await Promise.all(sizes.map((size) => put(client, size))), sizes);
      await client.close();
      assert.ok(!processExists(pid));
    }),
);

test(
  "open() says why a program cannot be started",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const missing = dir.file("missing");
      await assert.rejects(openClient(missing), shmError("ENOENT", /missing .*npm run build/));

      const plain = dir.script("plain", "exit 0");
      chmodSync(plain, 0o644);
      await assert.rejects(openClient(plain), shmError("EACCES", /chmod \+x/));
      await assert.rejects(openClient(dir.path), shmError("EACCES"));

      const text = dir.file("text");
      writeFileSync(text, "this is no program\n", { mode: 0o755 });
      await assert.rejects(openClient(text), shmError("ENOEXEC", /neither ELF nor a script/));

      const foreign = dir.file("foreign");
      const header = new Uint8Array(readFileSync(locateWorker()).subarray(0, 4096));
      header[18] = process.arch === "arm64" ? 62 : 183;
      writeFileSync(foreign, header, { mode: 0o755 });
      await assert.rejects(
        openClient(foreign),
        shmError("ENOEXEC", /is built for (arm64|x64), and this machine is/),
      );
    }),
);

test("open() reports the status and last words of a worker that dies at once", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const dying = dir.script("dying", 'echo "no such option: --root" >&2; exit 2');
    await assert.rejects(
      openClient(dying),
      shmError("EWORKER", /exited with status 2; it last wrote: "no such option: --root"/),
    );
    const killed = dir.script("killed", "kill -9 $$");
    await assert.rejects(openClient(killed), shmError("EWORKER", /killed by SIGKILL/));
    await assert.rejects(openClient("/bin/true"), shmError("EWORKER", /status 0/));
  }));

test("open() gives up on what is no worker", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const banner = dir.script("banner", 'echo "Welcome!"; cat > /dev/null');
    await assert.rejects(openClient(banner), shmError("EPROTO", /"Welcome!"/));
    // It sends back what it gets, which is neither OK nor ERROR.
    await assert.rejects(openClient("/bin/cat"), shmError("EPROTO", /"ATTACH/));
    const mute = dir.script("mute", "cat > /dev/null");
    await assert.rejects(openClient(mute, { controlTimeoutMs: 100 }), shmError("ETIMEDOUT"));
  }));

test("a worker that fills stderr is not blocked by it, and its log is bounded", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    // About 1 MiB for each request, far more than a pipe holds.
    const spam =
      'head -c 1000000 /dev/zero | tr "\\\\0" x >&2; echo >&2; echo "line $1" >&2; echo "OK $1"';
    const watch: Watch = { log: [], lost: [] };
    await using client = await openClient(worker(dir, spam), {}, watch);
    assert.deepEqual(await Promise.all([1, 2, 3].map((size) => put(client, size))), [1, 2, 3]);
    await eventually("the log has come", () => watch.log.includes("line 3"));
    assert.ok(watch.log.every((line) => line.length <= 500));
    assert.equal(watch.log.filter((line) => line.startsWith("line")).length, 3);
  }));

test("a worker that dies is replaced, and requests in flight are sent again", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const once = `if mkdir ${dir.file("died")} 2>/dev/null; then echo "out of luck" >&2; exit 7; fi
      echo "OK $1"`;
    const watch: Watch = { log: [], lost: [] };
    await using client = await openClient(worker(dir, once), {}, watch);
    const first = client.pid;
    let released = 0;
    const release = () => void released++;
    const sizes = [1, 2, 3, 4];
    const counts = await Promise.all(sizes.map((size) => put(client, size, release)));
    assert.deepEqual(counts, sizes);
    assert.equal(released, 4, "each was let go once");
    assert.notEqual(client.pid, first);
    assert.equal(client.restarts, 1);
    assert.equal(watch.lost.length, 1);
    assert.match(watch.lost[0]!.message, /exited with status 7; it last wrote: "out of luck"/);
  }));

test(
  "answers that a dying worker has written still count",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const last = `echo "$1" >> ${dir.file("served")}; echo "OK $1"; exit 0`;
      await using client = await openClient(worker(dir, last), {
        restarts: { max: 50, windowMs: 60_000, pauseMs: 1 },
      });
      for (let size = 1; size <= 5; size++) assert.equal(await put(client, size), size);
      assert.equal(readFileSync(dir.file("served"), "utf8"), "1\n2\n3\n4\n5\n");
    }),
);

test(
  "a worker that always dies is not started in a loop",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const fatal = `echo "$$" >> ${dir.file("pids")}; echo "disk on fire" >&2; exit 1`;
      await using client = await openClient(worker(dir, fatal), {
        restarts: { max: 3, windowMs: 60_000, pauseMs: 5 },
      });
      const failures: unknown[] = [];
      for (let call = 0; call < 10; call++) {
        await put(client, 1).catch((error) => failures.push(error));
      }
      assert.equal(failures.length, 10);
      assert.ok(shmError("EWORKER", /disk on fire/)(failures[0]));
      assert.ok(shmError("EWORKER", /replaced 3 times within 60000 ms.*disk on fire/)(failures[9]));
      const starts = readFileSync(dir.file("pids"), "utf8").trim().split("\n");
      assert.equal(new Set(starts).size, 4, "one, and three more");
    }),
);

test(
  "maxRestarts 0 lets a lost worker stay lost",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using client = await openClient(worker(dir, "exit 1"), {
        restarts: { max: 0, windowMs: 60_000, pauseMs: 5 },
      });
      await assert.rejects(put(client, 1), shmError("EWORKER", /must not be replaced/));
      await assert.rejects(client.ping(), shmError("EWORKER", /must not be replaced/));
    }),
);

test(
  "a worker that hangs is killed, and only then the memory is let go",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const hang = `if [ "$1" = 1 ]; then while :; do sleep 0.05; done; fi; echo "OK $1"`;
      await using client = await openClient(worker(dir, hang), { ioTimeoutMs: 1_000 });
      const pid = client.pid!;
      let aliveAtRelease: boolean | null = null;
      const hung = put(client, 1, () => aliveAtRelease = processExists(pid));
      const other = put(client, 2);
      await assert.rejects(hung, shmError("ETIMEDOUT", /WRITE \/x\.data within 1001 ms/));
      assert.equal(await other, 2, "sent again to the next worker");
      await eventually("the memory is let go", () => aliveAtRelease !== null);
      assert.equal(aliveAtRelease, false);
    }),
);

test(
  "a stopped worker is killed by the limit like a hanging one",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using client = await openClient(worker(dir, 'echo "OK $1"'), { ioTimeoutMs: 1_000 });
      const pid = client.pid!;
      process.kill(pid, "SIGSTOP");
      await assert.rejects(put(client, 1), shmError("ETIMEDOUT"));
      await eventually("it is gone", () => !processExists(pid));
      assert.equal(await put(client, 2), 2);
    }),
);

test("close() ends a worker that ignores QUIT, the end of input and SIGTERM", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const deaf = dir.script(
      "deaf",
      `trap "" TERM
read identity; echo OK
read attach; echo OK
while :; do sleep 0.05; done`,
    );
    const client = await openClient(deaf);
    const pid = client.pid!;
    await client.close();
    assert.ok(!processExists(pid));
  }));

test(
  "an idle worker does not keep the program alive, and ends with it",
  { timeout: 60_000 },
  async () => {
    using dir = new TempDir();
    const ended = await runFixture("worker_program.ts", [dir.path, "idle"]);
    assert.equal(ended.code, 0, ended.stderr);
    const pid = Number(/^worker (\d+)$/m.exec(ended.stdout)?.[1]);
    assert.ok(pid > 0, ended.stdout);
    await eventually("the worker has ended", () => !processExists(pid));
  },
);

test("a program waits for a request in flight before it ends", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const ended = await runFixture("worker_program.ts", [dir.path, "slow"]);
  assert.equal(ended.code, 0, ended.stderr);
  assert.match(ended.stdout, /^done 5$/m);
});

for (const how of ["SIGKILL", "throw"] as const) {
  test(`no worker outlives a program that ends by ${how}`, { timeout: 60_000 }, async () => {
    using dir = new TempDir();
    const [command, args] = fixtureCommand("worker_program.ts", dir.path, how);
    const program = spawn(command, args, { stdio: ["ignore", "pipe", "ignore"] });
    const exited = once(program, "exit");
    let said = "";
    program.stdout.on("data", (data) => said += data);
    await eventually("the worker runs", () => /^worker \d+$/m.test(said));
    const pid = Number(/^worker (\d+)$/m.exec(said)![1]);
    if (how === "SIGKILL") program.kill("SIGKILL");
    await exited;
    await eventually("the worker has ended", () => !processExists(pid));
    await sleep(0);
  });
}
