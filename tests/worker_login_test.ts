// SPDX-License-Identifier: Apache-2.0
//
// Who is at the other end: a client and a worker that prove to each other that they know the secret,
// programs that only seem to, and Unix sockets of other users.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdirSync, readFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import process from "node:process";
import { test } from "node:test";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import { ownUser, peerUserOf } from "../src/native/users.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { loginProof } from "../src/worker/login.ts";
import type { Users } from "../src/worker/stranger.ts";
import { uniqueName } from "./support/leaks.ts";
import { IMPOSTORS, Port, provingWorker } from "./support/login.ts";
import { obliging, openObjectClient } from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  ScriptedWorker,
  startWorker,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const SECRET = "correct-horse-battery-staple";
const IMPOSTOR = /does not know the secret: it is not your worker/;
const GOLDEN = new URL("./golden/login_proofs.tsv", import.meta.url);

const open = (path: string, secret: string | null, users?: Users) =>
  openObjectClient(path, { secret, users, directory: "/d" });

/** Checks that what was said to somebody tells nothing, and is no more than a login. */
function assertNothingTold(lines: readonly string[]): void {
  for (const line of lines) {
    assert.match(line, /^(CHALLENGE|PROVE) [0-9a-f]{64}$/);
    assert.ok(!line.includes(SECRET));
  }
}

test("proofs are those of the golden file", () => {
  const rows = readFileSync(GOLDEN, "utf8").split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  assert.ok(rows.length > 20);
  for (const row of rows) {
    const [secret, client, worker, ofClient, ofWorker] = row.split("\t") as [
      string,
      string,
      string,
      string,
      string,
    ];
    assert.equal(loginProof("client", secret, client, worker), ofClient);
    assert.equal(loginProof("worker", secret, client, worker), ofWorker);
  }
});

test("the login comes first, one line at a time, and shows no secret", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(dir, provingWorker(SECRET, obliging));
    const nonces = new Set<string>();
    for (let i = 0; i < 3; i++) {
      const begin = worker.lines.length;
      await using client = await open(worker.path, SECRET);
      await client.ping();
      const [challenge, proof, next] = worker.lines.slice(begin);
      assertNothingTold([challenge!, proof!]);
      assert.match(challenge!, /^CHALLENGE /);
      assert.match(next!, /^HELLO 2 dir=\/d$/);
      nonces.add(challenge!);
    }
    assert.equal(nonces.size, 3, "a fresh nonce each time");
    assert.ok(!worker.lines.join().includes(SECRET));
  }));

for (const [what, make] of Object.entries(IMPOSTORS)) {
  test(
    `a program that ${what} is no worker`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        using dir = new TempDir();
        await using impostor = await ScriptedWorker.listen(dir, make());
        await assert.rejects(open(impostor.path, SECRET), (error: unknown) => {
          assert.ok(error instanceof ShmError, `${error}`);
          assert.ok(!error.message.includes(SECRET));
          // Who talks out of turn does not keep to the protocol, to begin with.
          if (error.code !== "EPROTO") shmError("EACCES", IMPOSTOR)(error);
          return true;
        });
        assert.ok(impostor.lines.length > 0);
        assertNothingTold(impostor.lines);
      }),
  );
}

test("answers of a worker that were overheard prove nothing", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const overheard: string[] = [];
    const honest = provingWorker(SECRET, obliging);
    {
      await using worker = await ScriptedWorker.listen(dir, (line, peer) => {
        const answer = honest(line, peer) as string | undefined;
        if (/^(CHALLENGE|PROVE) /.test(line)) overheard.push(answer!);
        return answer;
      });
      await using _client = await open(worker.path, SECRET);
    }
    assert.equal(overheard.length, 2);
    await using impostor = await ScriptedWorker.listen(dir, () => overheard.shift() ?? "OK");
    await assert.rejects(open(impostor.path, SECRET), shmError("EACCES", IMPOSTOR));
    assertNothingTold(impostor.lines);
  }));

test(
  `a refused login is explained`,
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      let answer = "";
      await using worker = await ScriptedWorker.listen(dir, (line) =>
        line.startsWith("CHALLENGE") && answer.includes("proof") ? `OK ${"a".repeat(64)}` : answer);
      for (
        const [reply, code, pattern] of [
          ["ERROR EACCES wrong proof", "EACCES", /LMSHM_SECRET must be/],
          ['ERROR EINVAL unknown command "CHALLENGE"; this', "ENOSYS", /--no-auth\. Leave the/],
          [
            "ERROR unknown command: CHALLENGE",
            "ENOSYS",
            /not lmshm-worker.*Leave the secret out/,
          ],
          ["ERROR EAGAIN 64 clients are connected already", "EAGAIN", /64 clients/],
        ] as const
      ) {
        answer = reply;
        const begin = worker.lines.length;
        await assert.rejects(open(worker.path, SECRET), (error: unknown) => {
          assert.ok(!(error as Error).message.includes(SECRET));
          return shmError(code, pattern)(error);
        });
        assertNothingTold(worker.lines.slice(begin));
      }
    }),
);

test("without a secret one is asked for where it is needed", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(dir, provingWorker(SECRET, obliging));
    await assert.rejects(open(worker.path, null), shmError("EACCES", /LMSHM_SECRET/));
  }));

