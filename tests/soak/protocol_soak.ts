// SPDX-License-Identifier: Apache-2.0
//
// Raw clients that do everything a client can do to lmshm-worker, and look at every byte they get.
//
// Several connections, over the Unix socket and TCP, in both versions of the protocol, with segments
// of their own or shared ones, keep many requests in flight on few keys: puts, gets, batches,
// removals, listings, cancels, requests with ids that are in use, bad lines, half lines, sudden ends,
// segments that are cut or unlinked under way, files that are replaced or damaged from outside, and
// the worker killed. Values say their key and version in every byte. Then:
//
// - what a get delivers is one whole version of that key, and all that was read of a key agrees with
//   some order in time (support/value_history.ts);
// - no other byte of a segment has changed, ever (support/shadowed_segment.ts);
// - each request has one answer, and listings have each key that does not change once;
// - the worker lives, and keeps neither memory nor descriptors.
//
// It goes in rounds; after each, all is still, and everything is looked at.
// tests/protocol_soak_test.ts runs a few. Many, by hand:
//
//     bun run tests/soak/protocol_soak.ts --minutes 10 --seed 1

import { Buffer } from "node:buffer";
import console from "node:console";
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { keyFile } from "../../src/keys/key_file.ts";
import { attachFirst, attachWords, authenticate } from "../support/dialect.ts";
import { LineSocket, PATIENCE_MS } from "../support/line_socket.ts";
import { RawClient } from "../support/raw_client.ts";
import { RawWorker, type Way } from "../support/raw_worker.ts";
import { type Room, ShadowedSegment } from "../support/shadowed_segment.ts";
import { ValueHistory, type Write } from "../support/value_history.ts";
import {
  crc32c,
  Dice,
  makeValue,
  MIN_VALUE_BYTES,
  versionOf,
} from "../support/versioned_values.ts";

const PAGE = 4096;
const MIB = 2 ** 20;
const SEGMENT_BYTES = 12 * MIB;
const MAX_VALUE_BYTES = 3 * MIB;
const KEPT_OPEN = 32;
/** A file that was changed within two seconds is not kept open. */
const SETTLED_MS = 2_100;
/** Operations that a report shows. */
const REMEMBERED = 60;
/** Answers that are looked at for their checksum, of large values: so few. */
const LARGE_BYTES = 64 * 1024;

export interface ProtocolSoakOptions {
  readonly seed: number;
  /** Ends after this many rounds, or minutes. */
  readonly rounds?: number | undefined;
  readonly minutes?: number | undefined;
  readonly operationsPerRound: number;
  readonly lanes: number;
  /** Below it the directory of the worker is made, and removed. */
  readonly directory: string;
  readonly onRound?: ((report: ProtocolSoakReport) => void) | undefined;
}

export interface ProtocolSoakReport {
  readonly seed: number;
  readonly rounds: number;
  readonly seconds: number;
  /** How often what happened: "get hit", "put", "cancelled" and so on. */
  readonly counts: Readonly<Record<string, number>>;
  /** Whether the file system keeps what a damaged object is told by. */
  readonly hasAttributes: boolean;
  readonly workerOwnBytes: number;
  readonly workerDescriptors: number;
}

/** What happens to a key. */
type Kind = "plain" | "long" | "damaged" | "stable";

interface TestKey {
  readonly number: number;
  readonly text: string;
  readonly word: string;
  readonly fileName: string;
  readonly kind: Kind;
  readonly history: ValueHistory;
  /** Since the last round its file was changed in place. */
  spoilt: boolean;
}

/** A request that is not answered. */
interface Pending {
  readonly what: string;
  answered(line: string, at: number): void;
  /** There will be no answer: the connection is gone, and the worker may still be at it. */
  lost(): void;
}

class Violation extends Error {}

/** What all lanes share. */
class World {
  readonly dice: Dice;
  readonly worker: RawWorker;
  readonly counts: Record<string, number> = {};
  readonly keys: readonly TestKey[];
  readonly changing: readonly TestKey[];
  readonly stable: readonly TestKey[];
  readonly byText = new Map<string, TestKey>();
  readonly segments: ShadowedSegment[] = [];
  /** Whether the file system keeps what tells a damaged file. */
  hasAttributes = false;
  operationsLeft = 0;
  failure: unknown = null;
  /** Resolves with the first failure. */
  readonly failed: Promise<void>;
  #onFailure: () => void = () => {};
  #clock = 0;
  #version = 0;
  readonly #lately: string[] = [];

