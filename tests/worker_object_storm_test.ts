// SPDX-License-Identifier: Apache-2.0
//
// ClientV2 in a storm: a worker that answers in any order, refuses at random, breaks the
// protocol and drops connections, and callers who give up at random. Whatever happens, every caller
// gets one answer, its own, and memory is let go once, and never while a worker may still use it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ShmError } from "../src/errors.ts";
import { LONG } from "./support/effort.ts";
import { asked, isTransfer, openObjectClient, willing } from "./support/object_worker.ts";
import { type Peer, ScriptedWorker, TempDir, withoutWorkers } from "./support/worker.ts";

/** Numbers from 0 to 1 that are the same in every run. */
function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** What a connection has been asked and has not answered: the keys of each line, by id. */
type Open = Map<number, readonly string[]>;

/** Which turns are bad for sure, and how: see StormyWorker.#act(). */
const SURE = new Map([[100, 0], [200, 0.002]]);

class StormyWorker {
  readonly open = new Map<Peer, Open>();
  readonly #random: () => number;
  /** From then on it behaves. */
  calm = false;
  #acts = 0;

  constructor(random: () => number) {
    this.#random = random;
  }

  /** Whether some connection may still touch the object's memory. */
  mayTouch(key: string): boolean {
    for (const open of this.open.values()) {
      for (const keys of open.values()) if (keys.includes(key)) return true;
    }
    return false;
  }

  readonly script = (line: string, peer: Peer): string => {
    if (!this.open.has(peer)) this.#meet(peer);
    const open = this.open.get(peer)!;
    const request = asked(line);
    if (request.verb === "CANCEL") {
      const id = Number(request.text);
      const found = open.has(id);
      if (found && this.#random() < 0.7) this.#answer(peer, id, "ERROR ECANCELED stopped");
      return `${request.id} OK ${found ? 1 : 0}`;
    }
    if (!isTransfer(line)) return willing(line);
    open.set(request.id, request.objects.map((words) => words[0]!));
    setTimeout(() => this.#act(peer, line), this.#random() * 8);
    return "";
  };

  #meet(peer: Peer): void {
    this.open.set(peer, new Map());
    peer.socket.on("end", () => this.open.delete(peer));
    peer.socket.on("close", () => this.open.delete(peer));
  }

  #answer(peer: Peer, id: number, text: string): void {
    if (!this.open.get(peer)?.delete(id)) return;
    peer.send(`${id} ${text}\n`);
  }

  #act(peer: Peer, line: string): void {
    const { id, objects } = asked(line);
    // By chance, and some for sure.
    const sure = SURE.get(++this.#acts) ?? 1;
    const chance = this.calm ? 1 : Math.min(this.#random(), sure);
    if (chance < 0.002) {
      this.open.delete(peer);
      peer.socket.destroy();
    } else if (chance < 0.004) {
      // Not believed after that; what it has it may still use until it closes.
      if (this.open.get(peer)?.has(id)) peer.send(`${id} OK nonsense\n`);
    } else if (chance < 0.05) {
      this.#answer(peer, id, "ERROR EIO a bad day");
    } else {
      const items = objects.map((words) => this.#item(words, objects.length > 1));
      if (items.length > 1 || !items[0]!.startsWith("-")) {
        this.#answer(peer, id, `OK ${items.join(" ; ")}`);
      } else {
        this.#answer(peer, id, `ERROR ${items[0]!.slice(1)} as told`);
      }
    }
  }

  #item(words: readonly string[], batch: boolean): string {
    const chance = this.calm ? 1 : this.#random();
    if (chance < 0.05) return "-ENOENT";
    if (chance < 0.08) return "-ENOSPC";
    if (chance < 0.12 && batch) return "-EOVERFLOW";
    // Its own number says whose answer it is.
    return `${words[2]} key=x a=${words[0]}`;
  }
}

for (const seed of LONG ? [1, 2, 3] : [1]) {
  test(`every caller gets its answer, and memory is never let go too early (${seed})`, {
    timeout: 120_000,
  }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      const random = randomNumbers(seed);
      const stormy = new StormyWorker(random);
      await using worker = await ScriptedWorker.listen(dir, stormy.script);
      const client = await openObjectClient(worker.path, {
        limits: {
          maxInFlight: 12,
          maxInFlightBytes: 8 << 20,
          restarts: { max: 10_000, windowMs: 60_000, pauseMs: 0 },
        },
      });
      const tally = { right: 0, missed: 0, refused: 0, gaveUp: 0, lost: 0 };
      const releases = new Map<string, number>();
      const early: string[] = [];

      const call = async (name: string): Promise<void> => {
        const byteLength = random() < 0.1 ? (1 << 20) + 5 : Math.floor(random() * 100);
        const patience = random();
        const abort = new AbortController();
        if (patience < 0.1) setTimeout(() => abort.abort(new Error("gave up")), random() * 10);
        const transfer = {
          key: name,
          offset: 0,
          byteLength,
          priority: (["high", "normal", "low"] as const)[Math.floor(random() * 3)]!,
          release: () => {
            releases.set(name, (releases.get(name) ?? 0) + 1);
            if (stormy.mayTouch(name)) early.push(name);
          },
          ...(patience < 0.2 ? { signal: abort.signal } : {}),
          ...(patience > 0.95 ? { timeoutMs: 5 } : {}),
        };
        try {
          const isPut = random() < 0.5;
          const stored = isPut ? await client.put(transfer) : await client.get(transfer);
          if (stored === null) {
            tally.missed++;
            return;
          }
          assert.equal(stored.byteLength, byteLength);
          assert.equal(stored.attributes["a"], name);
          tally.right++;
        } catch (error) {
          if (error instanceof ShmError) {
            const { code } = error;
            if (["ENOENT", "ENOSPC", "EIO"].includes(code)) tally.refused++;
            else if (code === "ETIMEDOUT") tally.gaveUp++;
            else if (["EPROTO", "ECONNRESET", "ECANCELED"].includes(code)) tally.lost++;
            else throw error;
          } else if ((error as Error).message === "gave up") {
            tally.gaveUp++;
          } else {
            throw error;
          }
        }
      };

      const names: string[] = [];
      const lane = async (lane: number): Promise<void> => {
        for (let index = 0; index < 60; index++) {
          const name = `k${lane}-${index}`;
          names.push(name);
          await call(name);
        }
      };
      await Promise.all(Array.from({ length: 50 }, (_, index) => lane(index)));
      stormy.calm = true;
      await call("last");
      names.push("last");
      await client.close();

      const sum = Object.values(tally).reduce((total, one) => total + one, 0);
      assert.equal(sum, names.length, JSON.stringify(tally));
      assert.ok(tally.right > names.length / 2, JSON.stringify(tally));
      assert.ok(tally.gaveUp > 0 && tally.refused > 0 && worker.connections > 2);
      assert.deepEqual(early, [], "let go while a worker had it");
      assert.deepEqual(names.filter((name) => releases.get(name) !== 1), [], "let go once");
      assert.equal(client.outstanding, 0);
    }));
}
