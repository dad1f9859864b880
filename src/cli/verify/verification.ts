// SPDX-License-Identifier: Apache-2.0
//
// The steps of a verification: chunks into the pool, through the connector into files, and back,
// with hashes compared after each way. It measures and counts; it prints nothing.

import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import {
  CacheEngineKey,
  keyToFileName,
  ShmError,
  type ShmFileConnector,
  type ShmRange,
  type ShmSegment,
} from "../../mod.ts";
import { inLanes } from "../lanes.ts";
import type { Chunk } from "./chunk_source.ts";

/** Where each chunk begins in the pool. */
export const ALIGN_BYTES = 4096;

/** What was measured of one step, over all rounds. */
export interface Step {
  readonly name: string;
  milliseconds: number;
  bytes: number;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const part of createReadStream(path, { highWaterMark: 4 * 2 ** 20 })) {
    hash.update(part);
  }
  return hash.digest("hex");
}

interface VerificationOptions {
  readonly segment: ShmSegment;
  readonly connector: ShmFileConnector;
  /** Where the files can be read behind the connector's back; null: nowhere. */
  readonly storageDir: string | null;
  /** Requests at a time. */
  readonly inFlight: number;
  readonly signal: AbortSignal;
  /** Called as bytes pass a step; the sum over all steps. */
  readonly onBytes: (step: string, doneBytes: number) => void;
  /** Called when a step of a round has ended. */
  readonly onStep: (step: Step) => void;
}

/** One verification: the connector, the pool, and the books of what was measured. */
export class Verification {
  readonly mismatches: string[] = [];
  readonly steps: Step[] = [];
  readonly #options: VerificationOptions;
  #doneBytes = 0;
  readonly #run = randomBytes(6).toString("hex");

  /** What the objects are there. */
  get #place(): string {
    return this.#options.connector.store === null ? "files" : "objects";
  }

  constructor(options: VerificationOptions) {
    this.#options = options;
  }

  /** All steps for as many chunks as the pool holds. `first` is the index of the first chunk. */
  async round(chunks: readonly Chunk[], first: number): Promise<void> {
    const slots: ShmRange[] = [];
    let offset = 0;
    for (const { byteLength } of chunks) {
      slots.push(this.#options.segment.range(offset, byteLength));
      offset += Math.ceil(byteLength / ALIGN_BYTES) * ALIGN_BYTES;
    }
    const bytes = (index: number) => {
      const { offset, byteLength } = slots[index]!;
      return this.#options.segment.bytes(offset, byteLength);
    };
    const keys = chunks.map((_, index) =>
      new CacheEngineKey({
        model: "lmshm/verify",
        worldSize: 1,
        workerId: 0,
        chunkHash: BigInt(`0x${this.#run}`) * 2n ** 16n + BigInt(first + index),
        dtype: "bfloat16",
      })
    );
    const hashes: string[] = [];

    await this.#step("fill and hash the memory", chunks, 1, async ({ fill }, index) => {
      await fill(bytes(index));
      hashes[index] = sha256(bytes(index));
    });
    try {
      await this.#step(
        `put: memory to ${this.#place}`,
        chunks,
        this.#options.inFlight,
        async (_, index) => {
          await this.#options.connector.put(keys[index]!, slots[index]!, {
            signal: this.#options.signal,
          });
        },
      );
      const directory = this.#options.storageDir;
      if (directory !== null) {
        await this.#step("read and hash the files", chunks, 2, async ({ label }, index) => {
          const path = join(directory, keyToFileName(keys[index]!));
          const hash = await sha256OfFile(path);
          if (hash !== hashes[index]) this.mismatches.push(`${label}: the file ${path} differs`);
        });
      }
      await this.#step("wipe the memory", chunks, 1, (_, index) => {
        bytes(index).fill(0xee);
        return Promise.resolve();
      });
      await this.#step(
        `get: ${this.#place} to memory`,
        chunks,
        this.#options.inFlight,
        async ({ label }, index) => {
          const options = { signal: this.#options.signal };
          const got = await this.#options.connector.get(keys[index]!, slots[index]!, options);
          if (got?.byteLength !== slots[index]!.byteLength) {
            this.mismatches.push(
              `${label}: ${got ? `${got.byteLength} bytes` : "nothing"} came back`,
            );
          }
        },
      );
      await this.#step("hash and compare the memory", chunks, 1, ({ label }, index) => {
        if (sha256(bytes(index)) !== hashes[index]) {
          this.mismatches.push(`${label}: the memory differs after loading`);
        }
        return Promise.resolve();
      });
    } catch (error) {
      // What failed first is what is wrong: a store that is gone refuses this, too.
      await this.#removeAll(keys).catch(() => {});
      throw error;
    }
    await this.#removeAll(keys);
  }

  /** Once more where the worker died meanwhile: nobody else's object has such a key. */
  async #remove(key: CacheEngineKey): Promise<void> {
    for (let left = 2;; left--) {
      try {
        await this.#options.connector.remove(key);
        return;
      } catch (error) {
        const died = error instanceof ShmError && error.code === "EWORKER";
        if (!died || left === 0) throw error;
      }
    }
  }

  async #removeAll(keys: readonly CacheEngineKey[]): Promise<void> {
    // A worker of version 1 cannot, where its directory is not here.
    const { connector, storageDir } = this.#options;
    if (connector.protocol !== 2 && storageDir === null) return;
    const started = performance.now();
    for (const key of keys) await this.#remove(key);
    this.#account(`remove the ${this.#place}`, performance.now() - started, 0);
  }

  async #step(
    name: string,
    chunks: readonly Chunk[],
    limit: number,
    work: (chunk: Chunk, index: number) => Promise<void>,
  ): Promise<void> {
    const started = performance.now();
    let bytes = 0;
    await inLanes(chunks, limit, async (chunk, index) => {
      this.#options.signal.throwIfAborted();
      await work(chunk, index);
      bytes += chunk.byteLength;
      this.#doneBytes += chunk.byteLength;
      this.#options.onBytes(name, this.#doneBytes);
      // Lets the bar be drawn and Ctrl-C be heard between chunks.
      await new Promise((resolve) => setTimeout(resolve, 0));
    });
    this.#account(name, performance.now() - started, bytes);
  }

  #account(name: string, milliseconds: number, bytes: number): void {
    let step = this.steps.find((one) => one.name === name);
    if (!step) this.steps.push(step = { name, milliseconds: 0, bytes: 0 });
    step.milliseconds += milliseconds;
    step.bytes += bytes;
    this.#options.onStep(step);
  }
}

/** Consecutive chunks that fit into the pool together. */
export function rounds(chunks: readonly Chunk[], poolBytes: number): Chunk[][] {
  const all: Chunk[][] = [];
  let round: Chunk[] = [];
  let used = 0;
  for (const chunk of chunks) {
    const needs = Math.ceil(chunk.byteLength / ALIGN_BYTES) * ALIGN_BYTES;
    if (round.length > 0 && used + needs > poolBytes) {
      all.push(round);
      round = [];
      used = 0;
    }
    round.push(chunk);
    used += needs;
  }
  if (round.length > 0) all.push(round);
  return all;
}
