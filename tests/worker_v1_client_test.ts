// SPDX-License-Identifier: Apache-2.0
//
// ClientV1 against workers that answer as a script tells them: slowly, wrongly, or not at all.
// No memory is moved here; what matters is who gets which answer, and when memory is let go.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { StoredObject, WorkerLimits } from "../src/worker/object_client.ts";
import { ClientV1 } from "../src/worker/v1/client.ts";
import {
  clientOptions,
  type OpenOptions,
  send as held,
  type Sent,
} from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  type Script,
  ScriptedWorker,
  sleep,
  TempDir,
  willing,
  withoutWorkers,
} from "./support/worker.ts";

interface Scene {
  readonly worker: ScriptedWorker;
  readonly client: ClientV1;
  /** Losses that the client reported. */
  readonly lost: Error[];
}

function openClient(path: string, options: OpenOptions = {}): Promise<ClientV1> {
  return ClientV1.open(clientOptions(path, { directory: "/no-such-directory/d", ...options }));
}

/** One test with a scripted worker and a client of it, and a check that nothing is left. */
function scene(
  name: string,
  script: Script,
  limits: Partial<WorkerLimits>,
  body: (scene: Scene) => Promise<void>,
  options: { stubborn?: boolean } = {},
): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using worker = await ScriptedWorker.listen(dir, script, options);
      const lost: Error[] = [];
      const client = await openClient(worker.path, { limits, onLost: (error) => lost.push(error) });
      try {
        await body({ worker, client, lost });
      } finally {
        await client.close();
      }
    }));
}

let serial = 0;

function send(
  client: ClientV1,
  command: "read" | "write",
  byteLength: number,
  options: { signal?: AbortSignal; timeoutMs?: number } = {},
): Sent<StoredObject | null> {
  const key = `${serial++}`;
  return held<StoredObject | null>((release) => {
    const transfer = { key, offset: 0, byteLength, release, ...options };
    return command === "read" ? client.get(transfer) : client.put(transfer);
  });
}

async function count(sent: Sent<StoredObject | null>): Promise<number | undefined> {
  return (await sent.reply)?.byteLength;
}

const isTransfer = (line: string) => /^(READ|WRITE) /.test(line);

scene(
  "open() says ATTACH",
  willing,
  {},
  async ({ worker, client }) => {
    assert.deepEqual(worker.lines, [`ATTACH /kv ${1n << 40n} 4096`]);
    await client.close();
    assert.equal(worker.lines.at(-1), "QUIT");
  },
);

scene("get() gives each of 1,000 requests its own answer", willing, {}, async (s) => {
  const all = Array.from({ length: 1_000 }, (_, index) => send(s.client, "read", index));
  assert.deepEqual(await Promise.all(all.map(count)), all.map((_, index) => index));
  assert.ok(all.every((sent) => sent.released === 1));
  assert.equal(s.client.outstanding, 0);
});

scene(
  "answers may come in pieces of one byte",
  (line, peer) => {
    if (!isTransfer(line)) return undefined;
    const answer = `${willing(line)}\r\n`;
    void (async () => {
      for (const byte of answer) {
        peer.send(byte);
        await sleep(1);
      }
    })();
    return "";
  },
  {},
  async ({ client }) => {
    assert.equal(await count(send(client, "read", 12_345)), 12_345);
    assert.equal(await count(send(client, "write", 7)), 7);
  },
);

{
  const asked: string[] = [];
  let most = 0;
  scene(
    "one request is in flight at a time",
    (line, peer) => {
      if (!isTransfer(line)) return undefined;
      asked.push(line);
      most = Math.max(most, asked.length);
      setTimeout(() => peer.send(`${willing(asked.pop()!)}\n`), 2);
      return "";
    },
    {},
    async ({ client }) => {
      const sizes = [10, 600, 5_000, 0, 1];
      const all = sizes.map((size) => send(client, "write", size));
      assert.deepEqual(await Promise.all(all.map(count)), sizes);
      assert.equal(most, 1);
    },
  );
}

