// SPDX-License-Identifier: Apache-2.0
//
// ClientV2.putAll() and getAll(): many objects of one caller. What becomes of each, in which lines
// they go, and when their memory is let go, whatever the worker does.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ShmError } from "../src/errors.ts";
import type { GetBatch, PutBatch, StoredObject } from "../src/worker/object_client.ts";
import type { ClientV2 } from "../src/worker/v2/client.ts";
import { Failed, type Outcome } from "../src/worker/outcome.ts";
import {
  asked,
  isTransfer,
  numbers,
  objectScene,
  obliging,
  openObjectClient,
  scripted,
  send,
  willing,
} from "./support/object_worker.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, ScriptedWorker, TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 1 << 20;

interface Item {
  readonly key: string;
  readonly byteLength: number;
}

const small = (count: number, byteLength = 10): Item[] =>
  numbers(count).map((index) => ({ key: `k${index}`, byteLength }));

const placed = (items: readonly Item[]) => items.map((item) => ({ ...item, offset: 0 }));

function getAll(client: ClientV2, items: readonly Item[], more: Partial<GetBatch> = {}) {
  return send((release) => client.getAll({ objects: placed(items), release, ...more }));
}

function putAll(client: ClientV2, items: readonly Item[], more: Partial<PutBatch> = {}) {
  return send((release) => client.putAll({ objects: placed(items), release, ...more }));
}

function errorOf(outcome: Outcome<unknown>): ShmError {
  assert.ok(outcome instanceof Failed);
  return outcome.error as ShmError;
}

function lengthOf(outcome: Outcome<StoredObject | null>): number | undefined {
  return outcome instanceof Failed ? undefined : outcome?.byteLength;
}

const transfers = ({ lines }: ScriptedWorker) => lines.filter(isTransfer).map(asked);

objectScene("many objects share lines, large ones go alone", obliging, {}, async (s) => {
  const { client, worker } = s;
  const items = [...small(100), { key: "large", byteLength: MIB }, ...small(1, 7)];
  const sent = getAll(client, items);
  const outcomes = await sent.reply;
  assert.deepEqual(
    outcomes.map((outcome) => lengthOf(outcome)),
    [...numbers(100).map(() => 10), MIB, 7],
  );
  assert.equal(sent.released, 1);
  assert.equal(client.outstanding, 0);
  const lines = transfers(worker);
  assert.deepEqual(lines.map(({ objects }) => objects.length).sort(), [1, 1, 36, 64]);
  assert.deepEqual(
    new Set(lines.flatMap(({ objects }) => objects.map(([key]) => key))),
    new Set([...small(100).map(({ key }) => key), "large"]),
  );
});

objectScene("no objects are no request", obliging, {}, async ({ client, worker }) => {
  const sent = [getAll(client, []), putAll(client, [])];
  assert.deepEqual(await Promise.all(sent.map(({ reply }) => reply)), [[], []]);
  assert.deepEqual(sent.map(({ released }) => released), [1, 1]);
  assert.equal(transfers(worker).length, 0);
});

objectScene(
  "what a put says of each object and of all is in its line",
  obliging,
  {},
  async (s) => {
    const sent = send((release) =>
      s.client.putAll({
        objects: [
          { key: "a", offset: 0, byteLength: 1, attributes: { shape: "1" } },
          { key: "b", offset: 8, byteLength: 2, attributes: Object.freeze({ shape: "2" }) },
        ],
        release,
        io: "cached",
        sync: "data",
        checksum: false,
        priority: "low",
      })
    );
    assert.deepEqual((await sent.reply).map((one) => lengthOf(one)), [1, 2]);
    assert.match(
      s.worker.lines.at(-1)!,
      /^[0-9]+ PUT a 0 1 crc=0 io=cached sync=data prio=low shape=1 ; b 8 2 crc=0 io=cached sync=data shape=2$/,
    );
  },
);

objectScene(
  "each object has an outcome of its own",
  scripted((line) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    if (objects.length === 1) return `${id} OK 7 note=alone`;
    return `${id} OK 10 crc32c=00000001 a=b ; -ENOENT ; -EMSGSIZE 99%20bytes%20it%20is ; ` +
      "-EBADMSG ; -EOVERFLOW ; -EIO disk%20on%20fire ; 3";
  }),
  {},
  async ({ client, worker }) => {
    const sent = getAll(client, small(7));
    const outcomes = await sent.reply;
    assert.deepEqual(outcomes[0], { byteLength: 10, crc32c: 1, attributes: { a: "b" } });
    assert.equal(outcomes[1], null);
    assert.ok(shmError("EMSGSIZE", /get k2: .*99 bytes/)(errorOf(outcomes[2]!)));
    assert.equal(errorOf(outcomes[2]!).details["objectBytes"], 99);
    assert.ok(shmError("EBADMSG", /get k3/)(errorOf(outcomes[3]!)));
    assert.deepEqual(outcomes[4], { byteLength: 7, crc32c: null, attributes: { note: "alone" } });
    assert.ok(shmError("EIO", /disk on fire/)(errorOf(outcomes[5]!)));
    assert.equal(lengthOf(outcomes[6]!), 3);
    assert.deepEqual(transfers(worker).map(({ objects }) => objects.length), [7, 1]);
    assert.equal(sent.released, 1);
  },
);

