// SPDX-License-Identifier: Apache-2.0
//
// The pool, the files and the worker that the transfer benchmark works on, and how one sample of one
// contender is taken: memory and caches put into a known state, the requests timed, all CPU counted,
// every byte compared, files removed.

import { closeSync, openSync, readSync, rmSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { keyToFileName, ShmFileConnector, ShmSegment } from "../../src/mod.ts";
import type { CProgram } from "./support/c_program.ts";
import { cpuTimeMs } from "./support/cpu_clock.ts";
import { fillRandom, mustEqual } from "./support/data.ts";
import type { Contender } from "./support/interleave.ts";
import { dropFromCache, residentShare, syncFileSystem } from "./support/page_cache.ts";
import type { Sample } from "./support/results.ts";
import { type ReadWay, readWays, type Slot, type WriteWay, writeWays } from "./transfer_ways.ts";

/** How many requests are under way at a time; each sample measures each. */
export const IN_FLIGHT = [1, 4] as const;
const GB = 1e9;
const C_PROGRAM = "C program";

/** What one sample moves: so many chunks of so many bytes, each with its file. */
export interface Batch {
  readonly chunkBytes: number;
  readonly count: number;
}

/** What moving a batch cost until the answer to its last request; all in milliseconds. */
interface Cost {
  readonly wallMs: number;
  /** CPU of the process that runs JavaScript; null for the C program, which needs none. */
  readonly scriptMs: number | null;
  /** CPU of the worker, or of the C program. */
  readonly otherMs: number;
}

/** Moves a batch, so many requests at a time. Readers put where the bytes are into `got`. */
type Mover = (lanes: number, got: Uint8Array[]) => Promise<Cost>;

export class TransferSession {
  readonly #segment: ShmSegment;
  readonly #connector: ShmFileConnector;
  readonly #program: CProgram | null;
  readonly #directory: string;
  /** A copy of what the pool holds, to compare with. */
  readonly #wanted: Uint8Array;

  private constructor(
    segment: ShmSegment,
    connector: ShmFileConnector,
    program: CProgram | null,
    directory: string,
  ) {
    this.#segment = segment;
    this.#connector = connector;
    this.#program = program;
    this.#directory = directory;
    this.#wanted = new Uint8Array(segment.sizeBytes);
    fillRandom(this.#wanted, 1);
  }

  /**
   * @param program the yardstick, plain_io; null where it could not be built
   * @param directory where the files go
   */
  static async open(
    poolBytes: number,
    program: CProgram | null,
    directory: string,
  ): Promise<TransferSession> {
    const name = `lmshm-bench-${process.pid}-pool`;
    const segment = await ShmSegment.create({ sizeBytes: poolBytes, name });
    try {
      const connector = await ShmFileConnector.open({ segment, storageDir: directory });
      return new TransferSession(segment, connector, program, directory);
    } catch (error) {
      await segment.free();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#connector.close();
    await this.#segment.free();
  }

  // --- contenders

  writers(batch: Batch): Contender[] {
    const slots = this.#slots(batch);
    const put: WriteWay = {
      name: "ShmFileConnector.put",
      note: "whole or not at all",
      write: ({ key, range }) => this.#connector.put(key, range),
    };
    const contenders = [put, ...writeWays()].map(({ name, note, write }) =>
      this.#writer(name, note, slots, (lanes) => this.#timed(() => inLanes(slots, lanes, write)))
    );
    const program = this.#program;
    if (program) {
      const note = "no worker, no runtime; fallocate, pwrite, rename; a thread for each in flight";
      const run: Mover = (lanes) => this.#runProgram(program, "write", slots, lanes);
      contenders.push(this.#writer(C_PROGRAM, note, slots, run));
    }
    return contenders;
  }

  /** @param cold the files are thrown out of the page cache before each sample */
  readers(batch: Batch, cold: boolean): Contender[] {
    const slots = this.#slots(batch);
    const get: ReadWay = {
      name: "ShmFileConnector.get",
      note: "into the pool",
      read: async ({ key, range, bytes }) => {
        const found = await this.#connector.get(key, range);
        if (found === null) throw new Error(`${key} is missing`);
        return bytes.subarray(0, found.byteLength);
      },
    };
    const contenders = [get, ...readWays()].map(({ name, note, read }) =>
      this.#reader(
        name,
        note,
        slots,
        cold,
        (lanes, got) =>
          this.#timed(() =>
            inLanes(slots, lanes, async (slot) => {
              got[slot.index] = await read(slot);
            })
          ),
      )
    );
    const program = this.#program;
    if (program) {
      const note = "no worker, no runtime; pread into the pool; a thread for each in flight";
      contenders.push(this.#reader(C_PROGRAM, note, slots, cold, async (lanes, got) => {
        const cost = await this.#runProgram(program, "read", slots, lanes);
        for (const { index, bytes } of slots) got[index] = bytes;
        return cost;
      }));
    }
    return contenders;
  }

  #writer(name: string, note: string, slots: readonly Slot[], move: Mover): Contender {
    const sample = async () => {
      const measured: Record<string, number> = {};
      for (const lanes of IN_FLIGHT) {
        for (const { bytes, wanted } of slots) bytes.set(wanted);
        this.#removeFiles(slots);
        const cost = await move(lanes, []);
        const syncStarted = performance.now();
        syncFileSystem(this.#directory);
        const durableMs = cost.wallMs + performance.now() - syncStarted;
        Object.assign(measured, measures(cost, lanes, slots));
        measured[`durable${lanes}`] = totalBytes(slots) / 1e3 / durableMs;
        checkFiles(name, slots);
      }
      this.#removeFiles(slots);
      return measured;
    };
    return { name, note, sample };
  }

  #reader(
    name: string,
    note: string,
    slots: readonly Slot[],
    cold: boolean,
    move: Mover,
  ): Contender {
    const paths = slots.map(({ path }) => path);
    const sample = async () => {
      const measured: Record<string, number> = {};
      for (const lanes of IN_FLIGHT) {
        for (const { bytes } of slots) bytes.fill(0);
        if (cold) {
          dropFromCache(paths);
          measured[`resident${lanes}`] = residentShare(paths);
        }
        const got: Uint8Array[] = [];
        const cost = await move(lanes, got);
        Object.assign(measured, measures(cost, lanes, slots));
        for (const { index, wanted } of slots) mustEqual(`${name} ${index}`, got[index]!, wanted);
      }
      return measured;
    };
    return { name, note, sample };
  }

  // --- files

  /** Writes the files that the readers read; they are on disk then. */
  async makeFiles(batch: Batch): Promise<void> {
    for (const { key, range, bytes, wanted } of this.#slots(batch)) {
      bytes.set(wanted);
      await this.#connector.put(key, range);
    }
    syncFileSystem(this.#directory);
  }

  removeFiles(batch: Batch): void {
    this.#removeFiles(this.#slots(batch));
  }

  /** Removed for good: freeing the blocks of large files slows what comes next. */
  #removeFiles(slots: readonly Slot[]): void {
    for (const { path } of slots) rmSync(path, { force: true });
    syncFileSystem(this.#directory);
  }

  #slots({ chunkBytes, count }: Batch): Slot[] {
    return Array.from({ length: count }, (_, index) => {
      const key = `bench/${chunkBytes}/${index}`;
      const offset = index * chunkBytes;
      return {
        index,
        key,
        path: join(this.#directory, keyToFileName(key)),
        range: this.#segment.range(offset, chunkBytes),
        bytes: this.#segment.bytes(offset, chunkBytes),
        wanted: this.#wanted.subarray(offset, offset + chunkBytes),
      };
    });
  }

  // --- clocks

  async #timed(work: () => Promise<void>): Promise<Cost> {
    const { workerPid } = this.#connector;
    if (workerPid === null) throw new Error("the worker is gone");
    const workerBefore = cpuTimeMs(workerPid);
    const scriptBefore = cpuTimeMs(process.pid);
    const started = performance.now();
    await work();
    return {
      wallMs: performance.now() - started,
      scriptMs: cpuTimeMs(process.pid) - scriptBefore,
      otherMs: cpuTimeMs(workerPid) - workerBefore,
    };
  }

  async #runProgram(
    program: CProgram,
    direction: "write" | "read",
    slots: readonly Slot[],
    threads: number,
  ): Promise<Cost> {
    const chunkBytes = slots[0]!.range.byteLength;
    const args = [direction, this.#segment.name!, String(chunkBytes), String(threads)];
    const got = await program.run(args, slots.map(({ path }) => `${path}\n`).join(""));
    return { wallMs: got.wallNs! / 1e6, scriptMs: null, otherMs: got.cpuNs! / 1e6 };
  }
}