scene(
  "a line that is no reply fails its request, and the others are asked anew elsewhere",
  (line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    return line.endsWith(" 2") ? "Segmentation fault (core dumped)" : undefined;
  },
  {},
  async ({ client, worker, lost }) => {
    const [first, second, third] = [1, 2, 3].map((size) => send(client, "write", size));
    assert.equal(await count(first!), 1);
    await assert.rejects(second!.reply, shmError("EPROTO", /"Segmentation fault \(core dumped\)"/));
    assert.equal(await count(third!), 3);
    assert.equal(worker.connections, 2);
    assert.equal(client.restarts, 1);
    assert.equal(lost.length, 1);
    assert.deepEqual([first, second, third].map((sent) => sent!.released), [1, 1, 1]);
  },
);

for (
  const [what, answer] of [
    ["more bytes than asked for", "OK 11"],
    ["no number", "OK"],
    ["a negative number", "OK -1"],
    ["no integer", "OK 1.5"],
    ["a line without end", "x".repeat(70_000)],
  ] as const
) {
  scene(
    `get() takes ${what} for a broken protocol`,
    (line) => isTransfer(line) ? answer : undefined,
    {},
    async ({ client }) => {
      const sent = send(client, "read", 10);
      await assert.rejects(sent.reply, shmError("EPROTO"));
      await eventually("the memory is let go", () => sent.released === 1);
    },
  );
}

scene(
  "put() takes a short count for a broken protocol",
  (line) => isTransfer(line) ? "OK 9" : undefined,
  {},
  async ({ client }) => {
    await assert.rejects(send(client, "write", 10).reply, shmError("EPROTO", /10 bytes/));
    assert.equal(await count(send(client, "read", 10)), 9);
  },
);

scene(
  "a reply that nobody asked for ends the connection, and the next call makes a new one",
  (line, peer) => {
    if (isTransfer(line) && peer.index === 0) setTimeout(() => peer.send("OK 5\n"), 20);
    return undefined;
  },
  {},
  async ({ client, worker, lost }) => {
    assert.equal(await count(send(client, "read", 3)), 3);
    await eventually("the loss is reported", () => lost.length === 1);
    assert.match(lost[0]!.message, /"OK 5", which nobody asked for/);
    assert.equal(await count(send(client, "read", 4)), 4);
    assert.equal(worker.connections, 2);
  },
);

scene(
  "half a reply is no reply: the request is sent again to the next worker",
  (line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    peer.socket.end("OK 1");
    return "";
  },
  {},
  async ({ client, worker }) => {
    const sent = send(client, "read", 100);
    assert.equal(await count(sent), 100);
    assert.equal(sent.released, 1);
    assert.equal(worker.lines.filter(isTransfer).length, 2);
  },
);

scene(
  "a request that loses two workers fails with the reason",
  (line, peer) => {
    if (!isTransfer(line)) return undefined;
    peer.socket.destroy();
    return "";
  },
  {},
  async ({ client, worker }) => {
    const sent = send(client, "write", 100);
    await assert.rejects(sent.reply, shmError("ECONNRESET", /closed the connection/));
    assert.equal(sent.released, 1);
    assert.equal(worker.lines.filter(isTransfer).length, 2);
  },
);

scene(
  "a worker that loses every connection is not tried for ever, and not given up for ever",
  (line, peer) => {
    if (!isTransfer(line) || peer.index > 8) return undefined;
    peer.socket.destroy();
    return "";
  },
  { restarts: { max: 3, windowMs: 1_000, pauseMs: 10 } },
  async ({ client, worker }) => {
    const errors: unknown[] = [];
    const begun = performance.now();
    for (let call = 0; call < 4; call++) {
      await send(client, "read", 1).reply.catch((error) => errors.push(error));
    }
    assert.equal(errors.length, 4);
    // On a machine that stands still for so long another window has begun.
    if (performance.now() - begun < 1_000) {
      assert.equal(worker.connections, 4, "one to begin with, and three more");
      assert.ok(shmError("EWORKER", /replaced 3 times within 1000 ms.*next attempt/)(errors[3]));
    }
    await eventually("attempts are allowed again", () => {
      void send(client, "read", 1);
      return worker.connections > 9;
    });
    assert.equal(await count(send(client, "read", 1)), 1);
  },
);

