// SPDX-License-Identifier: Apache-2.0
//
// Who moves objects between pool and files: this project's connectors, the C program, fio, and what
// the runtime offers. Each moves the same slots and tells what it cost until the last answer.

import process from "node:process";
import type { ShmFileConnector, ShmSegment } from "../../../src/mod.ts";
import type { CProgram } from "../support/c_program.ts";
import { cpuTimeMs } from "../support/cpu_clock.ts";
import type { Slot } from "./arena.ts";
import type { ReadWay, WriteWay } from "./ways.ts";

/**
 * How many objects are under way at a time; or calls of BATCH_OBJECTS each: one after the other
 * ("batch"), or BATCHES of them ("batches").
 */
export type Lanes = number | "batch" | "batches";

export const BATCH_OBJECTS = 256;
export const BATCHES = 4;

/** What it cost until the answer to the last request; milliseconds. */
export interface Cost {
  readonly wallMs: number;
  /** CPU of the process that runs JavaScript; null where none is needed. */
  readonly scriptMs: number | null;
  /** CPU of all other processes that take part. */
  readonly otherMs: number;
}

export interface Mover {
  readonly name: string;
  readonly note: string;
  /** It is this project's. */
  readonly ours: boolean;
  /** False: it writes bytes of its own, or reads into memory of its own. Then nothing is compared. */
  readonly verifiable: boolean;
  /** Its put ends when the bytes are on the disk, not before. */
  readonly putsOnDisk?: boolean;
  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost>;
  /** Puts where the bytes are into `got`, by the slot's index. */
  get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost>;
}

/** Runs `work` on every item, so many at a time. */
export async function inLanes<T>(
  items: readonly T[],
  lanes: number,
  work: (item: T) => Promise<unknown>,
): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < items.length) await work(items[next++]!);
  };
  await Promise.all(Array.from({ length: Math.min(lanes, items.length) }, lane));
}

function batchesOf(slots: readonly Slot[]): Slot[][] {
  const count = Math.ceil(slots.length / BATCH_OBJECTS);
  return Array.from(
    { length: count },
    (_, i) => slots.slice(i * BATCH_OBJECTS, (i + 1) * BATCH_OBJECTS),
  );
}

/** @param others processes whose CPU time counts, besides this one */
export async function timed(others: readonly number[], work: () => Promise<void>): Promise<Cost> {
  const otherTime = () => others.reduce((sum, pid) => sum + cpuTimeMs(pid), 0);
  const otherBefore = otherTime();
  const scriptBefore = cpuTimeMs(process.pid);
  const started = performance.now();
  await work();
  return {
    wallMs: performance.now() - started,
    scriptMs: cpuTimeMs(process.pid) - scriptBefore,
    otherMs: otherTime() - otherBefore,
  };
}

/** A connector and the worker that it started. */
export class ConnectorMover implements Mover {
  readonly ours = true;
  readonly verifiable = true;
  readonly name: string;
  readonly note: string;
  readonly connector: ShmFileConnector;

  constructor(name: string, note: string, connector: ShmFileConnector) {
    this.name = name;
    this.note = note;
    this.connector = connector;
  }

  #timed(work: () => Promise<void>): Promise<Cost> {
    const { workerPid } = this.connector;
    if (workerPid === null) throw new Error(`${this.name}: the worker is gone`);
    return timed([workerPid], work);
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    const { connector } = this;
    return this.#timed(async () => {
      if (typeof lanes === "number") {
        await inLanes(slots, lanes, ({ key, range }) => connector.put(key, range));
        return;
      }
      await inLanes(
        batchesOf(slots),
        lanes === "batch" ? 1 : BATCHES,
        (some) => connector.batchedPut(some.map(({ key }) => key), some.map(({ range }) => range)),
      );
    });
  }

  get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost> {
    const { connector } = this;
    const found = ({ index, key, bytes }: Slot, byteLength: number | undefined) => {
      if (byteLength === undefined) throw new Error(`${this.name}: ${key} is missing`);
      got[index] = byteLength === bytes.length ? bytes : bytes.subarray(0, byteLength);
    };
    return this.#timed(async () => {
      if (typeof lanes === "number") {
        await inLanes(slots, lanes, async (slot) => {
          found(slot, (await connector.get(slot.key, slot.range))?.byteLength);
        });
        return;
      }
      await inLanes(batchesOf(slots), lanes === "batch" ? 1 : BATCHES, async (some) => {
        const keys = some.map(({ key }) => key);
        const ranges = await connector.batchedGet(keys, some.map(({ range }) => range));
        some.forEach((slot, i) => found(slot, ranges[i]?.byteLength));
      });
    });
  }
}

/** The C program: a thread for each lane. */
export class ProgramMover implements Mover {
  readonly ours = false;
  readonly verifiable = true;
  readonly name: string;
  readonly note: string;
  readonly #program: CProgram;
  readonly #segment: ShmSegment;
  readonly #words: readonly string[];

  /** @param words of data_plane.c */
  constructor(
    name: string,
    note: string,
    program: CProgram,
    segment: ShmSegment,
    words: readonly string[],
  ) {
    this.name = name;
    this.note = note;
    this.#program = program;
    this.#segment = segment;
    this.#words = words;
  }

  async #run(operation: "put" | "get", slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    const first = slots[0]!;
    const objectBytes = String(first.range.byteLength);
    const args = [operation, this.#segment.name!, objectBytes, String(lanes), ...this.#words];
    const files = slots.map(({ index, fileName }) => `${index} ${fileName}`);
    const { wallNs, cpuNs } = await this.#program.run(args, [first.directory, ...files].join("\n"));
    return { wallMs: wallNs! / 1e6, scriptMs: null, otherMs: cpuNs! / 1e6 };
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    return this.#run("put", slots, lanes);
  }

  async get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost> {
    const cost = await this.#run("get", slots, lanes);
    for (const { index, bytes } of slots) got[index] = bytes;
    return cost;
  }
}

/** A way of the runtime's. */
export class WayMover implements Mover {
  readonly ours = false;
  readonly verifiable = true;
  readonly name: string;
  readonly note: string;
  readonly #way: WriteWay | ReadWay;

  constructor(way: WriteWay | ReadWay) {
    this.name = way.name;
    this.note = way.note;
    this.#way = way;
  }

  put(slots: readonly Slot[], lanes: Lanes): Promise<Cost> {
    const { write } = this.#way as WriteWay;
    return timed([], () => inLanes(slots, numberOf(lanes), write));
  }

  get(slots: readonly Slot[], lanes: Lanes, got: Uint8Array[]): Promise<Cost> {
    const { read } = this.#way as ReadWay;
    return timed([], () =>
      inLanes(slots, numberOf(lanes), async (slot) => {
        got[slot.index] = await read(slot);
      }));
  }
}

export function numberOf(lanes: Lanes): number {
  if (typeof lanes !== "number") throw new Error("this way has no batches");
  return lanes;
}
