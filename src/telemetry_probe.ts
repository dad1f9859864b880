// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a call, told to a tracer and a meter: a span from its beginning to its end, a span
// "wait" below it for each time in which nothing of it was at the worker because it waited for its turn,
// and counters at its end. Nothing here can make a call fail: a tracer or a meter that throws becomes
// one warning.

import { AsyncLocalStorage } from "node:async_hooks";
import { ShmError } from "./errors.ts";
import { warnOf } from "./fence.ts";
import type {
  Telemetry,
  TelemetryAttributes,
  TelemetryCounter,
  TelemetryHistogram,
  TelemetrySpan,
  TelemetrySpanOptions,
  TelemetryTracer,
} from "./telemetry.ts";

const INTERNAL = 0;
const CLIENT = 2;
const STATUS_ERROR = 2;

/** OpenTelemetry's advice for durations of databases, and less: what is in memory takes microseconds. */
const SECONDS = [
  ...[0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10],
];

/** What is observed: calls of a connector, or of a store of two tiers. */
export type Subject = "client" | "store";

export interface Observed {
  /** The span's name. */
  readonly span: string;
  /** What is done: "get". */
  readonly operation: string;
  readonly attributes: TelemetryAttributes;
  /** How many objects it is about. */
  readonly objects: number;
  readonly signal?: AbortSignal | undefined;
  /** See TelemetrySpanOptions. */
  readonly root?: boolean;
  readonly links?: readonly TelemetrySpan[];
}

interface Instruments {
  readonly duration: TelemetryHistogram;
  readonly wait: TelemetryHistogram | null;
  readonly lookups: TelemetryCounter;
  readonly bytes: TelemetryCounter;
  readonly errors: TelemetryCounter;
}

/** The calls of this program that go on around a point in it. */
const around = new AsyncLocalStorage<ObservedCall>();

/** What OpenTelemetry calls error.type. */
function typeOf(error: unknown): string {
  if (error instanceof ShmError) return error.code;
  return error instanceof Error ? error.name : "_OTHER";
}

/** Tells of the calls of one connector or store. */
export class Probe {
  readonly #subject: Subject;
  readonly #common: TelemetryAttributes;
  readonly #tracer: TelemetryTracer | undefined;
  readonly #instruments: Instruments | null;
  #warned = false;

  private constructor(subject: Subject, telemetry: Telemetry, common: TelemetryAttributes) {
    this.#subject = subject;
    this.#common = common;
    this.#tracer = telemetry.tracer;
    this.#instruments = this.fenced(() => this.#make(telemetry)) ?? null;
  }

  /** Null: nothing is told. */
  static of(
    subject: Subject,
    telemetry: Telemetry | undefined,
    common: TelemetryAttributes,
  ): Probe | null {
    const wanted = telemetry?.tracer !== undefined || telemetry?.meter !== undefined;
    return wanted ? new Probe(subject, telemetry, common) : null;
  }

  /** The span of the call that goes on around here; null: there is none. */
  static current(): TelemetrySpan | null {
    return around.getStore()?.span ?? null;
  }

