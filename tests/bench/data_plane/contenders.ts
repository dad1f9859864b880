// SPDX-License-Identifier: Apache-2.0
//
// Everybody who takes part in moving objects, opened for one directory. What this machine or this
// version does not have is left out, and told.

import {
  ShmFileConnector,
  type ShmFileConnectorOptions,
  type ShmSegment,
} from "../../../src/mod.ts";
import { version1Worker } from "../../support/version1_worker.ts";
import { TempDir } from "../../support/worker.ts";
import { CProgram } from "../support/c_program.ts";
import { FioMover, fioVersion } from "./fio.ts";
import { ConnectorMover, ProgramMover } from "./movers.ts";

/** A way to open a connector. */
interface Variant {
  readonly name: string;
  readonly note: string;
  readonly options: Partial<ShmFileConnectorOptions>;
}

export const VERSION_1 = "ours, version 1";
export const OURS = "ours";
export const OURS_CACHED = "ours, cached";
export const OURS_DIRECT = "ours, direct";
export const OURS_UNCHECKED = "ours, cached, no checksum";
export const OURS_DIRECT_UNCHECKED = "ours, direct, no checksum";
export const OURS_OPENING = "ours, nothing stays open";

const VARIANTS: readonly Variant[] = [
  { name: VERSION_1, note: "the same worker, protocol version 1", options: {} },
  { name: OURS, note: "the defaults: version 2, auto, checksums", options: {} },
  {
    name: OURS_CACHED,
    note: "through the page cache",
    options: { ioMode: "cached" },
  },
  {
    name: OURS_DIRECT,
    note: "past the page cache",
    options: { ioMode: "direct" },
  },
  {
    name: OURS_UNCHECKED,
    note: "no CRC-32C",
    options: { ioMode: "cached", checksum: false },
  },
  {
    name: OURS_DIRECT_UNCHECKED,
    note: "no CRC-32C",
    options: { ioMode: "direct", checksum: false },
  },
  {
    name: OURS_OPENING,
    note: "the worker's --keep-open 0: each object is opened for each get",
    options: { workerArgs: ["--keep-open", "0"] },
  },
];

/** This project's connectors, each with a worker of its own, by the variant's name. */
export class Connectors implements AsyncDisposable {
  readonly #movers: ReadonlyMap<string, ConnectorMover>;
  /** What could not be opened, and why. */
  readonly notes: readonly string[];

  private constructor(movers: ReadonlyMap<string, ConnectorMover>, notes: readonly string[]) {
    this.#movers = movers;
    this.notes = notes;
  }

  /** @param wanted names of variants; all of them when absent */
  static async open(
    segment: ShmSegment,
    storageDir: string,
    wanted?: readonly string[],
  ): Promise<Connectors> {
    const movers = new Map<string, ConnectorMover>();
    const notes: string[] = [];
    using scripts = new TempDir();
    const workerBinary = version1Worker(scripts);
    try {
      for (const { name, note, options } of VARIANTS) {
        if (wanted && !wanted.includes(name)) continue;
        try {
          const connector = await ShmFileConnector.open({
            ...{ segment, storageDir, ...options },
            ...(name === VERSION_1 ? { workerBinary } : {}),
          });
          movers.set(name, new ConnectorMover(name, note, connector));
        } catch (error) {
          notes.push(`${name} does not take part: ${(error as Error).message}`);
        }
      }
      return new Connectors(movers, notes);
    } catch (error) {
      await closeAll(movers);
      throw error;
    }
  }

  /** Those of the names that could be opened. */
  of(...names: readonly string[]): ConnectorMover[] {
    return names.flatMap((name) => this.#movers.get(name) ?? []);
  }

  /** Makes the objects that others read: with all that this version stores beside them. */
  get maker(): ConnectorMover {
    const [found] = this.of(OURS, OURS_CACHED, VERSION_1);
    if (found === undefined) throw new Error(`no connector at all: ${this.notes.join("; ")}`);
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await closeAll(this.#movers);
  }
}

async function closeAll(movers: ReadonlyMap<string, ConnectorMover>): Promise<void> {
  await Promise.all([...movers.values()].map(({ connector }) => connector.close()));
}

export const C_CACHED = "C, cached";
export const C_DIRECT = "C, direct";
export const C_WORKER_CALLS = "C, the worker's system calls";
export const FIO = ["fio, cached", "fio, direct"] as const;

/** The yardsticks, by name; a name that is not there cannot run here, which `notes` tells. */
export class Yardsticks {
  readonly notes: readonly string[];
  readonly #movers = new Map<string, ProgramMover | FioMover>();

  constructor(segment: ShmSegment) {
    const notes: string[] = [];
    this.notes = notes;
    try {
      const program = CProgram.build("data_plane");
      const add = (name: string, note: string, ...words: readonly string[]) =>
        this.#movers.set(name, new ProgramMover(name, note, program, segment, words));
      add(C_CACHED, "a thread for each under way; puts reserve, write and rename");
      add(C_DIRECT, "the same with O_DIRECT", "direct");
      add(C_WORKER_CALLS, "an attribute, O_TMPFILE, linkat; no checksum", "worker");
    } catch (error) {
      notes.push((error as Error).message);
    }
    const fio = fioVersion();
    if (fio === null) notes.push("fio is not installed, so it does not take part.");
    else {for (const direct of [false, true]) {
        this.#movers.set(FIO[direct ? 1 : 0], new FioMover(fio, direct));
      }}
  }

  of(...names: readonly string[]): (ProgramMover | FioMover)[] {
    return names.flatMap((name) => this.#movers.get(name) ?? []);
  }
}