{
  const held: (() => void)[] = [];
  objectScene(
    "memory is held until an object that is asked for again has its answer",
    scripted((line, peer) => {
      if (!isTransfer(line)) return undefined;
      const { id, objects } = asked(line);
      if (objects.length > 1) return `${id} OK 10 ; -EOVERFLOW`;
      held.push(() => peer.send(`${id} OK 10\n`));
      return "";
    }),
    {},
    async ({ client, worker }) => {
      const sent = getAll(client, small(2));
      await eventually("two lines", () => transfers(worker).length === 2);
      assert.equal(sent.released, 0);
      for (const answer of held) answer();
      await sent.reply;
      assert.equal(sent.released, 1);
    },
  );
}

objectScene(
  "when a line is refused, its objects are asked for alone",
  scripted((line) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    if (objects.length > 1) return `${id} ERROR EINVAL one of them is no good`;
    return objects[0]![0] === "k1" ? `${id} ERROR EINVAL key is no good` : willing(line);
  }),
  {},
  async ({ client }) => {
    const sent = putAll(client, small(3));
    const outcomes = await sent.reply;
    assert.equal(lengthOf(outcomes[0]!), 10);
    assert.ok(shmError("EINVAL", /put k1.*no good/)(errorOf(outcomes[1]!)));
    assert.equal(lengthOf(outcomes[2]!), 10);
    assert.equal(sent.released, 1);
  },
);

objectScene(
  "what no worker accepts is the fault of its object alone",
  obliging,
  {},
  async ({ client, worker }) => {
    const items = [...small(2), { key: "", byteLength: 1 }, ...small(2, -1), ...small(1, 5)];
    const sent = getAll(client, items);
    const outcomes = await sent.reply;
    assert.deepEqual(outcomes.map((one) => one instanceof Failed), [
      false,
      false,
      true,
      true,
      true,
      false,
    ]);
    assert.match(String(errorOf(outcomes[2]!)), /RangeError: key "" is empty/);
    assert.match(String(errorOf(outcomes[3]!)), /RangeError: byteLength/);
    assert.equal(transfers(worker).flatMap(({ objects }) => objects).length, 3);
    assert.equal(sent.released, 1);
    const wrong = getAll(client, small(2), { io: "fast" as "cached" });
    await assert.rejects(wrong.reply, RangeError);
    assert.equal(wrong.released, 1);
  },
);

objectScene(
  "an answer with too few or too many items is believed in no part of it",
  scripted((line, peer) => {
    if (!isTransfer(line) || peer.index > 1) return undefined;
    const { id } = asked(line);
    return peer.index === 0 ? `${id} OK 10 ; 10` : `${id} OK 10 ; 10 ; 10 ; 10`;
  }),
  { restarts: { max: 5, windowMs: 60_000, pauseMs: 1 } },
  async ({ client, lost }) => {
    for (const count of ["2 items, and 3", "4 items, and 3"]) {
      const sent = getAll(client, small(3));
      for (const outcome of await sent.reply) {
        assert.ok(shmError("EPROTO", new RegExp(count))(errorOf(outcome)), count);
      }
      await eventually("release", () => sent.released === 1);
    }
    const good = getAll(client, small(3));
    assert.ok((await good.reply).every((outcome) => !(outcome instanceof Failed)));
    assert.equal(lost.length, 2);
  },
);

{
  const held: (() => void)[] = [];
  objectScene(
    "who gives up is answered at once, and the memory is held until the worker is done",
    scripted((line, peer) => {
      if (!isTransfer(line)) return undefined;
      const { id, objects } = asked(line);
      held.push(() => peer.send(`${id} OK ${objects.map(() => "10").join(" ; ")}\n`));
      return "";
    }),
    {},
    async ({ client, worker }) => {
      const controller = new AbortController();
      const aborted = getAll(client, small(100), { signal: controller.signal });
      const late = getAll(client, small(3), { timeoutMs: 50 });
      await eventually("three lines", () => transfers(worker).length === 3);
      controller.abort(new Error("enough"));
      for (const outcome of await aborted.reply) assert.match(String(errorOf(outcome)), /enough/);
      for (const outcome of await late.reply) assert.ok(shmError("ETIMEDOUT")(errorOf(outcome)));
      const cancels = () => worker.lines.filter((line) => line.includes(" CANCEL ")).length;
      await eventually("all are cancelled", () => cancels() === 3);
      assert.deepEqual([aborted.released, late.released], [0, 0]);
      for (const answer of held) answer();
      await eventually("release", () => aborted.released === 1 && late.released === 1);
      assert.equal(cancels(), 3);
      const before = getAll(client, small(2), { signal: controller.signal });
      await assert.rejects(before.reply, /enough/);
      assert.equal(before.released, 1);
    },
  );
}

