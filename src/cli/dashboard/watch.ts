// SPDX-License-Identifier: Apache-2.0
//
// Asks a worker once a second, whether anybody looks or not, and keeps what it says.

import { setTimeout as pause } from "node:timers/promises";
import { ShmError, type WorkerInfo } from "../../mod.ts";
import type { Reading } from "../top/rates.ts";
import { Track, withBothVersions } from "./history.ts";

const FINE_MS = 1_000;
const FINE_ROWS = 900;
const COARSE_MS = 15_000;
const COARSE_ROWS = 1_440;

/** How the worker is, as the page shows it. */
export interface WorkerState {
  /** Null: it has not been asked yet. */
  readonly up: boolean | null;
  /** Since when it is so, in milliseconds since 1970. */
  readonly sinceMs: number;
  /** Why it does not answer; null: it does. */
  readonly error: string | null;
  /** How often it was started anew while it was watched. */
  readonly restarts: number;
  /** When it was asked what it has not answered yet; null: it has. */
  readonly askedMs: number | null;
  /** Words of INFO that do not change from second to second; null: it never answered. */
  readonly facts: Readonly<Record<string, unknown>> | null;
}

const FACTS = ["worker", "io", "sync", "direct", "fs", "engine", "threads", "maxBytes"] as const;

/** See the head of this file. */
export class WorkerWatch {
  readonly fine = new Track(FINE_MS, FINE_ROWS);
  readonly coarse = new Track(COARSE_MS, COARSE_ROWS);
  readonly #ask: () => Promise<WorkerInfo>;
  #state: WorkerState = {
    up: null,
    sinceMs: Date.now(),
    error: null,
    restarts: 0,
    askedMs: null,
    facts: null,
  };
  #uptimeMs = 0;
  #nextCoarse = 0;

  /** @param ofDirectory a directory was named, so that its numbers mean something. */
  constructor(ask: () => Promise<WorkerInfo>, ofDirectory: boolean) {
    this.#ask = async () => {
      const info = await ask();
      return ofDirectory ? info : { ...info, dirUsedBytes: undefined };
    };
  }

  get state(): WorkerState {
    return this.#state;
  }

  /**
   * Asks until the signal aborts.
   * @param told is called with each failure that is another than the one before.
   */
  async run(signal: AbortSignal, told: (message: string) => void): Promise<void> {
    let lastTold = "";
    while (!signal.aborted) {
      const began = performance.now();
      const error = await this.#look();
      if (signal.aborted) return;
      const code = error === null ? "" : error instanceof ShmError ? error.code : error.name;
      if (error !== null && code !== lastTold) told(error.message);
      lastTold = code;
      const left = FINE_MS - (performance.now() - began) % FINE_MS;
      await pause(left, undefined, { signal }).catch(() => {});
    }
  }

  async #look(): Promise<Error | null> {
    this.#state = { ...this.#state, askedMs: Date.now() };
    const askedMs = performance.now();
    try {
      const info = withBothVersions(await this.#ask());
      this.#keep({ info, askedMs, answeredMs: performance.now() });
      const uptimeMs = info.uptimeMs ?? 0;
      const restarted = uptimeMs < this.#uptimeMs ? 1 : 0;
      this.#uptimeMs = uptimeMs;
      this.#become(true, null, {
        restarts: this.#state.restarts + restarted,
        facts: Object.fromEntries(FACTS.map((name) => [name, info[name] ?? null])),
      });
      return null;
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      this.#keep(null);
      this.#become(false, error.message);
      return error;
    }
  }

  #become(up: boolean, error: string | null, more: Partial<WorkerState> = {}): void {
    const sinceMs = this.#state.up === up ? this.#state.sinceMs : Date.now();
    this.#state = { ...this.#state, ...more, up, error, sinceMs, askedMs: null };
  }

  #keep(reading: Reading | null): void {
    const atMs = Date.now();
    this.fine.add(atMs, reading);
    if (performance.now() < this.#nextCoarse) return;
    this.#nextCoarse = performance.now() + COARSE_MS - FINE_MS / 2;
    this.coarse.add(atMs, reading);
  }
}
