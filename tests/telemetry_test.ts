// SPDX-License-Identifier: Apache-2.0
//
// What a connector and a store of two tiers tell OpenTelemetry's own packages: one span for each call,
// with what it waited for below it, also of batches, misses, calls that were given up, and requests that
// a second worker had to carry out. And that nothing of it can make a call fail.

import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { SpanKind, SpanStatusCode } from "@opentelemetry/api";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { ShmError, type Telemetry, type TelemetrySpan } from "../src/mod.ts";
import { TieredStore } from "../src/cache/tiered_store.ts";
import { type ConnectorScene, connectorScene } from "./support/connector_scene.ts";
import { Recorder } from "./support/open_telemetry.ts";
import { runFixture } from "./support/process.ts";
import { version1Worker } from "./support/version1_worker.ts";
import { warningsOf } from "./support/warnings.ts";
import { eventually } from "./support/worker.ts";

const SEGMENT = 64 * 4096;

function scene(
  name: string,
  body: (scene: ConnectorScene, recorder: Recorder) => Promise<void>,
): void {
  connectorScene(`telemetry: ${name}`, async (all) => {
    await using recorder = new Recorder();
    await body(all, recorder);
  }, SEGMENT);
}

/** As a set of "name=value". */
function attributesOf(of: { readonly attributes: Readonly<Record<string, unknown>> }): string[] {
  return Object.entries(of.attributes).map(([name, value]) => `${name}=${value}`).sort();
}

scene("put, get and a miss are spans of a client, with the wait below", async (all, recorder) => {
  const { segment, store } = all;
  const connector = await all.open({ telemetry: recorder });
  await connector.put("a", segment.range(0, 5000));
  await connector.get("a", segment.range(8192, 8192));
  assert.equal(await connector.get("none", segment.range(8192, 8192)), null);
  assert.equal(await connector.exists("a"), true);
  const calls = recorder.spans.filter(({ name }) => name !== "wait");
  assert.deepEqual(
    calls.map(({ name }) => name),
    ["put", "get", "get", "exists"].map((verb) => `${verb} ${store}`),
  );
  const common = ["db.namespace=" + store, "db.system.name=lmshm", "network.transport=pipe"];
  const expected = [
    ["db.operation.name=put", "lmshm.bytes=5000", "lmshm.key=a"],
    ["db.operation.name=get", "lmshm.bytes=5000", "lmshm.key=a", "lmshm.result=hit"],
    ["db.operation.name=get", "lmshm.key=none", "lmshm.result=miss"],
    ["db.operation.name=exists", "lmshm.key=a"],
  ];
  for (const [index, span] of calls.entries()) {
    assert.equal(span.kind, SpanKind.CLIENT);
    assert.equal(span.status.code, SpanStatusCode.UNSET);
    assert.deepEqual(attributesOf(span), [...common, ...expected[index]!].sort());
    const waits = recorder.childrenOf(span);
    assert.deepEqual(waits.map(({ name }) => name), ["wait"]);
  }
  assert.deepEqual(
    await recorder.counted("lmshm.client.lookups").then((all) =>
      all.map(({ value, attributes }) => [value, attributes["lmshm.result"]])
    ),
    [[1, "hit"], [1, "miss"]],
  );
  const bytes = await recorder.counted("lmshm.client.bytes");
  assert.deepEqual(
    bytes.map(({ value, attributes }) => [value, attributes["db.operation.name"]]),
    [[5000, "put"], [5000, "get"]],
  );
  const durations = await recorder.counted("db.client.operation.duration");
  assert.equal(durations.reduce((sum, { value }) => sum + value, 0), 4);
  const waits = await recorder.counted("lmshm.client.wait.duration");
  assert.equal(waits.reduce((sum, { value }) => sum + value, 0), 4);
  assert.deepEqual(await recorder.counted("lmshm.client.errors"), []);
});

