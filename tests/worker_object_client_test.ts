// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 against workers that answer as a script tells them: what is sent when and in which
// lines, and who gets which answer. worker_object_faults_test.ts has what goes wrong.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Script } from "./support/worker.ts";
import {
  asked,
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
import { SocketTransport } from "../src/worker/socket_transport.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, ScriptedWorker, TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 1 << 20;

objectScene("open() says HELLO and ATTACH, and knows the worker", obliging, {}, async (s) => {
  assert.deepEqual(s.worker.lines, ["HELLO 2", `1 ATTACH /kv ${1n << 40n} -`]);
  assert.equal((await s.client.info()).worker, "scripted/1");
  assert.equal(s.client.keepsMetadata, true);
  assert.equal(s.client.pid, null);
  await s.client.close();
  assert.match(s.worker.lines.at(-1)!, /^[0-9]+ QUIT$/);
});

/** Collects transfers and answers them all, in an order of its own, when `count` are there. */
function holding(count: number, order: (lines: string[]) => string[]): Script {
  let held: string[] = [];
  return scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    held.push(line);
    if (held.length < count) return "";
    peer.send(order(held).map((each) => `${willing(each)}\n`).join(""));
    held = [];
    return "";
  });
}

objectScene(
  "answers in any order find their requests",
  holding(50, (lines) => lines.toReversed()),
  {},
  async ({ client }) => {
    const all = numbers(50).map((index) => get(client, `k${index}`, MIB + index));
    const replies = await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(replies.map((reply) => reply!.byteLength), numbers(50).map((i) => MIB + i));
    assert.ok(all.every((sent) => sent.released === 1));
    assert.equal(client.outstanding, 0);
  },
);

objectScene("small objects of one turn share lines", obliging, {}, async ({ client, worker }) => {
  const puts = numbers(150).map((index) => put(client, `p${index}`, index));
  const gets = numbers(10).map((index) => get(client, `g${index}`, index));
  const stored = await Promise.all([...puts, ...gets].map((sent) => sent.reply));
  assert.deepEqual(stored.map((one) => one!.byteLength), [...numbers(150), ...numbers(10)]);
  const lines = worker.lines.filter(isTransfer).map(asked);
  assert.deepEqual(lines.map((line) => [line.verb, line.objects.length]), [
    ["PUT", 32],
    ["PUT", 32],
    ["PUT", 32],
    ["PUT", 32],
    ["PUT", 22],
    ["GET", 10],
  ]);
  assert.deepEqual(lines.flatMap((line) => line.objects.map((words) => words[0])), [
    ...numbers(150).map((index) => `p${index}`),
    ...numbers(10).map((index) => `g${index}`),
  ]);
});

objectScene("large objects go alone, and a line does not get too long", obliging, {}, async (s) => {
  const { client, worker } = s;
  await Promise.all(
    [put(client, "a", MIB), put(client, "b", MIB), put(client, "c", 5)].map((x) => x.reply),
  );
  assert.deepEqual(worker.lines.filter(isTransfer).map((line) => asked(line).objects.length), [
    1,
    1,
    1,
  ]);
  worker.lines.length = 0;
  const long = numbers(40).map((index) => get(client, `${"k".repeat(1_000)}${index}`));
  await Promise.all(long.map((sent) => sent.reply));
  const lines = worker.lines.filter(isTransfer);
  assert.equal(lines.flatMap((line) => asked(line).objects).length, 40);
  assert.ok(lines.length >= 3 && lines.every((line) => line.length < 17_000), `${lines.length}`);
  worker.lines.length = 0;
  await Promise.all(numbers(8).map((index) => get(client, `k${index}`, MIB / 4).reply));
  const counts = worker.lines.filter(isTransfer).map((line) => asked(line).objects.length);
  assert.deepEqual(counts, [4, 4], "no line moves more than a megabyte");
});

test(
  "requests of one turn leave in one write",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      let writes = 0;
      class CountingTransport extends SocketTransport {
        override write(text: string): boolean {
          writes++;
          return super.write(text);
        }
      }
      await using worker = await ScriptedWorker.listen(dir, obliging);
      await using client = await openObjectClient(worker.path, {
        limits: { maxInFlight: 1_000 },
        transport: CountingTransport,
      });
      assert.equal(writes, 2, "the handshake");
      await Promise.all(numbers(400).map((index) => put(client, `k${index}`).reply));
      assert.equal(writes, 3);
      // The same for those that follow an answer: all that it sets off leave together.
      const chain = async (index: number) => {
        await get(client, `a${index}`).reply;
        await Promise.resolve();
        await get(client, `b${index}`).reply;
      };
      await Promise.all(numbers(60).map(chain));
      assert.ok(writes <= 6, `${writes}`);
    }),
);

