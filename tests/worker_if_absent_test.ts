// SPDX-License-Identifier: Apache-2.0
//
// put() with ifAbsent, as far as it is the client's: what is asked, what EEXIST is taken for, and that
// version 1 of the protocol cannot do it.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { test } from "node:test";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { Failed } from "../src/worker/outcome.ts";
import { shmError } from "./support/assertions.ts";
import { uniqueName } from "./support/leaks.ts";
import { asked, helloAnswer, objectScene, put, scripted } from "./support/object_worker.ts";
import { version1Worker } from "./support/version1_worker.ts";
import { TempDir, withoutWorkers } from "./support/worker.ts";

const MIB = 2 ** 20;

/** Has every key that begins with "there". */
const some = scripted((line) => {
  const { id, verb, objects } = asked(line);
  if (verb !== "PUT") return undefined;
  if (objects.some(([key]) => key === "broken")) return `${id} ERROR EEXIST who says that?`;
  const kept = objects.map(([key, , length, ...options]) =>
    options.includes("if=absent") && key!.startsWith("there") ? null : length!
  );
  if (kept.length > 1) return `${id} OK ${kept.map((one) => one ?? "-EEXIST it%20is").join(" ; ")}`;
  return kept[0] === null ? `${id} ERROR EEXIST it is` : `${id} OK ${kept[0]}`;
});

objectScene("EEXIST is no failure, alone and in a batch", some, {}, async ({ worker, client }) => {
  const sent = ["there", "not"].map((key) => put(client, key, 10, { ifAbsent: true }));
  const [there, not] = await Promise.all(sent.map(({ reply }) => reply));
  assert.deepEqual([there, not?.byteLength], [null, 10]);
  assert.deepEqual(sent.map(({ released }) => released), [1, 1]);
  assert.equal((await put(client, "there").reply)?.byteLength, 10);
  const putAll = (ifAbsent: boolean) =>
    client.putAll({
      objects: ["there/1", "not/1", "there/2"].map((key) => ({ key, offset: 0, byteLength: 7 })),
      release: () => {},
      ifAbsent,
    });
  const lengths = (await putAll(true)).map((one) => one instanceof Failed ? one : one?.byteLength);
  assert.deepEqual(lengths, [undefined, 7, undefined]);
  assert.ok((await putAll(false)).every((one) => one !== null && !(one instanceof Failed)));
  const words = worker.lines.filter((line) => / PUT /.test(line)).map((line) =>
    line.split("if=absent").length - 1
  );
  assert.equal(words.reduce((sum, count) => sum + count), 5, "said of each object that it is for");
});

objectScene(
  "a put that has not asked for it does not take EEXIST for an answer",
  some,
  {},
  async ({ client }) => {
    await assert.rejects(put(client, "broken").reply, shmError("EEXIST", /who says that/));
    const kept = await put(client, "broken", 10, { ifAbsent: true }).reply;
    assert.equal(kept, null);
  },
);

objectScene(
  "what may have been carried out by a worker that was lost does not find its own object",
  scripted((line, peer) => {
    if (line.startsWith("HELLO")) return helloAnswer({ boot: `00000000000000b${peer.index}` });
    const { id, verb } = asked(line);
    if (verb !== "PUT") return undefined;
    if (peer.index === 0) {
      peer.socket.destroy();
      return "";
    }
    return line.includes(" if=absent")
      ? `${id} ERROR EEXIST it is there: stored before the connection was lost`
      : `${id} OK 10 crc32c=00000000`;
  }),
  {},
  async ({ worker, client }) => {
    assert.equal((await put(client, "k", 10, { ifAbsent: true }).reply)?.byteLength, 10);
    const puts = worker.lines.filter((line) => / PUT /.test(line));
    assert.deepEqual(puts.map((line) => line.includes(" if=absent")), [true, false]);
  },
);