  /** Carries out `work`, whose span is active in it, and tells how it went. */
  during<T>(observed: Observed, work: (call: ObservedCall) => Promise<T>): Promise<T> {
    const run = (span: TelemetrySpan | null) => {
      const call = new ObservedCall(this, observed, span);
      return around.run(call, () => this.#watched(call, work));
    };
    const tracer = this.#tracer;
    if (tracer === undefined) return run(null);
    const { root, links = [] } = observed;
    const options: TelemetrySpanOptions = {
      kind: this.#subject === "client" ? CLIENT : INTERNAL,
      attributes: { ...this.#common, ...observed.attributes },
      ...(root ? { root } : {}),
      ...(links.length > 0
        ? { links: links.map((link) => ({ context: link.spanContext() })) }
        : {}),
    };
    let begun: Promise<T> | null = null;
    let over = false;
    this.fenced(() =>
      tracer.startActiveSpan(observed.span, options, (span) => over ? null : begun ??= run(span))
    );
    // A tracer that has not called back does not keep the work from being done, nor has it done twice.
    over = true;
    return begun ?? run(null);
  }

  /** A span below the call's, where it is active. */
  startWait(): TelemetrySpan | null {
    return this.fenced(() => this.#tracer?.startSpan("wait", { kind: INTERNAL })) ?? null;
  }

  /** What a hook of the user gives; undefined if it throws. */
  fenced<T>(hook: () => T): T | undefined {
    try {
      return hook();
    } catch (error) {
      if (!this.#warned) warnOf("telemetry", error);
      this.#warned = true;
      return undefined;
    }
  }

  /** To the counters. */
  count({ operation }: Observed, ended: CallCounts): void {
    const to = this.#instruments;
    if (to === null) return;
    const { seconds, waitSeconds, found, bytes, failures } = ended;
    const named = { ...this.#common, "db.operation.name": operation };
    const [first] = failures.keys();
    this.fenced(() => {
      to.duration.record(seconds, first === undefined ? named : { ...named, "error.type": first });
      if (waitSeconds !== null) to.wait?.record(waitSeconds, named);
      for (const [result, count] of found) {
        const [what = "", tier] = result.split(" ");
        to.lookups.add(count, {
          ...this.#common,
          "lmshm.result": what,
          ...(tier === undefined ? {} : { "lmshm.tier": tier }),
        });
      }
      if (bytes > 0) to.bytes.add(bytes, named);
      for (const [type, count] of failures) to.errors.add(count, { ...named, "error.type": type });
    });
  }

  async #watched<T>(call: ObservedCall, work: (call: ObservedCall) => Promise<T>): Promise<T> {
    try {
      return await work(call);
    } catch (error) {
      call.failed(error, call.observed.objects);
      throw error;
    } finally {
      call.end();
    }
  }

  #make({ meter }: Telemetry): Instruments | null {
    if (meter === undefined) return null;
    const client = this.#subject === "client";
    const of = client ? "Calls of a connector" : "Calls of a store of two tiers";
    const seconds = { unit: "s", advice: { explicitBucketBoundaries: SECONDS } };
    const prefix = `lmshm.${this.#subject}`;
    return {
      // The name that OpenTelemetry has for it.
      duration: meter.createHistogram(
        client ? "db.client.operation.duration" : `${prefix}.operation.duration`,
        { description: `${of}: from the call to its end.`, ...seconds },
      ),
      wait: client
        ? meter.createHistogram(`${prefix}.wait.duration`, {
          description: "Of these, how long nothing was at the worker, because all waited.",
          ...seconds,
        })
        : null,
      lookups: meter.createCounter(`${prefix}.lookups`, {
        description: "Objects that were to be got, by what became of it.",
        unit: "{object}",
      }),
      bytes: meter.createCounter(`${prefix}.bytes`, {
        description: "Bytes of objects that were got or put.",
        unit: "By",
      }),
      errors: meter.createCounter(`${prefix}.errors`, {
        description: "Objects whose call failed; a miss is no failure.",
        unit: "{object}",
      }),
    };
  }
}

interface CallCounts {
  readonly seconds: number;
  /** Null: nothing of it was for the worker. */
  readonly waitSeconds: number | null;
  /** By result and tier: "hit", "hit cold", "miss". */
  readonly found: ReadonlyMap<string, number>;
  readonly bytes: number;
  /** By error.type: how many objects. */
  readonly failures: ReadonlyMap<string, number>;
}

/** One call that goes on. It is a RequestWatch of all the requests that it makes. */
export class ObservedCall {
  readonly observed: Observed;
  readonly span: TelemetrySpan | null;
  readonly #probe: Probe;
  readonly #begun = performance.now();
  /** Runs what it is given where the call's span is active. */
  #inside: (<R>(work: () => R) => R) | null = null;
  readonly #found = new Map<string, number>();
  readonly #failures = new Map<string, number>();
  #bytes = 0;
  #waiting = 0;
  #taken = 0;
  #resends = 0;
  #asked = false;
  #wait: TelemetrySpan | null = null;
  #waitsSince: number | null = null;
  #waitedMs = 0;
  #ended = false;

  constructor(probe: Probe, observed: Observed, span: TelemetrySpan | null) {
    this.#probe = probe;
    this.observed = observed;
    this.span = span;
  }

  // --- a RequestWatch

  waits(): void {
    this.#asked = true;
    this.#waiting++;
    this.#changed();
  }

  taken(): void {
    this.#waiting--;
    this.#taken++;
    this.#changed();
  }

  returned(lost: boolean): void {
    if (lost) {
      this.#resends++;
      if (!this.#ended) this.#probe.fenced(() => this.span?.addEvent("lmshm.worker.lost"));
    }
    this.#taken--;
    this.#waiting++;
    this.#changed();
  }

  ended(taken: boolean): void {
    if (taken) this.#taken--;
    else this.#waiting--;
    this.#changed();
  }

  // --- what became of its objects

  /** @param result "hit", "miss" or "mismatch", and of a store of two tiers the tier */
  looked(result: string, bytes = 0): void {
    this.#found.set(result, (this.#found.get(result) ?? 0) + 1);
    this.#bytes += bytes;
  }

  stored(bytes: number): void {
    this.#bytes += bytes;
  }

  failed(error: unknown, objects: number): void {
    const type = typeOf(error);
    const first = this.#failures.size === 0;
    this.#failures.set(type, (this.#failures.get(type) ?? 0) + objects);
    const { span, observed } = this;
    if (!first || span === null) return;
    this.#probe.fenced(() => {
      span.setAttribute("error.type", type);
      if (observed.signal?.aborted) span.setAttribute("lmshm.cancelled", true);
      const message = error instanceof Error ? error.message : String(error);
      span.setStatus({ code: STATUS_ERROR, message });
    });
  }

  end(): void {
    this.#endWait(false);
    this.#ended = true;
    const { span, observed } = this;
    const seconds = (performance.now() - this.#begun) / 1000;
    this.#probe.fenced(() => {
      if (span === null) return;
      for (const [name, value] of this.#facts()) span.setAttribute(name, value);
    });
    this.#probe.fenced(() => span?.end());
    this.#probe.count(observed, {
      seconds,
      waitSeconds: this.#asked ? this.#waitedMs / 1000 : null,
      found: this.#found,
      bytes: this.#bytes,
      failures: this.#failures,
    });
  }

