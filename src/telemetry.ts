// SPDX-License-Identifier: Apache-2.0
//
// What of OpenTelemetry's tracers and meters is used: they can be handed over as they are, and so can
// anything else that has these few methods. lmshm depends on no package of OpenTelemetry. What is
// told, and by which names: docs/telemetry.md.

/** Of a span, or of what is counted. */
export type TelemetryAttributes = Record<string, string | number | boolean>;

/** As SpanContext of @opentelemetry/api: which span it is, for a link to it. */
export interface TelemetrySpanContext {
  /** Of the trace that it is in. */
  traceId: string;
  /** Its own. */
  spanId: string;
  /** Whether it is recorded. */
  traceFlags: number;
}

/** As Span of @opentelemetry/api. */
export interface TelemetrySpan {
  /** Says more of it. */
  setAttribute(name: string, value: string | number | boolean): unknown;
  /** Something that happened in it, now. */
  addEvent(name: string, attributes?: TelemetryAttributes): unknown;
  /** How it went, if not well: code 2. */
  setStatus(status: { code: number; message?: string }): unknown;
  /** What a link to it holds. */
  spanContext(): TelemetrySpanContext;
  /** It ends now. */
  end(): void;
}

/** As SpanOptions of @opentelemetry/api. */
export interface TelemetrySpanOptions {
  /** 0: internal; 2: client. */
  kind?: number;
  /** That are known when it begins. */
  attributes?: TelemetryAttributes;
  /** It has no parent, whatever is active. */
  root?: boolean;
  /** Spans that it has to do with, and that are not its parent. */
  links?: { context: TelemetrySpanContext }[];
}

/** As Tracer of @opentelemetry/api. */
export interface TelemetryTracer {
  /** A span below the one that is active now. */
  startSpan(name: string, options: TelemetrySpanOptions): TelemetrySpan;
  /** The same, and active in `work` and all that it awaits; gives what `work` gives. */
  startActiveSpan(
    name: string,
    options: TelemetrySpanOptions,
    work: (span: TelemetrySpan) => unknown,
  ): unknown;
}

/** As Counter of @opentelemetry/api. */
export interface TelemetryCounter {
  /** Counts `value` more. */
  add(value: number, attributes: TelemetryAttributes): void;
}

/** As Histogram of @opentelemetry/api. */
export interface TelemetryHistogram {
  /** One more value. */
  record(value: number, attributes: TelemetryAttributes): void;
}

/** As MetricOptions of @opentelemetry/api. */
export interface TelemetryMetricOptions {
  /** What it counts, in words. */
  description: string;
  /** By UCUM: "s", "By", "{object}". */
  unit: string;
  /** Bounds of a histogram's buckets that make sense. */
  advice?: { explicitBucketBoundaries: number[] };
}

/** As Meter of @opentelemetry/api. */
export interface TelemetryMeter {
  /** A sum that only grows. */
  createCounter(name: string, options: TelemetryMetricOptions): TelemetryCounter;
  /** Values in buckets. */
  createHistogram(name: string, options: TelemetryMetricOptions): TelemetryHistogram;
}

/**
 * Where a connector or a store tells what it does. What is left out is not told, and costs nothing.
 * What these throw is a warning (LmshmWarning, once), and no call fails of it.
 */
export interface Telemetry {
  /** For spans: trace.getTracer("my-program"). */
  tracer?: TelemetryTracer | undefined;
  /** For counters and histograms: metrics.getMeter("my-program"). */
  meter?: TelemetryMeter | undefined;
}

/** @throws {TypeError} naming what is missing. */
export function checkTelemetry(telemetry: unknown): void {
  if (telemetry === undefined) return;
  const given = telemetry as Telemetry | null;
  if (typeof given !== "object" || given === null) {
    throw new TypeError("telemetry must be an object with tracer, meter or both");
  }
  for (const name of Object.keys(given)) {
    if (name === "tracer" || name === "meter") continue;
    throw new TypeError(`telemetry has no "${name}"; there are tracer and meter`);
  }
  const needs = (of: object | undefined, what: string, methods: readonly string[]) => {
    if (of === undefined) return;
    for (const method of methods) {
      if (typeof (of as Record<string, unknown> | null)?.[method] === "function") continue;
      throw new TypeError(`telemetry.${what} has no ${method}()`);
    }
  };
  needs(given.tracer, "tracer", ["startSpan", "startActiveSpan"]);
  needs(given.meter, "meter", ["createCounter", "createHistogram"]);
}