objectScene(
  "every option is said in its place",
  obliging,
  {},
  async ({ client, worker }) => {
    await put(client, "a b", 5, {
      offset: 4096,
      checksum: false,
      io: "direct",
      sync: "data",
      priority: "high",
      attributes: { shape: "1,2", note: "x y" },
    }).reply;
    await get(client, "a;b", 7, { verify: false, io: "cached", priority: "low" }).reply;
    const [one, two] = worker.lines.filter(isTransfer);
    assert.equal(
      one,
      "2 PUT a%20b 4096 5 crc=0 io=direct sync=data prio=high shape=1,2 note=x%20y",
    );
    assert.equal(two, "3 GET a%3Bb 0 7 verify=0 io=cached prio=low");
  },
);

objectScene(
  "one line has objects of one priority",
  obliging,
  {},
  async ({ client, worker }) => {
    const all = numbers(9).map((index) =>
      get(client, `k${index}`, 5, { priority: (["low", "normal", "high"] as const)[index % 3] })
    );
    await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(worker.lines.filter(isTransfer), [
      "2 GET k2 0 5 prio=high ; k5 0 5 ; k8 0 5",
      "3 GET k1 0 5 ; k4 0 5 ; k7 0 5",
      "4 GET k0 0 5 prio=low ; k3 0 5 ; k6 0 5",
    ]);
  },
);

objectScene(
  "stat(), exists(), remove(), contains(), info() and ping() read their answers",
  scripted((line) => {
    const { id, verb, text } = asked(line);
    switch (verb) {
      case "STAT":
        return text.startsWith("no ")
          ? `${id} ERROR ENOENT stat no: gone`
          : `${id} OK 10 mtime_ms=5 disk=4096 crc32c=00000001 dtype=half`;
      case "EXISTS":
        return `${id} OK 10`;
      case "REMOVE":
        return `${id} OK 01`;
      case "CONTAINS":
        return `${id} OK 1`;
      case "INFO":
        return `${id} OK io=auto direct=no direct_reason=no%20such%20thing threads=4 ` +
          "max_bytes=1073741824 later_word=5 list_requests=2 put_requests=9 put_errors=1 " +
          "put_bytes=4096 put_latency_us=100:5,1000:8,inf:9 put_latency_us_sum=2345 used_bytes=7 " +
          "directory_use=2:8192:a%252Cb/%2525,1:4096:";
    }
    return undefined;
  }),
  {},
  async ({ client, worker }) => {
    assert.deepEqual(await client.stat("a b", { priority: "high" }), {
      byteLength: 10,
      mtimeMs: 5,
      diskBytes: 4_096,
      crc32c: 1,
      attributes: { dtype: "half" },
    });
    assert.match(worker.lines.at(-1)!, /STAT a%20b prio=high$/);
    assert.equal(await client.stat("no", { priority: "high" }), null);
    assert.deepEqual(await client.exists(["a", "b"]), [true, false]);
    assert.deepEqual(await client.remove(["a", "b"]), [false, true]);
    assert.equal(await client.contains(["a", "b"], { priority: "high" }), 1);
    assert.match(worker.lines.at(-1)!, /CONTAINS a b$/);
    assert.deepEqual(await client.info(), {
      worker: "scripted/1",
      io: "auto",
      direct: "no",
      directReason: "no such thing",
      threads: 4,
      maxBytes: 1 << 30,
      usedBytes: 7,
      directoryUse: [
        { directory: "a,b/%", objects: 2, usedBytes: 8192 },
        { directory: "", objects: 1, usedBytes: 4096 },
      ],
      laterWord: 5,
      verbs: {
        put: {
          requests: 9,
          errors: 1,
          bytes: 4_096,
          latency: [
            { leUs: 100, count: 5 },
            { leUs: 1_000, count: 8 },
            { leUs: Infinity, count: 9 },
          ],
          latencySumUs: 2_345,
        },
        list: { requests: 2, errors: 0, bytes: 0, latency: [], latencySumUs: 0 },
      },
    });
    assert.ok(await client.ping() >= 0);
    assert.deepEqual(await client.exists([]), []);
    assert.equal(await client.contains([]), 0);
    await assert.rejects(client.exists(["a", ""]), RangeError);
    await assert.rejects(client.stat("a\n"), RangeError);
  },
);