scene("a batch is one span that counts hits, misses and failures", async (all, recorder) => {
  const { segment } = all;
  const connector = await all.open({ telemetry: recorder });
  const ranges = [0, 1, 2, 3].map((i) => segment.range(i * 4096, 4096));
  await connector.batchedPut(["a", "b", "c"], ranges.slice(0, 3));
  const small = segment.range(32 * 4096, 100);
  const loaded = await connector.loadEach(["a", "none", "c", "b"], [...ranges.slice(0, 3), small]);
  assert.deepEqual(loaded.map(({ status }) => status), [
    ...["fulfilled", "fulfilled", "fulfilled", "rejected"],
  ]);
  const [put] = recorder.named("BATCH put");
  const [get] = recorder.named("BATCH get");
  assert.equal(put!.attributes["db.operation.batch.size"], 3);
  assert.equal(put!.attributes["lmshm.bytes"], 3 * 4096);
  assert.equal(put!.status.code, SpanStatusCode.UNSET);
  for (const span of [put!, get!]) assert.ok(recorder.childrenOf(span).length >= 1, span.name);
  const { attributes } = get!;
  assert.equal(attributes["db.operation.batch.size"], 4);
  assert.equal(attributes["lmshm.objects.hit"], 2);
  assert.equal(attributes["lmshm.objects.miss"], 1);
  assert.equal(attributes["lmshm.objects.failed"], 1);
  assert.equal(attributes["error.type"], "EMSGSIZE");
  assert.equal(get!.status.code, SpanStatusCode.ERROR);
  assert.equal(recorder.spans.filter(({ name }) => name !== "wait").length, 2);
  const [error, ...others] = await recorder.counted("lmshm.client.errors");
  assert.equal(others.length, 0);
  assert.equal(error!.value, 1);
  assert.equal(error!.attributes["error.type"], "EMSGSIZE");
});

scene("a call of several requests, one after the other, waits for each", async (all, recorder) => {
  const { segment } = all;
  const allocate = (byteLength: number) => segment.range(0, byteLength);
  const connector = await all.open({ telemetry: recorder, allocate });
  await connector.put("a", segment.range(0, 5000));
  assert.equal((await connector.get("a"))!.byteLength, 5000);
  const [get] = recorder.named("get");
  const waits = recorder.childrenOf(get!);
  assert.deepEqual(
    waits.map(({ name }) => name),
    ["wait", "wait"],
    "to ask how long it is, and for it",
  );
  for (const wait of waits) assert.equal(wait.attributes["lmshm.sent"], true);
});

scene("a request that a second worker carries out says so", async (all, recorder) => {
  const { segment } = all;
  const connector = await all.open({ telemetry: recorder, restartPauseMs: 1 });
  const pid = connector.workerPid!;
  process.kill(pid, "SIGSTOP");
  const put = recorder.tracer.startActiveSpan("request", async (span) => {
    await connector.put("a", segment.range(0, 4096));
    span.end();
  });
  await eventually("the worker has it", () => recorder.named("wait").length === 1);
  process.kill(pid, "SIGKILL");
  await put;
  const [span] = recorder.named("put");
  assert.equal(span!.status.code, SpanStatusCode.UNSET, "it was stored");
  assert.equal(span!.attributes["lmshm.resends"], 1);
  assert.deepEqual(span!.events.map(({ name }) => name), ["lmshm.worker.lost"]);
  const children = recorder.childrenOf(span!).map(({ name }) => name);
  assert.deepEqual(children, ["wait", "wait"], "both waits are below the call");
  const [request] = recorder.named("request");
  assert.deepEqual(recorder.childrenOf(request!).map(({ name }) => name), [span!.name]);
});

scene(
  "a call that fails with its worker is an error, and not sent again",
  async (all, recorder) => {
    const { segment } = all;
    const connector = await all.open({ telemetry: recorder, maxRestarts: 0 });
    const pid = connector.workerPid!;
    process.kill(pid, "SIGSTOP");
    const put = connector.put("a", segment.range(0, 4096));
    await eventually("the worker has it", () => recorder.named("wait").length === 1);
    process.kill(pid, "SIGKILL");
    await assert.rejects(put, ShmError);
    const [span] = recorder.named("put");
    assert.equal(span!.status.code, SpanStatusCode.ERROR);
    assert.match(String(span!.attributes["error.type"]), /^E[A-Z]+$/);
    assert.match(span!.status.message!, /worker/);
  },
);