  constructor(seed: number, worker: RawWorker) {
    this.dice = new Dice(seed);
    this.worker = worker;
    this.failed = new Promise((resolve) => this.#onFailure = resolve);
    const key = (number: number, kind: Kind): TestKey => {
      const name = `soak/${kind}@${number}`;
      // Two ways to be stored under a hash: too long for a name, and not coming back from one.
      const isLong = kind === "long" || (kind === "stable" && number % 3 === 0);
      const text = !isLong ? name : number % 2 === 0 ? name.padEnd(300, "x") : `${name}-SEP-`;
      const word = encodeURIComponent(text);
      const { fileName } = keyFile(text);
      return { number, text, word, fileName, kind, history: new ValueHistory(text), spoilt: false };
    };
    const kinds: Kind[] = [
      ...Array(8).fill("plain"),
      ...Array(4).fill("long"),
      ...Array(3).fill("damaged"),
      ...Array(15).fill("stable"),
    ];
    this.keys = kinds.map((kind, number) => key(number, kind));
    this.changing = this.keys.filter(({ kind }) => kind !== "stable");
    this.stable = this.keys.filter(({ kind }) => kind === "stable");
    for (const one of this.keys) this.byText.set(one.text, one);
  }

  now(): number {
    return ++this.#clock;
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  nextVersion(): number {
    return ++this.#version;
  }

  remember(event: string): void {
    const text = event.replace(/x{200,}/g, "x...");
    this.#lately.push(text.length > 300 ? `${text.slice(0, 300)}... (${text.length})` : text);
    if (this.#lately.length > REMEMBERED) this.#lately.shift();
  }

  /** Something is not as it must be. The run ends with the first of them. */
  fail(what: string, key?: TestKey): void {
    if (this.failure !== null) return;
    const about = key === undefined ? "" : `\n${key.text.slice(0, 60)}: ${key.history.describe()}`;
    this.failure = new Violation(`${what}${about}\nlately:\n${this.#lately.join("\n")}`);
    this.#onFailure();
  }

  check(fault: string | null, where: string, key?: TestKey): void {
    if (fault !== null) this.fail(`${where}: ${fault}`, key);
  }

  get ending(): boolean {
    return this.failure !== null || this.operationsLeft <= 0;
  }

  newSegment(): ShadowedSegment {
    const segment = new ShadowedSegment(SEGMENT_BYTES);
    this.segments.push(segment);
    return segment;
  }

  /** A length of every size that matters. */
  someLength(): number {
    const { dice } = this;
    const chance = dice.below(100);
    if (chance < 2) return 0;
    if (chance < 60) return dice.between(MIN_VALUE_BYTES, PAGE);
    if (chance < 75) return dice.between(1, 8) * PAGE + dice.between(-1, 1);
    if (chance < 92) return dice.between(PAGE, 160 * 1024);
    if (chance < 98) return MIB + dice.between(-2, 2);
    return dice.between(MIB, MAX_VALUE_BYTES);
  }
}

/** As another program does it that knows how to replace a file. */
function replaceFile(world: World, key: TestKey, byteLength: number): void {
  const version = world.nextVersion();
  const temporary = join(world.worker.root, ".outside.tmp");
  writeFileSync(temporary, makeValue(key.number, version, byteLength));
  const write = key.history.put(version, byteLength, world.now());
  renameSync(temporary, join(world.worker.root, key.fileName));
  write.answeredAt = world.now();
  world.count("replaced from outside");
}

/** One connection after the other, and what is in flight on it. */
class Lane {
  readonly #world: World;
  readonly #number: number;
  #socket: LineSocket | null = null;
  #generation = 0;
  #connections = 0;
  #version: 1 | 2 = 2;
  #base = 0n;
  #segment: ShadowedSegment;
  #out = "";
  #nextId = 1;
  /** Version 2: by id. Version 1: in their order. */
  readonly #pending = new Map<number, Pending>();
  /** Ids that a second request has, too. */
  readonly #doubled = new Set<number>();
  /** What answers of id 0 must look like. */
  readonly #nameless: RegExp[] = [];
  #wake: (() => void) | null = null;
  /** What this side did to end the connection. */
  #leaving = false;
  #listing: { seen: string[]; cursor: string; prefix: string } | null = null;
  #listingInFlight = false;

  constructor(world: World, number: number) {
    this.#world = world;
    this.#number = number;
    this.#segment = world.newSegment();
  }

  get #busy(): boolean {
    return this.#pending.size + this.#doubled.size + this.#nameless.length > 0 || this.#out !== "";
  }

  /** Works until the round is over, then until all is answered. */
  async round(): Promise<void> {
    const world = this.#world;
    const { dice } = world;
    while (!world.ending) {
      if (this.#socket === null) {
        await this.#connect();
        continue;
      }
      const most = dice.chance(0.1) ? 200 : dice.chance(0.5) ? 24 : 4;
      for (let burst = dice.between(1, 12); burst > 0 && this.#pending.size < most; burst--) {
        if (this.#socket === null || world.ending) break;
        world.operationsLeft--;
        this.#version === 2 ? this.#act() : this.#actFirst();
      }
      this.#flush(dice.chance(0.2));
      if (dice.chance(0.02)) await this.#leave();
      else if (this.#pending.size >= most) await this.#somethingArrives();
      else await turn();
    }
    await this.#drain();
  }

  /** Ends in order. */
  async close(): Promise<void> {
    await this.#drain();
    const socket = this.#socket;
    if (socket === null) return;
    this.#leaving = true;
    socket.finish();
    await this.#closing(socket);
  }

  uses(segment: ShadowedSegment): boolean {
    return this.#segment === segment;
  }

  get connected(): boolean {
    return this.#socket !== null;
  }

  // The connection.

  async #connect(): Promise<void> {
    const world = this.#world;
    const { dice, worker } = world;
    if (worker.down) {
      world.check(worker.fault, "the worker");
      await sleep(2);
      return;
    }
    const { generation } = worker;
    // The first lanes begin with one each of what there is.
    const first = this.#connections++ === 0;
    const way: Way = (first ? this.#number % 2 === 0 : dice.chance(0.6)) ? "unix" : "tcp";
    this.#version = (first ? this.#number % 4 < 2 : dice.chance(0.7)) ? 2 : 1;
    // Its own, that of another lane, or a new one.
    if (dice.chance(0.2)) this.#segment = dice.pick(world.segments);
    if (!this.#segment.attachable) this.#segment = world.newSegment();
    const segment = this.#segment;
    let socket: LineSocket | null = null;
    try {
      socket = await LineSocket.connect(worker.address(way));
      if (way === "tcp") await authenticate(socket.ask, worker.secret);
      if (this.#version === 2) {
        const hello = await socket.ask("HELLO 2");
        if (!hello.startsWith("OK 2 boot=")) throw new Error(`HELLO 2: ${hello}`);
        const attached = await socket.ask(
          `1 ${attachWords(segment.name, segment.sizeBytes, segment.fd)}`,
        );
        if (attached !== "1 OK") throw new Error(`ATTACH: ${attached}`);
        this.#nextId = 2;
      } else {
        this.#base = BigInt(dice.below(2 ** 30)) * 4096n;
        const { name, sizeBytes } = segment;
        const attached = await attachFirst(socket.ask, name, sizeBytes, this.#base);
        if (attached !== "OK") throw new Error(`ATTACH: ${attached}`);
      }
    } catch (error) {
      socket?.destroy();
      // Another lane may have taken the name away meanwhile.
      if (!worker.down && worker.generation === generation && segment.attachable) {
        world.fail(`lane ${this.#number} could not begin over ${way}: ${error}`);
      }
      await sleep(2);
      return;
    }
    if (socket.isClosed) return;
    this.#socket = socket;
    this.#generation = generation;
    this.#leaving = false;
    const connected = socket;
    socket.onLine = (line) => this.#arrived(line);
    void socket.closed.then(() => this.#ended(connected));
    world.count(`connected ${way} ${this.#version}`);
  }

  #ended(socket: LineSocket): void {
    if (this.#socket !== socket) return;
    const world = this.#world;
    const killed = world.worker.down || world.worker.generation !== this.#generation;
    if (!this.#leaving && !killed) {
      world.fail(`lane ${this.#number}: the worker closed the connection`);
    }
    if (!killed && this.#busy && socket.ended) {
      const [first] = this.#pending.values();
      world.fail(
        `lane ${this.#number}: the connection ended in order, without answers: ${first?.what}`,
      );
    }
    this.#dropped();
  }

  /** The connection is no more. */
  #dropped(): void {
    this.#socket = null;
    this.#out = "";
    for (const one of this.#pending.values()) one.lost();
    this.#pending.clear();
    this.#doubled.clear();
    this.#nameless.length = 0;
    this.#listingInFlight = false;
    this.#awake();
  }

  async #leave(): Promise<void> {
    const world = this.#world;
    const { dice } = world;
    const socket = this.#socket;
    if (socket === null) return;
    const way = dice.weighted({ quit: 1, finish: 2, half: 2, destroy: 2, cut: 1, unlink: 1 });
    world.remember(`lane ${this.#number}: ${way}`);
    world.count(`leave by ${way}`);
    if (way === "cut" || way === "unlink") {
      this.#spoilSegment(way);
      return;
    }
    this.#flush(false);
    this.#leaving = true;
    if (way === "destroy") {
      socket.destroy();
      this.#dropped();
      return;
    }
    if (way === "quit") {
      const id = this.#nextId++;
      const line = this.#version === 2 ? `${id} QUIT` : "QUIT";
      this.#pending.set(id, {
        what: line,
        answered: (text) => {
          world.check(text === "OK" ? null : text, line);
          world.check(this.#pending.size === 0 ? null : "before other answers", line);
        },
        lost: () => {},
      });
      socket.send(`${line}\n`);
    } else {
      // What has no line feed is not carried out: neither this removal nor this put.
      if (way === "half") {
        const key = dice.pick(world.stable);
        const half = dice.chance(0.5)
          ? `REMOVE ${key.word}`
          : this.#version === 2
          ? `PUT ${key.word} 4096 100`
          : `WRITE ${key.fileName} ${this.#base + 4096n} 100`;
        socket.send(this.#version === 2 ? `${this.#nextId++} ${half}` : half);
        if (dice.chance(0.5)) {
          await turn();
          socket.destroy();
          this.#dropped();
          return;
        }
      }
      socket.finish();
    }
    await this.#closing(socket);
  }

  async #closing(socket: LineSocket): Promise<void> {
    const world = this.#world;
    const timer = setTimeout(() => {
      world.fail(`lane ${this.#number}: the worker does not end the connection`);
    }, PATIENCE_MS);
    await Promise.race([socket.closed, world.failed]);
    clearTimeout(timer);
    if (this.#socket === socket) this.#ended(socket);
  }

  /** Requests in flight feel it, and new ones in what is gone fail. Then another is attached. */
  #spoilSegment(how: "cut" | "unlink"): void {
    const world = this.#world;
    const { dice } = world;
    const segment = this.#segment;
    segment.unlink();
    if (how === "cut") {
      segment.cut(dice.below(segment.cutAt / PAGE + 1) * PAGE);
      // Nobody else begins anything with it.
      return;
    }
    if (this.#version === 2) {
      this.#simple(attachWords(segment.name, segment.sizeBytes, null), /^ERROR ENOENT /);
    }
  }

  #flush(split: boolean): void {
    const socket = this.#socket;
    if (socket === null || this.#out === "") return;
    const length = split ? this.#world.dice.below(this.#out.length + 1) : this.#out.length;
    socket.send(this.#out.slice(0, length));
    this.#out = this.#out.slice(length);
  }

  async #drain(): Promise<void> {
    const world = this.#world;
    this.#flush(false);
    while (this.#socket !== null && this.#busy && world.failure === null) {
      await this.#somethingArrives();
      this.#flush(false);
    }
  }

  #awake(): void {
    this.#wake?.();
    this.#wake = null;
  }

  async #somethingArrives(): Promise<void> {
    const world = this.#world;
    if (this.#socket === null || !this.#busy) return;
    this.#flush(false);
    const arrives = new Promise<void>((resolve) => this.#wake = resolve);
    const timer = setTimeout(() => {
      const [first] = this.#pending.values();
      world.fail(`lane ${this.#number}: no answer for ${PATIENCE_MS} ms, ${first?.what}`);
    }, PATIENCE_MS);
    await Promise.race([arrives, world.failed]);
    clearTimeout(timer);
  }

  #arrived(line: string): void {
    const world = this.#world;
    const at = world.now();
    try {
      this.#take(line, at);
    } catch (error) {
      world.fail(`lane ${this.#number}: ${line.slice(0, 200)}: ${error}`);
    }
    this.#awake();
  }

  #take(line: string, at: number): void {
    const world = this.#world;
    world.remember(`${at} lane ${this.#number} <- ${line}`);
    if (this.#version === 1) {
      const [first] = this.#pending;
      if (first === undefined) return world.fail(`an answer to nothing: ${line}`);
      this.#pending.delete(first[0]);
      first[1].answered(line, at);
      return;
    }
    const words = /^(\d+) ((?:OK|ERROR)(?: .*)?)$/.exec(line);
    if (words === null) return world.fail(`no answer: ${line}`);
    const id = Number(words[1]);
    const text = words[2]!;
    const doubled = /^ERROR EEXIST request id (\d+) /.exec(text);
    if (id === 0 && doubled !== null && this.#doubled.delete(Number(doubled[1]))) {
      world.count("id in use");
      return;
    }
    if (id === 0) {
      const found = this.#nameless.findIndex((pattern) => pattern.test(text));
      if (found < 0) return world.fail(`an answer to nothing: ${line}`);
      this.#nameless.splice(found, 1);
      return;
    }
    const pending = this.#pending.get(id);
    if (pending !== undefined) {
      this.#pending.delete(id);
      pending.answered(text, at);
    } else if (!this.#doubled.delete(id) || !text.startsWith("OK boot=")) {
      world.fail(`an answer to nothing: ${line}`);
    }
  }

  #ask(text: string, pending: Omit<Pending, "what">): number {
    const id = this.#nextId++;
    const line = this.#version === 2 ? `${id} ${text}` : text;
    this.#world.remember(`lane ${this.#number} -> ${line}`);
    this.#pending.set(id, { what: line.slice(0, 200), ...pending });
    this.#out += `${line}\n`;
    return id;
  }

  /** A request that is answered by something that looks like this. */
  #simple(text: string, pattern: RegExp): void {
    this.#ask(text, {
      answered: (answer) => {
        if (pattern.test(answer) || answer.startsWith("ERROR ECANCELED ")) return;
        this.#world.fail(`${text.slice(0, 200)}: ${answer}`);
      },
      lost: () => {},
    });
  }

  // What is asked for, in version 2.

  #act(): void {
    const world = this.#world;
    const { dice } = world;
    const kind = dice.weighted({
      put: 25,
      get: 35,
      putMany: 4,
      getMany: 7,
      look: 10,
      remove: 5,
      list: 4,
      cancel: 4,
      bad: 4,
      double: 1,
      ping: 1,
      outside: 3,
    });
    switch (kind) {
      case "put":
        return this.#put(1);
      case "get":
        return this.#get(1);
      case "putMany":
        return this.#put(dice.between(2, 12));
      case "getMany":
        return this.#get(dice.between(2, 20));
      case "look":
        return this.#look();
      case "remove":
        return this.#remove();
      case "list":
        return this.#list();
      case "cancel":
        return this.#cancel();
      case "bad":
        return this.#bad();
      case "double": {
        const id = dice.pick([...this.#pending.keys(), 0]);
        if (id === 0 || this.#doubled.has(id)) return;
        this.#doubled.add(id);
        this.#out += `${id} PING\n`;
        return;
      }
      case "ping":
        return dice.chance(0.5)
          ? this.#simple("PING", /^OK boot=/)
          : this.#simple("INFO", /^OK (?=.* queued=\d)(?=.* running=\d)/);
      case "outside":
        return this.#outside();
    }
  }

  #room(byteLength: number): { segment: ShadowedSegment; room: Room; offset: number } | null {
    const segment = this.#segment;
    const shift = this.#world.dice.chance(0.5) ? 0 : this.#world.dice.below(64);
    const room = segment.take(byteLength + shift);
    return room === null ? null : { segment, room, offset: room.offset + shift };
  }

  #options(isPut: boolean, first: boolean, key: TestKey): string {
    const { dice } = this.#world;
    let words = "";
    if (first && dice.chance(0.3)) words += ` prio=${dice.pick(["high", "normal", "low"])}`;
    if (dice.chance(0.2)) words += ` io=${dice.pick(["auto", "direct", "cached"])}`;
    if (isPut && dice.chance(0.02)) words += ` sync=${dice.pick(["data", "full"])}`;
    const unchecked = key.kind !== "damaged" && dice.chance(0.1);
    if (unchecked) words += isPut ? " crc=0" : " verify=0";
    return words;
  }

  #put(count: number): void {
    const world = this.#world;
    const sentAt = world.now();
    const items: {
      key: TestKey;
      write: Write;
      segment: ShadowedSegment;
      room: Room;
      value: Buffer;
      end: number;
      gone: boolean;
    }[] = [];
    let line = "";
    for (let left = count; left > 0; left--) {
      const key = world.dice.pick(world.changing);
      const byteLength = world.someLength();
      const place = this.#room(byteLength);
      if (place === null) break;
      const { segment, room, offset } = place;
      const version = world.nextVersion();
      const value = makeValue(key.number, version, byteLength);
      segment.write(offset, value);
      const write = key.history.put(version, byteLength, sentAt);
      const gone = byteLength > 0 && offset + byteLength > segment.cutAt;
      items.push({ key, write, segment, room, value, end: offset + byteLength, gone });
      const options = this.#options(true, items.length === 1, key);
      line += `${
        line === "" ? "" : " ; "
      }${key.word} ${offset} ${byteLength} v=${version}${options}`;
    }
    if (items.length === 0) return;
    const settle = (item: typeof items[0], text: string, at: number) => {
      const { key, write, segment, room, value, end, gone } = item;
      segment.give(room);
      const ok = /^(\d+)(?: crc32c=([0-9a-f]{8}))?$/.exec(text);
      if (ok !== null) {
        world.count("put");
        write.answeredAt = at;
        const crc = ok[2];
        if (Number(ok[1]) !== value.length) world.fail(`put ${key.text}: ${text}`);
        if (gone) world.fail(`put ${key.text}: OK, though its memory is gone`);
        if (crc !== undefined && this.#worthSumming(value) && crc !== crc32c(value)) {
          world.fail(`put ${key.text}: crc32c=${crc} of ${crc32c(value)}`, key);
        }
        return;
      }
      write.failed = true;
      const code = /^(?:-|ERROR )(E[A-Z0-9]+)/.exec(text)?.[1];
      world.count(`put ${code}`);
      if (code === "ECANCELED" || (code === "EFAULT" && end > segment.cutAt)) return;
      world.fail(`put ${key.text}: ${text}`, key);
    };
    this.#ask(`PUT ${line}`, {
      answered: (answer, at) => this.#each(answer, items, (item, text) => settle(item, text, at)),
      lost: () => {
        for (const { segment, room } of items) segment.giveLater(room);
      },
    });
  }

  #worthSumming(value: Uint8Array): boolean {
    return value.length <= LARGE_BYTES || this.#world.dice.chance(0.05);
  }

  /** Calls `take` for each item of a batch's answer, or for the only one. */
  #each<T>(answer: string, items: readonly T[], take: (item: T, text: string) => void): void {
    if (!answer.startsWith("OK ")) {
      for (const item of items) take(item, answer);
      return;
    }
    const texts = answer.slice(3).split(" ; ");
    if (texts.length !== items.length) {
      this.#world.fail(`${texts.length} items in the answer, of ${items.length}: ${answer}`);
      return;
    }
    items.forEach((item, index) => take(item, texts[index]!));
  }

  #get(count: number): void {
    const world = this.#world;
    const { dice } = world;
    const sentAt = world.now();
    const items: {
      key: TestKey;
      segment: ShadowedSegment;
      room: Room;
      offset: number;
      capacity: number;
      gone: boolean;
    }[] = [];
    let line = "";
    for (let left = count; left > 0; left--) {
      const key = dice.pick(dice.chance(0.8) ? world.changing : world.stable);
      // Room for most, or for all, or for some.
      const capacity = dice.chance(0.5)
        ? 2 * MIB
        : dice.chance(0.8)
        ? MAX_VALUE_BYTES
        : world.someLength();
      const place = this.#room(count > 1 ? Math.min(capacity, 160 * 1024) : capacity);
      if (place === null) break;
      const { segment, room, offset } = place;
      const space = count > 1 ? Math.min(capacity, 160 * 1024) : capacity;
      // So that bytes which nobody writes are noticed.
      segment.write(room.offset, Buffer.alloc(room.byteLength, dice.below(256)));
      const gone = offset + space > segment.cutAt;
      items.push({ key, segment, room, offset, capacity: space, gone });
      const options = this.#options(false, items.length === 1, key);
      line += `${line === "" ? "" : " ; "}${key.word} ${offset} ${space}${options}`;
    }
    if (items.length === 0) return;
    this.#ask(`GET ${line}`, {
      answered: (answer, at) =>
        this.#each(answer, items, (item, text) => this.#got(item, text, sentAt, at)),
      lost: () => {
        for (const { segment, room } of items) segment.giveLater(room);
      },
    });
  }

  #got(
    item: {
      key: TestKey;
      segment: ShadowedSegment;
      room: Room;
      offset: number;
      capacity: number;
    },
    text: string,
    sentAt: number,
    at: number,
  ): void {
    const world = this.#world;
    const { key, segment, room, offset, capacity } = item;
    const ok = /^(?:OK )?(\d+)((?: [a-z0-9_]+=[^ ]*)*)$/.exec(text);
    const code = /^(?:-|ERROR )(E[A-Z0-9]+)/.exec(text)?.[1];
    if (ok !== null) {
      const byteLength = Number(ok[1]);
      const attributes = Object.fromEntries(
        ok[2]!.split(" ").slice(1).map((word) => word.split("=") as [string, string]),
      );
      this.#delivered(key, segment, offset, capacity, byteLength, attributes, sentAt, at);
    } else if (code === "ENOENT") {
      world.count("miss");
      key.history.missed(sentAt, at);
    } else if (code === "EMSGSIZE") {
      world.count("too long");
      const byteLength = Number(/(\d+)(?: |%20)bytes/.exec(text)?.[1]);
      if (!(byteLength > capacity)) world.fail(`get ${key.text} of ${capacity}: ${text}`, key);
      if (!key.spoilt) key.history.present(sentAt, at, byteLength);
    } else {
      // The bytes are undefined, the others are not.
      segment.accept(offset, capacity);
      world.count(`get ${code}`);
      const expected = code === "ECANCELED" ||
        (code === "EBADMSG" && key.spoilt) ||
        (code === "EFAULT" && offset + capacity > segment.cutAt);
      if (!expected) world.fail(`get ${key.text}: ${text}`, key);
    }
    const fault = segment.fault(room.offset - PAGE, room.byteLength + 2 * PAGE);
    world.check(fault, `get ${key.text.slice(0, 60)} ${offset} ${capacity}: ${text}`, key);
    segment.give(room);
  }

  /** Bytes came: whose are they? */
  #delivered(
    key: TestKey,
    segment: ShadowedSegment,
    offset: number,
    capacity: number,
    byteLength: number,
    attributes: Readonly<Record<string, string>>,
    sentAt: number,
    at: number,
  ): void {
    const world = this.#world;
    const where = `get ${key.text.slice(0, 60)} ${offset} ${capacity}`;
    if (byteLength > capacity) return world.fail(`${where}: ${byteLength} bytes`, key);
    if (offset + byteLength > segment.cutAt) {
      // Cut since; what there was cannot be seen any more.
      segment.accept(offset, capacity);
      return;
    }
    world.count("hit");
    if (byteLength === 0) return key.history.present(sentAt, at, 0);
    const bytes = segment.read(offset, byteLength);
    segment.accept(offset, byteLength);
    const version = versionOf(key.number, bytes);
    if (typeof version === "string") return world.fail(`${where}: ${version}`, key);
    world.check(key.history.saw(version, byteLength, sentAt, at), where, key);
    const { v, crc32c: crc } = attributes;
    if (v !== undefined && Number(v) !== version) {
      world.fail(`${where}: the attributes of version ${v}, the bytes of ${version}`, key);
    }
    if (crc !== undefined && this.#worthSumming(bytes) && crc !== crc32c(bytes)) {
      world.fail(`${where}: crc32c=${crc} of ${crc32c(bytes)}`, key);
    }
  }

  #look(): void {
    const world = this.#world;
    const { dice } = world;
    const sentAt = world.now();
    const lost = () => {};
    const how = dice.weighted({ exists: 2, contains: 1, stat: 2 });
    if (how === "stat") {
      const key = dice.pick(world.keys);
      this.#ask(`STAT ${key.word}`, {
        answered: (answer, at) => {
          const ok = /^OK (\d+) mtime_ms=\d+ disk=\d+/.exec(answer);
          if (ok !== null && !key.spoilt) key.history.present(sentAt, at, Number(ok[1]));
          else if (answer.startsWith("ERROR ENOENT ")) key.history.missed(sentAt, at);
          else if (ok === null && !/^ERROR ECANCELED/.test(answer)) {
            const expected = key.spoilt && answer.startsWith("ERROR EBADMSG ");
            if (!expected) world.fail(`STAT ${key.text}: ${answer}`, key);
          }
        },
        lost,
      });
      return;
    }
    const keys = Array.from({ length: dice.between(1, 8) }, () => dice.pick(world.keys));
    const words = keys.map(({ word }) => word).join(" ");
    this.#ask(`${how === "exists" ? "EXISTS" : "CONTAINS"} ${words}`, {
      answered: (answer, at) => {
        if (answer.startsWith("ERROR ECANCELED")) return;
        const digits = /^OK (\d+)$/.exec(answer)?.[1];
        if (digits === undefined) return world.fail(`${how} ${words}: ${answer}`);
        const there = how === "exists"
          ? [...digits].map((digit) => digit === "1")
          : keys.map((_, index) => index < Number(digits)).slice(0, Number(digits) + 1);
        if (how === "exists" && there.length !== keys.length) world.fail(`EXISTS: ${answer}`);
        there.forEach((is, index) => {
          if (is) keys[index]!.history.present(sentAt, at);
          else keys[index]!.history.missed(sentAt, at);
        });
      },
      lost,
    });
  }

  #remove(): void {
    const world = this.#world;
    const { dice } = world;
    const sentAt = world.now();
    const keys = Array.from({ length: dice.between(1, 3) }, () => dice.pick(world.changing));
    const removals = keys.map((key) => key.history.remove(sentAt));
    this.#ask(`REMOVE ${keys.map(({ word }) => word).join(" ")}`, {
      answered: (answer, at) => {
        if (answer.startsWith("ERROR ECANCELED")) return; // some may have been removed
        const digits = /^OK ([01]+)$/.exec(answer)?.[1];
        if (digits?.length !== keys.length) return world.fail(`REMOVE: ${answer}`);
        keys.forEach((key, index) => {
          if (digits[index] === "1") {
            removals[index]!.answeredAt = at;
            key.history.present(sentAt, at);
          } else {
            removals[index]!.failed = true;
            key.history.missed(sentAt, at);
          }
        });
        world.count("remove");
      },
      lost: () => {},
    });
  }

  /** One page of a listing; the next when this one has come. Another connection begins again. */
  #list(): void {
    const world = this.#world;
    const { dice } = world;
    if (this.#listingInFlight) return;
    const prefix = dice.pick(["", "soak/", "soak/stable"]);
    const listing = this.#listing ??= { seen: [], cursor: "-", prefix };
    const limit = dice.pick([1, 3, 10, 1000]);
    this.#listingInFlight = true;
    const words = listing.prefix === "" ? "" : ` ${listing.prefix}`;
    this.#ask(`LIST ${limit} ${listing.cursor}${words}`, {
      answered: (answer) => {
        this.#listingInFlight = false;
        if (answer.startsWith("ERROR ECANCELED")) return;
        if (answer.startsWith("ERROR ESTALE") && listing.cursor !== "-") {
          this.#listing = null;
          world.count("stale listing");
          return;
        }
        const [ok, cursor, ...keys] = answer.split(" ");
        if (ok !== "OK" || cursor === undefined || keys.length > limit) {
          return world.fail(`LIST ${limit}: ${answer}`);
        }
        listing.seen.push(...keys.map((word) => decodeURIComponent(word)));
        listing.cursor = cursor;
        if (cursor !== "-") return;
        this.#listing = null;
        this.#checkListing(listing.seen, listing.prefix);
      },
      lost: () => {
        this.#listingInFlight = false;
        this.#listing = null;
      },
    });
  }

  #checkListing(seen: readonly string[], prefix: string): void {
    const world = this.#world;
    world.count("listing");
    const times = new Map<string, number>();
    for (const key of seen) times.set(key, (times.get(key) ?? 0) + 1);
    for (const key of times.keys()) {
      if (!world.byText.has(key)) world.fail(`a listing has ${JSON.stringify(key.slice(0, 200))}`);
      if (!key.startsWith(prefix)) world.fail(`a listing of ${prefix} has ${key}`);
    }
    for (const { text } of world.stable) {
      if (text.startsWith(prefix) && times.get(text) !== 1) {
        world.fail(`a listing has ${text.slice(0, 60)} ${times.get(text) ?? 0} times`);
      }
    }
  }

  #cancel(): void {
    const { dice } = this.#world;
    const ids = [...this.#pending.keys()];
    const id = dice.chance(0.1) || ids.length === 0 ? 2 ** 40 : dice.pick(ids.slice(-8));
    this.#simple(`CANCEL ${id}`, id === 2 ** 40 ? /^OK 0$/ : /^OK [01]$/);
  }

  #bad(): void {
    const world = this.#world;
    const { dice } = world;
    const { name, sizeBytes } = this.#segment;
    const key = dice.pick(world.stable).word;
    const named: [string, RegExp][] = [
      ["FROB", /^ERROR EINVAL /],
      [" PING", /^ERROR EINVAL /],
      ["PING PING", /^ERROR EINVAL /],
      ["GET", /^ERROR EINVAL /],
      [`GET ${key} 0`, /^ERROR EINVAL /],
      [`GET ${key} 0 1 ;`, /^ERROR EINVAL /],
      [`GET ${key} -1 1`, /^ERROR EINVAL /],
      [`GET ${key} 99999999999999999999 1`, /^ERROR ERANGE /],
      [`GET ${key} 18446744073709551615 4096`, /^ERROR ERANGE /],
      [`GET ${key} ${sizeBytes - 10} 11`, /^ERROR ERANGE /],
      [`PUT ${key} 18446744073709551615 2`, /^ERROR ERANGE /],
      [`PUT ${key} ${sizeBytes} 1`, /^ERROR ERANGE /],
      [`PUT ${key} 4096 10 crc=2`, /^ERROR EINVAL /],
      [`PUT ${key} 4096 10 A=1`, /^ERROR EINVAL /],
      [`PUT ${key} 4096 10 a=1 a=2`, /^ERROR EINVAL /],
      [`PUT ${key} 4096 10 a=${"x".repeat(5_000)}`, /^ERROR E2BIG /],
      [`PUT ${key} 4096 10 ; ${key} ${sizeBytes} 10`, /^(OK 10 crc|ERROR ERANGE)/],
      [`PUT %zz 4096 10`, /^ERROR EINVAL /],
      [`PUT ${"k".repeat(20_000)} 4096 10`, /^ERROR ENAMETOOLONG /],
      [`REMOVE ${key} %00`, /^ERROR EINVAL /],
      ["LIST 0 -", /^ERROR ERANGE /],
      ["LIST 10 ../..", /^(OK|ERROR)/],
      ["CANCEL 0", /^ERROR EINVAL /],
      [`ATTACH /no-such-${name} 4096${attachWords("", 0, null).slice(10)}`, /^ERROR ENOENT /],
      [attachWords("..", 4096, null), /^ERROR EINVAL /],
      [attachWords("", 4096, null), /^ERROR EINVAL /],
      ["ATTACH", /^ERROR EINVAL /],
    ];
    const nameless: [string, RegExp][] = [
      ["", /^ERROR EINVAL /],
      ["PING", /^ERROR EINVAL /],
      ["0 PING", /^ERROR EINVAL /],
      ["-5 PING", /^ERROR EINVAL /],
      [`99999999999999999999 REMOVE ${key}`, /^ERROR EINVAL /],
      ["\0\u0001\u007f\r", /^ERROR EINVAL /],
      ["\u00ff\u00fe".repeat(100), /^ERROR EINVAL /],
      ["x".repeat(70_000), /^ERROR E2BIG /],
      [`${this.#nextId++} REMOVE ${`${key} `.repeat(70_000 / key.length)}`, /^ERROR E2BIG /],
    ];
    world.count("bad line");
    if (dice.chance(0.3)) {
      const [line, pattern] = dice.pick(nameless);
      this.#nameless.push(pattern);
      this.#out += `${line}\n`;
    } else {
      const [text, pattern] = dice.pick(named.filter(([line]) => !line.includes(" ; ")));
      this.#simple(text, pattern);
    }
  }

  /** What other programs do to the files. */
  #outside(): void {
    const world = this.#world;
    const { dice } = world;
    const key = dice.pick(world.changing.filter(({ kind }) => kind !== "long"));
    const path = join(world.worker.root, key.fileName);
    const sentAt = world.now();
    if (key.kind === "damaged" && world.hasAttributes && dice.chance(0.6)) {
      this.#damage(key, path);
    } else if (key.kind === "plain" && dice.chance(0.6)) {
      replaceFile(world, key, world.someLength());
    } else {
      const removal = key.history.remove(sentAt);
      try {
        unlinkSync(path);
        removal.answeredAt = world.now();
        world.count("removed from outside");
      } catch (error) {
        if ((error as { code?: string }).code !== "ENOENT") throw error;
        removal.failed = true;
        key.history.missed(sentAt, world.now());
      }
    }
    world.remember(`lane ${this.#number}: outside ${key.text}`);
  }

  #damage(key: TestKey, path: string): void {
    const { dice } = this.#world;
    let fd;
    try {
      fd = openSync(path, "r+");
    } catch {
      return;
    }
    const { size } = fstatSync(fd);
    key.spoilt = true;
    if (size === 0 || dice.chance(0.3)) {
      ftruncateSync(fd, dice.chance(0.5) ? size + 1 + dice.below(100) : dice.below(size + 1));
    } else {
      const at = dice.below(size);
      const byte = Buffer.alloc(1);
      readSync(fd, byte, 0, 1, at);
      byte[0]! ^= 1 << dice.below(8);
      writeSync(fd, byte, 0, 1, at);
    }
    closeSync(fd);
    this.#world.count("damaged from outside");
  }

  // In version 1: by path and address, answered in order.

  #actFirst(): void {
    const world = this.#world;
    const { dice } = world;
    const kind = dice.weighted({ put: 40, get: 50, bad: 5, ping: 2, outside: 3 });
    if (kind === "outside") return this.#outside();
    if (kind === "ping") return this.#simple("PING", /^OK$/);
    if (kind === "bad") return this.#badFirst();
    const plain = world.changing.filter((one) => one.kind === "plain");
    const key = dice.pick(kind === "get" && dice.chance(0.2) ? world.stable : plain);
    const sentAt = world.now();
    if (kind === "put") {
      const version = world.nextVersion();
      const byteLength = world.someLength();
      const place = this.#room(byteLength);
      if (place === null) return;
      const { segment, room, offset } = place;
      segment.write(offset, makeValue(key.number, version, byteLength));
      const write = key.history.put(version, byteLength, sentAt);
      this.#ask(`WRITE ${key.fileName} ${this.#base + BigInt(offset)} ${byteLength}`, {
        answered: (answer, at) => {
          segment.give(room);
          if (answer === `OK ${byteLength}`) {
            write.answeredAt = at;
            world.count("write 1");
            return;
          }
          write.failed = true;
          if (answer.startsWith("ERROR EFAULT ") && offset + byteLength > segment.cutAt) return;
          world.fail(`WRITE ${key.text}: ${answer}`, key);
        },
        lost: () => segment.giveLater(room),
      });
      return;
    }
    const place = this.#room(MAX_VALUE_BYTES);
    if (place === null) return;
    const { segment, room, offset } = place;
    segment.write(room.offset, Buffer.alloc(room.byteLength, dice.below(256)));
    this.#ask(`READ ${key.fileName} ${this.#base + BigInt(offset)} ${MAX_VALUE_BYTES}`, {
      answered: (answer, at) => {
        const item = { key, segment, room, offset, capacity: MAX_VALUE_BYTES };
        world.count("read 1");
        this.#got(item, answer, sentAt, at);
      },
      lost: () => segment.giveLater(room),
    });
  }

  #badFirst(): void {
    const { dice, stable } = this.#world;
    const { fileName } = dice.pick(stable);
    this.#world.count("bad line");
    this.#simple(
      ...dice.pick<[string, RegExp]>([
        ["FROB", /^ERROR EINVAL /],
        ["", /^ERROR EINVAL /],
        [`READ ${fileName} 1`, /^ERROR EINVAL /],
        [`READ ${fileName} x y`, /^ERROR EINVAL /],
        [`WRITE ${fileName} 18446744073709551615 2`, /^ERROR ERANGE /],
        [`WRITE ../${fileName} ${this.#base} 10`, /^ERROR (EINVAL|EACCES) /],
        [`WRITE /etc/hosts ${this.#base} 10`, /^ERROR EACCES /],
        [`READ no-such-file ${this.#base} 10`, /^ERROR ENOENT /],
        ["x".repeat(70_000), /^ERROR E2BIG /],
        ["HELLO 77", /^ERROR EPROTONOSUPPORT /],
      ]),
    );
  }
}