objectScene(
  "contains() asks on only while all keys are there; exists() and remove() ask in several lines",
  scripted((line) => {
    const { id, verb, text } = asked(line);
    const keys = text.split(" ");
    if (verb === "CONTAINS") {
      const missing = keys.indexOf("k700");
      return `${id} OK ${missing < 0 ? keys.length : missing}`;
    }
    if (verb !== "EXISTS" && verb !== "REMOVE") return undefined;
    return `${id} OK ${keys.map((key) => key === "k700" ? "0" : "1").join("")}`;
  }),
  {},
  async ({ client, worker }) => {
    const keys = numbers(3_000).map((index) => `k${index}`);
    assert.equal(await client.contains(keys), 700);
    assert.equal(worker.lines.filter((line) => line.includes("CONTAINS")).length, 2);
    for (const flags of [await client.exists(keys), await client.remove(keys)]) {
      assert.deepEqual(flags, keys.map((key) => key !== "k700"));
    }
    worker.lines.length = 0;
    const long = numbers(8).map((index) => `${index}${"\u20ac".repeat(5_000)}`);
    assert.deepEqual(await client.exists(long), long.map(() => true));
    assert.ok(worker.lines.every((line) => line.length < 65_536) && worker.lines.length > 5);
  },
);

objectScene(
  "list() asks page after page",
  scripted((line) => {
    const { id, verb, text } = asked(line);
    if (verb !== "LIST") return undefined;
    const cursor = text.split(" ")[1];
    const pages: Record<string, string> = {
      "-": "p2 a b%20c",
      p2: "p3.data",
      "p3.data": "- d",
    };
    return `${id} OK ${pages[cursor!]}`;
  }),
  {},
  async ({ client, worker }) => {
    const pages: string[][] = [];
    for await (const page of client.list({ prefix: "a b", limit: 2 })) pages.push(page);
    assert.deepEqual(pages, [["a", "b c"], ["d"]]);
    assert.deepEqual(worker.lines.slice(2), [
      "2 LIST 2 - a%20b",
      "3 LIST 2 p2 a%20b",
      "4 LIST 2 p3.data a%20b",
    ]);
    await assert.rejects(client.list({ limit: 0 }).next(), RangeError);
  },
);

// --- limits

test("no more lines and bytes are in flight than allowed, and high priority overtakes", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const held: string[] = [];
    let answerAll = false;
    await using worker = await ScriptedWorker.listen(
      dir,
      scripted((line) => {
        if (!isTransfer(line)) return undefined;
        held.push(line);
        return answerAll ? undefined : "";
      }),
    );
    const client = await openObjectClient(worker.path, {
      limits: { maxInFlight: 8, maxInFlightBytes: 10 * MIB },
    });
    const low = numbers(10).map((index) => put(client, `low${index}`, MIB, { priority: "low" }));
    await eventually("low ones are sent", () => held.length === 6);
    const normal = numbers(5).map((index) => put(client, `normal${index}`, MIB));
    await eventually("a normal one is sent", () => held.length === 7);
    const high = [get(client, "high", 100 * MIB, { priority: "high" })];
    await eventually("a high one is sent", () => held.length === 8);
    assert.match(held[6]!, /PUT normal0 /);
    assert.match(held[7]!, /GET high 0 104857600 prio=high$/, "whatever the others move");
    high.push(get(client, "high2", 1, { priority: "high" }));
    answerAll = true;
    const first = [...worker.lines].filter(isTransfer).map((line) => `${willing(line)}\n`);
    held.length = 0;
    const answered = [...low, ...normal, ...high];
    worker.sendAll(first.join(""));
    await Promise.all(answered.map((sent) => sent.reply));
    assert.match(held[0]!, /GET high2 /, "before all others");
    assert.match(held[1]!, /PUT normal1 /);
    assert.ok(answered.every((sent) => sent.released === 1));
    await client.close();
  }));