scene(
  "calls that are given up say so, whether the worker had them or not",
  async (all, recorder) => {
    const { segment } = all;
    const connector = await all.open({ telemetry: recorder, maxInFlight: 1 });
    const pid = connector.workerPid!;
    process.kill(pid, "SIGSTOP");
    try {
      const [first, second] = [new AbortController(), new AbortController()];
      const sent = connector.put("a", segment.range(0, 4096), { signal: first.signal });
      await eventually("the worker has it", () => recorder.named("wait").length === 1);
      const queued = connector.put("b", segment.range(4096, 4096), { signal: second.signal });
      const late = connector.put("c", segment.range(8192, 4096), { timeoutMs: 50 });
      await assert.rejects(late, { code: "ETIMEDOUT" });
      second.abort();
      first.abort();
      await assert.rejects(queued, { name: "AbortError" });
      await assert.rejects(sent, { name: "AbortError" });
    } finally {
      process.kill(pid, "SIGCONT");
    }
    const byKey = new Map(
      recorder.named("put").map((span) => [span.attributes["lmshm.key"], span]),
    );
    for (
      const [key, type, cancelled] of [
        ["a", "AbortError", true],
        ["b", "AbortError", true],
        ["c", "ETIMEDOUT", undefined],
      ] as const
    ) {
      const span = byKey.get(key)!;
      assert.equal(span.attributes["error.type"], type, key);
      assert.equal(span.attributes["lmshm.cancelled"], cancelled, key);
      assert.equal(span.status.code, SpanStatusCode.ERROR, key);
      const [wait, ...others] = recorder.childrenOf(span);
      assert.equal(others.length, 0, key);
      const ends = (one: { endTime: [number, number] }) => one.endTime[0] * 1e9 + one.endTime[1];
      if (key === "a") assert.ok(ends(wait!) < ends(span), "the wait was over before");
      assert.equal(wait!.attributes["lmshm.sent"], key === "a", key);
    }
    const errors = await recorder.counted("lmshm.client.errors");
    assert.deepEqual(
      errors.map(({ value, attributes }) => [value, attributes["error.type"]]).sort(),
      [[1, "ETIMEDOUT"], [2, "AbortError"]],
    );
  },
);

scene("workers of version 1 are told of likewise", async (all, recorder) => {
  const { segment, dir } = all;
  const connector = await all.open({ telemetry: recorder, workerBinary: version1Worker(dir) });
  assert.equal(connector.protocol, 1);
  await connector.put("a", segment.range(0, 4096));
  await connector.batchedGet(["a", "b"], [segment.range(0, 4096), segment.range(4096, 4096)]);
  const [put] = recorder.named("put");
  assert.deepEqual(recorder.childrenOf(put!).map(({ name }) => name), ["wait"]);
  const [get] = recorder.named("BATCH get");
  assert.equal(get!.attributes["lmshm.objects.hit"], 1);
  assert.equal(get!.attributes["lmshm.objects.miss"], 1);
  assert.ok(recorder.childrenOf(get!).length >= 1);
});

scene("a running worker is named by its address", async (all, recorder) => {
  const { segment, store } = all;
  const address = await all.listen(store);
  const connector = await all.open({
    ...{ telemetry: recorder, workerAddress: address, storageDir: "sub" },
  });
  await connector.put("a", segment.range(0, 4096));
  const [span] = recorder.named("put");
  assert.equal(span!.name, "put sub");
  assert.equal(span!.attributes["network.transport"], "unix");
  assert.equal(span!.attributes["server.address"], address.replace("unix:", ""));
});

const CHUNK = { shape: [2, 1, 8, 128], dtype: "bfloat16" } as const;

function tieredScene(
  name: string,
  body: (store: TieredStore, recorder: Recorder, make: () => Promise<TieredStore>) => Promise<void>,
): void {
  connectorScene(`telemetry: ${name}`, async ({ store: storageDir, stack }) => {
    await using recorder = new Recorder();
    const make = async () =>
      stack.use(
        await TieredStore.create({
          hot: { sizeBytes: SEGMENT, pin: "none" },
          cold: { storageDir },
          telemetry: recorder,
        }),
      );
    await body(await make(), recorder, make);
  }, SEGMENT);
}

