// SPDX-License-Identifier: Apache-2.0
//
// client_program.ts ADDRESS ROOT: one of several clients of one worker, a process of its own with a
// segment of its own. A line on stdin, "WHAT MILLISECONDS", is work for so long; the answer is one
// JSON object. Ends with its stdin. Every object that was got is compared when the time is over.

import console from "node:console";
import process from "node:process";
import { createInterface } from "node:readline";
import { ShmFileConnector, type ShmRange, ShmSegment } from "../../../src/mod.ts";
import { fillRandom, mustEqual } from "../support/data.ts";

/** What a client can be asked for. */
export const CLIENT_WORK = ["get 4 KiB", "put 4 KiB", "get 33.5 MB", "put 33.5 MB"] as const;
export type ClientWork = (typeof CLIENT_WORK)[number];

/** What it answers. */
export interface ClientAnswer {
  readonly objects: number;
  readonly bytes: number;
  readonly wallMs: number;
}

const SMALL = { bytes: 4096, count: 256, lanes: 64 };
const LARGE = { bytes: 33_554_432, count: 2, lanes: 2 };

interface Item {
  readonly key: string;
  readonly range: ShmRange;
  readonly bytes: Uint8Array;
  readonly wanted: Uint8Array;
}

class Client {
  readonly #connector: ShmFileConnector;
  readonly #items: Readonly<Record<"small" | "large", readonly Item[]>>;
  #serial = 0;

  constructor(connector: ShmFileConnector) {
    this.#connector = connector;
    const { segment } = connector;
    const wanted = new Uint8Array(segment.sizeBytes);
    fillRandom(wanted, process.pid);
    segment.bytes(0, wanted.length).set(wanted);
    const items = ({ bytes, count }: typeof SMALL, first: number): Item[] =>
      Array.from({ length: count }, (_, i) => {
        const offset = first + i * bytes;
        return {
          key: `client/${process.pid}/${bytes}/${i}`,
          range: segment.range(offset, bytes),
          bytes: segment.bytes(offset, bytes),
          wanted: wanted.subarray(offset, offset + bytes),
        };
      });
    const large = items(LARGE, 0);
    this.#items = { large, small: items(SMALL, LARGE.count * LARGE.bytes) };
  }

  /** Stores what is got later. */
  async prepare(): Promise<void> {
    const { small, large } = this.#items;
    for (const { key, range } of [...small, ...large]) await this.#connector.put(key, range);
  }

  async work(what: string, milliseconds: number): Promise<ClientAnswer> {
    const small = what.endsWith("4 KiB");
    const getting = what.startsWith("get");
    const { bytes, lanes } = small ? SMALL : LARGE;
    const items = this.#items[small ? "small" : "large"];
    if (getting) { for (const item of items) item.bytes.fill(0); }
    const started = performance.now();
    const end = started + milliseconds;
    let objects = 0;
    const lane = async (first: number) => {
      for (let i = first; performance.now() < end; i = (i + lanes) % items.length) {
        await (getting ? this.#get(items[i]!) : this.#put(items[i]!, small));
        objects++;
      }
    };
    await Promise.all(Array.from({ length: lanes }, (_, i) => lane(i)));
    const wallMs = performance.now() - started;
    if (getting && objects >= items.length) {
      for (const { key, bytes, wanted } of items) mustEqual(key, bytes, wanted);
    } else {
      for (const { bytes, wanted } of items) bytes.set(wanted);
    }
    return { objects, bytes: objects * bytes, wallMs };
  }

  async #get({ key, range }: Item): Promise<void> {
    if (await this.#connector.get(key, range) === null) throw new Error(`${key} is missing`);
  }

  /** Small objects are new ones each time: see arena.ts. Large ones are replaced. */
  #put({ key, range }: Item, small: boolean): Promise<unknown> {
    return this.#connector.put(small ? `${key}/${this.#serial++}` : key, range);
  }
}

async function main([workerAddress = "", storageDir = ""]: readonly string[]): Promise<void> {
  // Ctrl-C reaches all of a terminal's processes. The segment goes by its exit hook.
  for (const [signal, number] of [["SIGINT", 2], ["SIGTERM", 15], ["SIGHUP", 1]] as const) {
    process.once(signal, () => process.exit(128 + number));
  }
  const sizeBytes = LARGE.count * LARGE.bytes + SMALL.count * SMALL.bytes;
  const name = `lmshm-bench-${process.pid}-client`;
  await using segment = await ShmSegment.create({ sizeBytes, name });
  await using connector = await ShmFileConnector.open({ segment, storageDir, workerAddress });
  const client = new Client(connector);
  await client.prepare();
  console.log("ready");
  const lines = createInterface({ input: process.stdin });
  let working = false;
  // Nobody waits for an answer any more, and the worker may be gone.
  lines.on("close", () => {
    if (working) process.exit(0);
  });
  for await (const line of lines) {
    const at = line.lastIndexOf(" ");
    working = true;
    console.log(JSON.stringify(await client.work(line.slice(0, at), Number(line.slice(at + 1)))));
    working = false;
  }
}

if (import.meta.main) await main(process.argv.slice(2));
