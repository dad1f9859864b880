// SPDX-License-Identifier: Apache-2.0
//
// Each call of a connector that takes a signal, with a worker that never answers it: the caller is
// answered when the signal is aborted, and the worker is told to stop. And those of a client of
// version 1, which asks the file system, too.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { SocketTransport } from "../src/worker/socket_transport.ts";
import { ClientV1 } from "../src/worker/v1/client.ts";
import { settlesWithin } from "../src/wait.ts";
import { uniqueName } from "./support/leaks.ts";
import { scripted } from "./support/object_worker.ts";
import { eventually, ScriptedWorker, TempDir, willing, withoutWorkers } from "./support/worker.ts";

interface Call {
  readonly name: string;
  /** The request that is not answered. */
  readonly waitsFor: RegExp;
  run(connector: ShmFileConnector, segment: ShmSegment, signal: AbortSignal): Promise<unknown>;
}

const CALLS: readonly Call[] = [
  {
    name: "put",
    waitsFor: /^[0-9]+ PUT /,
    run: (store, segment, signal) => store.put("k", segment.range(0, 8), { signal }),
  },
  {
    name: "get",
    waitsFor: /^[0-9]+ GET /,
    run: (store, segment, signal) => store.get("k", segment.range(0, 8), { signal }),
  },
  {
    name: "load",
    waitsFor: /^[0-9]+ GET /,
    run: (store, segment, signal) => store.load("k", segment.range(0, 8), { signal }),
  },
  {
    name: "get without a range, which asks for the length first",
    waitsFor: /^[0-9]+ STAT /,
    run: (store, _segment, signal) => store.get("k", undefined, { signal }),
  },
  {
    name: "stat",
    waitsFor: /^[0-9]+ STAT /,
    run: (store, _segment, signal) => store.stat("k", { signal }),
  },
  {
    name: "exists",
    waitsFor: /^[0-9]+ EXISTS /,
    run: (store, _segment, signal) => store.exists("k", { signal }),
  },
  {
    name: "remove",
    waitsFor: /^[0-9]+ REMOVE /,
    run: (store, _segment, signal) => store.remove("k", { signal }),
  },
  {
    name: "listAll",
    waitsFor: /^[0-9]+ LIST [0-9]+ -/,
    run: (store, _segment, signal) => store.listAll({ signal }),
  },
  {
    name: "list, at its second page",
    waitsFor: /^[0-9]+ LIST [0-9]+ next/,
    run: async (store, _segment, signal) => {
      for await (const key of store.list({ signal })) assert.equal(key, "first");
    },
  },
  {
    name: "batchedPut",
    waitsFor: /^[0-9]+ PUT /,
    run: (store, segment, signal) =>
      store.batchedPut(["a", "b"], [segment.range(0, 8), segment.range(8, 8)], { signal }),
  },
  {
    name: "batchedGet",
    waitsFor: /^[0-9]+ GET /,
    run: (store, segment, signal) =>
      store.batchedGet(["a", "b"], [segment.range(0, 8), segment.range(8, 8)], { signal }),
  },
  {
    name: "loadEach",
    waitsFor: /^[0-9]+ GET /,
    run: (store, segment, signal) =>
      store.loadEach(["a", "b"], [segment.range(0, 8), segment.range(8, 8)], { signal })
        .then(reasonOfAll),
  },
  {
    name: "putEach",
    waitsFor: /^[0-9]+ PUT /,
    run: (store, segment, signal) =>
      store.putEach(["a", "b"], [segment.range(0, 8), segment.range(8, 8)], { signal })
        .then(reasonOfAll),
  },
  {
    name: "batchedContains",
    waitsFor: /^[0-9]+ CONTAINS /,
    run: (store, _segment, signal) => store.batchedContains(["a", "b"], { signal }),
  },
  {
    name: "ping",
    waitsFor: /^[0-9]+ PING$/,
    run: (store, _segment, signal) => store.ping({ signal }),
  },
  {
    name: "info",
    waitsFor: /^[0-9]+ INFO$/,
    run: (store, _segment, signal) => store.info({ signal }),
  },
];

/** Throws what both were rejected with. */
function reasonOfAll(ended: readonly PromiseSettledResult<unknown>[]): void {
  const reasons = new Set(ended.map((one) => one.status === "rejected" ? one.reason : one));
  assert.deepEqual([ended.length, reasons.size], [2, 1]);
  throw [...reasons][0];
}

/** What the call is rejected with, or that it still waits. */
async function outcomeOf(call: Promise<unknown>): Promise<unknown> {
  const ended = call.then(() => "it was answered", (error) => error);
  return await settlesWithin(ended, 10_000) ? await ended : "it still waits";
}