test("whoever took a dead worker's port gets and gives nothing", {
  timeout: 120_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const storageDir = dir.file("store");
    mkdirSync(storageDir);
    await using stack = new AsyncDisposableStack();
    const segment = await ShmSegment.create({
      sizeBytes: 2 ** 20,
      pin: "none",
      name: uniqueName("login"),
    });
    stack.defer(() => segment.free());
    const env = { LMSHM_SECRET: SECRET };
    const port = stack.use(await Port.open());
    const first = stack.use(await startWorker("127.0.0.1:0", storageDir, [], env));
    port.behind = Number(first.address.split(":")[1]);
    const connector = stack.use(
      await ShmFileConnector.open({
        segment,
        storageDir,
        workerAddress: port.address,
        secret: SECRET,
        restartPauseMs: 5,
        maxRestarts: 100,
        restartWindowMs: 10,
      }),
    );
    segment.bytes(0, 100).fill(1);
    await connector.put("k", segment.range(0, 100));
    first.child.kill("SIGKILL");

    const refused = (error: unknown) => {
      assert.ok(error instanceof ShmError, `${error}`);
      if (error.code !== "EPROTO") shmError("EACCES", IMPOSTOR)(error);
      return true;
    };
    for (const [what, make] of Object.entries(IMPOSTORS)) {
      port.behind = make();
      port.lines = [];
      segment.bytes(0, 100).fill(2);
      await assert.rejects(connector.put("k", segment.range(0, 100)), refused, what);
      await assert.rejects(connector.get("k", segment.range(200, 100)), refused, what);
      await assert.rejects(connector.ping(), refused, what);
      assert.ok(port.lines.length >= 3, "each call asked again who is there");
      assertNothingTold(port.lines);
    }
    assert.ok(segment.bytes(200, 100).every((byte) => byte === 0));

    const second = stack.use(await startWorker("127.0.0.1:0", storageDir, [], env));
    port.behind = Number(second.address.split(":")[1]);
    const found = await connector.get("k", segment.range(200, 100));
    assert.equal(found?.byteLength, 100);
    assert.ok(segment.bytes(200, 100).every((byte) => byte === 1), "what was really stored");
  }));

test("a Unix socket of another user is not spoken to", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(dir, obliging);
    const own = ownUser();
    for (
      const [users, pattern] of [
        [{ own: () => own + 1, peerOf: peerUserOf }, /user \d+ listens there, and this is user/],
        [{ own: () => own + 1, peerOf: () => null }, /user \d+ owns it, and this is user/],
      ] as const
    ) {
      await assert.rejects(open(worker.path, null, users), (error: unknown) => {
        assert.match((error as ShmError).message, /run both as one user/);
        return shmError("EACCES", pattern)(error);
      });
    }
    assert.deepEqual(worker.lines, []);
    await using _asked = await open(worker.path, null, { own: ownUser, peerOf: peerUserOf });
    await using _owner = await open(worker.path, null, { own: ownUser, peerOf: () => null });
  }));

test("the kernel says who listens on a Unix socket", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const server = createServer().listen(dir.file("s"));
  await once(server, "listening");
  const socket: Socket = connect({ path: dir.file("s") });
  await once(socket, "connect");
  assert.equal(peerUserOf(socket), process.geteuid!());
  assert.equal(ownUser(), process.geteuid!());
  socket.destroy();
  server.close();
  await once(server, "close");
  assert.equal(peerUserOf(socket), null);
});

const cannotBecome = process.geteuid!() === 0 ? false : "only root can become another user";

test("a worker of another user is refused by its clients, and refuses them", {
  timeout: 60_000,
  skip: cannotBecome,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const store = dir.file("store");
    mkdirSync(store);
    // Let no mode of a file be what refuses.
    chmodSync(dir.path, 0o777);
    chmodSync(store, 0o777);
    await using stack = new AsyncDisposableStack();
    const segment = await ShmSegment.create({
      sizeBytes: 4096,
      pin: "none",
      name: uniqueName("login"),
    });
    stack.defer(() => segment.free());
    const workerAddress = dir.file("s");
    const child: ChildProcess = spawn("setpriv", [
      ...["--reuid=65534", "--regid=65534", "--clear-groups", locateWorker()],
      ...["--listen", workerAddress, "--root", store],
    ], { stdio: ["ignore", "pipe", "inherit"] });
    const exited = once(child, "exit");
    stack.defer(async () => {
      child.kill("SIGKILL");
      await exited;
    });
    let said = "";
    child.stdout!.on("data", (chunk) => said += chunk);
    await eventually("it listens", () => said.includes("LISTENING"));
    await assert.rejects(
      ShmFileConnector.open({ segment, storageDir: store, workerAddress }),
      shmError("EACCES", /user 65534 listens there, and this is user 0/),
    );
    // Somebody who does not look is told by the worker.
    const socket = connect({ path: workerAddress });
    socket.setEncoding("utf8");
    let answer = "";
    socket.on("data", (text) => answer += text);
    socket.write("HELLO 2\n1 ATTACH /x 4096 -\n");
    await once(socket, "end");
    assert.match(answer, /^ERROR EACCES this worker serves user 65534 only\n$/);
  }));