tieredScene("a store says which tier had it, and what it asked of the other", async (
  first,
  recorder,
  make,
) => {
  {
    using obj = await first.allocate(CHUNK);
    await first.put("a", obj);
    (await first.get("a", CHUNK))!.refCountDown();
    assert.equal(await first.get("none", CHUNK), null);
  }
  const second = await make();
  (await second.get("a", CHUNK))!.refCountDown();
  const gets = recorder.named("tiered get");
  assert.deepEqual(
    gets.map(({ attributes }) => [attributes["lmshm.result"], attributes["lmshm.tier"]]),
    [["hit", "hot"], ["miss", undefined], ["hit", "cold"]],
  );
  assert.equal(gets[0]!.kind, SpanKind.INTERNAL);
  assert.deepEqual(recorder.childrenOf(gets[0]!), [], "the other tier was not asked");
  for (const get of gets.slice(1)) {
    const verbs = recorder.childrenOf(get).map((child) => child.attributes["db.operation.name"]);
    assert.ok(verbs.includes("get"), `${verbs}`);
  }
  const [put] = recorder.named("tiered put");
  assert.equal(recorder.childrenOf(put!)[0]!.attributes["db.operation.name"], "put");
  const lookups = await recorder.counted("lmshm.store.lookups");
  assert.deepEqual(
    lookups.map(({ value, attributes }) => [
      ...[value, attributes["lmshm.result"], attributes["lmshm.tier"]],
    ]),
    [[1, "hit", "hot"], [1, "miss", undefined], [1, "hit", "cold"]],
  );
});

tieredScene(
  "what is written behind has no parent, and a link to its put",
  async (store, recorder) => {
    const { tracer } = recorder;
    await tracer.startActiveSpan("request", async (span) => {
      for (const key of ["a", "b", "c"]) {
        using obj = await store.allocate(CHUNK);
        await store.put(key, obj, { writeMode: "behind" });
      }
      span.end();
    });
    await store.flush();
    const puts = recorder.named("tiered put");
    const writes = recorder.named("tiered write behind");
    assert.equal(puts.length, 3);
    assert.equal(writes.length, 3);
    for (const write of writes) {
      assert.equal(write.parentSpanContext, undefined);
      assert.equal(write.links.length, 1);
      const [from] = puts.filter((put) =>
        put.spanContext().spanId === write.links[0]!.context.spanId
      );
      const [child] = recorder.childrenOf(write);
      assert.equal(child!.attributes["db.operation.name"], "put");
      assert.equal(recorder.childrenOf(from!).length, 0, "nothing is written within the put");
    }
    const keys = writes.map((write) => recorder.childrenOf(write)[0]!.attributes["lmshm.key"]);
    assert.deepEqual(keys.sort(), ["a", "b", "c"]);
  },
);

tieredScene("small loads of several calls are one span, linked to all", async (
  first,
  recorder,
  make,
) => {
  for (const key of ["a", "b", "c"]) {
    using obj = await first.allocate(CHUNK);
    await first.put(key, obj);
  }
  const second = await make();
  const found = await Promise.all(["a", "b", "c"].map((key) => second.get(key, CHUNK)));
  for (const obj of found) obj!.refCountDown();
  const gets = recorder.named("tiered get");
  const [load] = recorder.named("tiered BATCH load");
  const ids = gets.map((get) => get.spanContext().spanId).sort();
  assert.deepEqual(
    [load!.parentSpanContext!.spanId, ...load!.links.map(({ context }) => context.spanId)].sort(),
    ids,
  );
  const [batch] = recorder.childrenOf(load!);
  assert.equal(batch!.attributes["db.operation.name"], "BATCH get");
  assert.equal(batch!.attributes["lmshm.objects.hit"], 3);
  // Of one call, it is simply its child.
  const third = await make();
  for (const obj of await third.batchedGet(["a", "b", "c"], CHUNK)) obj!.refCountDown();
  const [batched] = recorder.named("tiered BATCH get");
  assert.deepEqual(
    recorder.childrenOf(batched!).map((child) => child.attributes["db.operation.name"]),
    ["BATCH get"],
  );
  assert.equal(batched!.attributes["lmshm.objects.hit.cold"], 3);
});

const METHODS = [
  ...["startSpan", "startActiveSpan", "afterwards", "setAttribute", "addEvent", "setStatus", "end"],
  ...["createCounter", "createHistogram", "add", "record"],
] as const;