/** A client that does one thing after the other, to set up and to look. */
class Control {
  readonly #world: World;
  readonly #segment: ShadowedSegment;
  #client: RawClient | null = null;

  constructor(world: World, segment: ShadowedSegment) {
    this.#world = world;
    this.#segment = segment;
  }

  async connect(): Promise<void> {
    this.#client?.socket.destroy();
    this.#client = await RawClient.connect(this.#world.worker, "unix");
    this.#world.hasAttributes = /[=,]xattr[, ]/.test(this.#client.hello);
    await this.#client.attach(this.#segment);
  }

  ask(text: string): Promise<string> {
    return this.#client!.ask(text);
  }

  async put(
    key: TestKey,
    byteLength = Math.max(this.#world.someLength(), MIN_VALUE_BYTES),
  ): Promise<void> {
    const world = this.#world;
    const version = world.nextVersion();
    const value = makeValue(key.number, version, byteLength);
    this.#segment.write(PAGE, value);
    const write = key.history.put(version, value.length, world.now());
    const answer = await this.ask(`PUT ${key.word} ${PAGE} ${value.length} v=${version}`);
    write.answeredAt = world.now();
    if (!answer.startsWith(`OK ${value.length}`)) throw new Violation(`PUT: ${answer}`);
  }

  /** What is there, which its history is told. */
  async get(key: TestKey): Promise<{ version: number | null; byteLength: number }> {
    const world = this.#world;
    const { history } = key;
    const sentAt = world.now();
    const answer = await this.ask(`GET ${key.word} ${PAGE} ${MAX_VALUE_BYTES + PAGE}`);
    const at = world.now();
    this.#segment.accept(PAGE, MAX_VALUE_BYTES + PAGE);
    if (answer.startsWith("ERROR ENOENT ")) {
      history.missed(sentAt, at);
      return { version: null, byteLength: 0 };
    }
    if (!answer.startsWith("OK ")) throw new Violation(`GET ${key.text}: ${answer}`);
    const byteLength = Number(/^OK (\d+)/.exec(answer)![1]);
    if (byteLength === 0) {
      history.present(sentAt, at, 0);
      return { version: world.nextVersion(), byteLength };
    }
    const version = versionOf(key.number, this.#segment.read(PAGE, byteLength));
    if (typeof version === "string") throw new Violation(`at rest, ${key.text}: ${version}`);
    world.check(history.saw(version, byteLength, sentAt, at), `at rest, ${key.text}`, key);
    return { version, byteLength };
  }

  /** Nothing is in flight: the key's past is checked, and what is there now begins the next. */
  async settle(key: TestKey): Promise<void> {
    const world = this.#world;
    if (key.spoilt) await this.put(key);
    const { version, byteLength } = await this.get(key);
    world.check(key.history.check(), key.text.slice(0, 60), key);
    key.spoilt = false;
    key.history.settle(version, byteLength, world.now());
  }

  /** Small objects that nobody changed stay open in the worker: until somebody else changes them. */
  async changeKept(): Promise<void> {
    const world = this.#world;
    const keys = world.changing.filter(({ kind }) => kind === "plain").slice(0, 4);
    for (const key of keys) await this.put(key, 5_000);
    await sleep(SETTLED_MS);
    for (const key of [...keys, ...keys, ...keys]) await this.get(key);
    if (/ kept_open=[1-9]/.test(await this.ask("INFO"))) world.count("kept open");
    for (const key of keys) {
      replaceFile(world, key, 5_000);
      await this.get(key);
      world.check(key.history.check(), `kept open, ${key.text}`, key);
    }
  }

  /** Until the worker is at rest, with so many clients beside this one. */
  async stillness(clients: number): Promise<void> {
    const wanted = new RegExp(
      `(?=.* queued=0 )(?=.* running=0 )(?=.* clients=${clients + 1}( |$))`,
    );
    const end = performance.now() + PATIENCE_MS;
    for (;;) {
      const info = await this.ask("INFO");
      if (wanted.test(info)) return;
      if (performance.now() > end) throw new Violation(`the worker does not come to rest: ${info}`);
      await sleep(2);
    }
  }

  async close(): Promise<void> {
    await this.#client?.close();
  }
}

/** A run. Throws at the first thing that is not as it must be. */
export async function protocolSoak(options: ProtocolSoakOptions): Promise<ProtocolSoakReport> {
  const { seed, lanes: laneCount, operationsPerRound } = options;
  const directory = mkdtempSync(join(options.directory, "lmshm-soak-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const root = join(directory, "root");
  mkdirSync(root, { mode: 0o700 });
  const worker = stack.use(
    new RawWorker(root, join(directory, "w"), [
      "--keep-open",
      String(KEPT_OPEN),
      "--log-level",
      "error",
    ]),
  );
  const world = new World(seed, worker);
  stack.defer(() => {
    for (const segment of world.segments) segment[Symbol.dispose]();
  });
  await worker.start();
  // Not among those that lanes attach, cut and unlink.
  const control = new Control(world, stack.use(new ShadowedSegment(SEGMENT_BYTES)));
  await control.connect();
  for (const key of world.stable) await control.put(key);
  for (const key of world.keys) await control.settle(key);
  const lanes = Array.from({ length: laneCount }, (_, number) => new Lane(world, number));
  const started = performance.now();
  const usages: { ownBytes: number; descriptors: number; clients: number }[] = [];
  let rounds = 0;
  const report = (): ProtocolSoakReport => ({
    seed,
    rounds,
    seconds: (performance.now() - started) / 1000,
    counts: world.counts,
    hasAttributes: world.hasAttributes,
    workerOwnBytes: usages.at(-1)?.ownBytes ?? 0,
    workerDescriptors: usages.at(-1)?.descriptors ?? 0,
  });
  /** From 0 to 1. */
  const progress = () =>
    options.rounds !== undefined
      ? rounds / options.rounds
      : (performance.now() - started) / (options.minutes! * 60_000);

  while (progress() < 1) {
    world.operationsLeft = operationsPerRound;
    // The second half goes by without, so that what grows is seen.
    const kills = rounds % 2 === 1 && progress() < 0.5;
    const killAt = kills ? world.dice.below(operationsPerRound) : -1;
    const working = Promise.all(lanes.map((lane) => lane.round()));
    if (killAt >= 0) {
      while (world.operationsLeft > killAt && world.failure === null) await sleep(1);
      if (world.failure === null) {
        await worker.kill();
        world.count("worker killed");
        usages.length = 0;
        await worker.start();
        await control.connect();
      }
    }
    await working;
    if (world.failure !== null) throw world.failure;
    const clients = lanes.filter((lane) => lane.connected).length;
    await control.stillness(clients);
    for (const segment of world.segments) segment.settle();
    for (const segment of world.segments) world.check(segment.fault(), "at rest");
    for (const key of world.keys) await control.settle(key);
    world.check(worker.fault, "the worker");
    if (world.failure !== null) throw world.failure;
    // What was cut or unlinked, and is not attached any more, will not be again.
    for (const segment of [...world.segments]) {
      if (!segment.attachable && lanes.every((lane) => !lane.uses(segment))) {
        world.segments.splice(world.segments.indexOf(segment), 1);
        segment[Symbol.dispose]();
      }
    }
    usages.push({ ...worker.usage(), clients });
    if (rounds % 8 === 0) await control.changeKept();
    rounds++;
    options.onRound?.(report());
  }
  checkUsage(usages);
  for (const lane of lanes) await lane.close();
  if (world.failure !== null) throw world.failure;
  await control.close();
  return report();
}

/** What the worker has must not grow from round to round. */
function checkUsage(usages: readonly { ownBytes: number; descriptors: number; clients: number }[]) {
  const [first] = usages;
  const last = usages.at(-1);
  if (first === undefined || last === undefined) return;
  if (last.ownBytes > first.ownBytes + 48 * MIB) {
    throw new Violation(`the worker's memory grew from ${first.ownBytes} to ${last.ownBytes}`);
  }
  const spare = ({ descriptors, clients }: typeof last) => descriptors - 4 * clients;
  if (spare(last) > spare(first) + KEPT_OPEN + 16) {
    throw new Violation(`its descriptors grew from ${first.descriptors} to ${last.descriptors}`);
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "1" },
      rounds: { type: "string" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      lanes: { type: "string", default: "8" },
      directory: { type: "string", default: tmpdir() },
    },
  });
  console.log(`seed ${values.seed}`);
  let shown = 0;
  const report = await protocolSoak({
    seed: Number(values.seed),
    minutes: Number(values.minutes),
    rounds: values.rounds === undefined ? undefined : Number(values.rounds),
    operationsPerRound: 3_000,
    lanes: Number(values.lanes),
    directory: values.directory,
    onRound: ({ rounds, seconds, counts, workerOwnBytes, workerDescriptors }) => {
      if (seconds < shown + 10) return;
      shown = seconds;
      console.log(
        `${seconds.toFixed(0).padStart(5)} s  ${rounds} rounds  ${counts["hit"]} hits  ` +
          `${counts["worker killed"] ?? 0} kills  worker ${
            (workerOwnBytes / MIB).toFixed(1)
          } MiB, ` +
          `${workerDescriptors} descriptors`,
      );
    },
  });
  console.log(JSON.stringify(report));
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
