// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 with workers that refuse, break the protocol, are slow, hang or die, and with callers
// who give up. What matters is who gets which answer, and when memory is let go.

import assert from "node:assert/strict";
import { test } from "node:test";
import {
  asked,
  BOOT,
  get,
  helloAnswer,
  isTransfer,
  numbers,
  objectScene,
  obliging,
  openObjectClient,
  put,
  scripted,
  willing,
} from "./support/object_worker.ts";
import { ShmError } from "../src/errors.ts";
import { shmError } from "./support/assertions.ts";
import {
  eventually,
  type Peer,
  ScriptedWorker,
  sleep,
  TempDir,
  withoutWorkers,
} from "./support/worker.ts";

const MIB = 1 << 20;

// --- refusals

objectScene(
  "each object of a batch gets its own answer",
  scripted((line) =>
    isTransfer(line) && line.includes(" ; ")
      ? `${
        asked(line).id
      } OK 10 crc32c=00000001 a=b ; -ENOENT ; -EMSGSIZE 99%20bytes%20it%20is ; ` +
        "-EBADMSG ; -EIO disk%20on%20fire ; 3"
      : undefined
  ),
  {},
  async ({ client }) => {
    const all = numbers(6).map((index) => get(client, `k${index}`));
    assert.deepEqual(await all[0]!.reply, { byteLength: 10, crc32c: 1, attributes: { a: "b" } });
    assert.equal(await all[1]!.reply, null);
    await assert.rejects(all[2]!.reply, (error: unknown) => {
      assert.equal((error as ShmError).details["objectBytes"], 99);
      return shmError("EMSGSIZE", /get k2: .*99 bytes/)(error);
    });
    await assert.rejects(all[3]!.reply, shmError("EBADMSG", /get k3/));
    await assert.rejects(all[4]!.reply, shmError("EIO", /disk on fire/));
    assert.equal((await all[5]!.reply)!.byteLength, 3);
    assert.ok(all.every((sent) => sent.released === 1));
  },
);

objectScene(
  "a single request gets its ERROR",
  scripted((line) => {
    const { id, objects: [words] } = asked(line);
    if (!isTransfer(line)) return undefined;
    switch (words![0]) {
      case "miss":
        return `${id} ERROR ENOENT get miss: No such file or directory`;
      case "long":
        return `${id} ERROR EMSGSIZE 12345 bytes in the object, space for 5: get long`;
      case "full":
        return `${id} ERROR ENOSPC write full: No space left on device`;
    }
    return undefined;
  }),
  {},
  async ({ client, lost }) => {
    const miss = get(client, "miss", MIB);
    const long = get(client, "long", MIB);
    const full = put(client, "full", MIB);
    assert.equal(await miss.reply, null);
    await assert.rejects(long.reply, (error: unknown) => {
      assert.equal((error as ShmError).details["objectBytes"], 12_345);
      return shmError("EMSGSIZE")(error);
    });
    await assert.rejects(full.reply, shmError("ENOSPC", /put full.*No space left.*Free space/));
    assert.deepEqual([miss, long, full].map((sent) => sent.released), [1, 1, 1]);
    const missing = put(client, "miss", MIB);
    await assert.rejects(missing.reply, shmError("ENOENT"), "a put has no misses");
    assert.equal(lost.length, 0);
  },
);

objectScene(
  "an object whose answer did not fit is asked for alone",
  scripted((line) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    if (objects.length === 1) return `${id} OK 7 note=${"x".repeat(2_000)}`;
    return `${id} OK ${objects.map((_, index) => index < 2 ? "5" : "-EOVERFLOW").join(" ; ")}`;
  }),
  {},
  async ({ client, worker }) => {
    const all = numbers(4).map((index) => get(client, `k${index}`));
    const replies = await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(replies.map((reply) => reply!.byteLength), [5, 5, 7, 7]);
    assert.equal(replies[3]!.attributes["note"]!.length, 2_000);
    assert.deepEqual(worker.lines.filter(isTransfer).map((line) => asked(line).objects.length), [
      4,
      1,
      1,
    ]);
    assert.ok(all.every((sent) => sent.released === 1));
  },
);

objectScene(
  "one object that a worker cannot understand does not fail the others of its line",
  scripted((line) => {
    if (!isTransfer(line) || !line.includes("odd")) return undefined;
    return `${asked(line).id} ERROR EINVAL odd: I do not like it`;
  }),
  {},
  async ({ client }) => {
    const [one, odd, two] = [put(client, "one"), put(client, "odd"), put(client, "two")];
    await assert.rejects(odd!.reply, shmError("EINVAL", /put odd.*do not like/));
    assert.equal((await one!.reply)!.byteLength, 10);
    assert.equal((await two!.reply)!.byteLength, 10);
    assert.deepEqual([one, odd, two].map((sent) => sent!.released), [1, 1, 1]);
  },
);