function totalBytes(slots: readonly Slot[]): number {
  return slots.reduce((sum, { range }) => sum + range.byteLength, 0);
}

function checkFiles(name: string, slots: readonly Slot[]): void {
  // One byte more than there should be, to see a file that is too long.
  const scratch = new Uint8Array(Math.max(...slots.map(({ wanted }) => wanted.length)) + 1);
  for (const { index, path, wanted } of slots) {
    const fd = openSync(path, "r");
    let length = 0;
    try {
      for (let n = -1; n !== 0 && length < scratch.length;) {
        n = readSync(fd, scratch, length, scratch.length - length, length);
        length += n;
      }
    } finally {
      closeSync(fd);
    }
    mustEqual(`${name}, file ${index}`, scratch.subarray(0, length), wanted);
  }
}

/** Runs `work` on every slot, so many at a time. */
async function inLanes(
  slots: readonly Slot[],
  lanes: number,
  work: (slot: Slot) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lane = async () => {
    while (next < slots.length) await work(slots[next++]!);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

/** MB/s, requests a second, CPU seconds a GB and CPU microseconds a request; keys end in `lanes`. */
function measures({ wallMs, scriptMs, otherMs }: Cost, lanes: number, slots: readonly Slot[]) {
  const bytes = totalBytes(slots);
  const requests = slots.length;
  const perGb = (ms: number) => ms / 1e3 / (bytes / GB);
  const perCall = (ms: number) => ms * 1e3 / requests;
  const allMs = (scriptMs ?? 0) + otherMs;
  const measured: Record<string, number> = {
    [`rate${lanes}`]: bytes / 1e3 / wallMs,
    [`ops${lanes}`]: requests * 1e3 / wallMs,
    [`other${lanes}`]: perGb(otherMs),
    [`cpu${lanes}`]: perGb(allMs),
    [`callCpu${lanes}`]: perCall(allMs),
  };
  if (scriptMs !== null) {
    measured[`script${lanes}`] = perGb(scriptMs);
    measured[`callScript${lanes}`] = perCall(scriptMs);
  }
  return measured satisfies Sample;
}