/** A tracer and a meter some of whose methods throw. */
function broken(methods: readonly string[]): Telemetry {
  const may = <T>(method: (typeof METHODS)[number], value: T): T => {
    if (methods.includes(method)) throw new Error(`${method} broke`);
    return value;
  };
  const span: TelemetrySpan = {
    setAttribute: () => may("setAttribute", null),
    addEvent: () => may("addEvent", null),
    setStatus: () => may("setStatus", null),
    spanContext: () => ({ traceId: "", spanId: "", traceFlags: 0 }),
    end: () => may("end", undefined),
  };
  return {
    tracer: {
      startSpan: () => may("startSpan", span),
      startActiveSpan: (_name, _options, work) => {
        may("startActiveSpan", null);
        return may("afterwards", work(span));
      },
    },
    meter: {
      createCounter: () => may("createCounter", { add: () => may("add", undefined) }),
      createHistogram: () => may("createHistogram", { record: () => may("record", undefined) }),
    },
  };
}

connectorScene("telemetry: a hook that throws is one warning, and no call fails", async (all) => {
  const { segment, store: storageDir } = all;
  const workerAddress = await all.listen(storageDir);
  for (const methods of [[], METHODS, ...METHODS.map((method) => [method])]) {
    const heard = await warningsOf(async () => {
      await using connector = await ShmFileConnector.open({
        ...{ segment, storageDir, workerAddress },
        telemetry: broken(methods),
      });
      await connector.put("a", segment.range(0, 4096));
      assert.notEqual(await connector.get("a", segment.range(4096, 4096)), null);
      assert.equal(await connector.get("none", segment.range(4096, 4096)), null);
      const small = segment.range(8192, 10);
      await assert.rejects(connector.get("a", small), { code: "EMSGSIZE" });
      assert.deepEqual(await connector.batchedGet(["none", "nil"], [small, small]), [null, null]);
      assert.equal(connector.stats.inFlight, 0);
    });
    // No worker is lost here, so there is no event.
    const warns = methods.some((method) => method !== "addEvent");
    assert.equal(heard.length, warns ? 1 : 0, `${methods}: ${heard}`);
    if (warns) assert.match(heard[0]!, /^telemetry failed: \w+ broke$/);
  }
}, SEGMENT);

connectorScene("telemetry: a tracer that calls back twice, late or never does no harm", async ({
  segment,
  open,
}) => {
  const nothing = () => null;
  const span: TelemetrySpan = {
    setAttribute: nothing,
    addEvent: nothing,
    setStatus: nothing,
    spanContext: () => ({ traceId: "", spanId: "", traceFlags: 0 }),
    end: nothing,
  };
  const startSpan = () => span;
  const tracers = {
    twice: (work: (span: TelemetrySpan) => unknown) => [work(span), work(span)][0],
    late: (work: (span: TelemetrySpan) => unknown) => setTimeout(() => work(span), 1),
    never: () => undefined,
  };
  for (const [name, call] of Object.entries(tracers)) {
    const connector = await open({
      telemetry: {
        tracer: { startSpan, startActiveSpan: (_name, _options, work) => call(work) },
      },
    });
    await connector.put(name, segment.range(0, 4096));
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(connector.stats.puts, 1, name);
  }
}, SEGMENT);

connectorScene("telemetry: what is no tracer is refused by name", async ({ open }) => {
  const cases: [unknown, RegExp][] = [
    [null, /telemetry must be an object/],
    [{ tracr: {} }, /telemetry has no "tracr"; there are tracer and meter/],
    [{ tracer: {} }, /telemetry.tracer has no startSpan\(\)/],
    [{ meter: { createCounter() {} } }, /telemetry.meter has no createHistogram\(\)/],
  ];
  for (const [telemetry, message] of cases) {
    await assert.rejects(open({ telemetry: telemetry as Telemetry }), message);
  }
  await open({ telemetry: {} });
}, SEGMENT);

test("the example of OpenTelemetry prints the trees that the guide shows", {
  timeout: 120_000,
}, async () => {
  const { code, stdout, stderr } = await runFixture("../../examples/open_telemetry.ts", [], {
    timeoutMs: 100_000,
  });
  assert.equal(code, 0, stdout + stderr);
  assert.equal(stderr, "");
  assert.match(stdout, /^first request\n {2}tiered get miss\n {4}get DIR miss\n {6}wait\n/);
  assert.match(stdout, /^OK: /m);
});