objectScene(
  "put() and get() let go of the memory when the arguments are wrong",
  obliging,
  {},
  async (s) => {
    for (
      const sent of [
        put(s.client, ""),
        get(s.client, "a\n"),
        put(s.client, "k", -1),
        get(s.client, "k", 1.5),
        put(s.client, "k", 1, { attributes: { key: "x" } }),
        put(s.client, "k", 1, { io: "fast" as "auto" }),
      ]
    ) {
      await assert.rejects(sent.reply, RangeError);
      assert.equal(sent.released, 1);
    }
    assert.ok(!s.worker.lines.some(isTransfer));
  },
);

// --- broken protocol

for (
  const [what, answer] of [
    ["no answer at all", () => "Segmentation fault"],
    ["an empty line", () => "\n"],
    ["an id that nobody has", (id: number) => `${id + 1000} OK 10`],
    ["an id beyond all numbers", () => "99999999999999999999 OK 10"],
    ["an answer without an id", () => "OK 10"],
    ["id 0", () => "0 ERROR EEXIST id 5 is in flight"],
    ["an answer twice", (id: number) => `${id} OK 10\n${id} OK 10\n${id} OK 10`],
    ["no number", (id: number) => `${id} OK`],
    ["too long a number", (id: number) => `${id} OK 12345678901234567890`],
    ["more bytes than asked for", (id: number) => `${id} OK 11`],
    ["a bad checksum", (id: number) => `${id} OK 10 crc32c=12`],
    ["a bad attribute", (id: number) => `${id} OK 10 a=%4`],
    ["two spaces", (id: number) => `${id} OK 10  a=b`],
    ["too many items", (id: number) => `${id} OK 10 ; 10`],
    ["an error without a name", (id: number) => `${id} ERROR something is wrong`],
    ["a line without end", () => "x".repeat(70_000)],
  ] as const
) {
  objectScene(
    `get() takes ${what} for a broken protocol`,
    scripted((line) => isTransfer(line) ? answer(asked(line).id) : undefined),
    { restarts: { max: 1, windowMs: 60_000, pauseMs: 1 } },
    async ({ client, lost }) => {
      const sent = get(client, "k");
      if (what === "an answer twice") await sent.reply;
      else await assert.rejects(sent.reply, shmError("EPROTO", /does not keep to the protocol/));
      await eventually("the memory is let go", () => sent.released === 1);
      await eventually("the loss is reported", () => lost.length >= 1);
    },
  );
}

objectScene(
  "put() takes another length for a broken protocol, and a batch too few items",
  scripted((line) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    return objects.length > 1 ? `${id} OK 10` : `${id} OK 9`;
  }),
  { restarts: { max: 50, windowMs: 60_000, pauseMs: 1 } },
  async ({ client }) => {
    await assert.rejects(put(client, "k").reply, shmError("EPROTO", /10 bytes were to be stored/));
    const both = [put(client, "a"), put(client, "b")];
    await assert.rejects(both[0]!.reply, shmError("EPROTO", /1 items, and 2 were asked for/));
    await assert.rejects(both[1]!.reply, shmError("EPROTO"));
    await eventually("all memory is let go", () => both.every((sent) => sent.released === 1));
  },
);

objectScene(
  "only the request at fault fails; the others are asked again elsewhere",
  scripted((line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    return line.includes("bad") ? `${asked(line).id} OK nonsense` : "";
  }),
  {},
  async ({ client, worker, lost }) => {
    const good = get(client, "good", MIB);
    const bad = get(client, "bad", MIB);
    await assert.rejects(bad.reply, shmError("EPROTO", /get bad with .*nonsense/));
    assert.equal((await good.reply)!.byteLength, MIB);
    assert.equal(worker.connections, 2);
    assert.equal(lost.length, 1);
    assert.deepEqual([good.released, bad.released], [1, 1]);
  },
);

// --- callers who give up

/** A worker that keeps PUT and GET for itself until it is told otherwise. */
function patient(hello = {}) {
  const held: { line: string; peer: Peer }[] = [];
  const script = scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    held.push({ line, peer });
    return "";
  }, hello);
  const answer = (index: number, text?: string) => {
    const { line, peer } = held[index]!;
    peer.send(`${text === undefined ? willing(line) : `${asked(line).id} ${text}`}\n`);
  };
  return { held, script, answer };
}