  #facts(): [string, string | number][] {
    const facts: [string, string | number][] = [];
    const { objects } = this.observed;
    if (objects === 1) {
      for (const result of this.#found.keys()) {
        const [what = "", tier] = result.split(" ");
        facts.push(["lmshm.result", what]);
        if (tier !== undefined) facts.push(["lmshm.tier", tier]);
      }
    } else {
      for (const [result, count] of this.#found) {
        facts.push([`lmshm.objects.${result.replace(" ", ".")}`, count]);
      }
      const failed = [...this.#failures.values()].reduce((sum, count) => sum + count, 0);
      if (failed > 0) facts.push(["lmshm.objects.failed", failed]);
    }
    if (this.#bytes > 0) facts.push(["lmshm.bytes", this.#bytes]);
    if (this.#resends > 0) facts.push(["lmshm.resends", this.#resends]);
    return facts;
  }

  /** Something waits, and nothing is at the worker: that is a wait. */
  #changed(): void {
    if (this.#ended) return;
    const waits = this.#waiting > 0 && this.#taken === 0;
    if (!waits) return this.#endWait(this.#taken > 0);
    if (this.#waitsSince !== null) return;
    this.#waitsSince = performance.now();
    if (this.span === null) return;
    // The first request comes from the call itself; later ones may come from anywhere.
    this.#inside ??= AsyncLocalStorage.snapshot();
    this.#wait = this.#inside(() => this.#probe.startWait());
  }

  /** @param sent because a worker has something of the call now; else the call is over */
  #endWait(sent: boolean): void {
    if (this.#waitsSince === null) return;
    this.#waitedMs += performance.now() - this.#waitsSince;
    this.#waitsSince = null;
    const wait = this.#wait;
    this.#wait = null;
    if (wait === null) return;
    this.#probe.fenced(() => wait.setAttribute("lmshm.sent", sent));
    this.#probe.fenced(() => wait.end());
  }
}
