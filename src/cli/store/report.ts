// SPDX-License-Identifier: Apache-2.0
//
// What put, get, rm and cp tell: a line of JSON for each object, or failures as they come, what has
// been done so far at a terminal, and a summary at the end.

import { type Command, complainAbout, interruptible } from "../command.ts";
import { formatAge, formatBytes, formatTime } from "../format.ts";
import { fitted } from "../prose.ts";
import { complain, printAndWait, statusLine } from "../terminal.ts";

/** After these nothing else will go better. */
const ENDS_ALL: ReadonlySet<string> = new Set([
  ...["EWORKER", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ENOTCONN", "ENOTFOUND", "ENETUNREACH"],
  ...["EHOSTUNREACH", "EPROTO", "ESTALE", "ENOSPC", "EDQUOT", "EROFS", "ETIMEDOUT", "ECANCELED"],
]);

/** What takes longer than this is named meanwhile. */
const LONG_MS = 1000;

/** There is no such object. */
export class Missing extends Error {
  readonly code = "MISSING";
}

export interface Done {
  readonly byteLength?: number;
  readonly skipped?: boolean;
  readonly [member: string]: unknown;
}

export class StoreReport {
  readonly #json: boolean;
  readonly #status = statusLine();
  readonly #started = performance.now();
  #objects = 0;
  #bytes = 0;
  #skipped = 0;
  #failed = 0;
  readonly #noted = new Set<string>();
  /** What is being done: the key, and when it was begun. In this order. */
  readonly #running = new Map<symbol, readonly [key: string, started: number]>();
  readonly #ticker = setInterval(() => this.#draw(), LONG_MS);

  constructor(json: boolean) {
    this.#json = json;
    this.#ticker.unref();
  }

  get failed(): number {
    return this.#failed;
  }

  /**
   * Does what is to be done with one object, and tells of it. A failure that concerns this object
   * alone is told and counted; others are thrown.
   */
  async object(
    key: string,
    signal: AbortSignal,
    work: () => Promise<Done>,
    facts: Readonly<Record<string, unknown>> = {},
  ): Promise<void> {
    signal.throwIfAborted();
    const started = performance.now();
    let done: Done;
    try {
      done = await this.#watched(key, work);
    } catch (error) {
      if (signal.aborted) throw error;
      await this.fail(key, error, facts);
      // Of the store, or of the files that get writes.
      const { code } = error as { code?: unknown };
      if (typeof code === "string" && ENDS_ALL.has(code)) throw new Told(error as Error);
      return;
    }
    await this.#done([key], [done], started, facts);
  }

  /**
   * object() for those that one request is about. Where the request fails for what may be the fault of
   * one of them, each is done alone: the answer does not say which, nor what was done before.
   */
  async objects(
    keys: readonly string[],
    signal: AbortSignal,
    together: () => Promise<readonly Done[]>,
    alone: (key: string) => Promise<Done>,
  ): Promise<void> {
    signal.throwIfAborted();
    const started = performance.now();
    let done: readonly Done[];
    try {
      done = await this.#watched(keys[0] ?? "", together);
    } catch (error) {
      if (signal.aborted) throw error;
      const { code } = error as { code?: unknown };
      if (typeof code === "string" && ENDS_ALL.has(code)) {
        await this.#failTogether(keys, error);
        throw new Told(error as Error);
      }
      for (const key of keys) await this.object(key, signal, () => alone(key));
      return;
    }
    await this.#done(keys, done, started, {});
  }

  async #done(
    keys: readonly string[],
    all: readonly Done[],
    started: number,
    facts: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    for (const { skipped, byteLength = 0 } of all) {
      if (skipped) this.#skipped++;
      else {
        this.#objects++;
        this.#bytes += byteLength;
      }
    }
    this.#draw();
    if (!this.#json) return;
    const milliseconds = Math.round((performance.now() - started) * 1000) / 1000;
    await printAndWait(
      all.map((done, i) =>
        JSON.stringify({ key: keys[i], ...facts, ok: true, ...done, milliseconds })
      ),
    );
  }

  /** Tells of an object that failed, or that is not there. */
  async fail(
    key: string,
    error: unknown,
    facts: Readonly<Record<string, unknown>> = {},
  ): Promise<void> {
    await this.#failTogether([key], error, facts);
  }

  /** At a terminal one line, whatever the number of objects. */
  async #failTogether(
    keys: readonly string[],
    error: unknown,
    facts: Readonly<Record<string, unknown>> = {},
  ): Promise<void> {
    this.#failed += keys.length;
    const message = error instanceof Error ? error.message : String(error);
    if (this.#json) {
      const code = (error as { code?: unknown }).code ?? "EIO";
      await printAndWait(
        keys.map((key) => JSON.stringify({ key, ...facts, ok: false, code, error: message })),
      );
    }
    this.#status.end();
    const [first = ""] = keys;
    complainAbout(keys.length === 1 ? first : `${first} and ${keys.length - 1} more`, message);
  }

  /** Tells of something on stderr that is no failure, once for each text. */
  note(text: string): void {
    if (this.#noted.has(text)) return;
    this.#noted.add(text);
    this.#status.end();
    complain(`lmshm: ${text}`);
  }

  async #watched<T>(key: string, work: () => Promise<T>): Promise<T> {
    const id = Symbol();
    this.#running.set(id, [key, performance.now()]);
    try {
      return await work();
    } finally {
      this.#running.delete(id);
    }
  }

  /** What was done so far; a large object alone may take minutes. */
  #draw(): void {
    const [first] = this.#running.values();
    const ms = first === undefined ? 0 : performance.now() - first[1];
    const waits = first !== undefined && ms >= LONG_MS ? `, ${first[0]} for ${formatAge(ms)}` : "";
    this.#status.update(this.#figures() + waits);
  }

  /** "stored 3 objects, 101 MB in 120 ms, 840 MB/s", as a line. */
  summary(verb: string): string {
    clearInterval(this.#ticker);
    this.#status.end();
    return `${verb} ${this.#figures()}`;
  }

  #figures(): string {
    const ms = performance.now() - this.#started;
    const parts = [`${this.#objects} ${this.#objects === 1 ? "object" : "objects"}`];
    if (this.#bytes > 0) {
      parts[0] += `, ${formatBytes(this.#bytes)} in ${formatTime(ms)}`;
      parts.push(`${formatBytes(this.#bytes * 1000 / ms)}/s`);
    }
    if (this.#skipped > 0) parts.push(`${this.#skipped} skipped`);
    if (this.#failed > 0) parts.push(`${this.#failed} failed`);
    return parts.join(", ");
  }
}

/** A failure that was told already, and ends the command. */
export class Told extends Error {
  constructor(cause: Error) {
    super(cause.message, { cause });
  }
}

/**
 * Runs a command that reports object by object.
 * @param verb "stored", for the summary; null: none is printed
 */
export function reportedCommand(
  json: boolean,
  verb: string | null,
  work: (report: StoreReport, signal: AbortSignal) => Promise<void>,
): ReturnType<Command["run"]> {
  return interruptible(false, async (signal) => {
    const report = new StoreReport(json);
    let told = false;
    try {
      await work(report, signal);
    } catch (error) {
      if (!(error instanceof Told)) {
        report.summary("");
        throw error;
      }
      told = true;
    }
    const summary = report.summary(verb ?? "");
    if (verb !== null && !json) await printAndWait(fitted(summary));
    return !told && report.failed === 0;
  }, "what was done before stays");
}
