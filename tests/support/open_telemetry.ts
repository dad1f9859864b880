// SPDX-License-Identifier: Apache-2.0
//
// The real OpenTelemetry in memory: what was traced and counted in one test.

import { context, type Meter, type Tracer } from "@opentelemetry/api";
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
  type ReadableSpan,
  SimpleSpanProcessor,
} from "@opentelemetry/sdk-trace-base";

let managed = false;

export interface Counted {
  readonly value: number;
  readonly attributes: Readonly<Record<string, unknown>>;
}

export class Recorder implements AsyncDisposable {
  readonly tracer: Tracer;
  readonly meter: Meter;
  readonly #spans = new InMemorySpanExporter();
  readonly #counted = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  readonly #reader = new PeriodicExportingMetricReader({ exporter: this.#counted });

  constructor() {
    if (!managed) context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
    managed = true;
    const spanProcessors = [new SimpleSpanProcessor(this.#spans)];
    this.tracer = new BasicTracerProvider({ spanProcessors }).getTracer("test");
    this.meter = new MeterProvider({ readers: [this.#reader] }).getMeter("test");
  }

  /** Spans that have ended, by the time of their beginning. */
  get spans(): ReadableSpan[] {
    return this.#spans.getFinishedSpans();
  }

  /** Of one name, or of names that begin so. */
  named(name: string): ReadableSpan[] {
    return this.spans.filter((span) => span.name === name || span.name.startsWith(`${name} `));
  }

  childrenOf(parent: ReadableSpan): ReadableSpan[] {
    const { spanId } = parent.spanContext();
    return this.spans.filter(({ parentSpanContext }) => parentSpanContext?.spanId === spanId);
  }

  /** The points of a counter, or of a histogram: how many values it has. */
  async counted(name: string): Promise<Counted[]> {
    await this.#reader.forceFlush();
    const last = this.#counted.getMetrics().at(-1);
    const metric = last?.scopeMetrics.flatMap(({ metrics }) => metrics)
      .find(({ descriptor }) => descriptor.name === name);
    return (metric?.dataPoints ?? []).map(({ value, attributes }) => ({
      value: typeof value === "number" ? value : (value as { count: number }).count,
      attributes,
    }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader.shutdown();
  }
}