test("an abort answers the caller at once, tells the worker, and holds the memory", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const { held, script, answer } = patient();
    await using worker = await ScriptedWorker.listen(dir, script);
    const client = await openObjectClient(worker.path, { limits: { maxInFlight: 1 } });
    const abort = new AbortController();
    const { signal } = abort;
    const sent = get(client, "sent", MIB, { signal });
    await eventually("it was sent", () => held.length === 1);
    const queued = put(client, "queued", MIB, { signal });
    abort.abort(new Error("changed my mind"));
    await assert.rejects(sent.reply, /changed my mind/);
    await assert.rejects(queued.reply, /changed my mind/);
    assert.equal(queued.released, 1, "it never left");
    await eventually("CANCEL is sent", () => worker.lines.some((line) => line.includes("CANCEL")));
    assert.match(worker.lines.at(-1)!, /^3 CANCEL 2$/);
    await sleep(50);
    assert.equal(sent.released, 0, "the answer to CANCEL lets go of nothing");
    answer(0, "ERROR ECANCELED get sent: cancelled");
    await eventually("the memory is let go", () => sent.released === 1);
    const late = get(client, "late", MIB, { signal });
    await assert.rejects(late.reply, /changed my mind/);
    assert.equal(late.released, 1);
    assert.equal(held.length, 1);
    assert.equal(client.outstanding, 0);
    await client.close();
  }));

test(
  "a line with other callers' objects is not cancelled",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const { held, script, answer } = patient();
      await using worker = await ScriptedWorker.listen(dir, script);
      const client = await openObjectClient(worker.path);
      const aborts = numbers(3).map(() => new AbortController());
      const all = aborts.map(({ signal }, index) => get(client, `k${index}`, 10, { signal }));
      await eventually("it was sent", () => held.length === 1);
      const cancels = () => worker.lines.filter((line) => line.includes("CANCEL")).length;
      aborts[0]!.abort();
      aborts[1]!.abort();
      await assert.rejects(all[0]!.reply, /abort/i);
      await sleep(30);
      assert.equal(cancels(), 0);
      aborts[2]!.abort();
      await eventually("CANCEL is sent", () => cancels() === 1);
      answer(0, "ERROR ECANCELED cancelled");
      await eventually("all is let go", () => all.every((sent) => sent.released === 1));
      await client.close();
    }),
);

test(
  "a worker with a window of 1 is not sent CANCEL",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const { held, script, answer } = patient({ window: 1 });
      await using worker = await ScriptedWorker.listen(dir, script);
      const client = await openObjectClient(worker.path);
      const sent = get(client, "k", MIB, { timeoutMs: 30 });
      await assert.rejects(sent.reply, shmError("ETIMEDOUT", /get k was not done within 30 ms/));
      await sleep(30);
      assert.equal(sent.released, 0);
      assert.ok(!worker.lines.some((line) => line.includes("CANCEL")));
      answer(0);
      await eventually("the memory is let go", () => sent.released === 1);
      assert.equal(held.length, 1);
      await client.close();
    }),
);

test("timeoutMs answers the caller, and counts while the request waits, too", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const { held, script, answer } = patient();
    await using worker = await ScriptedWorker.listen(dir, script);
    const client = await openObjectClient(worker.path, { limits: { maxInFlight: 1 } });
    const sent = get(client, "a", MIB, { timeoutMs: 60 });
    const queued = get(client, "b", MIB, { timeoutMs: 30 });
    await assert.rejects(queued.reply, shmError("ETIMEDOUT", /within 30 ms/));
    assert.equal(queued.released, 1);
    await assert.rejects(sent.reply, shmError("ETIMEDOUT", /within 60 ms/));
    assert.equal(sent.released, 0);
    // It was through before CANCEL came.
    answer(0);
    await eventually("the memory is let go", () => sent.released === 1);
    assert.equal(held.length, 1);
    const next = get(client, "c", MIB);
    await eventually("the connection goes on", () => held.length === 2);
    answer(1);
    await next.reply;
    assert.equal(worker.connections, 1);
    assert.equal(client.restarts, 0);
    await client.close();
  }));

// --- slow, silent and lost workers