/** A line of several objects is full, or refused; alone, each is there if the condition is asked. */
function notTogether(refusal: string, lose: boolean) {
  return scripted((line, peer) => {
    if (line.startsWith("HELLO")) return helloAnswer({ boot: `00000000000000b${peer.index}` });
    const { id, verb, objects } = asked(line);
    if (verb !== "PUT") return undefined;
    if (lose && peer.index === 0) {
      peer.socket.destroy();
      return "";
    }
    if (objects.length > 1) {
      return refusal === "-EOVERFLOW"
        ? `${id} OK ${objects.map(() => refusal).join(" ; ")}`
        : `${id} ${refusal}`;
    }
    return line.includes(" if=absent") ? `${id} ERROR EEXIST it is there` : `${id} OK 7`;
  });
}

for (
  const [what, script, own] of [
    ["full, so that it was carried out", notTogether("-EOVERFLOW", false), true],
    ["refused after a loss of the worker", notTogether("ERROR ENOMEM no", true), true],
    [
      "refused at once, so that nothing of it was done",
      notTogether("ERROR ENOMEM no", false),
      false,
    ],
  ] as const
) {
  objectScene(
    `objects are asked for alone whose line was ${what}`,
    script,
    {},
    async ({ client }) => {
      const stored = await client.putAll({
        objects: ["a", "b"].map((key) => ({ key, offset: 0, byteLength: 7 })),
        release: () => {},
        ifAbsent: true,
      });
      const lengths = stored.map((one) => one instanceof Failed ? one : one?.byteLength);
      assert.deepEqual(lengths, own ? [7, 7] : [undefined, undefined]);
      const single = ["a", "b"].map((key) => put(client, key, 7, { ifAbsent: true }).reply);
      assert.deepEqual(
        (await Promise.all(single)).map((one) => one?.byteLength),
        what.startsWith("full") ? [7, 7] : [undefined, undefined],
      );
    },
  );
}

test(
  "version 1 of the protocol cannot do it, and nothing is stored",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const storageDir = dir.file("kv");
      mkdirSync(storageDir);
      await using segment = await ShmSegment.create({
        name: uniqueName("absent1"),
        sizeBytes: MIB,
        pin: "none",
      });
      await using connector = await ShmFileConnector.open({
        segment,
        storageDir,
        workerBinary: version1Worker(dir),
      });
      const [range, options] = [segment.range(0, 8), { ifAbsent: true }];
      const cannot = shmError("ENOTSUP", /ifAbsent needs protocol version 2.*exists\(\)/s);
      await assert.rejects(connector.put("k", range, options), cannot);
      await assert.rejects(connector.batchedPut(["k"], [range], options), cannot);
      const [one, two] = await connector.putEach(["k", "l"], [range, range], options);
      assert.ok(one?.status === "rejected" && cannot(one.reason));
      assert.ok(two?.status === "rejected" && cannot(two.reason));
      assert.deepEqual(await connector.listAll(), []);
      assert.equal(await connector.put("k", range, { ifAbsent: false }), true);
    }),
);

test("ifAbsent is a boolean", { timeout: 60_000 }, () =>
  withoutWorkers(async () => {
    using dir = new TempDir();
    await using segment = await ShmSegment.create({ sizeBytes: MIB, pin: "none" });
    await using connector = await ShmFileConnector.open({ segment, storageDir: dir.path });
    const wrong = { ifAbsent: "yes" as never };
    const range = segment.range(0, 8);
    const fault = /^TypeError: ifAbsent must be true or false, got "yes"/;
    await assert.rejects(connector.put("k", range, wrong), fault);
    await assert.rejects(connector.batchedPut(["k"], [range], wrong), fault);
    await assert.rejects(connector.putEach(["k"], [range], wrong), fault);
    const metadata = { metadata: { a: "1" } } as never;
    await assert.rejects(connector.batchedPut(["k"], [range], metadata), /has no option/);
  }));