scene(
  "a worker that never answers is given up after the limit, and memory is held until it lets go",
  (line, peer) => isTransfer(line) && peer.index === 0 ? "" : undefined,
  { ioTimeoutMs: 200 },
  async ({ client, worker }) => {
    const first = send(client, "write", 1);
    const second = send(client, "write", 2);
    await assert.rejects(first.reply, shmError("ETIMEDOUT", /WRITE .* within 201 ms/));
    assert.equal(await count(second), 2, "others go on with another connection");
    // The worker still has the connection, so it may still use the memory.
    await sleep(300);
    assert.equal(first.released, 0);
    worker.dropClients();
    await eventually("the memory is let go", () => first.released === 1);
  },
  { stubborn: true },
);

test(
  "an answer after the limit lets go of the memory it belongs to",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const late: (() => void)[] = [];
      await using worker = await ScriptedWorker.listen(dir, (line, peer) => {
        if (!isTransfer(line) || peer.index > 0) return undefined;
        late.push(() => peer.send(`${willing(line)}\n`));
        return "";
      }, { stubborn: true });
      const client = await openClient(worker.path, { limits: { ioTimeoutMs: 200 } });
      const first = send(client, "write", 1);
      await assert.rejects(first.reply, shmError("ETIMEDOUT"));
      assert.equal(first.released, 0);
      late[0]!();
      await eventually("the memory is let go", () => first.released === 1);
      await client.close();
    }),
);

test("an abort answers the caller at once and holds the memory until the worker is done", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    let answer = () => {};
    await using worker = await ScriptedWorker.listen(dir, (line, peer) => {
      if (!line.endsWith(" 5")) return undefined;
      answer = () => peer.send(`${willing(line)}\n`);
      return "";
    });
    const client = await openClient(worker.path);
    const abort = new AbortController();
    const sent = send(client, "write", 5, { signal: abort.signal });
    const queued = send(client, "write", 6, { signal: abort.signal });
    const other = send(client, "write", 7);
    await eventually("it was sent", () => worker.lines.some(isTransfer));
    abort.abort(new Error("changed my mind"));
    await assert.rejects(sent.reply, /changed my mind/);
    await assert.rejects(queued.reply, /changed my mind/);
    assert.equal(queued.released, 1, "it never left");
    await sleep(50);
    assert.equal(sent.released, 0);
    answer();
    assert.equal(await count(other), 7, "answers still belong to their requests");
    assert.equal(sent.released, 1);
    const late = send(client, "write", 5, { signal: abort.signal });
    await assert.rejects(late.reply, /changed my mind/);
    assert.equal(late.released, 1);
    assert.equal(worker.lines.filter(isTransfer).length, 2);
    await client.close();
  }));

{
  const held: (() => void)[] = [];
  scene(
    "timeoutMs answers the caller and leaves the worker in peace",
    (line, peer) => {
      if (!isTransfer(line)) return undefined;
      held.push(() => peer.send(`${willing(line)}\n`));
      return "";
    },
    {},
    async ({ client, worker }) => {
      const sent = send(client, "read", 5, { timeoutMs: 30 });
      await assert.rejects(sent.reply, shmError("ETIMEDOUT", /within [0-9]+ ms/));
      await eventually("it was sent", () => held.length === 1);
      assert.equal(sent.released, 0);
      held[0]!();
      await eventually("the memory is let go", () => sent.released === 1);
      assert.equal(worker.connections, 1);
      assert.equal(client.restarts, 0);
    },
  );
}