test("what is in flight moves no more bytes than allowed, or goes alone", {
  timeout: 60_000,
}, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    const inFlight = new Map<string, number>();
    let most = 0;
    await using worker = await ScriptedWorker.listen(
      dir,
      scripted((line, peer) => {
        if (!isTransfer(line)) return undefined;
        const bytes = asked(line).objects.reduce((sum, words) => sum + Number(words[2]), 0);
        inFlight.set(line, bytes);
        if (inFlight.size > 1) {
          most = Math.max(most, [...inFlight.values()].reduce((sum, each) => sum + each));
        }
        setTimeout(() => {
          inFlight.delete(line);
          peer.send(`${willing(line)}\n`);
        }, 2);
        return "";
      }),
    );
    await using client = await openObjectClient(worker.path, {
      limits: { maxInFlightBytes: 3 * MIB },
    });
    const sizes = [MIB, MIB, MIB, MIB, 20 * MIB, 5, 2 * MIB, 9 * MIB, 7, 7, MIB / 2, 3 * MIB];
    const all = sizes.map((size, index) => put(client, `k${index}`, size));
    const stored = await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(stored.map((one) => one!.byteLength), sizes);
    assert.ok(most > MIB && most <= 3 * MIB, `${most} bytes`);
  }));

for (const window of [1, 2, 5]) {
  let inFlight = 0;
  let most = 0;
  objectScene(
    `a worker's window of ${window} is kept to`,
    scripted((line, peer) => {
      if (!isTransfer(line)) return undefined;
      most = Math.max(most, ++inFlight);
      setTimeout(() => {
        inFlight--;
        peer.send(`${willing(line)}\n`);
      }, 2);
      return "";
    }, { window }),
    {},
    async ({ client }) => {
      const all = numbers(30).map((index) => get(client, `k${index}`, MIB + index));
      await Promise.all(all.map((sent) => sent.reply));
      assert.equal(most, Math.max(1, window === 2 ? 1 : window - 2));
      assert.ok(await client.ping() >= 0);
    },
  );
}

objectScene(
  "low priority has its turn while others are many",
  scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    setTimeout(() => peer.send(`${willing(line)}\n`), 1);
    return "";
  }),
  { maxInFlight: 1 },
  async ({ client, worker }) => {
    let stop = false;
    const busy = async () => {
      while (!stop) await get(client, "busy", 5 * MIB, { priority: "high" }).reply;
    };
    const others = [busy(), busy(), busy()];
    await put(client, "patient", 5, { priority: "low" }).reply;
    stop = true;
    await Promise.all(others);
    const at = worker.lines.filter(isTransfer).findIndex((line) => line.includes("patient"));
    assert.ok(at >= 3 && at <= 40, `${at}`);
  },
);

objectScene(
  "a large request of low priority is not kept waiting by small ones that always fit",
  scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    setTimeout(() => peer.send(`${willing(line)}\n`), 2 + (asked(line).id * 7) % 11);
    return "";
  }),
  { maxInFlight: 8, maxInFlightBytes: 8 * MIB },
  async ({ client, worker }) => {
    let stop = false;
    const busy = async (index: number) => {
      while (!stop) await get(client, `busy${index}`, MIB).reply;
    };
    const others = numbers(6).map(busy);
    await Promise.race([
      put(client, "patient", 7 * MIB, { priority: "low" }).reply,
      // It would go alone at the end: fails instead of waiting for that.
      eventually("500 others were served", () => worker.lines.length > 500),
    ]);
    stop = true;
    await Promise.all(others);
    const at = worker.lines.findIndex((line) => line.includes("patient"));
    assert.ok(at > 0 && at < 100, `${at}`);
  },
);

objectScene(
  "a worker that does not read holds the requests back, and they all arrive",
  scripted((line, peer) => {
    if (line.includes("PING")) {
      peer.socket.pause();
      setTimeout(() => peer.socket.resume(), 200);
    }
    return undefined;
  }),
  { maxInFlight: 1_000 },
  async ({ client }) => {
    const pinged = client.ping();
    const key = "k".repeat(16_000);
    const all = numbers(300).map((index) => get(client, key, index));
    const replies = await Promise.all(all.map((sent) => sent.reply));
    assert.deepEqual(replies.map((reply) => reply!.byteLength), numbers(300));
    await pinged;
  },
);