for (const { name, waitsFor, run } of CALLS) {
  test(
    `an aborted signal ends ${name}, and the worker is told to stop`,
    { timeout: 60_000 },
    () =>
      withoutWorkers(async () => {
        await using stack = new AsyncDisposableStack();
        const dir = stack.use(new TempDir());
        const answerLater: (() => void)[] = [];
        const worker = stack.use(
          await ScriptedWorker.listen(
            dir,
            scripted((line, peer) => {
              const id = line.split(" ")[0];
              if (waitsFor.test(line)) {
                answerLater.push(() => peer.send(`${id} ERROR ECANCELED stopped\n`));
                return "";
              }
              return / LIST /.test(line) ? `${id} OK next first` : undefined;
            }),
          ),
        );
        const segment = stack.use(
          await ShmSegment.create({ name: uniqueName("signal"), sizeBytes: 4096, pin: "none" }),
        );
        const connector = stack.use(
          await ShmFileConnector.open({
            segment,
            storageDir: "/d",
            workerAddress: worker.path,
            allocate: (byteLength) => segment.range(0, byteLength),
          }),
        );
        const abort = new AbortController();
        const reason = new Error("changed my mind");
        const call = run(connector, segment, abort.signal);
        await eventually("the worker is asked", () => answerLater.length === 1);
        abort.abort(reason);
        assert.equal(await outcomeOf(call), reason);
        assert.equal(connector.stats.inFlight, 0);
        const asked = worker.lines.find((line) => waitsFor.test(line))!.split(" ")[0];
        await eventually(
          "the worker is told",
          () => worker.lines.some((line) => line.endsWith(` CANCEL ${asked}`)),
        );
        for (const answer of answerLater) answer();
      }),
  );
}

test(
  "an aborted signal ends each call of a client of version 1",
  { timeout: 60_000 },
  () =>
    withoutWorkers(async () => {
      await using stack = new AsyncDisposableStack();
      const dir = stack.use(new TempDir());
      const isAsked = (line: string) => /^(READ|WRITE|PING)\b/.test(line);
      let asked = 0;
      const worker = stack.use(
        await ScriptedWorker.listen(dir, (line) => {
          if (!isAsked(line)) return willing(line);
          asked++;
          return "";
        }),
      );
      const address = { kind: "unix", path: worker.path } as const;
      const segment = {
        name: "/kv",
        descriptor: null,
        sizeBytes: 4096n,
        baseAddress: 4096n,
        identity: "-",
      };
      const timeoutMs = 30_000;
      const open = () =>
        ClientV1.open({
          open: (handlers) =>
            new SocketTransport({ address, connectTimeoutMs: timeoutMs }, handlers),
          handshake: { segment, secret: null, directory: dir.path },
          limits: {
            maxInFlight: 1,
            maxInFlightBytes: 4096,
            controlTimeoutMs: timeoutMs,
            ioTimeoutMs: timeoutMs,
            closeTimeoutMs: 100,
            restarts: { max: 0, windowMs: 60_000, pauseMs: 10 },
          },
        });
      const moved = { key: "k", offset: 0, byteLength: 8, release: () => {} };
      const objects = [moved, moved];
      const reason = new Error("changed my mind");
      const waiting: ((client: ClientV1, signal: AbortSignal) => Promise<unknown>)[] = [
        (client, signal) => client.put({ ...moved, signal }),
        (client, signal) => client.get({ ...moved, signal }),
        (client, signal) => client.exists(["k"], { signal }),
        (client, signal) => client.contains(["k"], { signal }),
        (client, signal) => client.ping({ signal }),
      ];
      for (const [index, run] of waiting.entries()) {
        await using client = await open();
        const abort = new AbortController();
        const call = run(client, abort.signal);
        await eventually("the worker is asked", () => asked === index + 1);
        abort.abort(reason);
        assert.equal(await outcomeOf(call), reason, `${run}`);
      }
      await using client = await open();
      const signal = AbortSignal.abort(reason);
      const looking: (() => Promise<unknown>)[] = [
        () => client.stat("k", { signal }),
        () => client.remove(["k"], { signal }),
        () => client.list({ signal }).next(),
      ];
      for (const run of looking) assert.equal(await outcomeOf(run()), reason, `${run}`);
      for (
        const outcomes of [
          await client.putAll({ objects, release: () => {}, signal }),
          await client.getAll({ objects, release: () => {}, signal }),
        ]
      ) {
        assert.deepEqual(outcomes.map((one) => (one as { error?: unknown }).error), [
          reason,
          reason,
        ]);
      }
    }),
);