scene(
  "ERROR replies are answers, not losses",
  (line) => {
    if (!isTransfer(line)) return undefined;
    return line.endsWith(" 1") ? "ERROR ENOENT open /x: gone" : "ERROR open failed: Is a directory";
  },
  {},
  async ({ client, worker }) => {
    for (const [size, code] of [[1, "ENOENT"], [2, "EISDIR"]] as const) {
      const put = send(client, "write", size);
      await assert.rejects(put.reply, shmError(code));
      const get = send(client, "read", size);
      assert.equal(await get.reply, null, "what is no object is a miss");
      assert.deepEqual([put.released, get.released], [1, 1]);
    }
    assert.equal(worker.connections, 1);
  },
);

scene("ping() takes any answer for a sign of life", willing, {}, async ({ client, worker }) => {
  assert.ok(await client.ping() >= 0);
  assert.equal(worker.lines.at(-1), "PING");
});

test("ping() fails when no answer comes", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    let mute = false;
    await using worker = await ScriptedWorker.listen(dir, () => mute ? "" : undefined);
    await using client = await openClient(worker.path, { limits: { controlTimeoutMs: 200 } });
    mute = true;
    await assert.rejects(client.ping(), shmError("ETIMEDOUT", /PING within 200 ms/));
  }));

test("close() finishes what was begun, refuses what comes later, and can be repeated", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(dir, (line, peer) => {
      if (!isTransfer(line)) return undefined;
      setTimeout(() => peer.send(`${willing(line)}\n`), 20);
      return "";
    });
    const client = await openClient(worker.path);
    const all = [1, 2, 3, 4, 5].map((size) => send(client, "write", size));
    const closing = Promise.all([client.close(), client.close()]);
    const late = send(client, "write", 6);
    await assert.rejects(late.reply, shmError("EBADF", /closed/));
    assert.equal(late.released, 1);
    assert.deepEqual(await Promise.all(all.map(count)), [1, 2, 3, 4, 5]);
    await closing;
    assert.equal(worker.lines.at(-1), "QUIT");
  }));

test("close() does not wait for ever", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(
      dir,
      (line) => isTransfer(line) || line === "QUIT" ? "" : undefined,
      { stubborn: true },
    );
    const client = await openClient(worker.path, { limits: { closeTimeoutMs: 100 } });
    const sent = send(client, "write", 6);
    await client.close();
    await assert.rejects(sent.reply, shmError("EBADF"));
    assert.equal(sent.released, 0, "the worker still has the connection");
    worker.dropClients();
    await eventually("the memory is let go", () => sent.released === 1);
  }));

test("open() explains a refused ATTACH", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    let answer = "";
    let mute = false;
    await using worker = await ScriptedWorker.listen(
      dir,
      (line) => line.startsWith("ATTACH") ? (mute ? "" : answer) : undefined,
    );
    for (
      const [reply, code, pattern] of [
        ["ERROR shm_open failed: No such file or directory", "ENOENT", /same \/dev\/shm/],
        ["ERROR EACCES open /kv: Permission denied", "EACCES", /one user/],
        ["ERROR EACCES not authenticated: prove first", "EACCES", /LMSHM_SECRET/],
      ] as const
    ) {
      answer = reply;
      await assert.rejects(openClient(worker.path), shmError(code, pattern));
    }
    mute = true;
    const limits = { controlTimeoutMs: 100 };
    await assert.rejects(openClient(worker.path, { limits }), shmError("ETIMEDOUT", /ATTACH \/kv/));
  }));

test("open() says when nobody listens", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await assert.rejects(openClient(dir.file("none.sock")), shmError("ENOENT", /lmshm-worker/));
  }));

test(
  "a worker that comes back is found again",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const first = await ScriptedWorker.listen(dir, willing);
      await using client = await openClient(first.path, {
        limits: { restarts: { max: 10, windowMs: 60_000, pauseMs: 50 } },
      });
      assert.equal(await count(send(client, "read", 1)), 1);
      await first[Symbol.asyncDispose]();
      const sent = send(client, "read", 2);
      await sleep(100);
      await using second = await ScriptedWorker.listen(dir, willing);
      assert.equal(await count(sent), 2);
      assert.equal(second.connections, 1);
      assert.equal(client.restarts, 1);
    }),
);
