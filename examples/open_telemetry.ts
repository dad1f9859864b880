// SPDX-License-Identifier: Apache-2.0
//
// What a store tells OpenTelemetry: the spans of two requests as trees, and the counters. A program of
// yours gives them to a collector instead (OTLPTraceExporter, OTLPMetricExporter).
//
//   bun add @opentelemetry/api @opentelemetry/context-async-hooks \
//     @opentelemetry/sdk-trace-base @opentelemetry/sdk-metrics
//   bun examples/open_telemetry.ts
//   deno run -A examples/open_telemetry.ts

import console from "node:console";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { context, metrics, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";
import { TieredStore } from "lmshm";

// --- OpenTelemetry, as any program sets it up. NodeSDK of @opentelemetry/sdk-node does all of it.

const spans = new InMemorySpanExporter();
const counted = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
const reader = new PeriodicExportingMetricReader({ exporter: counted });
// What makes a span the parent of what is awaited in it.
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(
  new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }),
);
metrics.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }));

const tracer = trace.getTracer("my-program");
const meter = metrics.getMeter("my-program");

// --- A store that tells it what it does.

const CHUNK = { shape: [2, 4, 256, 1024], dtype: "bfloat16" } as const;

const directory = await mkdtemp(join(tmpdir(), "lmshm-example-"));
try {
  const options = {
    hot: { sizeBytes: 64 * 2 ** 20 },
    cold: { storageDir: directory },
    telemetry: { tracer, meter },
  };
  {
    await using store = await TieredStore.create(options);
    await tracer.startActiveSpan("first request", async (span) => {
      if (await store.get("a-chunk", CHUNK) !== null) throw new Error("there is none yet");
      using obj = await store.allocate(CHUNK);
      await store.put("a-chunk", obj);
      span.end();
    });
  }
  await using store = await TieredStore.create(options); // nothing is in its pool
  await tracer.startActiveSpan("second request", async (span) => {
    for (let time = 0; time < 2; time++) {
      using obj = await store.get("a-chunk", CHUNK);
      if (obj === null) throw new Error("it was stored");
    }
    span.end();
  });
} finally {
  await rm(directory, { recursive: true, force: true });
}

// --- What was told.

const ended = spans.getFinishedSpans();
const show = (parent: string | undefined, indent: string) => {
  for (const span of ended.filter((one) => one.parentSpanContext?.spanId === parent)) {
    const { "lmshm.result": result = "", "lmshm.tier": tier = "" } = span.attributes;
    const line = `${indent}${span.name.replace(directory, "DIR")} ${result} ${tier}`;
    console.log(line.trimEnd());
    show(span.spanContext().spanId, `${indent}  `);
  }
};
show(undefined, "");

await reader.forceFlush();
for (const { scopeMetrics } of counted.getMetrics().slice(-1)) {
  for (const { descriptor, dataPoints } of scopeMetrics.flatMap((scope) => scope.metrics)) {
    for (const { value, attributes } of dataPoints) {
      if (typeof value !== "number") continue;
      const of = attributes["lmshm.result"] ?? attributes["db.operation.name"] ?? "";
      console.log(`${descriptor.name} ${of} ${attributes["lmshm.tier"] ?? ""}`.trimEnd(), value);
    }
  }
}
await reader.shutdown();
console.log("OK: every request is told, with what it waited for");