objectScene(
  "answers that arrive together do not stop the event loop",
  holding(1_000, (lines) => lines),
  { maxInFlight: 2_000 },
  async ({ client }) => {
    let answered = 0;
    const steps: number[] = [];
    const all = numbers(1_000).map((index) =>
      get(client, `k${index}`, MIB).reply.then(() => answered++)
    );
    let watching = true;
    const watch = () => {
      if (steps.at(-1) !== answered) steps.push(answered);
      if (watching) setImmediate(watch);
    };
    watch();
    await Promise.all(all);
    watching = false;
    const longest = Math.max(...steps.map((step, index) => step - (steps[index - 1] ?? 0)));
    assert.ok(longest <= 512, `${longest} at a time`);
  },
);

objectScene(
  "answers may come in pieces of one byte",
  (line, peer) => {
    const answer = `${willing(line)}\r\n`;
    void (async () => {
      for (const byte of answer) {
        peer.send(byte);
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    return "";
  },
  {},
  async ({ client }) => {
    assert.equal((await get(client, "a", 12_345).reply)!.byteLength, 12_345);
    const both = await Promise.all([put(client, "a", 1).reply, put(client, "b", 2).reply]);
    assert.deepEqual(both.map((one) => one!.byteLength), [1, 2]);
  },
);

test(
  "calls with one signal share one listener",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using worker = await ScriptedWorker.listen(dir, obliging);
      await using client = await openObjectClient(worker.path);
      const { signal } = new AbortController();
      const count = { added: 0, removed: 0 };
      const { addEventListener, removeEventListener } = signal;
      Object.assign(signal, {
        addEventListener: (...all: Parameters<typeof addEventListener>) => {
          count.added++;
          addEventListener.apply(signal, all);
        },
        removeEventListener: (...all: Parameters<typeof removeEventListener>) => {
          count.removed++;
          removeEventListener.apply(signal, all);
        },
      });
      await Promise.all(
        numbers(1_000).map((index) => get(client, `k${index}`, 1, { signal }).reply),
      );
      assert.deepEqual(count, { added: 1, removed: 1 });
    }),
);

test(
  "open() tells a worker without version 2 from one that refuses",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      let hello = "";
      let attach: string | null = null;
      await using worker = await ScriptedWorker.listen(
        dir,
        scripted((line) => {
          if (line.startsWith("HELLO")) return hello;
          return attach !== null && line.includes("ATTACH") ? attach : undefined;
        }),
      );
      for (
        const answer of [
          "ERROR unknown command: HELLO",
          "ERROR EPROTONOSUPPORT HELLO 2: only 3",
          "OK",
          "OK 3 boot=00000000000000aa",
          "OK 2 boot=xyz",
        ]
      ) {
        hello = answer;
        await assert.rejects(
          openObjectClient(worker.path),
          shmError("EPROTONOSUPPORT", /does not speak version 2/),
          answer,
        );
      }
      for (
        const [answer, code, pattern] of [
          ["ERROR EACCES not authenticated: prove first", "EACCES", /LMSHM_SECRET/],
          ["ERROR EACCES this worker serves user 0 only", "EACCES", /one user/],
          ["ERROR EAGAIN 64 clients are connected already", "EAGAIN", /64 clients/],
          ["ERROR EXDEV HELLO 2: /x is outside the root /y", "EXDEV", /worker's --root/],
          ["ERROR ELOOP HELLO 2: /y/link", "ELOOP", /symbolic link/],
          ["ERROR EMFILE HELLO 2: 64 directories", "EMFILE", /ulimit/],
        ] as const
      ) {
        hello = answer;
        await assert.rejects(openObjectClient(worker.path), shmError(code, pattern), answer);
      }
      hello = "Welcome!";
      await assert.rejects(openObjectClient(worker.path), shmError("EPROTO", /"Welcome!"/));
      hello = helloAnswer();
      for (
        const [answer, code, pattern] of [
          ["1 ERROR ENOENT attach /kv: No such file", "ENOENT", /same \/dev\/shm/],
          ["1 ERROR EACCES open /kv: Permission denied", "EACCES", /one user/],
          ["1 OK 5", "EPROTO", /nothing was asked/],
          ["2 OK", "EPROTO", /nobody asked for/],
        ] as const
      ) {
        attach = answer;
        await assert.rejects(openObjectClient(worker.path), shmError(code, pattern), answer);
      }
      attach = "";
      const limits = { controlTimeoutMs: 100 };
      await assert.rejects(
        openObjectClient(worker.path, { limits }),
        shmError("ETIMEDOUT", /ATTACH/),
      );
      hello = "";
      await assert.rejects(
        openObjectClient(worker.path, { limits }),
        shmError("ETIMEDOUT", /HELLO/),
      );
    }),
);