objectScene(
  "objects of a lost worker are asked of the next one",
  scripted((line, peer) => {
    if (!isTransfer(line) || peer.index > 0) return undefined;
    peer.socket.destroy();
    return "";
  }),
  { restarts: { max: 5, windowMs: 60_000, pauseMs: 1 } },
  async ({ client, worker }) => {
    const sent = putAll(client, small(70));
    const outcomes = await sent.reply;
    assert.ok(outcomes.every((outcome) => lengthOf(outcome) === 10));
    assert.equal(worker.connections, 2);
    assert.equal(sent.released, 1);
  },
);

test(
  "after close() a batch is refused, and nothing is held",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using worker = await ScriptedWorker.listen(dir, obliging);
      const client = await openObjectClient(worker.path);
      await client.close();
      const sent = getAll(client, small(3));
      await assert.rejects(sent.reply, shmError("EBADF"));
      assert.equal(sent.released, 1);
    }),
);

objectScene(
  "close() waits for what a batch still has to ask, and to ask again",
  scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    // The last one has to be asked for alone.
    const last = objects.length - 1;
    const items = objects.map(([, , length], i) => i === 0 || i < last ? length : "-EOVERFLOW");
    setTimeout(() => peer.send(`${id} OK ${items.join(" ; ")}\n`), 20);
    return "";
  }),
  {},
  async ({ client, worker }) => {
    const sent = getAll(client, small(1_500));
    const closing = client.close();
    const refused = getAll(client, small(1));
    await assert.rejects(refused.reply, shmError("EBADF"));
    const outcomes = await sent.reply;
    assert.ok(outcomes.every((outcome) => lengthOf(outcome) === 10));
    await closing;
    assert.equal(sent.released, 1);
    const alone = transfers(worker).filter(({ objects }) => objects.length === 1);
    // One for each line of up to 64.
    assert.equal(alone.length, 24);
  },
);

objectScene(
  "close() waits for a batch of which nothing has been sent yet",
  obliging,
  {},
  async ({ client }) => {
    // So many that the event loop has its turn before the first that can be sent.
    const sent = getAll(client, [...small(600, -1), ...small(3)]);
    await client.close();
    const outcomes = await sent.reply;
    assert.ok(outcomes.slice(0, 600).every((outcome) => errorOf(outcome) instanceof RangeError));
    assert.deepEqual(outcomes.slice(600).map((outcome) => lengthOf(outcome)), [10, 10, 10]);
  },
);

objectScene(
  "what is left of a batch when close() has waited long enough fails",
  scripted((line) => isTransfer(line) ? "" : undefined),
  { closeTimeoutMs: 100 },
  async ({ client }) => {
    const sent = getAll(client, small(1_500));
    await client.close();
    for (const outcome of await sent.reply) assert.ok(shmError("EBADF")(errorOf(outcome)));
    await eventually("release", () => sent.released === 1);
  },
);

objectScene(
  "objects that are asked for again go alone, not with each other",
  scripted((line, peer) => {
    if (!isTransfer(line)) return undefined;
    const { id, objects } = asked(line);
    if (objects.length === 1) return undefined;
    setTimeout(() => peer.send(`${id} OK ${objects.map(() => "-EOVERFLOW").join(" ; ")}\n`), 20);
    return "";
  }),
  {},
  async ({ client, worker }) => {
    const outcomes = await getAll(client, small(20)).reply;
    assert.ok(outcomes.every((outcome) => lengthOf(outcome) === 10));
    assert.deepEqual(
      transfers(worker).map(({ objects }) => objects.length),
      [20, ...numbers(20).map(() => 1)],
    );
  },
);

objectScene(
  "a batch with a signal that is none is refused, and lets go of its memory",
  obliging,
  {},
  async ({ client }) => {
    const signal = { aborted: false } as AbortSignal;
    const both = getAll(client, [...small(2), { key: "large", byteLength: 2 * MIB }], { signal });
    for (const outcome of await both.reply) assert.ok(errorOf(outcome) instanceof TypeError);
    assert.equal(both.released, 1);
    const one = send((release) =>
      client.get({ key: "k", offset: 0, byteLength: 10, release, signal })
    );
    await assert.rejects(one.reply, TypeError);
    assert.equal(one.released, 1);
    assert.equal(client.outstanding, 0);
  },
);