test("a request that hangs in a living worker is cancelled, and the others go on", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    let answerIt = () => {};
    await using worker = await ScriptedWorker.listen(
      dir,
      scripted((line, peer) => {
        if (!isTransfer(line) || !line.includes("stuck")) return undefined;
        answerIt = () => peer.send(`${asked(line).id} ERROR ECANCELED stopped\n`);
        return "";
      }),
    );
    const client = await openObjectClient(worker.path, {
      limits: { ioTimeoutMs: 500, controlTimeoutMs: 20_000 },
    });
    const stuck = get(client, "stuck", 1);
    await sleep(20);
    await get(client, "fine", 1).reply;
    await assert.rejects(stuck.reply, shmError("ETIMEDOUT", /get stuck within 501 ms/));
    await get(client, "fine", 1).reply;
    assert.ok(worker.lines.some((line) => line.includes("CANCEL")));
    assert.equal(stuck.released, 0);
    answerIt();
    await eventually("the memory is let go", () => stuck.released === 1);
    assert.equal(worker.connections, 1);
    await client.close();
  }));

objectScene(
  "a request that hangs although it was cancelled ends the connection",
  scripted((line, peer) =>
    isTransfer(line) && line.includes("stuck") && peer.index === 0 ? "" : undefined
  ),
  { ioTimeoutMs: 400, controlTimeoutMs: 600 },
  async ({ client, worker }) => {
    const stuck = get(client, "stuck", 1);
    await sleep(20);
    await get(client, "fine", 1).reply;
    await assert.rejects(stuck.reply, shmError("ETIMEDOUT"));
    await eventually("the memory is let go", () => stuck.released === 1);
    assert.equal((await get(client, "fine", 1).reply)!.byteLength, 1);
    assert.equal(worker.connections, 2);
  },
);

objectScene(
  "a worker that never answers is given up after the limit, and memory is held until it lets go",
  scripted((line, peer) => isTransfer(line) && peer.index === 0 ? "" : undefined),
  { ioTimeoutMs: 200 },
  async ({ client, worker }) => {
    const first = get(client, "a", MIB);
    await sleep(150);
    const second = get(client, "b", MIB);
    const third = get(client, "c", MIB);
    await assert.rejects(first.reply, shmError("ETIMEDOUT", /get a within 1249 ms/));
    // The worker still has the connection, so it may still write into the memory.
    await sleep(300);
    assert.deepEqual([first, second, third].map((sent) => sent.released), [0, 0, 0]);
    assert.equal((await get(client, "d", 3).reply)!.byteLength, 3, "with another connection");
    worker.dropClients();
    assert.equal((await second.reply)!.byteLength, MIB, "once the first one was closed");
    assert.equal((await third.reply)!.byteLength, MIB);
    assert.deepEqual([first, second, third].map((sent) => sent.released), [1, 1, 1]);
  },
  { stubborn: true },
);

test("who gives up on a lost connection's request cancels none of the next connection's", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const { held, script, answer } = patient();
    await using worker = await ScriptedWorker.listen(dir, script, { stubborn: true });
    const lost: Error[] = [];
    const client = await openObjectClient(worker.path, {
      limits: { ioTimeoutMs: 500, closeTimeoutMs: 50 },
      onLost: (error) => lost.push(error),
    });
    const abort = new AbortController();
    const late = get(client, "late", 1);
    await assert.rejects(late.reply, shmError("ETIMEDOUT"));
    const waits = get(client, "waits", 1, { signal: abort.signal });
    await eventually("it is sent", () => held.length === 2);
    assert.equal(held[1]!.peer.index, 1);
    held[1]!.peer.send("99 OK\n");
    await eventually("the second connection is given up", () => lost.length === 2);
    const next = get(client, "next", 1);
    await eventually("the third connection has the next", () => held.length === 3);
    assert.equal(asked(held[2]!.line).id, asked(held[1]!.line).id);
    abort.abort();
    await assert.rejects(waits.reply, /abort/i);
    await sleep(30);
    assert.ok(!worker.lines.some((line) => line.includes("CANCEL")));
    answer(2);
    await next.reply;
    await client.close();
    assert.deepEqual([late.released, waits.released], [0, 0]);
    worker.dropClients();
    await eventually("all is let go", () => late.released === 1 && waits.released === 1);
  }));

objectScene(
  "a lost connection to the same worker is no restart, one to another is",
  (line, peer) => {
    if (line.startsWith("HELLO")) {
      return helloAnswer({ boot: peer.index < 2 ? BOOT : "00000000000000bb" });
    }
    if (isTransfer(line) && peer.index < 2) {
      peer.socket.destroy();
      return "";
    }
    return willing(line);
  },
  {},
  async ({ client, worker, lost }) => {
    const all = [get(client, "a", MIB), put(client, "b", 5)];
    // Both go twice to a worker that breaks off.
    for (const sent of all) await assert.rejects(sent.reply, shmError("ECONNRESET"));
    assert.equal(client.restarts, 0);
    assert.deepEqual(all.map((sent) => sent.released), [1, 1]);
    assert.equal((await get(client, "c", 7).reply)!.byteLength, 7);
    assert.equal(client.restarts, 1);
    assert.equal(worker.connections, 3);
    assert.equal(lost.length, 2);
  },
);

