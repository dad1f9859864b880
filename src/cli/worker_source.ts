// SPDX-License-Identifier: Apache-2.0
//
// A running worker that is asked again and again what it counts, and that may be away now and then:
// for the commands that watch one.

import type { WorkerInfo } from "../mod.ts";
import { UsageError } from "./command.ts";
import { checkAddress, parseStore, type StoreAddress } from "./store/address.ts";
import { StoreSession } from "./store/session.ts";

/** Prometheus gives up after ten seconds, if nothing else is said. */
const ANSWER_MS = 5_000;

/** A running worker; null `directory`: only it was named. @throws {UsageError} */
export function parseWorker(
  text: string | undefined,
): { store: StoreAddress; directory: string | null } {
  if (text === undefined) throw new UsageError("WORKER is missing: an address, or DIR@ADDRESS");
  const store = parseStore(text);
  if (store.workerAddress !== undefined) {
    return { store, directory: text.startsWith("@") ? null : store.storageDir };
  }
  checkAddress(text);
  return { store: { text, storageDir: ".", workerAddress: text }, directory: null };
}

/** Connects when it is first asked, and again when that has failed. */
export class WorkerSource implements AsyncDisposable {
  readonly #store: StoreAddress;
  readonly #secretFile: string | undefined;
  readonly #signal: AbortSignal;
  #session: Promise<StoreSession> | null = null;

  constructor(store: StoreAddress, secretFile: string | undefined, signal: AbortSignal) {
    this.#store = store;
    this.#secretFile = secretFile;
    this.#signal = signal;
  }

  /** What it says now. @throws {ShmError} while it is away, or cannot tell. */
  async info(): Promise<WorkerInfo> {
    this.#session ??= StoreSession.open([this.#store], {
      secretFile: this.#secretFile,
      attempts: 1,
      signal: this.#signal,
    });
    let session: StoreSession;
    try {
      session = await this.#session;
    } catch (error) {
      this.#session = null;
      throw error;
    }
    return await session.ask[0]!.info({ timeoutMs: ANSWER_MS, signal: this.#signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = await this.#session?.catch(() => null);
    await session?.[Symbol.asyncDispose]();
  }
}