objectScene(
  "requests in flight are asked again once, removals are not",
  scripted((line, peer) => {
    if (peer.index > 0 || /HELLO|ATTACH/.test(line)) return undefined;
    if (line.includes("REMOVE")) peer.socket.destroy();
    return "";
  }),
  {},
  async ({ client, worker }) => {
    const all = [
      ...numbers(100).map((index) => get(client, `k${index}`, index)),
      put(client, "large", MIB),
    ];
    const asks = Promise.all([
      client.stat("s"),
      client.exists(["e"]),
      client.ping(),
      client.info(),
    ]);
    const removed = client.remove(["r"]);
    await assert.rejects(removed, shmError("ECONNRESET"));
    const replies = await Promise.all(all.map((sent) => sent.reply as Promise<unknown>));
    assert.equal(replies.length, 101);
    assert.ok(all.every((sent) => sent.released === 1));
    assert.equal((await asks)[0]!.byteLength, 10);
    assert.equal(worker.lines.filter((line) => line.includes("REMOVE")).length, 1);
  },
);

objectScene(
  "a caller who gave up is not asked again for",
  scripted((line, peer) => isTransfer(line) && peer.index === 0 ? "" : undefined),
  {},
  async ({ client, worker }) => {
    const abort = new AbortController();
    const gone = get(client, "gone", MIB, { signal: abort.signal });
    const kept = get(client, "kept", MIB);
    await eventually("both were sent", () => worker.lines.filter(isTransfer).length === 2);
    abort.abort();
    await assert.rejects(gone.reply, /abort/i);
    worker.dropClients();
    await kept.reply;
    assert.equal(gone.released, 1);
    assert.equal(worker.lines.filter((line) => line.includes("gone")).length, 1);
  },
);

objectScene(
  "half an answer is no answer",
  scripted((line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    peer.socket.end(`${asked(line).id} OK 1`);
    return "";
  }),
  {},
  async ({ client }) => {
    const sent = get(client, "k", 100);
    assert.equal((await sent.reply)!.byteLength, 100);
    assert.equal(sent.released, 1);
  },
);

objectScene(
  "a worker that loses every connection is not tried for ever",
  scripted((line, peer) => {
    if (isTransfer(line)) peer.socket.destroy();
    return isTransfer(line) ? "" : undefined;
  }),
  { restarts: { max: 3, windowMs: 60_000, pauseMs: 1 } },
  async ({ client, worker }) => {
    const errors: unknown[] = [];
    for (let call = 0; call < 4; call++) {
      await get(client, "k").reply.catch((error) => errors.push(error));
    }
    assert.equal(errors.length, 4);
    assert.equal(worker.connections, 4, "one to begin with, and three more");
    assert.ok(shmError("EWORKER", /replaced 3 times within 60000 ms/)(errors[3]));
  },
);

// --- the end

objectScene(
  "close() finishes what was begun, refuses what comes later, and can be repeated",
  scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    setTimeout(() => peer.send(`${willing(line)}\n`), 20);
    return "";
  }),
  { maxInFlight: 2 },
  async ({ client, worker }) => {
    const all = numbers(5).map((index) => put(client, `k${index}`, MIB + index));
    const closing = Promise.all([client.close(), client.close()]);
    const late = put(client, "late");
    await assert.rejects(late.reply, shmError("EBADF", /closed/));
    assert.equal(late.released, 1);
    await assert.rejects(client.ping(), shmError("EBADF"));
    const stored = await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(stored.map((one) => one!.byteLength), numbers(5).map((index) => MIB + index));
    await closing;
    assert.match(worker.lines.at(-1)!, /QUIT$/);
  },
);

test("close() does not wait for ever", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using worker = await ScriptedWorker.listen(
      dir,
      scripted((line) => isTransfer(line) || line.includes("QUIT") ? "" : undefined),
      { stubborn: true },
    );
    const client = await openObjectClient(worker.path, {
      limits: { closeTimeoutMs: 100, maxInFlight: 1 },
    });
    const sent = put(client, "sent", MIB);
    const queued = put(client, "queued", MIB);
    await client.close();
    await assert.rejects(sent.reply, shmError("EBADF"));
    await assert.rejects(queued.reply, shmError("EBADF"));
    assert.equal(queued.released, 1);
    assert.equal(sent.released, 0, "the worker still has the connection");
    worker.dropClients();
    await eventually("the memory is let go", () => sent.released === 1);
  }));
